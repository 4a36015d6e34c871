"""Memory planned by what the compiler says, and errors that name the settings which bound it."""

import dataclasses

import jax
import numpy as np
import pytest

from jaxnas import data, strategies, supernet
from jaxnas.runtime.placement import ALL_DEVICES, ONE_DEVICE
from jaxnas.search import memory
from jaxnas.search.image_search import image_search
from jaxnas.search.settings import SearchSettings
from jaxnas.search.sources import Streamed
from jaxnas.supernet import evaluate
from tests import tiny_search


def make_search(chunk_size, batching="vmap", placement=ONE_DEVICE):
    space = tiny_search.tiny()
    dataset = data.load("digits")
    train, valid = data.split(dataset, 0.5, 0)
    settings = SearchSettings(
        joint_steps=2, batch_size=64, valid_batch_size=64, steps_per_dispatch=1, crop_padding=0, batching=batching,
        chunk_size=chunk_size,
    )  # fmt: skip
    strategy = strategies.ImportanceSampling(space, (0.1, 0.3), samples=4)
    module = supernet.build(space, gather=batching == "vmap")
    return image_search(strategy, module, dataset, train, valid, settings, placement)


@pytest.mark.long
def test_less_at_once_needs_less():
    assert memory.peak_bytes(make_search(8), "joint") > memory.peak_bytes(make_search(2), "joint")


@pytest.fixture
def needed(monkeypatch):
    """Bytes by the number of architectures at once, in place of the compiler's."""
    table = {8: 800, 4: 500, 2: 300, 1: 200, None: 150}
    monkeypatch.setattr(memory, "peak_bytes", lambda search, phase: table[search.settings.chunk_size])
    return table


@pytest.mark.parametrize(("limit", "chunk"), [(900, 8), (800, 8), (799, 4), (500, 4), (499, 2), (200, 1)])
def test_the_largest_number_that_fits_is_chosen(needed, limit, chunk):
    planned, line = memory.planned(make_search("auto"), limit / memory.GIB)
    assert planned.settings == dataclasses.replace(make_search("auto").settings, chunk_size=chunk)
    assert line.startswith("one architecture at once" if chunk == 1 else f"{chunk} of 8 architectures at once")


def test_what_does_not_fit_at_all_is_one_line(needed):
    with pytest.raises(
        ValueError, match=r"memory_gib must be at least \d+\.\d\d for one architecture at once, got 0.00"
    ):
        memory.planned(make_search("auto"), 199 / memory.GIB)


def test_a_number_that_is_given_is_kept(needed):
    search = make_search(3)
    assert memory.planned(search, None) == (search, None)
    planned, line = memory.planned(make_search("auto", "map"), 150 / memory.GIB)
    assert planned.settings.chunk_size is None
    assert line.startswith("one architecture at once")


def test_programs_for_all_devices_and_streams_have_shapes_too():
    lowered = make_search(2, placement=ALL_DEVICES).lower("joint")
    state = lowered.args_info[0][0]
    assert state.params["stem"]["kernel"].shape == (jax.device_count(), 3, 3, 3, 8)

    class Stream:
        batch_size = 6

        def batches(self, start):
            yield {"x": np.zeros((6, 4), np.uint8)}

    assert Streamed(Stream()).shapes(2, 3)["x"].shape == (2, 2, 4)


def test_a_device_that_does_not_say_needs_the_number(monkeypatch):
    class Device:
        @staticmethod
        def memory_stats():
            return {"bytes_limit": 7}

    with pytest.raises(ValueError, match="chunk_size auto needs memory_gib where the device does not say"):
        memory.device_bytes(None)
    monkeypatch.setattr(jax, "local_devices", lambda: [Device])
    assert memory.device_bytes(None) == 7
    assert memory.device_bytes(0.5) == 2**29


def test_a_plan_must_be_made_before_it_is_used():
    with pytest.raises(ValueError, match="chunk_size must be a number or None, got 'auto'"):
        evaluate(None, {}, np.zeros(2), np.zeros(2), np.zeros((1, 1), np.int32), batching="vmap", chunk_size="auto")


def test_a_device_without_memory_names_the_settings():
    settings = SearchSettings(joint_steps=1, batch_size=256, chunk_size=4, accumulate=2)
    with (
        pytest.raises(MemoryError, match=r"lower chunk_size \(4.*batch_size \(256\), or raise accumulate \(2\)"),
        memory.naming_settings(settings),
    ):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory\nallocating 1 byte")
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"), memory.naming_settings(settings):
        raise jax.errors.JaxRuntimeError("INTERNAL: something else")
