"""The cell supernet: every choice of every edge of every cell has its own weights, an architecture picks one for each.

All cells of a network share the architecture, not the weights. Batch norm uses the statistics of the minibatch, for
each architecture its own, as in the MBConv supernet.
"""

import functools
from collections.abc import Callable

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxnas.spaces.nasbench201 import EDGES, KERNELS, OPERATIONS, CellSpace
from jaxnas.supernet import init, mixture, ops
from jaxnas.supernet.conv import full_conv
from jaxnas.supernet.switch import Branches, Params, switch_with_recompute


def _edge_name(source: int, target: int) -> str:
    return f"edge_{source}_{target}"


def _stage(channels: int, cells: int) -> Params:
    edge = {
        name: init.conv(KERNELS[name], channels, channels, stack=(cells,)) if name in KERNELS else {}
        for name in OPERATIONS
    }
    return {_edge_name(*nodes): edge for nodes in EDGES}


def _reduction(in_channels: int) -> Params:
    channels = 2 * in_channels
    return {
        "conv_1": init.conv(3, in_channels, channels),
        "conv_2": init.conv(3, channels, channels),
        "shortcut": {"kernel": init.he_normal(in_channels, channels, fan_in=in_channels)},
    }


def declare(space: CellSpace) -> Params:
    """The arrays of the supernet, a tree of `init.Array`; those of a stage have a leading axis of its N cells."""
    arrays = {"stem": init.conv(3, 3, space.channels)}
    for index, channels in enumerate(space.stage_channels, start=1):
        arrays[f"stage_{index}"] = _stage(channels, space.cells)
    for index, channels in enumerate(space.stage_channels[:-1], start=1):
        arrays[f"reduction_{index}"] = _reduction(channels)
    last = space.stage_channels[-1]
    return {**arrays, "head": init.norm(last), "classifier": init.classifier(last, space.num_classes)}


def _conv_norm(params: Params, x: jax.Array, stride: int = 1, backend: str | None = None) -> jax.Array:
    """Convolution and batch norm; the kernel is [in, out], or [3, 3, in, out] with padding 1."""
    kernel = params["kernel"]
    x = ops.pointwise_conv(x, kernel) if kernel.ndim == 2 else full_conv(x, kernel, stride, backend)
    return ops.batch_norm(x, params["scale"], params["bias"])


def _window_sum(x: jax.Array, axis: int) -> jax.Array:
    length = x.shape[axis]
    padded = jnp.pad(x, [(1, 1) if a == axis else (0, 0) for a in range(x.ndim)])
    return sum(jax.lax.slice_in_dim(padded, start, start + length, axis=axis) for start in range(3))


def average_pool(x: jax.Array) -> jax.Array:
    """3x3 average over the neighbours inside the image, stride 1: [B, H, W, C] -> [B, H, W, C].

    Shifted sums, one axis after the other, are twice as fast as `reduce_window` on CPUs.
    """
    rows, columns = (sum(np.eye(size, k=offset) for offset in (-1, 0, 1)).sum(1) for size in x.shape[1:3])
    weights = (1 / np.outer(rows, columns))[:, :, None]
    return _window_sum(_window_sum(x, 1), 2) * weights.astype(x.dtype)


@functools.cache
def _branches(backend: str | None) -> Branches:
    def relu_conv_norm(params: Params, x: jax.Array) -> jax.Array:
        return _conv_norm(params, jax.nn.relu(x), backend=backend)

    operations = {
        "none": lambda params, x: jnp.zeros_like(x),
        "skip_connect": lambda params, x: x,
        "nor_conv_1x1": lambda params, x: relu_conv_norm(params["nor_conv_1x1"], x),
        "nor_conv_3x3": lambda params, x: relu_conv_norm(params["nor_conv_3x3"], x),
        "avg_pool_3x3": lambda params, x: average_pool(x),
    }
    return tuple(operations[name] for name in OPERATIONS)


def apply_edge(params: Params, x: jax.Array, choice: jax.Array, backend: str | None = None) -> jax.Array:
    """The chosen operation of an edge.

    Args:
      params: weights of all choices, by the names of the operations.
      x: float [B, H, W, channels], the edge's source node.
      choice: int32 [], index of the operation.
      backend: that the program is for; None for JAX's default.

    Returns:
      float [B, H, W, channels]; exactly 0 for "none" and exactly x for "skip_connect".
    """
    return switch_with_recompute(_branches(backend), choice, params, x)


def mix_edge(params: Params, x: jax.Array, weights: jax.Array, backend: str | None = None) -> jax.Array:
    """As `apply_edge`, but the sum of all operations by float [C] weights, see `mixture.apply_branches`."""
    return mixture.apply_branches(_branches(backend), weights, params, x)


def apply_cell(
    params: Params,
    x: jax.Array,
    arch: jax.Array,
    apply_edge: Callable[[Params, jax.Array, jax.Array], jax.Array] = apply_edge,
) -> jax.Array:
    """One cell.

    Args:
      params: weights of all choices of its edges, by the names of the edges.
      x: float [B, H, W, channels], node 0.
      arch: int32 [D], or what else `apply_edge` takes for each edge.
      apply_edge: the function of an edge, `apply_edge` or `mix_edge`.

    Returns:
      float [B, H, W, channels], the last node.
    """
    nodes = [x]
    for target in range(1, max(target for _, target in EDGES) + 1):
        incoming = [
            apply_edge(params[_edge_name(*edge)], nodes[edge[0]], arch[index])
            for index, edge in enumerate(EDGES)
            if edge[1] == target
        ]
        nodes.append(sum(incoming[1:], start=incoming[0]))
    return nodes[-1]


