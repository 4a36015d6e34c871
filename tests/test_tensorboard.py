"""TensorBoard event files hold the numbers of the records, and hide what a resumed run writes again."""

import struct

import pytest

from jaxnas.report import TensorBoardLog

event_pb2 = pytest.importorskip("tensorboardX.proto.event_pb2", reason="needs the extra 'tensorboard'")


def read_events(folder):
    """All events in a folder: records of (length, its checksum, bytes, their checksum)."""
    for path in sorted(folder.iterdir()):
        content, place = path.read_bytes(), 0
        while place < len(content):
            (length,) = struct.unpack_from("<Q", content, place)
            yield event_pb2.Event.FromString(content[place + 12 : place + 12 + length])
            place += 12 + length + 4


def scalars(folder):
    return {
        (event.step, value.tag): pytest.approx(value.simple_value)
        for event in read_events(folder)
        for value in event.summary.value
    }


def test_numbers_become_scalars_and_those_of_distributions_are_grouped(tmp_path):
    with TensorBoardLog(tmp_path, 0, ["k0", "k1"]) as log:
        log.append({"step": 1, "phase": "joint", "train_loss": 2.5, "ess": [3.0, 4.0], "theta": [[[1.0]], [[1.0]]]})
    assert scalars(tmp_path) == {(1, "train_loss"): 2.5, (1, "ess/k0"): 3.0, (1, "ess/k1"): 4.0}


def test_a_resumed_run_purges_what_it_writes_again(tmp_path):
    with TensorBoardLog(tmp_path, 7, ["k0"]) as log:
        log.append({"step": 8, "train_loss": 1.0})
    starts = [event.step for event in read_events(tmp_path) if event.session_log.status == event.session_log.START]
    assert starts == [8]
