"""Main effects of losses: recovered exactly where losses are additive, whatever minibatches add; and who competes."""

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxnas.selection import main_effects

CHOICES = (3, 1, 4, 2)
EFFECTS = [np.array(row) - np.mean(row) for row in ([0.3, 0.0, 0.6], [0.0], [0.1, 0.5, 0.2, 0.0], [0.0, 0.4])]


def additive(archs):
    return sum(effects[archs[..., d]] for d, effects in enumerate(EFFECTS))


def uniform(seed=0, evaluations=4000):
    return main_effects.groups(jax.random.key(seed), CHOICES, evaluations)


def test_groups_are_whole_uniform_and_of_the_space():
    archs = uniform(evaluations=4001)
    assert archs.shape == (251, main_effects.GROUP, 4)
    for d, count in enumerate(CHOICES):
        shares = np.bincount(archs[..., d].ravel(), minlength=count) / archs[..., d].size
        np.testing.assert_allclose(shares, 1 / count, atol=0.03)


def test_additive_losses_are_recovered_whatever_their_minibatches_add():
    archs = uniform()
    offsets = np.random.default_rng(0).normal(scale=5.0, size=(len(archs), 1))
    effects = main_effects.fit(CHOICES, archs, additive(archs) + offsets)
    np.testing.assert_allclose(effects(archs[:3]), additive(archs[:3]), atol=2e-3)  # a ridge of 1 among 4000


def test_what_only_goes_together_is_no_main_effect():
    archs = uniform()
    together = np.array([1.0, -2.0, 1.0])[archs[..., 0]] * np.array([1.0, -1.0])[archs[..., 3]]
    effects = main_effects.fit(CHOICES, archs, additive(archs) + 0.2 * together)
    np.testing.assert_allclose(effects(archs[:3]), additive(archs[:3]), atol=0.05)


def test_equals_least_squares_with_a_constant_for_each_group():
    rng = np.random.default_rng(1)
    archs = uniform(evaluations=64)
    losses = rng.normal(size=archs.shape[:2])
    singles = np.asarray(main_effects.fit(CHOICES, archs, losses).design.singles(archs), np.float64)
    rows = singles - singles.mean(1, keepdims=True)
    x, y = rows.reshape(-1, rows.shape[-1]), (losses - losses.mean(1, keepdims=True)).ravel()
    padded = np.concatenate([x, np.eye(x.shape[1])]), np.concatenate([y, np.zeros(x.shape[1])])  # a ridge of 1
    expected = np.linalg.lstsq(*padded, rcond=None)[0]
    np.testing.assert_allclose(main_effects.fit(CHOICES, archs, losses).coefficients, expected, atol=1e-6)


def test_losses_that_are_not_finite_or_far_off_do_little():
    archs = uniform()
    losses = additive(archs)
    losses[0] = np.nan
    losses[1, 3:] = np.inf
    losses[2, 5] = 1e6
    effects = main_effects.fit(CHOICES, archs, losses)
    np.testing.assert_allclose(effects(archs[:3]), additive(archs[:3]), atol=0.01)


def test_nothing_to_compare_is_an_error():
    archs = uniform(evaluations=16)
    with pytest.raises(ValueError, match="two finite values"):
        main_effects.fit(CHOICES, archs, np.full(archs.shape[:2], np.nan))


@given(st.data())
def test_the_best_for_each_k_and_no_other(data):
    count = data.draw(st.integers(1, 5))
    shape = data.draw(st.tuples(st.integers(1, 3), st.integers(1, 12)))
    values = data.draw(st.lists(st.sampled_from([0.0, 1.0, 2.0, 3.5, np.inf]), min_size=shape[0] * shape[1]))
    objectives = np.resize(values, shape)
    archs = np.arange(shape[1])[:, None]
    found = set(main_effects.best(archs, objectives, count).ravel().tolist())
    expected = set()
    for row in objectives:
        ranked = sorted(range(shape[1]), key=lambda n: (row[n], n))
        expected |= {n for n in ranked[:count] if np.isfinite(row[n])}
    assert found == expected
