"""A search by one call on all devices, whose networks are saved: a program, since devices are counted once a process.

XLA_FLAGS=--xla_force_host_platform_device_count=2 python -m tests.family_search FILE.npz memory
"""

import sys

import flax.linen as nn
import jax
import numpy as np

import jaxnas

X = np.random.default_rng(0).standard_normal((64, 6)).astype(np.float32)
Y = np.sin(X).sum(1, keepdims=True)


class Net(nn.Module):
    widths: tuple

    @nn.compact
    def __call__(self, x):
        for width in self.widths:
            x = nn.tanh(nn.Dense(width)(x))
        return nn.Dense(1)(x)


def find(source):
    """What a search of data in "memory" or from a "stream" finds: arrays by name."""
    space = jaxnas.elastic(Net, X[:4], widths=[(2, 4, 8)] * 2)
    data = (X, Y) if source == "memory" else [(X[i : i + 16], Y[i : i + 16]) for i in range(0, 64, 16)]
    family = jaxnas.search(
        space,
        loss=lambda outputs, batch: ((outputs - batch[1]) ** 2).mean(),
        train=data,
        valid=data,
        budgets={"params": (60, 100)},
        steps=40,
        batch_size=16,
        devices="all",
    )
    found = {}
    for member in family:
        found[f"{member.k} arch"] = np.asarray(member.arch)
        found[f"{member.k} loss"] = np.asarray(member.loss)
        for path, leaf in jax.tree_util.tree_leaves_with_path(member.params):
            found[f"{member.k} {jax.tree_util.keystr(path)}"] = np.asarray(leaf)
    return found


if __name__ == "__main__":
    np.savez(sys.argv[1], devices=jax.device_count(), **find(sys.argv[2]))
