"""From the architectures that a search found to networks that are trained: its last phase, see `finishing`.

The networks go on from the weights of the supernet, at its width and image size, and learn on all training images: what
the distributions learned on is not needed any more. Afterwards the statistics of batch norm are estimated anew for each
network, with the averaged weights, and each is tested, once.

FOLDER/finishing/search.json   what the search found, on which this phase stands
FOLDER/finishing/1900/         checkpoints, by the steps of all phases
"""

import dataclasses
import functools
import itertools
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxnas import data, networks
from jaxnas.data import parts
from jaxnas.networks.blocks import STATISTICS_MOMENTUM
from jaxnas.results.files import to_plain
from jaxnas.results.result import SearchResult, from_document, read_result
from jaxnas.runtime import devices
from jaxnas.runtime.checkpoints import Checkpoints
from jaxnas.search import build, loop
from jaxnas.search.config import SearchConfig, StreamedConfig
from jaxnas.search.finishing import Finishing, FinishState
from jaxnas.search.images import CrossEntropy
from jaxnas.search.network_steps import Score
from jaxnas.search.recipes import RetrainSettings
from jaxnas.search.search import Search
from jaxnas.search.settings import FinishSettings
from jaxnas.search.sources import InMemory, Source
from jaxnas.search.steps import State
from jaxnas.search.training_data import InMemoryData, StreamedData, TrainingData
from jaxnas.spaces import SearchSpace

FOLDER, FOUND = "finishing", "search.json"


@dataclass(frozen=True, eq=False)
class FinishedNetworks:
    """K trained networks that share weights.

    Attributes:
      space: of their architectures, at their width, image size and number of classes.
      archs: K of them.
      shared: arrays of weights, each once.
      recipes: for each network, which of them are its own; see `networks.sharing`.
      batch_stats: for each network.
      scores: for each network, on the test images.
      images: what they were trained and tested on.
    """

    space: SearchSpace
    archs: tuple[tuple[int, ...], ...]
    shared: chex.ArrayTree
    recipes: tuple[networks.Recipe, ...]
    batch_stats: tuple[chex.ArrayTree, ...]
    scores: tuple[Score, ...]
    images: TrainingData

    def variables(self, k: int) -> dict[str, Any]:
        """The "params" and "batch_stats" of network k."""
        return {"params": networks.take(self.shared, self.recipes[k]), "batch_stats": self.batch_stats[k]}

    def tested(self, result: SearchResult, seconds: float) -> SearchResult:
        """The result of the search with the test accuracies of the networks, and the seconds that all took."""
        found = tuple(
            dataclasses.replace(one, test_accuracy=float(score.accuracy))
            for one, score in zip(result.architectures, self.scores)
        )
        return dataclasses.replace(result, architectures=found, wall_seconds=seconds)


def open_training_data(config: SearchConfig, images: build.Images, search: Search) -> TrainingData:
    """What the networks of a search will be trained and tested on, with its image size and normalisation.

    Raises:
      ValueError: if a class has too few images, or the space has no networks.
    """
    networks.network_type(search.supernet.space)
    if isinstance(config, StreamedConfig):
        chosen = parts.training_parts(images, build.search_parts(config, images), config.streams.test_fraction)
        normalization = data.Normalization(search.prepare.mean, search.prepare.std)
        return StreamedData(config, chosen.train, chosen.tested, chosen.searched, normalization)
    return InMemoryData(data.resize_dataset(images, config.data.image_size))


