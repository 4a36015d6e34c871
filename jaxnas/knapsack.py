"""The most probable architecture of a distribution among those within given budgets, exactly.

For additive costs this is a multiple-choice knapsack: one choice for each decision, the sum of log-probabilities as
large as can be, each cost's sum at most its budget (Kellerer, Pferschy, Pisinger: "Knapsack Problems", 2004, chapter
11). It is solved to proven optimality by branch and bound (HiGHS, through scipy), which unlike a dynamic program over
one cost takes any number of costs, measured ones too. Where costs have products of decisions, each set of decisions
that interact gets one variable for each combination of their choices, whose sums are the choices' own (the standard
linearisation of a product of assignments: Adams and Sherali, "A tight linearization and an algorithm for zero-one
quadratic programming problems", Management Science 32, 1986). A budget of a cost that is the largest of its parts
leaves out the choices whose part is over it. The solver's own tolerance is not trusted with the budget: totals are
added up exactly, and an architecture that exceeds a budget by rounding is forbidden and the problem solved again.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import chex
import numpy as np
from scipy import optimize, sparse

from jaxnas.cost import AdditiveCost, Cost, LargestCost


def check_reachable(costs: Sequence[Cost], budgets: Sequence[float]) -> None:
    """Raises ValueError unless each budget, alone, holds the cheapest architecture; names the reachable range."""
    for cost, budget in zip(costs, budgets, strict=True):
        if not budget >= cost.lowest:
            raise ValueError(
                f"budget of {budget:g} {cost.unit} ({cost.name}) is out of reach: "
                f"architectures of this space have {cost.lowest:g} to {cost.highest:g}"
            )


def most_probable(theta: np.ndarray, costs: Sequence[Cost], budgets: Sequence[float]) -> np.ndarray:
    """The most probable architecture whose costs are within the budgets.

    Args:
      theta: float [D, C], one distribution; choices of probability 0, padding among them, are never taken.
      costs: J costs.
      budgets: J largest totals, in the units of the costs.

    Returns:
      int32 [D].

    Raises:
      ValueError: if no architecture is within the budgets.

    >>> macs = AdditiveCost("macs", "multiply-adds", fixed=10, table=((0, 5), (1, 2, 30)))
    >>> most_probable(np.array([[0.4, 0.6, 0.0], [0.1, 0.2, 0.7]]), [macs], [20]).tolist()  # not the mode, [1, 2]
    [1, 1]
    """
    theta = np.asarray(theta, np.float64)
    chex.assert_rank(theta, 2)
    with np.errstate(divide="ignore"):
        return largest_sum(np.log(theta), costs, budgets)


def largest_sum(
    gain: np.ndarray,
    costs: Sequence[Cost],
    budgets: Sequence[float],
    lower: Sequence[float] | None = None,
    pairs: Sequence[tuple[tuple[int, int], np.ndarray]] = (),
    excluded: np.ndarray | None = None,
) -> np.ndarray:
    """The architecture with the largest sum of gains whose costs are within bounds.

    Args:
      gain: float [D, C], what each choice adds to the sum; choices of -inf, padding among them, are never taken.
      costs: J costs.
      budgets: J largest totals, in the units of the costs.
      lower: J smallest totals; None for none.
      pairs: two decisions in ascending order, and float [C_d, C_e], what each two of their choices add; each two
        decisions at most once.
      excluded: int [N, D], architectures that are not wanted.

    Returns:
      int32 [D].

    Raises:
      ValueError: if no architecture is within the bounds.

    >>> macs = AdditiveCost("macs", "multiply-adds", fixed=10, table=((0, 5), (1, 2, 30)))
    >>> gain = np.array([[2.0, 1.0, -np.inf], [0.5, 0.1, 0.0]])
    >>> largest_sum(gain, [macs], budgets=[20], lower=[12]).tolist()  # 12: [0, 0] would be 11
    [0, 1]
    """
    gain = np.asarray(gain, np.float64)
    chex.assert_rank(gain, 2)
    check_reachable(costs, budgets)
    possible = gain > -np.inf
    for cost, budget in zip(costs, budgets, strict=True):
        if isinstance(cost, LargestCost):
            possible &= ~_reaches(cost, budget, gain.shape, strictly=True)
    decisions, choices = np.nonzero(possible)  # one variable for each possible choice
    one_choice = np.equal.outer(np.arange(len(gain)), decisions).astype(float)
    joint = [cost for cost in costs if not isinstance(cost, AdditiveCost | LargestCost)]
    scopes = {ds: None for cost in joint for ds, _ in cost.interactions}
    scopes |= {ds: None for ds, _ in pairs}
    products = _products(list(scopes), decisions, choices)
    variables = len(decisions) + products.count
    constraints = [optimize.LinearConstraint(_widened(one_choice, variables), 1, 1)]
    if products.count:
        constraints.append(optimize.LinearConstraint(products.sums, 0, 0))
    for arch in () if excluded is None else np.asarray(excluded):
        taken = choices == arch[decisions]
        constraints.append(optimize.LinearConstraint(_widened(taken.astype(float), variables), -np.inf, len(gain) - 1))
    floors = [-np.inf] * len(costs) if lower is None else lower
    for cost, floor in zip(costs, floors, strict=True):
        if not floor <= cost.highest:
            raise ValueError(
                f"lower bound of {floor:g} {cost.unit} ({cost.name}) is out of reach: "
                f"architectures of this space have {cost.lowest:g} to {cost.highest:g}"
            )
    for cost, budget, floor in zip(costs, budgets, floors, strict=True):
        if isinstance(cost, LargestCost):
            if floor > cost.fixed:  # one part must reach it
                reaching = _reaches(cost, floor, gain.shape)[decisions, choices].astype(float)
                constraints.append(optimize.LinearConstraint(_widened(reaching, variables), 1, np.inf))
            continue
        # In units of the span, so that the solver's tolerance means the same for every cost.
        scaled = _widened(cost.scaled_table()[decisions, choices], variables)
        if not isinstance(cost, AdditiveCost):
            for scope, table in cost.scaled_interactions():
                combinations, places = products.of[scope]
                scaled[places] += table[tuple(combinations.T)]
        constraints.append(optimize.LinearConstraint(scaled, cost.scale(floor), cost.scale(budget)))
    integrality = np.arange(variables) < len(decisions)  # products follow from the choices
    objective = _widened(-gain[decisions, choices], variables)
    for scope, table in pairs:
        combinations, places = products.of[scope]
        objective[places] -= np.asarray(table, np.float64)[tuple(combinations.T)]
    while True:
        solved = optimize.milp(
            objective,
            integrality=integrality.astype(int),
            bounds=(0, 1),
            constraints=constraints,
            options={"mip_rel_gap": 0},
        )
        if solved.x is None:
            wanted = ", ".join(f"{cost.name} <= {budget:g}" for cost, budget in zip(costs, budgets))
            if lower is not None:
                wanted += "".join(f", {cost.name} >= {floor:g}" for cost, floor in zip(costs, lower))
            raise ValueError(f"budgets {wanted} cannot be met by one architecture together; raise one of them")
        taken = solved.x[: len(decisions)] > 0.5
        arch = choices[taken].astype(np.int32)  # nonzero() lists decisions in order
        if within(arch, costs, budgets, lower):
            return arch
        forbidden = _widened(taken.astype(float), variables)
        constraints.append(optimize.LinearConstraint(forbidden, -np.inf, len(gain) - 1))


def _reaches(cost: LargestCost, bound: float, shape: tuple[int, ...], strictly: bool = False) -> np.ndarray:
    """The choices whose own part reaches a bound, or exceeds it: bool [D, C]."""
    reached = np.zeros(shape, bool)
    for d, row in enumerate(cost.table):
        reached[d, : len(row)] = np.greater(row, bound) if strictly else np.greater_equal(row, bound)
    return reached


@dataclass(frozen=True)
class _Products:
    """Variables for combinations of choices, after those of single choices.

    Attributes:
      count: how many there are.
      of: decisions -> (choices int [P, len(decisions)], the P places of their variables).
      sums: float [rows, all variables], sparse, 0 where the combinations that hold a choice sum to it.
    """

    count: int
    of: dict[tuple[int, ...], tuple[np.ndarray, np.ndarray]]
    sums: sparse.csr_array


def _products(scopes: Sequence[tuple[int, ...]], decisions: np.ndarray, choices: np.ndarray) -> _Products:
    of, place = {}, len(decisions)
    for scope in scopes:
        combinations = np.asarray(list(itertools.product(*(choices[decisions == d] for d in scope))), int)
        combinations = combinations.reshape(-1, len(scope))
        of[scope] = combinations, np.arange(place, place + len(combinations))
        place += len(combinations)
    sums = sparse.lil_array((sum(int((decisions == d).sum()) for scope in of for d in scope), place))
    row = 0
    for scope, (combinations, places) in of.items():
        for axis, d in enumerate(scope):
            for variable in np.flatnonzero(decisions == d):
                sums[row, variable] = -1
                sums[row, places[combinations[:, axis] == choices[variable]]] = 1
                row += 1
    return _Products(place - len(decisions), of, sparse.csr_array(sums))


def _widened(array: np.ndarray, variables: int) -> np.ndarray:
    """The array with zeros at the end of its last axis, up to the number of variables."""
    return np.concatenate([array, np.zeros((*array.shape[:-1], variables - array.shape[-1]))], axis=-1)


def likely_within(
    losses: np.ndarray,
    log_probs: np.ndarray,
    archs: np.ndarray,
    costs: Sequence[Cost],
    budgets: Sequence[Sequence[float]],
) -> np.ndarray:
    """For each k the most probable candidate within its budgets, of those that measure as well as the best of them.

    All candidates compete for every network. As well as the best is what is behind it by at most one standard error of
    the difference, over minibatches that all candidates have in common (the one-standard-error rule of Breiman et al.,
    "Classification and Regression Trees", 1984): theta has seen many more minibatches than these.

    Args:
      losses: float [M, N], of N candidates on the same M minibatches; one that is not finite is never chosen. With a
        single minibatch nothing is known of the error, and the least loss wins.
      log_probs: float [K, N], log-probabilities of the candidates under theta_k.
      archs: int [N, D], the candidates.
      costs: J costs.
      budgets: J for each of the K networks.

    Returns:
      int [K], indices of candidates.

    Raises:
      ValueError: if no candidate with finite losses is within a budget.

    >>> macs = AdditiveCost("macs", "multiply-adds", fixed=10, table=((0, 5), (1, 2, 30)))
    >>> archs = np.array([[0, 0], [1, 1], [1, 2]])  # 11, 17 and 45
    >>> losses = np.array([[0.5, 0.3, 0.2], [0.5, 0.3, 0.45]])  # the last is behind by 0.025, with an error of 0.125
    >>> log_probs = np.log([[0.8, 0.1, 0.1], [0.1, 0.5, 0.4], [0.1, 0.2, 0.7]])
    >>> likely_within(losses, log_probs, archs, [macs], [[12], [40], [45]]).tolist()
    [0, 1, 2]
    """
    usable = np.isfinite(losses).all(0)
    mean = np.where(usable, losses.mean(0), np.inf)
    chosen = []
    for log_prob, budget in zip(log_probs, budgets, strict=True):
        fitting = usable & within(archs, costs, budget)
        if not fitting.any():
            raise ValueError(f"archs must hold one within {tuple(budget)} with a finite loss, got none of {len(archs)}")
        best = int(np.where(fitting, mean, np.inf).argmin())
        behind = losses[:, fitting] - losses[:, [best]]  # [M, candidates that fit]
        error = behind.std(0, ddof=1) / np.sqrt(len(losses)) if len(losses) > 1 else 0.0
        as_good = np.flatnonzero(fitting)[behind.mean(0) <= error]
        chosen.append(int(as_good[log_prob[as_good].argmax()]))
    return np.asarray(chosen)


def within(
    archs: np.ndarray,
    costs: Sequence[Cost],
    budgets: Sequence[float],
    lower: Sequence[float] | None = None,
) -> np.ndarray:
    """Whether architectures keep all bounds, by exact totals: int [..., D] -> bool [...]; `lower` None is no bound.

    >>> macs = AdditiveCost("macs", "multiply-adds", fixed=10, table=((0, 5), (1, 2, 30)))
    >>> within(np.array([[0, 0], [1, 2]]), [macs], [12]).tolist()
    [True, False]
    """
    totals = [cost.total(archs) for cost in costs]
    kept = [total <= budget for total, budget in zip(totals, budgets, strict=True)]
    if lower is not None:
        kept += [total >= floor for total, floor in zip(totals, lower, strict=True)]
    return np.all(kept, axis=0)
