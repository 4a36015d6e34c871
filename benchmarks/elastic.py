"""What searches of a user's own model are worth: the language model, a sorted network cut down, the price of masks.

    python -m benchmarks.elastic --part language --out runs/elastic/language.json
    python -m benchmarks.elastic --part sorting --data-dir DIR --out runs/elastic/sorting.json
    python -m benchmarks.elastic --part speed --out runs/elastic/speed.json

`language`: the networks that a search of `examples.stdlib_language_model` finds for K = 3 budgets, each trained alone
for some steps, and random networks that cost as much within 5 %, trained likewise: validation losses. `sorting`: a
residual network trained on CIFAR-10 at 16x16 and cut to three quarters and to half of its units, sorted by importance
and unsorted: accuracy with the statistics of minibatches, no more training. `speed`: a step on S masked architectures
under vmap against one on S unmasked largest models with weights of their own; on an idle machine only.

Each result is written as soon as it is there; a second call with the same file goes on.
"""

import dataclasses
import functools
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from rich.console import Console

import jaxnas
from benchmarks import measure
from examples import stdlib_language_model
from experiments import cli
from jaxnas import data as datasets
from jaxnas.elastic.model_space import ModelSpace
from jaxnas.results.files import write_json
from jaxnas.results.json_files import read_json
from jaxnas.runtime import compilation_cache

PARTS = ("language", "sorting", "speed")
WITHIN = 0.05  # of a member's multiply-adds, that random networks may differ by
SHARES = (0.75, 0.5)  # of the units


@dataclasses.dataclass(frozen=True)
class Config:
    """Measures searches of the examples' models."""

    part: Literal[PARTS]
    """What to measure."""
    out: Path
    """JSON file of the results; what is in it is not done again."""
    data_dir: str | None = None
    """Folder of CIFAR-10 as TFDS prepares it, for `sorting`."""
    seeds: int = 3
    """Searches, or trained networks."""
    steps: int = 1500
    """Of each search, or of the network that is sorted."""
    alone_steps: int = 200
    """Of each network that is trained alone."""
    randoms: int = 20
    """Random networks for each budget."""
    batch_size: int = 32
    """Examples in a minibatch."""
    rounds: int = 7
    """Times that each program of `speed` runs."""


class Results:
    """Results by name, in a file that is written after each."""

    def __init__(self, path: Path):
        self._path = path
        self.values: dict[str, Any] = read_json(path) if path.exists() else {}

    def get(self, name: str, compute: Callable[[], Any]) -> Any:
        """A result, computed unless it is there."""
        if name not in self.values:
            self.values[name] = compute()
            write_json(self._path, self.values)
        return self.values[name]


def main(config: Config) -> None:
    """Measures one part and prints it."""
    compilation_cache.enable()
    {"language": language, "sorting": sorting, "speed": speed}[config.part](config, cli.console())


def batches(examples: Any, batch_size: int, seed: int) -> Iterator[Any]:
    """Random minibatches without end."""
    rng = np.random.default_rng(seed)
    while True:
        rows = rng.integers(len(jax.tree.leaves(examples)[0]), size=batch_size)
        yield jax.tree.map(lambda leaf, rows=rows: leaf[rows], examples)


def train(
    loss: Callable[[Any, Any], jax.Array], params: Any, examples: Any, steps: int, batch_size: int, seed: int
) -> Any:
    """Parameters after so many steps of AdamW with a cosine schedule; `loss` is of (params, batch)."""
    transform = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(optax.cosine_decay_schedule(3e-3, steps)))

    @jax.jit
    def step(params: Any, state: Any, batch: Any) -> tuple[Any, Any]:
        updates, state = transform.update(jax.grad(loss)(params, batch), state, params)
        return optax.apply_updates(params, updates), state

    state = transform.init(params)
    for _, batch in zip(range(steps), batches(examples, batch_size, seed)):
        params, state = step(params, state, batch)
    return params


def alone(config: Config, space: ModelSpace, arch: tuple[int, ...], splits: tuple[Any, Any], seed: int) -> float:
    """Validation loss of a language model that was trained alone."""
    model, (training, validation) = space.model(arch), splits

    def loss(params: Any, windows: Any) -> jax.Array:
        return stdlib_language_model.loss(model.apply({"params": params}, windows[:, :-1]), windows)

    params = model.init(jax.random.key(seed), training[:1, :-1])["params"]
    params = train(loss, params, training, config.alone_steps, config.batch_size, seed)
    evaluate = jax.jit(loss)
    parts = [validation[i : i + 256] for i in range(0, min(len(validation), 2048), 256)]
    return float(np.mean([evaluate(params, part) for part in parts]))