@dataclass(frozen=True, eq=False)
class NetworkFinishing:
    """The finishing of the networks that a search on images found.

    Attributes:
      search: which found them.
      archs: K architectures.
      images: to train and test on.
      settings: of this phase.
      seed: of the order of images that are streamed.
    """

    search: Search
    archs: tuple[tuple[int, ...], ...]
    images: TrainingData
    settings: FinishSettings
    seed: int

    @functools.cached_property
    def distinct(self) -> tuple[tuple[int, ...], ...]:
        """The architectures, each once: two distributions may have found the same network, which is trained once."""
        return tuple(dict.fromkeys(self.archs))

    @functools.cached_property
    def which(self) -> tuple[int, ...]:
        """For each of the K networks its number among `distinct`."""
        return tuple(self.distinct.index(arch) for arch in self.archs)

    @property
    def space(self) -> SearchSpace:
        """The search space at the supernet's width, image size and number of classes."""
        return self.search.supernet.space

    @functools.cached_property
    def _networks(self) -> tuple[nn.Module, ...]:
        axis = getattr(self.search.supernet, "axis_name", None)
        options = {} if axis is None else {"axis_name": axis}
        return tuple(networks.build(self.space, arch, **options) for arch in self.distinct)

    def prepare(
        self, params: chex.ArrayTree, key: jax.Array
    ) -> tuple[Finishing, FinishState, Sequence[networks.Recipe]]:
        """What trains the networks, the state before its first step, and how each network takes its weights.

        Args:
          params: weights of the supernet, one copy.
          key: random key of this phase.
        """
        shared, recipes = networks.share(self.space, self.distinct, params)
        search = self.search
        cost = next((cost for cost in self.space.costs if cost.name == "macs"), self.space.costs[0])

        def member(network: nn.Module, recipe: networks.Recipe, params: chex.ArrayTree, inputs: jax.Array) -> jax.Array:
            return networks.in_training(network, networks.take(params, recipe), inputs)

        finishing = Finishing(
            tuple(functools.partial(member, *pair) for pair in zip(self._networks, recipes)),
            self._source(augment=True),
            self.settings,
            search.settings,
            search.prepare,
            CrossEntropy(self.settings.finish_label_smoothing),
            teacher=int(np.argmax(cost.total(np.array(self.distinct)))),
            which=self.which,
            first_step=search.total_steps,
            placement=search.placement,
        )
        return finishing, finishing.init(shared, key), recipes

    def end(self, state: FinishState, recipes: Sequence[networks.Recipe]) -> FinishedNetworks:
        """Estimates the statistics of batch norm, and tests the networks; every process must call it."""
        statistics = self._statistics(state.average, recipes)
        settings = RetrainSettings(batch_size=self._batch_size, crop_padding=0)  # of which testing needs the first
        shared = jax.device_get(state.average)
        scores = []
        for arch, recipe, own in zip(self.distinct, recipes, statistics):
            network = networks.build(self.space, arch)
            trainer = self.images.trainer(network, settings, self.seed, 0)
            scores.append(trainer.test({"params": networks.take(shared, recipe), "batch_stats": own}))
        each = [(recipes[u], statistics[u], scores[u]) for u in self.which]
        return FinishedNetworks(self.space, self.archs, shared, *map(tuple, zip(*each)), self.images)

    @property
    def _batch_size(self) -> int:
        """Images that are worked on at once, on all devices together."""
        return self.search.settings.batch_size // self.search.settings.accumulate

    def _source(self, augment: bool) -> Source:
        return self.images.source(self._batch_size, self.seed, augment)

    def _statistics(self, params: chex.ArrayTree, recipes: Sequence[networks.Recipe]) -> tuple[chex.ArrayTree, ...]:
        """Means and variances of each layer's inputs, averaged over minibatches of images as they are tested."""
        placement, size = self.search.placement, self.search.placement.count
        image = jax.ShapeDtypeStruct((self._batch_size // size, *[self.space.image_size] * 2, 3), jnp.float32)

        def of_network(network: nn.Module, recipe: networks.Recipe, params: chex.ArrayTree, inputs: jax.Array) -> Any:
            shapes = jax.eval_shape(network.init, jax.random.key(0), image)["batch_stats"]
            # From 0 a layer's averages become 1 - momentum times the statistics of the minibatch.
            zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
            variables = {"params": networks.take(params, recipe), "batch_stats": zeros}
            _, updated = network.apply(variables, inputs, train=True, mutable=["batch_stats"])
            return jax.tree.map(lambda leaf: leaf / (1 - STATISTICS_MOMENTUM), updated["batch_stats"])

        def of_all(params: chex.ArrayTree, minibatches: Any, unused: None) -> tuple[chex.ArrayTree, ...]:
            del unused
            inputs = self.search.prepare(jax.tree.map(lambda leaf: leaf[0], minibatches), None)
            return placement.average(tuple(of_network(*pair, params, inputs) for pair in zip(self._networks, recipes)))

        program = placement.compile(of_all)
        placed, total, count = placement.put(params), None, 0
        with devices.noticing_lost_processes():
            for minibatch in self._minibatches():
                minibatches = placement.spread(jax.tree.map(lambda leaf: np.asarray(leaf)[None], minibatch))
                found = jax.device_get(placement.get(program(placed, minibatches, None)))
                total = found if total is None else jax.tree.map(np.add, total, found)
                count += 1
        return jax.tree.map(lambda leaf: leaf / np.float32(count), total)

    def _minibatches(self) -> Iterator[Any]:
        """Minibatches of training images as they are tested: this process's part of each."""
        source, size = self._source(augment=False), self._batch_size
        count = min(self.settings.finish_batches, max(len(source) // size, 1))
        if not isinstance(source, InMemory):
            yield from itertools.islice(source.batches(0), count)
            return
        order = np.random.default_rng(self.seed).permutation(len(source))
        for number in range(count):
            yield source.take(order[number * size : (number + 1) * size])


def finish(
    finishing: NetworkFinishing,
    found: State,
    workdir: Path,
    *,
    checkpoint_seconds: float,
    listeners: Sequence[loop.Listener],
    report: bool,
) -> tuple[FinishedNetworks, float]:
    """Trains the networks to the end from the newest checkpoint of this phase, and tests them.

    Args:
      finishing: the networks.
      found: the state at the end of the search, one copy.
      workdir: folder of the search.
      checkpoint_seconds: as of `loop.run`.
      listeners: likewise.
      report: likewise.

    Returns:
      The networks, and the seconds that search and finishing took.
    """
    key = jax.random.fold_in(found.key, found.step + 1)  # the answer took the one before
    trainer, first, recipes = finishing.prepare(found.params, key)
    with Checkpoints(workdir / FOLDER) as checkpoints:
        state, seconds = loop.run(
            trainer,
            first,
            workdir,
            checkpoints,
            checkpoint_seconds=checkpoint_seconds,
            listeners=listeners,
            report=report,
            first_step=finishing.search.total_steps,
        )
    return finishing.end(state, recipes), seconds


def begin(workdir: Path, config: Mapping[str, Any], summarise: Callable[[], SearchResult]) -> SearchResult:
    """What the search found, as it stood when its finishing began; all processes together, process 0 has the folder.

    A finishing of other settings, or of a search that was shorter, begins anew.

    Args:
      workdir: folder of the search.
      config: of the result that is wanted.
      summarise: gives the result where there is none yet; called by every process.
    """
    text = devices.from_first(lambda: _kept(workdir / FOLDER / FOUND, config))
    if text:
        return from_document(json.loads(text))
    result = summarise()

    def write() -> None:
        if devices.is_host_zero():
            shutil.rmtree(workdir / FOLDER, ignore_errors=True)
            (workdir / FOLDER).mkdir()
            for path in (workdir / "result.json", workdir / FOLDER / FOUND):
                result.write(path)

    devices.together(write)
    return result


def _kept(path: Path, config: Mapping[str, Any]) -> str:
    """The result in a file as JSON; nothing if there is none of this configuration."""
    try:
        result = read_result(path)
    except ValueError:
        return ""
    return json.dumps(to_plain(result)) if dict(result.config) == json.loads(json.dumps(config)) else ""
