import jax
import numpy as np
import pytest

from jaxnas import cost, spaces

TOY = cost.AdditiveCost("params", "parameters", fixed=100, table=((0, 5), (1, 2, 4), (7,)))


def test_totals_are_exact_integers():
    totals = TOY.total([[0, 0, 0], [1, 2, 0]])
    assert totals.dtype.kind == "i"
    assert totals.tolist() == [108, 116]
    assert (TOY.lowest, TOY.highest) == (108, 116)


def test_the_scaled_cost_runs_from_0_to_1():
    scaled = jax.jit(TOY)(np.array([[0, 0, 0], [1, 2, 0], [1, 0, 0], [0, 1, 0]]))
    np.testing.assert_allclose(scaled, [0, 1, 5 / 8, 1 / 8])


def test_equal_costs_scale_to_0():
    flat = cost.AdditiveCost("none", "units", 3, ((1, 1), (2, 2)))
    np.testing.assert_array_equal(flat(np.array([[0, 1]])), [0])
    assert [flat.scale(total) for total in (-np.inf, 6, np.inf)] == [-np.inf, 0, np.inf]  # bounds stay bounds


def test_the_scaled_cost_is_the_total_scaled():
    space = spaces.mbconv_cifar10()
    archs = space.sample_uniform(np.random.default_rng(1), 100)
    for additive in space.costs:
        expected = (additive.total(archs) - additive.lowest) / (additive.highest - additive.lowest)
        np.testing.assert_allclose(additive(archs), expected, atol=1e-6)
        assert hash(additive) == hash(space.cost(additive.name))


def test_an_unknown_cost_is_an_error_that_lists_the_known():
    with pytest.raises(ValueError, match="latency.*macs, params"):
        spaces.nasbench_macro().cost("latency")
