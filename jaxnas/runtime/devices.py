"""Many devices on one host or many. The only module that calls pmap and multi-host functions.

The state of a search is replicated, a minibatch is spread over all devices, and gradients and losses are averaged:
every device then takes the same step. What only one process may do (reports, checkpoints) is for process 0; what must
not differ between processes is compared before the first step.
"""

import contextlib
import functools
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import chex
import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxnas.runtime import named_leaves

Result = TypeVar("Result")
Tree = TypeVar("Tree")

AXIS = "devices"  # name of the mapped axis
POLLING_SECONDS = 0.001
MESSAGE_BYTES = 1 << 24  # of a broadcast at once


class LostProcessError(RuntimeError):
    """Another process of the job ended or cannot be reached."""


def process() -> tuple[int, int]:
    """This process's number, and how many there are."""
    return jax.process_index(), jax.process_count()


def is_host_zero() -> bool:
    """Whether this process writes what the job leaves behind."""
    return jax.process_index() == 0


def device_count() -> int:
    """Devices of all processes together."""
    return jax.device_count()


def describe() -> dict[str, str | int]:
    """What the job computes on: kind and number of devices, and number of processes."""
    kinds = sorted({device.device_kind for device in jax.devices()})
    return {"device": ", ".join(kinds), "devices": jax.device_count(), "processes": jax.process_count()}


def together(function: Callable[[], Result]) -> Result:
    """Calls a function on every process; where it fails on one, every process raises.

    Returns:
      What this process's call returned.

    Raises:
      Exception: this process's own, or ValueError with the message of another one's.
    """
    result, error = None, None
    try:
        result = function()
    except Exception as caught:  # whatever it is, the others must not wait for this process
        error = caught
    messages = _gather_texts("" if error is None else f"{type(error).__name__}: {error}")
    if error is not None:
        raise error
    for number, message in enumerate(messages):
        if message:
            raise ValueError(f"process {number} cannot go on, so no process does: {message}")
    return result


def from_first(text: Callable[[], str]) -> str:
    """What a function returns on process 0, on every process; where it raises there, every process raises."""
    return _gather_texts(together(lambda: text() if is_host_zero() else ""))[0]


def check_agreement(description: Mapping[str, Any]) -> None:
    """Compares what must not differ between processes, such as the configuration and a fingerprint of the data.

    Args:
      description: JSON-ready, by name.

    Raises:
      ValueError: on every process, if any differs, naming the fields and both values.
    """
    descriptions = [json.loads(text) for text in _gather_texts(json.dumps(description, sort_keys=True))]
    first = descriptions[0]
    for number, other in enumerate(descriptions):
        names = sorted(name for name in first.keys() | other.keys() if first.get(name) != other.get(name))
        if names:
            different = ", ".join(f"{name} ({first.get(name)!r} and {other.get(name)!r})" for name in names)
            raise ValueError(f"processes 0 and {number} disagree on {different}; start all with the same")


def broadcast(tree: chex.ArrayTree) -> chex.ArrayTree:
    """Process 0's values, bit by bit, on every process: the same structure, shapes and dtypes are needed on all."""
    if jax.process_count() == 1:
        return tree
    leaves = named_leaves.to_host(tree)
    # As bytes, for the exchange adds the values of all processes, 0 from all but one: that would lose a -0.
    raw = np.concatenate([leaf.value.reshape(-1).view(np.uint8) for leaf in leaves])
    size = min(MESSAGE_BYTES, len(raw))
    for begin in range(0, len(raw), size):
        part = np.zeros(size, np.uint8)  # of one size, hence one program
        part[: len(raw[begin : begin + size])] = raw[begin : begin + size]
        received = np.asarray(multihost_utils.broadcast_one_to_all(part)).astype(np.uint8)
        raw[begin : begin + size] = received[: len(raw[begin : begin + size])]
    received, begin = {}, 0
    for leaf in leaves:
        value = raw[begin : begin + leaf.value.nbytes].view(leaf.value.dtype).reshape(leaf.value.shape)
        received[leaf.name] = named_leaves.Leaf(leaf.name, value.copy(), leaf.key)
        begin += leaf.value.nbytes
    return named_leaves.from_host(received, tree)


