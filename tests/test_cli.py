import dataclasses
import gc

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


def test_a_fault_of_the_program_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        run(lambda config: 1 / 0, "--table", "x")


def test_help_exits_with_0(capsys):
    with pytest.raises(SystemExit) as stopped:
        run(lambda config: None, "--help")
    assert stopped.value.code == 0
    assert "A required path." in capsys.readouterr().out
