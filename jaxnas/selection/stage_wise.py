"""Stage-Wise NAS: deepen the stages whose features gain importance when they are deepened.

Paper: Jordao et al., "Stage-Wise Neural Architecture Search", arXiv 2004.11178.

Idea: Deepen all stages for a trial, score each stage's features by partial least squares, and keep the deeper form of
those stages whose score rose.

Faithful: Temporary network with all stages deepened, strict comparison of each stage's score with that of the network
before, a candidate after each round; pooled outputs of each stage's last block, PLS on one-hot labels with two
components and standardised data, the mean of the variables' importance in projection (released code).

Deviations: Features come from a supernet's weights instead of networks trained from scratch, and are those of one
minibatch of validation images. Growth starts from one layer in each stage and adds one at a time (paper: two). A layer
that is turned on takes one fixed operation, layers are turned on in their order, and a stage ends growing at its last
layer. The search stops where nothing grew. Maps are pooled to the ratio of their size to the last stage's, which is 8x8
for the paper's networks. The paper emits candidates; the family of K networks are the candidates of least loss + eps R.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import chex
import jax
import numpy as np

from jaxnas.spaces import MBConvSpace, searched_stages, stage_ends
from jaxnas.spaces.mbconv import SKIP

COMPONENTS = 2  # of the partial least squares

# depths of the stages -> importance of each stage's features, float [stages]
ScoresOf = Callable[[tuple[int, ...]], np.ndarray]


@dataclass(frozen=True)
class Growth:
    """The candidates of one growth.

    Attributes:
      depths: of the candidates, the start first.
      scores: float [candidates, stages].
      networks: networks whose features were taken: the start, and for each round the trial and what grew from it, if
        anything did.
    """

    depths: tuple[tuple[int, ...], ...]
    scores: np.ndarray
    networks: int


def grow(scores_of: ScoresOf, start: Sequence[int], step: int, rounds: int, caps: Sequence[int]) -> Growth:
    """Grows the stages of a network from `start`.

    Args:
      scores_of: importance of each stage's features in a network of given depths.
      start: depths at the start.
      step: delta, layers added to a stage at once.
      rounds: T, at most.
      caps: largest depths.

    Raises:
      ValueError: on depths beyond the caps, or a step or number of rounds below 1.

    >>> rising = lambda depths: np.array([depths[0], 0.0])  # deepening the second stage changes nothing
    >>> grow(rising, (1, 1), step=1, rounds=5, caps=(3, 3)).depths
    ((1, 1), (2, 1), (3, 1))
    """
    if step < 1 or rounds < 1:
        raise ValueError(f"step and rounds must be at least 1, got {step} and {rounds}")
    if len(start) != len(caps) or any(not 0 <= depth <= cap for depth, cap in zip(start, caps)):
        raise ValueError(f"start must have a depth from 0 to each of the caps {tuple(caps)}, got {tuple(start)}")
    depths, networks = tuple(start), 1
    scores = np.asarray(scores_of(depths), np.float64)
    path, history = [depths], [scores]
    for _ in range(rounds):
        deeper = tuple(min(depth + step, cap) for depth, cap in zip(depths, caps))
        if deeper == depths:
            break
        trial, networks = np.asarray(scores_of(deeper), np.float64), networks + 1
        grown = tuple(after if rose else before for before, after, rose in zip(depths, deeper, trial > scores))
        if grown == depths:
            break
        depths, scores, networks = grown, np.asarray(scores_of(grown), np.float64), networks + 1
        path.append(depths)
        history.append(scores)
    return Growth(tuple(path), np.stack(history), networks)


def importance(features: np.ndarray, labels: np.ndarray) -> float:
    """Mean importance in projection (VIP) of features for classes, by partial least squares.

    VIP_j = sqrt(p sum_a SS_a (w_ja / |w_a|)^2 / sum_a SS_a) with SS_a = (t_a . t_a)(q_a . q_a) over the components a.
    As the mean of VIP^2 is 1, the mean of VIP says how evenly importance is spread, from 1 / sqrt(p) to 1: scores of
    one stage can be compared, those of different stages cannot.

    Args:
      features: float [N, p].
      labels: int [N].

    Raises:
      ValueError: if no feature or only one class is there to be compared.
    """
    from sklearn.cross_decomposition import PLSRegression  # takes a second to import

    chex.assert_rank([features, labels], [2, 1])
    classes = np.unique(labels)
    varying = features.std(0) > 1e-9 * (np.abs(features).max() + 1e-30)
    if len(classes) < 2 or not varying.any():
        raise ValueError(
            f"features of {len(features)} images of {len(classes)} classes do not vary; nothing to compare"
        )
    one_hot = (np.asarray(labels)[:, None] == classes).astype(np.float64)
    used = np.asarray(features, np.float64)[:, varying]
    components = min(COMPONENTS, used.shape[1], len(used) - 1)
    fitted = PLSRegression(n_components=components).fit(used, one_hot)
    length = np.linalg.norm(fitted.x_weights_, axis=0)
    weights = fitted.x_weights_ / np.where(length > 0, length, 1.0)  # [p, a]; 0 where the first left nothing to explain
    explained = (fitted.x_scores_**2).sum(0) * (fitted.y_loadings_**2).sum(0)  # [a]
    vip = np.zeros(features.shape[1])  # a feature that does not vary has no importance
    vip[varying] = np.sqrt(features.shape[1] * (weights**2 @ explained) / explained.sum())
    return float(vip.mean())


def pooled(feature: jax.Array, window: int) -> np.ndarray:
    """Means over windows of at most the map's size, flattened: float [B, H, W, C] -> float [B, H' W' C]."""
    batch, height, width, channels = feature.shape
    rows, columns = min(window, height), min(window, width)
    cut = np.asarray(feature)[:, : height // rows * rows, : width // columns * columns]
    blocks = cut.reshape(batch, height // rows, rows, width // columns, columns, channels)
    return blocks.mean((2, 4)).reshape(batch, -1)


def stages(space: MBConvSpace) -> tuple[tuple[int, ...], ...]:
    """The decisions of each stage that can be skipped or turned on, in order; stages without any are left out."""
    found = [tuple(d for d in stage if SKIP in space.layers[d].operations) for stage in searched_stages(space)]
    return tuple(stage for stage in found if stage)


def architecture(space: MBConvSpace, depths: Sequence[int], operation: int) -> np.ndarray:
    """The network whose stages have these depths: int32 [D].

    Args:
      space: the search space.
      depths: for each stage of `stages`, how many of its layers are turned on, from the first.
      operation: the choice of layers that are turned on, and of those that cannot be skipped.
    """
    arch = np.full(len(space.layers), operation, np.int32)
    for stage, depth in zip(stages(space), depths, strict=True):
        for d in stage[depth:]:
            arch[d] = space.layers[d].operations.index(SKIP)
    return arch


def search(
    space: MBConvSpace,
    features_of: Callable[[np.ndarray], Sequence[jax.Array]],
    labels: np.ndarray,
    operation: int,
    rounds: int = 5,
) -> tuple[np.ndarray, int]:
    """Grows a network of one operation on features of a supernet.

    Args:
      space: a space with layers that can be skipped.
      features_of: arch [D] -> the features that `apply_with_features` gives, of the images that `labels` belong to.
      labels: int [B].
      operation: the choice of layers that are turned on.
      rounds: T, at most.

    Returns:
      The candidates, int32 [n, D], shallowest first, and the number of networks whose features were taken.

    Raises:
      ValueError: if the space has no layer that can be skipped, or the operation is a skip somewhere.
    """
    if not isinstance(space, MBConvSpace) or not stages(space):
        raise ValueError(f"space {space.name!r} has no layers that can be skipped: its depth cannot grow")
    if any(operation >= len(layer.operations) or layer.operations[operation] == SKIP for layer in space.layers):
        raise ValueError(f"operation must be one that every layer has, and no skip, got {operation}")
    last_of = [max(stage) for stage in stages(space)]
    ends = [next(end for end in stage_ends(space) if end - len(space.fixed_layers) > d) for d in last_of]

    @functools.cache
    def scores_of(depths: tuple[int, ...]) -> np.ndarray:
        features = features_of(architecture(space, depths, operation))
        window = features[stage_ends(space)[-1]].shape[1]
        return np.array([importance(pooled(features[end], window), labels) for end in ends])

    growth = grow(scores_of, (1,) * len(ends), 1, rounds, [len(stage) for stage in stages(space)])
    return np.stack([architecture(space, depths, operation) for depths in growth.depths]), growth.networks
