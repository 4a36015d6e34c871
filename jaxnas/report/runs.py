"""What a report is made of: searches read from their folders, tables of true errors, and baselines found on these."""

import dataclasses
import os
import pathlib
from collections.abc import Sequence

import numpy as np

from jaxnas import tasks
from jaxnas.cost import AdditiveCost
from jaxnas.export import saved
from jaxnas.export.card import CARD
from jaxnas.export.training import STARTS, SUMMARY
from jaxnas.report.wording import costs_of, searched_cost, total
from jaxnas.results.history import History, read_history
from jaxnas.results.json_files import read_json
from jaxnas.results.metrics_log import read_whole_lines
from jaxnas.results.result import FoundArchitecture, SearchResult, read_result, space_of
from jaxnas.results.settings_tree import INPUTS
from jaxnas.search import device_tables
from jaxnas.spaces import SearchSpace, memory

# Sizes beyond these make a page that no browser shows, or need more memory than there is.
MOST_FOLDERS = 100
MOST_NETWORKS = 10_000  # of all runs together
MOST_RECORDS = 1_000_000  # of a metrics.jsonl
LARGEST_LOG = 2**30  # bytes
EXPORT_SUFFIXES = (".stablehlo", ".onnx", ".safetensors")


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
    """One search.

    Attributes:
      name: of its folder.
      folder: that it wrote into.
      result: what it found.
      space: its search space, see `space_of`, with measured latency if the folder has it; None where it is not known.
      history: its curves; None without a metrics.jsonl.
      exports: exported files of each network by k, only those that exist.
      tested: by k, test accuracies in [0, 1] of the network trained from scratch, one for each seed.
      damaged_lines: of metrics.jsonl, which the curves lack.
    """

    name: str
    folder: pathlib.Path
    result: SearchResult
    space: SearchSpace | None
    history: History | None
    exports: dict[int, tuple[pathlib.Path, ...]]
    tested: dict[int, tuple[float, ...]]
    damaged_lines: int = 0

    @property
    def found(self) -> Sequence[FoundArchitecture]:
        """The networks."""
        return self.result.architectures

    @property
    def cost(self) -> str:
        """What the search penalised or gave budgets of, where the choices' costs are known."""
        of_the_space = () if self.space is None else (cost.name for cost in self.space.costs)
        names = (searched_cost(self.result), "macs", *of_the_space)
        return next((name for name in names if self.knows(name)), "macs")

    def knows(self, cost: str) -> bool:
        """Whether the costs of single choices are known; a choice has none of its own where sizes multiply."""
        costs = () if self.space is None else self.space.costs
        return any(each.name == cost and isinstance(each, AdditiveCost) for each in costs)


@dataclasses.dataclass(frozen=True, eq=False)
class Baseline:
    """One method of a `tabular_search`: its networks, the median over seeds for each penalty.

    Attributes:
      name: of the method, with its folder.
      penalties: [K].
      archs: int [M, K, D], the networks of all seeds.
    """

    name: str
    penalties: tuple[float, ...]
    archs: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Truth:
    """A table of true errors.

    Attributes:
      name: of its file.
      archs: int [N, D].
      error: float [N], in [0, 1].
    """

    name: str
    archs: np.ndarray
    error: np.ndarray

    def covers(self, space: SearchSpace | None) -> bool:
        """Whether the table is of this space: as many choices for each decision."""
        return space is not None and tuple((self.archs.max(0) + 1).tolist()) == space.num_choices

    def errors(self, archs: np.ndarray) -> np.ndarray:
        """Errors of architectures: int [..., D] -> float [...]."""
        return self.error.reshape(tuple(self.archs.max(0) + 1))[tuple(np.moveaxis(np.asarray(archs), -1, 0))]


def read_folders(folders: Sequence[str | os.PathLike]) -> tuple[list[Run], list[Baseline]]:
    """Reads the folders of searches and of comparisons on tables.

    Raises:
      ValueError: if a folder holds neither, a file in it is broken, or there is no search among them.
    """
    runs: list[Run] = []
    baselines: list[Baseline] = []
    if len(folders) > MOST_FOLDERS:
        raise ValueError(f"a report is of at most {MOST_FOLDERS} folders, got {len(folders)}; make several")
    for folder in map(pathlib.Path, folders):
        if folder.is_file():
            raise ValueError(f"{folder} is a file; give the folder of a search, which holds its result.json")
        compared = _methods(folder / "result.json")
        if compared is None:
            runs.append(_read_run(folder))
        else:
            baselines += compared
    if not runs:
        raise ValueError("a report needs the folder of at least one search of experiments.cifar_search")
    networks = sum(len(run.found) for run in runs)
    if networks > MOST_NETWORKS:
        raise ValueError(f"a report is of at most {MOST_NETWORKS:,} networks, the folders hold {networks:,}")
    names = [run.name for run in runs]
    if len(set(names)) < len(names):  # Equal names say nothing: take whole paths.
        runs = [dataclasses.replace(run, name=str(run.folder)) for run in runs]
    return runs, baselines


