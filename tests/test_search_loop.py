"""The loop around a run: what it keeps on a full disk, without its log, and on another machine."""

import contextlib
import dataclasses
import errno
import json
import resource
import signal
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnas.results import MetricsLog, SearchResult, read_metrics
from jaxnas.results.workdir import open_workdir
from jaxnas.runtime import loop as runtime_loop
from jaxnas.runtime.checkpoints import CheckpointError, Checkpoints
from jaxnas.runtime.stall import StallListener
from jaxnas.search import environment
from jaxnas.search.loop import missing_records, run


@dataclasses.dataclass(frozen=True)
class Counter:
    """Counts to `total_steps`, two steps at a time, with a record of some size for each."""

    total_steps: int = 10
    size: int = 0
    stop_at: int | None = None

    def run(self, state, stop):
        while int(state) < self.total_steps:
            if int(state) == self.stop_at:
                raise runtime_loop.RunInterruptedError("stopped")
            state = state + 2
            yield (state,)

    def records(self, step, state):
        return [{"step": step + 1, "text": "x" * self.size}, {"step": step + 2}]


class Heard:
    def on_start(self, start):
        self.start = start

    def on_steps(self, records):
        pass

    def on_end(self):
        pass


def go(folder, trainer=Counter(), seconds=1e9):
    heard = Heard()
    with Checkpoints(folder / "checkpoints") as checkpoints:
        state, _ = run(trainer, jnp.int32(0), folder, checkpoints, checkpoint_seconds=seconds, listeners=[heard])
    return int(state), heard.start


def interrupted(folder, at=6, **settings):
    with pytest.raises(runtime_loop.RunInterruptedError):
        go(folder, Counter(stop_at=at, **settings))


@contextlib.contextmanager
def full_disk(size=2**18):
    """Files end at a size, as on a disk that is full; not for longer than needed, since output goes to files too."""
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_on_a_full_disk_the_error_names_the_file_and_the_state_is_saved(tmp_path):
    with pytest.raises(OSError) as raised, full_disk():  # noqa: PT011 (its number and file follow)
        go(tmp_path, Counter(size=100_000))
    assert (raised.value.errno, raised.value.filename) == (errno.EFBIG, str(tmp_path / "metrics.jsonl"))
    assert [record["step"] for record in read_metrics(tmp_path / "metrics.jsonl")] == [1, 2, 3, 4]
    state, start = go(tmp_path, Counter())
    # Records of steps 5 and 6 are lost, the state is not.
    assert (state, start.step) == (10, 6)
    assert [record["step"] for record in read_metrics(tmp_path / "metrics.jsonl")] == [1, 2, 3, 4, 7, 8, 9, 10]
    assert start.notes == (
        "metrics.jsonl has lost records of steps 5 to 6; curves and wall_seconds lack them, the result does not",
    )


@pytest.mark.parametrize(
    ("kept", "lost"), [([], "1 to 6"), ([1, 2], "3 to 6"), ([1, 4, 5, 6], "2 to 3"), ([2, 3, 5, 6], "1, 4")]
)
def test_a_damaged_log_is_told_of_and_the_run_goes_on(tmp_path, kept, lost):
    interrupted(tmp_path)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "metrics.jsonl").write_text("".join(lines[step - 1] for step in kept))
    if not kept:
        (tmp_path / "metrics.jsonl").unlink()
    state, start = go(tmp_path)
    assert (state, start.step) == (10, 6)
    assert [record["step"] for record in read_metrics(tmp_path / "metrics.jsonl")] == [*kept, 7, 8, 9, 10]
    (note,) = start.notes
    assert f"steps {lost}; " in note


def test_a_whole_log_is_told_nothing_of():
    assert missing_records([{"step": step} for step in range(1, 7)], 6, 10) == ()
    assert missing_records([{"step": step} for step in (50, 100, 120)], 120, 120) == ()
    assert missing_records([{"step": 50}], 50, 120) == ()
    assert missing_records([], 0, 120) == ()
    assert "51 to 100" in missing_records([{"step": 50}, {"step": 150}, {"step": 200}], 200, 999)[0]


