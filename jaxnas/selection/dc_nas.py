"""DC-NAS-style: divide sampled networks into clusters of similar ones, and compare only the winners accurately.

Paper: Wang, Xu, Tao: "DC-NAS: Divide-and-Conquer Neural Architecture Search", arXiv 2005.14456.

Idea: A cheap score misranks networks that differ much. It therefore compares only similar networks, and an accurate
score compares the winners of all clusters.

Faithful: Sampled networks, represented by each layer's change of parameters or by its features, k-means over their
similarity, the cheap score inside clusters, one comparison of the clusters' winners (abstract).

Deviations: The similarity is the mean over decisions of cosines, of random projections of the change or of Gram
matrices of pooled features; for tables, which have neither, of one-hot choices. The cheap score is the loss with shared
weights on few images (or one noisy evaluation), the accurate one that on many. A cluster has a winner for each penalty,
by its loss + eps R. Numbers of networks and clusters are this library's.

Limits: On NAS-Bench-201, with short training as the cheap score and clusters of one-hot choices, it found worse
networks than the cheap score alone with as many candidates (`pytest tests/test_dc_nas.py -k short_training`).
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import chex
import jax
import jax.numpy as jnp
import numpy as np

from jaxnas.cost import objective
from jaxnas.spaces import CellSpace, MBConvSpace, SearchSpace
from jaxnas.supernet import layer_weights

RESTARTS = 10  # of k-means, by k-means++
RANK = 64  # r, of the random projections of a change of parameters

# int [n, D] -> float [n], losses
Evaluate = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Selected:
    """What was selected, and how.

    Attributes:
      archs: int32 [K, D], a network for each penalty.
      clusters: int [N], the cluster of each candidate.
      winners: int [n], the candidates that were evaluated accurately; n is at most clusters times penalties.
      losses: float [n], their accurate losses.
    """

    archs: np.ndarray
    clusters: np.ndarray
    winners: np.ndarray
    losses: np.ndarray


def select(
    key: jax.Array,
    archs: np.ndarray,
    representations: np.ndarray,
    cheap: Evaluate,
    accurate: Evaluate,
    clusters: int,
    penalties: Sequence[float],
    costs: np.ndarray,
) -> Selected:
    """Clusters candidates, lets the best of each cluster by the cheap score compete, and picks for each penalty.

    Args:
      key: a JAX random key, for k-means.
      archs: int [N, D], candidates.
      representations: float [N, D, r], of each decision's choice; see `one_hot`, `parameter_change`, `gram_features`.
      cheap: losses of architectures; called once, with all candidates.
      accurate: likewise, called once, with the winners.
      clusters: number of clusters, at most N. With N the accurate score alone decides; with 1 the cheap one, if
        there is one penalty (with several, the winners for each still compete by the accurate score).
      penalties: eps_k.
      costs: float [N], scaled costs R.

    Raises:
      ValueError: if there are not between 1 and N clusters, or no loss is finite.
    """
    archs = np.asarray(archs)
    chex.assert_rank([archs, representations, costs], [2, 3, 1])
    chex.assert_equal_shape_prefix([archs, representations, costs], 1)
    if not 1 <= clusters <= len(archs):
        raise ValueError(f"clusters must be from 1 to the {len(archs)} candidates, got {clusters}")
    order = np.lexsort(archs.T[::-1])  # the answer must not depend on the candidates' order
    points = unit_rows(representations).reshape(len(archs), -1)
    labels = np.empty(len(archs), int)
    labels[order] = _k_means(key, points[order], clusters)
    costs = np.asarray(costs, np.float64)
    scores = objective(_finite(np.asarray(cheap(archs), np.float64), "cheap"), penalties, costs)  # [K, N]
    winners = set()
    for cluster in range(clusters):
        members = order[labels[order] == cluster]
        if len(members):  # k-means can leave one empty where candidates coincide
            winners.update(members[scores[:, members].argmin(1)].tolist())
    winners = np.array(sorted(winners))
    losses = _finite(np.asarray(accurate(archs[winners]), np.float64), "accurate")
    chosen = winners[objective(losses, penalties, costs[winners]).argmin(1)]
    return Selected(archs[chosen].astype(np.int32), labels, winners, losses)


def _finite(losses: np.ndarray, name: str) -> np.ndarray:
    if not np.isfinite(losses).any():
        raise ValueError(f"{name} must give a finite loss to choose by, gave none for {len(losses)} candidates")
    return np.where(np.isfinite(losses), losses, np.inf)


def _k_means(key: jax.Array, points: np.ndarray, clusters: int) -> np.ndarray:
    from sklearn.cluster import KMeans  # takes a second to import

    if clusters == len(points):
        return np.arange(len(points))
    seed = int(jax.random.bits(key, dtype=jnp.uint32)) % 2**31
    distinct = len(np.unique(points, axis=0))
    return KMeans(min(clusters, distinct), n_init=RESTARTS, random_state=seed).fit_predict(points)


def unit_rows(representations: np.ndarray) -> np.ndarray:
    """Vectors of length 1, or 0 where there is nothing: float [..., r] -> float [..., r].

    Of such rows x_i in [D, r] the squared distance is 2 D (1 - S), S the mean cosine: k-means clusters by similarity.
    """
    length = np.linalg.norm(representations, axis=-1, keepdims=True)
    return representations / np.where(length > 0, length, 1.0)


def one_hot(archs: np.ndarray, space: SearchSpace) -> np.ndarray:
    """The choices themselves, where nothing else is known of a network: int [N, D] -> float [N, D, C]."""
    return np.eye(space.max_choices)[np.asarray(archs)]


def parameter_change(
    key: jax.Array, space: SearchSpace, before: chex.ArrayTree, after: chex.ArrayTree, rank: int = RANK
) -> np.ndarray:
    """How training moved the parameters of every choice of every decision, randomly projected.

    Args:
      key: of the projections; decisions and choices of one shape share theirs, so that cosines compare like with like.
      space: an MBConv or a cell space.
      before: a supernet's weights before a window of training.
      after: those after it.
      rank: r.

    Returns:
      float [D, C, r + C]: (after - before) / |before| projected to r numbers, and C slots for identity, of which a
      choice without parameters takes its own: it has no change, and yet is like itself. An architecture's
      representation is `change[np.arange(D), archs]`.
    """
    change = np.zeros((len(space.decisions), space.max_choices, rank + space.max_choices))
    for d, count in enumerate(space.num_choices):
        for choice in range(count):
            start, end = (_flat(parameters_of(space, params, d, choice)) for params in (before, after))
            if not len(start):
                change[d, choice, rank + choice] = 1
                continue
            projection = jax.random.normal(jax.random.fold_in(key, len(start)), (len(start), rank)) / np.sqrt(rank)
            change[d, choice, :rank] = (end - start) / max(np.linalg.norm(start), 1e-12) @ np.asarray(projection)
    return change


def _flat(tree: chex.ArrayTree) -> np.ndarray:
    leaves = [np.asarray(leaf, np.float64).ravel() for leaf in jax.tree.leaves(tree)]
    return np.concatenate(leaves) if leaves else np.zeros(0)


@functools.singledispatch
def parameters_of(space: SearchSpace, params: chex.ArrayTree, decision: int, choice: int) -> chex.ArrayTree:
    """The arrays of one choice in a supernet's weights; ValueError for a space without supernets."""
    raise ValueError(f"space {space.name!r} has no supernet; represent its networks by one_hot")


@parameters_of.register(MBConvSpace)
def _of_layer(space: MBConvSpace, params: chex.ArrayTree, decision: int, choice: int) -> chex.ArrayTree:
    layer = space.layers[decision]
    return layer_weights.unpack(params[f"layer_{decision + 1}"], layer, layer.operations[choice])


@parameters_of.register(CellSpace)
def _of_edge(space: CellSpace, params: chex.ArrayTree, decision: int, choice: int) -> chex.ArrayTree:
    edge = space.decisions[decision].name.replace(" ", "_").replace("-", "_")
    stages = range(1, len(space.stage_channels) + 1)
    return [params[f"stage_{stage}"][edge][space.decisions[decision].choices[choice]] for stage in stages]


def gram_features(features: Sequence[jax.Array]) -> jax.Array:
    """Likeness of images by each layer's pooled features, which needs no common channels.

    Args:
      features: float [B, H, W, C_l] of L layers or cells.

    Returns:
      float [L, B * B]; L takes the place of D.
    """
    pooled = [feature.mean((1, 2)) for feature in features]
    return jnp.stack([(rows @ rows.T).ravel() for rows in pooled])
