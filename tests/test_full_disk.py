"""A disk that is full at any write of a run: the documented exit, earlier checkpoints whole, and a run that goes on."""

import contextlib
import dataclasses
import errno
import json
import os
import pathlib
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import cifar_search, cli
from jaxnas.results import FoundArchitecture, SearchResult
from jaxnas.results.workdir import open_workdir
from jaxnas.runtime.checkpoints import Checkpoints
from tests.test_cifar_search import SMALL, outcome
from tests.test_search_loop import Counter, go

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


class FullDisk:
    """From the n-th file or folder on that is made or opened for writing below a folder, the disk is full.

    Python tells its audit hooks of every such call before it is done; a hook cannot be removed, so that there is one.
    """

    def __init__(self):
        self.folder: str | None = None
        self.failed: str | None = None
        self._left = 0
        sys.addaudithook(self._heard)

    @contextlib.contextmanager
    def at(self, folder: pathlib.Path, number: int):
        """The first `number` of them succeed."""
        self._left, self.failed, self.folder = number, None, str(folder)
        try:
            yield
        finally:
            self.folder = None

    def _heard(self, event, arguments):
        if self.folder is None or event not in ("open", "os.mkdir"):
            return
        path = arguments[0]
        if event == "open" and not (arguments[2] or 0) & WRITING:
            return
        if not isinstance(path, str | os.PathLike) or not os.fspath(path).startswith(self.folder):
            return
        if self._left:
            self._left -= 1
            return
        self.failed = self.failed or os.fspath(path)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), os.fspath(path))


@pytest.fixture(scope="module")
def full_disk():
    return FullDisk()


@dataclasses.dataclass(frozen=True)
class Config:
    """A run of few steps with all that a search writes itself."""

    workdir: pathlib.Path


def main(config):
    with open_workdir(config.workdir, "run", {"seed": 0}) as folder:
        state, _ = go(folder, Counter(total_steps=4), seconds=0)
        found = FoundArchitecture(0, 0.1, (state,), "", 1, 1, None, None, None)
        SearchResult("m", "s", "d", 0, {}, {}, state, 1.0, (found,)).write(folder / "result.json")


def start(module_main, config_type, arguments, capsys):
    """Exit code and errors of a command in this process."""
    try:
        cli.run(module_main, config_type, arguments)
        code = 0
    except SystemExit as stopped:
        code = stopped.code
    return code, capsys.readouterr().err


def check_documented(code, error, folder):
    """Exit code 1 and one line that names a file or the checkpoint of a step below the folder."""
    assert code == cli.FAILED, error
    lines = [line for line in error.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, error
    assert "No space left on device" in lines[0]
    assert str(folder) in lines[0]
    assert "Traceback" not in error


def newest(folder):
    """The step of the newest checkpoint, which must be whole as all others; 0 where there is none."""
    if not folder.exists():
        return 0
    with Checkpoints(folder) as checkpoints:
        restored = checkpoints.restore_newest(jnp.int32(0))
        assert not [path for path in folder.iterdir() if not path.name.isdecimal()]
    assert restored is None or (int(restored.state) == restored.step and restored.skipped == ())
    return 0 if restored is None else restored.step


@pytest.mark.long
def test_each_file_in_turn_cannot_be_made(full_disk, tmp_path, capsys):
    steps = []
    for number in range(200):
        folder = tmp_path / f"run{number}"
        with full_disk.at(folder, number):
            code, error = start(main, Config, [f"--workdir={folder}"], capsys)
        if full_disk.failed is None:
            break
        check_documented(code, error, folder)
        steps.append(newest(folder / "checkpoints"))
        assert start(main, Config, [f"--workdir={folder}"], capsys)[0] == 0
        assert json.loads((folder / "result.json").read_text())["evaluations"] == 4
    assert code == 0
    assert len(steps) > 10
    assert steps == sorted(steps)  # what was saved before the disk was full stays
    assert set(steps) == {0, 2, 4}


@pytest.fixture
def small_disk(tmp_path):
    """A file system in memory of 8 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs the right to mount a file system")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def fill(disk, pages):
    """A file that leaves so many pages of the disk free."""
    free = os.statvfs(disk)
    with (disk / "ballast").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(free.f_bavail - pages, 1) * free.f_frsize)


@pytest.mark.long
def test_each_page_of_a_run_in_turn_does_not_fit(small_disk, capsys):
    """On a disk with 1, 2, 3 ... free pages, each a write further; then there is room again."""
    steps = []
    for pages in range(1, 200):
        fill(small_disk, pages)
        code, error = start(main, Config, [f"--workdir={small_disk / 'run'}"], capsys)
        if code:
            check_documented(code, error, small_disk)
        steps.append(newest(small_disk / "run" / "checkpoints"))
        (small_disk / "ballast").unlink()
        assert start(main, Config, [f"--workdir={small_disk / 'run'}"], capsys)[0] == 0
        assert json.loads((small_disk / "run" / "result.json").read_text())["evaluations"] == 4
        shutil.rmtree(small_disk / "run")
        if not code:
            break
    assert code == 0
    assert len(steps) > 10
    assert set(steps) == {0, 2, 4}


@pytest.mark.slow
def test_each_page_of_a_search_in_turn_does_not_fit(small_disk, tmp_path, capsys):
    """The same with the real command."""
    arguments = [*SMALL, "--candidates=0", f"--workdir={small_disk / 'run'}", "--tensorboard"]
    from tests import tiny_search  # noqa: F401 (registers the space)

    def search():
        return start(cifar_search.main, cifar_search.Config, arguments, capsys)

    assert search()[0] == 0
    expected = outcome(small_disk / "run")
    used = sum(-(-path.stat().st_size // 4096) for path in (small_disk / "run").rglob("*"))
    codes = []
    for pages in [*range(1, 12, 2), *range(12, 2 * used, max(used // 8, 1))]:
        jax.clear_caches()  # the programs of each search are some memory maps
        shutil.rmtree(small_disk / "run")
        fill(small_disk, pages)
        code, error = search()
        if code:
            check_documented(code, error, small_disk)
        codes.append(code)
        (small_disk / "ballast").unlink()
        code, error = search()
        assert code == 0, error
        assert outcome(small_disk / "run") == expected
    assert codes[0] == cli.FAILED
    assert codes[-1] == 0
    assert sum(codes) > 6
    np.testing.assert_array_equal(codes, sorted(codes, reverse=True))
