"""The main job through its real entry point: a whole search, resuming after a kill, and bad input."""

import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

import jaxnas
from benchmarks import faults
from experiments import cifar_search, cli, pick
from jaxnas import data, spaces
from jaxnas.results.evaluations import Evaluations, read_evaluations
from jaxnas.runtime.checkpoints import Checkpoints
from jaxnas.search import presets
from jaxnas.search.build import build
from tests import tiny_search  # noqa: F401 (registers the space)
from tests.test_tensorboard import read_events

ROOT = Path(__file__).parents[1]
SMALL = [
    "--dataset=digits",
    "--space=tiny",
    "--penalties", "0.01", "0.5",
    "--samples=2",
    "--weight-steps=6",
    "--joint-steps=4",
    "--distribution-steps=6",
    "--batch-size=16",
    "--steps-per-dispatch=2",
    "--checkpoint-seconds=0",
    "--finish-steps=0",
]  # fmt: skip


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    """One compilation cache for all searches of the session: the first compiles, the others load."""
    return tmp_path_factory.mktemp("xla")


def command(workdir, *arguments):
    return [sys.executable, "-m", "tests.tiny_search", f"--workdir={workdir}", *SMALL, *arguments]


def search(workdir, cache, *arguments):
    environment = {**os.environ, "JAXNAS_CACHE": str(cache), "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        command(workdir, *arguments), cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300
    )


def outcome(workdir):
    """All of result.json but the times."""
    result = json.loads((workdir / "result.json").read_text())
    del result["wall_seconds"], result["sha256"]
    return result


def final_state(workdir, seed=0):
    config = tyro_config(workdir, seed)
    like = build(config).init(seed)
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        return checkpoints.restore_newest(like)


def tyro_config(workdir, seed):
    return cifar_search.Config(
        workdir=workdir,
        dataset="digits",
        space="tiny",
        penalties=(0.01, 0.5),
        samples=2,
        weight_steps=6,
        joint_steps=4,
        distribution_steps=6,
        batch_size=16,
        steps_per_dispatch=2,
        finish_steps=0,
        seed=seed,
    )


def assert_same_state(first, second):
    def raw(leaf):
        return np.asarray(jax.random.key_data(leaf) if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf)

    jax.tree.map(lambda a, b: np.testing.assert_array_equal(raw(a), raw(b)), first, second)


def thetas(workdir):
    """The records of theta in metrics.jsonl."""
    records = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [(record["step"], record["theta"]) for record in records if "theta" in record]


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory, cache):
    workdir = tmp_path_factory.mktemp("undisturbed")
    completed = search(workdir, cache)
    assert completed.returncode == 0, completed.stderr
    return workdir


def test_writes_the_contract(undisturbed):
    result = json.loads((undisturbed / "result.json").read_text())
    found = [result[name] for name in ("method", "space", "dataset", "seed")]
    assert found == ["shared_model", "tiny", "digits", 0]
    assert result["evaluations"] == (4 + 6) * 2 * 2
    assert result["wall_seconds"] > 0
    assert {"python", "jax", "flax", "optax"} <= result["versions"].keys()
    assert [found["penalty"] for found in result["architectures"]] == [0.01, 0.5]
    for k, found in enumerate(result["architectures"]):
        assert found["k"] == k
        assert len(found["encoding"]) == 2
        assert found["params"] > 0
        assert found["macs"] > 0
        assert found["description"].count("|") == 1
        assert 0 < found["probability"] <= 1
        assert 0 <= found["valid_accuracy"] <= 1
    assert (undisturbed / "pareto.png").stat().st_size > 5000
    lines = [json.loads(line) for line in (undisturbed / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 17))
    assert [line["phase"] for line in lines] == ["weights"] * 6 + ["joint"] * 4 + ["distributions"] * 6
    # At the end of each program that moves the distributions.
    assert [line["step"] for line in lines if "theta" in line] == [8, 10, 12, 14, 16]
    theta = np.asarray(final_state(undisturbed).state.strategy.theta)
    np.testing.assert_allclose(lines[-1]["theta"], theta, atol=5.1e-5)


