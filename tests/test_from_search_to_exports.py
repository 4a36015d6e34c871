"""The whole way on scikit-learn's digits with the real commands: search, retrain, export, use in fresh processes."""

import json
import subprocess
import sys

import numpy as np
import pytest

from jaxnas import data
from jaxnas.export import saved

LOADERS = {
    "flax": "import jaxnas; network = jaxnas.load({folder!r})\n"
    "def infer(x): return network.apply(network.variables, x)",
    "stablehlo": "import jax; content = open({folder!r} + '/model.stablehlo', 'rb').read()\n"
    "infer = jax.export.deserialize(bytearray(content)).call",
    "onnx": "import onnxruntime; session = onnxruntime.InferenceSession({folder!r} + '/model.onnx')\n"
    "def infer(x): return session.run(['logits'], {{'images': x}})[0]",
}
PROGRAM = """
import numpy
{loader}
images = numpy.load({images!r})
for batch in (1, 64):
    parts = [numpy.asarray(infer(images[i : i + batch])) for i in range(0, len(images), batch)]
    numpy.save({images!r} + str(batch), numpy.concatenate(parts))
"""


def command(*arguments):
    subprocess.run([sys.executable, "-m", *map(str, arguments)], check=True, capture_output=True)


@pytest.mark.slow
def test_networks_are_searched_trained_exported_and_used(tmp_path):
    pytest.importorskip("onnxruntime", reason="needs the extra 'export'")
    run = tmp_path / "run"
    command("experiments.cifar_search", "--preset", "quickstart", "--workdir", run)
    command("experiments.retrain", "--result", run / "result.json", "--index", "all")
    command("experiments.export", "--run", run, "--index", "all", "--format", "all")

    summary = json.loads((run / "retrained" / "retrained.json").read_text())
    assert max(summary, key=lambda network: network["macs"])["test_accuracy_scratch"][0] >= 0.96
    images = data.load("digits").test_images[:100]
    for network in summary:
        folder = run / "exports" / f"k{network['k']}"
        loaded = saved.load(folder)
        np.save(tmp_path / "images.npy", loaded.preprocess(images))
        for loader in LOADERS.values():
            text = PROGRAM.format(loader=loader.format(folder=str(folder)), images=str(tmp_path / "images.npy"))
            subprocess.run([sys.executable, "-c", text], check=True, capture_output=True)
            for batch in (1, 64):
                found = np.load(f"{tmp_path / 'images.npy'}{batch}.npy")
                np.testing.assert_allclose(found, loaded(images), atol=1e-4)
