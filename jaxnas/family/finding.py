"""A whole search as one call, for any model, loss and data: `search(space, loss=..., train=..., ...) -> Family`.

The weights of the largest model are trained on the training split, by default with one sampled architecture in a step.
Then the distributions are trained on the validation split. The K networks that are best on the whole validation split
are trained together for some more steps, sharing their weights, before each gets its own slice of them.
"""

import dataclasses
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxnas import strategies
from jaxnas.cost import Cost
from jaxnas.elastic import ElasticSpace
from jaxnas.family.batches import (
    Prepare,
    UserLoss,
    WithMetrics,
    batch_size_of,
    fingerprint,
    source_of,
)
from jaxnas.family.built_in import BuiltInSpace, built_in
from jaxnas.family.distilling import Distillation
from jaxnas.family.family import Family, by_network
from jaxnas.family.members import measured, trained_members
from jaxnas.family.running import Runner
from jaxnas.networks import latency
from jaxnas.results.files import to_plain
from jaxnas.results.json_files import DIGEST, seal
from jaxnas.results.metrics_log import read_metrics
from jaxnas.results.workdir import open_workdir
from jaxnas.runtime import devices as runtime_devices
from jaxnas.runtime.placement import ALL_DEVICES, ONE_DEVICE, Placement
from jaxnas.search import loop
from jaxnas.search.search import Search
from jaxnas.search.settings import SearchSettings
from jaxnas.spaces import CellSpace, MBConvSpace, memory
from jaxnas.strategies.fixed import Fixed
from jaxnas.supernet.batching import resolve_batching
from jaxnas.supernet.layer_weights import check_sharing

SHARES = (0.6, 0.1, 0.3)  # of the steps: weights, distributions, and the networks found
TOGETHER = "together"  # folder of the steps of the networks found, in that of the search


@dataclass(frozen=True)
class OptaxSettings(SearchSettings):
    """Settings of a search whose weights any optax optimiser trains.

    Attributes:
      transform: the optimiser.
    """

    transform: optax.GradientTransformation | None = None

    def optimizer(self) -> optax.GradientTransformation:
        """The optimiser of the weights."""
        return self.transform


