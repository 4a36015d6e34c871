import dataclasses
import errno
import gc
import pathlib
import re

import jax
import pytest

from experiments import cli


@dataclasses.dataclass(frozen=True)
class Config:
    """A config."""

    table: str
    """A required path."""
    noise: float = 0.0
    """A number."""


def run(main, *arguments):
    cli.run(main, Config, list(arguments))


def test_main_gets_the_parsed_config():
    seen = []
    run(seen.append, "--table", "x.npz", "--noise", "0.5")
    assert seen == [Config("x.npz", 0.5)]


def test_a_command_collects_garbage_rarely():
    before = gc.get_threshold()
    try:
        gc.set_threshold(700, 10, 10)
        run(lambda config: None, "--table", "x.npz")
        assert gc.get_threshold() == (cli.COLLECT_EVERY, 10, 10)
    finally:
        gc.set_threshold(*before)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "--table"),
        (("--table", "x", "--noise", "much"), "much"),
        (("--table", "x", "--bogus", "1"), "--bogus"),
    ],
)
def test_an_unreadable_command_line_is_one_line_and_code_2(arguments, said, capsys):
    with pytest.raises(SystemExit) as stopped:
        run(lambda config: None, *arguments)
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert said in error


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("noise must\nnot be -1"), "noise must not be -1"),
        (FileNotFoundError(2, "No such file", "x.npz"), "x.npz"),
        (OverflowError("int too large"), "int too large"),
        (RecursionError("maximum depth"), "maximum depth"),
    ],
)
def test_bad_input_is_one_line_and_code_2(error, said, capsys):
    def main(config):
        raise error

    with pytest.raises(SystemExit) as stopped:
        run(main, "--table", "x")
    assert stopped.value.code == 2
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1
    assert said in printed


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (MemoryError("Unable to allocate 128 GiB"), "Unable to allocate 128 GiB"),
        (OSError(errno.ENOSPC, "No space left on device", "metrics.jsonl"), "No space left on device: metrics.jsonl"),
        (OSError(errno.EIO, "Input/output error", "metrics.jsonl"), "Input/output error: metrics.jsonl"),
        (jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating\n1 byte"), "RESOURCE_EXHAUSTED"),
    ],
)
def test_a_run_that_cannot_go_on_is_one_line_and_code_1(error, said, capsys):
    def main(config):
        raise error

    with pytest.raises(SystemExit) as stopped:
        run(main, "--table", "x")
    assert stopped.value.code == 1
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1
    assert said in printed


@dataclasses.dataclass(frozen=True)
class Group:
    """A group."""

    seed: int = 0
    folder: pathlib.Path = pathlib.Path("~/group")


@dataclasses.dataclass(frozen=True)
class Paths:
    """Paths."""

    out: pathlib.Path
    more: tuple[pathlib.Path, ...] = ()
    absent: pathlib.Path | None = None
    first_seed: int = 0
    group: Group = Group()


def test_home_is_expanded_in_every_path(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    found = cli.parse(Paths, ["--out=~/x", "--more", "~", "a~", "~/y z"])
    home = pathlib.Path("/home/me")
    assert found == Paths(home / "x", (home, pathlib.Path("a~"), home / "y z"), None, 0, Group(0, home / "group"))
    assert cli.given(["--result=~/r.json", "--seed", "3"]) == {"result": "/home/me/r.json", "seed": "3"}


@pytest.mark.parametrize("option", ["--seed=-1", "--seed=4294967296", "--first-seed=99999999999999999999"])
def test_a_seed_out_of_range_is_named(option, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.run(lambda config: None, Paths, ["--out=x", option])
    assert stopped.value.code == 2
    assert re.fullmatch(r"error: (first_)?seed must be from 0 to 4294967295, got -?\d+\n", capsys.readouterr().err)


def test_a_fault_of_the_program_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        run(lambda config: 1 / 0, "--table", "x")


def test_help_exits_with_0(capsys):
    with pytest.raises(SystemExit) as stopped:
        run(lambda config: None, "--help")
    assert stopped.value.code == 0
    assert "A required path." in capsys.readouterr().out
