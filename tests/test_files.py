"""Files are whole or absent, whatever happens while they are written."""

import json
import math
import os
import pathlib
import stat
import subprocess
import sys

import numpy as np
import pytest

from jaxnas.results.files import replacing, write_json


def write(path, text):
    with replacing(path) as temporary:
        temporary.write_text(text)


def fail_halfway(path, error):
    with replacing(path) as temporary:
        temporary.write_text("half")
        raise error


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_reader_sees_the_old_file_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "new" / "file.txt"
    write(path, "old")
    with replacing(path) as temporary:
        temporary.write_text("half")
        assert path.read_text() == "old"
        assert temporary.parent == path.parent
        assert temporary.suffix == ".txt"
    assert path.read_text() == "half"
    assert names(path.parent) == ["file.txt"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path, error):
    write(tmp_path / "file.txt", "old")
    with pytest.raises(error):
        fail_halfway(tmp_path / "file.txt", error)
    assert (tmp_path / "file.txt").read_text() == "old"
    assert names(tmp_path) == ["file.txt"]


def test_a_link_is_replaced_and_not_followed(tmp_path):
    (tmp_path / "target.txt").write_text("another's")
    (tmp_path / "link.txt").symlink_to(tmp_path / "target.txt")
    write(tmp_path / "link.txt", "mine")
    assert (tmp_path / "target.txt").read_text() == "another's"
    assert not (tmp_path / "link.txt").is_symlink()
    assert (tmp_path / "link.txt").read_text() == "mine"


def test_a_link_under_the_temporary_name_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("secrets.token_hex", lambda size: "00")
    (tmp_path / "target.txt").write_text("another's")
    (tmp_path / ".file-00.txt").symlink_to(tmp_path / "target.txt")
    with pytest.raises(FileExistsError):
        write(tmp_path / "file.txt", "mine")
    assert (tmp_path / "target.txt").read_text() == "another's"


def test_writers_at_once_do_not_share_a_temporary_file(tmp_path):
    with replacing(tmp_path / "file.txt") as first, replacing(tmp_path / "file.txt") as second:
        first.write_text("first")
        second.write_text("second")
    assert (tmp_path / "file.txt").read_text() == "first"  # the one that ended last
    assert names(tmp_path) == ["file.txt"]


@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_the_mode_is_that_of_a_new_file(tmp_path, mask):
    program = "import os, sys; os.umask(int(sys.argv[2])); from jaxnas.results.files import write_json; "
    root = pathlib.Path(__file__).parents[1]
    command = [sys.executable, "-c", program + "write_json(sys.argv[1], 1)", str(tmp_path / "file.json"), str(mask)]
    subprocess.run(command, check=True, cwd=root)
    assert stat.S_IMODE((tmp_path / "file.json").stat().st_mode) == 0o666 & ~mask


def test_content_and_name_are_on_the_disk_before_it_ends(tmp_path, monkeypatch):
    flushed, fsync, replace = [], os.fsync, os.replace

    def record(descriptor):
        flushed.append(os.path.realpath(f"/proc/self/fd/{descriptor}"))
        fsync(descriptor)

    def moved(source, target):
        flushed.append("moved")
        replace(source, target)

    if not os.path.isdir("/proc/self/fd"):
        pytest.skip("needs /proc")
    monkeypatch.setattr(os, "fsync", record)
    monkeypatch.setattr(os, "replace", moved)
    with replacing(tmp_path / "file.txt") as temporary:
        temporary.write_text("text")
    assert flushed == [str(temporary), "moved", str(tmp_path)]


def test_long_names_have_temporary_names_too(tmp_path):
    path = tmp_path / ("x" * 240 + ".json")
    write_json(path, 1)
    assert path.read_text() == "1\n"


def test_json_is_strict_and_keeps_names_that_are_not_utf_8(tmp_path):
    value = {"nan": math.nan, "array": np.array([1, 2]), "path": pathlib.Path(os.fsdecode(b"caf\xe9")), "text": "é≤"}
    write_json(tmp_path / "file.json", value)
    content = (tmp_path / "file.json").read_bytes()
    assert "é≤".encode() in content
    assert json.loads(content) == {"nan": None, "array": [1, 2], "path": os.fsdecode(b"caf\xe9"), "text": "é≤"}
