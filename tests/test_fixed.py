"""The strategy that does not search: the same architectures in every step, each loss for its own one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnas.cost import AdditiveCost
from jaxnas.spaces import Decision, SearchSpace
from jaxnas.strategies.fixed import Fixed

SPACE = SearchSpace(
    "toy",
    (Decision("a", ("x", "y")), Decision("b", ("x", "y", "z"))),
    (AdditiveCost("macs", "multiply-adds", 0, ((0, 1), (0, 1, 2))),),
)


def test_it_asks_for_its_architectures_and_learns_nothing():
    fixed = Fixed(SPACE, ((0, 2), (1, 0)))
    state = fixed.init(jax.random.key(0))
    archs, state = jax.jit(fixed.ask)(jax.random.key(1), state)
    assert archs.tolist() == fixed.modes(state).tolist() == [[0, 2], [1, 0]]
    assert np.asarray(state.theta).tolist() == [[[1, 0, 0], [0, 0, 1]], [[0, 1, 0], [1, 0, 0]]]
    told, info = fixed.tell(state, archs, jnp.asarray([0.5, jnp.nan]))
    np.testing.assert_array_equal(told.theta, state.theta)
    assert info.weights.tolist() == [[1, 0], [0, 0]]  # the loss of the second is ignored
    assert (int(info.ignored), info.ess.tolist()) == (1, [1, 0])
    assert (fixed.penalties, fixed.samples) == ((0.0, 0.0), 1)


def test_what_is_no_architecture_is_refused():
    with pytest.raises(ValueError, match="archs must hold at least one"):
        Fixed(SPACE, ())
    with pytest.raises(ValueError, match="choice 3 for 'b'"):
        Fixed(SPACE, ((0, 3),))