@pytest.mark.slow
def test_same_seed_same_result_and_another_seed_another(undisturbed, cache, tmp_path):
    for seed in (0, 1):
        completed = search(tmp_path / str(seed), cache, f"--seed={seed}")
        assert completed.returncode == 0, completed.stderr
    assert outcome(tmp_path / "0") == outcome(undisturbed)
    assert_same_state(final_state(tmp_path / "0").state, final_state(undisturbed).state)
    losses = [[found["valid_loss"] for found in outcome(tmp_path / str(seed))["architectures"]] for seed in (0, 1)]
    assert all(first != second for first, second in zip(*losses, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("after_step", [2, 8, 14])
def test_killed_anywhere_resumes_bit_for_bit(undisturbed, cache, tmp_path, after_step):
    environment = {**os.environ, "JAXNAS_CACHE": str(cache), "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        command(tmp_path, "--tensorboard"),
        cwd=ROOT,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    log = tmp_path / "metrics.jsonl"
    while process.poll() is None and (not log.exists() or log.read_text().count("\n") < after_step):
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    completed = search(tmp_path, cache, "--tensorboard")
    assert completed.returncode == 0, completed.stderr
    assert outcome(tmp_path) == outcome(undisturbed)
    assert_same_state(final_state(tmp_path).state, final_state(undisturbed).state)
    steps = [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(1, 17))
    assert thetas(tmp_path) == thetas(undisturbed)
    assert (tmp_path / "evaluations.npz").read_bytes() == (undisturbed / "evaluations.npz").read_bytes()
    assert [step for step, _ in read_events(tmp_path / "tensorboard")["loss/k1"]] == list(range(7, 17))


@pytest.mark.slow
def test_sandwich_and_distillation_are_settings(undisturbed, cache, tmp_path):
    taught = ["--weight-samples=3", "--sandwich", "--distillation=0.5", "--distillation-temperature=2"]
    for workdir in (tmp_path / "first", tmp_path / "second"):
        completed = search(workdir, cache, *taught)
        assert completed.returncode == 0, completed.stderr
    found = outcome(tmp_path / "first")
    assert found == outcome(tmp_path / "second")
    training = found["config"]["training"]
    names = ("weight_samples", "sandwich", "distillation", "distillation_temperature")
    assert [training[name] for name in names] == [3, True, 0.5, 2.0]
    assert [one["valid_loss"] for one in found["architectures"]] != [
        one["valid_loss"] for one in outcome(undisturbed)["architectures"]
    ]
    refused = search(tmp_path / "first", cache, *taught[:-2])
    assert refused.returncode == 2
    assert "distillation (0.5 there, 0.0 now)" in refused.stderr


FINISH = "--finish-steps=6"


@pytest.fixture(scope="module")
def finished(tmp_path_factory, cache):
    workdir = tmp_path_factory.mktemp("finished")
    completed = search(workdir, cache, FINISH)
    assert completed.returncode == 0, completed.stderr
    return workdir, completed.stdout


def untimed(workdir):
    records = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    timed = ("wall_seconds", "crc32")  # the checksum of a line is of its time too
    return [{name: value for name, value in record.items() if name not in timed} for record in records]


@pytest.mark.slow
def test_finishing_follows_the_search_and_leaves_it_as_it_is(undisturbed, finished):
    workdir, stdout = finished
    expected, found = outcome(undisturbed), outcome(workdir)
    accuracies = [one.pop("test_accuracy") for one in found["architectures"]]
    assert all(0 <= accuracy <= 1 for accuracy in accuracies)
    assert [one.pop("test_accuracy") for one in expected["architectures"]] == [None, None]
    assert (expected["config"].pop("finish"), found["config"].pop("finish")["finish_steps"])[1] == 6
    assert found == expected
    records = untimed(workdir)
    assert records[:16] == untimed(undisturbed)
    assert [(record["step"], record["phase"]) for record in records[16:]] == [(n, "finishing") for n in range(17, 23)]
    assert all(len(record["finish_loss"]) == 2 for record in records[16:])
    assert_same_state(final_state(workdir).state, final_state(undisturbed).state)
    for k, accuracy in enumerate(accuracies):
        network = jaxnas.load(workdir / "finished", index=k)
        assert network.description.test_accuracy == accuracy
        digits = data.load("digits")
        assert np.mean(network(digits.test_images).argmax(-1) == digits.test_labels) == accuracy
    assert "as one file each" in stdout


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("after_step", [17, 20])
def test_stopped_while_finishing_resumes_bit_for_bit(finished, cache, tmp_path, after_step, number):
    environment = {**os.environ, "JAXNAS_CACHE": str(cache), "PYTHONPATH": str(ROOT)}
    fault = faults.disturb(command(tmp_path, FINISH), tmp_path, environment, after_step, number, 0)
    assert fault.exit_code == (cli.INTERRUPTED if number == signal.SIGTERM else -signal.SIGKILL)
    completed = search(tmp_path, cache, FINISH)
    assert completed.returncode == 0, completed.stderr
    workdir, _ = finished
    assert outcome(tmp_path) == outcome(workdir)
    assert untimed(tmp_path) == untimed(workdir)
    weights = [folder / "finished" / "family.safetensors" for folder in (tmp_path, workdir)]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    assert (tmp_path / "evaluations.npz").read_bytes() == (workdir / "evaluations.npz").read_bytes()


@pytest.mark.slow
def test_a_search_that_is_done_can_be_finished_and_one_that_is_longer_is_finished_anew(
    undisturbed, finished, cache, tmp_path
):
    shutil.copytree(undisturbed, tmp_path, dirs_exist_ok=True)
    completed = search(tmp_path, cache, FINISH)
    assert completed.returncode == 0, completed.stderr
    assert outcome(tmp_path) == outcome(finished[0])
    completed = search(tmp_path, cache, FINISH, "--distribution-steps=8")
    assert completed.returncode == 0, completed.stderr
    assert [record["phase"] for record in untimed(tmp_path)[14:]] == ["distributions"] * 4 + ["finishing"] * 6
    refused = search(tmp_path, cache, "--finish-steps=4", "--distribution-steps=8")
    assert refused.returncode == 2
    assert "finish_steps (6 there, 4 now)" in refused.stderr


@pytest.mark.slow
def test_truncated_newest_checkpoint_falls_back(undisturbed, cache, tmp_path):
    shutil.copytree(undisturbed, tmp_path, dirs_exist_ok=True)
    for file in (tmp_path / "checkpoints" / "16").rglob("*"):
        if file.is_file() and file.stat().st_size > 1000:
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    completed = search(tmp_path, cache)
    assert completed.returncode == 0, completed.stderr
    assert "damaged" in completed.stdout
    assert outcome(tmp_path) == outcome(undisturbed)


@pytest.mark.long
def test_picks_networks_with_more_evaluations(undisturbed, capsys, tmp_path):
    out = tmp_path / "picks.json"
    arguments = ["--run", str(undisturbed), "--out", str(out), "--budgets", "macs=60e3", "macs=90e3"]
    cli.run(pick.main, pick.Config, [*arguments, "--evaluations", "24"])
    first = json.loads(out.read_text())
    spent = int(re.search(r"(\d+) more evaluations", capsys.readouterr().out)[1])
    assert 12 < spent <= 24
    assert [found["costs"]["macs"] <= limit for found, limit in zip(first, (60e3, 90e3))] == [True, True]
    cli.run(pick.main, pick.Config, [*arguments, "--evaluations", "24"])
    assert json.loads(out.read_text()) == first
    capsys.readouterr()
    message = fails(capsys, *arguments, "--evaluations", "3", command=pick)
    assert "evaluations must be at least 2 for each of the 2 budgets" in message
    message = fails(capsys, f"--run={undisturbed}", "--front", "--evaluations", "24", command=pick)
    assert "--budgets in place of --front" in message


def test_picks_networks_from_the_folder(undisturbed, capsys, tmp_path):
    out = tmp_path / "picks.json"
    shared = [f"--run={undisturbed}", f"--out={out}"]
    cli.run(pick.main, pick.Config, [*shared, "--budgets", "macs=60e3", "params=1500,macs=90e3"])
    printed = capsys.readouterr().out
    assert "40 evaluations on tiny" in printed
    space, picks = tiny_search.tiny(), json.loads(out.read_text())
    assert [found["budgets"] for found in picks] == [{"macs": 60e3}, {"params": 1500, "macs": 90e3}]
    for found in picks:
        assert all(found["costs"][name] <= budget for name, budget in found["budgets"].items())
        assert found["costs"] == {cost.name: cost.total(found["encoding"]) for cost in space.costs}
        assert found["description"] == space.describe(found["encoding"])
        assert found["interval"][0] < found["expected_loss"] < found["interval"][1]
    cli.run(pick.main, pick.Config, [*shared, "--front"])
    front = [found["costs"]["macs"] for found in json.loads(out.read_text())]
    assert front == sorted(set(front))
    assert front[0] == space.cost("macs").lowest
    assert out.with_suffix(".png").read_bytes()[:4] == b"\x89PNG"
    message = fails(capsys, *shared, "--budgets", "weight_memroy=2e3", command=pick)
    assert "choose one of macs, params, weight_memory, activation_memory" in message
    message = fails(capsys, *shared, "--budgets", "macs=60e3", "--weight-bits", "8", command=pick)
    assert "weight_bits is for weight_memory" in message


def test_picks_agree_with_uniform_evaluations_where_a_search_kept_them(undisturbed, capsys, tmp_path):
    for name in ("evaluations.npz", "config.json"):
        shutil.copy(undisturbed / name, tmp_path)
    kept, about = read_evaluations(tmp_path / "evaluations.npz")
    archs = tiny_search.tiny().enumerate()[np.newaxis].repeat(8, 0)
    skips = Evaluations.of(archs, 10.0 - archs.sum(-1))  # by these a skip is best
    skips.write(tmp_path / "uniform_evaluations.npz", about)
    arguments = [f"--run={tmp_path}", f"--out={tmp_path / 'picks.json'}", "--budgets", "macs=1e9"]
    cli.run(pick.main, pick.Config, arguments)
    (found,) = json.loads((tmp_path / "picks.json").read_text())
    assert found["encoding"] == [1, 1]
    skips.write(tmp_path / "uniform_evaluations.npz", dataclasses.replace(about, run={**about.run, "seed": 7}))
    message = fails(capsys, *arguments, command=pick)
    assert "uniform_evaluations.npz is of another search" in message


def damage(run, what):
    """Makes the evaluations in a folder unusable."""
    path = run / "evaluations.npz"
    if what == "missing":
        path.unlink()
    elif what == "damaged":
        path.write_bytes(path.read_bytes()[:300])
    elif what == "another run":
        kept, about = read_evaluations(path)
        kept.write(path, dataclasses.replace(about, run={**about.run, "seed": 7}))
    elif what == "another space":
        kept, about = read_evaluations(path)
        kept.write(path, dataclasses.replace(about, description={**about.description, "name": "nasbench_macro"}))
    else:
        (run / "config.json").write_text("{}")


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("missing", ["evaluations.npz", "missing"]),
        ("damaged", ["evaluations.npz", "damaged"]),
        ("another run", ["evaluations.npz", "another search", "seed (7 there, 0 here)"]),
        ("another space", ["evaluations.npz", "nasbench_macro"]),
        ("no configuration", ["config.json", "another version"]),
    ],
)
def test_picking_from_unusable_evaluations_is_one_line(undisturbed, capsys, tmp_path, what, words):
    for name in ("evaluations.npz", "config.json"):
        shutil.copy(undisturbed / name, tmp_path)
    damage(tmp_path, what)
    message = fails(capsys, f"--run={tmp_path}", "--budgets", "60e3", command=pick)
    assert "\n" not in message
    assert all(word in message for word in words), message


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["--budgets", "--front"]),
        (["--front", "--budgets", "1e6"], ["--budgets", "--front"]),
        (["--budgets", "joules=3"], ["joules", "macs"]),
        (["--budgets", "latency=3e-3"], ["latency", "macs"]),
        (["--budgets", "3"], ["out of reach"]),
        (["--budgets", "60e3", "--latency=absent.json"], ["absent.json"]),
    ],
)
def test_bad_picks_are_one_line(undisturbed, capsys, arguments, words):
    message = fails(capsys, f"--run={undisturbed}", *arguments, command=pick)
    assert "\n" not in message
    assert all(word in message for word in words), message


