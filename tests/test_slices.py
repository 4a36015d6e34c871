"""Sharing by slices: every choice is a part of the largest one, in all forms of a layer and in what is kept of it."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnas
from experiments import cifar_search, cli
from jaxnas import data, networks, spaces, supernet
from jaxnas.export import saved, shared_weights
from jaxnas.networks.sharing import Part
from jaxnas.results.json_files import seal
from jaxnas.search import finished
from jaxnas.search.image_search import image_search
from jaxnas.search.settings import FinishSettings, SearchSettings
from jaxnas.search.training_data import InMemoryData
from jaxnas.spaces.mbconv import SKIP, Layer, Operation
from jaxnas.strategies import ImportanceSampling
from jaxnas.supernet import batched_layer, init, layer_weights, mbconv, mbconv_layer
from jaxnas.supernet.cpu import layer as cpu_layer
from jaxnas.supernet.enumeration import map_networks
from jaxnas.tasks.finished_search import load_supernet
from tests.test_cifar_search import outcome
from tests.test_layer_weights import noisy

# Neither of the two MBConvs holds the other.
OPERATIONS = (Operation(3, 3), SKIP, Operation(5, 2))
MBCONV = ("expand", "depthwise", "project")
LAYER = Layer(4, 6, 1, 6, OPERATIONS)


def space(image_size=8, operations=OPERATIONS):
    return spaces.mbconv_space(
        "sliced",
        image_size=image_size,
        stem_channels=4,
        first_channels=4,
        stages=((6, 3, 2),),
        operations=operations,
        project_skip=True,
        head_channels=8,
    )


def separated(params, layer):
    """The separate weights, a row for each MBConv, that compute what slices compute."""
    mbconvs = [operation for operation in layer.operations if not operation.is_skip]
    if not mbconvs:
        return params
    rows = []
    for operation in mbconvs:
        inner, edge = layer.in_channels * operation.expansion, (5 - operation.kernel) // 2
        row = {name: jax.tree.map(lambda array: np.zeros_like(array[0]), params[name]) for name in MBCONV}
        window = slice(edge, 5 - edge)
        row["depthwise"]["kernel"][window, window, :inner] = params["depthwise"]["kernel"][0, window, window, :inner]
        row["project"]["kernel"][:inner] = params["project"]["kernel"][0, :inner]
        for name in ("scale", "bias"):
            row["depthwise"][name][:inner] = params["depthwise"][name][0, :inner]
            row["project"][name][:] = params["project"][name][0]
        for name, channels in (
            ("kernel", (slice(None), slice(inner))),
            ("scale", slice(inner)),
            ("bias", slice(inner)),
        ):
            row["expand"][name][channels] = params["expand"][name][0][channels]
        rows.append(row)
    return {**params, **jax.tree.map(lambda *arrays: np.stack(arrays), *rows)}


@functools.cache
def sliced_layer():
    declared = noisy(layer_weights.declare(LAYER, "slices"))
    return jax.tree.map(np.asarray, init.draw(jax.random.key(0), declared))


def test_a_layer_has_the_largest_kernel_and_the_widest_expansion_alone():
    shapes = jax.tree.map(lambda array: array.shape, layer_weights.declare(LAYER, "slices"))
    assert shapes == {
        "expand": {"kernel": (1, 4, 12), "scale": (1, 12), "bias": (1, 12)},
        "depthwise": {"kernel": (1, 5, 5, 12), "scale": (1, 12), "bias": (1, 12)},
        "project": {"kernel": (1, 12, 6), "scale": (1, 6), "bias": (1, 6)},
        "shortcut": {"kernel": (4, 6), "scale": (6,), "bias": (6,)},
    }
    (kernel,) = layer_weights.declare(LAYER, "slices")["depthwise"]["kernel"].parts
    assert kernel.deviation == pytest.approx((2 / 25) ** 0.5)
    only_skip = dataclasses.replace(LAYER, operations=(SKIP,))
    assert layer_weights.declare(only_skip, "slices") == layer_weights.declare(only_skip)


def test_a_smaller_kernel_is_the_middle_and_a_smaller_expansion_the_leading_channels():
    params = sliced_layer()
    small, narrow = (layer_weights.unpack(params, LAYER, operation) for operation in (Operation(3, 3), Operation(5, 2)))
    np.testing.assert_array_equal(small["depthwise"]["kernel"], params["depthwise"]["kernel"][0, 1:4, 1:4])
    np.testing.assert_array_equal(small["expand"]["kernel"], params["expand"]["kernel"][0])
    np.testing.assert_array_equal(narrow["depthwise"]["kernel"], params["depthwise"]["kernel"][0, :, :, :8])
    np.testing.assert_array_equal(narrow["expand"]["kernel"], params["expand"]["kernel"][0, :, :8])
    np.testing.assert_array_equal(narrow["expand"]["bias"], params["expand"]["bias"][0, :8])
    np.testing.assert_array_equal(narrow["project"]["kernel"], params["project"]["kernel"][0, :8])
    np.testing.assert_array_equal(narrow["project"]["scale"], params["project"]["scale"][0])
    assert layer_weights.unpack(params, LAYER, SKIP) is params["shortcut"]


@pytest.mark.parametrize(
    "module", [mbconv_layer, batched_layer, cpu_layer], ids=lambda module: module.__name__.split(".")[-1]
)
def test_a_layer_computes_its_slices_and_their_gradients_add_up(module):
    params, x = sliced_layer(), jax.random.normal(jax.random.key(1), (2, 6, 6, 4))

    def outputs(params):
        return jnp.stack([module.apply_layer(params, x, jnp.int32(choice), LAYER) for choice in range(3)])

    @jax.jit
    def run(params):
        found, vjp = jax.vjp(outputs, params)
        return found, vjp(jnp.cos(3 * jnp.arange(found.size)).reshape(found.shape))[0]

    (found, gradient), (expected, rows) = run(params), run(separated(params, LAYER))
    np.testing.assert_allclose(found, expected, atol=1e-5)
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(rows))
    for name in MBCONV:
        for key, of_rows in rows[name].items():
            total = np.sum(of_rows, axis=0, keepdims=True)
            np.testing.assert_allclose(gradient[name][key], total, atol=1e-5 * largest, err_msg=f"{name} {key}")
    # The corners of the kernel in channels that only the smaller kernel has.
    np.testing.assert_array_equal(gradient["depthwise"]["kernel"][0, 0, 0, 8:], 0)


def test_a_layer_with_and_without_expansion():
    mixed = dataclasses.replace(LAYER, operations=(Operation(3, 1), Operation(3, 2)))
    params = init.draw(jax.random.key(0), layer_weights.declare(mixed, "slices"))
    own = layer_weights.unpack(params, mixed, mixed.operations[0])
    assert "expand" not in own
    np.testing.assert_array_equal(own["depthwise"]["kernel"], params["depthwise"]["kernel"][0, :, :, :4])
    x = jax.random.normal(jax.random.key(1), (2, 6, 6, 4))
    for choice in range(2):
        assert np.all(np.isfinite(mbconv_layer.apply_layer(params, x, jnp.int32(choice), mixed)))


@functools.cache
def sliced():
    """Weights of a whole supernet, and the separate ones that compute the same."""
    declared = noisy(mbconv.declare(space(), "slices"))
    params = jax.tree.map(np.asarray, init.draw(jax.random.key(0), declared))
    layers = {f"layer_{index + 1}": layer for index, layer in enumerate(space().layers)}
    return params, {name: separated(of, layers[name]) if name in layers else of for name, of in params.items()}


ARCHS = np.array([[0, 1, 2], [2, 2, 0], [1, 0, 1], [2, 0, 2]], np.int32)


@pytest.fixture(scope="module")
def images():
    return jax.random.normal(jax.random.key(2), (6, 8, 8, 3))


@pytest.mark.parametrize("batching", ["vmap", pytest.param("map", marks=pytest.mark.long)])
def test_a_supernet_computes_what_separate_weights_compute(batching, images):
    module = supernet.build(space(), gather=batching == "vmap", sharing="slices")

    def apply(params, images, arch):
        return module.apply({"params": params}, images, arch)

    run = jax.jit(
        lambda params: supernet.gradient(apply, params, images, jnp.arange(6), jnp.asarray(ARCHS), batching=batching)
    )
    params, rows = sliced()
    (gradient, found), (by_row, expected) = run(params), run(rows)
    np.testing.assert_allclose(found.loss, expected.loss, rtol=1e-4)
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(by_row))

    def add_up(own, each):
        total = each if own.shape == each.shape else each.sum(0, keepdims=True)
        np.testing.assert_allclose(own, total, atol=1e-4 * largest)

    jax.tree.map(add_up, gradient, by_row)


def test_mixtures_enumerations_and_extracted_networks_agree(images):
    """Every way to one network's logits: the supernet, a mixture of one-hot weights, the walk, the network alone."""
    params, _ = sliced()
    module = supernet.build(space(), sharing="slices")
    arch = ARCHS[0]
    logits = jax.jit(module.apply)({"params": params}, images, jnp.asarray(arch))
    mix = jax.jit(functools.partial(module.apply, method="apply_mixture"))
    np.testing.assert_allclose(mix({"params": params}, images, jnp.eye(3)[arch]), logits, atol=1e-4)
    every = jax.jit(lambda params: map_networks(params, images, space(), lambda logits: logits))(params)
    np.testing.assert_allclose(every[np.ravel_multi_index(arch, space().num_choices)], logits, atol=1e-4)
    network = networks.build(space(), arch)
    own = networks.inherit(space(), arch, params)
    assert jax.tree.map(jnp.shape, own) == jax.tree.map(jnp.shape, _shapes(network, images)["params"])
    alone, _ = jax.jit(functools.partial(network.apply, train=True, mutable=["batch_stats"]))(
        {"params": own, "batch_stats": _zeros(network, images)}, images
    )
    np.testing.assert_allclose(alone, logits, atol=1e-4)


