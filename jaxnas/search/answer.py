"""From a search that has come to its end to its result: the candidates compete on the validation split."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from jaxnas import selection
from jaxnas.cost import objective
from jaxnas.networks import latency
from jaxnas.results.evaluations import Evaluations
from jaxnas.results.result import FoundArchitecture, SearchResult, versions
from jaxnas.selection import main_effects
from jaxnas.spaces.base import SearchSpace

if TYPE_CHECKING:  # training stands above reports
    from jaxnas.search.search import Search
    from jaxnas.search.steps import State


def summarise(
    search: Search,
    state: State,
    *,
    method: str,
    candidates: int,
    uniform: int = 0,
    keep_uniform: Callable[[Evaluations], None] | None = None,
    seed: int,
    config: Mapping[str, Any],
    seconds: float,
    dataset: str,
    classes: Sequence[str] | None = None,
    images: Mapping[str, int] | None = None,
    test_images: int | None = None,
) -> SearchResult:
    """What a search found: for each k the best candidate of all distributions on the whole validation split.

    Args:
      search: the search.
      state: the last one that it yielded.
      method: name of the strategy.
      candidates: draws from each distribution that compete with the modes (`jaxnas.selection`); 0 for the modes alone.
      uniform: architectures drawn uniformly that are evaluated on a minibatch each, so that those of many draws compete
        that agree with their main effects (`jaxnas.selection.main_effects`), the modes only with budgets; 0 for none.
      keep_uniform: called with their evaluations.
      seed: of the search.
      config: everything needed to repeat it, JSON-ready.
      seconds: how long it took.
      dataset: name of the data.
      classes: names of its classes, where they are known.
      images: number of images of each class, where they are known.
      test_images: number of images that the search kept for testing; None where it kept none.

    Returns:
      The result; its `write` makes `result.json`.

    Raises:
      ValueError: if no candidate has a finite loss.
    """
    strategy = search.strategy
    space = strategy.space
    key = jax.random.fold_in(state.key, state.step)  # of the step after the last: no step has used it
    theta = np.asarray(state.strategy.theta)
    if uniform and candidates:
        archs, evaluations = _agreeing(search, state, key, candidates, uniform)
        if keep_uniform is not None:
            keep_uniform(evaluations)
    else:
        archs = selection.candidates(key, state.strategy.theta, candidates)
    if strategy.budgets_by_name is not None:  # the modes of the distributions may exceed budgets
        archs = np.unique(np.concatenate([strategy.modes(state.strategy), archs]), axis=0)
    penalties = strategy.penalties_in_use(state.strategy)
    minibatches = jax.tree.map(np.asarray, search.evaluate_minibatches(state.params, archs))
    chosen = strategy.select(state.strategy, archs, minibatches.loss)
    budgets = strategy.budgets_by_name or [None] * len(penalties)
    evaluation = jax.tree.map(lambda leaf: leaf.mean(0), minibatches)
    archs, evaluation = archs[chosen], jax.tree.map(lambda leaf: np.asarray(leaf)[chosen], evaluation)
    devices = [cost.name for cost in space.costs if cost.unit == latency.UNIT and cost.name != latency.NAME]
    found = tuple(
        FoundArchitecture(
            k=k,
            penalty=penalty,
            encoding=tuple(arch.tolist()),
            description=space.describe(arch),
            **costs_of(space, arch, devices),
            probability=float(np.prod(theta[k, np.arange(len(arch)), arch])),
            valid_loss=float(evaluation.loss[k]),
            valid_accuracy=float(evaluation.metrics["accuracy"][k]) if "accuracy" in evaluation.metrics else None,
            budgets=budgets[k],
        )
        for k, (penalty, arch) in enumerate(zip(penalties, archs))
    )
    distribution_steps = search.settings.joint_steps + search.settings.distribution_steps
    return SearchResult(
        method=method,
        space=space.name,
        dataset=dataset,
        seed=seed,
        config=config,
        versions=versions(),
        evaluations=distribution_steps * strategy.step_samples,
        wall_seconds=seconds,
        architectures=found,
        classes=classes,
        images=images,
        test_images=test_images,
        space_description=space.description,
    )


def _agreeing(
    search: Search, state: State, key: jax.Array, count: int, evaluations: int
) -> tuple[np.ndarray, Evaluations]:
    """Of many draws from the distributions, for each k the `count` best by main effects and cost: int32 [N, D].

    And the evaluations of uniform architectures that say so.
    """
    strategy = search.strategy
    draws_key, uniform_key = jax.random.split(key)
    num_choices = strategy.space.num_choices
    uniform = main_effects.groups(uniform_key, num_choices, evaluations)
    losses = np.asarray(search.evaluate_in_turn(state.params, uniform).loss)
    effects = main_effects.fit(num_choices, uniform, losses)
    archs = selection.candidates(draws_key, state.strategy.theta, main_effects.DRAWS)
    if strategy.budgets_by_name is None:
        objectives = objective(effects(archs), strategy.penalties, strategy.cost(archs))
    else:
        objectives = np.where(strategy.fits(archs), effects(archs), np.inf)
    return main_effects.best(archs, np.asarray(objectives), count), Evaluations.of(uniform, losses)


def costs_of(space: SearchSpace, arch: np.ndarray, devices: Sequence[str] = ()) -> dict[str, Any]:
    """What a `FoundArchitecture` holds of the costs of an architecture, as far as its space knows them.

    Args:
      space: the space.
      arch: int [D].
      devices: which of its costs are latencies on devices of these names.
    """
    totals = {cost.name: cost.total(arch) for cost in space.costs}
    counts = {name: int(totals.pop(name)) if name in totals else None for name in ("params", "macs")}
    seconds = float(totals.pop(latency.NAME)) if latency.NAME in totals else None
    by_device = {name: float(totals.pop(name)) for name in devices}
    others = {name: float(total) for name, total in totals.items()}
    return {**counts, "latency": seconds, "latencies": by_device or None, "costs": others or None}
