"""A vision transformer (Flax NNX) on CIFAR-10 at 16x16: heads and hidden units of each block for three budgets.

    python -m examples.cifar_vit DATA_DIR

Three minutes on two CPU cores. DATA_DIR holds CIFAR-10 as TFDS prepares it (cifar10/3.0.2).
"""

import sys

import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import jaxnas
from jaxnas import data as datasets
from jaxnas.elastic import ElasticSpace
from jaxnas.family.family import Family

WIDTH, HEAD = 64, 16


class Block(nnx.Module):
    def __init__(self, heads, hidden, rngs):
        self.heads, self.hidden = heads, hidden
        if heads:  # 0 leaves the branch out
            self.norm1 = nnx.LayerNorm(WIDTH, rngs=rngs)
            self.attention = nnx.MultiHeadAttention(heads, WIDTH, qkv_features=HEAD * heads, decode=False, rngs=rngs)
        if hidden:
            self.norm2 = nnx.LayerNorm(WIDTH, rngs=rngs)
            self.mlp = nnx.Sequential(
                nnx.Linear(WIDTH, hidden, rngs=rngs), nnx.gelu, nnx.Linear(hidden, WIDTH, rngs=rngs)
            )

    def __call__(self, x):
        x = x + self.attention(self.norm1(x)) if self.heads else x
        return x + self.mlp(self.norm2(x)) if self.hidden else x


class ViT(nnx.Module):
    def __init__(self, heads, hidden, rngs):
        self.patches = nnx.Conv(3, WIDTH, (4, 4), strides=4, rngs=rngs)
        self.positions = nnx.Param(0.02 * rngs.params.normal((1, 16, WIDTH)))
        self.blocks = nnx.List([Block(*sizes, rngs) for sizes in zip(heads, hidden)])
        self.norm = nnx.LayerNorm(WIDTH, rngs=rngs)
        self.head = nnx.Linear(WIDTH, 10, rngs=rngs)

    def __call__(self, images):
        x = self.patches(images)
        x = x.reshape(len(x), -1, WIDTH) + self.positions
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x.mean(1)))


def data(data_dir: str):
    """Images [N, 16, 16, 3], normalised, with labels: training and validation splits."""
    cifar = datasets.load("cifar10", data_dir)
    images = datasets.resize(cifar.train_images, 16)
    images = ((images / 255 - cifar.mean) / cifar.std).astype(np.float32)
    return tuple((images[part], cifar.train_labels[part]) for part in (slice(45_000), slice(45_000, None)))


def space(images) -> ElasticSpace:
    """Four blocks of 0 to 4 heads and 0 to 128 hidden units."""
    return jaxnas.elastic(ViT, images[:4], heads=[(0, 1, 2, 4)] * 4, hidden=[(0, 32, 64, 128)] * 4)


def loss(logits, batch):
    """Cross-entropy and accuracy."""
    _, labels = batch
    value = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
    return value, {"accuracy": (logits.argmax(-1) == labels).mean(dtype=jnp.float32)}


def main(data_dir: str, steps: int = 1500, **settings) -> Family:
    """Searches three networks, of at most so many multiply-adds."""
    train, valid = data(data_dir)
    budgets = {"macs": (6e5, 1.2e6, 2e6)}
    return jaxnas.search(space(train[0]), loss=loss, train=train, valid=valid, budgets=budgets, steps=steps, **settings)


if __name__ == "__main__":
    print(main(sys.argv[1], progress=True))