def equals_in_cost(space: ModelSpace, arch: tuple[int, ...], count: int, seed: int) -> list[tuple[int, ...]]:
    """Random architectures with as many multiply-adds as one, within 5 %.

    They are different models, from that one too: decisions about layers that are left out make many of one. Fewer where
    there are not so many.
    """
    cost = space.cost("macs")
    drawn = np.unique(space.sample_uniform(np.random.default_rng(seed), 200_000), axis=0)
    target = cost.total(np.asarray(arch))
    close = drawn[np.abs(cost.total(drawn) - target) <= WITHIN * target]
    models = {str(space.shapes(arch)[0]): arch}
    for row in np.random.default_rng(seed).permutation(len(close))[: 20 * count]:
        models.setdefault(str(space.shapes(close[row])[0]), tuple(close[row].tolist()))
        if len(models) > count:
            break
    return list(models.values())[1:]


def language(config: Config, console: Console) -> None:
    """Found networks against random ones, each trained alone."""
    splits, results = stdlib_language_model.data(), Results(config.out)
    space = stdlib_language_model.space(splits[0])
    for seed in range(config.seeds):

        def find(seed: int = seed) -> list[list[int]]:
            workdir = config.out.parent / f"search{seed}"
            family = stdlib_language_model.main(
                steps=config.steps, batch_size=config.batch_size, seed=seed, workdir=workdir
            )
            return [list(member.arch) for member in family]

        found = [tuple(arch) for arch in results.get(f"seed {seed}, {config.steps} steps", find)]
        measured = []
        for k, arch in enumerate(found):
            randoms = equals_in_cost(space, arch, config.randoms, seed)
            losses = [
                results.get(
                    f"seed {seed}, {config.alone_steps} steps alone: {one}",
                    functools.partial(alone, config, space, one, splits, seed),
                )
                for one in (arch, *randoms)
            ]
            own, others = losses[0], np.asarray(losses[1:])
            measured.append(own)
            console.print(
                f"seed {seed}, network {k}, {space.cost('macs').total(np.asarray(arch)):,} multiply-adds: {own:.4f}; "
                f"{len(others)} random ones: median {np.median(others):.4f}, best {others.min():.4f}, "
                f"{(others > own).mean():.0%} are worse"
            )
        falls = all(a > b for a, b in zip(measured, measured[1:]))
        console.print(f"seed {seed}: the loss {'falls' if falls else 'does not fall'} with the budget")


