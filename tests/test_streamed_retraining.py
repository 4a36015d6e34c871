"""Training a discrete network on streamed images: resumed, on devices, and tested on every image once."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from PIL import Image

from jaxnas import data, networks
from jaxnas.data import crops, parts
from jaxnas.data.streams import Stream
from jaxnas.runtime.placement import ALL_DEVICES, ONE_DEVICE
from jaxnas.search.images import as_examples
from jaxnas.search.recipes import RetrainSettings
from jaxnas.search.retraining import Retraining
from jaxnas.search.sources import Streamed
from tests.tiny_search import tiny

pytestmark = pytest.mark.long

SETTINGS = RetrainSettings(
    epochs=2, batch_size=8, learning_rate=0.05, crop_padding=0, cutout=2, average=0.9, steps_per_dispatch=2
)
NORMALIZATION = data.Normalization((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two classes of 13 images, of which one is bad."""
    root = tmp_path_factory.mktemp("own")
    generator = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (root / name).mkdir()
        for index in range(13):
            Image.fromarray(generator.integers(0, 256, (12, 14, 3), np.uint8)).save(root / name / f"{index:02}.png")
    (root / "dog" / "12.png").write_text("no image")
    return data.FolderSource(root)


@functools.cache
def network():
    return networks.build(tiny(num_classes=2), [0, 0], drop_path=0.2)


def retraining(folder, placement=ONE_DEVICE, **changes):
    subset = parts.Subset(np.arange(26), np.arange(2, dtype=np.int32), folder.class_names)
    settings = dataclasses.replace(SETTINGS, **changes)
    train, tested = (
        Streamed(Stream(folder, subset, 8, settings.batch_size, 0, augment), convert=as_examples)
        for augment in (True, False)
    )
    return Retraining(network(), train, tested, NORMALIZATION, settings, placement=placement)


def host(state):
    def to_numpy(leaf):
        key = jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        return np.asarray(jax.random.key_data(leaf) if key else leaf)

    return jax.tree.map(to_numpy, state)


def copied(state):
    return jax.tree.map(lambda leaf: leaf.copy(), state)


@pytest.mark.parametrize("augmentation", ["standard", "cutout"])
def test_a_cut_training_continues_as_if_nothing_had_happened(folder, augmentation):
    whole = retraining(folder, augmentation=augmentation)
    assert whole.total_steps == 6  # 26 images are 3 minibatches of 8
    *_, (end, score) = whole.run(whole.init(0))
    first, _ = next(whole.run(whole.init(0)))
    assert int(first.step) == 2
    *_, (resumed, resumed_score) = whole.run(copied(first))
    assert int(end.step) == 6
    assert score == resumed_score
    jax.tree.map(np.testing.assert_array_equal, host(end), host(resumed))


def test_all_devices_do_the_steps_of_one(folder):
    """With one device there is: of several each has batch statistics of its own (see tests/test_own_images.py)."""
    if jax.device_count() > 1:
        pytest.skip("batch norm takes each device's own statistics")
    one, every = retraining(folder), retraining(folder, ALL_DEVICES)
    *_, (end, _) = one.run(one.init(0))
    *_, (other, _) = every.run(every.init(0))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), host(end), host(other))
    assert one.test(end.average).accuracy == every.test(other.average).accuracy


def test_every_test_image_counts_once(folder):
    task = retraining(folder)
    variables = task.init(0).variables
    score = task.test(variables)
    images = [crops.decode_crop(folder.read(index)[0], 8, None) for index in range(25)]
    logits = network().apply(variables, data.normalize(jnp.stack(images), NORMALIZATION.mean, NORMALIZATION.std))
    labels = folder.labels()[:25]
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    np.testing.assert_allclose(score.loss, losses.mean(), rtol=1e-5)
    np.testing.assert_allclose(score.accuracy, (logits.argmax(-1) == labels).mean(), rtol=1e-6)


def test_hosts_share_the_test_images(folder):
    subset = parts.Subset(np.arange(26), np.arange(2, dtype=np.int32), folder.class_names)
    (whole,) = list(Stream(folder, subset, 8, 32, 0, False).once())
    halves = [list(Stream(folder, subset, 8, 8, 0, False, (host, 2)).once()) for host in (0, 1)]
    assert [len(part) for part in halves] == [4, 4]
    assert whole["weight"].sum() == 25
    for name in whole:
        joined = np.concatenate([np.concatenate([a[name], b[name]]) for a, b in zip(*halves)])
        np.testing.assert_array_equal(joined, whole[name])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"batch_size": 30}, "batch_size must be at most the 26 training images"),
        ({"crop_padding": 1}, "crop_padding must be 0: streams crop"),
    ],
)
def test_settings_must_fit(folder, changes, words):
    with pytest.raises(ValueError, match=words):
        retraining(folder, **changes)
