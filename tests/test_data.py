import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnas import data
from jaxnas.data import datasets
from jaxnas.data.augment import draw

REPOSITORY = Path(__file__).resolve().parents[1]
TFDS = REPOSITORY.parent / "shared" / "tfds"
CIFAR10 = TFDS / "cifar10" / "3.0.2"
needs_cifar10 = pytest.mark.skipif(
    not (CIFAR10 / "dataset_info.json").is_file(), reason="no prepared CIFAR-10 in ../shared/tfds"
)


@pytest.fixture(scope="module")
def digits():
    return data.load("digits")


@pytest.fixture(scope="module")
def cifar10():
    return data.load("cifar10", TFDS)


def as_rows(images):
    return {image.tobytes() for image in images}


def prepared_copy(root, file_format="array_record", shards=()):
    """A TFDS folder with real metadata and, unless named in `shards`, without its data."""
    folder = root / "cifar10" / "3.0.2"
    folder.mkdir(parents=True)
    for name in ("features.json", "label.labels.txt", *shards):
        shutil.copy(CIFAR10 / name, folder)
    info = json.loads((CIFAR10 / "dataset_info.json").read_text())
    (folder / "dataset_info.json").write_text(json.dumps(info | {"fileFormat": file_format}))
    return root


# Data sets


def test_digits_are_the_real_ones_in_full_range(digits):
    chex.assert_shape(digits.train_images, (len(digits.train_labels), 8, 8, 3))
    assert len(digits.train_labels) + len(digits.test_labels) == 1797
    assert digits.train_images.dtype == np.uint8
    assert digits.train_labels.dtype == np.int32
    # All values 0..16 of the source occur, each at round(v 255 / 16).
    assert set(np.unique(digits.train_images)) == {round(value * 255 / 16) for value in range(17)}
    np.testing.assert_array_equal(digits.train_images[..., 0], digits.train_images[..., 2])
    assert not digits.flip


def test_digits_test_split_is_fixed_stratified_and_never_inside_train(digits):
    assert not as_rows(digits.train_images) & as_rows(digits.test_images)  # all 1,797 images are distinct
    counts = np.bincount(digits.test_labels)
    totals = counts + np.bincount(digits.train_labels)
    np.testing.assert_array_equal(counts, np.round(totals * 0.2))
    np.testing.assert_array_equal(data.load("digits").test_images, digits.test_images)


def test_statistics_normalise_the_training_images():
    scale = np.array([80, 200, 255])  # channels that cannot be mistaken for each other
    images = (np.random.default_rng(0).random((1500, 4, 4, 3)) * scale).astype(np.uint8)
    mean, std = datasets.channel_statistics(images)
    np.testing.assert_allclose(mean, (images / 255).mean((0, 1, 2)), rtol=1e-9)
    np.testing.assert_allclose(std, (images / 255).std((0, 1, 2)), rtol=1e-9)
    normal = np.asarray(data.normalize(jnp.asarray(images), mean, std))
    np.testing.assert_allclose(normal.mean((0, 1, 2)), 0, atol=1e-4)
    np.testing.assert_allclose(normal.std((0, 1, 2)), 1, atol=1e-4)


@pytest.mark.slow
@needs_cifar10
def test_cifar10_is_complete(cifar10):
    chex.assert_shape(cifar10.train_images, (50000, 32, 32, 3))
    chex.assert_shape(cifar10.test_images, (10000, 32, 32, 3))
    np.testing.assert_array_equal(np.bincount(cifar10.train_labels), [5000] * 10)
    np.testing.assert_array_equal(np.bincount(cifar10.test_labels), [1000] * 10)
    assert cifar10.train_images.dtype == np.uint8
    assert cifar10.train_labels.dtype == np.int32
    np.testing.assert_allclose(np.multiply(cifar10.mean, 255), [125.3, 122.9, 113.9], atol=0.1)
    np.testing.assert_allclose(cifar10.std, [0.2470, 0.2435, 0.2616], atol=0.003)
    assert cifar10.flip
    assert cifar10.test_images[-1].std() > 1  # read, not left empty


