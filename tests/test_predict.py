"""`experiments.predict`: class and probability of image files, with a network of random weights."""

import dataclasses
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import jaxnas
from experiments import cli, predict
from jaxnas import data, export, networks
from jaxnas.data import crops
from jaxnas.export import saved
from tests.tiny_search import tiny

ROOT = pathlib.Path(__file__).parents[1]
NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "n [i] é")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    digits = data.load("digits")
    description = saved.NetworkDescription(
        "tiny", (0, 0), 1.0, 8, 10, "digits", digits.mean, digits.std, class_names=NAMES, crop=0.5
    )
    variables = networks.build(tiny(), (0, 0)).init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
    saved.save(folder, description, variables)
    return folder


@pytest.fixture
def images(tmp_path):
    """Three images of which one is bad, and something else."""
    generator = np.random.default_rng(0)
    (tmp_path / "photos" / "deep").mkdir(parents=True)
    for name in ("photos/a.png", "photos/deep/b.jpg"):
        Image.fromarray(generator.integers(0, 256, (40, 32, 3), np.uint8)).save(tmp_path / name)
    (tmp_path / "photos" / "bad.png").write_text("no image")
    (tmp_path / "photos" / "notes.txt").write_text("mine")
    return tmp_path / "photos"


def run(capsys, *arguments, code=None):
    if code is None:
        cli.run(predict.main, predict.Config, [str(argument) for argument in arguments])
    else:
        with pytest.raises(SystemExit) as stopped:
            cli.run(predict.main, predict.Config, [str(argument) for argument in arguments])
        assert stopped.value.code == code
    captured = capsys.readouterr()
    return captured.out.splitlines(), captured.err.splitlines()


def test_class_and_probability_are_the_networks(model, images, capsys):
    out, err = run(capsys, images / "a.png", images / "deep" / "b.jpg", "--model", model, "--top", 10)
    assert not err
    network = jaxnas.load(model)
    assert network.description.class_names == NAMES
    for line, path in zip(out, (images / "a.png", images / "deep" / "b.jpg")):
        shown = crops.decode_crop(path.read_bytes(), 8, None, central=0.5)
        expected = np.asarray(jax.nn.softmax(network(shown[None])[0]))
        name, *pairs = line.split("\t")
        assert name == str(path)
        found = dict(zip(pairs[::2], map(float, pairs[1::2])))
        assert list(found.values()) == sorted(found.values(), reverse=True)
        np.testing.assert_allclose([found[name] for name in NAMES], expected, atol=1e-4)


def test_a_folder_is_classified_and_bad_images_are_named(model, images, capsys):
    out, err = run(capsys, images, "--model", model, code=2)
    assert [line.split("\t")[0] for line in out] == [str(images / "a.png"), str(images / "deep" / "b.jpg")]
    assert err == [
        f"{images}: left out 1 of no known image format, .txt (notes.txt)",
        f"error: {images / 'bad.png'}: no image of a known format",
    ]


def test_images_that_pillow_warns_of_are_classified(model, tmp_path, capsys, recwarn):
    """Of many pixels, and with damaged EXIF: warnings that name no file help nobody."""
    Image.new("1", (9500, 9500)).save(tmp_path / "large.png")
    Image.new("RGB", (40, 40)).save(tmp_path / "exif.jpg", exif=b"Exif\0\0II*\0\x08\0\0\0\x05\0")
    out, err = run(capsys, tmp_path, "--model", model)
    assert [line.split("\t")[0].split("/")[-1] for line in out] == ["exif.jpg", "large.png"]
    assert not err
    assert not recwarn.list


def test_the_batch_changes_nothing(model, images):
    network, paths = jaxnas.load(model), [images / "a.png"] * 33 + [images / "bad.png", images / "deep" / "b.jpg"]
    found = list(export.classify(network, paths))
    assert isinstance(found[33], data.BadImageError)
    alone = next(export.classify(network, [images / "deep" / "b.jpg"]))
    np.testing.assert_allclose(found[34].probabilities, alone.probabilities, atol=1e-6)
    np.testing.assert_allclose(found[32].probabilities, found[0].probabilities, atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["absent.png"], "absent.png: No such file"),
        (["--top=11", "absent.png"], "top must be from 1 to the 10"),
        ([], "images must name at least one"),
    ],
)
def test_bad_input_is_one_line(model, capsys, arguments, words):
    out, err = run(capsys, *arguments, "--model", model, code=2)
    assert not out
    assert len(err) == 1
    assert words in err[0]


