"""Spaces that a user writes down: enumeration, and the checks of their costs."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxnas.cost import AdditiveCost
from jaxnas.spaces import Decision, SearchSpace
from jaxnas.spaces.base import architectures, rows_of, strides

TWO = (Decision("a", ("x", "y")), Decision("b", ("x", "y", "z")))


def space_of(num_choices):
    return SearchSpace("any", [Decision(str(d), [str(c) for c in range(n)]) for d, n in enumerate(num_choices)])


@given(num_choices=st.lists(st.integers(1, 4), min_size=1, max_size=6))
def test_enumeration_is_lexicographic(num_choices):
    archs = space_of(num_choices).enumerate()
    assert archs.dtype == np.int32
    np.testing.assert_array_equal(archs, [*itertools.product(*map(range, num_choices))])
    np.testing.assert_array_equal(rows_of(num_choices, archs), np.arange(len(archs)))


@given(num_choices=st.lists(st.integers(1, 9), min_size=1, max_size=19), data=st.data())
def test_places_of_large_spaces(num_choices, data):
    rows = data.draw(st.lists(st.integers(0, math.prod(num_choices) - 1), min_size=1, max_size=5))
    archs = architectures(num_choices, np.array(rows))
    assert ((archs >= 0) & (archs < num_choices)).all()
    np.testing.assert_array_equal(rows_of(num_choices, archs), rows)


def test_more_decisions_than_numpy_has_axes():
    space = space_of([2] + [1] * 99)
    assert space.enumerate().sum(1).tolist() == [0, 1]


def test_what_is_too_large_is_refused():
    with pytest.raises(ValueError, match=r"'any' has 1,000,000,000,000 architectures, at most 1,000,000 can be"):
        space_of([10] * 12).enumerate()
    with pytest.raises(ValueError, match="has 6 architectures, at most 5 can be"):
        SearchSpace("two", TWO).enumerate(largest=5)
    with pytest.raises(ValueError, match="more than 64-bit integers can count"):
        strides([7] * 40)
    with pytest.raises(ValueError, match="rows must lie from 0 to 5, got values from -1 to 6"):
        architectures((2, 3), np.array([-1, 6]))


def test_lists_and_arrays_are_taken_for_tuples():
    lists = SearchSpace(
        "two",
        [Decision("a", ["x", "y"]), Decision("b", ["x", "y", "z"])],
        [AdditiveCost("size", "units", np.float32(0.5), [np.array([0, 5]), [1.5, 2, 3]])],
    )
    tuples = SearchSpace("two", TWO, (AdditiveCost("size", "units", 0.5, ((0, 5), (1.5, 2, 3))),))
    assert lists == tuples
    assert hash(lists) == hash(tuples)
    assert type(lists.costs[0].table[0][1]) is int  # integers stay exact


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ([[1, 2]], "one row for each of the 2 decisions of 'two', got 1"),
        ([[1, 2], [1, 2]], "one entry for each of the 3 choices of 'b', got 2"),
        ([[1, 2], [1, 2, 3, 4]], "one entry for each of the 3 choices of 'b', got 4"),
        ([[1, 2], [1, float("nan"), 3]], "table of cost 'size', row 1, choice 1 must be a finite number, got nan"),
        ([[1, 2], [1, float("inf"), 3]], "finite number, got inf"),
        ([[1, 2], ["1", 2, 3]], "finite number, got '1'"),
        ([[1, None], [1, 2, 3]], "row 0, choice 1 must be a finite number, got None"),
        ([1, 2], "row 0 must list the cost of each choice of a decision, got 1"),
        (["12", [1, 2, 3]], "row 0 must list the cost"),
        ([[], [1, 2, 3]], "row 0 must list the cost"),
    ],
)
def test_bad_tables_of_costs_are_errors(table, said):
    with pytest.raises(ValueError, match=said):
        SearchSpace("two", TWO, (AdditiveCost("size", "units", 0, table),))


def test_other_mistakes_are_errors():
    size = AdditiveCost("size", "units", 0, ((1, 2), (1, 2, 3)))
    with pytest.raises(ValueError, match="different names, got size, size"):
        SearchSpace("two", TWO, (size, size))
    with pytest.raises(ValueError, match="fixed part of cost 'size' must be a finite number, got nan"):
        AdditiveCost("size", "units", float("nan"), ((1, 2),))
    with pytest.raises(ValueError, match="choices of 'a' must be a sequence of names, got 'xy'"):
        Decision("a", "xy")
    with pytest.raises(ValueError, match="choices of 'a' must name at least one"):
        Decision("a", ())
