"""The network of the speed benchmark: its space, and the ways to train it that are compared with the library's own.

A 3x3 stem of 16 channels, MBConv layers of 32, 32, 64, 64, 64, 128, 128, 128 channels at 32x32 pixels with stride 2
entering 64 and 128, six operations (kernels 3, 5, 7, expansions 3, 6) and a skip where shapes allow it.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jaxnas import spaces
from jaxnas.spaces.mbconv import SKIP, MBConvSpace, Operation
from jaxnas.supernet import layer_weights, mbconv, ops
from jaxnas.supernet.conv import full_conv
from jaxnas.supernet.switch import Params

LayerApply = Callable[[Params, jax.Array, int, mbconv.Layer], jax.Array]


def benchmark_space(width: float = 1.0, image_size: int = 32) -> MBConvSpace:
    """The space; a smaller width or image for a quick look."""
    operations = tuple(Operation(kernel, expansion) for kernel in (3, 5, 7) for expansion in (3, 6)) + (SKIP,)
    stages = tuple((int(channels * width), count, stride) for channels, count, stride in ((32, 2, 1), (64, 3, 2)))
    return spaces.mbconv_space(
        "supernet_step",
        image_size=image_size,
        stem_channels=int(16 * width),
        stages=(*stages, (int(128 * width), 3, 2)),
        operations=operations,
        head_channels=int(128 * width),
    )


def sample_archs(space: MBConvSpace, samples: int, seed: int = 0) -> np.ndarray:
    """Uniform architectures, int32 [S, D]."""
    return space.sample_uniform(np.random.default_rng(seed), samples).astype(np.int32)


def training_flops(space: MBConvSpace, archs: np.ndarray, batch_size: int) -> float:
    """Floating-point operations of forward and backward passes: three times the forward ones, two a multiply-add."""
    return float(sum(space.cost("macs").total(arch) for arch in archs)) * 2 * 3 * batch_size


def network(params: Params, images: jax.Array, space: MBConvSpace, layer_output: Callable) -> jax.Array:
    """Logits, with `layer_output(index, params of the layer, x)` in place of the searched layers."""
    x = full_conv(images, params["stem"]["kernel"], space.stem_stride)
    x = ops.batch_norm(x, params["stem"]["scale"], params["stem"]["bias"], relu6=True)
    for index in range(len(space.layers)):
        x = layer_output(index, params[f"layer_{index + 1}"], x)
    head = params["head"]
    x = ops.batch_norm(ops.pointwise_conv(x, head["kernel"]), head["scale"], head["bias"], relu6=True)
    return x.mean((1, 2)) @ params["classifier"]["kernel"] + params["classifier"]["bias"]


def switched(params: Params, images: jax.Array, arch: jax.Array, space: MBConvSpace) -> jax.Array:
    """The plain supernet: a `switch` in every layer, which `vmap` turns into all operations at once."""

    def layer_output(index: int, layer_params: Params, x: jax.Array) -> jax.Array:
        return mbconv.apply_layer(layer_params, x, arch[index], space.layers[index])

    return network(params, images, space, layer_output)


def discrete(params: Params, images: jax.Array, arch: tuple[int, ...], space: MBConvSpace) -> jax.Array:
    """One architecture as a network of its own, its layers computed as fast as the library can."""

    def layer_output(index: int, layer_params: Params, x: jax.Array) -> jax.Array:
        operation = space.layers[index].operations[arch[index]]
        layer = dataclasses.replace(space.layers[index], operations=(operation,))
        apply = mbconv.layer_function(layer, False)
        return apply(layer_params, x, jnp.int32(0), layer)

    return network(params, images, space, layer_output)


def params_of(params: Params, arch: tuple[int, ...], space: MBConvSpace) -> Params:
    """The weights of the supernet that one architecture uses."""
    own = dict(params)
    for index, choice in enumerate(arch):
        layer = space.layers[index]
        operation = layer.operations[choice]
        weights = layer_weights.unpack(params[f"layer_{index + 1}"], layer, operation)
        if operation.is_skip:
            own[f"layer_{index + 1}"] = {layer_weights.SHORTCUT: weights} if weights else {}
        else:
            own[f"layer_{index + 1}"] = jax.tree.map(lambda array: array[None], weights)
    return own
