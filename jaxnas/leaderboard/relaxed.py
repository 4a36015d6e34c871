"""Methods that need a mixture of all choices, on a supernet, within the cost that all methods have.

A mixture passes through every choice, and K networks are K runs: for the cost of the others there are few steps. The
learning rate of alpha is therefore raised so that its product with the number of steps is that of DARTS (100 epochs of
CIFAR-10 at 3e-4), up to a limit, and the weights learn at the rate of the problem's supernet.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxnas import data, relaxation
from jaxnas.cost import JointCost
from jaxnas.leaderboard.supernet_problem import Outcome, SupernetProblem
from jaxnas.relaxation import Assembly, Settings, of_networks
from jaxnas.relaxation.eg_das import STRENGTHS
from jaxnas.selection import perturbation
from jaxnas.strategies.constrained import evenly_spaced_budgets

ALPHA_TRAVEL = 3e-4 * 100 * 391  # DARTS's learning rate times its steps on NAS-Bench-201
LARGEST_ALPHA_RATE = 0.1
BLOCK_SHARE = 0.5  # of the evaluations, that EG-DAS spends on its library


@functools.cache
def _loss(supernet: nn.Module) -> relaxation.Loss:
    """One object for equal supernets: a program is compiled for each."""
    return relaxation.supernet_loss(supernet)


def _images(problem: SupernetProblem, split: data.Examples) -> tuple[jax.Array, jax.Array]:
    return problem.search.prepare(split, None), split.labels


def _search(
    problem: SupernetProblem, name: str, targets: tuple[Any, ...], spend: float, params: Any
) -> tuple[relaxation.Found, float]:
    """One run for each target that together cost about `spend` evaluations; what they did cost."""
    search = problem.search
    size = search.settings.batch_size
    step = 2 * problem.mixture(size, gradient=True)  # of alpha and of the weights
    steps = max(1, int(spend / (step * len(targets))))
    settings = Settings(
        steps=steps,
        learning_rate=search.settings.learning_rate,
        alpha_learning_rate=min(LARGEST_ALPHA_RATE, ALPHA_TRAVEL / steps),
    )
    method = relaxation.RELAXATIONS[name](search.strategy.space, settings, (problem.cost,))
    found = relaxation.search(
        method,
        _loss(search.supernet),
        params,
        _images(problem, search.train.examples),
        _images(problem, search.valid.examples),
        targets,
        jax.random.key(problem.seed),
        batch_size=size,
    )
    return found, steps * step * len(targets)


def _fresh(problem: SupernetProblem) -> Any:
    return problem.search.supernet.init_params(jax.random.key(problem.seed))


def darts(problem: SupernetProblem) -> Outcome:
    """One run for each penalty, from fresh weights."""
    found, spent = _search(problem, "darts", problem.penalties, problem.total, _fresh(problem))
    return Outcome(found.archs, spent)


def rc_darts(problem: SupernetProblem) -> Outcome:
    """One run for each of K budgets, evenly spaced as those of `constrained`, from fresh weights."""
    cost = problem.cost
    budgets = tuple(
        cost.lowest + share * (cost.highest - cost.lowest) for share in evenly_spaced_budgets(problem.penalties)
    )
    found, spent = _search(problem, "rc_darts", budgets, problem.total, _fresh(problem))
    return Outcome(found.archs, spent)


def eg_das(problem: SupernetProblem) -> Outcome:
    """Blocks by gradients from the trained weights, then networks of them by evolution on the trained supernet."""
    space = problem.search.strategy.space
    found, spent = _search(problem, "eg_das", STRENGTHS, BLOCK_SHARE * problem.evaluations, problem.supernet.params)
    assembly = Assembly(space, problem.penalties, cost=problem.cost, library=of_networks(space, found.archs))
    step = assembly.step_samples
    evaluations = max(1, int(problem.evaluations - spent) // step) * step
    archs = problem.supernet.run(assembly, evaluations, problem.seed)
    return Outcome(archs, problem.training + spent + evaluations)


def darts_pt(problem: SupernetProblem) -> Outcome:
    """Perturbation of the uniform mixture of the trained supernet, once for each penalty, without tuning.

    The score of a mixture is its loss on as many validation images as the evaluations pay for, plus eps_k times its
    expected cost.
    """
    search, space = problem.search, problem.search.strategy.space
    scores = len(problem.penalties) * sum(space.num_choices)
    images = min(len(search.valid), int(problem.evaluations / scores / problem.mixture(1)))
    images = max(images, 2)  # batch norm needs more than one
    picked = jax.random.permutation(jax.random.key(problem.seed), len(search.valid))[:images]
    part = _images(problem, search.valid.take(picked))
    loss = perturbation.split_score(_loss(search.supernet), part, images)
    expected = JointCost((problem.cost,)).expected
    archs = []
    for penalty in problem.penalties:

        def score(params: Any, weights: jax.Array, penalty: float = penalty) -> jax.Array:
            return loss(params, weights) + penalty * expected(weights[None])[0, 0]

        key = jax.random.key(problem.seed)
        archs.append(perturbation.select(key, score, problem.supernet.params, space.num_choices).arch)
    return Outcome(jnp.asarray(np.stack(archs)), problem.training + scores * problem.mixture(images))