def apply_reduction(params: Params, x: jax.Array, backend: str | None = None) -> jax.Array:
    """The residual block between stages: [B, H, W, C] -> [B, H / 2, W / 2, 2 C]."""
    h = _conv_norm(params["conv_1"], jax.nn.relu(x), 2, backend)
    h = _conv_norm(params["conv_2"], jax.nn.relu(h), 1, backend)
    batch, height, width, channels = x.shape
    pooled = x.reshape(batch, height // 2, 2, width // 2, 2, channels).mean((2, 4))
    return h + ops.pointwise_conv(pooled, params["shortcut"]["kernel"])


def forward(
    params: Params, images: jax.Array, arch: jax.Array, space: CellSpace, backend: str | None = None
) -> jax.Array:
    """Logits of one architecture.

    Args:
      params: weights, see `CellSupernet`.
      images: float [B, H, W, 3], H and W multiples of 4.
      arch: int32 [D].
      space: the search space.
      backend: that the program is for; None for JAX's default.

    Returns:
      float [B, classes].

    Raises:
      ValueError: if the images cannot be halved twice.
    """
    chex.assert_rank([images, arch], [4, 1])
    chex.assert_shape(arch, (len(EDGES),))
    return _network(params, images, arch, space, apply_edge, backend)[0]


def forward_with_features(
    params: Params, images: jax.Array, arch: jax.Array, space: CellSpace, backend: str | None = None
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    """As `forward`, with what the network's cells put out.

    Returns:
      float [B, classes], and float [B, H, W, channels] of the stem, of each cell, and of the head.
    """
    chex.assert_rank([images, arch], [4, 1])
    chex.assert_shape(arch, (len(EDGES),))
    return _network(params, images, arch, space, apply_edge, backend, keep=True)


def forward_mixture(
    params: Params, images: jax.Array, weights: jax.Array, space: CellSpace, backend: str | None = None
) -> jax.Array:
    """Logits of the relaxed network, in which every edge is a weighted sum of its operations.

    Args:
      params: weights, see `CellSupernet`.
      images: float [B, H, W, 3], H and W multiples of 4.
      weights: float [D, C], of the operations; used as they are, see `mixture`.
      space: the search space.
      backend: that the program is for; None for JAX's default.

    Returns:
      float [B, classes].

    Raises:
      ValueError: if the images cannot be halved twice.
    """
    chex.assert_rank([images, weights], [4, 2])
    chex.assert_shape(weights, (len(EDGES), len(OPERATIONS)))
    return _network(params, images, weights, space, mix_edge, backend)[0]


def _network(
    params: Params,
    images: jax.Array,
    choices: jax.Array,
    space: CellSpace,
    apply_edge: Callable[..., jax.Array],
    backend: str | None,
    keep: bool = False,
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    """Logits, and features if they are to be kept; choices are [D, ...], `apply_edge` is an edge's function."""
    if images.shape[1] % 4 or images.shape[2] % 4:
        raise ValueError(f"images must have height and width that are multiples of 4, got shape {images.shape}")

    apply_edge = functools.partial(apply_edge, backend=backend)

    def step(x: jax.Array, cell_params: Params) -> tuple[jax.Array, jax.Array | None]:
        x = apply_cell(cell_params, x, choices, apply_edge)
        return x, x if keep else None

    with jax.named_scope("stem"):
        x = _conv_norm(params["stem"], images, 1, backend)
    features = [x]
    for stage in range(1, len(space.stage_channels) + 1):
        if stage > 1:
            with jax.named_scope(f"reduction_{stage - 1}"):
                x = apply_reduction(params[f"reduction_{stage - 1}"], x, backend)
        # The program holds one copy of a stage's cells, which compiles faster.
        with jax.named_scope(f"stage_{stage}"):
            x, outputs = jax.lax.scan(step, x, params[f"stage_{stage}"])
        features.extend(outputs if keep else [])
    with jax.named_scope("head"):
        x = jax.nn.relu(ops.batch_norm(x, params["head"]["scale"], params["head"]["bias"]))
        logits = x.mean((1, 2)) @ params["classifier"]["kernel"] + params["classifier"]["bias"]
    return logits, (*features, x) if keep else ()


class CellSupernet(nn.Module):
    """Supernet of a cell space: `apply({"params": params}, images, arch) -> logits`.

    Parameters are `stem`, `stage_1`, `reduction_1`, `stage_2`, `reduction_2`, `stage_3`, `head` and `classifier`; a
    stage holds one entry for each edge, `edge_0_1`.., with one entry for each choice, its arrays stacked over cells.

    Attributes:
      space: the search space.
      backend: that programs are for; None for JAX's default.
    """

    space: CellSpace
    backend: str | None = None

    @nn.compact
    def parameters(self) -> Params:
        """The arrays of `declare`, as Flax parameters."""
        return init.as_params(self, declare(self.space))

    def __call__(self, images: jax.Array, arch: jax.Array) -> jax.Array:
        """Logits of one architecture: float [B, H, W, 3], int32 [D] -> float [B, classes]."""
        return forward(self.parameters(), images, arch, self.space, self.backend)

    def apply_with_features(self, images: jax.Array, arch: jax.Array) -> tuple[jax.Array, tuple[jax.Array, ...]]:
        """Logits and features, for `apply(..., method="apply_with_features")`: see `forward_with_features`."""
        return forward_with_features(self.parameters(), images, arch, self.space, self.backend)

    def apply_mixture(self, images: jax.Array, weights: jax.Array) -> jax.Array:
        """Logits of the relaxed network, for `apply(..., method="apply_mixture")`: see `forward_mixture`."""
        return forward_mixture(self.parameters(), images, weights, self.space, self.backend)

    def init_params(self, key: jax.Array) -> Params:
        """He-initialised weights of all choices, without running the network."""
        return init.draw(key, declare(self.space))
