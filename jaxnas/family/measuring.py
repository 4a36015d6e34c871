"""Latency of any model on this device, or any other: `measure_latency` times whole random networks of a space."""

import functools
import importlib
import platform
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np

from jaxnas.elastic.model_space import ModelSpace
from jaxnas.family.built_in import BuiltInSpace, built_in
from jaxnas.networks import latency_model, timing
from jaxnas.networks.latency import LatencyTable
from jaxnas.spaces import CellSpace, MBConvSpace, SearchSpace

Runtime = Literal["jax", "onnxruntime"]
Timer = Callable[[np.ndarray], np.ndarray]  # architectures int [N, D] -> seconds [N]

_DRAWS = 20  # for each network that is wanted, until there are so many different ones
_LEAST_CHECKED = 2


def measure_latency(
    space: SearchSpace,
    inputs: Any = None,
    *,
    runtime: Runtime = "jax",
    threads: int = 1,
    networks: int = 80,
    check_networks: int = 40,
    rounds: int = 15,
    seed: int = 0,
    timer: Timer | None = None,
    device: str | None = None,
    progress: timing.Progress = timing.no_progress,
) -> LatencyTable:
    """Times whole random networks of a space, and fits a cost that predicts the latency of all others.

        table = jaxnas.measure_latency(space, inputs[:1])
        family = jaxnas.search(table.added_to(space), ..., budgets={"latency": (1e-3, 2e-3)})

    Each network has its own size and fresh weights, and is timed in inference: batch norm with running averages,
    dropout off. All are compiled first, and then timed in turn, round by round; run nothing else meanwhile. The model
    is chosen and fitted as `jaxnas.networks.latency_model` describes.

    Args:
      space: of `jaxnas.elastic`, or a built-in one; with `timer` any. Its costs are features of the model: with the
        latency of another device among them (`other.added_to(space, "laptop")`) some 20 networks are enough.
      inputs: inputs of one call, with the batch size of interest; None for those that the space was built with.
      runtime: "jax" on JAX's default device, or "onnxruntime" on this machine's processor.
      threads: number of threads of onnxruntime; JAX chooses its own.
      networks: number of random networks that the model is fitted to; all are different models.
      check_networks: number of further networks that check the model.
      rounds: timings of each network, of which the median is used.
      seed: random seed of the networks.
      timer: in place of a runtime, a function that measures on another device: architectures int [N, D] to seconds
        [N], called once.
      device: description of the device; None for the name of the one that the runtime uses.
      progress: called with "compiling" or "timing", the number done, and the number of all.

    Returns:
      The table. `added_to(space, name="latency")` adds it to a space as a cost, in seconds; `write` stores it and
      `jaxnas.networks.latency.read` reads it. Its `check` holds its errors on the networks that were not fitted:
      Spearman's correlation, the median and the largest relative error.

    Raises:
      ValueError: if a number is too small, inputs have another shape, the space has too few networks, or the runtime is
        not installed or does not support an operation of the model.
    """
    timing.check_at_least(
        networks=(networks, latency_model.FEWEST),
        check_networks=(check_networks, _LEAST_CHECKED),
        rounds=(rounds, 1),
        threads=(threads, 1),
    )
    if runtime not in get_args(Runtime):
        raise ValueError(f"runtime must be one of {', '.join(get_args(Runtime))}, got {runtime!r}")
    models = built_in(space) if isinstance(space, MBConvSpace | CellSpace) else space
    if inputs is None and isinstance(models, ModelSpace):
        inputs = models.models.inputs
    versions = {"python": platform.python_version()}
    if timer is None:
        if not isinstance(models, ModelSpace):
            raise ValueError(
                f"space must be of jaxnas.elastic, or one of the built-in spaces of jaxnas.spaces, got "
                f"{type(space).__name__}; give timer=, a function that measures its networks"
            )
        models.check_inputs(inputs)
        compiled, runs_on = _runtime(runtime, threads)
        timer = _Timer(models, jax.tree.map(jnp.asarray, inputs), compiled, rounds, progress)
        device = runs_on if device is None else device
        versions |= {name: importlib.import_module(name).__version__ for name in dict.fromkeys(("jax", runtime))}
    archs, fitted = _drawn(models, networks, check_networks, np.random.default_rng(seed))
    seconds = np.asarray(timer(archs), np.float64)
    if seconds.shape != (len(archs),):
        raise ValueError(f"timer must return seconds for each of {len(archs)} networks, got shape {seconds.shape}")
    cost = latency_model.fit(space, archs[:fitted], seconds[:fitted])
    leaves = jax.tree.leaves(inputs)
    return LatencyTable.of(
        space,
        cost,
        device=device or "unknown",
        batch_size=len(leaves[0]) if leaves and np.ndim(leaves[0]) else 1,
        check=timing.compare(cost.total(archs[fitted:]), seconds[fitted:]),
        versions=versions,
    )


