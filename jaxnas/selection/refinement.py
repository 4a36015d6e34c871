"""Networks for budgets decided by some more evaluations on the trained supernet, among the most promising ones.

`refine` trusts the evaluations of the search, `by_main_effects` those of uniformly drawn networks, which tell more on
supernets of images (docs/results.md): a search evaluates what seems good, and few networks near other budgets.

Sequential halving (Karnin, Koren, Somekh, "Almost optimal exploration in multi-armed bandits", ICML 2013): all
candidates are evaluated on common minibatches, the worse half by the model of all evaluations (`loss_model`) is given
up, and the next round has as many evaluations for the half that is left.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import jax
import numpy as np

from jaxnas.cost import Cost
from jaxnas.results.evaluations import Evaluations
from jaxnas.selection import loss_model, main_effects, picking
from jaxnas.selection.picking import Pick
from jaxnas.spaces.base import SearchSpace

MOST_CANDIDATES = 32  # of each budget, to begin with
BEST_BY_EFFECTS = 8  # of each budget; more of them bring networks back whose weights happen to go together well
VALIDATIONS = 16  # minibatches
Evaluate = Callable[[int, np.ndarray], np.ndarray]


def refine(
    space: SearchSpace,
    kept: Evaluations,
    budgets: Sequence[Mapping[str, float]],
    evaluate: Evaluate,
    evaluations: int,
    costs: Sequence[Cost] | None = None,
) -> tuple[list[Pick], int]:
    """The network of least expected loss within each of the budgets, after more evaluations.

    Args:
      space: the search space.
      kept: evaluations of a search on it.
      budgets: the largest costs by name, as of `picking.pick`.
      evaluate: (number of the minibatch, int [N, D]) -> losses [N] of networks on that minibatch; the same number means
        the same images.
      evaluations: what may be spent on all budgets together; a network that is promising for several counts once.
      costs: what the names mean; None for the costs of the space.

    Returns:
      A network for each budget, and how many evaluations were spent.

    Raises:
      ValueError: as `picking.pick`, or if the evaluations are too few to compare two networks for each budget.
    """
    if evaluations < 2 * len(budgets):
        raise ValueError(
            f"evaluations must be at least 2 for each of the {len(budgets)} budgets, to compare two, got {evaluations}"
        )
    costs = space.costs if costs is None else tuple(costs)
    wanted = picking.reachable(costs, budgets)
    rounds = _rounds(evaluations // max(1, len(budgets)))
    minimum = picking.Minimum(space, loss_model.fit(space, kept))
    live = [minimum.best_within(chosen, limits, 2**rounds) for chosen, limits in wanted]
    model, spent, minibatch = minimum.model, 0, 0
    for left in range(rounds, 0, -1):
        archs = np.unique(np.concatenate(live), axis=0)
        share = (evaluations - spent) // (left * len(archs))
        for _ in range(share):
            kept = _with_step(kept, archs, evaluate(minibatch, archs))
            minibatch, spent = minibatch + 1, spent + len(archs)
        if share:
            model = loss_model.fit(space, kept)
        live = [_better_half(model, archs) for archs in live]
    return picking.described(space, model, [archs[0] for archs in live], budgets, costs), spent


def by_main_effects(
    space: SearchSpace,
    budgets: Sequence[Mapping[str, float]],
    evaluate: Evaluate,
    evaluations: int,
    key: jax.Array,
    costs: Sequence[Cost] | None = None,
) -> tuple[list[Pick], int]:
    """The network within each of the budgets that agrees with main effects and is good itself.

    Uniformly drawn networks are evaluated, and main effects fitted (`jaxnas.selection.main_effects`). Of the best by
    them within a budget, each is evaluated on `VALIDATIONS` minibatches, and that of the least mean of both is taken:
    of main effects alone where a budget is extreme, the sum of a network's effects may be far from its loss.

    Args:
      space: the search space.
      budgets: the largest costs by name, as of `picking.pick`.
      evaluate: as of `refine`.
      evaluations: uniform networks, rounded up to whole groups of `main_effects.GROUP`.
      key: a JAX random key, of the networks.
      costs: what the names mean; None for the costs of the space.

    Returns:
      A network for each budget, its expected loss and interval as measured; and how many evaluations were spent.

    Raises:
      ValueError: as `picking.pick`, if the evaluations are too few, or if losses of the best are not finite.
    """
    parameters = sum(space.num_choices) - len(space.num_choices)
    if evaluations < parameters:
        raise ValueError(
            f"evaluations must be at least {parameters}, one for each main effect of space {space.name!r}, "
            f"got {evaluations}"
        )
    costs = space.costs if costs is None else tuple(costs)
    wanted = picking.reachable(costs, budgets)
    groups = main_effects.groups(key, space.num_choices, evaluations)
    losses = np.stack([evaluate(minibatch, archs) for minibatch, archs in enumerate(groups)])
    effects = main_effects.fit(space.num_choices, groups, losses)
    minimum = picking.Minimum(space, effects)
    best = [minimum.best_within(chosen, limits, BEST_BY_EFFECTS) for chosen, limits in wanted]
    archs = np.unique(np.concatenate(best), axis=0)
    measured = np.stack([evaluate(len(groups) + number, archs) for number in range(VALIDATIONS)])  # [M, N]
    mean, error = measured.mean(0), measured.std(0, ddof=1) / np.sqrt(VALIDATIONS)
    if not np.isfinite(mean).all():
        raise ValueError("losses of the supernet must be finite, got some that are not for the best networks")
    score = mean + effects(archs)
    rows = [_row_of_least(archs, score, candidates) for candidates in best]
    found = picking.as_picks(space, archs[rows], budgets, costs, mean[rows], error[rows])
    return found, groups[..., 0].size + measured.size


def _row_of_least(archs: np.ndarray, score: np.ndarray, candidates: np.ndarray) -> int:
    """The row in archs [N, D] of the candidate of least score [N]."""
    among = (archs[:, None] == candidates).all(-1).any(1)
    return int(np.where(among, score, np.inf).argmin())


def _rounds(evaluations: int) -> int:
    """Rounds for one budget: so many that 2^rounds candidates have an evaluation each in the first."""
    rounds = 1
    while 2 ** (rounds + 1) <= MOST_CANDIDATES and 2 ** (rounds + 1) * (rounds + 1) <= evaluations:
        rounds += 1
    return rounds


def _better_half(model: loss_model.LossModel, archs: np.ndarray) -> np.ndarray:
    expected, _ = model.estimate(archs)
    return archs[np.argsort(expected, kind="stable")[: -(-len(archs) // 2)]]


def _with_step(kept: Evaluations, archs: np.ndarray, losses: np.ndarray) -> Evaluations:
    """With one more step; steps of fewer networks are filled up with losses that are not finite."""
    losses = np.asarray(losses, np.float32)
    width = max(kept.losses.shape[1], len(archs))

    def widened(archs: np.ndarray, losses: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        missing = width - losses.shape[1]
        return (
            np.pad(archs, ((0, 0), (0, missing), (0, 0))),
            np.pad(losses, ((0, 0), (0, missing)), constant_values=np.nan),
        )

    before, after = widened(kept.archs, kept.losses), widened(archs[None], losses[None])
    last = int(kept.steps[-1]) if len(kept.steps) else 0
    return dataclasses.replace(
        kept,
        archs=np.concatenate([before[0], after[0]]),
        losses=np.concatenate([before[1], after[1]]),
        steps=np.append(kept.steps, np.int32(last + 1)),
        minibatches=np.append(kept.minibatches, kept.minibatches.max(initial=-1) + 1),
        joint=np.append(kept.joint, False),
    )
