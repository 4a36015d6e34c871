"""A byte-level language model (a decoder, Flax Linen) on the source of Python's standard library, for three budgets.

    python -m examples.stdlib_language_model

Three minutes on two CPU cores, nothing to download.
"""

import pathlib
import sysconfig

import flax.linen as nn
import numpy as np
import optax

import jaxnas
from jaxnas.elastic import ElasticSpace
from jaxnas.family.family import Family

WIDTH, HEAD, LENGTH = 64, 16, 64


class Block(nn.Module):
    heads: int
    hidden: int

    @nn.compact
    def __call__(self, x, mask):
        attention = nn.MultiHeadDotProductAttention(self.heads, qkv_features=HEAD * self.heads, out_features=WIDTH)
        x = x + attention(nn.LayerNorm()(x), mask=mask)
        hidden = nn.gelu(nn.Dense(self.hidden)(nn.LayerNorm()(x)))
        return x + nn.Dense(WIDTH)(hidden)


class Decoder(nn.Module):
    depth: int
    heads: tuple
    hidden: tuple

    @nn.compact
    def __call__(self, tokens):
        embed = nn.Embed(128, WIDTH)
        positions = self.param("positions", nn.initializers.normal(0.02), (LENGTH, WIDTH))
        x = embed(tokens) + positions
        mask = nn.make_causal_mask(tokens)
        for heads, hidden in list(zip(self.heads, self.hidden))[: self.depth]:
            x = Block(heads, hidden)(x, mask)
        return embed.attend(nn.LayerNorm()(x))  # tied


def data(size: int = 4_000_000):
    """Windows of bytes [N, LENGTH + 1]: training and validation files."""
    files = sorted(pathlib.Path(sysconfig.get_path("stdlib")).glob("*.py"))
    text = b"".join(file.read_bytes() for file in files)[:size]
    tokens = np.minimum(np.frombuffer(text, np.uint8), 127).astype(np.int32)  # ASCII; 127 is everything else
    windows = tokens[: len(tokens) // (LENGTH + 1) * (LENGTH + 1)].reshape(-1, LENGTH + 1)
    cut = len(windows) * 9 // 10
    return windows[:cut], windows[cut:]


def space(windows) -> ElasticSpace:
    """Depth, and heads and hidden units of each layer."""
    return jaxnas.elastic(
        Decoder, windows[:4, :-1], depth=(1, 2, 3, 4), heads=[(1, 2, 4)] * 4, hidden=[(32, 64, 128, 256)] * 4
    )


def loss(logits, windows):
    """Mean cross-entropy of the next byte, nats."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, windows[:, 1:]).mean()


def main(steps: int = 1500, **settings) -> Family:
    """Searches three networks, of at most so many multiply-adds for a window of 64 bytes."""
    train, valid = data()
    return jaxnas.search(
        space(train),
        loss=loss,
        train=train,
        valid=valid,
        inputs=lambda windows: windows[:, :-1],
        budgets={"macs": (3e6, 6e6, 1.2e7)},
        steps=steps,
        **settings,
    )


if __name__ == "__main__":
    print(main(progress=True))
