import logging
import os
import pathlib
import resource
import shutil
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxnas.runtime import array_files
from jaxnas.runtime import checkpoints as checkpoints_module
from jaxnas.runtime.checkpoints import CheckpointError, Checkpoints


def make_state(seed=0):
    params = {"w": jax.random.normal(jax.random.key(seed), (40, 3)), "half": jnp.full((5,), 1.1 + seed, jnp.bfloat16)}
    bits = np.array([0x7FC00001, 0xFFC12345, 0x80000000, 1], np.uint32)
    return {
        "params": params,
        "optimizer": optax.adam(1e-3).init(params),
        "key": jax.random.key(seed),
        "keys": jax.random.split(jax.random.key(seed, impl="rbg"), 3),
        "step": jnp.int32(seed),
        "nan_payloads": bits.view(np.float32),
        "negative_zeros": jnp.full((7,), -0.0),
        "empty": jnp.zeros((0, 4)),
        "long": np.int64(2**40 + seed),
        "numbers": (seed, 0.1, True),
        "nothing": None,
        "a/b": jnp.zeros(2, jnp.uint8),
    }


def leaf_bytes(leaf):
    if hasattr(leaf, "dtype") and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return str(leaf.dtype), leaf.shape, np.asarray(jax.random.key_data(leaf)).tobytes()
    return str(np.asarray(leaf).dtype), np.shape(leaf), np.asarray(leaf).tobytes()


