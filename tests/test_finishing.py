"""The networks of a search trained together: one step by hand, statistics of batch norm, and what is kept of them."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from PIL import Image

import jaxnas
from experiments import cli, export, predict
from jaxnas import data, networks, supernet
from jaxnas.export import saved, shared_weights
from jaxnas.export.classify import classify
from jaxnas.results.json_files import seal
from jaxnas.runtime.loop import NonFiniteLossError
from jaxnas.search import finished, presets
from jaxnas.search.finishing import Finishing
from jaxnas.search.image_search import image_search
from jaxnas.search.images import CrossEntropy
from jaxnas.search.settings import FinishSettings, SearchSettings
from jaxnas.search.sources import InMemory
from jaxnas.search.training_data import InMemoryData
from jaxnas.strategies import ImportanceSampling
from tests.test_cifar_search import assert_same_state
from tests.test_networks import SPACES, trained_like
from tests.tiny_search import tiny

pytestmark = pytest.mark.long

RATE, KEPT = 0.1, 0.25
TRAINING = SearchSettings(
    distribution_steps=1, batch_size=8, valid_batch_size=8, momentum=0.0, weight_decay=0.0, clip_norm=1e9,
    steps_per_dispatch=2,
)  # fmt: skip
ARCHS = ((0, 0), (0, 1), (0, 0), (1, 0))  # two distributions may find the same network


def finishing(members, examples, loss, settings=None, **training):
    given = {"finish_steps": 1, "finish_learning_rate": RATE, "finish_average": KEPT} | (settings or {})
    return Finishing(
        members,
        InMemory(examples),
        FinishSettings(**given),
        dataclasses.replace(TRAINING, **training),
        prepare=lambda batch, key: batch["x"],
        loss=loss,
        first_step=10,
    )


def squared(outputs, batch):
    return ((outputs - batch["y"]) ** 2).mean(), {"first": outputs[0]}


def products():
    """Two networks of which the second has the first one's weight and one of its own."""
    generator = np.random.default_rng(0)
    examples = {name: generator.normal(size=8).astype(np.float32) for name in ("x", "y")}
    members = (lambda params, x: params["a"] * x, lambda params, x: params["a"] * params["b"] * x)
    return members, examples


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_step_descends_the_sum_of_the_losses(accumulate):
    members, examples = products()
    trainer = finishing(members, examples, squared, accumulate=accumulate)
    a, b = 0.5, 3.0
    ((state, measured),) = trainer.run(trainer.init({"a": jnp.float32(a), "b": jnp.float32(b)}, jax.random.key(0)))
    x, y = (examples[name].astype(np.float64) for name in ("x", "y"))
    errors = a * x - y, a * b * x - y
    new_a = a - RATE * (2 * np.mean(errors[0] * x) + 2 * np.mean(errors[1] * b * x))
    new_b = b - RATE * 2 * np.mean(errors[1] * a * x)
    np.testing.assert_allclose([state.params["a"], state.params["b"]], [new_a, new_b], rtol=1e-5)
    # Of the first average a tenth is kept in the first step.
    np.testing.assert_allclose(state.average["b"], 0.1 * b + 0.9 * new_b, rtol=1e-5)
    np.testing.assert_allclose(measured.loss, [[np.mean(error**2) for error in errors]], rtol=1e-5)
    assert int(state.step) == 1


def test_records_are_of_all_networks_and_count_the_steps_of_the_search():
    members, examples = products()
    trainer = dataclasses.replace(finishing(members, examples, squared), which=(1, 0, 1))
    ((state, measured),) = trainer.run(trainer.init({"a": jnp.float32(1), "b": jnp.float32(2)}, jax.random.key(0)))
    (record,) = trainer.records(10, state, measured)
    assert (record["step"], record["phase"]) == (11, "finishing")
    second, first = measured.loss[0, 1], measured.loss[0, 0]
    assert record["finish_loss"] == [second, first, second]
    assert record["finish_first"][0] == 2 * record["finish_first"][1]


