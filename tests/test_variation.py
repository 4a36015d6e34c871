"""Mutation and crossover: who changes, to what, and how often."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnas.strategies import variation

COUNTS = (3, 1, 2)
ARCHS = jnp.asarray(np.stack(np.unravel_index(np.arange(6_000) % 6, COUNTS), axis=1), jnp.int32)


def test_change_goes_to_each_other_choice_equally_often_and_to_no_other_decision():
    changes = jnp.broadcast_to(jnp.asarray([True, True, False]), ARCHS.shape)
    changed = np.asarray(variation.change(jax.random.key(0), ARCHS, changes, COUNTS))
    np.testing.assert_array_equal(changed[:, 1:], ARCHS[:, 1:])  # a decision with one choice keeps it
    pairs = np.zeros((3, 3))
    np.add.at(pairs, (np.asarray(ARCHS[:, 0]), changed[:, 0]), 1)
    assert (np.diag(pairs) == 0).all()
    np.testing.assert_allclose(pairs[~np.eye(3, dtype=bool)], 1000, atol=5 * np.sqrt(500))


def test_mutate_one_changes_one_decision_of_those_that_can():
    mutants = np.asarray(variation.mutate_one(jax.random.key(1), ARCHS, COUNTS))
    different = mutants != np.asarray(ARCHS)
    assert (different.sum(1) == 1).all()
    assert different[:, 1].sum() == 0
    assert abs(different[:, 0].sum() - 3000) < 5 * np.sqrt(1500)
    assert ((mutants >= 0) & (mutants < COUNTS)).all()
    single = jnp.zeros((4, 2), jnp.int32)
    np.testing.assert_array_equal(variation.mutate_one(jax.random.key(2), single, (1, 1)), single)


@pytest.mark.parametrize("probability", [0.0, 0.25, 1.0])
def test_mutate_changes_a_decision_with_the_probability_given(probability):
    different = np.asarray(variation.mutate(jax.random.key(3), ARCHS, COUNTS, probability) != ARCHS)
    expected = probability * len(ARCHS)
    for d in (0, 2):
        assert abs(different[:, d].sum() - expected) <= 5 * np.sqrt(expected * (1 - probability))


def test_reset_may_draw_the_present_choice():
    drawn = variation.reset(np.random.default_rng(0), np.asarray(ARCHS), COUNTS, 1.0)
    for d, count in enumerate(COUNTS):
        np.testing.assert_allclose(np.bincount(drawn[:, d]), 6000 / count, atol=5 * np.sqrt(1500))
    kept = variation.reset(np.random.default_rng(0), np.asarray(ARCHS), COUNTS, 0.0)
    np.testing.assert_array_equal(kept, ARCHS)


def test_two_point_crossover_takes_one_stretch_of_the_second_parent():
    first, second = jnp.zeros((500, 6), jnp.int32), jnp.ones((500, 6), jnp.int32)
    children = np.asarray(variation.two_point_crossover(jax.random.key(4), first, second, probability=1.0))
    switches = np.abs(np.diff(children, axis=1, prepend=0, append=0)).sum(1)
    assert set(switches.tolist()) == {0, 2}  # 0 where both cuts fall together
    never = variation.two_point_crossover(jax.random.key(4), first, second, probability=0.0)
    np.testing.assert_array_equal(never, first)
