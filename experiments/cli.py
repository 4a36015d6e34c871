"""What all experiments share: a config dataclass as a command line, and errors as one line, not as a traceback.

A command whose settings have presets is read twice: first which options are given, from which follows the configuration
that they change; then the options themselves, by tyro, with the values of this configuration as defaults.
"""

import contextlib
import dataclasses
import gc
import io
import sys
import types
import typing
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, TypeVar

import tyro
from rich.console import Console

from jaxnas.data import DatasetNotFoundError
from jaxnas.results import settings_tree
from jaxnas.runtime import devices
from jaxnas.runtime.checkpoints import CheckpointError
from jaxnas.runtime.devices import LostProcessError
from jaxnas.runtime.loop import NonFiniteLossError, RunInterruptedError

Config = TypeVar("Config")
ConfigOut = TypeVar("ConfigOut", covariant=True)

REQUIRED: Any = tyro.MISSING  # the value of a setting without a default

BAD_INPUT = 2  # exit code, as of argparse
FAILED = 1  # exit code of a run that broke off; what it had saved is whole
INTERRUPTED = 75  # exit code of a run that was asked to stop, and saved its state: EX_TEMPFAIL, "try again"
# New objects between two collections of garbage. Tracing a supernet makes millions that live: with Python's 700 a
# third of the time to trace goes into looking for garbage among them.
COLLECT_EVERY = 50_000
_BOX = "─│╭╮╰╯ "


@typing.runtime_checkable
class Presets(Protocol[ConfigOut]):
    """Settings trees (`jaxnas/results/settings_tree.py`) that a command line starts from; a tree's class may be one."""

    def default(self, given: Mapping[str, str]) -> ConfigOut:
        """The tree whose values the options in `given` replace; a setting that must be given is `REQUIRED` in it."""
        ...

    def choices(self) -> Mapping[str, Collection[str]]:
        """The values of those settings that have few, by name."""
        ...


def run(
    main: Callable[[Config], None],
    config_type: type[Config] | Presets[Config],
    arguments: Sequence[str] | None = None,
) -> None:
    """Parses the command line into `config_type` and calls `main` with it.

    Whatever is wrong with the input, on the command line or in a file that it names (ValueError, OSError), becomes its
    message on stderr, one line, and exit code 2; a run that cannot go on (a loss that is no number, a full disk, a lost
    process) the same with exit code 1; one that was asked to stop, by SIGTERM or SIGINT, says so and exits with 75.
    Other exceptions are faults of the program and keep their traceback.

    Args:
      main: the experiment.
      config_type: a dataclass whose fields are the options, or presets of such a tree; docstrings are the help.
      arguments: the command line without the program's name; None for that of the process.
    """
    collect_rarely()
    try:
        main(parse(config_type, arguments))
    except OSError as error:
        # str() of an OSError opens with its number, which helps nobody.
        where = f": {error.filename}" if error.filename else ""
        _fail(f"{error.strerror or error}{where}")
    except DatasetNotFoundError as error:
        _fail(str(error))  # two lines: how to get it, and what needs no files
    except ValueError as error:
        _fail(" ".join(str(error).split()))
    except (CheckpointError, NonFiniteLossError, LostProcessError) as error:
        print(f"error: {error}", file=sys.stderr)
        devices.abandon(FAILED)
        raise SystemExit(FAILED) from error
    except RunInterruptedError as error:
        print(f"{error}; the same command goes on from there", file=sys.stderr)
        raise SystemExit(INTERRUPTED) from error


def console(**options: Any) -> Console:
    """A console for a command: what it prints is text, since names of folders may hold brackets, which rich reads."""
    return Console(markup=False, emoji=False, **options)


def collect_rarely() -> None:
    """Makes this process look for garbage less often, see `COLLECT_EVERY`."""
    gc.set_threshold(COLLECT_EVERY)


def parse(config_type: type[Config] | Presets[Config], arguments: Sequence[str] | None = None) -> Config:
    """Reads a command line; arguments as of `run`.

    Raises:
      SystemExit: with code 0 after --help, with code 2 and one line on stderr if tyro cannot read the command line.
      ValueError: if a value is out of range, or there is no such preset.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    if not isinstance(config_type, Presets):
        return _tyro(config_type, arguments)
    default = config_type.default(given(arguments))
    parsed = _tyro(_options(default, config_type.choices()), arguments)
    return settings_tree.replace(default, **settings_tree.values(parsed))


def given(arguments: Sequence[str]) -> dict[str, str]:
    """The first value of each option that is on a command line, as text, by the name of its setting.

    >>> given(["--preset=cpu", "--batch-size", "32", "--no-tensorboard"])
    {'preset': 'cpu', 'batch_size': '32', 'no_tensorboard': ''}
    """
    found = {}
    for argument, following in zip(arguments, [*arguments[1:], "--"]):
        if argument.startswith("--"):
            option, equals, value = argument.removeprefix("--").partition("=")
            found[option.replace("-", "_")] = value if equals else "" if following.startswith("--") else following
    return found


def _tyro(config_type: type[Config], arguments: Sequence[str]) -> Config:
    captured = io.StringIO()
    try:
        with contextlib.redirect_stderr(captured):
            return tyro.cli(config_type, args=arguments, prog=_program(), config=(tyro.conf.OmitArgPrefixes,))
    except SystemExit as stopped:
        if stopped.code in (0, None):  # --help
            raise
        _fail(_first_paragraph(captured.getvalue()))
        raise


def _options(tree: Any, choices: Mapping[str, Collection[str]]) -> type:
    """A dataclass like that of the tree, with the tree's values as defaults and choices in place of text, for tyro."""
    hints = typing.get_type_hints(type(tree))
    fields = []
    for field in dataclasses.fields(tree):
        kind, value = hints[field.name], getattr(tree, field.name)
        if dataclasses.is_dataclass(kind):
            kind = _options(value, choices)
            fields.append((field.name, kind, dataclasses.field(default_factory=kind)))
            continue
        if field.name in choices:
            kind = Literal[tuple(choices[field.name])]
        shown = {"metavar": "PATH" if Path in typing.get_args(kind) else "STR"} if _is_optional_text(kind) else {}
        if value is None or value == ():
            shown["help_behavior_hint"] = "(default: none)"
        annotated = Annotated[kind, tyro.conf.arg(**shown)]
        fields.append((field.name, annotated) if value is REQUIRED else (field.name, annotated, value))
    # tyro reads the help of each option from the docstring.
    namespace = {"__doc__": type(tree).__doc__}
    return dataclasses.make_dataclass(type(tree).__name__, fields, frozen=True, kw_only=True, namespace=namespace)


def _is_optional_text(kind: Any) -> bool:
    """Whether None only means that an option is not given: of a file or a name, not of a number."""
    return isinstance(kind, types.UnionType) and bool({Path, str} & set(typing.get_args(kind)))


def _program() -> str | None:
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return f"python -m {spec.name}" if spec and spec.name.startswith(("experiments.", "benchmarks.")) else None


def _first_paragraph(message: str) -> str:
    """The sentence in tyro's box, without the frame, its title and the help that follows."""
    lines = [line.strip(_BOX) for line in message.splitlines() if not line.startswith(("╭", "╰"))]
    body = "\n".join(lines).split("\n\n")[0]
    return " ".join(body.split()) or "the command line could not be read; see --help"


def _fail(message: str) -> None:
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(BAD_INPUT)
