"""Families as folders: parameters of every kind come back, programs run without the model, damage is one line."""

import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxnas
from jaxnas.family import programs

pytestmark = pytest.mark.long

X = np.random.default_rng(0).standard_normal((24, 6)).astype(np.float32)


def find(make, loss=lambda outputs, batch: (outputs**2).mean(), inputs=X, **choices):
    space = jaxnas.elastic(make, jax.tree.map(lambda leaf: leaf[:4], inputs), **choices)
    data = {"train": {"inputs": inputs}, "valid": {"inputs": inputs}}
    return jaxnas.search(space, loss=loss, **data, penalties=(0.01, 1.0), steps=6, batch_size=8)


class Linen(nn.Module):
    widths: tuple

    @nn.compact
    def __call__(self, x, train):
        x = nn.BatchNorm(use_running_average=not train)(nn.Dense(self.widths[0], param_dtype=jnp.bfloat16)(x))
        return nn.Dense(1)(nn.Dropout(0.5, deterministic=not train)(nn.gelu(x, approximate=False)))


class Nnx(nnx.Module):
    def __init__(self, width, rngs):
        self.layers = nnx.List([nnx.Linear(6, width, rngs=rngs), nnx.Linear(width, 2, rngs=rngs)])
        self.norm = nnx.BatchNorm(width, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x):
        x = self.dropout(nnx.relu(self.norm(self.layers[0](x))))
        return self.layers[1](x).reshape(len(x), 2)  # the number of examples must be a number


def pair(width):
    def init(key):
        return (jax.random.normal(key, (6, width)), {"out": jnp.ones((width, 1))})

    def apply(params, x):
        return {"y": jnp.tanh(x @ params[0]) @ params[1]["out"]}

    return init, apply


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Families of each kind of model with the folders that they were exported to."""
    kinds = {
        "linen": (Linen, {"widths": [(2, 4)]}, {}),
        "nnx": (Nnx, {"width": (2, 4)}, {}),
        "pair": (pair, {"width": (2, 4)}, {"loss": lambda outputs, batch: (outputs["y"] ** 2).mean()}),
    }
    found = {}
    for name, (make, choices, settings) in kinds.items():
        family = find(make, **settings, **choices)
        found[name] = family, family.export(tmp_path_factory.mktemp(name) / "family"), make
    return found


@pytest.mark.parametrize("kind", ["linen", "nnx", "pair"])
def test_programs_run_without_the_model(exported, kind):
    family, folder, _ = exported[kind]
    loaded = jaxnas.load(folder)
    assert str(loaded) == str(family)
    for ours, theirs in zip(family, loaded):
        assert theirs.model is None
        assert theirs.hyperparameters == ours.hyperparameters
        for count in (4, 24, 7, 1):
            expected, got = ours(X[:count]), theirs(X[:count])
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), expected, got)
    with pytest.raises(ValueError, match="the family has no models: load it with make="):
        loaded.save(folder / "again")
    assert loaded.at({"macs": (1e9,)})[0].encoding == family.at({"macs": (1e9,)})[0].encoding


def test_a_program_of_one_size_takes_any_number_of_examples(exported):
    sizes = {kind: jaxnas.load(folder)[0].program.batch_size for kind, (_, folder, _) in exported.items()}
    assert sizes == {"linen": None, "nnx": 4, "pair": None}
    program = programs.read(programs.write(lambda x: len(x) * x.sum(1), X[:4]), "a file")
    np.testing.assert_allclose(program(X[:6]), 4 * X[:6].sum(1), rtol=1e-5)
    with pytest.raises(ValueError, match="inputs must hold at least one example"):
        program(X[:0])


@pytest.mark.parametrize("kind", ["linen", "nnx", "pair"])
def test_models_come_back_with_the_function_that_makes_them(exported, kind):
    family, folder, make = exported[kind]
    for ours, theirs in zip(family, jaxnas.load(folder, make=make)):
        jax.tree.map(np.testing.assert_array_equal, ours.params, theirs.params)
        types = [jax.tree.map(lambda leaf: leaf.dtype, part.params) for part in (ours, theirs)]
        assert types[0] == types[1]
        assert type(theirs.model) is type(ours.model)
        np.testing.assert_array_equal(jax.tree.leaves(ours(X))[0], jax.tree.leaves(theirs(X))[0])


def test_an_nnx_module_comes_back_ready_for_use(exported):
    family, folder, make = exported["nnx"]
    model = jaxnas.load(folder, make=make)[1].model
    model.eval()
    np.testing.assert_allclose(model(X), family[1](X), rtol=1e-5, atol=1e-6)


def test_a_family_that_was_loaded_is_saved_again(exported, tmp_path):
    _, folder, make = exported["linen"]
    again = jaxnas.load(jaxnas.load(folder, make=make).save(tmp_path / "again"), make=make)
    jax.tree.map(np.testing.assert_array_equal, again[0].params, jaxnas.load(folder, make=make)[0].params)
    with pytest.raises(ValueError, match="was saved and not exported: give make="):
        jaxnas.load(tmp_path / "again")


def test_several_inputs_of_other_types_are_kept():
    class Tokens(nn.Module):
        width: int

        @nn.compact
        def __call__(self, tokens, more):
            x = nn.Embed(5, 4)(tokens).mean(1) + nn.Dense(4)(more["x"])
            return nn.Dense(1)(nn.relu(nn.Dense(self.width)(x)))

    inputs = (np.random.default_rng(1).integers(0, 5, (24, 3)), {"x": X})
    family = find(Tokens, inputs=inputs, width=(2, 4))
    content = programs.write(family.space.deployed(family[0].arch, family[0].params, family[0].state), inputs)
    np.testing.assert_allclose(programs.read(content, "a file")(inputs), family[0](inputs), rtol=1e-5)


def test_other_models_and_damage_are_one_line(exported, tmp_path):
    family, folder, _ = exported["linen"]

    class Other(nn.Module):
        widths: tuple

        @nn.compact
        def __call__(self, x):
            return nn.Dense(1)(nn.Dense(2 * self.widths[0])(x))

    with pytest.raises(ValueError, match=r"is of another model than make.*Dense_0/bias is .* there, but must be"):
        jaxnas.load(folder, make=Other)
    with pytest.raises(ValueError, match="cannot be called with widths"):
        jaxnas.load(folder, make=pair)
    with pytest.raises(ValueError, match=r"folder must hold a family\.json, as Family\.save writes it"):
        jaxnas.load(tmp_path, make=Linen)
    with pytest.raises(ValueError, match=r"network\.json cannot be read"):
        jaxnas.load(tmp_path)
    saved = family.save(tmp_path / "saved")
    (saved / "member_0.npz").write_bytes(b"PK")
    with pytest.raises(ValueError, match=r"member_0\.npz is not what was written, or is damaged"):
        jaxnas.load(saved, make=Linen)
    document = json.loads((saved / "family.json").read_text())
    document["members"][0]["loss"] = 0.0
    (saved / "family.json").write_text(json.dumps(document))
    with pytest.raises(ValueError, match="it is not what was written: its sha256 is another one"):
        jaxnas.load(saved, make=Linen)
