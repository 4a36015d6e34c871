"""Both parts of a search of one call in its folder: the search itself, and the steps of the networks found."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxnas.report.progress import SearchDisplay, TrainingDisplay
from jaxnas.results.evaluations import Evaluations
from jaxnas.results.result import OWN_DATA, SearchResult
from jaxnas.runtime.checkpoints import Checkpoints
from jaxnas.search import loop
from jaxnas.search.answer import summarise
from jaxnas.search.execute import EvaluationsKeeper
from jaxnas.search.search import Search, SearchState

CANDIDATES = 16  # draws from each distribution that compete with its mode


@dataclass(frozen=True)
class Runner:
    """What runs both parts of a search in its folder.

    Attributes:
      described: what decides the search, JSON-ready.
      seed: of the search.
      checkpoint_seconds: between checkpoints.
      progress: whether to show it.
      listeners: what else follows it.
    """

    described: Mapping[str, Any]
    seed: int
    checkpoint_seconds: float
    progress: bool
    listeners: tuple[loop.Listener, ...]

    def find(self, run: Search, folder: Path) -> tuple[SearchState, SearchResult, Evaluations]:
        """The search itself: its last state, what it found, and every evaluation of its distributions."""
        display = (SearchDisplay.of(run.strategy, run.total_steps),) if self.progress else ()
        keeper = EvaluationsKeeper(run, folder, self.described)
        state, seconds = self._run(run, folder, (*display, *self.listeners), keeper)
        result = summarise(
            run,
            state,
            method=self.described["method"]["method"],
            candidates=CANDIDATES,
            seed=self.seed,
            config=self.described,
            seconds=seconds,
            dataset=OWN_DATA,
        )
        return state, result, keeper.evaluations

    def train_together(self, run: Search, folder: Path) -> SearchState:
        """The steps on the mean loss of the K networks, which share their weights: the last state."""
        display = ()
        if self.progress:
            console = SearchDisplay.of(run.strategy, run.total_steps).console
            display = (TrainingDisplay("the networks found", console),)
        folder.mkdir(exist_ok=True)
        return self._run(run, folder, display)[0]

    def _run(
        self,
        run: Search,
        folder: Path,
        listeners: Sequence[loop.Listener],
        keeper: loop.Keeper | None = None,
    ) -> tuple[SearchState, float]:
        with Checkpoints(folder / "checkpoints") as checkpoints:
            return loop.run(
                run,
                run.init(self.seed),
                folder,
                checkpoints,
                checkpoint_seconds=self.checkpoint_seconds,
                listeners=listeners,
                keeper=keeper,
            )