def test_the_teacher_teaches_and_does_not_learn_from_its_pupils():
    generator = np.random.default_rng(1)
    examples = {"x": generator.normal(size=(8, 3)).astype(np.float32), "labels": np.arange(8) % 4}
    params = {name: generator.normal(size=(3, 4)).astype(np.float32) for name in ("pupil", "teacher")}
    members = (lambda params, x: x @ params["pupil"], lambda params, x: x @ params["teacher"])

    def loss(outputs, batch):
        return supernet.cross_entropy(outputs, batch["labels"])

    def softmax(logits):
        return np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)

    share, temperature = 0.25, 2.0
    settings = {"finish_distillation": share, "finish_temperature": temperature}
    trainer = finishing(members, examples, loss, settings)
    trainer = dataclasses.replace(trainer, teacher=1)
    ((state, _),) = trainer.run(trainer.init(params, jax.random.key(0)))
    logits = {name: examples["x"] @ kernel for name, kernel in params.items()}
    of_labels = {name: softmax(each) - np.eye(4)[examples["labels"]] for name, each in logits.items()}
    soft = {name: softmax(each / temperature) for name, each in logits.items()}
    towards_teacher = temperature * (soft["pupil"] - soft["teacher"])
    slopes = {
        "teacher": of_labels["teacher"],
        "pupil": (1 - share) * of_labels["pupil"] + share * towards_teacher,
    }
    for name, slope in slopes.items():
        expected = params[name] - RATE * examples["x"].T @ slope / 8
        np.testing.assert_allclose(state.params[name], expected, atol=1e-6)


def test_continuing_from_a_copy_is_the_same_finishing():
    members, examples = products()
    trainer = finishing(members, examples, squared, {"finish_steps": 5}, batch_size=4)
    start = {"a": jnp.float32(1), "b": jnp.float32(2)}
    copies = []
    for state, _ in trainer.run(trainer.init(start, jax.random.key(0))):
        copies.append(jax.tree.map(jnp.copy, state))
    assert [int(copy.step) for copy in copies] == [2, 4, 5]
    *_, (end, _) = trainer.run(jax.tree.map(jnp.copy, copies[0]))
    assert_same_state(end, copies[-1])


def test_a_loss_that_is_not_finite_is_named_by_its_step():
    members, examples = products()
    trainer = finishing(members, examples, squared, {"finish_steps": 5})
    with pytest.raises(NonFiniteLossError, match=r"step 11 \(phase finishing\); lower finish_learning_rate"):
        list(trainer.run(trainer.init({"a": jnp.float32(1), "b": jnp.float32(1e30)}, jax.random.key(0))))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"finish_steps": -1}, "finish_steps"),
        ({"finish_learning_rate": 0.0}, "finish_learning_rate"),
        ({"finish_average": 1.0}, "finish_average"),
        ({"finish_label_smoothing": -0.1}, "finish_label_smoothing"),
        ({"finish_distillation": 1.0}, "finish_distillation"),
        ({"finish_temperature": float("nan")}, "finish_temperature"),
        ({"finish_batches": 0}, "finish_batches"),
    ],
)
def test_settings_out_of_range(settings, words):
    with pytest.raises(ValueError, match=rf"{words} must be .*got"):
        FinishSettings(**settings)


@pytest.mark.parametrize("name", SPACES)
def test_shared_arrays_are_those_that_each_network_inherits(name):
    space, params = SPACES[name], trained_like(name)
    archs = [tuple(arch) for arch in space.sample_uniform(np.random.default_rng(0), 4).tolist()]
    archs.append(archs[0])
    shared, recipes = networks.share(space, archs, params)
    together = set()
    for arch, recipe in zip(archs, recipes):
        own = networks.inherit(space, arch, params)
        jax.tree.map(np.testing.assert_array_equal, networks.take(shared, recipe), own)
        together |= {(path, np.asarray(array).tobytes()) for path, array in jax.tree_util.tree_leaves_with_path(own)}
    assert recipes[0] == recipes[-1]
    # Weights of a supernet that are no constants are equal only where they are the same.
    assert len(jax.tree.leaves(shared)) == len(together)


@functools.cache
def digits():
    whole = data.load("digits")
    return dataclasses.replace(
        whole,
        **{f"train_{name}": getattr(whole, f"train_{name}")[:96] for name in ("images", "labels")},
        **{f"test_{name}": getattr(whole, f"test_{name}")[:40] for name in ("images", "labels")},
    )


@pytest.fixture(scope="module")
def search():
    settings = SearchSettings(
        distribution_steps=1, batch_size=32, valid_batch_size=16, crop_padding=1, steps_per_dispatch=3
    )
    train, valid = data.split(digits(), 0.5, seed=0)
    strategy = ImportanceSampling(tiny(), penalties=(0.1, 0.2, 0.3, 0.4), samples=1)
    return image_search(strategy, supernet.build(tiny()), digits(), train, valid, settings)


