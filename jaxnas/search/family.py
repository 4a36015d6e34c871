"""A whole search as one call, for any model, loss and data: `search(space, loss=..., train=..., ...) -> Family`.

The weights of the largest model are trained on the training split, one sampled architecture a step; then the
distributions are, on the validation split; and the K networks that compete best on the whole of it are trained together
for some more steps, sharing their weights, before each gets its own slice of them.
"""

import dataclasses
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxnas import selection, strategies
from jaxnas.elastic import ElasticSpace
from jaxnas.elastic.matching import paths
from jaxnas.results import files, tables
from jaxnas.results.json_files import read_json
from jaxnas.results.workdir import open_workdir
from jaxnas.runtime.checkpoints import Checkpoints
from jaxnas.search import loop
from jaxnas.search.search import Search
from jaxnas.search.settings import SearchSettings
from jaxnas.search.sources import InMemory, Streamed
from jaxnas.supernet import batching

# loss(outputs, batch) -> float [], or that and {name: float []}
UserLoss = Callable[[Any, Any], Any]

SHARES = (0.6, 0.1, 0.3)  # of the steps: weights, distributions, and the networks found
CANDIDATES = 16  # draws from each distribution that compete with its mode
CALIBRATION = 8  # minibatches that batch norm is calibrated on


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


@dataclass(frozen=True)
class Member:
    """One of the networks that a search found.

    Attributes:
      k: its number.
      arch: int [D], choice indices.
      hyperparameters: the keywords of `make`.
      costs: its totals, by name.
      budgets: what it was allowed, by name; None in a search with penalties.
      loss: on the whole validation split.
      metrics: what the loss function measures beside the loss.
      params: its own parameters, in the form of its framework.
      state: what else it has, batch norm calibrated: Linen's collections, or an NNX module's state.
      model: the user's own model at its size; an NNX module holds `params` and `state`.
    """

    k: int
    arch: tuple[int, ...]
    hyperparameters: Mapping[str, Any]
    costs: Mapping[str, int]
    budgets: Mapping[str, float] | None
    loss: float
    metrics: Mapping[str, float]
    params: Any
    state: Any
    model: Any


