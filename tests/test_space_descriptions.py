"""Spaces built again from their descriptions, and costs that are those of the networks meant."""

import dataclasses
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from jax.extend.core import jaxprs_in_params

from experiments import cli, describe_architecture
from jaxnas import networks, spaces
from jaxnas.networks import latency
from jaxnas.networks.latency import LatencyTable
from jaxnas.results import FoundArchitecture, SearchResult
from jaxnas.results.result import read_result, space_of
from jaxnas.search.answer import costs_of

BUILT_IN = ("mbconv_cifar10", "mbconv_digits", "mbconv_imagenet", "nasbench201", "nasbench_macro")  # tests add others


@st.composite
def descriptions(draw):
    name = draw(st.sampled_from(BUILT_IN))
    size = draw(st.integers(1, 24)) * 4
    description = {"name": name, "width": draw(st.floats(0.05, 2)), "image_size": size}
    if name == "nasbench201":
        description |= {"channels": draw(st.integers(1, 40)), "cells": draw(st.integers(1, 3))}
    return description | {"num_classes": draw(st.integers(1, 1500))}


@settings(deadline=None)
@given(description=descriptions())
def test_a_space_is_its_description_and_back(description):
    space = spaces.from_description(json.loads(json.dumps(description)))
    assert space.description == description
    again = spaces.from_description(space.description)
    assert again == space
    assert hash(again) == hash(space)


def multiply_adds(jaxpr):
    """Of all convolutions and matrix products of a program, without batch norm and means."""
    total = 0
    for equation in jaxpr.eqns:
        output = equation.outvars[0].aval.shape
        if equation.primitive.name == "conv_general_dilated":
            numbers = equation.params["dimension_numbers"]
            kernel = equation.invars[1].aval.shape
            taps = math.prod(kernel[axis] for axis in numbers.rhs_spec[1:])  # input channels of a group, and the window
            total += math.prod(output) * taps
        elif equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            total += math.prod(output) * math.prod(equation.invars[0].aval.shape[axis] for axis in contracted)
        for inner in jaxprs_in_params(equation.params):
            total += multiply_adds(inner)
    return total


def counted(space, arch):
    """Parameters and multiply-adds of the discrete network, by what it would compute; nothing is computed."""
    network = networks.build(space, arch, convolve=jax.lax.conv_general_dilated)
    image = jax.ShapeDtypeStruct((1, space.image_size, space.image_size, 3), jnp.float32)
    program, variables = jax.make_jaxpr(network.init, return_shape=True)(jax.random.key(0), image)  # runs the network
    params = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(variables["params"]))
    return params, multiply_adds(program.jaxpr)


def test_the_built_in_spaces_are_these():
    own = {name for name in spaces.SPACES if spaces.SPACES[name].__module__.startswith("jaxnas.")}
    assert own == set(BUILT_IN)


@settings(max_examples=6, deadline=None)
@given(description=descriptions(), seed=st.integers(0, 1000))
@example({"name": "mbconv_cifar10", "width": 0.3, "image_size": 20, "num_classes": 3}, 1)
@example({"name": "mbconv_digits", "width": 1.7, "image_size": 8, "num_classes": 10}, 2)
@example({"name": "mbconv_imagenet", "width": 0.05, "image_size": 36, "num_classes": 1500}, 3)
@example({"name": "nasbench201", "width": 0.5, "image_size": 12, "channels": 7, "cells": 2, "num_classes": 1}, 4)
@example({"name": "nasbench_macro", "width": 0.25, "image_size": 4, "num_classes": 2}, 5)
def test_costs_in_a_result_are_those_of_the_discrete_network(tmp_path_factory, description, seed):
    """Of every space, width, image size and number of classes: what result.json holds is what the network computes."""
    space = spaces.from_description(description)
    (arch,) = space.sample_uniform(np.random.default_rng(seed), 1)
    found = FoundArchitecture(
        **{"k": 0, "penalty": 0.1, "encoding": arch, "description": space.describe(arch)},
        **{"probability": 1.0, "valid_loss": 0.5, "valid_accuracy": 0.5},
        **costs_of(space, arch),
    )
    written = SearchResult(*("m", space.name, "d", 0, {}, {}, 1, 1.0, (found,)), space_description=space.description)
    path = tmp_path_factory.mktemp("result") / "result.json"
    written.write(path)
    read = read_result(path)
    again = space_of(read)
    params, macs = counted(again, read.architectures[0].encoding)
    assert read.architectures[0].params == params
    # NAS-Bench-201's published counts add the classifier's bias.
    published = again.num_classes if isinstance(again, spaces.CellSpace) else 0
    assert read.architectures[0].macs - published == macs


def test_multiply_adds_by_hand():
    def program(x, kernel, weights):
        x = jax.lax.conv_general_dilated(
            x, kernel, (2, 2), [(1, 1)] * 2, dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=4
        )
        return x.mean((1, 2)) @ weights

    jaxpr = jax.make_jaxpr(program)(jnp.zeros((1, 6, 6, 4)), jnp.zeros((3, 3, 1, 4)), jnp.zeros((4, 5)))
    assert multiply_adds(jaxpr.jaxpr) == 3 * 3 * 4 * 9 + 4 * 5


WHOLE = {"name": "nasbench_macro", "width": 0.5, "image_size": 16, "num_classes": 3}