@pytest.fixture(scope="module")
def trained(search):
    """The networks of `ARCHS` after three steps, with statistics of one minibatch."""
    settings = FinishSettings(finish_steps=3, finish_batches=1)
    together = finished.NetworkFinishing(search, ARCHS, InMemoryData(digits()), settings, seed=0)
    params = supernet.build(tiny()).init_params(jax.random.key(0))
    trainer, state, recipes = together.prepare(params, jax.random.key(1))
    *_, (state, _) = trainer.run(state)
    return together, together.end(state, recipes)


def test_equal_networks_are_trained_once(trained):
    together, networks_ = trained
    assert together.distinct == ((0, 0), (0, 1), (1, 0))
    assert len(networks_.scores) == len(networks_.recipes) == 4
    jax.tree.map(np.testing.assert_array_equal, networks_.variables(0), networks_.variables(2))
    assert networks_.scores[0] == networks_.scores[2]


def test_batch_norm_has_the_statistics_of_each_network_on_training_images(trained, search):
    """With the statistics of one minibatch a network in use computes on it what it computes in training."""
    together, networks_ = trained
    (minibatch,) = together._minibatches()
    images = search.prepare(minibatch, None)
    for k, arch in enumerate(ARCHS):
        network = networks.build(tiny(), arch)
        variables = networks_.variables(k)
        in_training, _ = network.apply(variables, images, train=True, mutable=["batch_stats"])
        np.testing.assert_allclose(network.apply(variables, images), in_training, atol=1e-4)


def test_scores_are_of_all_test_images(trained):
    _, networks_ = trained
    images = data.normalize(digits().test_images, digits().mean, digits().std)
    for k, arch in enumerate(ARCHS):
        logits = networks.build(tiny(), arch).apply(networks_.variables(k), images)
        loss, _ = CrossEntropy()(logits, data.Examples(images, jnp.asarray(digits().test_labels)))
        assert float(networks_.scores[k].accuracy) == np.mean(logits.argmax(-1) == digits().test_labels)
        np.testing.assert_allclose(networks_.scores[k].loss, loss, rtol=1e-4)


def description(networks_, k):
    score, given = networks_.scores[k], networks_.images.normalization
    return saved.NetworkDescription(
        "tiny", ARCHS[k], 1.0, 8, 10, "digits", given.mean, given.std, float(score.accuracy)
    )


@pytest.fixture(scope="module")
def folder(trained, tmp_path_factory):
    path = tmp_path_factory.mktemp("run") / "finished"
    _, networks_ = trained
    shared_weights.save(path, [description(networks_, k) for k in range(4)], networks_)
    return path


def test_one_file_gives_back_each_network(trained, folder):
    _, networks_ = trained
    images = digits().test_images
    for k, arch in enumerate(ARCHS):
        network = jaxnas.load(folder, index=k)
        assert network.description == description(networks_, k)
        module = networks.build(tiny(), arch)
        inside = module.apply(networks_.variables(k), network.preprocess(images))
        np.testing.assert_allclose(network(images), inside, atol=1e-5)
    assert jaxnas.load(folder / shared_weights.WEIGHTS, index=1).description.encoding == ARCHS[1]


def test_one_file_is_enough_to_predict(folder, tmp_path, capsys):
    Image.fromarray(digits().test_images[0].repeat(4, 0).repeat(4, 1)).save(tmp_path / "a.png")
    for k in (0, 3):
        cli.run(predict.main, predict.Config, ["--model", str(folder), f"--index={k}", str(tmp_path / "a.png")])
        (found,) = classify(jaxnas.load(folder, index=k), [tmp_path / "a.png"])
        assert capsys.readouterr().out.split("\t")[1:] == [found.class_name, f"{found.probability:.4f}\n"]
    with pytest.raises(SystemExit):
        cli.run(predict.main, predict.Config, ["--model", str(folder), str(tmp_path / "a.png")])
    assert "index must be one of 0, 1, 2, 3" in capsys.readouterr().err


def test_what_networks_share_is_in_the_file_once(trained, folder):
    _, networks_ = trained
    sizes = shared_weights.save(folder, [description(networks_, k) for k in range(4)], networks_)
    assert sizes.together == (folder / shared_weights.WEIGHTS).stat().st_size

    def count(*trees):
        return sum(leaf.nbytes for leaf in jax.tree.leaves(trees))

    kept = count(safetensors.numpy.load_file(folder / shared_weights.WEIGHTS))
    assert kept == count(networks_.shared, networks_.batch_stats)
    apart = count(*(networks_.variables(k) for k in range(4)))
    assert apart > kept
    assert sizes.apart > apart  # names and shapes stand in each file too
    assert sizes.apart > sizes.together


