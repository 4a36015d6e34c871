"""Introspectability: how different a network's mean activations are between the classes that it predicts.

Paper: Carmichael, Moon, Jacobs: "Learning Interpretable Models Through Multi-Objective Neural Architecture Search",
arXiv 2112.08645.

Idea: Search for accurate networks whose activations distinguish classes; 1 - I / 2, I the introspectability, replaces
the cost.

Faithful: Grouping by predicted classes; the mean over pairs of classes of one minus the cosine of their mean
activations (released code of XNAS); NSGA-II on the two objectives.

Deviations: Shared weights instead of training each candidate; the outputs of whole layers or cells instead of every
convolution and activation, so that what enters a skipped layer counts once more as what leaves it; one minibatch of
validation images with its own batch statistics instead of 25,000 images; categorical operators and a small population;
where nothing can be compared, the worst value instead of 0.
"""

from collections.abc import Callable, Sequence

import chex
import jax
import jax.numpy as jnp
import optax

# apply(params, images [B, H, W, 3], arch [D]) -> (logits [B, classes], features)
ApplyWithFeatures = Callable[[chex.ArrayTree, jax.Array, jax.Array], tuple[jax.Array, Sequence[jax.Array]]]


def class_gram(features: Sequence[jax.Array], predicted: jax.Array, num_classes: int) -> jax.Array:
    """Inner products of the mean activations of all pairs of classes, over all features together.

    With a(x) all features of an image, flattened and concatenated, and m_i = (1/B) sum over the images of class i of
    a(x), this is <m_i, m_j>: the sum over features of each one's, so that nothing need be concatenated.

    Args:
      features: float [B, ...] each.
      predicted: int [B].
      num_classes: N.

    Returns:
      float [N, N].
    """
    chex.assert_rank(predicted, 1)
    one_hot = jax.nn.one_hot(predicted, num_classes, dtype=features[0].dtype)  # [B, N]
    total = jnp.zeros((num_classes, num_classes), features[0].dtype)
    for feature in features:
        chex.assert_axis_dimension(feature, 0, len(predicted))
        flat = feature.reshape(len(predicted), -1)
        means = jnp.matmul(one_hot.T, flat, precision=jax.lax.Precision.HIGHEST) / len(predicted)  # [N, features]
        total += jnp.matmul(means, means.T, precision=jax.lax.Precision.HIGHEST)
    return total


def introspectability(gram: jax.Array, predicted: jax.Array) -> jax.Array:
    """I, the mean over pairs of predicted classes of one minus the cosine of their mean activations.

    Args:
      gram: float [N, N], of `class_gram`.
      predicted: int [B].

    Returns:
      float [], in [0, 2]; -inf where fewer than two classes are predicted, or all activations of all but one vanish.

    >>> orthogonal = jnp.array([[1.0, 0.0], [0.0, 4.0]])
    >>> print(introspectability(orthogonal, jnp.array([0, 1, 1])))
    1.0
    """
    chex.assert_rank([gram, predicted], [2, 1])
    square = jnp.diag(gram)
    # A class that nobody predicts has no mean, and one of no activation no direction: their pairs are dropped.
    usable = (jnp.bincount(predicted, length=len(gram)) > 0) & (square > 0)
    pairs = jnp.triu(usable[:, None] & usable, 1)
    length = jnp.sqrt(jnp.where(square > 0, square, 1.0))
    distance = 1 - gram / (length[:, None] * length)
    count = pairs.sum()
    return jnp.where(count > 0, jnp.where(pairs, distance, 0.0).sum() / jnp.maximum(count, 1), -jnp.inf)


def measured_cost(value: jax.Array) -> jax.Array:
    """I as a cost to be minimised, 1 - I / 2 in [0, 1]; 1, the worst, where there is none.

    >>> print(measured_cost(jnp.array([2.0, 0.5, -jnp.inf])))
    [0.   0.75 1.  ]
    """
    return jnp.where(jnp.isfinite(value), jnp.clip(1 - value / 2, 0.0, 1.0), 1.0)


def evaluate(
    apply: ApplyWithFeatures, params: chex.ArrayTree, images: jax.Array, labels: jax.Array, archs: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Losses of architectures and their introspectability as a measured cost, for a strategy's `tell`.

    Args:
      apply: a supernet's `apply_with_features`.
      params: its weights.
      images: float [B, H, W, 3].
      labels: int [B], for the losses; introspectability takes the predicted classes.
      archs: int32 [S, D].

    Returns:
      float32 [S], the mean cross-entropy; float32 [S, 1], `measured_cost`.
    """
    chex.assert_rank([images, labels, archs], [4, 1, 2])

    def one(arch: jax.Array) -> tuple[jax.Array, jax.Array]:
        logits, features = apply(params, images, arch)
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
        predicted = logits.argmax(-1)
        value = introspectability(class_gram(features, predicted, logits.shape[-1]), predicted)
        return loss, measured_cost(value)[None]

    return jax.lax.map(one, archs)
