"""Bytes flipped in any file: the same numbers or one line; no traceback, no signal, no other numbers in silence."""

import dataclasses
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from experiments import cli, describe_architecture, pick, predict, report
from jaxnas import networks, tasks
from jaxnas.export import FORMATS, saved
from jaxnas.export.training import write_summary
from jaxnas.networks.latency import LatencyTable
from jaxnas.report.runs import read_folders
from jaxnas.results import FoundArchitecture, MetricsLog, SearchResult, evaluations, json_files, settings_tree
from jaxnas.results.files import to_plain
from jaxnas.results.metrics_log import read_metrics, read_whole_lines
from jaxnas.results.workdir import open_workdir
from jaxnas.runtime.checkpoints import CheckpointError, Checkpoints
from jaxnas.search import presets
from jaxnas.search.config import SearchConfig
from jaxnas.search.device_tables import LATENCY_FILE
from jaxnas.search.execute import run_of
from jaxnas.tasks.finished_search import read_run
from tests.tiny_search import tiny

# Which file, and for each flip where in it and which bits.
DAMAGE = st.tuples(
    st.integers(0, 10**6), st.lists(st.tuples(st.floats(0, 1), st.integers(1, 255)), min_size=1, max_size=3)
)
fuzz = settings(
    max_examples=75, deadline=None, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


few = settings(fuzz, max_examples=25)


class Damaged:
    """A folder with some bytes changed, as long as the context lasts."""

    def __init__(self, folder, damage):
        number, self._flips = damage
        files = sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size)
        self.path = files[number % len(files)]

    def __enter__(self):
        self._before = self.path.read_bytes()
        content = bytearray(self._before)
        for place, bits in self._flips:
            content[min(int(place * len(content)), len(content) - 1)] ^= bits
        self.path.write_bytes(content)
        return self.path

    def __exit__(self, *unused):
        self.path.write_bytes(self._before)


def outcome(read, errors=(ValueError,)):
    """What was read, or None after one line."""
    try:
        return read()
    except errors as error:
        said = str(error)
    assert "\n" not in said
    assert 0 < len(said) < 1000
    return None


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("damage") / "k0"
    description = saved.NetworkDescription("tiny", (0, 1), 1.0, 8, 10, "digits", (0.1,) * 3, (0.3,) * 3, 0.5)
    variables = {"params": {"stem": {"kernel": np.linspace(-1, 1, 300, dtype=np.float32)}}}
    saved.save(folder, description, variables)
    program = jax.export.export(jax.jit(lambda images: images.sum((1, 2))))
    (folder / "model.stablehlo").write_bytes(
        program(jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32)).serialize()  # of the smallest network there is
    )
    (folder / "model.onnx").write_bytes(b"onnx")
    (folder / "model_card.md").write_text("# card\n")
    saved.write_description(folder, description, [path.name for path in folder.iterdir() if path.suffix != ".json"])
    return folder


@fuzz
@given(damage=DAMAGE)
def test_an_export(exported, damage):
    whole = saved.read_description(exported)
    contents = {path.name: path.read_bytes() for path in exported.iterdir()}
    with Damaged(exported, damage) as path:
        changed = path.read_bytes() != contents[path.name]
        assert outcome(lambda: saved.read_description(exported)) in (None, whole)
        for name, content in contents.items():
            if name != saved.DESCRIPTION:
                found = outcome(lambda name=name: saved.read_verified(exported / name))
                assert found == (None if changed and path.name == name else content) or path.name == saved.DESCRIPTION
        if changed and path.name == "model.stablehlo":
            assert outcome(lambda: FORMATS["stablehlo"].load(path)) is None
        if changed and path.name == saved.WEIGHTS:
            assert outcome(lambda: saved.load(exported)) is None


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoints")
    with Checkpoints(folder) as written:
        written.save(3, state())
    return folder