def read_truth(path: str | os.PathLike) -> Truth:
    """Reads a table of true errors, see `tasks.read_table`; OSError or ValueError if it is none."""
    table = tasks.read_table(path, "error")  # Costs come from the space.
    return Truth(pathlib.Path(path).name, table.archs, table.error)


def _read_run(folder: pathlib.Path) -> Run:
    result = read_result(folder / "result.json")
    if not result.architectures:
        raise ValueError(f"{folder / 'result.json'} holds no architectures")
    try:
        space = space_of(result)
        if space is not None:
            space = device_tables.added_to(space, device_tables.kept(folder, result.config.get(INPUTS)))
            space = _with_memory(space, result)
    except ValueError as error:
        raise ValueError(f"{folder / 'result.json'}: {error}") from error
    for found in result.architectures:
        if not all(type(value) in (int, float) for value in (found.budgets or {}).values()):
            raise ValueError(f"{folder / 'result.json'}: budgets must be numbers, got {dict(found.budgets)!r:.60}")
    history, damaged = None, 0
    log = folder / "metrics.jsonl"
    if log.exists():
        try:
            size = log.stat().st_size
            if size > LARGEST_LOG:
                raise ValueError(f"it has {size:,} bytes, at most {LARGEST_LOG:,} are read")
            records, damaged = read_whole_lines(log)
            if len(records) > MOST_RECORDS:
                raise ValueError(f"it has {len(records):,} records, at most {MOST_RECORDS:,} are drawn")
            history = read_history(records, len(result.architectures))
        except ValueError as error:
            raise ValueError(f"{log}: {error}") from error
        if len(history.theta) and space is not None:
            _check_theta(history.theta, space, log)
    name = folder.resolve().name
    exports = {found.k: _exports(folder / "exports" / f"k{found.k}") for found in result.architectures}
    tested = _tested(folder / "retrained")
    return Run(name, folder, result, space, history, exports, tested, damaged)


def _with_memory(space: SearchSpace, result: SearchResult) -> SearchSpace:
    """The space with those costs of memory that the search knew of its networks."""
    for name in memory.NAMES:
        if name in costs_of(result.architectures):
            # The networks themselves say of how many bits: a search of one call does not keep them.
            found = result.architectures[0]
            of_a_byte = memory.added_to(space, [name], 8, 8).cost(name).total(found.encoding)
            bits = 8 * total(found, name) / of_a_byte
            space = memory.added_to(space, [name], bits, bits)
    return space


def _tested(folder: pathlib.Path) -> dict[int, tuple[float, ...]]:
    """What `experiments.retrain` wrote about its networks; nothing if it was not run."""
    path = folder / SUMMARY
    if not path.exists():
        return {}
    try:
        networks = read_json(path)
        tested = {int(network["k"]): tuple(map(float, network["test_accuracy_scratch"])) for network in networks}
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path} is no summary of trained networks, or damaged") from error
    for k, accuracies in tested.items():
        # The summary has no digest, the networks' own descriptions have one.
        trained = sorted(each.parent for each in folder.glob(f"k{k}/{STARTS['scratch']}*/{saved.DESCRIPTION}"))
        known = tuple(saved.read_description(each).test_accuracy for each in trained)
        if len(known) >= len(accuracies) and not set(accuracies) <= set(known):
            raise ValueError(f"{path} is damaged, or not of the networks beside it: those of {k} have other accuracies")
    return tested


def _check_theta(theta: np.ndarray, space: SearchSpace, log: pathlib.Path) -> None:
    if theta.shape[2:] != (len(space.decisions), space.max_choices):
        expected = [len(space.decisions), space.max_choices]
        raise ValueError(f"{log}: theta of {space.name} must be [K, D, C] with D, C = {expected}, is {theta.shape[1:]}")


def _exports(folder: pathlib.Path) -> tuple[pathlib.Path, ...]:
    if not folder.is_dir():
        return ()
    return tuple(sorted(path for path in folder.iterdir() if path.suffix in EXPORT_SUFFIXES or path.name == CARD))


def _methods(path: pathlib.Path) -> list[Baseline] | None:
    """The methods of a comparison on a table; None if the file is none, whatever else it may be."""
    try:
        document = read_json(path)
    except (OSError, ValueError):
        return None
    if not isinstance(document, dict) or not isinstance(document.get("methods"), dict) or "table" not in document:
        return None
    baselines = []
    for name, method in document["methods"].items():
        if name.startswith("independent@"):  # "independent" is one of these: both would lie on one another.
            continue
        try:
            archs = np.array(method["encodings"], np.int64)
            penalties = tuple(float(penalty) for penalty in document["penalties"])
            if archs.ndim != 3 or archs.shape[1] != len(penalties) or archs.min() < 0:
                raise ValueError(f"encodings of shape {archs.shape} for {len(penalties)} penalties")
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"{path} is a damaged result of tabular_search: method {name!r} ({error})") from error
        baselines.append(Baseline(f"{name} ({path.parent.name})", penalties, archs))
    return baselines
