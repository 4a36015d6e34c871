"""The streamed search through its real entry point: devices, processes, faults, and bad input."""

import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from PIL import Image

from benchmarks import faults, scaling
from experiments import cli, imagenet_search, make_images
from jaxnas.data import streams
from jaxnas.data.folders import FolderSource
from jaxnas.results import settings_tree
from jaxnas.runtime.loop import NonFiniteLossError, RunInterruptedError
from jaxnas.search.build import build
from tests import tiny_search  # noqa: F401 (registers the space)

ROOT = Path(__file__).parents[1]
STEPS = 20
COMMAND = [sys.executable, "-m", "tests.tiny_imagenet_search", "--preset=smoke", "--space=tiny", "--batching=map"]
SHORT = {"batch_size": 8, "joint_steps": 2, "batching": "map", "candidates": 0, "preset": "smoke", "space": "tiny"}
SMALL = ["--batch-size=16", "--checkpoint-seconds=0", "--steps-per-dispatch=2"]


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    out = tmp_path_factory.mktemp("images")
    make_images.main(make_images.Config(out=out, classes=4, images=64, smallest=20, largest=60))
    return out


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("xla")


def environment(cache, devices=1):
    fast = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    flags = f"--xla_force_host_platform_device_count={devices} {fast}"
    return {**os.environ, "JAXNAS_CACHE": str(cache), "PYTHONPATH": str(ROOT), "XLA_FLAGS": flags}


