"""Selection: candidates of the distributions, and the best of them for each penalty."""

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnas import selection

THETA = jnp.asarray([[[0.9, 0.1, 0.0], [0.2, 0.3, 0.5]], [[0.4, 0.6, 0.0], [0.2, 0.3, 0.5]]])  # [K = 2, D = 2, C = 3]


def test_candidates_are_the_modes_first_and_each_once():
    found = selection.candidates(jax.random.key(0), THETA, 50)
    np.testing.assert_array_equal(found[:2], [[0, 2], [1, 2]])
    assert len(np.unique(found, axis=0)) == len(found) == 6  # 100 draws meet all architectures of the space
    assert found[:, 0].max() == 1  # padding is never drawn


def test_without_draws_candidates_are_the_modes():
    np.testing.assert_array_equal(selection.candidates(jax.random.key(0), THETA, 0), [[0, 2], [1, 2]])
    same = jnp.concatenate([THETA[:1], THETA[:1]])
    np.testing.assert_array_equal(selection.candidates(jax.random.key(0), same, 0), [[0, 2]])


def test_a_negative_number_of_draws_is_refused():
    with pytest.raises(ValueError, match="samples must be 0 .* got -1"):
        selection.candidates(jax.random.key(0), THETA, -1)


def test_least_objective_by_hand():
    losses, costs = [0.30, 0.20, 0.10], [0.0, 0.5, 1.0]
    # eps = 0: the least loss; 0.2: 0.30, 0.30, 0.30, a tie that the cheapest wins; 0.1: 0.30, 0.25, 0.20; 1: the first.
    np.testing.assert_array_equal(selection.least_objective(losses, costs, [0.0, 0.1, 0.2, 1.0]), [2, 2, 0, 0])


def test_a_loss_that_is_not_finite_is_never_chosen():
    np.testing.assert_array_equal(selection.least_objective([np.nan, 1.0, -np.inf], [0, 1, 0], [0.0, 5.0]), [1, 1])
    with pytest.raises(ValueError, match="losses must hold a finite number"):
        selection.least_objective([np.nan], [0.0], [0.1])


@hypothesis.given(
    st.lists(st.tuples(st.floats(0, 5), st.floats(0, 1)), min_size=1, max_size=30),
    st.lists(st.floats(0, 3), min_size=2, max_size=6),
)
def test_costs_never_grow_with_the_penalty(measured, penalties):
    losses, costs = np.asarray(measured).T
    penalties = np.sort(penalties)
    chosen = selection.least_objective(losses, costs, penalties)
    objective = losses + penalties[:, None] * costs
    # float64 rounds the objective: a cost may differ by as little as that.
    assert (np.diff(costs[chosen]) * np.diff(penalties) <= 1e-12).all()
    np.testing.assert_allclose(objective[np.arange(len(penalties)), chosen], objective.min(1))
