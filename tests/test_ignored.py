import pytest

from jaxnas.search.ignored import IgnoredShare, TooManyIgnoredError


def test_weights_that_have_diverged_stop_a_search_after_seven_steps():
    healthy = IgnoredShare().after([0] * 100, samples=8)
    assert healthy.mean == 0
    assert healthy.after([8] * 6, samples=8, step=100).mean == pytest.approx(1 - 0.9**6)  # 0.47
    with pytest.raises(TooManyIgnoredError, match=r"at step 107 \(a running mean of 52% of them\)"):
        healthy.after([8] * 20, samples=8, step=100)


def test_a_few_are_borne_for_ever_and_parts_are_as_the_whole():
    counts = [0, 3, 1, 8, 0, 0, 2] * 40
    whole = IgnoredShare().after(counts, samples=8)
    parts = IgnoredShare()
    for start in range(0, len(counts), 5):
        parts = parts.after(counts[start : start + 5], samples=8, step=start)
    assert parts == whole
