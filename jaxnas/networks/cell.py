"""One architecture of the cell space of NAS-Bench-201 (arXiv 2001.00326) as a network of its own."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxnas.networks.blocks import ConvNorm, Convolve, batch_norm, classifier, drop_path, fast_convolution, he_normal
from jaxnas.spaces.nasbench201 import EDGES, KERNELS, OPERATIONS, CellSpace
from jaxnas.supernet.cell import average_pool


class Cell(nn.Module):
    """A cell: [B, H, W, channels] -> [B, H, W, channels].

    Attributes:
      arch: operation of each of the 6 edges.
      drop_path: share of images that a training step drops from each edge with weights.
      convolve: what computes convolutions.
      dtype: of the computation; None for that of the parameters.
      axis_name: as of `ConvNorm`.
    """

    arch: tuple[int, ...]
    drop_path: float = 0.0
    convolve: Convolve = fast_convolution
    dtype: Any = None
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """The last node; `x` is node 0."""
        nodes = [x]
        for target in range(1, EDGES[-1][1] + 1):
            node = jnp.zeros_like(x)
            for (source, end), choice in zip(EDGES, self.arch):
                if end == target:
                    node += self._edge(nodes[source], OPERATIONS[choice], f"edge_{source}_{end}", train)
            nodes.append(node)
        return nodes[-1]

    def _edge(self, x: jax.Array, operation: str, name: str, train: bool) -> jax.Array:
        if operation in KERNELS:
            common = {"convolve": self.convolve, "dtype": self.dtype, "axis_name": self.axis_name}
            conv = ConvNorm(x.shape[-1], KERNELS[operation], name=name, **common)
            return drop_path(conv(nn.relu(x), train), self.drop_path, train)
        return {"none": jnp.zeros_like, "skip_connect": lambda x: x, "avg_pool_3x3": average_pool}[operation](x)


class Reduction(nn.Module):
    """The residual block between stages: [B, H, W, C] -> [B, H / 2, W / 2, 2 C].

    Attributes:
      convolve: what computes convolutions.
      dtype: of the computation; None for that of the parameters.
      axis_name: as of `ConvNorm`.
    """

    convolve: Convolve = fast_convolution
    dtype: Any = None
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """The block of x."""
        channels = 2 * x.shape[-1]
        common = {"convolve": self.convolve, "dtype": self.dtype, "axis_name": self.axis_name}
        h = ConvNorm(channels, 3, 2, name="conv_1", **common)(nn.relu(x), train)
        h = ConvNorm(channels, 3, name="conv_2", **common)(nn.relu(h), train)
        pooled = nn.avg_pool(x, (2, 2), (2, 2))
        shortcut = nn.Conv(channels, (1, 1), use_bias=False, kernel_init=he_normal, dtype=self.dtype, name="shortcut")
        return h + shortcut(pooled)


class CellNetwork(nn.Module):
    """The network of one architecture.

    Attributes:
      space: the search space, at the width, image size and number of classes wanted.
      arch: operation of each of the 6 edges.
      drop_path: rate in the last cell; it grows linearly with depth.
      convolve: what computes convolutions, as `jax.lax.conv_general_dilated`, which exports want.
      dtype: of the computation; None for that of the parameters.
      axis_name: as of `ConvNorm`.
    """

    space: CellSpace
    arch: tuple[int, ...]
    drop_path: float = 0.0
    convolve: Convolve = fast_convolution
    dtype: Any = None
    axis_name: str | None = None

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Logits: float [B, H, W, 3], H and W multiples of 4 -> float32 [B, classes]."""
        space = self.space
        common = {"convolve": self.convolve, "dtype": self.dtype, "axis_name": self.axis_name}
        stages = len(space.stage_channels)
        x = ConvNorm(space.channels, 3, name="stem", **common)(images, train)
        for stage in range(1, stages + 1):
            for cell in range(1, space.cells + 1):
                rate = self.drop_path * ((stage - 1) * space.cells + cell) / (stages * space.cells)
                x = Cell(self.arch, rate, name=f"stage_{stage}_cell_{cell}", **common)(x, train)
            if stage < stages:
                x = Reduction(name=f"reduction_{stage}", **common)(x, train)
        x = nn.relu(batch_norm(train, self.dtype, self.axis_name, "head")(x))
        return classifier(space.num_classes, self.dtype)(x.mean((1, 2))).astype(jnp.float32)