def test_records_without_their_seconds_are_no_failure(tmp_path):
    interrupted(tmp_path)
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "wall_seconds": null}\n{"step": 2}\n{"step": 3, "x": NaN}\n')
    assert go(tmp_path)[0] == 10


def test_a_resume_on_something_else_is_no_longer_bit_for_bit(tmp_path):
    interrupted(tmp_path)
    assert json.loads((tmp_path / environment.FILE).read_text()).keys() >= {"jax", "python", "devices", "cores"}
    interrupted(tmp_path, 8)
    written = json.loads((tmp_path / environment.FILE).read_text())
    (tmp_path / environment.FILE).write_text(json.dumps({**written, "cores": 10**6, "jax": "0.0.1"}))
    _, start = go(tmp_path)
    (note,) = start.notes
    assert "other cores (1000000 before" in note
    assert "jax ('0.0.1' before" in note
    assert "no longer bit for bit" in note
    assert json.loads((tmp_path / environment.FILE).read_text()) == written


def test_the_same_environment_is_told_nothing_of(tmp_path):
    interrupted(tmp_path)
    assert go(tmp_path)[1].notes == ()


def test_a_line_that_did_not_fit_is_an_error_and_no_record(tmp_path):
    with MetricsLog(tmp_path / "metrics.jsonl") as log:
        log.append({"step": 1})
        with pytest.raises(OSError, match=r"metrics\.jsonl"), full_disk():
            log.append({"step": 2, "text": "x" * 2**19})
    assert read_metrics(tmp_path / "metrics.jsonl") == [{"step": 1}]
    np.testing.assert_equal((tmp_path / "metrics.jsonl").stat().st_size, 2**18)


def open_and_close(folder):
    with open_workdir(folder, "run", {"seed": 0}):
        pass


WRITES = {
    "config.json": open_and_close,
    "result.json": lambda folder: SearchResult("m", "s", "d", 0, {}, {}, 1, 1.0, ()).write(folder / "result.json"),
    "environment.json": lambda folder: environment.renew(folder, resumed=False),
}


@pytest.mark.parametrize("name", WRITES)
def test_each_write_names_its_file_on_a_full_disk(tmp_path, name):
    with pytest.raises(OSError) as raised, full_disk(8):  # noqa: PT011 (its number and file follow)
        WRITES[name](tmp_path)
    assert (raised.value.errno, raised.value.filename) == (errno.EFBIG, str(tmp_path / name))
    assert {path.name for path in tmp_path.iterdir()} <= {".owner"}


def test_a_checkpoint_that_does_not_fit_leaves_the_one_before(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, jnp.zeros(3))
        checkpoints.wait()
        refused = pytest.raises(CheckpointError, match="not save the checkpoint of step 2 .*earlier checkpoints are")
        with refused, full_disk():
            checkpoints.save(2, jax.random.normal(jax.random.key(0), (2**18,)))
            checkpoints.wait()
        assert checkpoints.restore_newest(jnp.ones(3)).step == 1


def test_a_run_without_progress_is_told_of_once():
    heard, said = threading.Event(), []

    def stalled(message):
        said.append(message)
        heard.set()

    listener = StallListener(0.01, stalled)
    listener.on_start(None)
    listener.on_steps([{"step": 7}])
    assert heard.wait(60)
    listener.on_end()
    assert said == [
        "no step has ended for 0.01 s after step 7: the file system or a device hangs, or stall_seconds is too short"
    ]


def test_a_run_that_ends_is_not_told_of():
    for seconds in (0, 3600):
        listener = StallListener(seconds, pytest.fail)
        listener.on_steps([{"step": 7}])
        listener.on_end()
    with pytest.raises(ValueError, match="stall_seconds must be 0"):
        StallListener(-1, pytest.fail)
