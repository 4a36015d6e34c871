"""Bytes flipped in any file: the same numbers or one line; no traceback, no signal, no other numbers in silence."""

import dataclasses
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jaxnas import tasks
from jaxnas.export import FORMATS, saved
from jaxnas.report.runs import read_folders
from jaxnas.results import FoundArchitecture, MetricsLog, SearchResult, json_files, settings_tree
from jaxnas.results.workdir import open_workdir
from jaxnas.runtime.checkpoints import CheckpointError, Checkpoints
from jaxnas.search import presets
from jaxnas.tasks.finished_search import read_run
from tests.tiny_search import tiny

# Which file, and for each flip where in it and which bits.
DAMAGE = st.tuples(
    st.integers(0, 10**6), st.lists(st.tuples(st.floats(0, 1), st.integers(1, 255)), min_size=1, max_size=3)
)
fuzz = settings(
    max_examples=75, deadline=None, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


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
    folder = tmp_path_factory.mktemp("runs") / "run"
    config = settings_tree.replace(presets.MEMORY.configs["quickstart"], penalties=(0.1, 0.2))
    with open_workdir(folder, "run", settings_tree.to_json(config)):
        space = tiny()
        found = tuple(
            FoundArchitecture(k, 0.1 * (k + 1), arch, space.describe(arch), 10, 20, 0.5, 1.0, 0.5)
            for k, arch in enumerate([(0, 0), (1, 1)])
        )
        SearchResult("importance_sampling", "other", "digits", 0, {}, {}, 1, 1.0, found).write(folder / "result.json")
        with MetricsLog(folder / "metrics.jsonl") as log:
            for step in range(1, 20):
                log.append({"step": step, "loss": [0.5 / step, 0.25], "ess": [1.0, 2.0], "wall_seconds": 1.0})
    return folder


@fuzz
@given(damage=DAMAGE)
def test_a_run_folder(run_folder, damage):
    (whole,), _ = read_folders([run_folder])
    config = read_run(run_folder)
    with Damaged(run_folder, damage) as path:
        found = outcome(lambda: read_folders([run_folder]))
        assert outcome(lambda: read_run(run_folder)) in (None, config)
        written = json.loads(json.dumps(settings_tree.to_json(config)))

        def resume():
            with open_workdir(run_folder, "run", written):
                return json_files.read_sealed(run_folder / "config.json")

        assert outcome(resume) in (None, written)
    if found is not None:
        (run,), _ = found
        assert dataclasses.asdict(run.result) == dataclasses.asdict(whole.result)
        # The log is no state and has no digest: it draws curves alone.
        assert path.name == "metrics.jsonl" or run.history.series.keys() == whole.history.series.keys()


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
