"""A residual network (Flax Linen) on handwritten digits: widths, depths and kernels for three budgets.

    python -m examples.digits_cnn

Under a minute on two CPU cores, nothing to download.
"""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits

import jaxnas
from jaxnas.elastic import ElasticSpace
from jaxnas.family.family import Family


class Block(nn.Module):
    hidden: int
    kernel: int

    @nn.compact
    def __call__(self, x, train):
        y = nn.Conv(self.hidden, (self.kernel, self.kernel), use_bias=False)(x)
        y = nn.relu(nn.BatchNorm(use_running_average=not train)(y))
        y = nn.Conv(x.shape[-1], (self.kernel, self.kernel), use_bias=False)(y)
        return nn.relu(x + nn.BatchNorm(use_running_average=not train)(y))


class ResNet(nn.Module):
    width: tuple
    hidden: tuple
    kernel: tuple

    @nn.compact
    def __call__(self, x, train=False):
        for stage, width in enumerate(self.width):
            x = nn.Conv(width, (3, 3), strides=1 + (stage > 0), use_bias=False, name=f"stem_{stage}")(x)
            x = nn.relu(nn.BatchNorm(use_running_average=not train, name=f"norm_{stage}")(x))
            for block in range(2):
                if hidden := self.hidden[2 * stage + block]:  # 0 leaves the block out
                    x = Block(hidden, self.kernel[stage], name=f"block_{stage}_{block}")(x, train)
        x = nn.Dropout(0.1, deterministic=not train)(x.mean((1, 2)))
        return nn.Dense(10)(x)


def data():
    """Images [N, 8, 8, 1] with labels: training and validation halves."""
    digits = load_digits()
    images = (digits.images[..., None] / 16).astype(np.float32)
    order = np.random.default_rng(0).permutation(len(images))
    split = [(images[part], digits.target[part]) for part in np.split(order, [1200])]
    return split[0], split[1]


def space(images) -> ElasticSpace:
    """Four blocks of 0 to 32 hidden channels, two widths that several layers share, two kernel sizes."""
    widths, hidden, kernels = [(8, 16), (16, 32)], [(0, 8, 16, 32)] * 4, [(1, 3), (1, 3)]
    return jaxnas.elastic(ResNet, images[:8], width=widths, hidden=hidden, kernel=kernels)


def loss(logits, batch):
    """Cross-entropy and accuracy."""
    _, labels = batch
    value = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
    return value, {"accuracy": (logits.argmax(-1) == labels).mean(dtype=jnp.float32)}


def main(steps: int = 1500, **settings) -> Family:
    """Searches three networks, of at most so many multiply-adds."""
    train, valid = data()
    budgets = {"macs": (1e5, 4e5, 1e6)}
    return jaxnas.search(space(train[0]), loss=loss, train=train, valid=valid, budgets=budgets, steps=steps, **settings)


if __name__ == "__main__":
    print(main(progress=True))
