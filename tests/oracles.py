"""The method once more, in plain numpy and loops, written from METHOD's formulas and not from the library.

Slow and obvious on purpose. `asng_step` is Akimoto et al. (arXiv 1905.08537) for one distribution with rank utilities;
`importance_sampling_step` is one step of K distributions. Decisions are ragged lists: no padding, no masks.
"""

import math

import numpy as np


def margins(num_choices):
    """theta_dj >= 1 / (D' (C_d - 1)), D' = decisions with C_d > 1; half of uniform where that leaves no freedom."""
    free = sum(1 for n in num_choices if n > 1)
    smallest = []
    for n in num_choices:
        if n == 1:
            smallest.append(1.0)
        else:
            wanted = 1.0 / (free * (n - 1))
            smallest.append(wanted if wanted < 1.0 / n else 0.5 / n)
    return smallest


class State:
    """One distribution: theta [D][C_d], trust radius Delta, gamma and path [D][C_d - 1]."""

    def __init__(self, num_choices):
        self.theta = [np.full(n, 1.0 / n) for n in num_choices]
        self.trust = 1.0
        self.gamma = 0.0
        self.path = [np.zeros(n - 1) for n in num_choices]


def rank_utilities(objective):
    """Best quarter of the samples (at least one) +1, as many of the worst -1, the rest 0; ties share."""
    size = len(objective)
    quarter = max(size // 4, 1)
    by_rank = [1.0] * quarter + [0.0] * (size - 2 * quarter) + [-1.0] * quarter
    order = sorted(range(size), key=lambda i: objective[i])
    utilities = [0.0] * size
    start = 0
    while start < size:
        stop = start
        while stop < size and objective[order[stop]] == objective[order[start]]:
            stop += 1
        for position in range(start, stop):
            utilities[order[position]] = sum(by_rank[start:stop]) / (stop - start)
        start = stop
    return utilities


def quantile_utilities(objective, weights):
    """Weighted form: every sample holds an interval of quantiles, and is worth the step function's mean over it."""
    total = sum(weights)
    utilities = []
    for own in objective:
        lower = sum(w for f, w in zip(objective, weights) if f < own) / total
        upper = sum(w for f, w in zip(objective, weights) if f <= own) / total
        if upper - lower < 1e-12:
            utilities.append(1.0 if lower < 0.25 else -1.0 if lower >= 0.75 else 0.0)
            continue
        good = max(min(upper, 0.25) - lower, 0.0)
        bad = max(upper - max(lower, 0.75), 0.0)
        utilities.append((good - bad) / (upper - lower))
    return utilities


def probability(theta, arch):
    product = 1.0
    for row, choice in zip(theta, arch):
        product *= row[choice]
    return product


def mixture_weights(thetas, archs):
    """w[k][i] = p_k(c_i) / ((1/K) sum_j p_j(c_i))."""
    return [
        [probability(theta, arch) / np.mean([probability(other, arch) for other in thetas]) for arch in archs]
        for theta in thetas
    ]


def natural_gradient(theta, archs, weighted_utilities):
    gradient = [np.zeros_like(row) for row in theta]
    for arch, value in zip(archs, weighted_utilities):
        for d, choice in enumerate(arch):
            for c in range(len(theta[d])):
                gradient[d][c] += value * ((1.0 if c == choice else 0.0) - theta[d][c]) / len(archs)
    return gradient


def whiten(theta, gradient):
    whitened = []
    for row, g in zip(theta, gradient):
        last = row[-1]
        shared = sum(g[:-1]) / (last + math.sqrt(last))
        whitened.append(np.array([g[j] / math.sqrt(row[j]) + math.sqrt(row[j]) * shared for j in range(len(row) - 1)]))
    return whitened


def asng_update(state, gradient, alpha=1.5):
    """Step 6 of METHOD, in place."""
    if all(abs(g).max() < 1e-12 for g in gradient):
        return
    num_choices = [len(row) for row in state.theta]
    radius = 1.0 / state.trust
    beta = min(radius / math.sqrt(sum(n - 1 for n in num_choices)), 1.0)
    whitened = whiten(state.theta, gradient)
    norm = math.sqrt(sum((s**2).sum() for s in whitened))
    for d, smallest in enumerate(margins(num_choices)):
        row = state.theta[d] + radius * gradient[d] / norm
        excess = np.maximum(row - smallest, 0)
        if excess.sum() > 0:
            row = smallest + excess * (1 - smallest * len(row)) / excess.sum()
        else:
            row = np.full(len(row), smallest)
        state.theta[d] = row
        state.path[d] = (1 - beta) * state.path[d] + math.sqrt(beta * (2 - beta)) * whitened[d] / norm
    state.gamma = (1 - beta) ** 2 * state.gamma + beta * (2 - beta)
    length = sum((path**2).sum() for path in state.path)
    state.trust *= math.exp(beta * (state.gamma - length / alpha))


def asng_step(state, archs, objective):
    """Plain ASNG for one distribution: rank utilities, no weights. In place."""
    asng_update(state, natural_gradient(state.theta, archs, rank_utilities(objective)))


def importance_sampling_step(states, archs, objectives):
    """One step of K distributions that share all samples; objectives [K][S]. In place."""
    weights = mixture_weights([state.theta for state in states], archs)
    gradients = []
    for state, own_weights, objective in zip(states, weights, objectives):
        utilities = quantile_utilities(objective, own_weights)
        products = [w * u for w, u in zip(own_weights, utilities)]
        gradients.append(natural_gradient(state.theta, archs, products))
    for state, gradient in zip(states, gradients):
        asng_update(state, gradient)


def enumerate_space(num_choices):
    """All architectures, int [N, D]."""
    return np.stack([grid.ravel() for grid in np.meshgrid(*map(np.arange, num_choices), indexing="ij")], axis=1)
