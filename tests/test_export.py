"""Saved networks and exports give the logits of the network; damaged and foreign files are one clear line."""

import dataclasses
import importlib.util
import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

import jaxnas
from experiments import cli, export
from jaxnas import data, networks
from jaxnas.export import FORMATS, load_stablehlo, saved
from jaxnas.results.json_files import seal
from jaxnas.search.recipes import RetrainSettings
from tests.tiny_search import tiny

HAS_ONNX = all(importlib.util.find_spec(name) for name in ("onnx", "onnxruntime"))
needs_onnx = pytest.mark.skipif(not HAS_ONNX, reason="needs the extra 'export'")
NAMES = [pytest.param(name, marks=[needs_onnx] if name == "onnx" else []) for name in FORMATS]
IMAGES = data.load("digits").test_images[:100]


def run(*arguments):
    cli.run(export.main, export.Config, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Two networks as a retraining leaves them, with random weights and running averages."""
    folder = tmp_path_factory.mktemp("export") / "retrained"
    digits = data.load("digits")
    for k, arch in enumerate([(0, 0), (1, 1)]):
        description = saved.NetworkDescription(
            "tiny", arch, 1.0, 8, 10, "digits", digits.mean, digits.std, 0.5, dataclasses.asdict(RetrainSettings())
        )
        variables = networks.build(tiny(), arch).init(jax.random.key(k), jnp.zeros((1, 8, 8, 3)))
        variables = jax.tree.map(
            lambda leaf: leaf + 0.1 * abs(jax.random.normal(jax.random.key(1), leaf.shape)), variables
        )
        saved.save(folder / f"k{k}" / "seed0", description, variables)
    return folder


@pytest.fixture(scope="module")
def exports(trained):
    run("--run", trained.parent, "--index", "0")
    return trained.parent / "exports" / "k0"


@pytest.mark.parametrize("batch", [1, 64])
@pytest.mark.parametrize("name", NAMES)
def test_exports_give_the_networks_logits(trained, exports, name, batch):
    network = jaxnas.load(trained / "k0" / "seed0")
    path = exports / f"model{FORMATS[name].suffix}" if FORMATS[name].suffix else exports
    infer = FORMATS[name].load(path)
    images = network.preprocess(IMAGES)
    found = np.concatenate([infer(images[begin : begin + batch]) for begin in range(0, len(images), batch)])
    np.testing.assert_allclose(found, network(IMAGES), atol=1e-4)


@needs_onnx
def test_onnx_runs_in_a_process_that_knows_nothing_of_jax(exports, tmp_path):
    network = jaxnas.load(exports)
    np.save(tmp_path / "images.npy", network.preprocess(IMAGES))
    program = (
        "import sys, numpy, onnxruntime\n"
        f"session = onnxruntime.InferenceSession({str(exports / 'model.onnx')!r})\n"
        f"images = numpy.load({str(tmp_path / 'images.npy')!r})\n"
        f"numpy.save({str(tmp_path / 'logits.npy')!r}, session.run(['logits'], {{'images': images}})[0])\n"
        "assert 'jax' not in sys.modules\n"
        "print(session.get_modelmeta().custom_metadata_map['encoding'])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [0, 0]
    assert not done.stderr
    np.testing.assert_allclose(np.load(tmp_path / "logits.npy"), network(IMAGES), atol=1e-4)


@needs_onnx
def test_onnx_of_a_later_release_is_named_as_such(exports, tmp_path):
    import onnx

    model = onnx.load(exports / "model.onnx")
    model.opset_import[0].version = 99
    onnx.save(model, tmp_path / "opset.onnx")
    model.opset_import[0].version, model.ir_version = 17, 99
    onnx.save(model, tmp_path / "form.onnx")
    for name in ("opset.onnx", "form.onnx"):
        with pytest.raises(ValueError, match=r"is of a release of ONNX that onnxruntime \S+ does not read; upgrade it"):
            FORMATS["onnx"].load(tmp_path / name)


@pytest.mark.parametrize("missing", ["onnx", pytest.param("onnxruntime", marks=needs_onnx)])
def test_without_onnx_the_other_forms_are_written(trained, tmp_path, monkeypatch, capsys, missing):
    monkeypatch.setitem(sys.modules, missing, None)  # as if it were not installed
    monkeypatch.delitem(sys.modules, "jaxnas.export.onnx_operations", raising=False)
    monkeypatch.delattr(jaxnas.export, "onnx_operations", raising=False)
    (tmp_path / "k0").mkdir()
    (tmp_path / "k0" / "model.onnx").write_text("of an earlier export")
    run("--run", trained.parent, "--index", "0", "--out", tmp_path)
    assert {path.name for path in (tmp_path / "k0").iterdir()} == {
        saved.DESCRIPTION, saved.WEIGHTS, "model.stablehlo", "model_card.md"
    }  # fmt: skip
    assert "model.onnx" not in (tmp_path / "k0" / "model_card.md").read_text()
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "left out" in line]
    assert "pip install 'jaxnas[export]'" in line
    with pytest.raises(SystemExit) as stopped:
        run("--run", trained.parent, "--index", "0", "--format", "onnx", "--out", tmp_path)
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert "pip install 'jaxnas[export]'" in error
    assert error.count("\n") == 1


def test_the_card_tells_figures_and_use(exports):
    card = (exports / "model_card.md").read_text()
    space = jaxnas.spaces.SPACES["tiny"]()
    assert f"| parameters | {space.cost('params').total([0, 0]):,} |" in card
    for part in (
        "test accuracy",
        "layer 2: mbconv_k3_e2",
        "model.stablehlo",
        "experiments.retrain",
    ):
        assert part in card


def test_loaded_networks_check_their_images(exports):
    network = jaxnas.load(exports)
    assert network.params["stem"]["conv"]["kernel"].shape == (3, 3, 3, 8)
    with pytest.raises(ValueError, match=r"images must be uint8 \[B, 8, 8, 3\], got float32"):
        network(IMAGES.astype(np.float32))


def copy(exports, folder):
    for path in exports.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def edit(name, **changes):
    def change(folder):
        document = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(seal(document | changes)))

    return change


def in_text(old, new):
    def change(folder):
        text = (folder / saved.DESCRIPTION).read_text()
        assert text.count(old) == 1
        (folder / saved.DESCRIPTION).write_text(text.replace(old, new))

    return change


def flip(path, position):
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


def replace_weights(content):
    """Other weights, with the digest that belongs to them."""

    def change(folder):
        (folder / saved.WEIGHTS).write_bytes(content)
        edit(saved.DESCRIPTION, files={saved.WEIGHTS: saved.digest(content)})(folder)

    return change


def retyped(dtype):
    def change(folder):
        arrays = safetensors.numpy.load_file(folder / saved.WEIGHTS)
        arrays["params/head/conv/kernel"] = arrays["params/head/conv/kernel"].astype(dtype) / 0
        replace_weights(safetensors.numpy.save(arrays))(folder)

    return change


@pytest.mark.filterwarnings("ignore:divide by zero", "ignore:invalid value")
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / saved.DESCRIPTION).unlink(), "cannot be read"),
        (lambda folder: (folder / saved.WEIGHTS).unlink(), "cannot be read"),
        (lambda folder: (folder / saved.DESCRIPTION).write_bytes(b"\x80\x04K\x01."), "describes no network"),
        (lambda folder: (folder / saved.DESCRIPTION).write_text("[]"), "describes no network"),
        (replace_weights(b"\x80\x04K\x01."), "holds no weights, or is damaged"),
        (replace_weights(b"\0" * 99), "holds no weights, or is damaged"),
        (edit(saved.DESCRIPTION, encoding=[1, 1]), "is of another network"),
        (edit(saved.DESCRIPTION, encoding=[7, 0]), "arch has choice 7"),
        (edit(saved.DESCRIPTION, space="other"), "space must be one of"),
        (edit(saved.DESCRIPTION, std=[0, 1, 1]), "std must be positive"),
        (edit(saved.DESCRIPTION, width="wide"), "describes no network"),
        (edit(saved.DESCRIPTION, width=float("inf")), "Infinity is not valid in JSON"),
        (edit(saved.DESCRIPTION, width=10**400), "has more than 300 digits"),
        (edit(saved.DESCRIPTION, width=10**9), "width is 1000000000, which is out of range"),
        (edit(saved.DESCRIPTION, image_size=-1), "image_size is -1, which is out of range"),
        (edit(saved.DESCRIPTION, num_classes=True), "num_classes is True, which is out of range or of the wrong type"),
        (edit(saved.DESCRIPTION, mean=[0, 1, "1"]), "mean is"),
        (edit(saved.DESCRIPTION, class_names=[1] * 10), "class_names is"),
        (edit(saved.DESCRIPTION, test_accuracy=7), "test_accuracy is 7"),
        (in_text('"sha256": "', '"sha256": "0'), "its sha256 is another one"),
        (in_text('"width": 1.0', '"width": 1e999'), "the number 1e999 is not finite"),
        (in_text('"width": 1.0', '"width": ' + "[" * 100_000), "more than 100 brackets in one another"),
        (in_text('"width": 1.0', '"width": 2.0'), "is not what was written: its sha256 is another one"),
        (lambda folder: flip(folder / saved.WEIGHTS, -1), "weights.safetensors is not what was written"),
        (replace_weights(b"\xff" * 8 + b"{}"), "holds no weights, or is damaged"),
        (retyped(np.float32), "all weights must be finite float32"),
        (retyped(np.float64), "all weights must be finite float32"),
    ],
)
def test_damaged_networks_are_refused_in_one_line(exports, tmp_path, damage, message):
    damage(copy(exports, tmp_path))
    with pytest.raises(ValueError, match=message) as raised:
        jaxnas.load(tmp_path)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "content", [b"", b"\x80\x04K\x01.", b"{}", b"\0" * 1000], ids=("empty", "pickle", "json", "zeros")
)
@pytest.mark.parametrize("name", NAMES[1:])
def test_foreign_files_are_refused_in_one_line(tmp_path, name, content):
    path = tmp_path / f"model{FORMATS[name].suffix}"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="or damaged"):
        FORMATS[name].load(path)
    with pytest.raises(ValueError, match="cannot be read"):
        FORMATS[name].load(tmp_path / "absent")


@pytest.mark.parametrize("name", NAMES[1:])
def test_exported_files_are_compared_with_their_digest_first(exports, tmp_path, name, monkeypatch):
    path = copy(exports, tmp_path) / f"model{FORMATS[name].suffix}"
    monkeypatch.setattr(jax.export, "deserialize", None)  # the parsers must not be reached
    monkeypatch.setattr("onnx.load_model_from_string", None, raising=False)
    flip(path, 100)
    with pytest.raises(ValueError, match="is not what was written, or is damaged: its sha256 is not that in"):
        FORMATS[name].load(path)
    edit(saved.DESCRIPTION, files={})(tmp_path)
    with pytest.raises(ValueError, match="is no file of this network"):
        FORMATS[name].load(path)


def test_networks_of_the_earlier_format_without_digests_are_read(exports, tmp_path):
    document = json.loads((copy(exports, tmp_path) / saved.DESCRIPTION).read_text())
    del document["files"], document["sha256"]
    (tmp_path / saved.DESCRIPTION).write_text(json.dumps(document | {"format": "jaxnas network 1"}))
    np.testing.assert_array_equal(jaxnas.load(tmp_path)(IMAGES), jaxnas.load(exports)(IMAGES))


def test_stablehlo_with_a_call_of_other_code_is_refused(tmp_path):
    def callback(images):
        return jax.lax.linalg.qr(images.reshape(-1, 8))[0][None, :, 0] * 1.0

    exported = jax.export.export(jax.jit(callback), platforms=["cpu"])(jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32))
    (tmp_path / "model.stablehlo").write_bytes(exported.serialize())
    with pytest.raises(ValueError, match=r"calls code outside of StableHLO: .*lapack_sgeqrf.*; it is not run"):
        load_stablehlo(tmp_path / "model.stablehlo")


def test_stablehlo_of_another_function_is_refused(tmp_path):
    exported = jax.export.export(jax.jit(jnp.sin))(jax.ShapeDtypeStruct((3,), jnp.float32))
    (tmp_path / "model.stablehlo").write_bytes(exported.serialize())
    with pytest.raises(ValueError, match="does not make logits of float32 images"):
        load_stablehlo(tmp_path / "model.stablehlo")


@needs_onnx
def test_onnx_with_weights_in_other_files_is_refused(exports, tmp_path):
    import onnx

    model = onnx.load(exports / "model.onnx")
    (tmp_path / "secret").write_bytes(b"\0" * 10_000)
    onnx.external_data_helper.set_external_data(model.graph.initializer[0], "secret")
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ValueError, match="keeps weights in other files, which are not read"):
        FORMATS["onnx"].load(tmp_path / "model.onnx")


def test_an_export_lists_the_digests_of_all_its_files(exports):
    document = json.loads((exports / saved.DESCRIPTION).read_text())
    names = {path.name for path in exports.iterdir()} - {saved.DESCRIPTION}
    assert document["files"] == {name: saved.digest((exports / name).read_bytes()) for name in names}


def test_forms_that_are_exported_one_by_one_stay_together(trained, tmp_path):
    (tmp_path / "k0").mkdir()
    (tmp_path / "k0" / "notes.txt").write_text("mine")
    for name in ("stablehlo", "flax"):
        run("--run", trained.parent, "--index", "0", "--out", tmp_path, "--format", name)
    names = {saved.DESCRIPTION, saved.WEIGHTS, "model_card.md", "model.stablehlo"}
    assert {path.name for path in (tmp_path / "k0").iterdir()} == {*names, "notes.txt"}
    assert "model.stablehlo" in (tmp_path / "k0" / "model_card.md").read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["k0"]
    FORMATS["stablehlo"].load(tmp_path / "k0" / "model.stablehlo")
    # Of another network they do not.
    (tmp_path / "other" / "k0").mkdir(parents=True)
    (tmp_path / "other" / "k0" / "seed0").symlink_to(trained / "k1" / "seed0")
    run("--run", trained.parent, "--trained", tmp_path / "other", "--out", tmp_path, "--format", "flax")
    assert {path.name for path in (tmp_path / "k0").iterdir()} == {*names, "notes.txt"} - {"model.stablehlo"}


def test_a_failed_export_leaves_the_one_before(trained, exports, tmp_path, monkeypatch):
    run("--run", trained.parent, "--index", "0", "--out", tmp_path, "--format", "flax")
    before = {path.name: path.read_bytes() for path in (tmp_path / "k0").iterdir()}

    def fail(network, path):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setitem(FORMATS, "stablehlo", dataclasses.replace(FORMATS["stablehlo"], write=fail))
    with pytest.raises(SystemExit):
        run("--run", trained.parent, "--index", "0", "--out", tmp_path, "--format", "stablehlo")
    assert before == {path.name: path.read_bytes() for path in (tmp_path / "k0").iterdir()}
    assert [path.name for path in tmp_path.iterdir()] == ["k0"]


def test_a_cut_stablehlo_file_is_refused(exports, tmp_path):
    content = (exports / "model.stablehlo").read_bytes()
    (tmp_path / "model.stablehlo").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="or damaged"):
        load_stablehlo(tmp_path / "model.stablehlo")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--index", "5"), "index must be all or one of 0, 1, got '5'"),
        (("--format", "pickle"), "format must be one of flax, stablehlo, onnx or all, got 'pickle'"),
        (("--trained", "nowhere"), "no trained networks in nowhere; train them: python -m experiments.retrain"),
    ],
)
def test_foreseeable_mistakes_are_one_line(trained, capsys, options, message):
    with pytest.raises(SystemExit) as stopped:
        run("--run", trained.parent, *options)
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