def _shapes(network, images):
    return jax.eval_shape(network.init, jax.random.key(0), images)


def _zeros(network, images):
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), _shapes(network, images)["batch_stats"])


def test_sharings_that_do_not_exist():
    with pytest.raises(ValueError, match="sharing must be one of separate, slices, got 'some'"):
        supernet.build(space(), sharing="some")
    cells = spaces.nasbench201(channels=4, cells=1, image_size=8)
    with pytest.raises(ValueError, match="sharing must be separate for nasbench201, got 'slices'"):
        supernet.build(cells, sharing="slices")


def test_networks_share_their_slices():
    params, _ = sliced()
    archs = [[0, 1, 2], [0, 1, 0], [2, 1, 2], [0, 1, 2]]
    shared, recipes = networks.share(space(), archs, params)
    for arch, recipe in zip(archs, recipes):
        own = networks.inherit(space(), arch, params)
        jax.tree.map(np.testing.assert_array_equal, networks.take(shared, recipe), own)
    assert recipes[0] == recipes[3]
    # In the first layer are k3_e3 of 4 channels and k5_e2: one array, in which corners are of none of them.
    kernel = shared["0"]["layer_1"]["depthwise"]["conv"]["kernel"]
    assert kernel.shape == (5, 5, 1, 12)
    stored = params["layer_1"]["depthwise"]["kernel"][0]
    np.testing.assert_array_equal(kernel[1:4, 1:4, 0], stored[1:4, 1:4])
    np.testing.assert_array_equal(kernel[..., 0, :8], stored[..., :8])
    assert np.count_nonzero(kernel) == 9 * 12 + 16 * 8
    path = "layer_1/depthwise/conv/kernel"
    assert recipes[0][path] == Part(f"0/{path}", ((1, 4), (1, 4), (0, 1), (0, 12)))
    assert recipes[2][path] == Part(f"0/{path}", ((0, 5), (0, 5), (0, 1), (0, 8)))
    assert recipes[0]["layer_1/project/norm/scale"] == "0/layer_1/project/norm/scale"
    assert set(shared) == {"0"}  # nothing twice


