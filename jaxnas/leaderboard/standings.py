"""Where methods stand on one problem: their results in order, and paired tests of each against random search."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxnas.tasks.judge import MEASURES, Comparison, Result, compare

FLOOR = "random"  # what every method has to beat
SIGNIFICANT = 0.05  # largest corrected p-value of a method that beats it


@dataclass(frozen=True)
class Standings:
    """Methods on one problem. Build it with `Standings.of`.

    Attributes:
      results: by the method's name, least median regret first.
      tests: by method and measure, of each method but random search against it, Holm-corrected over the problem.
    """

    results: Mapping[str, Result]
    tests: Mapping[tuple[str, str], Comparison]

    @classmethod
    def of(cls, results: Mapping[str, Result]) -> "Standings":
        """Orders results and tests them; all must have the same seeds and counts of evaluations."""
        ordered = dict(sorted(results.items(), key=lambda item: float(np.median(item[1].at_end("relative_regret")))))
        others = [name for name in results if name != FLOOR and FLOOR in results]
        pairs = [(name, FLOOR, measure, results[name].evaluations[-1]) for name in others for measure in MEASURES]
        return cls(ordered, {(test.method, test.measure): test for test in compare(results, pairs, np.median)})

    @property
    def seeds(self) -> int:
        """M, of each method."""
        return len(next(iter(self.results.values())).hypervolume)

    def beats_random(self, name: str, measure: str) -> bool:
        """Whether the median is better than that of random search, and the difference is significant."""
        test = self.tests.get((name, measure))
        return test is not None and test.better and test.p_holm < SIGNIFICANT


def as_json(standings: Standings, **settings: Any) -> dict[str, Any]:
    """A problem's part of result.json; the regret is the mean over penalties, infinite attainments become None."""

    def p_holm(name: str, measure: str) -> float | None:
        return standings.tests[name, measure].p_holm if (name, measure) in standings.tests else None

    return {
        **settings,
        "evaluations": next(iter(standings.results.values())).evaluations[-1],
        "methods": {
            name: {
                "relative_regret": each.at_end("relative_regret"),
                "hypervolume": each.at_end("hypervolume"),
                "attainment": each.attainment,
                "encodings": each.encodings,
                "spent": each.spent,
                "wall_seconds": each.wall_seconds,
                "p_regret": p_holm(name, "relative_regret"),
                "p_hypervolume": p_holm(name, "hypervolume"),
            }
            for name, each in standings.results.items()
        },
    }


def from_json(content: Mapping[str, Any]) -> Standings:
    """The standings that `as_json` wrote; of the regret there is only the mean over penalties, as [M, 1, 1]."""
    results = {}
    for name, each in content["methods"].items():
        attainment = np.array(each["attainment"], np.float64)  # None becomes NaN
        results[name] = Result(
            evaluations=(content["evaluations"],),
            relative_regret=np.array(each["relative_regret"])[:, None, None],
            hypervolume=np.array(each["hypervolume"])[:, None],
            attainment=np.where(np.isnan(attainment), np.inf, attainment),
            encodings=np.array(each["encodings"]),
            spent=each["spent"],
            wall_seconds=each["wall_seconds"],
        )
    return Standings.of(results)