@pytest.mark.slow
@needs_cifar10
def test_reading_needs_no_tensorflow_no_network_and_prints_nothing():
    program = """
import socket, sys
def refuse(*args, **kwargs):
    raise AssertionError("network")
socket.socket.connect = socket.getaddrinfo = socket.create_connection = refuse
from pathlib import Path
from jaxnas.data import datasets
assert "tensorflow_datasets" not in sys.modules
builder = datasets.open_tfds("cifar10", Path(sys.argv[1]))
images, labels = datasets._read_images(builder, "test")
assert len(images) == 10000
assert "tensorflow" not in sys.modules
"""
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", program, str(TFDS)], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""


def test_unknown_name_lists_the_known():
    with pytest.raises(ValueError, match=r"name must be one of cifar10, digits, got 'svhn'"):
        data.load("svhn")


@pytest.mark.parametrize("case", ["absent", "empty", "unfinished"])
def test_missing_data_is_explained_in_two_lines(tmp_path, case):
    folder = tmp_path / "my data"
    if case != "absent":
        folder.mkdir()
    if case == "unfinished":
        (folder / "cifar10" / "incomplete.ABC_3.0.2").mkdir(parents=True)
        (folder / "cifar10" / "incomplete.ABC_3.0.2" / "dataset_info.json").touch()
    with pytest.raises(data.DatasetNotFoundError) as caught:
        data.load("cifar10", folder)
    get, instead = str(caught.value).split("\n")
    assert get.endswith(
        f"pip install 'jaxnas[prepare]' && tfds build cifar10 --data_dir '{folder}' --file_format array_record"
    )
    assert ("does not exist" in get) == (case == "absent")
    assert "--dataset digits" in instead


def test_default_folder_is_that_of_tfds(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "of the environment"))
    with pytest.raises(data.DatasetNotFoundError, match="of the environment does not exist"):
        data.load("cifar10")
    monkeypatch.delenv("TFDS_DATA_DIR")
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(data.DatasetNotFoundError, match=f"{tmp_path}/tensorflow_datasets does not exist"):
        data.load("cifar10")


@needs_cifar10
def test_wrong_file_format_and_missing_files_are_named(tmp_path):
    wrong = prepared_copy(tmp_path / "wrong", "tfrecord")
    with pytest.raises(data.DatasetNotFoundError, match="stored as tfrecord, but only array_record.*--overwrite\n"):
        data.load("cifar10", wrong)
    half = prepared_copy(tmp_path / "half", shards=["cifar10-test.array_record-00000-of-00001"])
    with pytest.raises(data.DatasetNotFoundError, match="incomplete, cifar10-train.array_record-00000-of-00001 is"):
        data.load("cifar10", half)


# Splits


def test_split_is_disjoint_stratified_and_covers(digits):
    train, valid = data.split(digits, 0.3, seed=1)
    assert not as_rows(train.images) & as_rows(valid.images)
    assert as_rows(train.images) | as_rows(valid.images) == as_rows(digits.train_images)
    assert not (as_rows(train.images) | as_rows(valid.images)) & as_rows(digits.test_images)
    np.testing.assert_array_equal(np.bincount(valid.labels), np.round(np.bincount(digits.train_labels) * 0.3))
    # Images keep their labels.
    label_of = {image.tobytes(): label for image, label in zip(digits.train_images, digits.train_labels)}
    assert all(label_of[image.tobytes()] == label for image, label in zip(valid.images, valid.labels))


def test_split_depends_on_the_seed_alone(digits):
    first, again, other = (data.split(digits, 0.5, seed=seed)[1] for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.images, again.images)
    assert as_rows(first.images) != as_rows(other.images)


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, 0.001])
def test_split_refuses_empty_parts(digits, fraction):
    with pytest.raises(ValueError, match=f"valid_fraction.*{fraction}"):
        data.split(digits, fraction, seed=0)


