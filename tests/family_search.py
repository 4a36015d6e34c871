"""A search by one call on all devices, whose networks are saved: a program, since devices are counted once a process.

XLA_FLAGS=--xla_force_host_platform_device_count=2 python -m tests.family_search FILE.npz
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


if __name__ == "__main__":
    space = jaxnas.elastic(Net, X[:4], widths=[(2, 4, 8)] * 2)
    batches = [(X[i : i + 8], Y[i : i + 8]) for i in range(0, 64, 8)]
    found = {}
    for name, data in (("memory", (X, Y)), ("stream", batches)):
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
        for member in family:
            found[f"{name} {member.k} arch"] = member.arch
            found[f"{name} {member.k} loss"] = member.loss
            for path, leaf in jax.tree_util.tree_leaves_with_path(member.params):
                found[f"{name} {member.k} {jax.tree_util.keystr(path)}"] = leaf
    np.savez(sys.argv[1], **found)
