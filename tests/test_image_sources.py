"""Encoded images from folders and TFDS files, damaged ones, and the stream that shuffles them."""

import itertools
import logging

import numpy as np
import pytest
from PIL import Image

from experiments import make_images
from jaxnas import data
from jaxnas.data import crops
from jaxnas.data.folders import FolderSource
from jaxnas.data.parts import halves, held_out, search_parts, training_parts
from jaxnas.data.sources import TfdsSource, open_splits
from jaxnas.data.streams import DeadImagesError, Stream


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    out = tmp_path_factory.mktemp("made")
    make_images.main(make_images.Config(out=out, classes=4, images=48, smallest=20, largest=60))
    return out


@pytest.fixture
def folder(tmp_path):
    """Two classes of six good images, each one colour; class b also holds four bad or odd files."""
    for label, name in enumerate("ab"):
        (tmp_path / name).mkdir()
        for index in range(6):
            pixels = np.full((20 + index, 30, 3), 40 + 100 * label, np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"{index}.{'png' if index % 2 else 'jpg'}")
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "b" / "whole.jpg")
    data = (tmp_path / "b" / "whole.jpg").read_bytes()
    (tmp_path / "b" / "truncated.jpg").write_bytes(data[: len(data) // 2])
    (tmp_path / "b" / "text.jpg").write_text("no image")
    Image.new("RGB", (1, 1)).save(tmp_path / "b" / "point.png")
    Image.new("RGB", (10000, 10), (140,) * 3).save(tmp_path / "b" / "long.jpg")
    return tmp_path


def stream(source, batch_size=4, host=(0, 1), **settings):
    train, _ = halves(source, 0.5, seed=0)
    return Stream(source, train, 16, batch_size, 3, True, host, **settings)


def take(batches, count):
    return list(itertools.islice(batches, count))


def test_made_data_set_is_read_as_tfds(made):
    source = TfdsSource("imagenet2012", made)
    assert (len(source), len(source.class_names)) == (48, 4)
    np.testing.assert_array_equal(source.labels(), np.arange(48) % 4)
    sizes = {data.decode(source.read(index)[0]).shape for index in range(48)}
    assert len(sizes) > 20
    with pytest.raises(ValueError, match="has no split 'test', only train"):
        TfdsSource("imagenet2012", made, split="test")


def test_subsets_are_of_the_named_size_disjoint_and_relabelled(made):
    source = TfdsSource("imagenet2012", made)
    train, valid = halves(source, 0.5, seed=1, classes=3, per_class=8)
    assert (len(train.indices), len(valid.indices)) == (12, 12)
    assert not set(train.indices) & set(valid.indices)
    labels = train.label_map[source.labels()[train.indices]]
    np.testing.assert_array_equal(np.bincount(labels), [4, 4, 4])
    assert len(train.class_names) == 3
    whole = halves(source, 0.25, seed=1)
    assert sorted(np.concatenate([part.indices for part in whole])) == list(range(48))
    for arguments in ({"classes": 5}, {"classes": 1}, {"per_class": 1}):
        with pytest.raises(ValueError, match="must be"):
            halves(source, 0.5, 0, **arguments)


def test_dead_images_are_those_that_cannot_be_decoded(folder):
    for name in ("truncated.jpg", "text.jpg", "point.png"):
        with pytest.raises(data.BadImageError):
            crops.decode_crop((folder / "b" / name).read_bytes(), 16, None)
    for name in ("long.jpg", "whole.jpg"):
        for generator in (None, np.random.default_rng(0)):
            assert crops.decode_crop((folder / "b" / name).read_bytes(), 16, generator).shape == (16, 16, 3)
    long = crops.decode_crop((folder / "b" / "long.jpg").read_bytes(), 16, np.random.default_rng(0))
    assert abs(long.astype(int) - 140).max() < 5


def test_stream_skips_and_counts_dead_images_up_to_the_limit(folder, caplog):
    source = FolderSource(folder)
    _, everything = halves(source, 0.5, 0)
    everything = type(everything)(np.arange(len(source)), everything.label_map, everything.class_names)
    good = Stream(source, everything, 16, 4, 0, True, max_dead=3)
    with caplog.at_level(logging.WARNING):
        batches = take(good.batches(0), 12)
    assert "(3 so far)" in caplog.text
    for batch in batches:
        assert batch["image"].shape == (4, 16, 16, 3)
        for image, label in zip(batch["image"], batch["label"]):
            if image.std() < 5:  # not the one image of noise
                assert abs(image.mean() - (40 + 100 * label)) < 5
    with pytest.raises(DeadImagesError, match="more than the 2"):
        take(Stream(source, everything, 16, 4, 0, True, max_dead=2).batches(0), 12)


def test_folders_that_make_no_data_set(tmp_path):
    with pytest.raises(ValueError, match="no folder"):
        FolderSource(tmp_path / "absent")
    (tmp_path / "a").mkdir()
    with pytest.raises(ValueError, match="no images"):
        FolderSource(tmp_path)
    for name, count in (("a", 4), ("b", 1)):
        (tmp_path / name).mkdir(exist_ok=True)
        for index in range(count):
            Image.new("RGB", (16, 16)).save(tmp_path / name / f"{index}.png")
    with pytest.raises(ValueError, match="class 'b' .* has 1 image, too few"):
        halves(FolderSource(tmp_path), 0.5, 0)
    for file in (tmp_path / "a").iterdir():
        file.write_text("text")
    (tmp_path / "b" / "1.png").write_text("text")
    (tmp_path / "b" / "0.png").write_text("text")
    with pytest.raises(DeadImagesError, match="cannot be decoded"):
        take(stream(FolderSource(tmp_path)).batches(0), 1)


def test_fingerprint_sees_another_file(folder):
    before = FolderSource(folder).fingerprint()
    assert before == FolderSource(folder).fingerprint()
    (folder / "a" / "0.jpg").unlink()
    assert before != FolderSource(folder).fingerprint()


def test_stream_covers_an_epoch_and_is_a_function_of_its_position(made):
    source = TfdsSource("imagenet2012", made)
    whole = stream(source)
    positions = [whole.example(position) for position in range(24)]
    assert len({example["image"].tobytes() for example in positions}) == 24
    batches = take(whole.batches(0), 6)
    np.testing.assert_array_equal(np.concatenate([b["image"] for b in batches]), [p["image"] for p in positions])
    assert np.concatenate([b["flip"] for b in batches]).mean() not in (0, 1)
    resumed = take(whole.batches(4), 2)
    np.testing.assert_array_equal(resumed[1]["image"], batches[5]["image"])


def test_hosts_share_the_batches_of_one(made):
    source = TfdsSource("imagenet2012", made)
    whole = take(stream(source).batches(1), 3)
    parts = [take(stream(source, host=(host, 2)).batches(1), 3) for host in (0, 1)]
    for batch, first, second in zip(whole, *parts):
        for name in ("image", "label", "flip"):
            np.testing.assert_array_equal(batch[name], np.concatenate([first[name], second[name]]))


@pytest.mark.slow
def test_workers_change_nothing(made):
    source = TfdsSource("imagenet2012", made)
    threads, workers = take(stream(source).batches(2), 4), take(stream(source, workers=2).batches(2), 4)
    for first, second in zip(threads, workers):
        np.testing.assert_array_equal(first["image"], second["image"])


def test_networks_are_tested_on_other_images_than_they_are_trained_on(made, tmp_path):
    """A fifth of the search's images where there is no split for it; of a folder class by class."""
    splits = open_splits("imagenet2012", made)
    learnt = search_parts(splits, 0.5, 0)
    found = training_parts(splits, learnt)
    (_, train), (_, tested) = found.train, found.tested
    assert (len(train.indices), len(tested.indices)) == (38, 10)
    assert sorted([*train.indices, *tested.indices]) == list(range(48))

    for part in ("train", "val", "test"):
        for label, name in enumerate("abc"):
            (tmp_path / part / name).mkdir(parents=True)
            for index in range(10):
                Image.new("RGB", (16, 16), (label,) * 3).save(tmp_path / part / name / f"{index}.png")
    for kept, expected in (("train", "train"), ("train val", "val"), ("train val test", "test")):
        root = tmp_path / f"with {kept}"
        root.mkdir()
        for part in kept.split():
            (root / part).symlink_to(tmp_path / part)
        splits = open_splits("folder", root)
        learnt = search_parts(splits, 0.5, 0, classes=2)
        found = training_parts(splits, learnt)
        (source, train), (other, tested) = found.train, found.tested
        assert (source.root.name, other.root.name) == ("train", expected)
        assert train.class_names == tested.class_names == learnt[0][1].class_names
        for origin, part, count in ((source, train, 20), (other, tested, 20)):
            count = count if expected != "train" else 16 if part is train else 4
            labels = part.label_map[origin.labels()[part.indices]]
            np.testing.assert_array_equal(np.bincount(labels), [count / 2] * 2)
        if source is other:
            assert not set(train.indices) & set(tested.indices)


@pytest.mark.parametrize("options", [{}, {"classes": 2}, {"per_class": 6}])
def test_networks_are_tested_on_images_that_the_search_did_not_read(made, tmp_path, options):
    for label, (name, count) in enumerate({"a": 20, "b": 10, "c": 2, "d": 3}.items()):
        (tmp_path / name).mkdir()
        for index in range(count):
            Image.new("RGB", (16, 16), (label,) * 3).save(tmp_path / name / f"{index:02}.png")
    for splits in (open_splits("folder", tmp_path), open_splits("imagenet2012", made)):
        learnt = search_parts(splits, 0.5, 0, **options, test_fraction=0.2)
        read = np.concatenate([part.indices for _, part in learnt])
        found = training_parts(splits, learnt, 0.2)
        (source, train), (other, tested) = found.train, found.tested
        assert source is other
        assert not found.searched
        assert not set(tested.indices) & set(read)
        np.testing.assert_array_equal(train.indices, np.sort(read))
        assert tested.class_names == learnt[0][1].class_names
        labels = tested.label_map[source.labels()[tested.indices]]
        assert (labels >= 0).all()
        np.testing.assert_array_equal(training_parts(splits, learnt, 0.2).tested[1].indices, tested.indices)
        if splits.train.name != "imagenet2012" and not options:
            # Of two images both are needed to learn on, of three one is left.
            assert dict(zip(tested.class_names, np.bincount(labels, minlength=4))) == {"a": 4, "b": 2, "c": 0, "d": 1}
            assert sorted([*train.indices, *tested.indices]) == list(range(35))


def test_nothing_is_held_out_where_a_split_is_for_testing(tmp_path):
    for part, index in itertools.product(("train", "val", "test"), range(10)):
        (tmp_path / part / "ab"[index % 2]).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 16)).save(tmp_path / part / "ab"[index % 2] / f"{index}.png")
    for kept in (("train", "val"), ("train", "test"), ("train", "val", "test")):
        root = tmp_path / "-".join(kept)
        root.mkdir()
        for part in kept:
            (root / part).symlink_to(tmp_path / part)
        splits = open_splits("folder", root)
        assert not len(held_out(splits, 0.2))
        found = training_parts(splits, search_parts(splits, 0.5, 0, test_fraction=0.2), 0.2)
        assert found.searched == ("test" not in kept)
        assert found.tested[0].root.name == kept[-1]
    for fraction in (-0.1, 1.0):
        with pytest.raises(ValueError, match="test_fraction must be"):
            held_out(splits, fraction)