def test_resize_averages_areas_by_hand():
    images = np.zeros((1, 4, 4, 3), np.uint8)
    images[0, :2, :2, 0] = [[1, 2], [3, 4]]  # mean 2.5, rounded up
    images[0, 2:, 2:, 1] = 255
    images[0, 0, 3, 2] = 1  # mean 0.25, rounded down
    small = data.resize(images, 2)
    np.testing.assert_array_equal(small[0, ..., 0], [[3, 0], [0, 0]])
    np.testing.assert_array_equal(small[0, ..., 1], [[0, 0], [0, 255]])
    np.testing.assert_array_equal(small[0, ..., 2], 0)
    assert data.resize(images, 4) is images


def test_resize_across_blocks_against_reshape():
    images = np.random.default_rng(0).integers(0, 256, (600, 16, 16, 3), np.uint8)
    expected = np.floor(images.reshape(600, 4, 4, 4, 4, 3).mean((2, 4)) + 0.5)
    np.testing.assert_array_equal(data.resize(images, 4), expected)


@pytest.mark.parametrize("size", [0, 5, 16])
def test_resize_refuses_other_factors(digits, size):
    with pytest.raises(ValueError, match=rf"size must divide .* 8 \(one of 1, 2, 4, 8\), got {size}"):
        data.resize(digits.test_images, size)


# Minibatches

NUM_EXAMPLES, BATCH_SIZE = 23, 5
BATCHES = NUM_EXAMPLES // BATCH_SIZE


def stream(key, cursor, steps, batch_size=BATCH_SIZE):
    """int32 [steps, B], and the cursor after them."""

    @jax.jit
    def run(key, cursor):
        def step(cursor, _):
            indices, cursor = data.next_indices(key, cursor, batch_size)
            return cursor, indices

        return jax.lax.scan(step, cursor, length=steps)

    cursor, indices = run(key, cursor)
    return np.asarray(indices), cursor


def test_an_epoch_visits_examples_once_then_reshuffles():
    key = jax.random.key(0)
    indices, cursor = stream(key, data.start(key, NUM_EXAMPLES), 3 * BATCHES)
    epochs = indices.reshape(3, -1)
    for epoch in epochs:
        assert len(set(epoch)) == BATCHES * BATCH_SIZE
        assert set(epoch) <= set(range(NUM_EXAMPLES))
    assert not (epochs[0] == epochs[1]).all()
    assert not (epochs[1] == epochs[2]).all()
    assert len({frozenset(epoch) for epoch in epochs}) > 1  # those left over differ
    assert int(cursor.epoch) == 2


def test_an_epoch_covers_every_example_where_the_batch_size_divides():
    key = jax.random.key(3)
    indices, _ = stream(key, data.start(key, 20), 8)
    np.testing.assert_array_equal(np.sort(indices.reshape(2, 20)), np.tile(np.arange(20), (2, 1)))
    whole, _ = stream(key, data.start(key, 7), 2, batch_size=7)
    np.testing.assert_array_equal(np.sort(whole), np.tile(np.arange(7), (2, 1)))


def test_stream_depends_on_the_key_alone_and_resumes():
    key = jax.random.key(0)
    whole, end = stream(key, data.start(key, NUM_EXAMPLES), 11)
    again, _ = stream(key, data.start(key, NUM_EXAMPLES), 11)
    np.testing.assert_array_equal(whole, again)

    head, cursor = stream(key, data.start(key, NUM_EXAMPLES), 6)  # in the middle of the second epoch
    saved = jax.tree.map(np.asarray, cursor)
    tail, resumed_end = stream(key, jax.tree.map(jnp.asarray, saved), 5)
    np.testing.assert_array_equal(np.concatenate([head, tail]), whole)
    chex.assert_trees_all_equal(resumed_end, end)

    other = jax.random.key(1)
    assert not (stream(other, data.start(other, NUM_EXAMPLES), 11)[0] == whole).all()


@pytest.mark.parametrize("batch_size", [0, NUM_EXAMPLES + 1])
def test_batch_size_must_fit(batch_size):
    key = jax.random.key(0)
    with pytest.raises(ValueError, match=f"between 1 and the number of examples, 23, got {batch_size}"):
        data.next_indices(key, data.start(key, NUM_EXAMPLES), batch_size)


# Augmentation


