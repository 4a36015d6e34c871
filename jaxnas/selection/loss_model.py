"""A Bayesian model of the loss, fitted to the kept evaluations of a search: single choices, pairs, and a residual.

    loss = level + offset_t + phi(c) . beta + delta_c + noise,

phi the features of the strategy `shared_model` (contrasts of decisions, and their products where they are few enough),
offset_t what the minibatch of step t adds to all losses, and delta_c what singles and pairs do not explain of network
c. All are normal around 0. The variance of delta_c grows with the distance of the model's loss from the best one: a
sum of pairs describes good networks well and broken ones badly, and broken ones must not bend it where it matters; so
their evaluations count for less. Repeated evaluations of a network tell delta_c from noise.

Variances are those that the evaluations make most likely, by the fixed-point steps of MacKay, "Bayesian interpolation",
Neural Computation 4 (1992), for beta and by expectation maximisation (Dempster, Laird, Rubin, JRSS B 39, 1977) for the
rest; offsets and coefficients are fitted in turn.
"""

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
import scipy.linalg

from jaxnas.results.evaluations import Evaluations
from jaxnas.spaces.base import SearchSpace
from jaxnas.strategies import robust
from jaxnas.strategies.shared_model import design as designs

LARGEST_FIT = 2**14  # evaluations, the last ones: seconds with 640 features, where the search has come to be
ITERATIONS = 15
GROWTHS = np.append(0.0, np.geomspace(0.05, 20, 18))  # of the deviation of delta, by the deviation of losses
CALIBRATED = 0.5  # of the networks, the best ones: intervals are asked for those
CALIBRATION_RANGE = (0.5, 2.0)
FEWEST = 8  # usable evaluations
_LEAST_SHARE = 1e-6  # of the losses' variance, that no variance falls below
_BLOCK = 2**14  # architectures whose features are held at a time