def search(
    space: ElasticSpace | MBConvSpace | CellSpace,
    *,
    loss: UserLoss,
    train: Any,
    valid: Any,
    steps: int,
    budgets: Mapping[str, Sequence[float]] | None = None,
    penalties: Sequence[float] | None = None,
    inputs: Callable[[Any], Any] | None = None,
    batch_size: int = 64,
    optimizer: optax.GradientTransformation | None = None,
    learning_rate: float = 2e-3,
    method: str = "shared_model",
    samples: int = 4,
    weight_samples: int = 1,
    sandwich: bool = False,
    distillation: Distillation | None = None,
    batching: str = "auto",
    sharing: str = "separate",
    devices: int | Literal["all"] = 1,
    seed: int = 0,
    workdir: str | Path | None = None,
    checkpoint_seconds: float = 60.0,
    progress: bool = False,
    listeners: Sequence[loop.Listener] = (),
) -> Family:
    """Searches K networks of different complexity in a space, trains them and returns each with its own weights.

    Args:
      space: of `jaxnas.elastic`, or a built-in one, whose inputs are images float32 [B, H, W, 3].
      loss: function (outputs, batch) that returns the mean loss of the batch, or a pair of it and {name: mean} of other
        metrics.
      train: for the weights: a pytree of arrays (leading axis: examples) that fits into memory, or an iterable of
        batches that can be iterated again, such as a list or a grain DataLoader.
      valid: for the distributions and the choice among networks, likewise.
      steps: number of all steps: 60 % of them train the weights, 10 % the distributions, 30 % the networks found.
      budgets: {cost name: K largest totals, in the unit of the cost}; with several costs a network keeps all of its
        budgets.
      penalties: in place of budgets, K ascending penalties eps_k on the first cost of the space: the increase of the
        loss that is accepted for going from the highest cost to the lowest.
      inputs: function from a batch to the inputs of the model; None for the first element of a tuple or the entry
        "inputs" of a dictionary.
      batch_size: examples in a minibatch of data in memory, over all devices.
      optimizer: optimiser of the weights; None for AdamW with a cosine schedule and clipping.
      learning_rate: peak learning rate if `optimizer` is None; the networks found are trained with half of it.
      method: "shared_model" or "importance_sampling", see `jaxnas.strategies`.
      samples: lambda, architectures drawn for each network in a step of the distributions.
      weight_samples: architectures that share one step of the weights, whose time grows in proportion.
      sandwich: make the most expensive and the cheapest network of the space two of these in every step.
      distillation: how much networks learn from the outputs of a teacher; None for not at all.
      batching: see `SearchSettings`.
      sharing: for a built-in space, "separate" weights of the choices or "slices" of shared ones, see `supernet.build`;
        the choices of a space of `jaxnas.elastic` are always slices.
      devices: 1, or "all" (or their number) to spread each minibatch over all devices. Batch norm then uses the
        statistics of each device's part.
      seed: random seed of the whole search.
      workdir: folder for checkpoints, evaluations and metrics, from which an interrupted search resumes; None for none.
      checkpoint_seconds: seconds between checkpoints.
      progress: whether to show a live table on a terminal or in a notebook, or else a line now and then.
      listeners: further callbacks of the search; see `jaxnas.search.loop.Listener`.

    Returns:
      The networks, in the order of budgets or penalties.

    Raises:
      ValueError: if settings contradict each other or the data, a budget cannot be met, or the folder holds another
        search.
      NonFiniteLossError: if a training loss is NaN or infinite; it names the step.
    """
    check_sharing(sharing)
    sources = {"train": source_of(train, "train"), "valid": source_of(valid, "valid")}
    if not isinstance(space, ElasticSpace):
        examples = batch_size_of(sources["train"], batch_size) // _placement(devices).count
        space, batching = _built_in(space, batching, sharing, examples)
    strategy = _strategy(space, method, budgets, penalties, samples)
    if distillation is not None:
        distillation.check_networks(len(strategy.penalties))
    if steps < 3:
        raise ValueError(f"steps must be at least 3, one for each part of a search, got {steps}")
    weights, distributions, together = (max(int(share * steps), 1) for share in SHARES)
    settings = OptaxSettings(
        weight_steps=weights,
        distribution_steps=distributions,
        weight_samples=weight_samples,
        sandwich=sandwich,
        batching=batching,
        batch_size=batch_size_of(sources["train"], batch_size),
        valid_batch_size=batch_size_of(sources["valid"], batch_size),
        learning_rate=learning_rate,
        transform=optimizer or _adamw(learning_rate, weights),
    )
    plain = Search(
        strategy,
        _Keyed(space),
        **sources,
        settings=settings,
        prepare=Prepare(inputs),
        loss=WithMetrics(loss),
        placement=_placement(devices),
    )
    run = plain if distillation is None else distillation.in_search(plain)
    described = {
        "space": space.name,
        "decisions": [list(decision.choices) for decision in space.decisions],
        "method": {"method": method, "samples": samples, "cost": next(iter(budgets or {}), space.costs[0].name)},
        "budgets": None if budgets is None else {name: list(map(float, totals)) for name, totals in budgets.items()},
        "penalties": None if penalties is None else list(map(float, penalties)),
        "steps": steps,
        "batch_size": settings.batch_size,
        "learning_rate": learning_rate,
        "seed": seed,
        "data": {name: fingerprint(source) for name, source in sources.items()},
    }
    if weight_samples != 1:
        described |= {"weight_samples": weight_samples, "sandwich": sandwich}
    if distillation is not None:
        described["distillation"] = distillation.describe()
    if sharing != "separate" and isinstance(space, BuiltInSpace):
        described["sharing"] = sharing
    # Their names alone do not say what they are: of which device, of how many bits.
    measured_costs = [cost for cost in space.costs if cost.unit == latency.UNIT or cost.name in memory.NAMES]
    if measured_costs:
        described["measured_costs"] = {cost.name: _digest(cost) for cost in measured_costs}
    runner = Runner(described, seed, checkpoint_seconds if workdir else float("inf"), progress, tuple(listeners))
    with (
        tempfile.TemporaryDirectory() as temporary,
        open_workdir(Path(workdir or temporary), "search", described) as folder,
    ):
        state, result, evaluations = runner.find(run, folder)
        params = jax.tree.map(np.array, state.params)  # a copy: the next steps take the buffers
        transform = optimizer or _adamw(learning_rate / 2, together)
        finishing = dataclasses.replace(
            plain,
            strategy=Fixed(space, tuple(found.encoding for found in result.architectures)),
            supernet=_Keyed(space, params),
            settings=dataclasses.replace(
                settings,
                weight_steps=together,
                distribution_steps=1,
                weight_samples=None,
                sandwich=False,
                transform=transform,
            ),
        )
        if distillation is not None:
            finishing = distillation.in_finishing(finishing)
        trained = runner.train_together(finishing, folder / TOGETHER).params
        records = tuple(read_metrics(folder / "metrics.jsonl"))
        members = trained_members(finishing, space, trained, result)
        result = measured(result, members)
        result.write(folder / "result.json")
    return Family(space, members, result, evaluations, records, params)


