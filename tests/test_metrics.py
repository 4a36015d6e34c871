import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxnas import metrics


def test_regret_by_hand():
    # min 1, mean 3: regrets 0, 2, 3 over 2; second row: min 0, mean 1.
    objective = np.array([[1.0, 3, 4, 4], [2, 2, 0, 0]])
    rows = np.array([[0, 2], [1, 0], [3, 3]])
    np.testing.assert_allclose(metrics.regret(objective, rows), [[0, 0], [2, 2], [3, 0]])
    np.testing.assert_allclose(metrics.relative_regret(objective, rows), [[0, 0], [1, 2], [1.5, 0]])


def test_regret_is_0_where_all_are_equally_good():
    np.testing.assert_array_equal(metrics.relative_regret(np.full((1, 3), 0.2), np.array([[2]])), [[0]])


def test_hypervolume_by_hand():
    # (0.1, 0.6): 1.0 x 0.5; (0.6, 0.1) adds 0.5 x 0.5; (0.7, 0.7) is dominated.
    volume = metrics.hypervolume(np.array([[0.1, 0.6, 0.7], [1.0, 1.0, 1.0]]), np.array([[0.6, 0.1, 0.7], [1, 1, 1]]))
    np.testing.assert_allclose(volume, [0.75, 0.01])


def test_pareto_front_by_hand():
    costs, errors = np.array([1.0, 2.0, 3.0, 2.5]), np.array([0.5, 0.3, 0.2, 0.4])
    assert metrics.pareto_front(costs, errors).tolist() == [True, True, True, False]
    # Equal points share a place on the front, or off it; an equal error at a larger cost is dominated.
    costs, errors = np.array([1.0, 2.0, 3.0, 2.0, 1.0, 4.0, 1.0]), np.array([0.5, 0.3, 0.4, 0.3, 0.6, 0.3, 0.6])
    assert metrics.pareto_front(costs, errors).tolist() == [True, True, False, True, False, False, False]
    assert metrics.pareto_front(np.zeros(0), np.zeros(0)).tolist() == []


def test_what_is_not_finite_is_not_on_the_pareto_front_and_hides_nothing():
    nan, inf = np.nan, np.inf
    costs, errors = np.array([0.0, 1.0, nan, 2.0, -inf, 3.0]), np.array([nan, 0.5, 0.0, inf, 0.0, 0.4])
    assert metrics.pareto_front(costs, errors).tolist() == [False, True, False, False, False, True]
    assert metrics.pareto_front(np.array([nan]), np.array([nan])).tolist() == [False]
    with pytest.raises(ValueError, match=r"both be \[N\], got \(2,\) and \(3,\)"):
        metrics.pareto_front(np.zeros(2), np.zeros(3))


@given(st.lists(st.tuples(*[st.sampled_from([0.0, 0.1, 0.2, 0.5, np.nan, np.inf, -np.inf])] * 2), max_size=12))
def test_pareto_front_equals_its_definition(points):
    costs, errors = np.array(points, float).reshape(-1, 2).T
    finite = np.isfinite(costs) & np.isfinite(errors)
    expected = [
        ok
        and not any(
            f and c <= cost and e <= error and (c, e) != (cost, error) for f, c, e in zip(finite, costs, errors)
        )
        for ok, cost, error in zip(finite, costs, errors)
    ]
    assert metrics.pareto_front(costs, errors).tolist() == expected


def test_hypervolume_ignores_what_lies_beyond_the_reference_point():
    np.testing.assert_allclose(metrics.hypervolume(np.array([0.5, 0.1]), np.array([0.5, 2.0]), (1, 1)), 0.25)


def test_attainment_by_hand():
    attained = metrics.attainment(np.array([0.3, 0.1, 0.2]), np.array([0.2, 0.9, 0.5]), [0.1, 0.2, 0.6, 1.0])
    np.testing.assert_array_equal(attained, [np.inf, 0.3, 0.2, 0.1])


def test_attainment_of_many_sets():
    assert metrics.attainment(np.zeros((4, 2, 3)), np.zeros((4, 2, 3)), [0.5, 1]).shape == (4, 2, 2)


def test_kendall_tau_by_hand():
    # Pairs of 1 3 2 4: one of six is discordant: (5 - 1) / 6.
    assert metrics.kendall_tau([1, 2, 3, 4], [1, 3, 2, 4]) == pytest.approx(4 / 6)
    assert math.isnan(metrics.kendall_tau([1, 1, 1], [1, 2, 3]))


def test_kendall_tau_within_bins_by_hand():
    # A score that follows complexity alone: good overall, reversed within each half.
    complexity = np.array([4, 1, 3, 2])  # cheaper half: rows 1 and 3
    truth, score = np.array([4.0, 1, 3, 2]), np.array([3.0, 2, 4, 1])
    assert metrics.kendall_tau(score, truth) == pytest.approx(2 / 6)
    assert metrics.binned_kendall_tau(score, truth, complexity) == [-1, -1]
    assert len(metrics.binned_kendall_tau(np.arange(9.0), np.arange(9.0), np.arange(9), bins=4)) == 4
    for bins in (0, 3):
        with pytest.raises(ValueError, match="bins"):
            metrics.binned_kendall_tau(score, truth, complexity, bins)


def test_evaluations_to_reach_by_hand():
    evaluations, curve = [100, 200, 400, 800], [0.5, 0.3, 0.35, 0.1]
    assert metrics.evaluations_to_reach(evaluations, curve, 0.3) == 200
    assert metrics.evaluations_to_reach(evaluations, curve, 0.2) == 800
    assert metrics.evaluations_to_reach(evaluations, curve, 0.05) == math.inf


def test_wilcoxon_by_hand():
    # Six differences of one sign: of 2^6 sign patterns two are as extreme.
    first = np.array([1.0, 2, 3, 4, 5, 6])
    assert metrics.paired_wilcoxon(first, np.zeros(6)) == pytest.approx(2 / 64)
    assert metrics.paired_wilcoxon(first, first) == 1.0


def test_holm_by_hand():
    # Sorted 0.01, 0.02, 0.03, 0.5: times 4, 3, 2, 1 = 0.04, 0.06, 0.06, 0.5.
    np.testing.assert_allclose(metrics.holm([0.03, 0.5, 0.01, 0.02]), [0.06, 0.5, 0.04, 0.06])
    np.testing.assert_allclose(metrics.holm([0.02, 0.015]), [0.03, 0.03])
    np.testing.assert_allclose(metrics.holm([0.9, 0.8]), [1, 1])
    assert metrics.holm([]).shape == (0,)