class ResNet(nn.Module):
    """Residual blocks with batch norm, each with hidden units of its own."""

    hidden: tuple

    @nn.compact
    def __call__(self, x, train: bool = False):
        """Logits of images [B, 16, 16, 3]."""
        for number, hidden in enumerate(self.hidden):
            if number % 2 == 0:
                width = 16 * 2 ** (number // 2)
                x = nn.Conv(width, (3, 3), strides=1 + (number > 0), use_bias=False)(x)
                x = nn.relu(nn.BatchNorm(use_running_average=not train)(x))
            y = nn.relu(nn.BatchNorm(use_running_average=not train)(nn.Conv(hidden, (3, 3), use_bias=False)(x)))
            x = x + nn.BatchNorm(use_running_average=not train)(nn.Conv(x.shape[-1], (3, 3), use_bias=False)(y))
        return nn.Dense(10)(x.mean((1, 2)))


def sorting(config: Config, console: Console) -> None:
    """Accuracy of a trained network that is cut down, sorted and unsorted."""
    cifar, results = datasets.load("cifar10", config.data_dir), Results(config.out)
    images = ((datasets.resize(cifar.train_images, 16) / 255 - cifar.mean) / cifar.std).astype(np.float32)
    labels = cifar.train_labels.astype(np.int32)
    training, validation = ((images[part], labels[part]) for part in (slice(45_000), slice(45_000, None)))
    hidden = [tuple(int(share * width) for share in (*SHARES[::-1], 1)) for width in (32, 32, 64, 64)]
    space = jaxnas.elastic(ResNet, images[:8], hidden=hidden)
    largest = space.choices.largest

    def loss(params: Any, batch: Any) -> jax.Array:
        logits = space.apply(params, batch[0], largest)
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch[1]).mean()

    @jax.jit
    def accuracy(params: Any, arch: jax.Array, batch: Any) -> jax.Array:
        return (space.apply(params, batch[0], arch).argmax(-1) == batch[1]).mean()

    def measured(params: Any, arch: np.ndarray) -> float:
        parts = [jax.tree.map(lambda leaf, i=i: leaf[i : i + 500], validation) for i in range(0, 5000, 500)]
        return float(np.mean([accuracy(params, jnp.asarray(arch), part) for part in parts]))

    def one(seed: int) -> dict[str, Any]:
        params = space.init_params(jax.random.key(seed))
        params = train(loss, params, training, config.steps, config.batch_size, seed)
        scoring = jax.tree.map(lambda leaf: leaf[:512], training)
        versions = {
            "unsorted": params,
            "by magnitude": space.sort_params(params),
            "by loss": space.sort_params(params, lambda candidate: loss(candidate, scoring)),
        }
        outputs = {name: space.apply(each, validation[0][:256], largest) for name, each in versions.items()}
        size = float(jnp.abs(outputs["unsorted"]).max())
        return {
            name: {
                "accuracy": [measured(each, np.full(len(largest), choice)) for choice in (2, 1, 0)],
                "difference": float(jnp.abs(outputs[name] - outputs["unsorted"]).max()) / size,
            }
            for name, each in versions.items()
        }

    found = [results.get(f"seed {seed}", functools.partial(one, seed)) for seed in range(config.seeds)]
    for name in found[0]:
        kept = np.asarray([each[name]["accuracy"] for each in found])
        shown = ", ".join(
            f"{share:.0%} of units {mean:.1%} (seeds {' '.join(f'{value:.1%}' for value in column)})"
            for share, mean, column in zip((1, *SHARES), kept.mean(0), kept.T)
        )
        difference = max(each[name]["difference"] for each in found)
        console.print(f"{name}: {shown}; outputs of all units differ by {difference:.1e} at most")


def speed(config: Config, console: Console) -> None:
    """A step on masked architectures against one on unmasked models, and the time to build the space."""
    splits, results = stdlib_language_model.data(), Results(config.out)
    started = time.perf_counter()
    space = stdlib_language_model.space(splits[0])
    built = results.get("seconds to build the space", lambda: time.perf_counter() - started)
    samples, batch = 4, jnp.asarray(splits[0][: config.batch_size])
    params = space.init_params(jax.random.key(0))
    stacked = jax.tree.map(lambda leaf: jnp.stack([leaf] * samples), params)
    archs = jnp.asarray(space.sample_uniform(np.random.default_rng(0), samples))
    model = space.model(space.choices.largest)

    def masked(params: Any, arch: jax.Array) -> jax.Array:
        return stdlib_language_model.loss(space.apply(params, batch[:, :-1], arch), batch)

    def unmasked(params: Any) -> jax.Array:
        return stdlib_language_model.loss(model.apply({"params": params}, batch[:, :-1]), batch)

    together = jax.jit(jax.grad(lambda params: jax.vmap(masked, (None, 0))(params, archs).mean()))
    in_turn = jax.jit(jax.grad(lambda params: jax.lax.map(lambda arch: masked(params, arch), archs).mean()))
    apart = jax.jit(jax.grad(lambda stacked: jax.vmap(unmasked)(stacked).mean()))
    programs = {}
    for name, step, argument in (
        ("masked, vmap", together, params),
        ("masked, one after the other", in_turn, params),
        ("unmasked, vmap", apart, stacked),
    ):

        def run(step: Callable[[Any], Any] = step, argument: Any = argument) -> None:
            jax.block_until_ready(step(argument))

        begun = time.perf_counter()
        run()
        programs[name] = measure.Program(run, 1, time.perf_counter() - begun)
    seconds = results.get("seconds of a step", lambda: measure.alternate(programs, config.rounds))
    for name, value in seconds.items():
        console.print(f"{name}: {value:.3f} s a step, {value / seconds['unmasked, vmap']:.2f} of unmasked under vmap")
    console.print(f"the space is built in {built:.1f} s")


if __name__ == "__main__":
    cli.run(main, Config)
