"""The networks that one search found, and what can be done with them: `Family`."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxnas.cost import Cost
from jaxnas.networks import latency
from jaxnas.report.wording import quantity, within
from jaxnas.results import tables
from jaxnas.results.evaluations import Evaluations
from jaxnas.results.history import read_history
from jaxnas.results.result import SearchResult
from jaxnas.selection import picking
from jaxnas.spaces import memory
from jaxnas.spaces.base import SearchSpace


@dataclass(frozen=True, eq=False)
class Member:
    """One of the networks that a search found; calling it with inputs gives its outputs.

    Attributes:
      k: its index.
      arch: D choice indices.
      hyperparameters: the keyword arguments of `make`.
      costs: its totals, by name, in the units of the costs.
      budgets: its budgets, by name; None in a search with penalties.
      loss: its loss on the whole validation split, batch norm with the statistics of each minibatch.
      metrics: the other metrics that the loss function returns, likewise.
      program: function from inputs to outputs in inference: dropout off, batch norm with running averages.
      params: its own parameters, in the form of its framework; None, as are `state` and `model`, where a family was
        loaded without `make`.
      state: its other variables, batch norm calibrated: Linen's collections, or an NNX module's state.
      model: the user's own model at its size; an NNX module holds `params` and `state`.
    """

    k: int
    arch: tuple[int, ...]
    hyperparameters: Mapping[str, Any]
    costs: Mapping[str, float]
    budgets: Mapping[str, float] | None
    loss: float
    metrics: Mapping[str, float]
    program: Callable[[Any], Any]
    params: Any = None
    state: Any = None
    model: Any = None

    def __call__(self, inputs: Any) -> Any:
        """Outputs of the network in inference: inputs of the search's shape, with any number of examples."""
        return self.program(inputs)