def fails(capsys, *arguments, command=cifar_search):
    """Runs the command in this process; returns its one line of complaint."""
    with pytest.raises(SystemExit) as stopped:
        cli.run(command.main, command.Config, [*arguments])
    assert stopped.value.code == 2
    return capsys.readouterr().err.strip()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--dataset=mnist"], ["mnist", "cifar10", "digits"]),
        (["--preset=huge"], ["huge", "quickstart"]),
        (["--space=darts", "--dataset=digits"], ["darts", "mbconv_digits"]),
        (["--dataset=digits", "--penalties"], ["penalties"]),
        (["--dataset=digits", "--penalties", "-1"], ["penalties"]),
        (["--dataset=digits", "--penalties", "nan"], ["penalties", "nan"]),
        (["--dataset=digits", "--samples=0"], ["samples", "0"]),
        (["--dataset=digits", "--batching=both"], ["batching", "both"]),
        (["--dataset=digits", "--chunk-size=0"], ["chunk_size", "0"]),
        (["--dataset=digits", "--precision=half"], ["precision", "half", "bfloat16"]),
        (["--dataset=digits", "--batch-size=100000"], ["batch_size", "100000"]),
        (["--dataset=digits", "--method=importance"], ["method", "now called 'shared_model'"]),
        (["--dataset=digits", "--method=random"], ["method", "random", "importance_sampling"]),
        (["--dataset=digits", "--cost=joules"], ["joules", "macs"]),
        (["--dataset=digits", "--sandwich"], ["weight_samples must be at least 2", "sandwich"]),
        (["--dataset=digits", "--distillation=0.5"], ["weight_samples must be at least 2", "distillation"]),
        (["--dataset=digits", "--weight-samples=17"], ["weight_samples must be at most 16", "samples"]),
        (["--dataset=digits", "--distillation=1"], ["distillation", "less than 1"]),
        (["--dataset=digits", "--sharing=some"], ["sharing", "separate", "slices"]),
    ],
)
def test_bad_input_is_one_line(capsys, tmp_path, arguments, words):
    message = fails(capsys, f"--workdir={tmp_path / 'run'}", *arguments)
    assert "\n" not in message
    assert all(word in message for word in words), message
    assert not (tmp_path / "run").exists()


