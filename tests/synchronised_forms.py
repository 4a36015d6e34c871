"""Gradients of a supernet by `jax.pmap` with synchronised batch norm, in the forms of all backends.

    XLA_FLAGS=--xla_force_host_platform_device_count=2 python -m tests.synchronised_forms

Writes a line for each form: backend, batching, and the largest difference to one device, as a share of the largest
gradient.
"""

import sys

import jax
import jax.numpy as jnp

from jaxnas import supernet
from tests.tiny_search import tiny

ARCHS = ((0, 1), (1, 0), (0, 0))
AXIS = "devices"


def gradients(network, batching, params, images, direction):
    """Of the sum over architectures of logits times a direction, [S, B, classes]."""

    def of_one(params, arch, direction):
        return (network.apply({"params": params}, images, arch) * direction).sum()

    def total(params):
        if batching == "vmap":
            return jax.vmap(of_one, (None, 0, 0))(params, jnp.asarray(ARCHS), direction).sum()
        return jax.lax.map(lambda pair: of_one(params, *pair), (jnp.asarray(ARCHS), direction)).sum()

    return jax.grad(total)(params)


def main():
    space, count = tiny(), jax.device_count()
    alone = supernet.build(space, backend="cpu")
    params = alone.init_params(jax.random.key(0))
    images = jax.random.normal(jax.random.key(1), (8, 8, 8, 3))
    direction = jax.random.normal(jax.random.key(2), (len(ARCHS), 8, 10))
    expected = jax.jit(lambda params: gradients(alone, "map", params, images, direction))(params)
    largest = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(expected))
    parts = images.reshape(count, -1, *images.shape[1:]), direction.reshape(len(ARCHS), count, -1, 10)
    for backend in ("cpu", "gpu", "tpu"):
        for batching in ("map", "vmap"):
            network = supernet.build(space, batching == "vmap", AXIS, backend)

            def of_part(params, images, direction, network=network, batching=batching):
                return jax.lax.psum(gradients(network, batching, params, images, direction), AXIS)

            found = jax.pmap(of_part, AXIS, in_axes=(None, 0, 1))(params, *parts)
            pairs = zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True)
            difference = max(float(jnp.abs(one[0] - other).max()) for one, other in pairs) / largest
            sys.stdout.write(f"{backend} {batching} {difference}\n")


if __name__ == "__main__":
    main()