@dataclass(frozen=True)
class Family(Sequence):
    """The networks that a search found, in the order of budgets or penalties.

    Attributes:
      space: of the search.
      members: K of them.
    """

    space: ElasticSpace
    members: tuple[Member, ...]

    def __len__(self) -> int:
        return len(self.members)

    def __getitem__(self, k: Any) -> Any:
        return self.members[k]

    def table(self) -> tables.Table:
        """One row for each network: costs, loss, metrics and hyperparameters."""
        first = self.members[0]
        heads = ("k", *first.costs, "loss", *first.metrics, tables.Column("hyperparameters", "text"))
        rows = [
            (
                str(member.k),
                *(f"{total:,}" for total in member.costs.values()),
                f"{member.loss:.4g}",
                *(f"{value:.4g}" for value in member.metrics.values()),
                ", ".join(f"{name}={value!r}" for name, value in member.hyperparameters.items()),
            )
            for member in self.members
        ]
        return tables.Table(f"Networks found on {self.space.name}", heads, rows)

    def __str__(self) -> str:
        return self.table().markdown()

    def save(self, folder: str | Path) -> Path:
        """Writes `family.json` and the parameters of each network; `load` reads them.

        Args:
          folder: made if it is not there.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        kept = ("k", "arch", "hyperparameters", "costs", "budgets", "loss", "metrics")
        for member in self.members:
            leaves = list(paths({"params": member.params, "state": member.state}).values())
            keys = [leaf for leaf in leaves if not _is_random_key(leaf)]
            with files.replacing(folder / f"member_{member.k}.npz") as path:
                np.savez(path, **{f"leaf_{place}": _bits(leaf) for place, leaf in enumerate(keys)})
        described = [{name: getattr(member, name) for name in kept} for member in self.members]
        files.write_json(folder / "family.json", {"space": self.space.name, "members": described})
        return folder


def load(folder: str | Path, space: ElasticSpace) -> Family:
    """Reads what `Family.save` wrote.

    Args:
      folder: that was given to `save`.
      space: built as for the search.

    Raises:
      ValueError: if the folder holds no family, or one of another space.
    """
    folder = Path(folder)
    try:
        described = read_json(folder / "family.json")
    except (OSError, ValueError) as error:
        raise ValueError(f"folder must hold a family.json, as Family.save writes it: {error}") from error
    if described["space"] != space.name:
        raise ValueError(f"the family in {folder} is of space {described['space']!r}, not of {space.name!r}")
    members = []
    for fields in described["members"]:
        arch = space.validate(fields["arch"])
        params, state = space.shapes(arch)
        leaves, structure = jax.tree.flatten({"params": params, "state": state})
        with np.load(folder / f"member_{fields['k']}.npz") as stored:
            places = iter(range(len(stored.files)))
            leaves = [
                jnp.zeros(leaf.shape, leaf.dtype)
                if _is_random_key(leaf)
                else jnp.asarray(_from_bits(stored[f"leaf_{next(places)}"], leaf.dtype))
                for leaf in leaves
            ]
        tree = jax.tree.unflatten(structure, leaves)
        fields |= {"arch": tuple(fields["arch"]), "hyperparameters": space.hyperparameters(arch)}
        members.append(Member(**fields, **tree, model=space.model(arch, tree["params"], tree["state"])))
    return Family(space, tuple(members))


def _is_random_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _bits(leaf: Any) -> np.ndarray:
    """An array that numpy can store: bfloat16 and its kin as their bits."""
    array = np.asarray(leaf)
    return array.view(f"u{array.dtype.itemsize}") if array.dtype.kind == "V" else array


def _from_bits(array: np.ndarray, dtype: np.dtype) -> np.ndarray:
    return array.view(dtype) if array.dtype != dtype else array


def search(
    space: ElasticSpace,
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
    batching: str = "auto",
    seed: int = 0,
    workdir: str | Path | None = None,
    checkpoint_seconds: float = 60.0,
    listeners: Sequence[loop.Listener] = (),
) -> Family:
    """Searches K networks of different complexity in a space, trains them and returns each with its own weights.

    Args:
      space: of `jaxnas.elastic`.
      loss: (outputs, batch) to the mean loss of the batch, or to that and {name: mean} of other measures.
      train: for the weights: a pytree of arrays (leading axis: examples) that fits into memory, or an iterable of
        batches that can be iterated again, such as a list or a grain DataLoader.
      valid: for the distributions and the choice among networks, likewise.
      steps: in all, of which `SHARES` tells the parts.
      budgets: cost name to K largest totals; several costs hold together.
      penalties: in place of budgets, K losses worth paying for the whole span of the space's first cost.
      inputs: batch to the inputs of the model; None for the first of a tuple or the entry "inputs" of a dictionary.
      batch_size: examples in a minibatch of data in memory.
      optimizer: of the weights; None for AdamW with a cosine schedule and clipping.
      learning_rate: its peak, where `optimizer` is None.
      method: name of a strategy that keeps distributions.
      samples: architectures for each network in a step of the distributions.
      batching: see `SearchSettings`.
      seed: of everything random.
      workdir: folder for checkpoints and metrics; a search that was cut there goes on. None for none.
      checkpoint_seconds: between checkpoints.
      listeners: what follows the search, such as a display; see `jaxnas.search.loop.Listener`.

    Returns:
      The networks, in the order of budgets or penalties.

    Raises:
      ValueError: on settings that do not fit each other or the data.
    """
    strategy = _strategy(space, method, budgets, penalties, samples)
    if steps < 3:
        raise ValueError(f"steps must be at least 3, one for each part of a search, got {steps}")
    weights, distributions, joint = (max(int(share * steps), 1) for share in SHARES)
    transform = optimizer or _adamw(optax.cosine_decay_schedule(learning_rate, weights))
    prepare = _Prepare(inputs)
    train_source, valid_source = (
        _source(part, batch_size, name) for part, name in ((train, "train"), (valid, "valid"))
    )
    sizes = {
        name: min(batch_size, len(source)) if isinstance(source, InMemory) else source.stream.batch_size
        for name, source in (("batch_size", train_source), ("valid_batch_size", valid_source))
    }
    settings = OptaxSettings(
        weight_steps=weights,
        distribution_steps=distributions,
        weight_samples=1,
        batching=batching,
        transform=transform,
        **sizes,
    )
    run = Search(strategy, _Keyed(space), train_source, valid_source, settings, prepare, _WithMetrics(loss))
    state = _run(run, seed, workdir, checkpoint_seconds, listeners)
    archs = _choose(run, state)
    transform = optimizer or _adamw(optax.cosine_decay_schedule(learning_rate / 2, joint))
    params = _train_together(run, state.params, archs, joint, transform, seed)
    return _family(run, space, params, archs, budgets)


def _adamw(learning_rate: Any) -> optax.GradientTransformation:
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(learning_rate, weight_decay=1e-4))


def _strategy(
    space: ElasticSpace,
    method: str,
    budgets: Mapping[str, Sequence[float]] | None,
    penalties: Sequence[float] | None,
    samples: int,
) -> strategies.Strategy:
    strategies.check_name(method, strategies.distribution_strategies())
    if (budgets is None) == (penalties is None):
        raise ValueError("give either budgets, such as {'macs': (1e6, 2e6)}, or penalties, such as (0.02, 0.1)")
    if penalties is not None:
        return strategies.make(method, space, tuple(penalties), samples=samples)
    counts = {name: len(totals) for name, totals in budgets.items()}
    if len(set(counts.values())) != 1 or 0 in counts.values():
        raise ValueError(f"budgets must hold as many totals for each cost, at least one, got {counts}")
    costs = [space.cost(name) for name in budgets]
    rows = [list(row) for row in zip(*budgets.values())]
    return strategies.within_budgets(strategies.STRATEGIES[method], space, costs, rows, samples=samples)


@dataclass(frozen=True)
class _WithMetrics:
    """A user's loss as a search takes it: always with a dictionary of other measures."""

    loss: UserLoss

    def __call__(self, outputs: Any, batch: Any) -> tuple[jax.Array, dict[str, jax.Array]]:
        value = self.loss(outputs, batch)
        value, metrics = value if isinstance(value, tuple) else (value, {})
        return jnp.asarray(value, jnp.float32), {name: jnp.asarray(one, jnp.float32) for name, one in metrics.items()}


