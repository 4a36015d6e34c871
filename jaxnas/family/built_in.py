"""The built-in spaces as `search` takes a space: supernets and discrete networks behind the calls of `elastic`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnas import networks, supernet
from jaxnas.elastic.choices import Axis, Choices
from jaxnas.elastic.model_space import ModelSpace, models_of
from jaxnas.spaces import CellSpace, MBConvSpace


@dataclass(frozen=True, eq=False)
class BuiltInSpace(ModelSpace):
    """A space whose weights are shared by a supernet, and whose models are `jaxnas.networks`.

    Attributes:
      name, decisions, costs, choices, models: see `ModelSpace`; the models take `choices`, D of them.
      supernet: module with `apply({"params": params}, images, arch) -> logits` and `init_params(key)`.
      built_from: the space.
    """

    supernet: Any = None
    built_from: MBConvSpace | CellSpace = None

    @property
    def description(self) -> dict[str, Any] | None:
        """See `SearchSpace`."""
        return self.built_from.description

    def init_params(self, key: jax.Array) -> Any:
        """Fresh weights of the supernet."""
        return self.supernet.init_params(key)

    def apply(self, params: Any, inputs: jax.Array, arch: jax.Array, key: jax.Array | None = None) -> jax.Array:
        """Logits of an architecture with the supernet's weights: images float32 [B, H, W, 3], int [D] -> [B, classes].

        No part of it is random: the key is not used.
        """
        del key
        return self.supernet.apply({"params": params}, inputs, arch)

    def init_own_params(self, key: jax.Array) -> Callable[[Sequence[int] | np.ndarray], Any]:
        """See `ModelSpace`; the parts of the supernet's fresh weights, which are made once."""
        params = self.init_params(key)
        return lambda arch: self.extract(params, arch)

    def extract(self, params: Any, arch: Sequence[int] | np.ndarray) -> Any:
        """The parameters of an architecture's own network."""
        return jax.tree.map(jnp.asarray, networks.inherit(self.built_from, self.validate(arch).tolist(), params))


def built_in(space: MBConvSpace | CellSpace, batching: str = "auto", sharing: str = "separate") -> BuiltInSpace:
    """A built-in space as `search` takes it.

    Args:
      space: at the width, image size and number of classes that is searched.
      batching: how its architectures will be evaluated, see `SearchSettings`.
      sharing: what choices have in common in the supernet, see `supernet.build`.
    """

    def make(choices: tuple[int, ...]) -> Any:
        return networks.build(space, choices, convolve=jax.lax.conv_general_dilated)  # which exports know

    choices = Choices(tuple(Axis("choices", d, tuple(range(count))) for d, count in enumerate(space.num_choices)))
    images = jnp.zeros((2, space.image_size, space.image_size, 3))
    return BuiltInSpace(
        space.name,
        space.decisions,
        space.costs,
        choices=choices,
        models=models_of(make, choices, images),
        supernet=supernet.build(space, gather=supernet.resolve_batching(batching) == "vmap", sharing=sharing),
        built_from=space,
    )
