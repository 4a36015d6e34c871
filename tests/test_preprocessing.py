"""Normalisation and mirroring of data sets that are not ImageNet."""

import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jaxnas import data
from jaxnas.data import crops, parts, preprocessing, streams
from jaxnas.data.randaugment import randaugment
from jaxnas.data.streams import Stream

pytestmark = pytest.mark.long


@pytest.fixture
def folder(tmp_path):
    """Two classes of 20 images, whose channels differ, and one bad image."""
    generator = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / "own" / name).mkdir(parents=True)
        for index in range(20):
            pixels = generator.integers(0, (60, 130, 256), (24, 30, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "own" / name / f"{index}.png")
    (tmp_path / "own" / "cat" / "0.png").write_text("no image")
    return data.FolderSource(tmp_path / "own")


def everything(source):
    labels = np.arange(len(source.class_names), dtype=np.int32)
    return parts.Subset(np.arange(len(source)), labels, source.class_names)


def test_statistics_are_measured_on_the_images(folder):
    measured = preprocessing.normalization(folder, everything(folder), 16, seed=0)
    images = [crops.decode_crop(folder.read(index)[0], 16, None) for index in range(1, 40)]
    np.testing.assert_allclose(measured.mean, (np.stack(images) / 255).mean((0, 1, 2)), rtol=1e-9)
    np.testing.assert_allclose(measured.std, (np.stack(images) / 255).std((0, 1, 2)), rtol=1e-9)
    normal = np.asarray(data.normalize(jnp.asarray(np.stack(images)), measured.mean, measured.std))
    np.testing.assert_allclose(normal.mean((0, 1, 2)), 0, atol=1e-4)


def test_the_measured_sample_is_bounded_and_follows_from_the_seed(folder, monkeypatch):
    read, original = [], data.FolderSource.read
    monkeypatch.setattr(data.FolderSource, "read", lambda self, index: read.append(index) or original(self, index))
    first, again, other = (
        preprocessing.normalization(folder, everything(folder), 16, seed, sample=10) for seed in (0, 0, 1)
    )
    assert len(read) == 30
    assert first == again != other


def test_only_imagenet_has_the_constants_of_imagenet(folder, tmp_path):
    subset = everything(folder)
    assert preprocessing.normalization(folder, subset, 16, 0).mean != preprocessing.IMAGENET_MEAN
    (tmp_path / "own").rename(tmp_path / "imagenet2012")
    named = data.FolderSource(tmp_path / "imagenet2012")
    expected = data.Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert preprocessing.normalization(named, subset, 16, 0) == expected


def test_images_that_cannot_be_read_are_an_error_of_one_line(folder):
    for file in folder.root.rglob("*.png"):
        file.write_text("no image")
    with pytest.raises(ValueError, match=r"none of 40 images of own can be read: cat/0\.png: no image"):
        preprocessing.normalization(folder, everything(folder), 16, 0)


@pytest.mark.parametrize("values", [(0.5, 0.5), (0.5, 0.5, 1.5), (-0.1, 0.5, 0.5)])
def test_a_normalisation_that_is_none(values):
    with pytest.raises(ValueError, match="mean must be three values from 0 to 1"):
        data.Normalization(values, (0.2, 0.2, 0.2))
    with pytest.raises(ValueError, match="std must be three values from"):
        data.Normalization((0.5, 0.5, 0.5), (0.2, 0, 0.2))


def test_grey_images_stay_one_signal(tmp_path):
    """Decoded, measured, normalised and augmented, the three channels are equal."""
    generator = np.random.default_rng(0)
    for name, mode in (("eight", np.uint8), ("sixteen", np.uint16)):
        (tmp_path / name).mkdir()
        for index in range(4):
            levels = generator.integers(0, np.iinfo(mode).max, (20, 20)).astype(mode)
            Image.fromarray(levels).save(tmp_path / name / f"{index}.png")
    source = data.FolderSource(tmp_path)
    measured = preprocessing.normalization(source, everything(source), 16, 0)
    assert len(set(measured.mean)) == len(set(measured.std)) == 1
    stream = Stream(source, everything(source), 16, 4, 0, True)
    images = jnp.asarray(np.stack([stream.example(position)["image"] for position in range(8)]))
    for raw in (images, randaugment(jax.random.key(0), images)):
        normal = data.normalize(raw, measured.mean, measured.std)
        shown = np.asarray(data.augment(jax.random.key(1), normal, crop_padding=2, flip=True, cutout=4))
        np.testing.assert_array_equal(shown[..., 0], shown[..., 1])
        np.testing.assert_array_equal(shown[..., 0], shown[..., 2])


def test_images_of_one_value_stay_finite():
    images = np.full((3, 8, 8, 3), 7, np.uint8)
    mean, std = data.channel_statistics(images)
    assert std == (1 / 255,) * 3
    assert np.isfinite(np.asarray(data.normalize(jnp.asarray(images), mean, std))).all()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        *((name, False) for name in ("mnist", "emnist/letters", "kmnist", "svhn_cropped", "omniglot", "digits")),
        *((name, False) for name in ("my-digits-2024", "Captcha Letters", "mnist_corrupted/zigzag", "GTSRB")),
        *(
            (name, True)
            for name in ("imagenet2012", "cifar10", "fashion_mnist", "own", "oxford_flowers102", "digitalis")
        ),
    ],
)
def test_digits_and_letters_are_not_mirrored(name, expected):
    assert data.mirrored(name) is expected


