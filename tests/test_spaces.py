import itertools

import numpy as np
import pytest

from jaxnas import spaces

MACRO = spaces.nasbench_macro()


@pytest.mark.parametrize(("column", "cost"), [("params", "params"), ("flops", "macs")])
def test_costs_of_all_networks_of_nasbench_macro_equal_the_published_table(macro_table, column, cost):
    assert len(macro_table["choices"]) == MACRO.size == 6561
    np.testing.assert_array_equal(MACRO.cost(cost).total(macro_table["choices"]), macro_table[column])


@pytest.mark.parametrize("name", sorted(spaces.SPACES))
def test_every_space_is_consistent(name):
    space = spaces.SPACES[name]()
    assert space.name == name
    assert space.size == np.prod([float(n) for n in space.num_choices])
    archs = space.sample_uniform(np.random.default_rng(0), 50)
    assert archs.shape == (50, len(space.decisions))
    assert np.all((archs >= 0) & (archs < space.num_choices))
    for arch in archs[:5]:
        np.testing.assert_array_equal(space.decode(space.encode(arch)), arch)
        assert space.describe(arch).count("|") == len(space.decisions) - 1


@pytest.mark.parametrize("name", [name for name in sorted(spaces.SPACES) if name != "nasbench201"])
def test_each_layer_takes_what_the_one_before_gives(name):
    space = spaces.SPACES[name]()
    assert len(space.layers) == len(space.decisions)
    for before, after in itertools.pairwise(space.layers):
        assert (before.out_channels, before.out_resolution) == (after.in_channels, after.resolution)


def test_skip_is_a_choice_only_where_shapes_match():
    for layer in spaces.mbconv_cifar10().layers:
        assert layer.keeps_shape == any(operation.is_skip for operation in layer.operations)
    assert spaces.mbconv_cifar10().num_choices == (6, 7, 6, 7, 7, 6, 7, 7, 7, 6, 7, 7, 6, 7, 7, 6)


def test_describe_names_the_operations():
    assert MACRO.describe([0, 1, 2, 0, 0, 0, 0, 0]).startswith("skip | mbconv_k3_e3 | mbconv_k5_e6 | skip")


@pytest.mark.parametrize(
    ("arch", "said"),
    [
        ([0] * 7, "8 decisions"),
        ([[0] * 8], "8 decisions"),
        ([0] * 7 + [3], "choice 3"),
        ([-1] + [0] * 7, "choice -1"),
        ([0.5] * 8, "integers"),
        (["skip"] * 8, "integers"),
    ],
)
def test_bad_architectures_are_errors(arch, said):
    with pytest.raises(ValueError, match=said):
        MACRO.validate(arch)


@pytest.mark.parametrize(
    ("encoded", "said"),
    [
        ([0] * 8, "encoding"),
        ({"space": "nasbench_macro"}, "encoding"),
        ({"space": "nasbench201", "encoding": [0] * 8}, "nasbench201"),
        ({"space": "nasbench_macro", "encoding": "00000000"}, "list of integers"),
        ({"space": "nasbench_macro", "encoding": [True] * 8}, "list of integers"),
        ({"space": "nasbench_macro", "encoding": [9] * 8}, "choice 9"),
        ({"space": "nasbench_macro", "encoding": [10**18] * 8}, "choice"),
    ],
)
def test_bad_encodings_are_errors(encoded, said):
    with pytest.raises(ValueError, match=said):
        MACRO.decode(encoded)


def test_an_encoding_is_plain_json():
    assert MACRO.encode(np.array([0, 1, 2, 0, 1, 2, 0, 1])) == {
        "space": "nasbench_macro",
        "encoding": [0, 1, 2, 0, 1, 2, 0, 1],
    }


def test_stages_are_the_rows_of_the_table_of_layers():
    cifar10 = spaces.mbconv_cifar10()
    assert [len(stage) for stage in spaces.searched_stages(cifar10)] == [2, 3, 4, 3, 3, 1]
    assert spaces.stage_ends(cifar10) == (1, 3, 6, 10, 13, 16, 17)  # a stage of one fixed layer before them
    assert [len(stage) for stage in spaces.searched_stages(spaces.mbconv_imagenet())] == [4, 4, 4, 4, 4, 1]
    assert [list(stage) for stage in spaces.stages(spaces.nasbench201(cells=2))] == [[0, 1], [2, 3], [4, 5]]


@pytest.mark.parametrize("name", [name for name in sorted(spaces.SPACES) if name != "nasbench201"])
def test_a_stage_begins_where_a_layer_does_not_keep_the_shape(name):
    space = spaces.SPACES[name]()
    stages = spaces.searched_stages(space)
    assert [d for stage in stages for d in stage] == list(range(len(space.layers)))
    starts = {stage[0] for stage in stages}
    assert starts == {d for d, layer in enumerate(space.layers) if d == 0 or not layer.keeps_shape}