def replicate(tree: Tree) -> Tree:
    """A copy of every array on each local device, with a leading axis over them; no typed random keys."""
    count = jax.local_device_count()
    copies = jax.tree.map(lambda leaf: np.broadcast_to(np.asarray(leaf), (count, *np.shape(leaf))), tree)
    return jax.device_put(copies, _placement())


def unreplicate(tree: Tree) -> Tree:
    """The first device's copy of replicated arrays; it outlives the donation of these."""
    return jax.tree.map(lambda leaf: leaf.addressable_data(0)[0], tree)


def wait(array: jax.Array) -> None:
    """Waits for what `on_devices` returned, and raises as soon as one local device has failed.

    Where another process is gone, one device may fail and its neighbour wait for it until the heartbeat stops.
    """
    parts = [shard.data for shard in array.addressable_shards] if jax.process_count() > 1 else []
    while parts:
        for part in [part for part in parts if part.is_ready()]:
            part.block_until_ready()
            parts = [other for other in parts if other is not part]
        time.sleep(POLLING_SECONDS if parts else 0)


def spread(tree: Tree) -> Tree:
    """Puts equal parts of this process's arrays on its devices.

    Args:
      tree: numpy arrays [A, R, ...]: A minibatches of R examples.

    Returns:
      Arrays [local devices, A, R / local devices, ...], to go into what `on_devices` returned.
    """
    count = jax.local_device_count()

    def cut(leaf: np.ndarray) -> np.ndarray:
        parts = leaf.reshape(leaf.shape[0], count, leaf.shape[1] // count, *leaf.shape[2:])
        return np.ascontiguousarray(parts.swapaxes(0, 1))

    # No program, since a thread that reads ahead may run none beside the steps: devices would run the two in different
    # orders, and deadlock.
    return jax.device_put(jax.tree.map(cut, tree), _placement())


def on_devices(
    function: Callable[..., Any], static: int, donate: bool = False, meant: Sequence[Any] | None = None
) -> Callable[..., Any]:
    """The function on every device at once, each with its part of the arguments' leading axis.

    Args:
      function: inside it `average` and `index` are known.
      static: the argument that is no array.
      donate: whether the first argument's buffers are reused for the result.
      meant: devices to compile for; None for those that are there.
    """
    donated = (0,) if donate else ()
    return jax.pmap(
        function, axis_name=AXIS, devices=meant, donate_argnums=donated, static_broadcasted_argnums=(static,)
    )


def index() -> jax.Array:
    """The number of the device among all devices of all processes, within `on_devices`: int32 []."""
    return jax.lax.axis_index(AXIS)


def average(tree: Tree) -> Tree:
    """Mean over all devices of all processes, within `on_devices`."""
    return jax.lax.pmean(tree, AXIS)


def on_each(value: np.generic) -> np.ndarray:
    """A number for every local device, [local devices]."""
    return np.full(jax.local_device_count(), value)


@contextlib.contextmanager
def noticing_lost_processes() -> Iterator[None]:
    """Turns the runtime's errors into a clear one where another process of the job may be the cause.

    Raises:
      LostProcessError: in place of a JAX runtime error, in a job of several processes.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if jax.process_count() == 1 or "RESOURCE_EXHAUSTED" in str(error):
            raise
        raise LostProcessError(
            f"process {jax.process_index()} lost contact with another process of the job ({first_line(error)}); "
            "start all of them again with the same command to go on from the newest checkpoint"
        ) from error


@functools.cache  # not when the module is loaded, for that would start the devices before `start`
def _placement() -> NamedSharding:
    """Where pmap wants its arguments to be: with anything else it would fetch them to the host first."""
    return NamedSharding(Mesh(np.array(jax.local_devices()), (AXIS,)), PartitionSpec(AXIS))


def _gather_texts(text: str) -> list[str]:
    """The texts of all processes, in their order."""
    if jax.process_count() == 1:
        return [text]
    raw = np.frombuffer(text.encode(), np.uint8)
    lengths = np.asarray(multihost_utils.process_allgather(np.int32(len(raw)))).reshape(-1)
    padded = np.pad(raw, (0, int(lengths.max()) + 1 - len(raw)))
    gathered = np.asarray(multihost_utils.process_allgather(padded)).astype(np.uint8)
    return [row[:length].tobytes().decode() for row, length in zip(gathered, lengths)]


def first_line(error: BaseException) -> str:
    """The first line of an error's message, of at most 200 characters; its type where it has no message."""
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return line if len(line) <= 200 else line[:200] + "..."