def assert_same(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other)):
        assert leaf_bytes(a) == leaf_bytes(b)
        assert isinstance(a, jax.Array) == isinstance(b, jax.Array)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder with whole checkpoints of steps 1 and 2; copy it before harming it."""
    folder = tmp_path_factory.mktemp("saved")
    with Checkpoints(folder) as checkpoints:
        checkpoints.save(1, make_state(1))
        checkpoints.save(2, make_state(2))
    return folder


@pytest.fixture
def copied(saved, tmp_path):
    return pathlib.Path(shutil.copytree(saved, tmp_path / "checkpoints"))


def test_round_trip_is_bit_exact(saved):
    with Checkpoints(saved) as checkpoints:
        restored = checkpoints.restore_newest(make_state(0))
    assert restored.step == 2
    assert restored.skipped == ()
    assert_same(restored.state, make_state(2))
    assert type(restored.state["long"]) is np.int64
    assert [type(number) for number in restored.state["numbers"]] == [int, float, bool]
    draw = jax.random.normal(restored.state["keys"][1], (3,))
    np.testing.assert_array_equal(draw, jax.random.normal(make_state(2)["keys"][1], (3,)))


def test_restores_into_shapes_alone(saved):
    like = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) if isinstance(leaf, jax.Array) else leaf, make_state()
    )
    with Checkpoints(saved) as checkpoints:
        assert_same(checkpoints.restore_newest(like).state, make_state(2))


def test_single_array_and_placement(tmp_path):
    device = jax.devices()[0]
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(0, jnp.float32(2.5))
        free = checkpoints.restore_newest(jnp.float32(0)).state
        held = checkpoints.restore_newest(jax.device_put(jnp.float32(0), device)).state
    assert (free, free.shape, free.committed) == (2.5, (), False)
    assert held.committed


def test_donated_buffers_may_change_while_saving(tmp_path):
    step = jax.jit(lambda x: x + 1, donate_argnums=0)
    x = jnp.zeros(1_000_000)
    with Checkpoints(tmp_path) as checkpoints:
        for number in range(1, 5):
            x = step(x)
            checkpoints.save(number, x)
            x = step(x)
            x = step(x)
        assert checkpoints.restore_newest(x).state[::999_999].tolist() == [10.0, 10.0]


def test_keeps_two(tmp_path):
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        assert checkpoints.restore_newest({"x": jnp.ones(2)}) is None
        for step in (1, 5, 10):
            checkpoints.save(step, {"x": jnp.full((2,), step)})
        checkpoints.wait()
        assert checkpoints.steps == (5, 10)
        checkpoints.save(10, {"x": jnp.full((2,), 11)})
        assert checkpoints.restore_newest({"x": jnp.full((2,), 0)}).state["x"].tolist() == [11, 11]
        with pytest.raises(ValueError, match="step must be at least 10"):
            checkpoints.save(3, {"x": jnp.ones(2)})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["10", "5"]


def files_of(folder):
    return sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())


def test_truncating_any_file_falls_back(saved, tmp_path, caplog):
    names = files_of(saved / "2")
    assert len(names) > 5
    for number, name in enumerate(names):
        folder = pathlib.Path(shutil.copytree(saved, tmp_path / str(number)))
        size = (folder / "2" / name).stat().st_size
        if size == 0:
            (folder / "2" / name).unlink()
        else:
            os.truncate(folder / "2" / name, size // 2)
        caplog.clear()
        with Checkpoints(folder) as checkpoints, caplog.at_level(logging.WARNING):
            restored = checkpoints.restore_newest(make_state())
        assert restored.step == 1, name
        assert_same(restored.state, make_state(1))
        assert [skipped.step for skipped in restored.skipped] == [2]
        assert name.as_posix() in restored.skipped[0].reason
        assert "step 2 is corrupt" in caplog.text
        assert str(folder / "2") in caplog.text


def test_flipping_a_byte_is_detected(saved, tmp_path):
    generator = np.random.default_rng(0)
    for number, name in enumerate(files_of(saved / "2")):
        folder = pathlib.Path(shutil.copytree(saved, tmp_path / str(number)))
        content = bytearray((folder / "2" / name).read_bytes())
        if not content:
            continue
        content[generator.integers(len(content))] ^= 1 << generator.integers(8)
        (folder / "2" / name).write_bytes(content)
        with Checkpoints(folder) as checkpoints:
            restored = checkpoints.restore_newest(make_state())
        assert restored.step == 1, name


def test_wrong_leaf_in_sound_files_is_detected(tmp_path, monkeypatch):
    save = array_files.save
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, {"x": jnp.ones(3)})
        checkpoints.wait()
        monkeypatch.setattr(array_files, "save", lambda path, tree: save(path, {"x": tree["x"] + 1}))
        checkpoints.save(2, {"x": jnp.ones(3)})
        restored = checkpoints.restore_newest({"x": jnp.ones(3)})
    assert restored.step == 1
    assert "leaf x" in restored.skipped[0].reason


def test_corrupt_is_set_aside_and_the_step_can_be_saved_again(copied):
    (copied / "2" / "digest.json").unlink()
    with Checkpoints(copied) as checkpoints:
        restored = checkpoints.restore_newest(make_state())
        assert restored.skipped[0].path == copied / "corrupt-2"
        assert (copied / "corrupt-2").is_dir()
        checkpoints.save(2, make_state(7))
        again = checkpoints.restore_newest(make_state())
        assert checkpoints.steps == (1, 2)
    assert again.step == 2
    assert again.skipped == ()
    assert_same(again.state, make_state(7))


def test_all_corrupt_is_an_error_every_time(copied):
    for step in ("1", "2"):
        os.truncate(copied / step / "digest.json", 10)
    for _ in range(2):
        with Checkpoints(copied) as checkpoints, pytest.raises(CheckpointError, match="every checkpoint .* is corrupt"):
            checkpoints.restore_newest(make_state())


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"step": jnp.int16(0)}, r"leaf step is int32\[\] there, int16\[\] here"),
        ({"more": jnp.ones(2)}, r"leaf more is absent there, float32\[2\] here"),
        ({"key": jax.random.key(0, impl="rbg")}, "leaf key is threefry2x32"),
    ],
)
def test_other_structure_is_no_corruption(saved, change, match):
    with Checkpoints(saved) as checkpoints, pytest.raises(CheckpointError, match=match):
        checkpoints.restore_newest(make_state() | change)
    assert sorted(path.name for path in saved.iterdir()) == ["1", "2"]


def test_full_disk(copied):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    big = make_state(3) | {"big": jax.random.normal(jax.random.key(0), (500_000,))}
    checkpoints = Checkpoints(copied)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        checkpoints.save(3, big)
        with pytest.raises(CheckpointError, match="could not save the checkpoint of step 3 .*File too large") as caught:
            checkpoints.wait()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "\n" not in str(caught.value)
    assert sorted(path.name for path in copied.iterdir()) == ["1", "2"]
    assert_same(checkpoints.restore_newest(make_state()).state, make_state(2))
    checkpoints.save(3, big)
    checkpoints.wait()
    assert checkpoints.steps == (2, 3)


def test_failed_save_is_raised_by_the_next_call_or_the_exit(tmp_path, monkeypatch, caplog):
    def refuse(*unused):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(array_files, "save", refuse)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, jnp.ones(2))
        with pytest.raises(CheckpointError, match="step 1 .*No space left on device"):
            checkpoints.save(2, jnp.ones(2))
    with pytest.raises(CheckpointError), Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, jnp.ones(2))

    def break_down():
        with Checkpoints(tmp_path) as checkpoints:
            checkpoints.save(1, jnp.ones(2))
            raise KeyError("the loop's own error comes first")

    with pytest.raises(KeyError):
        break_down()
    assert "No space left" in caplog.text


def test_unusable_folder_and_arguments(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="cannot make the folder"):
        Checkpoints(tmp_path / "file" / "checkpoints")
    with pytest.raises(ValueError, match="keep must be at least 1, got 0"):
        Checkpoints(tmp_path, keep=0)
    with pytest.raises(ValueError, match="local path"):
        Checkpoints("gs://bucket/run")
    with pytest.raises(ValueError, match="must be a tree of arrays"):
        Checkpoints(tmp_path).save(1, {"name": "text"})


def test_is_quiet_even_when_everything_is_logged(tmp_path, caplog, capfd):
    with caplog.at_level(logging.INFO, logger="absl"), Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, make_state())
        checkpoints.restore_newest(make_state())
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")
    assert "orbax" not in " ".join(record.pathname for record in caplog.records)


# Forks one process after another; each saves steps 1, 2, 3 into its own folder and is killed somewhere on the way.
KILLED = """
import os, shutil, signal, sys, time
import numpy as np
from jaxnas.runtime import array_files, checkpoints as checkpoint, damage

