"""Folders of images: what is a class, a split, an image; what is left out, and that it is told."""

import os
import unicodedata

import numpy as np
import pytest
from PIL import Image

from jaxnas import data
from jaxnas.data import folders, parts, sources
from jaxnas.data.streams import Stream


def fill(folder, names, suffix=".png", count=4, colour=None):
    """Folders of images, each class of one grey level."""
    for number, name in enumerate(names):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            level = 40 * number if colour is None else colour
            Image.new("RGB", (16 + index, 16), (level,) * 3).save(folder / name / f"{index}{suffix}")


def counts(root, **options):
    return data.open_folder(root, **options).train.report.images


def left_out(source):
    """Names by the first word of the reason."""
    return {reason: list(names) for reason, names in source.report.left_out.items()}


def test_hidden_and_helper_files_are_no_images_and_no_classes(tmp_path):
    fill(tmp_path, ("cat", "dog"))
    fill(tmp_path, ("__MACOSX", ".hidden", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found"))
    fill(tmp_path / "cat", (".ipynb_checkpoints", "@eaDir", "__MACOSX"))
    for name in (".DS_Store", "._0.png", "Thumbs.db", "desktop.ini", "Icon\r"):
        (tmp_path / "dog" / name).write_bytes(b"\0\5\x16\7" + bytes(60))
    splits = data.open_folder(tmp_path)
    assert splits.train.report.images == {"cat": 4, "dog": 4}
    assert left_out(splits.train) == {
        "hidden": [".hidden", "cat/.ipynb_checkpoints", "dog/.DS_Store", "dog/._0.png"],
        "helper files or folders of other programs": sorted(
            ["$RECYCLE.BIN", "@eaDir", "System Volume Information", "__MACOSX", "cat/@eaDir", "cat/__MACOSX"]
            + ["dog/Icon\r", "dog/Thumbs.db", "dog/desktop.ini", "lost+found"]
        ),
    }
    assert "left out: 4 hidden (.hidden, cat/.ipynb_checkpoints, dog/.DS_Store, ...)" in splits.summary()


def test_only_names_below_the_folder_are_hidden(tmp_path):
    fill(tmp_path / ".cache" / "own", ("cat", "dog"))
    assert counts(tmp_path / ".cache" / "own") == {"cat": 4, "dog": 4}


@pytest.mark.parametrize("suffix", [".webp", ".bmp", ".tif", ".tiff", ".gif", ".jpeg", ".jpe", ".jfif", ".JPG", ".Png"])
def test_a_class_of_another_format_is_read(tmp_path, suffix):
    fill(tmp_path, ("cat", "dog"))
    fill(tmp_path, ("owl",), suffix, colour=200)
    source = data.open_folder(tmp_path).train
    assert source.report.images == {"cat": 4, "dog": 4, "owl": 4}
    encoded, label = source.read(8)
    assert label == 2
    assert np.abs(data.decode(encoded).astype(int) - 200).max() < 3


def test_files_are_known_by_content_where_the_suffix_is_not(tmp_path):
    fill(tmp_path, ("cat", "dog"))
    for index, kind in enumerate(("png", "jpeg", "webp", "gif", "tiff", "bmp")):
        Image.new("RGB", (16, 16)).save(tmp_path / "cat" / f"download{index}", kind)
    Image.new("RGB", (16, 16)).save(tmp_path / "cat" / "photo.jpg?size=large", "JPEG")
    (tmp_path / "dog" / "readme.txt").write_text("BM is how a bitmap begins")
    (tmp_path / "dog" / "labels").write_text("")
    (tmp_path / "dog" / "photo.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(50))
    Image.new("RGB", (16, 16), (9, 9, 9)).save(tmp_path / "dog" / "wrong.jpg", "PNG")
    source = data.open_folder(tmp_path).train
    assert source.report.images == {"cat": 11, "dog": 5}
    assert left_out(source) == {
        "of no known image format": ["dog/labels"],
        "of no known image format, .heic": ["dog/photo.heic"],
        "of no known image format, .txt": ["dog/readme.txt"],
    }
    wrong = next(index for index in range(len(source)) if source.describe(index) == "dog/wrong.jpg")
    np.testing.assert_array_equal(data.decode(source.read(wrong)[0]), np.full((16, 16, 3), 9))


def test_a_class_without_images_is_an_error_that_names_it(tmp_path):
    fill(tmp_path, ("cat", "dog"))
    (tmp_path / "owl" / "nested").mkdir(parents=True)
    with pytest.raises(ValueError, match="class 'owl' .* has no images; add or convert images, or remove"):
        data.open_folder(tmp_path)
    (tmp_path / "owl" / "nested" / "1.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(50))
    (tmp_path / "owl" / ".hidden.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"class 'owl' .* left out 1 hidden .*, left out 1 of no known .*\.heic"):
        data.open_folder(tmp_path)


def test_links_are_followed(tmp_path):
    fill(tmp_path / "own", ("cat", "dog"))
    fill(tmp_path / "elsewhere", ("bird", "kitten"))
    (tmp_path / "own" / "owl").symlink_to(tmp_path / "elsewhere" / "bird")
    (tmp_path / "own" / "cat" / "more").symlink_to(tmp_path / "elsewhere" / "kitten")
    (tmp_path / "own" / "dog" / "linked.png").symlink_to(tmp_path / "elsewhere" / "bird" / "0.png")
    (tmp_path / "root").symlink_to(tmp_path / "own")
    for root in ("own", "root"):
        source = data.open_folder(tmp_path / root).train
        assert source.report.images == {"cat": 8, "dog": 5, "owl": 4}
        assert source.report.left_out == {}
        assert all(source.read(index)[0] for index in range(len(source)))


def test_loops_of_links_end(tmp_path):
    fill(tmp_path, ("cat", "dog"))
    (tmp_path / "cat" / "up").symlink_to(tmp_path)
    (tmp_path / "cat" / "self").symlink_to(tmp_path / "cat" / "self")
    (tmp_path / "cat" / "a").mkdir()
    (tmp_path / "cat" / "a" / "b").symlink_to(tmp_path / "cat")
    (tmp_path / "cat" / "again").symlink_to(tmp_path / "cat" / "a")
    (tmp_path / "dog" / "gone.png").symlink_to(tmp_path / "nothing.png")
    (tmp_path / "whole").symlink_to(tmp_path)
    source = data.open_folder(tmp_path).train
    assert source.report.images == {"cat": 4, "dog": 4}
    assert left_out(source) == {
        "broken links": ["cat/self", "dog/gone.png"],
        "links to a folder above or to one read already": ["cat/a/b", "cat/again", "cat/up", "whole"],
    }


def test_links_to_folders_above_end(tmp_path):
    fill(tmp_path / "own", ("cat", "dog"))
    fill(tmp_path / "other", ("owl",))
    (tmp_path / "own" / "cat" / "up").symlink_to("../..")
    (tmp_path / "own" / "dog" / "top").symlink_to("/")
    (tmp_path / "root").symlink_to(tmp_path / "own")
    for root in ("own", "root"):
        source = data.open_folder(tmp_path / root).train
        assert source.report.images == {"cat": 4, "dog": 4}
        assert left_out(source) == {"links to a folder above or to one read already": ["cat/up", "dog/top"]}


@pytest.mark.parametrize(("link", "target"), [("kitten", "cat"), ("cat/more", "dog"), ("dog/some", "cat/young")])
def test_one_folder_in_two_classes_is_an_error(tmp_path, link, target):
    fill(tmp_path, ("cat", "dog", "cat/young"))
    (tmp_path / link).symlink_to(tmp_path / target)
    with pytest.raises(ValueError, match=f"one folder in two classes, as {min(link, target)}, {max(link, target)}"):
        data.open_folder(tmp_path)


def test_pipes_and_devices_are_left_out_and_named(tmp_path):
    fill(tmp_path, ("cat", "dog"))
    os.mkfifo(tmp_path / "cat" / "pipe.png")
    os.mkfifo(tmp_path / "cat" / "pipe")
    (tmp_path / "dog" / "device.jpg").symlink_to("/dev/zero")
    source = data.open_folder(tmp_path).train
    assert source.report.images == {"cat": 4, "dog": 4}
    assert left_out(source) == {"pipes, devices or sockets": ["cat/pipe", "cat/pipe.png", "dog/device.jpg"]}
    assert source.fingerprint()


def test_folders_below_a_class_belong_to_it(tmp_path):
    fill(tmp_path / "cat", ("black", "white"))
    fill(tmp_path, ("dog",))
    Image.new("RGB", (16, 16)).save(tmp_path / "stray.png")
    (tmp_path / "readme.md").write_text("mine")
    source = data.open_folder(tmp_path).train
    assert source.report.images == {"cat": 8, "dog": 4}
    assert left_out(source) == {
        "of no known image format, .md": ["readme.md"],
        "outside of the class folders": ["stray.png"],
    }


@pytest.mark.parametrize(
    ("names", "valid", "test"),
    [
        (("train", "val"), True, False),
        (("train", "valid", "test"), True, True),
        (("Training", "VALIDATION", "testing"), True, True),
        (("train", "test"), False, True),
        (("train",), False, False),
        (("train2017", "val2017"), True, False),
        (("Training Data", "Test Data"), False, True),
        (("training_set", "validation-set", "testset"), True, True),
        (("ILSVRC2012_img_train", "ILSVRC2012_img_val"), True, False),
    ],
)
def test_splits_are_no_classes(tmp_path, names, valid, test):
    for number, name in enumerate(names):
        fill(tmp_path / name, ("cat", "dog", "owl"), count=4 + 2 * number)
    (tmp_path / "readme.md").write_text("mine")
    (tmp_path / "annotations").mkdir()
    splits = data.open_folder(tmp_path)
    assert splits.train.class_names == ("cat", "dog", "owl")
    assert len(splits.train) == 12
    assert (splits.valid is not None, splits.test is not None) == (valid, test)
    if valid:
        assert (splits.valid.root.name, len(splits.valid)) == (names[1], 18)
    if test:
        assert (splits.test.root.name, len(splits.test)) == (names[-1], 12 + 6 * (len(names) - 1))
    summary = splits.summary()
    assert summary.startswith("weights learn on" if valid else "weights and distributions learn on")
    assert summary.count("cat") == len(names)
    assert "left out: 1 folders without images (annotations)" in summary
    with pytest.raises(ValueError, match=f"holds the splits .*{names[0]}"):
        data.FolderSource(tmp_path)


def test_weights_and_distributions_learn_on_their_splits(tmp_path):
    fill(tmp_path / "train", ("cat", "dog", "owl"), count=6)
    fill(tmp_path / "val", ("cat", "dog", "owl"), count=4)
    (train, learnt), (valid, chosen) = parts.search_parts(data.open_folder(tmp_path), 0.5, seed=0)
    assert (train.root.name, valid.root.name) == ("train", "val")
    np.testing.assert_array_equal(learnt.indices, np.arange(18))
    np.testing.assert_array_equal(chosen.indices, np.arange(12))
    found = parts.search_parts(data.open_folder(tmp_path), 0.5, seed=3, classes=2, per_class=3)
    assert found[0][1].class_names == found[1][1].class_names
    for source, subset in found:
        labels = subset.label_map[source.labels()[subset.indices]]
        np.testing.assert_array_equal(np.bincount(labels), [3, 3])
        assert {source.class_names[label] for label in source.labels()[subset.indices]} == set(subset.class_names)
    assert parts.class_counts(*found) == dict.fromkeys(found[0][1].class_names, 6)


def test_without_a_valid_split_they_share_the_images(tmp_path):
    fill(tmp_path, ("cat", "dog"), count=6)
    splits = sources.open_splits("folder", tmp_path)
    (train, learnt), (valid, chosen) = parts.search_parts(splits, 0.5, seed=0)
    assert train is valid
    assert sorted([*learnt.indices, *chosen.indices]) == list(range(12))
    assert parts.class_counts((train, learnt), (valid, chosen)) == {"cat": 6, "dog": 6}


def test_a_folder_for_the_distributions_can_be_given(tmp_path):
    fill(tmp_path / "own", ("cat", "dog"))
    fill(tmp_path / "other", ("cat", "dog"), count=7)
    splits = data.open_folder(tmp_path / "own", tmp_path / "other")
    assert (len(splits.train), len(splits.valid), splits.test) == (8, 14, None)
    fill(tmp_path / "split" / "train", ("cat", "dog"))
    fill(tmp_path / "split" / "val", ("cat", "dog"))
    with pytest.raises(ValueError, match="valid_folder is given, but .* has val in it"):
        data.open_folder(tmp_path / "split", tmp_path / "other")
    with pytest.raises(ValueError, match="valid_folder needs a folder of images"):
        sources.open_splits("imagenet2012", tmp_path, tmp_path / "other")


def test_class_sets_that_differ_are_named(tmp_path):
    fill(tmp_path / "train", ("cat", "dog", "owl"))
    fill(tmp_path / "val", ("cat", "cow", "dog"))
    with pytest.raises(ValueError, match="val must have the classes of .*train, but lacks owl and has cow besides"):
        data.open_folder(tmp_path)


@pytest.mark.parametrize("beside", ["cat", "extra", "unlabelled"])
def test_splits_beside_classes_are_an_error(tmp_path, beside):
    fill(tmp_path / "train", ("cat", "dog"))
    fill(tmp_path / "val", ("cat", "dog"))
    fill(tmp_path, (beside,))
    with pytest.raises(ValueError, match=f"the splits train, val and beside them images in {beside}"):
        data.open_folder(tmp_path)


def test_a_test_split_without_classes_is_left_out_and_named(tmp_path):
    fill(tmp_path / "train", ("cat", "dog"))
    fill(tmp_path, ("test",))
    splits = data.open_folder(tmp_path)
    assert (splits.train.class_names, splits.test) == (("cat", "dog"), None)
    assert "left out: 1 splits without class folders (test)" in splits.summary()


def test_classes_may_be_called_train_and_test(tmp_path):
    fill(tmp_path, ("bus", "test", "train"))
    assert counts(tmp_path) == {"bus": 4, "test": 4, "train": 4}


def test_words_of_splits_in_names_of_classes_are_no_splits(tmp_path):
    fill(tmp_path / "own", ("steam train", "test tube"))
    fill(tmp_path / "nested" / "steam train", ("side", "front"))
    fill(tmp_path / "nested" / "test tube", ("side",))
    fill(tmp_path / "nested", ("cat",))
    for name in ("own", "nested"):
        assert list(counts(tmp_path / name))[-2:] == ["steam train", "test tube"]


def test_classes_that_hold_the_same_folders_are_told(tmp_path):
    for name in ("part 1", "part 2"):
        fill(tmp_path / name, ("cat", "dog"))
    summary = data.open_folder(tmp_path).summary()
    assert "16 images of 2 classes (part 1 8, part 2 8)" in summary
    assert "note: all classes hold the same folders (cat, dog); if these are the classes, name" in summary
    fill(tmp_path, ("part 1",))
    assert "note:" not in data.open_folder(tmp_path).summary()


def test_splits_that_are_one_folder_are_an_error(tmp_path):
    fill(tmp_path / "own", ("cat", "dog"))
    (tmp_path / "linked").mkdir()
    for name in ("train", "val"):
        (tmp_path / "linked" / name).symlink_to(tmp_path / "own")
    with pytest.raises(ValueError, match="train and .*val are one folder, for train and valid; networks"):
        data.open_folder(tmp_path / "linked")
    with pytest.raises(ValueError, match="are one folder, .*; leave valid_folder out for a share"):
        data.open_folder(tmp_path / "own", tmp_path / "linked" / "val")


@pytest.mark.parametrize(
    ("layout", "words"),
    [
        (("train1/cat", "val1/cat", "val2/cat"), "val1, val2 for one split"),
        (("val/cat", "val/dog", "test/cat", "test/dog"), "no train"),
        (("train", "val"), "no train with class folders"),
        (("train/cat", "train/dog", "training/cat", "training/dog"), "train, training for one split"),
        (("train/cat", "train/dog", "val/cat", "val/dog", "valid/cat"), "val, valid for one split"),
        (("own/cat", "own/dog"), "one class, 'own'; at least two are needed; if cat, dog in it are the classes"),
        (("cat",), "one class, 'cat'; at least two are needed$"),
        ((), "has no images"),
    ],
)
def test_other_layouts_are_errors(tmp_path, layout, words):
    for name in layout:
        fill(tmp_path / name, ("",))
    with pytest.raises(ValueError, match=words):
        data.open_folder(tmp_path)


def test_images_without_class_folders_are_named(tmp_path):
    fill(tmp_path, ("",))
    with pytest.raises(ValueError, match=r"has no images: .* left out 4 outside of the class folders \(0.png"):
        data.open_folder(tmp_path)
    with pytest.raises(ValueError, match="is no folder"):
        data.open_folder(tmp_path / "0.png")


def test_names_that_are_no_utf8_work(tmp_path):
    fill(tmp_path, ("dog",), colour=80)
    odd = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9")
    os.mkdir(odd)
    for name in (b"\xff 1.png", b"new\nline.png"):
        Image.new("RGB", (16, 16)).save(os.path.join(odd, os.fsdecode(name)), "PNG")
    with open(os.path.join(odd, os.fsdecode(b"bad\xff.png")), "wb") as file:
        file.write(b"no image")
    source = data.open_folder(tmp_path).train
    assert source.report.images == {r"caf\xe9": 3, "dog": 4}
    source.report.summary().encode()
    assert len(source.fingerprint()) == 64
    described = [source.describe(index) for index in range(3)]
    assert set(described) == {r"caf\xe9/\xff 1.png", r"caf\xe9/bad\xff.png", r"caf\xe9/new\nline.png"}
    bad = described.index(r"caf\xe9/bad\xff.png")
    train, _ = parts.halves(source, 0.5, 0)
    stream = Stream(source, type(train)(np.arange(7), train.label_map, train.class_names), 16, 4, 0, True)
    assert stream.example(0)["image"].shape == (16, 16, 3)
    with pytest.raises(data.BadImageError) as raised:
        data.decode(source.read(bad)[0], name=source.describe(bad))
    assert str(raised.value) == r"caf\xe9/bad\xff.png: no image of a known format"


def test_composed_and_decomposed_names_are_one_class(tmp_path):
    for part, form in (("train", "NFC"), ("val", "NFD")):
        fill(tmp_path / part, (unicodedata.normalize(form, "café"), "dog"))
    splits = data.open_folder(tmp_path)
    assert splits.train.class_names == splits.valid.class_names == ("café", "dog")
    fill(tmp_path / "train", (unicodedata.normalize("NFD", "café"),))
    with pytest.raises(ValueError, match="two folders of one name, café"):
        data.open_folder(tmp_path)


def test_the_summary_of_many_classes_is_short(tmp_path):
    images = {f"class {number:03d}": 2 + number for number in range(100)}
    summary = folders.FolderReport(tmp_path, images, {}).summary()
    assert summary.count("class ") == 12
    assert "5,150 images of 100 classes" in summary
    assert "and 88 more classes, of 2 to 101 images" in summary


def test_the_summary_of_many_formats_is_short(tmp_path):
    fill(tmp_path, ("cat", "dog"))
    for number in range(30):
        for index in range(1 + (number == 7)):
            (tmp_path / "cat" / f"{index}.x{number:02}").write_text("mine")
    lines = data.open_folder(tmp_path).summary().splitlines()
    assert len(lines) == 1 + 12
    assert "  left out: 2 of no known image format, .x07 (cat/0.x07, cat/1.x07)" in lines
    assert lines[-1] == "  left out: 19 for 19 more reasons, each of fewer"


def test_a_folder_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    fill(tmp_path / "train", ("cat", "dog"))
    fill(tmp_path / "val", ("cat", "dog"))
    (tmp_path / "train" / "dog" / "val").mkdir()
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("val"):  # root may read everything, so permissions would not do
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    splits = data.open_folder(tmp_path)
    assert left_out(splits.train) == {"not readable": ["dog/val"]}
    assert splits.summary().endswith("\nleft out: 1 not readable (val)")


@pytest.mark.parametrize(
    ("case", "images", "words"),
    [
        ("split", {"cat": 8, "dog": 8, "owl": 8}, ["weights learn on", "distributions learn on"]),
        ("mac", {"cat": 8, "dog": 8}, ["helper files or folders of other programs (__MACOSX)", "2 hidden"]),
        ("kinds", {"cat": 8, "dog": 8, "owl": 8}, []),
        ("links", {"cat": 8, "dog": 8, "owl": 8}, []),
        ("hidden", {"cat": 8, "dog": 8}, ["1 hidden (cat/.ipynb_checkpoints)"]),
        ("digits", {"mirrored six": 16, "six": 16}, []),
    ],
)
def test_made_folders(made_cases, case, images, words):
    splits = data.open_folder(made_cases / "folders" / case)
    assert splits.train.report.images == images
    assert all(word in splits.summary() for word in words)
    assert data.mirrored(splits.train.name, splits.train.class_names) == (case != "digits")


def test_made_folder_with_an_empty_class(made_cases):
    with pytest.raises(ValueError, match="class 'owl' .* has no images"):
        data.open_folder(made_cases / "folders" / "empty")


def test_images_that_were_bad_keep_their_numbers_when_they_are_removed(tmp_path, caplog):
    fill(tmp_path, ("cat", "dog"), count=8)
    for name in ("cat/3.png", "dog/0.png"):
        (tmp_path / name).write_text("no image")
    before = data.FolderSource(tmp_path)
    fingerprint = before.fingerprint()
    whole = parts.Subset(np.arange(16), np.arange(2, dtype=np.int32), before.class_names)
    stream = Stream(before, whole, 16, 16, 0, True)
    first = [next(batches) for batches in [stream.batches(0)] for _ in range(3)]
    bad = tuple(before.size(number) for number in sorted(stream.dead))
    assert bad == (("cat/3.png", 8), ("dog/0.png", 8))

    (tmp_path / "cat" / "3.png").unlink()
    assert data.FolderSource(tmp_path).fingerprint() != fingerprint
    splits = sources.open_splits("folder", tmp_path, known_bad={"train": [list(item) for item in bad]})
    assert splits.train.fingerprint() == fingerprint
    np.testing.assert_array_equal(splits.train.labels(), before.labels())
    caplog.clear()
    again = Stream(splits.train, whole, 16, 16, 0, True, max_dead=0)  # known ones are not counted
    for batch, other in zip(first, again.batches(0)):
        np.testing.assert_array_equal(batch["image"], other["image"])
    assert not caplog.text

    (tmp_path / "dog" / "1.png").unlink()  # a good one: another data set
    assert data.FolderSource(tmp_path, bad).fingerprint() != fingerprint