def start(workdir, images, cache, *arguments, devices=1):
    return subprocess.Popen(
        [*COMMAND, *SMALL, f"--data-dir={images}", f"--workdir={workdir}", *arguments],
        cwd=ROOT,
        env=environment(cache, devices),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def search(workdir, images, cache, *arguments, devices=1):
    process = start(workdir, images, cache, *arguments, devices=devices)
    stdout, stderr = process.communicate(timeout=200)
    assert process.returncode == 0, stderr
    return stdout


def start_job(workdir, images, cache, *arguments):
    """Two processes of two devices each."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    return [
        start(
            *(workdir, images, cache, f"--coordinator={address}", "--num-processes=2", f"--process-id={number}"),
            *arguments,
            devices=2,
        )
        for number in (0, 1)
    ]


def end_job(job):
    """Exit codes and errors of the processes."""
    errors = [process.communicate(timeout=200)[1] for process in job]
    return [process.returncode for process in job], errors


def losses(workdir, steps=STEPS):
    records = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records] == list(range(1, steps + 1))
    return np.array([[record["train_loss"], *record["loss"]] for record in records])


def probabilities(workdir):
    return [found["probability"] for found in json.loads((workdir / "result.json").read_text())["architectures"]]


@pytest.fixture(scope="module")
def one_device(tmp_path_factory, images, cache):
    workdir = tmp_path_factory.mktemp("one")
    search(workdir, images, cache, "--sync-batch-norm")
    return workdir


def assert_equal_search(workdir, other):
    np.testing.assert_allclose(losses(workdir), losses(other), atol=1e-3)
    np.testing.assert_allclose(probabilities(workdir), probabilities(other), atol=1e-4)
    encodings = [faults.outcome(folder)["result"]["architectures"] for folder in (workdir, other)]
    assert [found["encoding"] for found in encodings[0]] == [found["encoding"] for found in encodings[1]]


@pytest.mark.slow
def test_writes_what_other_searches_write(one_device):
    result = json.loads((one_device / "result.json").read_text())
    assert (result["space"], result["dataset"], result["evaluations"]) == ("tiny", "imagenet2012", STEPS * 2 * 2)
    assert result["config"]["streams"]["sync_batch_norm"] is True
    assert (one_device / "pareto.png").stat().st_size > 5000
    assert np.isfinite(losses(one_device)).all()


@pytest.mark.slow
def test_two_devices_do_the_steps_of_one(images, cache, tmp_path):
    settings = {**SHORT, "batch_size": 16, "joint_steps": 3, "sync_batch_norm": True}
    imagenet_search.main(imagenet_search.Config(**settings, data_dir=images, workdir=tmp_path / "one"))
    arguments = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items() if value is not True]
    stdout = search(tmp_path / "two", images, cache, *arguments, "--sync-batch-norm", devices=2)
    assert "2 devices of 1 processes" in stdout
    np.testing.assert_allclose(losses(tmp_path / "one", 3), losses(tmp_path / "two", 3), atol=1e-4)


@pytest.mark.slow
def test_devices_and_processes_are_one(one_device, images, cache, tmp_path):
    for name, devices in (("two", 2), ("four", 4)):
        search(tmp_path / name, images, cache, "--sync-batch-norm", devices=devices)
        assert_equal_search(tmp_path / name, one_device)
    codes, errors = end_job(start_job(tmp_path / "job", images, cache, "--sync-batch-norm"))
    assert codes == [0, 0], errors
    assert_equal_search(tmp_path / "job", tmp_path / "four")


@pytest.mark.slow
def test_finishing_on_1_2_and_4_devices_is_one(images, cache, tmp_path):
    """The loss of each network at each step, and what is kept of them."""
    losses_, weights = [], []
    for devices in (1, 2, 4):
        arguments = ["--sync-batch-norm", "--joint-steps=4", "--finish-steps=6", "--finish-learning-rate=0.001"]
        search(tmp_path / str(devices), images, cache, *arguments, devices=devices)
        records = [json.loads(line) for line in (tmp_path / str(devices) / "metrics.jsonl").read_text().splitlines()]
        losses_.append([record["finish_loss"] for record in records if record["phase"] == "finishing"])
        weights.append(safetensors.numpy.load_file(tmp_path / str(devices) / "finished" / "family.safetensors"))
    assert np.shape(losses_[0]) == (6, 2)
    for found, arrays in zip(losses_, weights):
        np.testing.assert_allclose(found, losses_[0], atol=1e-4)
        assert arrays.keys() == weights[0].keys()
        for name, array in arrays.items():
            np.testing.assert_allclose(array, weights[0][name], atol=1e-4, err_msg=name)


@pytest.mark.slow
def test_finishing_on_streams_is_the_same_after_faults(images, cache, tmp_path):
    command = [*COMMAND, *SMALL, f"--data-dir={images}", "--joint-steps=4", "--finish-steps=6"]
    faults.finish(command, tmp_path / "undisturbed", environment(cache))
    for after, number in ((6, signal.SIGKILL), (8, signal.SIGTERM)):
        faults.disturb(command, tmp_path / "run", environment(cache), after, number, 0.05)
    faults.finish(command, tmp_path / "run", environment(cache))
    assert faults.outcome(tmp_path / "run") == faults.outcome(tmp_path / "undisturbed")
    weights = [tmp_path / name / "finished" / "family.safetensors" for name in ("run", "undisturbed")]
    assert weights[0].read_bytes() == weights[1].read_bytes()


@pytest.mark.slow
def test_the_smoke_preset_is_one_search_on_1_2_and_4_devices(cache, tmp_path):
    """Theta after 20 steps; a comparison of two fused, differently rounded objectives once made 2 devices differ."""
    make_images.main(make_images.Config(out=tmp_path / "images", classes=20, images=2000))
    for devices in (1, 2, 4):
        command = [sys.executable, "-m", "experiments.imagenet_search", "--preset=smoke", "--sync-batch-norm"]
        command += [f"--data-dir={tmp_path / 'images'}", f"--workdir={tmp_path / str(devices)}"]
        flags = {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"}  # as users compile
        environ = {**environment(cache), **flags}
        subprocess.run(command, cwd=ROOT, env=environ, check=True, capture_output=True)
    records = [
        [json.loads(line) for line in (tmp_path / str(devices) / "metrics.jsonl").read_text().splitlines()]
        for devices in (1, 2, 4)
    ]
    thetas = [[record["theta"] for record in run if "theta" in record] for run in records]
    assert len(thetas[0]) == 4
    assert np.max(thetas[0]) > 0.8  # the distributions have moved
    for run, theta in zip(records, thetas):
        np.testing.assert_allclose(theta, thetas[0], atol=1e-4)
        curve, first = ([[one["train_loss"], *one["loss"]] for one in each] for each in (run, records[0]))
        np.testing.assert_allclose(curve, first, atol=1e-3)


@pytest.mark.slow
def test_three_faults_change_no_bit(images, cache, tmp_path):
    command = [*COMMAND, *SMALL, f"--data-dir={images}", "--checkpoint-seconds=0"]
    faults.finish(command, tmp_path / "undisturbed", environment(cache))
    for after, number in ((3, signal.SIGKILL), (8, signal.SIGTERM), (12, signal.SIGKILL)):
        fault = faults.disturb(command, tmp_path / "run", environment(cache), after, number, 0.05)
        assert fault.exit_code == (cli.INTERRUPTED if number == signal.SIGTERM else -signal.SIGKILL)
    faults.finish(command, tmp_path / "run", environment(cache))
    assert faults.outcome(tmp_path / "run") == faults.outcome(tmp_path / "undisturbed")


@pytest.mark.slow
def test_interrupted_search_resumes_on_more_devices(one_device, images, cache, tmp_path):
    process = start(tmp_path, images, cache, "--sync-batch-norm")
    while process.poll() is None and faults.steps_logged(tmp_path) < 6:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=100)
    assert process.returncode == cli.INTERRUPTED
    assert "goes on from there" in error
    assert "resuming after step" in search(tmp_path, images, cache, "--sync-batch-norm", devices=4)
    assert_equal_search(tmp_path, one_device)


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_process_ends_the_job_which_resumes(images, cache, tmp_path, victim):
    codes, errors = end_job(start_job(tmp_path / "undisturbed", images, cache))
    assert codes == [0, 0], errors
    job = start_job(tmp_path / "run", images, cache)
    while faults.steps_logged(tmp_path / "run") < 6:
        assert all(process.poll() is None for process in job)
        time.sleep(0.01)
    job[victim].kill()
    killed = time.monotonic()
    codes, errors = end_job(job)
    assert time.monotonic() - killed < 60
    assert codes[victim] == -signal.SIGKILL
    assert codes[1 - victim] not in (0, -signal.SIGKILL)
    if victim == 1:  # where the coordinator dies, JAX's own runtime ends the others, with its own message
        assert codes[0] == cli.FAILED, errors[0]
        assert "lost contact with another process" in errors[0]
    else:
        assert errors[1]
    codes, errors = end_job(start_job(tmp_path / "run", images, cache))
    assert codes == [0, 0], errors
    assert faults.outcome(tmp_path / "run") == faults.outcome(tmp_path / "undisturbed")


@pytest.mark.slow
def test_processes_that_disagree_refuse_to_start(images, cache, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    job = [
        start(
            *(tmp_path, images, cache, f"--coordinator={address}", "--num-processes=2", f"--process-id={number}"),
            f"--seed={number}",
        )
        for number in (0, 1)
    ]
    codes, errors = end_job(job)
    assert codes == [2, 2]
    for error in errors:
        assert "disagree on seed (0 and 1)" in error
    assert not (tmp_path / "config.json").exists()


def fails(capsys, *arguments, code=2):
    """Runs the command in this process; returns its one line of complaint."""
    with pytest.raises(SystemExit) as stopped:
        cli.run(imagenet_search.main, imagenet_search.Config, [*arguments])
    assert stopped.value.code == code
    message = capsys.readouterr().err.strip()
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--preset=huge"], ["preset", "huge", "smoke"]),
        (["--space=darts"], ["darts", "mbconv_imagenet"]),
        (["--batch-size=30", "--accumulate=4"], ["batch_size", "30", "accumulate (4)"]),
        (["--classes=5"], ["classes", "4 of imagenet2012", "5"]),
        (["--images-per-class=1"], ["images_per_class", "1"]),
        (["--folder=absent"], ["folder", "data_dir"]),
        (["--process-id=0"], ["coordinator", "process_id"]),
        (["--coordinator=host:80"], ["num_processes", "process_id"]),
        (["--coordinator=host", "--num-processes=1", "--process-id=0"], ["host:port"]),
        (["--coordinator=host:80", "--num-processes=1", "--process-id=1"], ["process_id", "1 of 1"]),
        (["--method=luck"], ["method", "luck"]),
        (["--method=importance_plain"], ["now called 'importance_sampling'"]),
    ],
)
def test_bad_input_is_one_line(capsys, images, tmp_path, arguments, words):
    defaults = ["--preset=smoke", "--space=tiny", f"--data-dir={images}", f"--workdir={tmp_path / 'run'}"]
    message = fails(capsys, *defaults, *arguments)
    assert all(word in message for word in words), message
    assert not (tmp_path / "run").exists()


@pytest.fixture
def own(tmp_path):
    """Two classes of 12 images, of which three cannot be decoded."""
    generator = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / "own" / name).mkdir(parents=True)
        for index in range(12):
            pixels = generator.integers(0, 255, (40, 50, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "own" / name / f"{index}.jpg")
    for index in range(3):
        (tmp_path / "own" / "cat" / f"{index}.jpg").write_text("no image")
    return tmp_path / "own"


@pytest.mark.slow
def test_a_folder_of_ones_own_images(own, tmp_path):
    config = imagenet_search.Config(**SHORT, folder=own, workdir=tmp_path / "run", accumulate=2)
    with pytest.raises(streams.DeadImagesError, match="more than the 0"):
        imagenet_search.main(settings_tree.replace(config, max_dead_images=0))
    imagenet_search.main(config)  # goes on in the same folder: the limit is no part of what is searched
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["dataset"] == "folder"
    assert result["config"]["inputs"]["data"] == FolderSource(own).fingerprint()[:16]
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 2


def test_a_class_of_one_image_is_named(capsys, own, tmp_path):
    (own / "one").mkdir()
    Image.new("RGB", (16, 16)).save(own / "one" / "0.png")
    message = fails(capsys, "--preset=smoke", "--space=tiny", f"--folder={own}", f"--workdir={tmp_path / 'run'}")
    assert "class 'one' of own has 1 image" in message


def test_a_loss_that_is_no_number_names_its_step(own):
    config = imagenet_search.Config(**SHORT, folder=own, accumulate=2)
    search = build(config)
    state = search.init(0)
    broken = {**state.params, "classifier": {**state.params["classifier"], "bias": jnp.full(2, jnp.nan)}}
    with pytest.raises(NonFiniteLossError, match="step 1 "):
        next(search.run(state.replace(params=broken)))


def test_a_signal_ends_the_search_after_a_step(own):
    config = imagenet_search.Config(**SHORT, folder=own, accumulate=2)
    search = build(config)
    run = search.run(search.init(0), stop=lambda: True)
    state, _, metrics = next(run)
    assert int(state.step) == len(metrics.finite) < 3
    if int(state.step) == 1:
        with pytest.raises(RunInterruptedError, match="step 1 of 2"):
            next(run)


def test_minibatches_must_fit_the_devices(own):
    config = imagenet_search.Config(**SHORT, folder=own)
    search = build(config)
    with pytest.raises(ValueError, match="must have minibatches of batch_size / accumulate = 4 examples, got 8"):
        dataclasses.replace(search, settings=dataclasses.replace(search.settings, accumulate=2))
    with pytest.raises(ValueError, match="cutout must be 0"):
        build(settings_tree.replace(config, cutout=4))


def test_scaling_counts_a_ring_and_the_dearest_network():
    space = tiny_search.tiny()
    work = scaling.count(space)
    assert work.operations == 2 * space.cost("macs").highest
    assert work.weights > space.cost("params").highest  # all choices together
    config = scaling.Config()
    alone, four = (scaling.step(work, config, count, 64, 2, 3, 1000) for count in (1, 4))
    assert (alone.exchanged, four.exchanged) == (0, 2 * 3 / 4 * 4000)
    np.testing.assert_allclose(alone.compute_seconds, 4 * four.compute_seconds)


@pytest.mark.parametrize("accelerator", ["a100", "v5e"])
def test_scaling_prints_both_steps_of_all_counts(capsys, accelerator):
    scaling.main(scaling.Config(accelerator=accelerator))
    printed = capsys.readouterr().out
    assert printed.count("weights") - 1 == printed.count("distributions") == len(scaling.COUNTS)
    assert f"full on {accelerator}, bfloat16" in printed


def test_scaling_names_what_it_does_not_know():
    with pytest.raises(ValueError, match="accelerator must be one of a100, h100, v5e, v6e, got 'abacus'"):
        scaling.main(scaling.Config(accelerator="abacus"))


def test_the_learning_rate_grows_with_the_minibatch():
    rates = [imagenet_search.Config(preset="full", batch_size=size).training.learning_rate for size in (256, 1024)]
    np.testing.assert_allclose(rates, [0.125, 0.5])


def test_the_benchmark_of_faults_calls_the_command_as_it_is(images):
    config = cli.parse(imagenet_search.Config, [*faults.COMMAND[3:], f"--data-dir={images}", "--workdir=absent"])
    assert faults.COMMAND[1:3] == ["-m", "experiments.imagenet_search"]
    assert config.training.total_steps == faults.STEPS
    assert (config.training.steps_per_dispatch, config.run.checkpoint_seconds) == (1, 0)
    points = faults.choose(faults.Config(faults=20, kill_only=True))
    assert len(points) == 20
    assert {number for _, number, _ in points} == {signal.SIGKILL}
    assert {number for _, number, _ in faults.choose(faults.Config())} == {signal.SIGKILL, signal.SIGTERM}
