"""A search of an MLP for regression: minibatches that hold no images, a loss that is no cross-entropy.

Run as a program it searches on all devices, from memory and from a stream, and saves what it found:

    XLA_FLAGS=--xla_force_host_platform_device_count=2 python -m tests.regression_search FILE.npz
"""

import dataclasses
import itertools
import sys
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from jaxnas import data
from jaxnas.cost import AdditiveCost
from jaxnas.runtime.placement import ALL_DEVICES, ONE_DEVICE
from jaxnas.search.sandwich import Teacher
from jaxnas.search.search import Search
from jaxnas.search.settings import SearchSettings
from jaxnas.search.sources import InMemory, Streamed
from jaxnas.spaces.base import Decision, SearchSpace
from jaxnas.strategies import ImportanceSampling

HIDDEN = 6
SPACE = SearchSpace(
    "mlp",
    (Decision("units", ("2", "6")), Decision("activation", ("none", "tanh"))),
    (AdditiveCost("units", "units", 0.0, ((2.0, 6.0), (0.0, 0.0))),),
)
SETTINGS = SearchSettings(
    weight_steps=3,
    joint_steps=4,
    distribution_steps=3,
    batch_size=8,
    valid_batch_size=12,
    learning_rate=0.1,
    steps_per_dispatch=3,
    accumulate=2,
)


class Perceptron:
    """One hidden layer: how many of its units are used, and their activation, are choices."""

    def init_params(self, key):
        first, second = jax.random.split(key)
        return {
            "in": {"kernel": jax.random.normal(first, (3, HIDDEN)), "bias": jnp.zeros(HIDDEN)},
            "out": {"kernel": jax.random.normal(second, (HIDDEN, 1))},
        }

    def apply(self, variables, inputs, arch):
        params = variables["params"]
        hidden = inputs["x"] @ params["in"]["kernel"] + params["in"]["bias"]
        hidden = jnp.where(arch[1] == 1, jnp.tanh(hidden), hidden)
        used = jnp.arange(HIDDEN) < jnp.array([2, HIDDEN])[arch[0]]
        return {"y": ((hidden * used) @ params["out"]["kernel"])[:, 0]}


def with_noise(batch, key):
    """Inputs as a pytree; in training with noise of its own for each example."""
    noise = 0.0 if key is None else 0.1 * jax.random.normal(key, batch["x"].shape)
    return {"x": batch["x"] + noise}


def squared_error(outputs, batch):
    error = outputs["y"] - batch["y"]
    return (error**2).mean(), {"absolute_error": jnp.abs(error).mean()}


def examples(count, seed):
    x = np.random.default_rng(seed).normal(size=(count, 3)).astype(np.float32)
    return {"x": x, "y": np.sin(x).sum(1)}


@dataclass(frozen=True)
class SameOrder:
    """A stream of the parts of the very minibatches that a search in memory takes."""

    examples: dict
    key: jax.Array
    batch_size: int

    def __len__(self):
        return len(self.examples["y"])

    def batches(self, start):
        def every():
            cursor = data.start(self.key, len(self))
            while True:
                indices, cursor = data.next_indices(self.key, cursor, self.batch_size * SETTINGS.accumulate)
                for part in np.asarray(indices).reshape(SETTINGS.accumulate, -1):
                    yield {name: values[part] for name, values in self.examples.items()}

        return itertools.islice(every(), start, None)


def in_memory(placement=ONE_DEVICE, prepare=with_noise):
    strategy = ImportanceSampling(SPACE, penalties=(0.01, 0.5), samples=2)
    sources = InMemory(examples(41, 0)), InMemory(examples(30, 1))
    return Search(strategy, Perceptron(), *sources, SETTINGS, prepare, squared_error, placement=placement)


def streamed(placement=ONE_DEVICE):
    """The same search from streams, and its state before the first step."""
    search = in_memory(placement, lambda batch, key: {"x": batch["x"]})
    state = search.init(0)
    sources = {
        name: Streamed(SameOrder(examples(count, seed), state.data_keys[seed], size // SETTINGS.accumulate))
        for seed, (name, count, size) in enumerate((("train", 41, 8), ("valid", 30, 12)))
    }
    return dataclasses.replace(search, **sources), state.replace(data_keys=None, train_cursor=None, valid_cursor=None)


def distance(outputs, targets):
    return ((outputs["y"] - targets["y"]) ** 2).mean()


def taught(placement=ONE_DEVICE, own=False, **changes):
    """With the sandwich rule and the dearest network as teacher, or with a teacher of one's own."""
    settings = dataclasses.replace(SETTINGS, sandwich=True, distillation=0.5, **changes)
    search = dataclasses.replace(in_memory(placement), settings=settings, soft_loss=distance)
    return dataclasses.replace(search, teacher=sum_of_sines()) if own else search


def sum_of_sines():
    """A teacher that knows the answer, times its parameter."""
    return Teacher(lambda params, inputs: {"y": params["scale"] * jnp.sin(inputs["x"]).sum(1)}, {"scale": np.ones(1)})


def trajectory(search, state, **options):
    """What a search measured, and where it ended: arrays by name."""
    records, done = [], int(state.step)
    for reached, phase, metrics in search.run(state, **options):
        state = reached
        records += search.records(done, state, phase, metrics)
        done = records[-1]["step"]
    names = ("train_loss", "train_absolute_error", "loss", "absolute_error")
    measured = {name: np.array([record[name] for record in records if name in record]) for name in names}
    params = {
        "/".join(key.key for key in path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(state.params)
    }
    evaluation = search.evaluate(state.params, np.array([[0, 0], [1, 1]]))
    return jax.device_get({**measured, **params, "theta": state.strategy.theta, "evaluation": evaluation.loss})


if __name__ == "__main__":
    memory, (stream, start) = in_memory(ALL_DEVICES), streamed(ALL_DEVICES)
    found = {"memory": trajectory(memory, memory.init(0)), "stream": trajectory(stream, start)}
    for name, own in (("taught", False), ("own", True)):
        search = taught(ALL_DEVICES, own)
        found[name] = trajectory(search, search.init(0))
    arrays = {f"{source} {name}": array for source, parts in found.items() for name, array in parts.items()}
    np.savez(sys.argv[1], devices=jax.device_count(), **arrays)