def oracle(images, draws, crop_padding, cutout):
    """The textbook, one image and one step at a time."""
    shift, mirrored, centre = (np.asarray(drawn) for drawn in (draws.shift, draws.mirrored, draws.centre))
    batch_size, height, width, _ = images.shape
    result = np.empty_like(images)
    for index in range(batch_size):
        padded = np.pad(images[index], ((crop_padding, crop_padding), (crop_padding, crop_padding), (0, 0)))
        top, left = shift[index] + crop_padding
        image = padded[top : top + height, left : left + width].copy()
        if mirrored[index]:
            image = image[:, ::-1].copy()
        row, column = centre[index] - cutout // 2
        image[max(row, 0) : max(row + cutout, 0), max(column, 0) : max(column + cutout, 0)] = 0
        result[index] = image
    return result


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize(
    ("crop_padding", "flip", "cutout"), [(4, False, 0), (0, True, 0), (0, False, 6), (2, True, 5), (4, True, 8)]
)
def test_augment_against_plain_numpy(dtype, crop_padding, flip, cutout):
    images = np.random.default_rng(0).integers(1, 256, (64, 12, 10, 3)).astype(dtype)
    key = jax.random.key(5)
    draws = draw(key, 64, 12, 10, crop_padding=crop_padding, flip=flip)
    options = {"crop_padding": crop_padding, "flip": flip, "cutout": cutout}
    augmented = jax.jit(lambda key, images: data.augment(key, images, **options))(key, images)
    assert augmented.dtype == dtype
    np.testing.assert_array_equal(augmented, oracle(images, draws, crop_padding, cutout))


def test_draws_are_uniform_and_their_own_for_each_image():
    shift, mirrored, centre = jax.tree.leaves(draw(jax.random.key(0), 9000, 12, 10, crop_padding=1, flip=True))
    shift, mirrored, centre = np.asarray(shift), np.asarray(mirrored), np.asarray(centre)
    pairs = np.bincount((shift + 1) @ [3, 1], minlength=9)
    np.testing.assert_allclose(pairs, 1000, atol=150)  # five standard deviations
    np.testing.assert_allclose(mirrored.mean(), 0.5, atol=0.03)
    np.testing.assert_allclose(np.bincount(centre[:, 0], minlength=12), 750, atol=135)
    np.testing.assert_allclose(np.bincount(centre[:, 1], minlength=10), 900, atol=145)
    np.testing.assert_allclose(np.corrcoef(np.c_[shift, mirrored, centre].T), np.eye(5), atol=0.06)


def test_a_shared_draw_is_not_disturbed_by_switching_another_off():
    images = np.random.default_rng(0).integers(1, 256, (16, 8, 8, 3)).astype(np.float32)
    key = jax.random.key(2)
    both = np.asarray(data.augment(key, images, crop_padding=2, flip=False, cutout=4))
    crop = np.asarray(data.augment(key, images, crop_padding=2, flip=False, cutout=0))
    np.testing.assert_array_equal(both[both != 0], crop[both != 0])
    assert data.augment(key, images, crop_padding=0, flip=False, cutout=0) is images


def test_blanked_pixels_are_the_mean_colour_after_normalisation(digits):
    images = data.normalize(jnp.asarray(digits.train_images[:32]), digits.mean, digits.std)
    cut = data.augment(jax.random.key(0), images, crop_padding=0, flip=False, cutout=4)
    blank = np.asarray(cut != images).any(-1)
    assert blank.any((1, 2)).all()
    assert blank.sum((1, 2)).max() == 16
    np.testing.assert_array_equal(np.asarray(cut)[blank], 0)


@pytest.mark.parametrize(
    ("crop_padding", "cutout", "named"),
    [(-1, 0, "crop_padding"), (8, 0, "crop_padding"), (0, -1, "cutout"), (0, 9, "cutout")],
)
def test_augment_refuses_what_could_blank_an_image(crop_padding, cutout, named):
    with pytest.raises(ValueError, match=f"{named} must be between 0"):
        data.augment(jax.random.key(0), jnp.zeros((2, 8, 8, 3)), crop_padding=crop_padding, flip=True, cutout=cutout)
