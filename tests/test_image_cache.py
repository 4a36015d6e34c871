"""The cache of decoded images: its pixels, what interrupts and damages it, who may share it, and streams from it."""

import itertools
import json
import re
import subprocess
import sys
import threading
from pathlib import Path

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from experiments import imagenet_search, make_images, retrain
from jaxnas import data
from jaxnas.data import cached_images, caching, crops
from jaxnas.data.boxes import resize_boxes
from jaxnas.data.cached_images import Contents, DamagedCacheError, ImageCache
from jaxnas.data.cached_streams import CachedStream
from jaxnas.data.parts import Subset
from jaxnas.data.sources import TfdsSource
from jaxnas.data.streams import DeadImagesError
from jaxnas.results import settings_tree
from jaxnas.results.ownership import owned
from jaxnas.search import build, image_caches
from jaxnas.search.images import as_examples, shown
from tests import tiny_search  # noqa: F401 (registers the space)
from tests.test_own_images import SEARCH, make, run

ROOT = Path(__file__).parents[1]
SIZE = 16  # of the shorter side of cached images
# Width and height: larger than the cache's images, as large, smaller, and very long.
SHAPES = [(30, 20), (20, 31), (16, 16), (12, 40), (17, 16), (32, 24), (100, 9), (28, 28)]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Two classes of eight images of noise over a slope; one file is no image."""
    folder = tmp_path_factory.mktemp("images")
    generator = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (folder / name).mkdir()
        for index, (width, height) in enumerate(SHAPES):
            slope = np.linspace(0, 200, width)[None, :, None] + np.linspace(0, 30, height)[:, None, None]
            pixels = (slope + generator.integers(0, 26, (height, width, 3))).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{index}.{'png' if index % 2 else 'jpg'}")
    (folder / "dog" / "3.png").write_text("no image")
    Image.new("RGBA", (24, 24), (200, 0, 0, 0)).save(folder / "cat" / "5.png")  # shows the background alone
    return folder


@pytest.fixture
def source(root):
    return data.FolderSource(root)


@pytest.fixture(scope="module")
def whole(root, tmp_path_factory):
    """The folder of a complete cache in shards of four images; tests read it."""
    folder = tmp_path_factory.mktemp("whole") / "train"
    caching.build(folder, data.FolderSource(root), SIZE, shard_images=4)
    return folder


def opened(folder, source, size=SIZE):
    return ImageCache(folder, Contents.of(source, size, data.decoding.WHITE))


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.startswith(".")}


class Counting:
    """A source that counts what is read, and may fail or wait at an image."""

    def __init__(self, source, at=lambda number: None):
        self._source, self._at, self.read_numbers = source, at, []

    def __getattr__(self, name):
        return getattr(self._source, name)

    def __len__(self):
        return len(self._source)

    def read(self, number):
        self._at(number)
        self.read_numbers.append(number)
        return self._source.read(number)


def test_pixels_are_those_of_pillow(source, whole):
    cache = opened(whole, source)
    assert cache.bad == 1
    for number in range(len(source)):
        name = source.describe(number)
        if name == "dog/3.png":
            with pytest.raises(data.BadImageError, match="no image of a known format"):
                cache.read(number)
            continue
        image = Image.open(source.root / name)
        if image.mode == "RGBA":
            image = Image.new("RGB", image.size, (255, 255, 255))
        scale = SIZE / min(image.size)
        width, height = (round(side * scale) for side in image.size)
        pixels, label, text = cache.read(number)
        np.testing.assert_array_equal(pixels, np.asarray(image.resize((width, height), Image.Resampling.BICUBIC)))
        assert (label, text) == (number // len(SHAPES), name)
        assert min(pixels.shape[:2]) == SIZE


def test_a_large_photo_is_decoded_at_a_fraction_and_looks_the_same(tmp_path):
    slopes = np.stack(np.broadcast_arrays(np.linspace(0, 255, 600), np.linspace(255, 0, 400)[:, None], 90), -1)
    Image.fromarray(slopes.astype(np.uint8)).save(tmp_path / "large.jpg", quality=95)
    small = caching.decode_for_cache((tmp_path / "large.jpg").read_bytes(), 40)
    exact = Image.open(tmp_path / "large.jpg").resize((60, 40), Image.Resampling.BICUBIC)
    assert small.shape == (40, 60, 3)
    assert np.abs(small.astype(int) - np.asarray(exact)).max() <= 3


def test_a_tfds_data_set_is_cached(tmp_path):
    make_images.main(make_images.Config(out=tmp_path / "data", classes=2, images=6, smallest=20, largest=30))
    source = TfdsSource("imagenet2012", tmp_path / "data")
    cache = caching.build(tmp_path / "cache", source, 8)
    assert [cache.read(number)[1] for number in range(6)] == source.labels().tolist()
    assert [cache.read(number)[2] for number in (0, 5)] == ["record 0", "record 5"]
    assert json.loads((tmp_path / "cache" / "manifest.json").read_text())["contents"]["split"] == "train"


@hypothesis.given(
    shape=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    label=st.integers(-1, 2**31 - 1),
    text=st.text(max_size=20),
    seed=st.integers(0, 9),
)
def test_a_record_gives_back_what_it_was_made_of(shape, label, text, seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (*shape, 3), np.uint8)
    read, *others = cached_images.from_record(cached_images.to_record(pixels, label, text))
    np.testing.assert_array_equal(read, pixels)
    assert others == [label, text]
    assert cached_images.from_record(cached_images.to_record(None, label, text)) == (None, label, text)
    with pytest.raises(ValueError, match="a record of"):
        cached_images.from_record(cached_images.to_record(pixels, label, text) + b"more")


def test_a_small_data_set_has_shards_to_share_and_a_large_one_not_too_many():
    for images, each in ((1, 16), (300, 16), (2_000, 32), (1_281_167, 8192)):
        assert cached_images.usual_shard_images(images) == each
        parts = cached_images.shards(Path(), images, each)
        assert [number for part in parts[:3] for number in part.images] == list(range(min(images, 3 * each)))
        assert sum(len(part.images) for part in parts) == images
        assert len({part.path for part in parts}) == len(parts) < 200


class KilledError(BaseException):
    pass


def test_a_killed_build_goes_on_with_the_first_shard_that_is_missing(source, whole, tmp_path):
    def kill(number):
        if number == 9:
            raise KilledError

    first, folder = Counting(source, kill), tmp_path / "cache"
    with pytest.raises(KilledError):
        caching.build(folder, first, SIZE, threads=1, shard_images=4)
    assert sorted(first.read_numbers)[:9] == list(range(9))
    # What SIGKILL leaves: the part of a shard that was written, and the lock file.
    stale = folder / ".images-00002-of-00004-0123456789abcdef.array_record"
    stale.write_bytes(b"part")
    with pytest.raises(ValueError, match="is not complete; the search builds it"):
        opened(folder, source)
    second = Counting(source)
    caching.build(folder, second, SIZE, threads=3)
    assert sorted(second.read_numbers) == list(range(8, 16))
    assert files(folder) == files(whole)
    assert not stale.exists()
    assert not list(folder.glob(".*images*"))
    third = Counting(source)
    caching.build(folder, third, SIZE)
    assert third.read_numbers == []


def test_a_cache_that_another_process_begins_meanwhile(source, whole, monkeypatch):
    read, calls = cached_images.read_sealed, []

    def too_early(path):
        calls.append(path)
        if len(calls) == 1:
            raise FileNotFoundError(path)
        return read(path)

    monkeypatch.setattr(cached_images, "read_sealed", too_early)
    contents = cached_images.Contents.of(source, SIZE, caching.WHITE)
    assert cached_images.read_manifest(whole, contents) == 4
    assert len(calls) == 2


def test_processes_share_the_work(source, whole, tmp_path):
    """Both are in the middle of a shard at the same time; each image is decoded once."""
    meeting = threading.Barrier(2, timeout=60)
    met = [threading.Event(), threading.Event()]

    def builder(index):
        def meet(number):
            if not met[index].is_set():
                met[index].set()
                meeting.wait()

        return Counting(source, meet)

    builders = [builder(0), builder(1)]
    threads = [
        threading.Thread(
            target=caching.build, args=(tmp_path / "cache", one, SIZE), kwargs={"threads": 1, "shard_images": 4}
        )
        for one in builders
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert all(one.read_numbers for one in builders)
    assert sorted(builders[0].read_numbers + builders[1].read_numbers) == list(range(16))
    assert files(tmp_path / "cache") == files(whole)


def test_a_shard_that_another_process_writes_is_waited_for(source, whole, tmp_path, monkeypatch):
    folder, waited = tmp_path / "cache", []
    caching.build(folder, source, SIZE, shard_images=4)
    about = folder / "images-00001-of-00004.json"
    written = about.read_bytes()
    about.unlink()
    with owned(folder, ".images-00001-of-00004.owner"):

        def others_end(seconds):
            waited.append(seconds)
            about.write_bytes(written)

        monkeypatch.setattr(caching.time, "sleep", others_end)
        idle = Counting(source)
        caching.build(folder, idle, SIZE)
    assert (idle.read_numbers, len(waited)) == ([], 1)


@pytest.mark.long
def test_a_full_disk_is_named_and_leaves_no_part_of_a_shard(source, whole, tmp_path):
    """The system refuses files of more than 4,000 bytes, as it would on a full disk; in a process of its own."""
    program = (
        "import pathlib, resource, signal, sys; from jaxnas import data; from jaxnas.data import caching\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))\n"
        "caching.build(pathlib.Path(sys.argv[2]), data.FolderSource(sys.argv[1]), 16, shard_images=4)\n"
    )
    command = [sys.executable, "-c", program, source.root, tmp_path / "cache"]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    last = ended.stderr.splitlines()[-1]
    assert re.fullmatch(r"OSError: \[Errno 27\] File too large: '.*/images-00000-of-00004\.array_record'", last), ended
    assert list(files(tmp_path / "cache")) == ["manifest.json"]
    caching.build(tmp_path / "cache", source, SIZE)
    assert files(tmp_path / "cache") == files(whole)


def test_a_damaged_shard_is_named_and_built_again(source, whole, tmp_path):
    folder = tmp_path / "cache"
    folder.mkdir()
    for name, content in files(whole).items():
        (folder / name).write_bytes(content)
    shard = folder / "images-00002-of-00004.array_record"
    record = cached_images.to_record(*opened(folder, source).read(9))
    content = bytearray(shard.read_bytes())
    content[content.find(record) + len(record) // 2] ^= 1  # one bit of one pixel
    shard.write_bytes(content)
    cache = opened(folder, source)
    assert cache.read(8)[2] == "dog/0.jpg"
    with pytest.raises(DamagedCacheError, match=r"images-00002-of-00004\.array_record is damaged .*; delete it, then"):
        cache.read(9)
    shard.write_bytes(content[:-100])
    with pytest.raises(DamagedCacheError, match=r"00002-of-00004\.array_record is damaged \(.* bytes instead of"):
        opened(folder, source)
    with pytest.raises(DamagedCacheError, match="delete it, then the next start builds it again"):
        caching.build(folder, source, SIZE)
    shard.unlink()
    again = Counting(source)
    caching.build(folder, again, SIZE)
    assert sorted(again.read_numbers) == [8, 9, 10, 11]
    assert files(folder) == files(whole)
    (folder / "images-00002-of-00004.json").write_text("{}")
    with pytest.raises(DamagedCacheError, match=r"00002-of-00004\.json is damaged"):
        caching.build(folder, source, SIZE)
    manifest = folder / "manifest.json"
    manifest.write_text(manifest.read_text().replace(f'"size": {SIZE}', '"size": 17'))
    with pytest.raises(DamagedCacheError, match=r"manifest\.json is damaged .* delete its folder"):
        opened(folder, source, 17)


def test_a_cache_of_something_else_is_refused(source, whole, root, tmp_path):
    before = files(whole)
    other = make(tmp_path / "own", count=2)
    cases = [
        (data.FolderSource(other), SIZE, "source .*fingerprint .*images .16 there, 6 now"),
        (data.FolderSource(root, split="valid"), SIZE, r"different in split \('train' there, 'valid' now\)"),
        (source, 17, r"different in size \(16 there, 17 now\)"),
    ]
    for wrong, size, words in cases:
        with pytest.raises(ValueError, match=words):
            caching.build(whole, wrong, size)
        with pytest.raises(ValueError, match=words):
            opened(whole, wrong, size)
    with pytest.raises(ValueError, match=r"different in background .*; choose another folder, or delete it"):
        caching.build(whole, source, SIZE, (0, 0, 0))
    assert files(whole) == before
    with pytest.raises(ValueError, match=r"holds 'cat' and no manifest\.json; give a folder for the cache alone"):
        caching.build(root, source, SIZE)
    with pytest.raises(ValueError, match="is not complete"):
        opened(tmp_path / "absent", source)


def stream(source, folder, batch_size=6, host=(0, 1), augment=True, **settings):
    subset = Subset(np.arange(1, len(source)), np.array([1, 0], np.int32), ("dog", "cat"))
    return CachedStream(source, subset, 14, batch_size, 3, augment, host, cache=opened(folder, source), **settings)


def take(batches, count):
    taken = list(itertools.islice(batches, count))
    batches.close()
    return taken


def assert_equal_batches(some, others):
    assert len(some) == len(others)
    for one, other in zip(some, others):
        assert one.keys() == other.keys()
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])


def test_a_stream_from_the_cache_resumes_as_if_nothing_had_happened(source, whole):
    undisturbed = take(stream(source, whole, threads=5).batches(0), 9)
    assert_equal_batches(take(stream(source, whole, threads=1).batches(4), 5), undisturbed[4:])
    halves = [take(stream(source, whole, host=(host, 2)).batches(0), 9) for host in (0, 1)]
    joined = [{name: np.concatenate([one[name], other[name]]) for name in one} for one, other in zip(*halves)]
    assert_equal_batches(joined, undisturbed)


def test_every_epoch_has_every_image_once_and_a_bad_one_is_replaced(source, whole):
    found = stream(source, whole)
    order = found._indices(0, 45)
    for epoch in (0, 15, 30):
        assert sorted(order[epoch : epoch + 15]) == list(range(15))
    assert order[:15] != order[15:30]
    assert stream(source, whole)._indices(22, 20) == order[22:42]
    labels = np.concatenate([batch["label"] for batch in take(found.batches(0), 5)])[:15]
    wanted = [int(index < 7) for index in order[:15]]  # images 1 to 7 are cats
    assert order.index(10) < 15  # image 11, the bad one, whose successor is a dog too
    np.testing.assert_array_equal(labels, wanted)
    assert found.dead == {11}


@pytest.mark.parametrize("augment", [True, False])
def test_minibatches_hold_windows_of_cached_images(source, whole, augment):
    """Of one image, 24 x 16: each window is a part of it, and its box is what the draws of the minibatch say."""
    pixels = opened(whole, source).read(0)[0]
    assert pixels.shape == (16, 24, 3)
    one = Subset(np.array([0]), np.array([0, 1], np.int32), ("cat", "dog"))
    cached = CachedStream(source, one, 14, 40, 3, augment, cache=opened(whole, source), threads=3)
    batch = take(cached.batches(2), 1)[0]
    parts = {pixels[:, left : left + 16].tobytes(): left for left in range(9)}
    lefts = np.array([parts[window.tobytes()] for window in batch["image"]])
    boxes = batch["box"] + np.stack([0 * lefts, lefts] * 2, 1)
    if augment:
        draws = np.random.default_rng((3, 1, 2)).random((40, crops.DRAWS + 1))
        wanted = crops.random_boxes(draws[:, :-1], np.array([[16, 24]] * 40), 16)
        long = (wanted[:, 3] - wanted[:, 1] > 15)[:, None]  # loses less than a pixel
        np.testing.assert_array_less(np.abs(boxes - wanted), np.broadcast_to(np.where(long, 1, 1e-5), boxes.shape))
        assert long.mean() < 0.2
        np.testing.assert_array_equal(batch["flip"], draws[:, -1] < 0.5)
        assert len(set(lefts)) > 4
    else:
        np.testing.assert_array_equal(boxes, [[1, 5, 15, 19]] * 40)  # the middle 14 of 16 pixels
        assert not batch["flip"].any()


def test_too_many_bad_images_end_the_stream_with_their_names(source, whole, caplog):
    with pytest.raises(DeadImagesError, match=r"dog/3\.png: no image of a known format"):
        take(stream(source, whole, max_dead=0).batches(0), 6)


class Scripted:
    """A generator whose draws are given: of areas and ratios in turn, and of the place, which begins at 0."""

    def __init__(self, draws):
        self._tries = iter(draws[:-2].reshape(2, -1).T.ravel())
        self._place = iter((draws[-1], draws[-2]))  # the column first

    def uniform(self, low, high):
        return low + (high - low) * next(self._tries if low else self._place)


sides = st.integers(8, 90)
seeds = st.integers(0, 2**32 - 1)


@hypothesis.given(height=sides, width=sides, seed=seeds)
def test_boxes_are_drawn_as_by_the_stream_that_decodes(height, width, seed):
    draws = np.random.default_rng(seed).random((2, crops.DRAWS))
    together = crops.random_boxes(draws, np.array([[height, width], [30, 40]]), 90)
    for shape, box, own in zip([(height, width), (30, 40)], together, draws):
        left, upper, right, lower = crops.random_box(Scripted(own), *shape[::-1])
        np.testing.assert_allclose(box, (upper, left, lower, right), atol=1e-9)
    central = crops.central_boxes(np.array([[height, width]]))[0]
    np.testing.assert_allclose(central[[1, 0, 3, 2]], crops.central_box(width, height))


@hypothesis.given(size=st.integers(8, 40), longer=st.integers(0, 60), upright=st.booleans(), seed=seeds)
def test_windows_lie_in_the_image_and_boxes_in_their_windows(size, longer, upright, seed):
    shapes = np.array([[size + longer * upright, size + longer * (not upright)]] * 5)
    boxes = crops.random_boxes(np.random.default_rng(seed).random((5, crops.DRAWS)), shapes, size)
    corners, moved = crops.windows(boxes, shapes, size)
    assert ((corners >= 0) & (corners + size <= shapes)).all()
    assert ((moved[:, :2] >= 0) & (moved[:, :2] < moved[:, 2:]) & (moved[:, 2:] <= size)).all()
    # A box that is a pixel shorter than the window is whole in it.
    lost = np.abs(moved + np.tile(corners, 2) - boxes).reshape(5, 2, 2).max(1)
    assert (lost < 1).all()
    assert (lost[boxes[:, 2:] - boxes[:, :2] <= size - 1] < 1e-9).all()


def bilinear(pixels, box, size):
    """One box of one image, pixel by pixel, in double precision."""
    height, width = pixels.shape[:2]
    resized = np.empty((size, size, 3))
    for row, column in itertools.product(range(size), repeat=2):
        at = [box[0] + (row + 0.5) * (box[2] - box[0]) / size - 0.5]
        at += [box[1] + (column + 0.5) * (box[3] - box[1]) / size - 0.5]
        y, x = np.clip(at, 0, [height - 1, width - 1])
        top, left = int(y), int(x)
        down, right = min(top + 1, height - 1), min(left + 1, width - 1)
        corners = pixels[[top, top, down, down], [left, right, left, right]].astype(float)
        shares = np.outer([1 - (y - top), y - top], [1 - (x - left), x - left]).ravel()
        resized[row, column] = shares @ corners
    return resized


@pytest.mark.parametrize("multiply", [False, True])
def test_the_device_resizes_boxes_as_an_oracle_does(multiply):
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (4, 12, 15, 3), np.uint8)
    boxes = np.array([[0, 0, 12, 15], [2.3, 4.6, 9.9, 11.2], [3, 5, 10, 12], [0.2, 7.7, 3.1, 14.9]], np.float32)
    resized = np.asarray(resize_boxes(images, boxes, 7, multiply=multiply))
    assert (resized.shape, resized.dtype) == ((4, 7, 7, 3), np.uint8)
    for image, box, result in zip(images, boxes, resized):
        assert np.abs(bilinear(image, box, 7) - result).max() < 0.51  # rounded
    np.testing.assert_array_equal(resized[2], images[2, 3:10, 5:12])  # whole pixels stay as they are


def test_examples_with_boxes_are_shown_resized_and_mirrored():
    images = np.random.default_rng(0).integers(0, 256, (3, 10, 10, 3), np.uint8)
    boxes = np.array([[0, 0, 8, 8], [1, 2, 9, 10], [2, 2, 10, 10]], np.float32)
    batch = {"image": images, "label": np.zeros(3, np.int32), "flip": np.array([True, False, True]), "box": boxes}
    result = np.asarray(shown(as_examples(batch, 8)))
    np.testing.assert_array_equal(result[0], images[0, :8, 7::-1])
    np.testing.assert_array_equal(result[1], images[1, 1:9, 2:])
    np.testing.assert_array_equal(result[2], images[2, 2:, :1:-1])
    np.testing.assert_array_equal(shown(data.Examples(images, batch["label"])), images)


@pytest.mark.long
def test_a_search_on_a_cache_resumes_bit_for_bit(tmp_path):
    """Other streams, another place of the cache, and a state that was saved in between: the same losses."""
    settings = {"preset": "smoke", "space": "tiny", "batching": "map", "batch_size": 8, "image_size": 8}
    settings |= {"joint_steps": 3, "steps_per_dispatch": 1, "folder": make(tmp_path / "own", ("cat", "dog"))}
    config = imagenet_search.Config(**settings, image_cache=tmp_path / "cache")
    image_caches.build(config, build.open_images(config))
    search = build.build(config)
    states, losses = [], []
    for state, _, metrics in search.run(search.init(0)):
        states.append(jax.tree.map(jnp.copy, state))  # its arrays are donated to the next step
        losses.append(jax.device_get(metrics.losses))
    (tmp_path / "cache").rename(tmp_path / "moved")
    other = build.build(settings_tree.replace(config, image_cache=tmp_path / "moved"))
    *_, (end, _, metrics) = other.run(states[0])
    np.testing.assert_array_equal(metrics.losses, losses[-1])
    jax.tree.map(np.testing.assert_array_equal, end.params, states[-1].params)


@pytest.mark.long
def test_a_search_that_reads_a_cache_is_noted_as_such(capsys, tmp_path):
    make(tmp_path / "own")
    given = [*SEARCH, f"--folder={tmp_path / 'own'}", f"--workdir={tmp_path / 'run'}", "--finish-steps=2"]
    cached = f"--image-cache={tmp_path / 'cache'}"
    out, _ = run(capsys, imagenet_search, *given, cached)
    assert "36 of 36 images are decoded once and kept, the shorter side of 9 pixels" in out
    assert "complete, 36 images in 0.00 GB" in out
    assert json.loads((tmp_path / "run" / "config.json").read_text())["inputs"]["image_cache_size"] == 9
    # The same command is the same search, and the folder may be elsewhere.
    (tmp_path / "cache").rename(tmp_path / "moved")
    out, _ = run(capsys, imagenet_search, *given, f"--image-cache={tmp_path / 'moved'}", "--distribution-steps=2")
    assert "are decoded once" not in out
    for wrong, words in (
        ([], "image_cache_size (9 there, None now)"),
        ([f"--image-cache={tmp_path / 'moved'}", "--image-cache-size=12"], "different in size (9 there, 12 now)"),
        ([f"--image-cache={tmp_path / 'other'}", "--image-cache-size=12"], "image_cache_size (9 there, 12 now)"),
        ([cached, "--image-cache-size=7"], "image_cache_size must be at least image_size, 8, got 7"),
        (["--image-cache-size=12"], "image_cache_size needs image_cache"),
        ([f"--image-cache={tmp_path / 'own' / 'cache'}"], "lies in the folder of images"),
    ):
        _, err = run(capsys, imagenet_search, *given, *wrong, code=2)
        assert words in err
        assert err.count("\n") == 1
    # Its networks are trained on the cache that the search names, which is built where it is not.
    training = ["--result", tmp_path / "run" / "result.json", "--epochs=1", "--batch-size=8", "--index=0"]
    out, _ = run(capsys, retrain, *training)
    assert "36 of 36 images are decoded once" in out
    trained = Path(tmp_path / "run" / "retrained" / "k0" / "seed0" / "config.json")
    assert json.loads(trained.read_text())["data"].endswith(", cached at 9")