@dataclass(frozen=True)
class _Timer:
    """Times networks on this machine.

    Attributes:
      space: of the networks.
      inputs: of a call, arrays of JAX.
      compiled: makes a call of a function ready.
      rounds: timings of each.
      progress: see `measure_latency`.
    """

    space: ModelSpace
    inputs: Any
    compiled: Callable[..., timing.Program]
    rounds: int
    progress: timing.Progress

    def __call__(self, archs: np.ndarray) -> np.ndarray:
        """Seconds [N] of architectures [N, D]."""
        params = self.space.init_own_params(jax.random.key(0))
        programs = []
        for arch in archs:
            programs.append(self.compiled(self.space.deployed(arch, params(arch)), self.inputs))
            self.progress("compiling", len(programs), len(archs))
        return timing.median_seconds(programs, self.rounds, self.progress)


def _runtime(name: Runtime, threads: int) -> tuple[Callable[..., timing.Program], str]:
    """What makes a call of a function ready, and what it runs on, in words."""
    if name == "jax":
        return timing.compiled, timing.device_name()
    try:
        from jaxnas.export.onnx_calls import compiled
    except ImportError as error:
        raise ValueError(
            f"runtime 'onnxruntime' needs packages: pip install 'jaxnas[export]' ({error}); or measure with "
            f"runtime='jax'"
        ) from error
    return functools.partial(compiled, threads=threads), f"{timing.cpu_name()}, ONNX Runtime, threads: {threads}"


def _drawn(space: SearchSpace, networks: int, checked: int, rng: np.random.Generator) -> tuple[np.ndarray, int]:
    """Architectures of different models, int32 [N, D], and how many of them are to be fitted, the first ones.

    A space that has fewer is divided in proportion.
    """
    wanted, found = networks + checked, {}
    for arch in space.sample_uniform(rng, _DRAWS * wanted):
        found.setdefault(_identity(space, arch), arch)
        if len(found) == wanted:
            break
    fitted = networks if len(found) == wanted else len(found) - max(_LEAST_CHECKED, len(found) * checked // wanted)
    if fitted < latency_model.FEWEST:
        raise ValueError(
            f"space must have {latency_model.FEWEST + _LEAST_CHECKED} different models or more to fit the latency of "
            f"the others, {space.name!r} has {len(found)}; time them all"
        )
    return rng.permutation(np.stack(list(found.values()))), fitted


def _identity(space: SearchSpace, arch: np.ndarray) -> tuple[Any, ...]:
    """What tells two models apart: with a block left out its width is of no matter."""
    if isinstance(space, ModelSpace) and not isinstance(space, BuiltInSpace):
        leaves = space.models.abstract(arch).leaves  # each choice changes shapes, else `elastic` refuses it
        return tuple((path, leaf.shape) for path, leaf in leaves.items())
    return tuple(arch.tolist())