def test_classes_that_are_single_characters_are_not_mirrored():
    assert not data.mirrored("own", [str(digit) for digit in range(10)])
    assert not data.mirrored("own", ["b", "d"])
    assert data.mirrored("own", ["b", "dog"])


@pytest.mark.parametrize("mirror", [True, False])
def test_a_stream_mirrors_only_where_it_may(folder, mirror):
    stream = Stream(folder, everything(folder), 16, 4, 0, True, mirror=mirror)
    examples = [stream.example(position) for position in range(40)]
    assert any(example["flip"] for example in examples) == mirror
    same = Stream(folder, everything(folder), 16, 4, 0, True)
    for example, other in zip(examples, map(same.example, range(40))):
        np.testing.assert_array_equal(example["image"], other["image"])  # the crops stay


def test_a_stream_puts_transparent_images_on_its_ground(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        Image.new("RGBA", (16, 16), (9, 9, 9, 0)).save(tmp_path / name / "0.png")
    source = data.FolderSource(tmp_path)
    for background in ((255, 255, 255), (10, 20, 30)):
        image = Stream(source, everything(source), 16, 1, 0, False, background=background).example(0)["image"]
        np.testing.assert_array_equal(image, np.broadcast_to(np.uint8(background), (16, 16, 3)))


def test_a_bad_image_is_named_with_its_reason_and_counted_once(folder, caplog):
    stream = Stream(folder, everything(folder), 16, 40, 0, True, max_dead=1)
    for start in (0, 1):  # such as for steps, and again for an evaluation
        batches = stream.batches(start)
        next(batches), next(batches)
    assert caplog.text.count("bad image of own is skipped (1 so far): cat/0.png: no image of a known format") == 1
    other = Stream(folder, everything(folder), 16, 40, 1, False, max_dead=1)  # of the next training
    next(other.once())
    assert caplog.text.count("cat/0.png") == 1
    assert (folder.met_bad, other.dead) == ({0}, {0})
    (folder.root / "cat" / "1.png").unlink()
    with pytest.raises(ValueError, match=r"more than the 1 .*cat/0\.png: no image.*; cat/1\.png: No such file"):
        next(stream.batches(0))


def test_only_streams_need_the_extra(folder, monkeypatch):
    program = (
        "import sys; sys.modules['grain'] = sys.modules['cv2'] = None\n"
        "import experiments.cifar_search, experiments.retrain, experiments.report, experiments.imagenet_search"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=pathlib.Path(__file__).parents[1])
    for name, cached, words in (("cv2", crops.opencv, "OpenCV"), ("grain", streams._grain, "grain")):
        monkeypatch.setitem(sys.modules, name, None)
        cached.cache_clear()
        with pytest.raises(ValueError, match=rf"with {words}: pip install 'jaxnas\[imagenet\]'"):
            Stream(folder, everything(folder), 16, 4, 0, True)
        monkeypatch.undo()