@pytest.mark.parametrize(
    ("description", "said"),
    [
        (None, 'must be an object with "name"'),
        ({"width": 1.0}, 'must be an object with "name"'),
        (WHOLE | {"name": "other"}, "space 'other' is not known; choose from"),
        ({name: value for name, value in WHOLE.items() if name != "width"}, "is not complete: it has no 'width'"),
        (WHOLE | {"channels": 3}, "has 'channels'; known are width, image_size, num_classes"),
        (WHOLE | {"image_size": 16.5}, "image_size must be an integer, got 16.5"),
        (WHOLE | {"num_classes": True}, "num_classes must be an integer, got True"),
        (WHOLE | {"num_classes": "3"}, "num_classes must be an integer, got '3'"),
        (WHOLE | {"width": math.inf}, "width must be positive and finite, got inf"),
        (WHOLE | {"width": 10**400}, "width must be a number"),
        (WHOLE | {"width": [1]}, "width must be a number"),
        (WHOLE | {"image_size": 0}, "image_size must be positive"),
    ],
)
def test_bad_descriptions_are_errors(description, said):
    with pytest.raises(ValueError, match=said):
        spaces.from_description(description)


def test_a_space_of_ones_own_has_no_description():
    space = spaces.SearchSpace("own", (spaces.Decision("a", ("x", "y")),))
    assert space.description is None
    with_cost = dataclasses.replace(spaces.nasbench_macro(width=0.5), costs=())
    assert with_cost.description["width"] == 0.5  # the description stays where costs are added


def result(space, description):
    arch = np.ones(len(space.decisions), np.int32)
    params, macs = (int(space.cost(name).total(arch)) for name in ("params", "macs"))
    found = FoundArchitecture(0, 0.1, tuple(arch.tolist()), "", params, macs, 1.0, 0.5, 0.5)
    return SearchResult(
        "shared_model", space.name, "digits", 0, {}, {}, 1, 1.0, (found,), space_description=description
    )


def test_a_result_tells_the_space_that_its_costs_are_of(tmp_path):
    space = spaces.nasbench_macro(width=0.25, image_size=16, num_classes=3)
    result(space, space.description).write(tmp_path / "r.json")
    assert space_of(read_result(tmp_path / "r.json")) == space
    # Of earlier versions: what costs as much as the space of that name is it, and nothing else is taken for it.
    assert space_of(result(space, None)) is None
    assert space_of(result(spaces.nasbench_macro(), None)) == spaces.nasbench_macro()
    own = dataclasses.replace(result(space, None), space="own")
    assert space_of(own) is None
    with pytest.raises(ValueError, match="is of space 'nasbench201', the result of 'nasbench_macro'"):
        space_of(result(space, spaces.nasbench201().description))


def test_describe_architecture_shows_the_costs_of_the_result(tmp_path, capsys):
    space = spaces.nasbench_macro(width=0.25, image_size=16, num_classes=3)
    found = result(space, space.description)
    found.write(tmp_path / "r.json")
    arguments = [f"--architecture={tmp_path / 'r.json'}", "--k=0"]
    cli.run(describe_architecture.main, describe_architecture.Config, arguments)
    shown = capsys.readouterr().out
    assert f"{found.architectures[0].params:,}" in shown
    assert f"{found.architectures[0].macs:,}" in shown
    dataclasses.replace(found, space_description=None).write(tmp_path / "r.json")
    with pytest.raises(SystemExit) as ended:
        cli.run(describe_architecture.main, describe_architecture.Config, arguments)
    assert ended.value.code == 2
    assert "does not describe its space" in capsys.readouterr().err


def test_a_latency_table_of_another_size_is_refused():
    half, whole = spaces.nasbench_macro(width=0.5), spaces.nasbench_macro()
    table = LatencyTable(
        "nasbench_macro", "a device", 1, 0.0, ((0.0, 1.0, 2.0),) * 8, 32, space_description=half.description
    )
    assert table.added_to(half).cost("latency").highest == 16
    said = r"table is of name nasbench_macro, width 0\.5, .*, the search is on name nasbench_macro, width 1\.0"
    with pytest.raises(ValueError, match=said):
        table.added_to(whole)
    for other in ({"image_size": 16}, {"num_classes": 3}):
        with pytest.raises(ValueError, match="the search is on"):
            table.added_to(spaces.nasbench_macro(width=0.5, **other))
    earlier = dataclasses.replace(table, space_description=None)  # its images' size is known
    assert earlier.added_to(whole).cost("latency").highest == 16
    with pytest.raises(ValueError, match=r"images of size 32, the search is on 'nasbench_macro' with image_size 16"):
        earlier.added_to(spaces.nasbench_macro(image_size=16))


def test_a_latency_table_keeps_the_description(tmp_path):
    table = LatencyTable("a", "b", 1, 0.0, ((1.0,),), space_description=WHOLE)
    table.write(tmp_path / "l.json")
    assert latency.read(tmp_path / "l.json") == table
    assert table.digest != dataclasses.replace(table, space_description=WHOLE | {"width": 1.0}).digest
    (tmp_path / "l.json").write_text(
        json.dumps(json.loads((tmp_path / "l.json").read_text()) | {"space_description": 1})
    )
    with pytest.raises(ValueError, match="space_description must be an object, is 1"):
        latency.read(tmp_path / "l.json")
