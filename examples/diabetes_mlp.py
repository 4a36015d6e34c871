"""A regression: an MLP (a pair of functions) on scikit-learn's diabetes, squared error, parameters for a budget.

    python -m examples.diabetes_mlp

Half a minute on two CPU cores, nothing to download.
"""

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.datasets import load_diabetes

import jaxnas
from jaxnas.elastic import ElasticSpace
from jaxnas.family.family import Family


def mlp(widths, skip):
    """Dense layers of these widths, and `skip` units straight from the inputs to the output."""
    sizes = (10, *widths)

    def init(key):
        keys = jax.random.split(key, len(sizes) + 1)
        layers = [
            {"kernel": jax.random.normal(k, (m, n)) / m**0.5, "bias": jnp.zeros(n)}
            for k, m, n in zip(keys, sizes, sizes[1:])
        ]
        last = {"kernel": jax.random.normal(keys[-1], (sizes[-1] + skip, 1)) * 0.1, "bias": jnp.zeros(1)}
        direct = {"kernel": jax.random.normal(keys[-2], (10, skip)) * 0.3}
        return {"layers": layers, "last": last, "direct": direct}

    def apply(params, x):
        straight = x @ params["direct"]["kernel"]
        for layer in params["layers"]:
            x = jax.nn.silu(x @ layer["kernel"] + layer["bias"])
        x = jnp.concatenate([x, straight], axis=-1)
        return (x @ params["last"]["kernel"] + params["last"]["bias"])[:, 0]

    return init, apply


def data():
    """Standardised features [N, 10] with standardised targets: training and validation splits."""
    x, y = load_diabetes(return_X_y=True)
    x, y = ((part - part.mean(0)) / part.std(0) for part in (x, y))
    order = np.random.default_rng(0).permutation(len(x))
    train, valid = ((x[part].astype(np.float32), y[part].astype(np.float32)) for part in np.split(order, [300]))
    return train, valid


def space(x) -> ElasticSpace:
    """Two hidden layers and the units between inputs and output."""
    return jaxnas.elastic(mlp, x[:8], widths=[(4, 8, 16, 32), (4, 8, 16, 32)], skip=(1, 2, 4))


def loss(outputs, batch):
    """Mean squared error, and the share of the variance that is left."""
    _, targets = batch
    error = ((outputs - targets) ** 2).mean()
    return error, {"r2": 1 - error / jnp.maximum(targets.var(), 1e-6)}


def main(steps: int = 1500, **settings) -> Family:
    """Searches three networks, of at most so many parameters."""
    train, valid = data()
    budgets = {"params": (150, 400, 1200)}
    return jaxnas.search(space(train[0]), loss=loss, train=train, valid=valid, budgets=budgets, steps=steps, **settings)


if __name__ == "__main__":
    print(main(progress=True))