@dataclass(frozen=True)
class _Prepare:
    """A batch to what `_Keyed` takes: the inputs of the model, and in training a random key for each example."""

    inputs: Callable[[Any], Any] | None

    def of(self, batch: Any) -> Any:
        """The inputs of the model."""
        if self.inputs is not None:
            return self.inputs(batch)
        if isinstance(batch, tuple) and batch:
            return batch[0]
        if isinstance(batch, Mapping) and "inputs" in batch:
            return batch["inputs"]
        raise ValueError(
            "inputs must say which part of a batch is the model's inputs, such as lambda batch: batch['image']; "
            "without it a batch is a tuple whose first is that, or a dictionary with the entry 'inputs'"
        )

    def __call__(self, batch: Any, key: jax.Array | None) -> dict[str, Any]:
        inputs = self.of(batch)
        if key is None:
            return {"inputs": inputs}
        return {"inputs": inputs, "keys": jax.random.split(key, len(jax.tree.leaves(inputs)[0]))}


@dataclass(frozen=True)
class _Keyed:
    """The space as a supernet whose dropout is on where there are keys."""

    space: ElasticSpace

    def init_params(self, key: jax.Array) -> Any:
        return self.space.init_params(key)

    def apply(self, variables: Mapping[str, Any], inputs: Mapping[str, Any], arch: jax.Array) -> Any:
        key = inputs["keys"][0] if "keys" in inputs else None
        return self.space.apply(variables["params"], inputs["inputs"], arch, key)


class _Batches:
    """An iterable of batches as a stream without end."""

    def __init__(self, batches: Iterable[Any], name: str):
        if isinstance(batches, Iterator):
            raise ValueError(
                f"{name} must be arrays or batches that can be iterated again, such as a list or a DataLoader, "
                f"got {type(batches).__name__}, which ends after one pass"
            )
        self._batches, self._name = batches, name
        first = next(iter(batches), None)
        if first is None:
            raise ValueError(f"{name} must hold at least one batch, got none")
        self.batch_size = len(jax.tree.leaves(first)[0])

    def __len__(self) -> int:
        """Examples of one pass; of a pass without a known length enough for an evaluation."""
        count = len(self._batches) if hasattr(self._batches, "__len__") else Streamed.evaluation_batches
        return count * self.batch_size

    def batches(self, start: int) -> Iterator[Any]:
        """Minibatches from number `start` on; a smaller one at the end of a pass is left out."""
        place = 0
        while True:
            before = place
            for batch in self._batches:
                if len(jax.tree.leaves(batch)[0]) == self.batch_size:
                    if place >= start:
                        yield jax.tree.map(np.asarray, batch)
                    place += 1
            if place == before:
                raise ValueError(f"{self._name} must hold at least one batch in every pass, got none")