@pytest.mark.parametrize("index", [None, -1, 4])
def test_an_index_that_is_none_of_a_network(folder, index):
    with pytest.raises(ValueError, match=r"index must be one of 0, 1, 2, 3, .* got"):
        jaxnas.load(folder, index=index)


def test_an_index_of_a_single_network(trained, tmp_path):
    _, networks_ = trained
    saved.save(tmp_path, description(networks_, 0), networks_.variables(0))
    with pytest.raises(ValueError, match="index must be left out"):
        jaxnas.load(tmp_path, index=0)


def edit(change):
    def damage(folder):
        document = json.loads((folder / shared_weights.DESCRIPTION).read_text())
        change(document)
        (folder / shared_weights.DESCRIPTION).write_text(json.dumps(seal(document)))

    return damage


def edit_recipe(changes):
    return edit(lambda document: document["networks"][0]["recipe"].update(changes))


def flip(name, position):
    def damage(folder):
        content = bytearray((folder / name).read_bytes())
        content[position] ^= 1
        (folder / name).write_bytes(content)

    return damage


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (flip(shared_weights.WEIGHTS, -1), "is not what was written, or is damaged"),
        (lambda folder: (folder / shared_weights.DESCRIPTION).write_text("{}"), "describes no network"),
        (lambda folder: (folder / shared_weights.DESCRIPTION).unlink(), "cannot be read"),
        (edit(lambda document: document.update(format="jaxnas network 2")), "its format is 'jaxnas network 2'"),
        (edit(lambda document: document.update(networks=3)), "describes no networks"),
        (edit(lambda document: document["networks"][1].pop("recipe")), "describes no networks"),
        (edit(lambda document: document["networks"][0].update(encoding=[1, 1])), "is of another network"),
        (edit_recipe({"stem/norm/bias": "9/x"}), "lacks shared/9/x"),
        (edit_recipe({"more": "0/stem/norm/bias"}), "is of another network"),
    ],
)
def test_damaged_and_foreign_families_are_one_line(folder, tmp_path, damage, message):
    for name in (shared_weights.DESCRIPTION, shared_weights.WEIGHTS):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    damage(tmp_path)
    with pytest.raises(ValueError, match=message) as raised:
        jaxnas.load(tmp_path, index=0)
    assert "\n" not in str(raised.value)


def test_export_takes_what_the_search_has_trained(folder, trained):
    run = folder.parent
    search_ = presets.MEMORY(preset="quickstart", space="tiny", finish_steps=3)
    result = {
        "method": "importance_sampling", "space": "tiny", "dataset": "digits", "seed": 0, "versions": {},
        "config": jaxnas.results.settings_tree.to_json(search_, decisive=True), "evaluations": 1, "wall_seconds": 1.0,
        "architectures": [],
    }  # fmt: skip
    (run / "result.json").write_text(json.dumps(result))
    cli.run(export.main, export.Config, [f"--run={run}", "--format=flax"])
    images = digits().test_images
    for k in range(4):
        exported = run / "exports" / f"k{k}"
        np.testing.assert_array_equal(jaxnas.load(exported)(images), jaxnas.load(folder, index=k)(images))
    card = (run / "exports" / "k0" / "model_card.md").read_text()
    assert "experiments.cifar_search --workdir DIR --preset quickstart --space tiny --finish-steps 3" in card


def test_a_retrained_network_takes_the_place_of_a_finished_one(folder, trained, tmp_path):
    _, networks_ = trained
    retrained = tmp_path / "retrained" / "k1" / "seed0"
    saved.save(retrained, description(networks_, 3), networks_.variables(3))
    (tmp_path / "finished").mkdir()
    for name in (shared_weights.DESCRIPTION, shared_weights.WEIGHTS):
        (tmp_path / "finished" / name).write_bytes((folder / name).read_bytes())
    (tmp_path / "result.json").write_bytes((folder.parent / "result.json").read_bytes())
    found = export.trained_networks(export.Config(run=tmp_path))
    assert {name: (one.folder, one.index) for name, one in found.items()} == {
        "k0": (tmp_path / "finished", 0),
        "k1": (retrained, None),
        "k2": (tmp_path / "finished", 2),
        "k3": (tmp_path / "finished", 3),
    }
    alone = export.trained_networks(export.Config(run=tmp_path, trained=tmp_path / "retrained"))
    assert list(alone) == ["k1"]