@dataclass(frozen=True, eq=False)
class LossModel:
    """The posterior of the loss of every network of a space; P features.

    Attributes:
      design: the features.
      level: the mean loss of the space, on the weights at the end of the search.
      coefficients: float64 [P], the posterior mean of beta.
      factor: float64 [P + 1, P + 1], lower, of the posterior covariance of level and beta.
      least: the least modelled loss of a network that was evaluated, and `width` the deviation of those losses.
      width: see `least`.
      residual: deviation of delta for the best networks.
      growth: how the deviation of delta grows, by the distance from `least` in units of `width`.
      noise: deviation of one evaluation.
      networks: int [U, D], the networks that were evaluated.
      measured: float64 [U], the mean of their losses on the average minibatch.
      counts: int [U], how often they were evaluated.
      calibration: factor on `estimate`'s deviations, from how far the measured losses of the better networks are from
        what the model expects of them without their own evaluations.
    """

    design: designs.Design
    level: float
    coefficients: np.ndarray
    factor: np.ndarray
    least: float
    width: float
    residual: float
    growth: float
    noise: float
    networks: np.ndarray
    measured: np.ndarray
    counts: np.ndarray
    calibration: float

    def mean(self, archs: np.ndarray) -> np.ndarray:
        """The expected loss of networks: int [N, D] -> float64 [N]."""
        archs = np.asarray(archs)
        parts = [archs[first : first + _BLOCK] for first in range(0, len(archs), _BLOCK)]
        return np.concatenate([self.level + _features(self.design, part) @ self.coefficients for part in parts])

    def estimate(self, archs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The expected loss and its standard deviation, with what a network's own evaluations say beyond the model.

        Args:
          archs: int [N, D].

        Returns:
          float64 [N] twice.
        """
        archs = np.asarray(archs)
        own = {tuple(arch): row for row, arch in enumerate(self.networks.tolist())}
        rows = np.array([own.get(tuple(arch), -1) for arch in archs.tolist()], int)
        mean = self.mean(archs)
        doubt = np.square(_with_constant(_features(self.design, archs)) @ self.factor).sum(1)
        excess = np.maximum(mean - self.least, 0) / self.width
        residual = np.square(self.residual) * (1 + np.square(self.growth * excess))
        counts = np.where(rows < 0, 0, self.counts[rows])
        share = residual * counts / (residual * counts + np.square(self.noise))  # of the residual, from its evaluations
        expected = mean + share * (np.where(rows < 0, mean, self.measured[rows]) - mean)
        variance = np.square(1 - share) * doubt + residual * (1 - share)
        return expected, self.calibration * np.sqrt(variance)

    def tables(self) -> tuple[np.ndarray, list[tuple[tuple[int, int], np.ndarray]]]:
        """The expected loss without its level as a sum of tables.

        Returns:
          float64 [D, C], what each choice adds, infinite in the padding; and of each two decisions with pairs, in
          ascending order, float64 [C_d, C_e], what two choices add together.
        """
        design, counts = self.design, self.design.num_choices
        contrasts = len(design.owner)
        linear, pairs = self.coefficients[:contrasts], self.coefficients[contrasts:]
        matrix = np.zeros((contrasts, contrasts))
        matrix[design.left, design.right] = pairs
        joint = []
        for d in range(len(counts)) if len(pairs) else ():
            for e in range(d + 1, len(counts)):
                block = matrix[design.columns(d), design.columns(e)]
                if block.size:
                    joint.append(((d, e), design.table(d).astype(np.float64) @ block @ design.table(e).T))
        return design.sums(linear), joint


def fit(space: SearchSpace, evaluations: Evaluations) -> LossModel:
    """Fits the model to the last `LARGEST_FIT` evaluations.

    Losses that are not finite are left out; a few that are farther from the median than all others are moved to them.

    Args:
      space: the search space.
      evaluations: of any strategy.

    Raises:
      ValueError: if they are of another space, or too few are finite.
    """
    counts = space.num_choices
    archs, losses = np.asarray(evaluations.archs), np.asarray(evaluations.losses, np.float64)
    if archs.shape[-1] != len(counts) or (archs.size and (archs >= np.asarray(counts)).any()):
        raise ValueError(f"evaluations must be of space {space.name!r} with choices {counts}, got {archs.shape}")
    first = max(0, len(losses) - LARGEST_FIT // max(1, losses.shape[1]))
    archs, losses, joint = archs[first:], losses[first:], evaluations.joint[first:]
    usable = np.isfinite(losses)
    if usable.sum() < FEWEST:
        raise ValueError(f"evaluations must hold at least {FEWEST} finite losses, got {int(usable.sum())}")
    scale = robust.scale(jnp.asarray(losses[usable], jnp.float32), jnp.ones(int(usable.sum()), bool))
    step = np.nonzero(usable)[0]
    capped = np.asarray(scale.cap(jnp.asarray(losses[usable], jnp.float32)), np.float64)
    return _Fit(space, archs[usable], capped, step, joint).model()


class _Fit:
    """U different networks with counts [U] of evaluations, N evaluations, T steps."""

    def __init__(self, space: SearchSpace, archs: np.ndarray, losses: np.ndarray, step: np.ndarray, joint: np.ndarray):
        self.design = designs.build(space.num_choices)
        self.networks, self.network = np.unique(archs, axis=0, return_inverse=True)
        self.network = self.network.ravel()
        self.losses, self.step, self.joint = losses, step, joint
        self.counts = np.bincount(self.network)
        self.rows = _with_constant(_features(self.design, self.networks))
        self.order = np.append(-1, self.design.order)
        self.per_step = np.bincount(step, minlength=len(joint))

    def model(self) -> LossModel:
        count, networks = len(self.losses), len(self.counts)
        spread = max(float(self.losses.var()), np.finfo(np.float32).tiny)
        least_variance = _LEAST_SHARE * spread
        prior = np.array([spread / 10, spread / 100])  # of coefficients of singles and of pairs
        residual, noise = np.full(networks, spread / 10), spread / 2
        offsets, common = self._first_offsets(least_variance)
        for _ in range(ITERATIONS):
            levelled = self.losses - offsets[self.step]
            mean = np.bincount(self.network, levelled) / self.counts
            within = float(np.square(levelled - mean[self.network]).sum())
            variance = residual + noise / self.counts
            precision = np.where(self.order < 0, least_variance / spread**2, 1 / prior[np.maximum(self.order, 0)])
            weighted = self.rows / variance[:, None]
            factor = scipy.linalg.cho_factor(self.rows.T @ weighted + np.diag(precision), lower=True)
            beta = scipy.linalg.cho_solve(factor, weighted.T @ mean)
            covariance = scipy.linalg.cho_solve(factor, np.eye(len(beta)))
            for order in (0, 1):
                own = self.order == order
                determined = own.sum() - np.diag(covariance)[own].sum() / prior[order]
                prior[order] = max(np.square(beta[own]).sum(), least_variance) / max(determined, 1e-3)
            root = np.linalg.cholesky(covariance + 1e-12 * np.eye(len(beta)) * np.diag(covariance).max())
            modelled = self.rows @ beta
            doubt = np.square(self.rows @ root).sum(1)
            share = residual / variance
            delta = share * (mean - modelled)
            left = residual * (1 - share)  # of the variance of delta
            square = np.square(delta) + left + np.square(share) * doubt
            error = np.square(mean - modelled - delta) + np.square(1 - share) * doubt + left
            noise = max((within + (self.counts * error).sum()) / count, least_variance)
            excess, least, width = _excess(modelled)
            growth, best = _growth(square, excess)
            best = max(best, least_variance)
            residual = best * (1 + np.square(growth * excess))
            offsets, common = self._offsets((modelled + delta)[self.network], noise, common, least_variance)
        final = self._final(offsets)
        return LossModel(
            self.design,
            float(beta[0] + final),
            beta[1:],
            root,
            float(least + final),
            width,
            float(np.sqrt(best)),
            float(growth),
            float(np.sqrt(noise)),
            self.networks,
            mean + final,
            self.counts,
            _calibration(mean - modelled, variance, doubt, excess),
        )

    def _first_offsets(self, least_variance: float) -> tuple[np.ndarray, float]:
        """Of steps, before anything is known of networks; and their variance."""
        there = self.per_step > 0
        means = np.bincount(self.step, self.losses, len(self.per_step)) / np.maximum(self.per_step, 1)
        within = np.square(self.losses - means[self.step]).sum() / max(len(self.losses) - there.sum(), 1)
        chance = (within / self.per_step[there]).mean()
        common = max(float(means[there].var() - chance), least_variance)
        share = common / (common + within / np.maximum(self.per_step, 1))
        return np.where(there, share * (means - self.losses.mean()), 0.0), common

    def _offsets(
        self, expected: np.ndarray, noise: float, common: float, least_variance: float
    ) -> tuple[np.ndarray, float]:
        """Of steps, given the losses [N] that networks have on the average minibatch; and their variance."""
        sums = np.bincount(self.step, self.losses - expected, len(self.per_step))
        share = common / (noise + self.per_step * common)  # of a sum
        offsets = share * sums
        there = self.per_step > 0
        variance = (np.square(offsets) + common * noise / (noise + self.per_step * common))[there].mean()
        return offsets, max(float(variance), least_variance)

    def _final(self, offsets: np.ndarray) -> float:
        """The mean offset on the weights at the end: of the steps that left them, or of the last quarter."""
        there = self.per_step > 0
        after = there & ~self.joint
        last = after if after.any() else there & (np.arange(len(there)) >= 3 * len(there) // 4)
        return float(offsets[last if last.any() else there].mean())


def _calibration(error: np.ndarray, variance: np.ndarray, doubt: np.ndarray, excess: np.ndarray) -> float:
    """From the root mean square of standardised leave-one-out errors [U], of the better half of the networks.

    Its square root: networks that are picked look better than they are, which those that are left out do not. On
    NAS-Bench-Macro and NAS-Bench-201 (16 and 8 searches, noise 0.03) 80 % intervals hold 85 and 73 % of the losses with
    the root mean square itself, and 88 % without a calibration.
    """
    left = np.maximum(variance - doubt, 1e-3 * variance)  # the variance of an error where the network itself was fitted
    best = excess <= np.quantile(excess, CALIBRATED)
    return float(np.sqrt(np.clip(np.sqrt((np.square(error) / left)[best].mean()), *CALIBRATION_RANGE)))


def _features(design: designs.Design, archs: np.ndarray) -> np.ndarray:
    return np.asarray(design.features(jnp.asarray(archs, jnp.int32)), np.float64)


def _with_constant(features: np.ndarray) -> np.ndarray:
    return np.concatenate([np.ones((len(features), 1)), features], axis=1)


def _excess(modelled: np.ndarray) -> tuple[np.ndarray, float, float]:
    """Distances of losses from the least, in units of their deviation; the least, and the deviation."""
    least, width = float(modelled.min()), float(modelled.std())
    width = width if width > 0 else 1.0
    return (modelled - least) / width, least, width


def _growth(square: np.ndarray, excess: np.ndarray) -> tuple[float, float]:
    """The most likely growth of the deviation of delta, and its variance at the best network."""
    forms = 1 + np.square(GROWTHS[:, None] * excess)  # [G, U]
    best = (square / forms).mean(1)
    chosen = int((np.log(best) + np.log(forms).mean(1)).argmin())
    return float(GROWTHS[chosen]), float(best[chosen])
