"""TensorBoard logs, read back as TensorBoard reads them."""

import importlib.util
import struct

import pytest
from tensorboardX.proto.event_pb2 import Event, SessionLog

from experiments import cifar_search, cli
from jaxnas.report import TensorBoardLog
from jaxnas.results import keeps_theta


def read_events(folder):
    """All scalars as TensorBoard shows them: {tag: [(step, value)]}, without what a restart has purged."""
    scalars = {}
    for path in sorted(folder.glob("events.out.tfevents.*")):
        data, at = path.read_bytes(), 0
        while at + 12 <= len(data):
            (length,) = struct.unpack_from("<Q", data, at)
            if at + 16 + length > len(data):  # cut off by a kill
                break
            event = Event.FromString(data[at + 12 : at + 12 + length])
            at += 16 + length
            if event.session_log.status == SessionLog.START:
                for shown in scalars.values():
                    shown[:] = [(step, value) for step, value in shown if step < event.step]
            for value in event.summary.value:
                if not value.metadata.plugin_data.plugin_name:
                    scalars.setdefault(value.tag, []).append((event.step, value.simple_value))
    return scalars


def record(step, **more):
    return {"step": step, "phase": "joint", "train_loss": step / 2, "loss": [1.0, step / 4], "wall_seconds": 1} | more


def test_scalars_are_grouped_and_layout_is_written(tmp_path):
    with TensorBoardLog(tmp_path, 0, 2) as log:
        log.extend([record(1), record(2, ess=[3.0, None], theta=[[[0.5, 0.5]]])])
        written = read_events(tmp_path)  # before it is closed, as after a kill
    assert read_events(tmp_path) == written
    assert read_events(tmp_path) == {
        "train/loss": [(1, 0.5), (2, 1.0)],
        "loss/k0": [(1, 1.0), (2, 1.0)],
        "loss/k1": [(1, 0.25), (2, 0.5)],
        "ess/k0": [(2, 3.0)],
    }
    content = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert b"custom_scalars" in content


def test_resumed_log_shows_each_step_once(tmp_path):
    with TensorBoardLog(tmp_path, 0, 2) as log:
        log.extend(record(step) for step in range(1, 6))
    with TensorBoardLog(tmp_path, 3, 2, earlier=[record(1), record(2), record(3)]) as log:
        log.extend(record(step, loss=[2.0, 2.0]) for step in range(4, 8))
    steps, values = zip(*read_events(tmp_path)["loss/k0"])
    assert steps == (1, 2, 3, 4, 5, 6, 7)
    assert values == (1, 1, 1, 2, 2, 2, 2)


def test_log_begun_on_a_resume_holds_what_was_before(tmp_path):
    with TensorBoardLog(tmp_path, 2, 2, earlier=[record(1), record(2)]) as log:
        log.extend([record(3)])
    assert read_events(tmp_path)["train/loss"] == [(1, 0.5), (2, 1.0), (3, 1.5)]


def test_missing_package_is_one_line_before_the_search(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit) as stopped:
        cli.run(cifar_search.main, cifar_search.Config, [f"--workdir={tmp_path / 'run'}", "--tensorboard"])
    assert stopped.value.code == 2
    assert "pip install 'jaxnas[tensorboard]'" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_theta_is_kept_at_the_same_steps_however_a_run_is_cut():
    total, count = 5700, 25
    whole = [step for step in range(count, total + 1, count) if keeps_theta(step, count, total)]
    assert whole[-1] == total
    assert len(whole) <= 201
    assert [step for step in whole if step > 3000] == [
        step for step in range(3025, total + 1, count) if keeps_theta(step, count, total)
    ]
