"""A supernet that methods search on, what that costs, and the judge that none of them has touched.

The unit of all costs is one evaluation: one architecture's loss on one minibatch of the validation split. Work is
counted in images that pass through one path of the network: a gradient counts three forward passes, and a mixture of
all choices as many as a decision has choices on average.

The judge is a supernet of the same kind, trained with a seed of its own on the same images. It scores every network of
the space on the test images, which makes a table: true errors in the sense of this problem, and not those of networks
trained alone.
"""

import dataclasses
from dataclasses import dataclass

import numpy as np

from jaxnas import data
from jaxnas.search.search import Search
from jaxnas.search.sources import InMemory
from jaxnas.strategies.base import Cost
from jaxnas.tasks.supernet import FrozenSupernet
from jaxnas.tasks.tables import Table
from jaxnas.tasks.tabular import TabularTask

BACKWARD = 2  # a gradient's backward pass in forward passes
JUDGED = 100_000  # networks that a judge scores at most
AT_ONCE = 500  # networks in one program of the judge


@dataclass(frozen=True, eq=False)
class SupernetProblem:
    """What every method is given on a supernet.

    Attributes:
      supernet: weights trained under uniform architectures, which methods may use as they are.
      seed: of this problem; methods draw their keys from it.
      penalties: eps_k.
      cost: scaled cost R(c).
      evaluations: what a method may spend beside the supernet's training.
    """

    supernet: FrozenSupernet
    seed: int
    penalties: tuple[float, ...]
    cost: Cost
    evaluations: int

    @property
    def search(self) -> Search:
        """Data, supernet and settings."""
        return self.supernet.search

    @property
    def training(self) -> float:
        """What the supernet's training cost, in evaluations."""
        settings = self.search.settings
        architectures = settings.weight_samples or len(self.penalties) * self.search.strategy.samples
        passes = (1 + BACKWARD) * settings.weight_steps * architectures
        return passes * settings.batch_size / settings.valid_batch_size

    @property
    def total(self) -> float:
        """What each method may spend in all, where it trains weights of its own."""
        return self.training + self.evaluations

    def mixture(self, images: int, gradient: bool = False) -> float:
        """The cost of a mixture of all choices on so many images, in evaluations."""
        choices = float(np.mean(self.search.strategy.space.num_choices))
        return choices * (1 + BACKWARD * gradient) * images / self.search.settings.valid_batch_size


@dataclass(frozen=True)
class Outcome:
    """What one search on one problem found.

    Attributes:
      archs: int32 [K, D], a network for each penalty.
      spent: in evaluations, the training of all weights included.
    """

    archs: np.ndarray
    spent: float


def train(search: Search, seed: int) -> FrozenSupernet:
    """Trains a supernet under uniform architectures: the weights' phase of a search, and no more."""
    for state, _, _ in search.run(search.init(seed)):
        if int(state.step) >= search.settings.weight_steps:
            return FrozenSupernet(search, state.params)
    raise ValueError("search must have steps of the distributions after those of the weights, and has none")


def score_all(supernet: FrozenSupernet, test: data.Examples, cost: Cost, name: str) -> TabularTask:
    """All networks of the space, scored on test images by a supernet.

    Args:
      supernet: the judge.
      test: images that no search has seen.
      cost: scaled cost R(c).
      name: of the space.

    Returns:
      A task whose error is 1 - exp(-loss): in [0, 1), in the order of the losses, and finer than wrong answers.

    Raises:
      ValueError: if the space is too large to be enumerated.
    """
    search = dataclasses.replace(supernet.search, valid=InMemory(test))
    space = search.strategy.space
    archs = space.enumerate(JUDGED)
    losses = []
    for start in range(0, len(archs), AT_ONCE):
        part = archs[start : start + AT_ONCE]
        padded = np.concatenate([part, np.repeat(part[:1], AT_ONCE - len(part), axis=0)])  # one program for all parts
        losses.append(np.asarray(search.evaluate(supernet.params, padded).loss)[: len(part)])
    error = 1 - np.exp(-np.concatenate(losses, dtype=np.float64))
    table = Table.from_arrays(archs, error, np.asarray(cost(archs), np.float64))
    return TabularTask.from_table(table, name=name)