def test_networks_of_one_size_need_no_more_than_that():
    params, _ = sliced()
    shared, (recipe,) = networks.share(space(), [[0, 1, 2]], params)
    assert shared["0"]["layer_1"]["depthwise"]["conv"]["kernel"].shape == (3, 3, 1, 12)
    assert all(isinstance(source, str) for source in recipe.values())


def test_gradients_of_shared_slices_add_up():
    params, _ = sliced()
    shared, recipes = networks.share(space(), [[0, 1, 2], [2, 1, 2]], params)
    path = "layer_1/depthwise/conv/kernel"

    def total(shared):
        return sum(networks.take(shared, recipe)["layer_1"]["depthwise"]["conv"]["kernel"].sum() for recipe in recipes)

    gradient = jax.grad(total)(shared)["0"]["layer_1"]["depthwise"]["conv"]["kernel"]
    expected = np.zeros((5, 5, 1, 12))
    expected[1:4, 1:4] += 1
    expected[..., :8] += 1
    np.testing.assert_array_equal(gradient, expected, err_msg=path)


@functools.cache
def digits():
    whole = data.load("digits")
    parts = {
        f"{split}_{name}": getattr(whole, f"{split}_{name}")[:60]
        for split in ("train", "test")
        for name in ("images", "labels")
    }
    return dataclasses.replace(whole, **parts)