@dataclass(frozen=True, eq=False)
class Family(Sequence):
    """The networks that a search found, in the order of budgets or penalties.

    Attributes:
      space: the space of the search; in a loaded family only its decisions and costs, and with `make` its models.
      members: the K networks.
      result: the content of `result.json`.
      evaluations: every evaluation that the distributions learnt from.
      records: the records of `metrics.jsonl`, one for each step of the search.
      params: parameters of the largest model at the end of the search, which `space.extract` slices for other networks.
        None in a loaded family.
    """

    space: SearchSpace
    members: tuple[Member, ...]
    result: SearchResult
    evaluations: Evaluations
    records: tuple[Mapping[str, Any], ...] = ()
    params: Any = None

    def __len__(self) -> int:
        return len(self.members)

    def __getitem__(self, k: Any) -> Any:
        return self.members[k]

    def table(self) -> tables.Table:
        """One row for each network: budget or penalty, costs, loss, metrics and hyperparameters."""
        first = self.members[0]
        given = "penalty" if first.budgets is None else "budget"
        heads = ("k", tables.Column(given, "text"), *first.costs, "loss", *first.metrics)
        rows = [
            (
                str(member.k),
                within(found) if found.budgets else f"{found.penalty:.3g}",
                *(
                    quantity(name, total, time=self.space.cost(name).unit == latency.UNIT)
                    if self.space.cost(name).unit == latency.UNIT or name in memory.NAMES
                    else f"{total:,}"
                    for name, total in member.costs.items()
                ),
                f"{member.loss:.4g}",
                *(f"{value:.4g}" for value in member.metrics.values()),
                ", ".join(f"{name}={value!r}" for name, value in member.hyperparameters.items()),
            )
            for member, found in zip(self.members, self.result.architectures, strict=True)
        ]
        title = f"Networks found on {self.space.name}"
        return tables.Table(title, (*heads, tables.Column("hyperparameters", "text")), rows)

    def __str__(self) -> str:
        return self.table().markdown()

    def _repr_markdown_(self) -> str:
        """The table, as notebooks show it."""
        return str(self)

    def at(self, budgets: Mapping[str, Sequence[float]], costs: Sequence[Cost] = ()) -> list[picking.Pick]:
        """Networks for budgets that were not part of the search, without a new evaluation, in seconds.

        A model of the loss is fitted to the evaluations of the search, and its minimum within each budget is found
        exactly, see `jaxnas.selection.picking`. `space.extract(family.params, pick.encoding)` gives the weights of such
        a network.

        Args:
          budgets: {cost name: largest totals}, as in `search`.
          costs: further costs that budgets may name, such as the latency on another device.

        Returns:
          A network for each total, with its costs and its expected loss.

        Raises:
          ValueError: if a cost is not known, no network is within a budget, or there are too few evaluations.
        """
        return picking.pick(self.space, self.evaluations, by_network(budgets), (*self.space.costs, *costs))

    def front(self, cost: str = "macs") -> list[picking.Pick]:
        """The Pareto front of expected loss and a cost, from the cheapest network on, without a new evaluation."""
        return picking.front(self.space, self.evaluations, cost)

    def plot(self, path: str | os.PathLike | None = None, cost: str | None = None) -> Any:
        """Draws loss, or accuracy where the search measured it, against a cost.

        Args:
          path: of a picture to write; its suffix chooses the format (png, pdf, svg).
          cost: name of the cost; None for the cost of the search.

        Returns:
          The matplotlib figure.
        """
        from jaxnas.report.pareto import draw_pareto  # matplotlib takes a second to load
        from jaxnas.results.files import replacing

        figure = draw_pareto(self.result, cost)
        if path is not None:
            with replacing(path) as temporary:
                figure.savefig(temporary)
        return figure

    def report(self, path: str | os.PathLike) -> Path:
        """Writes one HTML file about the search, see `python -m experiments.report`.

        Args:
          path: of the file.
        """
        from jaxnas.report.page import write_report
        from jaxnas.report.runs import Run

        path = Path(path)
        name, history = self.result.space, read_history(self.records, len(self))
        space = getattr(self.space, "built_from", self.space)
        write_report(path, [Run(name, path.parent, self.result, space, history, exports={}, tested={})])
        return path

    def save(self, folder: str | os.PathLike) -> Path:
        """Writes the networks with their parameters; `jaxnas.load(folder, make=make)` gives them back.

        Args:
          folder: made if it is not there. It also gets `result.json`, `metrics.jsonl` and `evaluations.npz`, so that
            `python -m experiments.report FOLDER` works.

        Raises:
          ValueError: if the family was loaded without `make`.
        """
        from jaxnas.family.storing import save

        return save(self, Path(folder))

    def export(self, folder: str | os.PathLike) -> Path:
        """As `save`, and each network as StableHLO: `jaxnas.load(folder)` runs these without `make`.

        Args:
          folder: made if it is not there; the programs are its `exports/kK/model.stablehlo`.

        Raises:
          ValueError: if the family was loaded without `make`, or a model cannot be exported.
        """
        from jaxnas.family.storing import export

        return export(self, Path(folder))


def by_network(budgets: Mapping[str, Sequence[float]]) -> list[dict[str, float]]:
    """Budgets for each of the K networks, of budgets by cost.

    Raises:
      ValueError: if there is none, or not as many for each cost.

    >>> by_network({"macs": (1e6, 2e6), "params": (1e4, 1e4)})
    [{'macs': 1000000.0, 'params': 10000.0}, {'macs': 2000000.0, 'params': 10000.0}]
    """
    totals = {name: np.asarray(values, np.float64).reshape(-1).tolist() for name, values in budgets.items()}
    counts = {name: len(values) for name, values in totals.items()}
    if len(set(counts.values())) != 1 or 0 in counts.values():
        raise ValueError(f"budgets must hold as many totals for each cost, at least one, got {counts}")
    return [dict(zip(totals, row)) for row in zip(*totals.values())]
