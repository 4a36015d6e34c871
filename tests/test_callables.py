"""The two packages that are calls: they stay packages."""

import importlib

import pytest

import jaxnas
from jaxnas.search import settings


def test_a_package_that_is_called_stays_a_package():
    import jaxnas.search.settings as by_name

    assert by_name is settings is importlib.import_module("jaxnas.search.settings")
    assert callable(jaxnas.search)
    assert callable(jaxnas.elastic)


def test_the_call_is_that_of_the_function():
    message = r"elastic\(\) missing 1 required positional argument: 'inputs'"
    for call in (jaxnas.elastic, jaxnas.elastic.elastic):
        with pytest.raises(TypeError, match=message):
            call(lambda width: None)
    with pytest.raises(TypeError, match=r"search\(\) missing .* required"):
        jaxnas.search()
