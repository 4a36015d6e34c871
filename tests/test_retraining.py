"""Training a discrete network: the steps, and `experiments.retrain` from a search's result to files."""

import dataclasses
import functools
import json

import jax
import numpy as np
import optax
import pytest

from experiments import cli, retrain
from jaxnas import data, networks
from jaxnas.results import FoundArchitecture, SearchResult, read_metrics
from jaxnas.runtime.loop import NonFiniteLossError
from jaxnas.search.recipes import RetrainSettings
from jaxnas.search.sources import OnHost
from jaxnas.search.training_data import InMemoryData
from tests.tiny_search import tiny

pytestmark = pytest.mark.long

SETTINGS = RetrainSettings(
    epochs=2, batch_size=32, learning_rate=0.05, crop_padding=1, cutout=2, average=0.9, steps_per_dispatch=3
)


@functools.cache
def small_digits():
    digits = data.load("digits")
    train, test = slice(0, 130), slice(0, 50)
    return dataclasses.replace(
        digits,
        train_images=digits.train_images[train],
        train_labels=digits.train_labels[train],
        test_images=digits.test_images[test],
        test_labels=digits.test_labels[test],
    )


@functools.cache
def retraining(**changes):
    network = networks.build(tiny(), [0, 0], drop_path=0.2)
    return InMemoryData(small_digits()).trainer(network, dataclasses.replace(SETTINGS, **changes), seed=0, test_every=0)


def host(state):
    return jax.tree.map(np.asarray, jax.tree.map(lambda x: jax.random.key_data(x) if is_key(x) else x, state))


def is_key(x):
    return jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)


def test_a_cut_training_continues_as_if_nothing_had_happened():
    whole = retraining()
    assert whole.total_steps == 8  # 130 images are 4 minibatches of 32
    *_, (end, score) = whole.run(whole.init(0))
    first, _ = next(whole.run(whole.init(0)))
    *_, (resumed, resumed_score) = whole.run(jax.tree.map(lambda leaf: leaf.copy(), first))
    assert int(end.step) == 8
    assert score == resumed_score
    jax.tree.map(np.testing.assert_array_equal, host(end), host(resumed))


def test_the_average_starts_fast():
    one = retraining(steps_per_dispatch=1)
    begin = one.init(0)
    before = host(begin.variables)
    state, _ = next(one.run(begin))
    expected = jax.tree.map(lambda old, new: 0.1 * old + 0.9 * new, before, host(state.variables))  # (1 + 0) / (10 + 0)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), host(state.average), expected)


@pytest.mark.slow
def test_the_score_is_that_of_all_test_images():
    task = retraining()
    variables = task.init(0).variables
    dataset = small_digits()
    logits = task.network.apply(variables, data.normalize(dataset.test_images, dataset.mean, dataset.std))
    tested = OnHost(task.tested.examples, batch_size=20)  # a last minibatch of 10
    score = dataclasses.replace(task, tested=tested).test(variables)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, dataset.test_labels)
    assert score.loss == pytest.approx(float(losses.mean()), rel=1e-5)
    assert score.accuracy == pytest.approx(float((logits.argmax(-1) == dataset.test_labels).mean()))


@pytest.mark.slow
def test_a_loss_that_is_no_number_stops_it():
    wild = retraining(learning_rate=1e30, warmup=0.0)
    with pytest.raises(NonFiniteLossError, match="at step . of 8; lower the learning rate"):
        list(wild.run(wild.init(0)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
        ({"drop_path": 1.0}, "drop_path must be at least 0 and less than 1"),
        ({"augmentation": "mixup"}, "augmentation must be one of standard, cutout, randaugment, got 'mixup'"),
        ({"learning_rate": 0.0}, "learning_rate must be positive"),
    ],
)
def test_settings_are_checked(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SETTINGS, **changes)


def write_result(folder, archs=((0, 0), (1, 1)), space="tiny", dataset="digits"):
    found = tuple(FoundArchitecture(k, 0.1 * (k + 1), arch, "", 1, 1, None, None, None) for k, arch in enumerate(archs))
    SearchResult("shared_model", space, dataset, 0, {}, {}, 1, 1.0, found).write(folder / "result.json")
    return folder / "result.json"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Two networks of a hand-made result, the first with two seeds, in OUT."""
    folder = tmp_path_factory.mktemp("retrain")
    result = write_result(folder)
    options = ["--result", str(result), "--epochs", "8"]
    cli.run(retrain.main, retrain.Config, [*options, "--index", "0", "--repeats", "2", "--test-every", "1"])
    cli.run(retrain.main, retrain.Config, [*options, "--index", "1", "--augmentation", "randaugment"])
    return folder / "retrained"


def test_retrain_writes_networks_and_a_summary(trained):
    first, second = json.loads((trained / "retrained.json").read_text())
    assert (first["encoding"], second["encoding"]) == ([0, 0], [1, 1])
    assert first["params"] == tiny().cost("params").total([0, 0])
    assert len(first["test_accuracy_scratch"]) == 2
    assert all(0.3 < accuracy <= 1 for accuracy in first["test_accuracy_scratch"])  # chance is 0.1
    assert (trained / "curves.png").read_bytes().startswith(b"\x89PNG")
    records = read_metrics(trained / "k0" / "seed0" / "metrics.jsonl")
    assert [(record["step"], record["epoch"]) for record in records][-1] == (176, 8.0)
    assert records[-1]["test_accuracy"] == pytest.approx(first["test_accuracy_scratch"][0])


def test_retrain_again_changes_nothing(trained, capsys):
    before = (trained / "retrained.json").read_bytes()
    cli.run(
        retrain.main, retrain.Config, ["--result", str(trained.parent / "result.json"), "--epochs", "8", "--index", "0"]
    )
    assert "is trained already" in " ".join(capsys.readouterr().out.split())
    assert (trained / "retrained.json").read_bytes() == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--index", "7"], "index must be all or one of 0, 1, got '7'"),
        (["--repeats", "0"], "repeats must be at least 1"),
        (["--epochs", "3", "--index", "0"], "holds another search, different in epochs"),
        (["--warm-start"], "is not the folder of a search"),
        (["--image-size", "3"], "size must divide"),
    ],
)
def test_foreseeable_mistakes_are_one_line(trained, capsys, options, message):
    with pytest.raises(SystemExit) as stopped:
        cli.run(retrain.main, retrain.Config, ["--result", str(trained.parent / "result.json"), *options])
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_dataset_without_recipe(tmp_path, capsys):
    with pytest.raises(SystemExit):
        cli.run(retrain.main, retrain.Config, ["--result", str(write_result(tmp_path, dataset="imagenet2012"))])
    assert "has no recipe" in capsys.readouterr().err