def state():
    return {"weights": jnp.arange(500.0), "key": jax.random.key(3), "step": jnp.int32(3)}


@fuzz
@given(damage=DAMAGE)
def test_a_checkpoint(checkpoints, damage):
    with Damaged(checkpoints, damage), Checkpoints(checkpoints) as read:
        found = outcome(lambda: read.restore_newest(state()), (CheckpointError,))
    if found is not None:
        assert found.step == 3
        np.testing.assert_array_equal(found.state["weights"], state()["weights"])
        assert found.state["key"] == state()["key"]


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    """What a search, a retraining and a latency table leave in a folder."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    space = tiny()
    table = LatencyTable("tiny", "a device", 1, 0.5, ((0.0, 1.0), (0.25, 2.0)), 8, space_description=space.description)
    config = settings_tree.replace(presets.MEMORY.configs["quickstart"], penalties=(0.1, 0.2), space="tiny")
    config = settings_tree.replace(config, latency=folder / LATENCY_FILE)
    inputs = {"latency": {"device": table.device, "batch_size": table.batch_size, "digest": table.digest}}
    document = {**settings_tree.to_json(config), settings_tree.INPUTS: inputs}
    with open_workdir(folder, "run", document):
        table.write(folder / LATENCY_FILE)
        found = tuple(
            FoundArchitecture(k, 0.1 * (k + 1), arch, space.describe(arch), 10, 20, 0.5, 1.0, 0.5)
            for k, arch in enumerate([(0, 0), (1, 1)])
        )
        result = SearchResult(
            *("importance_sampling", "tiny", "digits", 0, document, {}, 1, 1.0, found),
            space_description=space.description,
        )
        result.write(folder / "result.json")
        kept = evaluations.EvaluationsLog(
            folder / evaluations.NAME, evaluations.About.of(space, run_of(SearchConfig, document)), 4
        )
        archs = space.sample_uniform(np.random.default_rng(0), 40).reshape(10, 4, 2)
        kept.append(evaluations.Evaluations.of(archs, archs.sum(-1) / 7))
        kept.write()
        with MetricsLog(folder / "metrics.jsonl") as log:
            for step in range(1, 20):
                log.append({"step": step, "loss": [0.5 / step, 0.25], "ess": [1.0, 2.0], "wall_seconds": 1.0})
    for k, arch in enumerate([(0, 0), (1, 1)]):
        trained = folder / "retrained" / f"k{k}" / "seed0"
        trained.mkdir(parents=True)
        description = saved.NetworkDescription("tiny", arch, 1.0, 8, 10, "digits", (0.1,) * 3, (0.3,) * 3, 0.5 + k / 4)
        saved.write_description(trained, description, [])
    write_summary(folder / "retrained")
    return folder


def of_report(folder):
    (run,), _ = read_folders([folder])
    return [run.result, run.tested, [cost.table for cost in run.space.costs]]


def of_pick(folder):
    kept, space = pick.read(folder, None)
    return [kept, space.description, [cost.table for cost in space.costs]]


READERS = {
    "report": of_report,
    "pick": of_pick,
    "configuration": lambda folder: [settings_tree.to_json(read_run(folder))],
}


@fuzz
@given(damage=DAMAGE)
def test_a_run_folder(run_folder, damage):
    whole = {name: to_plain(read(run_folder)) for name, read in READERS.items()}
    records = read_metrics(run_folder / "metrics.jsonl")
    document = json_files.read_sealed(run_folder / "config.json")

    def resume():
        with open_workdir(run_folder, "run", document):
            return json_files.read_sealed(run_folder / "config.json")

    with Damaged(run_folder, damage) as path:
        for name, read in READERS.items():
            assert outcome(lambda read=read: to_plain(read(run_folder))) in (None, whole[name])
        assert outcome(resume) in (None, document)
        if path.name == "metrics.jsonl":
            # The log is no state: a run goes on without its damaged lines, which the report counts.
            found, damaged_lines = read_whole_lines(path)
            assert all(record in records for record in found)
            assert damaged_lines > 0 or found == records


def command(module, arguments, capsys):
    """Exit code, output and errors of a command in this process."""
    try:
        cli.run(module.main, module.Config, [str(argument) for argument in arguments])
        code = 0
    except SystemExit as stopped:
        code = stopped.code or 0
    return (code, *capsys.readouterr())


def check_command(damaged, whole):
    """The same output, or one line and exit code 1 or 2."""
    code, out, errors = damaged
    if code:
        assert code in (cli.FAILED, cli.BAD_INPUT)
        assert errors.startswith("error: ")
        assert errors.count("\n") == 1
    else:
        assert (out, errors) == whole[1:]


@few
@given(damage=DAMAGE)
def test_the_commands_on_a_run_folder(run_folder, tmp_path, damage, capsys):
    commands = [
        (describe_architecture, [f"--architecture={run_folder / 'result.json'}", "--k=1"]),
        (report, [run_folder, f"--out={tmp_path / 'report.html'}"]),
        (pick, [f"--run={run_folder}", "--budgets", "macs=1e9"]),
    ]
    # Which of the slow ones run follows from the damage.
    for module, arguments in (commands[0], *commands[1 + damage[0] % 8 :][:1]):
        if module.__name__ not in WHOLE:
            WHOLE[module.__name__] = command(module, arguments, capsys)
            assert WHOLE[module.__name__][0] == 0
        with Damaged(run_folder, damage):
            check_command(command(module, arguments, capsys), WHOLE[module.__name__])


WHOLE = {}  # what commands say of whole folders, by name


@pytest.fixture(scope="module")
def used(tmp_path_factory):
    """An exported network with its weights, and an image."""
    folder = tmp_path_factory.mktemp("used")
    description = saved.NetworkDescription("tiny", (0, 1), 1.0, 8, 10, "digits", (0.1,) * 3, (0.3,) * 3, 0.5)
    network = networks.build(tiny(), (0, 1))
    shapes = jax.eval_shape(network.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32))
    generator = np.random.default_rng(0)
    variables = jax.tree.map(lambda leaf: generator.uniform(0.1, 1, leaf.shape).astype(np.float32), shapes)
    saved.save(folder / "model", description, variables)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)).save(folder / "image.png")
    return folder


@few
@given(damage=DAMAGE)
def test_predict_on_an_export(used, damage, capsys):
    arguments = [used / "image.png", "--model", used / "model", "--top=3"]
    if "predict" not in WHOLE:
        WHOLE["predict"] = command(predict, arguments, capsys)
        assert WHOLE["predict"][0] == 0
    with Damaged(used / "model", damage):
        check_command(command(predict, arguments, capsys), WHOLE["predict"])


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    folder = tmp_path_factory.mktemp("table")
    choices = np.stack(np.meshgrid(range(3), range(3), indexing="ij"), -1).reshape(-1, 2)
    generator = np.random.default_rng(0)
    np.savez_compressed(
        folder / "table.npz", choices=choices, error=generator.random(9), flops=np.arange(1.0, 10.0), other=np.ones(9)
    )
    return folder


@fuzz
@given(damage=DAMAGE)
def test_a_table(table, damage):
    def read():
        return tasks.read_table(table / "table.npz", "flops", "error")

    whole = read()
    with Damaged(table, damage):
        found = outcome(read, (ValueError, OSError))
    if found is not None:
        for field in dataclasses.fields(found):
            np.testing.assert_array_equal(getattr(found, field.name), getattr(whole, field.name))


def test_what_is_damaged_is_put_back(tmp_path):
    (tmp_path / "file").write_bytes(b"content")
    with Damaged(tmp_path, (5, [(1.0, 1), (0.0, 2)])) as path:
        assert path.read_bytes() == b"aontenu"
    assert pathlib.Path(path).read_bytes() == b"content"