def state(step):
    return {"x": np.full(200_000, step, np.float32) + np.arange(200_000, dtype=np.float32), "step": np.int32(step)}

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def doomed(function, when, at):
    calls = 0
    def wrapped(*args, **kwargs):
        nonlocal calls
        calls += 1
        if calls == at and when == "before":
            die()
        result = function(*args, **kwargs)
        if calls == at and when == "after":
            die()
        return result
    return wrapped

def half_written(folder, body):  # Killed in the middle of the seal.
    if body["step"] == 3:
        (folder / "digest.json").write_text('{"body": {"step": 3')
        die()
    return seal(folder, body)

def rmtree_half(path, *unused, **also_unused):  # Killed in the middle of deleting step 1.
    os.remove(os.path.join(path, "digest.json"))
    die()

seal = damage.seal
def patch(point):
    owner, name, when = point.split(":")
    if when == "half":
        (damage if owner == "damage" else shutil).__dict__[name] = half_written if owner == "damage" else rmtree_half
    else:
        owner = {"checkpoint": checkpoint, "array_files": array_files, "damage": damage}[owner]
        setattr(owner, name, doomed(getattr(owner, name), when, 3))

root, points = sys.argv[1], sys.argv[2:]
for number, point in enumerate(points):
    child = os.fork()
    if child == 0:
        if not point.startswith("time"):
            patch(point)
        with checkpoint.Checkpoints(os.path.join(root, str(number)), keep=2) as checkpoints:
            for step in (1, 2, 3) if not point.startswith("time") else range(1, 10_000):
                checkpoints.save(step, state(step))
        os._exit(7)
    if point.startswith("time"):
        time.sleep(float(point[4:]))
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), (point, status)
"""
POINTS = {
    "array_files:save:before": 2,
    "array_files:save:after": 2,
    "damage:seal:before": 2,
    "damage:seal:half": 2,
    "damage:seal:after": 2,
    "checkpoint:flush_folder:before": None,
    "shutil:rmtree:half": 3,
    **{f"time{seconds}": None for seconds in (0.3, 0.43, 0.56, 0.69, 0.81, 0.93)},
}


@pytest.mark.long
def test_killed_in_the_middle_of_a_save(tmp_path):
    command = [sys.executable, "-W", "ignore", "-c", textwrap.dedent(KILLED), str(tmp_path), *POINTS]
    root = pathlib.Path(checkpoints_module.__file__).parents[2]
    subprocess.run(command, check=True, timeout=120, cwd=root, env={**os.environ, "JAX_PLATFORMS": "cpu"})
    like = {"x": np.zeros(200_000, np.float32), "step": np.int32(0)}
    survived = 0
    for number, (point, expected) in enumerate(POINTS.items()):
        folder = tmp_path / str(number)
        with Checkpoints(folder) as checkpoints:
            restored = checkpoints.restore_newest(like)
            if restored is None:
                assert point.startswith("time"), point
                continue
            survived += 1
            assert restored.skipped == (), point
            assert expected in (None, restored.step), point
            assert restored.step == restored.state["step"] == max(checkpoints.steps)
            np.testing.assert_array_equal(restored.state["x"], np.arange(200_000, dtype=np.float32) + restored.step)
            checkpoints.save(restored.step + 1, restored.state)
            checkpoints.wait()
            names = sorted(path.name for path in folder.iterdir())
            assert len(names) <= 2, names
            assert all(name.isdecimal() for name in names), names
    assert survived >= 7  # On a slow machine the clock may strike before the first save.