def _source(data: Any, batch_size: int, name: str) -> InMemory | Streamed:
    """Arrays as a source in memory, anything else as a stream of batches."""
    in_memory = isinstance(data, tuple | Mapping) or hasattr(data, "dtype") or dataclasses.is_dataclass(data)
    return InMemory(data) if in_memory else Streamed(_Batches(data, name))


def _run(
    run: Search, seed: int, workdir: str | Path | None, checkpoint_seconds: float, listeners: Sequence[loop.Listener]
) -> Any:
    with tempfile.TemporaryDirectory() as temporary:
        described = {
            "space": run.strategy.space.name,
            "decisions": [decision.choices for decision in run.strategy.space.decisions],
            "budgets": run.strategy.budgets_by_name,
            "penalties": None if run.strategy.budgets_by_name else run.strategy.penalties,
            "steps": run.total_steps,
            "batch_size": run.settings.batch_size,
            "seed": seed,
        }
        opened = open_workdir(Path(workdir or temporary), "search", described)
        with opened as folder, Checkpoints(folder / "checkpoints") as checkpoints:
            state = run.init(seed)
            seconds = checkpoint_seconds if workdir else float("inf")
            return loop.run(run, state, folder, checkpoints, checkpoint_seconds=seconds, listeners=listeners)[0]


def _choose(run: Search, state: Any) -> np.ndarray:
    """The K architectures that are the answer, int [K, D]."""
    key = jax.random.fold_in(state.key, state.step)
    archs = selection.candidates(key, state.strategy.theta, CANDIDATES)
    archs = np.unique(np.concatenate([run.strategy.modes(state.strategy), archs]), axis=0)
    losses = np.asarray(run.evaluate_minibatches(state.params, archs).loss)
    return archs[run.strategy.select(state.strategy, archs, losses)]


def _train_together(
    run: Search, params: Any, archs: np.ndarray, steps: int, transform: optax.GradientTransformation, seed: int
) -> Any:
    """Steps on the mean loss of the K networks, which share their weights."""
    archs = jnp.asarray(archs)

    def apply(params: Any, inputs: Any, arch: jax.Array) -> Any:
        return run.supernet.apply({"params": params}, inputs, arch)

    @jax.jit
    def step(params: Any, optimizer: Any, batch: Any, key: jax.Array) -> tuple[Any, Any]:
        inputs = run.prepare(batch, key)
        gradients, _ = batching.gradient(apply, params, inputs, batch, archs, run.loss, batching=run.settings.batching)
        updates, optimizer = transform.update(gradients, optimizer, params)
        return optax.apply_updates(params, updates), optimizer

    optimizer = transform.init(params)
    key = jax.random.key(seed + 1)
    for number, batch in zip(range(steps), minibatches(run.train, run.settings.batch_size, seed)):
        params, optimizer = step(params, optimizer, batch, jax.random.fold_in(key, number))
    return params


def minibatches(source: InMemory | Streamed, batch_size: int, seed: int) -> Iterator[Any]:
    """Training minibatches without end, in random order where they are in memory."""
    if isinstance(source, Streamed):
        yield from source.batches(0)
    rng = np.random.default_rng(seed)
    while True:
        order = rng.permutation(len(source))
        for start in range(0, len(order) - batch_size + 1, batch_size):
            yield source.take(order[start : start + batch_size])


def _family(
    run: Search, space: ElasticSpace, params: Any, archs: np.ndarray, budgets: Mapping[str, Sequence[float]] | None
) -> Family:
    evaluation = jax.tree.map(np.asarray, run.evaluate(params, archs))
    batches = [
        run.prepare.of(batch)
        for _, batch in zip(range(CALIBRATION), minibatches(run.train, run.settings.batch_size, 0))
    ]
    members = []
    for k, arch in enumerate(archs):
        own = space.extract(params, arch)
        state = space.calibrate(own, arch, batches)
        members.append(
            Member(
                k=k,
                arch=tuple(arch.tolist()),
                hyperparameters=space.hyperparameters(arch),
                costs={cost.name: int(cost.total(arch)) for cost in space.costs},
                budgets=None if budgets is None else {name: float(totals[k]) for name, totals in budgets.items()},
                loss=float(evaluation.loss[k]),
                metrics={name: float(values[k]) for name, values in evaluation.metrics.items()},
                params=own,
                state=state,
                model=space.model(arch, own, state),
            )
        )
    return Family(space, tuple(members))