def _built_in(space: Any, batching: str, sharing: str, examples: int) -> tuple[BuiltInSpace, str]:
    """The space with its supernet, and how the architectures of it are evaluated: "vmap" or "map"."""
    if not isinstance(space, MBConvSpace | CellSpace):
        raise ValueError(
            f"space must be of jaxnas.elastic, or one of the built-in spaces of jaxnas.spaces, got "
            f"{type(space).__name__}; a supernet of your own is searched with jaxnas.Search"
        )
    batching = resolve_batching(batching, pixels=examples * space.image_size**2)
    return built_in(space, batching, sharing), batching


def _digest(cost: Cost) -> str:
    """Tells measured costs apart."""
    return seal(to_plain(cost))[DIGEST][:16]


def _adamw(learning_rate: float, steps: int) -> optax.GradientTransformation:
    schedule = optax.cosine_decay_schedule(learning_rate, steps)
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule, weight_decay=1e-4))


def _placement(devices: int | str) -> Placement:
    count = runtime_devices.device_count()
    if runtime_devices.process()[1] > 1:
        raise ValueError("devices must be those of one process: a search with one call is no job of many processes")
    if devices == 1:
        return ONE_DEVICE
    if devices not in ("all", count):
        raise ValueError(f"devices must be 1, or all of the {count} that JAX has ('all'), got {devices!r}")
    return ONE_DEVICE if count == 1 else ALL_DEVICES


def _strategy(
    space: ElasticSpace | BuiltInSpace,
    method: str,
    budgets: Mapping[str, Sequence[float]] | None,
    penalties: Sequence[float] | None,
    samples: int,
) -> strategies.DistributionStrategy:
    strategies.check_name(method, strategies.distribution_strategies())
    if (budgets is None) == (penalties is None):
        raise ValueError("give either budgets, such as {'macs': (1e6, 2e6)}, or penalties, such as (0.02, 0.1)")
    if penalties is not None:
        if list(penalties) != sorted(penalties):
            raise ValueError(f"penalties must ascend, got {tuple(penalties)!r}; sort them")
        return strategies.make(method, space, tuple(penalties), samples=samples)
    rows = [list(row.values()) for row in by_network(budgets)]
    costs = [space.cost(name) for name in budgets]
    return strategies.within_budgets(strategies.STRATEGIES[method], space, costs, rows, samples=samples)


@dataclass(frozen=True, eq=False)
class _Keyed:
    """A space as a supernet whose dropout is on where there are keys.

    Attributes:
      space: the space.
      params: that it starts from; None for those that the space gives.
    """

    space: ElasticSpace | BuiltInSpace
    params: Any = None

    def init_params(self, key: jax.Array) -> Any:
        params = self.space.init_params(key) if self.params is None else self.params
        return jax.tree.map(lambda leaf: jnp.array(leaf, copy=True), params)  # the search's own, to be donated

    def apply(self, variables: Mapping[str, Any], inputs: Mapping[str, Any], arch: jax.Array) -> Any:
        key = inputs["keys"][0] if "keys" in inputs else None
        return self.space.apply(variables["params"], inputs["inputs"], arch, key)