@spaces.described
def small(width=1.0, image_size=8, num_classes=10):
    return spaces.mbconv_space(
        "small_sliced",
        image_size=image_size,
        stem_channels=int(4 * width),
        stages=((int(4 * width), 1, 2),),
        operations=(Operation(3, 3), Operation(5, 2)),
        head_channels=8,
        num_classes=num_classes,
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Two networks of a search with slices after two steps of finishing, and the folder that they are kept in."""
    spaces.SPACES["small_sliced"] = small
    settings = SearchSettings(distribution_steps=1, batch_size=16, valid_batch_size=16, crop_padding=1)
    train, valid = data.split(digits(), 0.5, seed=0)
    strategy = ImportanceSampling(small(), penalties=(0.1, 0.2), samples=1)
    module = supernet.build(small(), sharing="slices")
    search = image_search(strategy, module, digits(), train, valid, settings)
    archs = ((0,), (1,))
    images = InMemoryData(digits())
    together = finished.NetworkFinishing(search, archs, images, FinishSettings(finish_steps=2, finish_batches=1), 0)
    trainer, state, recipes = together.prepare(module.init_params(jax.random.key(0)), jax.random.key(1))
    *_, (state, _) = trainer.run(state)
    found = together.end(state, recipes)
    folder = tmp_path_factory.mktemp("run") / "finished"
    given = images.normalization
    described = [
        saved.NetworkDescription("small_sliced", arch, 1.0, 8, 10, "digits", given.mean, given.std) for arch in archs
    ]
    return found, folder, shared_weights.save(folder, described, found)


@pytest.mark.long
def test_one_file_holds_shared_slices_once(trained):
    found, folder, sizes = trained
    kernels = found.shared["0"]["layer_1"]["depthwise"]["conv"]["kernel"]
    assert kernels.shape == (5, 5, 1, 12)
    assert sizes.together < 0.75 * sizes.apart
    for k, arch in enumerate(found.archs):
        network = jaxnas.load(folder, index=k)
        inside = networks.build(small(), arch).apply(found.variables(k), network.preprocess(digits().test_images))
        np.testing.assert_allclose(network(digits().test_images), inside, atol=1e-5)


@pytest.mark.long
def test_finished_networks_are_slices_of_one_supernet(trained):
    """The supernet with the finished weights computes what each network computes alone."""
    found, _, _ = trained
    params = supernet.build(small(), sharing="slices").init_params(jax.random.key(0))
    for name in ("stem", "head"):
        params[name] = _joined(found.shared["0"][name])
    for number, parts in (("fixed_1", ("depthwise", "project")), ("layer_1", MBCONV)):
        if number in params:
            params[number] = {
                part: jax.tree.map(lambda array: array[None], _joined(found.shared["0"][number][part]))
                for part in parts
            }
    params["classifier"] = found.shared["0"]["classifier"]
    images = data.normalize(digits().test_images, digits().mean, digits().std)
    for k, arch in enumerate(found.archs):
        network = networks.build(small(), arch)
        alone, _ = network.apply(found.variables(k), images, train=True, mutable=["batch_stats"])
        inside = supernet.build(small()).apply({"params": params}, images, jnp.asarray(arch))
        np.testing.assert_allclose(alone, inside, atol=1e-5)


def _joined(conv_norm):
    """A supernet's arrays of one convolution, out of those of a network's."""
    kernel = np.asarray(conv_norm["conv"]["kernel"])
    if kernel.shape[:2] == (1, 1):
        kernel = kernel[0, 0]
    elif kernel.shape[2] == 1:
        kernel = kernel[:, :, 0]
    return {"kernel": kernel, **conv_norm["norm"]}


@pytest.mark.long
@pytest.mark.parametrize(
    ("source", "message"),
    [
        (["0/layer_1/project/norm/bias", [[0, 5]]], "whose shape is"),
        (["0/layer_1/project/norm/bias", [[0, 2], [0, 2]]], "whose shape is"),
        (["0/layer_1/project/norm/bias", [[0, 2]]], "is of another network"),
        (["0/layer_1/project/norm/bias", [[0, 1.5]]], "describes no networks"),
        (["0/layer_1/project/norm/bias"], "describes no networks"),
        (["9/x", [[0, 4]]], "lacks shared/9/x"),
        (3, "describes no networks"),
    ],
)
def test_parts_that_cannot_be_taken_are_one_line(trained, tmp_path, source, message):
    _, folder, _ = trained
    document = json.loads((folder / shared_weights.DESCRIPTION).read_text())
    document["networks"][0]["recipe"]["layer_1/project/norm/bias"] = source
    (tmp_path / shared_weights.DESCRIPTION).write_text(json.dumps(seal(document)))
    (tmp_path / shared_weights.WEIGHTS).write_bytes((folder / shared_weights.WEIGHTS).read_bytes())
    with pytest.raises(ValueError, match=message) as raised:
        jaxnas.load(tmp_path, index=0)
    assert "\n" not in str(raised.value)


SEARCH = [
    "--dataset=digits", "--space=small_sliced", "--penalties", "0.01", "0.5", "--samples=2", "--weight-steps=4",
    "--batch-size=16", "--valid-batch-size=16", "--steps-per-dispatch=2", "--candidates=2", "--sharing=slices",
]  # fmt: skip


@pytest.mark.long
def test_a_search_ends_resumes_bit_for_bit_and_keeps_its_sharing(tmp_path, capsys):
    spaces.SPACES["small_sliced"] = small

    def search(workdir, *arguments):
        cli.run(cifar_search.main, cifar_search.Config, [f"--workdir={tmp_path / workdir}", *SEARCH, *arguments])

    search("whole", "--distribution-steps=4", "--finish-steps=2")
    search("halves", "--distribution-steps=2", "--finish-steps=0")
    search("halves", "--distribution-steps=4", "--finish-steps=2")
    assert outcome(tmp_path / "halves") == outcome(tmp_path / "whole")
    weights = [tmp_path / name / "finished" / shared_weights.WEIGHTS for name in ("whole", "halves")]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    assert outcome(tmp_path / "whole")["config"]["space"]["sharing"] == "slices"
    frozen = load_supernet(tmp_path / "whole", None)
    assert frozen.params["layer_1"]["depthwise"]["kernel"].shape == (1, 5, 5, 12)
    capsys.readouterr()
    with pytest.raises(SystemExit) as refused:
        search("whole", "--distribution-steps=4", "--finish-steps=2", "--sharing=separate")
    assert refused.value.code == 2
    assert "sharing ('slices' there, 'separate' now)" in capsys.readouterr().err


def test_a_search_on_cells_cannot_share_slices(tmp_path, capsys):
    arguments = ["--dataset=digits", "--space=nasbench201", "--sharing=slices"]
    with pytest.raises(SystemExit) as refused:
        cli.run(cifar_search.main, cifar_search.Config, [f"--workdir={tmp_path / 'run'}", *arguments])
    assert refused.value.code == 2
    message = capsys.readouterr().err.strip()
    assert "sharing must be separate for nasbench201" in message
    assert "\n" not in message
    assert not (tmp_path / "run").exists()


@pytest.mark.long
def test_a_search_of_one_call_gives_networks_their_slices():
    images = digits().train_images.astype(np.float32) / 255
    examples = (images, digits().train_labels)
    family = jaxnas.search(
        small(),
        loss=lambda logits, batch: supernet.cross_entropy(logits, batch[1]),
        train=examples,
        valid=examples,
        steps=10,
        penalties=(0.01, 0.5),
        batch_size=20,
        sharing="slices",
    )
    assert family.params["layer_1"]["depthwise"]["kernel"].shape == (1, 5, 5, 12)
    assert family.result.config["sharing"] == "slices"
    for member in family:
        own = networks.inherit(small(), member.arch, family.params)
        assert jax.tree.map(jnp.shape, member.params) == jax.tree.map(jnp.shape, own)
        assert np.isfinite(member(examples[0])).all()
    with pytest.raises(ValueError, match="sharing must be one of"):
        jaxnas.search(small(), loss=None, train=examples, valid=examples, steps=10, penalties=(0.1,), sharing="some")
