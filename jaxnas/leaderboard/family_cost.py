"""What a family of K networks costs: one search for all of them against K searches, on images.

Four ways to K networks of different complexity (arms), each at several shares of the cost of one search as the given
configuration has it:

one        one search, K distributions;
shared     K searches with one distribution each, which together cost as much as `one`;
separate   K searches with one distribution each, each of which costs as much as `one`;
searched   the supernet of `one`, trained under uniform architectures, then constrained evolution for K budgets with all
           that is left of the cost of `one` (Cai et al., "Once-for-All", arXiv 1908.09791; two stages only).

The cost is counted in forward passes of one image through one network, a gradient as three, evaluations included.
Searches have two stages, weights before distributions, or joint steps alone: (n, 0, m) or (0, n, 0) of METHOD's phases.
`shared` at one share is `separate` at a K-th of it, and the same runs serve both.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxnas import metrics
from jaxnas.leaderboard.supernet_problem import BACKWARD
from jaxnas.results import SearchResult, read_result, settings_tree
from jaxnas.results.files import write_json
from jaxnas.results.json_files import read_json
from jaxnas.search.build import build, choose_strategy
from jaxnas.search.config import SearchConfig
from jaxnas.search.execute import execute
from jaxnas.search.search import Search
from jaxnas.selection.main_effects import GROUP
from jaxnas.strategies import ConstrainedEvolution
from jaxnas.tasks.finished_search import load_supernet
from jaxnas.tasks.judge import distance_to_front
from jaxnas.tasks.tabular import TabularTask

ARMS = ("one", "shared", "separate", "searched")
PHASES = ("two_stage", "joint")
JOINT_SAMPLES = 4  # S of a joint step: few, since each step trains the weights of one sample for the price of three


@dataclass(frozen=True)
class Point:
    """One arm of one seed at one share of the cost.

    Attributes:
      arm: one of `ARMS`.
      phases: one of `PHASES`.
      share: of the cost of `one` as the configuration has it, which all arms but `separate` are to cost.
      seed: of the searches.
    """

    arm: str
    phases: str
    share: float
    seed: int


@dataclass(frozen=True)
class Family(Point):
    """What an arm found.

    Attributes:
      arm, phases, share, seed: as of `Point`.
      cost: forward passes of an image through a network.
      encodings: K architectures, D choices each.
      errors: their true errors.
      costs: their costs in the table's unit.
      distance: mean over the K networks, of the true error to the least that costs no more.
      hypervolume: of true errors and scaled costs.
    """

    cost: float
    encodings: tuple[tuple[int, ...], ...]
    errors: tuple[float, ...]
    costs: tuple[float, ...]
    distance: float
    hypervolume: float


def points(arms: Sequence[str], phases: Sequence[str], shares: Sequence[float], seeds: Sequence[int]) -> list[Point]:
    """All there is to run, the cheapest first, so that a run that is cut short has something to say.

    Raises:
      ValueError: on an unknown name, or a share that is not positive.
    """
    for name, given, known in (("arms", arms, ARMS), ("phases", phases, PHASES)):
        for each in given:
            if each not in known:
                raise ValueError(f"{name} must be of {', '.join(known)}, got {each!r}")
    if not all(share > 0 for share in shares):
        raise ValueError(f"shares must be positive, got {' '.join(map(str, shares))}")
    wanted = [
        Point(arm, phase, share, seed)
        for share in sorted(shares)
        for seed in seeds
        for phase in phases
        for arm in arms
        if (arm, phase) != ("searched", "joint")
    ]
    return sorted(wanted, key=lambda point: point.share * (4 if point.arm == "separate" else 1))  # stable


@dataclass(frozen=True, eq=False)
class Study:
    """All arms on one space and data set, judged by a table of true errors.

    Attributes:
      config: the whole search, with the penalties of the K networks.
      task: true errors and costs of all networks of its space.
      out: folder that keeps every search; one that is finished is not run again, one that was cut short is resumed.

    Raises:
      ValueError: on settings that make no search, or a table of another space.
    """

    config: SearchConfig
    task: TabularTask
    out: Path

    def __post_init__(self):
        if self._search.strategy.space.num_choices != self.task.space.num_choices:
            raise ValueError(
                f"table must be of space {self.config.space.space!r}, whose decisions have "
                f"{self._search.strategy.space.num_choices} choices, got {self.task.space.num_choices}"
            )

    @functools.cached_property
    def _search(self) -> Search:
        return build(self.config)

    @property
    def penalties(self) -> tuple[float, ...]:
        """eps_k of the K networks."""
        return self.config.method.penalties

    def scaled(self, phases: str, share: float, penalties: Sequence[float]) -> SearchConfig:
        """A search with a share of the configuration's steps and compared networks, for these penalties.

        A joint search has as many steps as cost what the two stages would.
        """
        config, training = self.config, self.config.training
        effects = _uniform(config)
        compared = max(1, round(self._compared(config) * share / len(penalties)))
        changes: dict[str, Any] = {
            "finish_steps": 0,  # the arms are compared by what they find
            "penalties": tuple(penalties),
            "candidates": compared if effects else compared - 1,
            "main_effects": round(effects / GROUP * share) * GROUP or min(effects, GROUP),
            "weight_steps": max(1, round(training.weight_steps * share)),
            "distribution_steps": max(1, round(training.distribution_steps * share)),
        }
        two_stage = settings_tree.replace(config, **changes)
        if phases == "two_stage":
            return two_stage
        changes |= {"samples": -(-JOINT_SAMPLES // len(penalties)), "weight_steps": 0, "distribution_steps": 0}
        one_step = settings_tree.replace(config, **changes | {"joint_steps": 1})
        steps = self.step_cost(two_stage) / self.step_cost(one_step)
        return settings_tree.replace(config, **changes | {"joint_steps": max(1, round(steps))})

    def weights_cost(self, config: SearchConfig) -> float:
        """What the gradients of a search cost, in forward passes of an image through a network."""
        training = config.training
        steps = training.weight_steps + training.joint_steps
        return (1 + BACKWARD) * steps * training.batch_size * (training.weight_samples or self._samples(config))

    def step_cost(self, config: SearchConfig) -> float:
        """What all steps of a search cost, in the same unit."""
        training = config.training
        steps = training.joint_steps + training.distribution_steps
        return self.weights_cost(config) + steps * training.valid_batch_size * self._samples(config)

    def cost(self, config: SearchConfig) -> float:
        """What a search costs with the evaluations at its end, in the same unit."""
        uniform = _uniform(config) * config.training.valid_batch_size
        return self.step_cost(config) + uniform + self._compared(config) * len(self._search.valid)

    def _compared(self, config: SearchConfig) -> int:
        """Networks that are compared at the end: candidates, and the modes unless main effects choose who competes."""
        method = config.method
        return len(method.penalties) * (method.candidates + (0 if _uniform(config) else 1))

    def _samples(self, config: SearchConfig) -> int:
        return choose_strategy(config, self._search.strategy.space).step_samples

    def run(self, wanted: Sequence[Point], announce: Callable[[str], None] = lambda text: None) -> Iterator[Family]:
        """Runs what was not run before, and judges it.

        Args:
          wanted: of `points`.
          announce: told what runs next.

        Yields:
          One result for each point, in order.

        Raises:
          ValueError: if the folder holds other searches.
        """
        for point in wanted:
            announce(f"{point.arm} ({point.phases}), share {point.share:g}, seed {point.seed}")
            archs, cost = self._evolved(point) if point.arm == "searched" else self._found(point)
            rows, table = self.task.rows(archs), self.task.cost
            yield Family(
                **dataclasses.asdict(point),
                cost=cost,
                encodings=tuple(tuple(map(int, arch)) for arch in archs),
                errors=tuple(self.task.true_error[rows].tolist()),
                costs=tuple((table.lowest + table.scaled[rows] * (table.highest - table.lowest)).tolist()),
                distance=float(distance_to_front(self.task, rows).mean()),
                hypervolume=float(metrics.hypervolume(self.task.true_error[rows], table.scaled[rows])),
            )

    def _found(self, point: Point) -> tuple[np.ndarray, float]:
        """The networks of one search, or of K, int [K, D], and their cost."""
        share = point.share / len(self.penalties) if point.arm == "shared" else point.share
        groups = [self.penalties] if point.arm == "one" else [(penalty,) for penalty in self.penalties]
        searches = [self._planned(point, share, group) for group in groups]
        archs = [found.encoding for config in searches for found in _result(config).architectures]
        return np.asarray(archs, np.int32), sum(map(self.cost, searches))

    def _planned(self, point: Point, share: float, penalties: Sequence[float]) -> SearchConfig:
        # Searches with one distribution train supernets of their own, as they would without each other.
        alone = len(penalties) < len(self.penalties)
        seed = point.seed * (1 + len(self.penalties)) + (1 + self.penalties.index(penalties[0]) if alone else 0)
        name = f"penalty{penalties[0]:g}" if alone else "all"
        workdir = self.out / point.phases / f"share{share:g}" / f"seed{point.seed}" / name
        return settings_tree.replace(self.scaled(point.phases, share, penalties), workdir=workdir, seed=seed)

    def _evolved(self, point: Point) -> tuple[np.ndarray, float]:
        """Constrained evolution on the supernet of `one`, whose distributions it does not use."""
        config = self._planned(point, point.share, self.penalties)
        _result(config)
        method = ConstrainedEvolution(self._search.strategy.space, self.penalties, cost=self._search.strategy.cost)
        step, size = method.step_samples, config.training.valid_batch_size
        weights = self.weights_cost(config)
        evaluations = max(1, round((self.cost(config) - weights) / (size * step))) * step
        path = config.run.workdir / "constrained.json"
        if path.exists():
            document = read_json(path)
            if document["evaluations"] != evaluations:
                raise ValueError(f"{path} is of another search; choose another folder")
            archs = np.asarray(document["encodings"], np.int32)
        else:
            archs = load_supernet(config.run.workdir, config.data.data_dir).run(method, evaluations, config.run.seed)
            write_json(path, {"evaluations": evaluations, "encodings": archs.tolist()})
        return archs, weights + evaluations * size


def _uniform(config: SearchConfig) -> int:
    """Uniform networks that are evaluated at the end for their main effects, in whole groups."""
    return -(-config.method.main_effects // GROUP) * GROUP if config.method.candidates else 0


def _result(config: SearchConfig) -> SearchResult:
    path = config.run.workdir / "result.json"
    if path.exists():
        return read_result(path)
    result = execute(config).result
    jax.clear_caches()  # compiled programs are memory maps, of which a process may have some ten searches' worth
    return result