def test_missing_data_says_how_to_get_it(capsys, tmp_path):
    message = fails(capsys, f"--workdir={tmp_path / 'run'}", "--dataset=cifar10", f"--data-dir={tmp_path}")
    assert len(message.splitlines()) == 2
    assert "--dataset digits" in message
    assert not (tmp_path / "run").exists()


def test_workdir_of_another_search_is_left_alone(capsys, undisturbed):
    before = {path: path.read_bytes() for path in undisturbed.iterdir() if path.is_file()}
    message = fails(capsys, f"--workdir={undisturbed}", *SMALL, "--seed=7", "--samples=3")
    assert "samples (2 there, 3 now)" in message
    assert "seed (0 there, 7 now)" in message
    assert before == {path: path.read_bytes() for path in undisturbed.iterdir() if path.is_file()}


def test_unwritable_workdir(capsys, tmp_path):
    (tmp_path / "file").write_text("")
    message = fails(capsys, f"--workdir={tmp_path / 'file' / 'run'}", *SMALL)
    assert "workdir" in message
    assert "\n" not in message


def test_presets_are_complete():
    for preset in presets.MEMORY.configs.values():
        assert len(preset.method.penalties) == 4
        assert preset.training == dataclasses.replace(preset.training)


def test_costs_are_those_of_the_data_sets_own_images():
    config = presets.MEMORY(dataset="digits", space="nasbench_macro", width=0.25, image_size=4)
    space = build(config).strategy.space
    assert space.description == spaces.nasbench_macro(image_size=8, num_classes=10).description
    assert space.cost("macs").highest < spaces.nasbench_macro().cost("macs").highest / 10  # 8x8 images, not 32x32


def test_auto_follows_from_the_pixels_of_a_minibatch(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    chosen = {}
    for batch_size in (32, 256):
        sizes = {"image_size": 8, "batch_size": batch_size, "valid_batch_size": 32}
        config = presets.MEMORY(preset="cpu", dataset="digits", space="tiny", batching="auto", **sizes)
        search = build(config)
        chosen[batch_size] = search.settings.batching, search.supernet.gather
    assert chosen == {32: ("vmap", True), 256: ("map", False)}
    assert config.training.batching == "auto"