def test_a_folder_that_is_no_model(images, capsys):
    assert "cannot be read" in run(capsys, images, "--model", images, code=2)[1][0]


def test_the_folder_of_a_search_leads_to_its_networks(model, images, tmp_path, capsys):
    network = jaxnas.load(model)
    folder = tmp_path / "run" / "exports" / "k0"
    saved.save(folder, network.description, network.variables)
    for given in (tmp_path / "run", folder.parent, folder / saved.WEIGHTS):
        _, err = run(capsys, images, "--model", given, code=2)
        assert err[0].endswith(f"; give the folder of a trained network, such as {folder}")
    assert run(capsys, images, "--model", images, code=2)[1][0].endswith("; give the folder of a trained network")


def test_transparent_images_are_put_on_the_ground_of_the_training(model, tmp_path, capsys):
    network = jaxnas.load(model)
    for name, background in (("black", (0, 0, 0)), ("white", (255, 255, 255))):
        description = dataclasses.replace(network.description, background=background)
        saved.save(tmp_path / name, description, network.variables)
        Image.new("RGB", (16, 16), background).save(tmp_path / f"{name}.png")
    Image.new("RGBA", (16, 16), (90, 90, 90, 0)).save(tmp_path / "transparent.png")

    def classes(*arguments):
        return run(capsys, *arguments, "--top=10")[0][0].split("\t")[1:]

    for name in ("black", "white"):
        shown = classes(tmp_path / f"{name}.png", "--model", model)
        assert classes(tmp_path / "transparent.png", "--model", tmp_path / name) == shown
        given = ["--background", *((0,) * 3 if name == "black" else (255,) * 3)]
        assert classes(tmp_path / "transparent.png", "--model", model, *given) == shown
    assert classes(tmp_path / "black.png", "--model", model) != classes(tmp_path / "white.png", "--model", model)
    card = export.model_card(jaxnas.load(tmp_path / "black").description, {}, "command")
    assert "Transparent images are put on [0, 0, 0] (red, green, blue)." in card


@pytest.mark.long
@pytest.mark.parametrize("count", [1, 200])
def test_output_that_nobody_reads_ends_the_command(model, images, count):
    lines = ["from tests import tiny_search", "from experiments import cli, predict"]
    lines.append("cli.run(predict.main, predict.Config)")
    command = [sys.executable, "-c", "\n".join(lines), "--model", str(model), *[str(images / "a.png")] * count]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == cli.NOT_READ


def test_classes_and_crop_of_a_description_are_checked(model, tmp_path):
    network = jaxnas.load(model)
    for change, words in (
        ({"class_names": ("one",)}, "class_names must be 10 texts"),
        ({"crop": 0.0}, "crop must be in"),
        ({"background": (0, 0, 256)}, "background is"),
        ({"background": (0, 0)}, "background must be three values"),
    ):
        saved.save(tmp_path, dataclasses.replace(network.description, **change), network.variables)
        with pytest.raises(ValueError, match=words):
            jaxnas.load(tmp_path)
    saved.save(tmp_path, dataclasses.replace(network.description, class_names=()), network.variables)
    assert jaxnas.load(tmp_path).description.class_name(3) == "3"


def test_the_card_names_the_classes(model):
    card = export.model_card(jaxnas.load(model).description, {}, "command")
    assert r"| classes | zero, one, two, three, four, five, six, seven, eight, n \[i\] é |" in card
    assert "with 0.5 of its shorter side is resized to 8x8" in card


def test_names_in_the_card_are_text(model):
    hostile = "a|b [x](y) `c`"
    description = dataclasses.replace(
        jaxnas.load(model).description, dataset=hostile, trained_with={"data_dir": hostile}
    )
    card = export.model_card(description, {"m`.onnx": "usage"}, "run --workdir 'a`b'")
    cell = r"a\|b \[x\](y) \`c\`"
    assert f"| data | {cell} |" in card
    assert f"| data_dir | {cell} |" in card
    assert "`` m`.onnx ``:" in card
    assert "`` run --workdir 'a`b' ``" in card
