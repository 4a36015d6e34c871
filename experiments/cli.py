"""What all experiments share: a config dataclass as a command line, and errors as one line, not as a traceback.

A command whose settings have presets is read twice: first which options are given, from which follows the configuration
that they change; then the options themselves, by tyro, with the values of this configuration as defaults.
"""

import contextlib
import dataclasses
import gc
import io
import os
import sys
import types
import typing
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, Protocol, TypeVar

import jax
import tyro
from rich.console import Console

from jaxnas.data import DatasetNotFoundError
from jaxnas.results import settings_tree
from jaxnas.results.files import OF_THE_DISK
from jaxnas.runtime import devices, jobs, signals
from jaxnas.runtime.checkpoints import CheckpointError
from jaxnas.runtime.devices import LostProcessError
from jaxnas.runtime.loop import NonFiniteLossError, RunInterruptedError

Config = TypeVar("Config")
ConfigOut = TypeVar("ConfigOut", covariant=True)

REQUIRED: Any = tyro.MISSING  # the value of a setting without a default

BAD_INPUT = 2  # exit code, as of argparse
FAILED = 1  # exit code of a run that broke off; what it had saved is whole
INTERRUPTED = 75  # exit code of a run that was asked to stop, and saved its state: EX_TEMPFAIL, "try again"
NOT_READ = 141  # exit code where nobody reads the output: 128 + SIGPIPE, as shells say it
SEEDS = ("seed", "first_seed")
LARGEST_SEED = 2**32 - 1  # what JAX's random keys tell apart without 64-bit integers
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
    *,
    job: bool = False,
) -> None:
    """Parses the command line into `config_type` and calls `main` with it.

    Whatever is wrong with the input, on the command line or in a file that it names (ValueError, OSError, numbers and
    nesting beyond all measure), becomes its message on stderr, one line, and exit code 2; a run that cannot go on (a
    loss that is not finite, a full disk, no memory, a lost process) the same with exit code 1; one that was asked to
    stop, by SIGTERM or SIGINT, exits with 75 if it saved its state, and with 143 or 130 if it had none. Where nobody
    reads the output any more, as after `head`, the exit code is 141. Other exceptions are faults of the program and
    keep their traceback. In a job of several processes, what is wrong with the command line of one ends all.

    Args:
      main: the experiment.
      config_type: a dataclass whose fields are the options, or presets of such a tree; docstrings are the help.
      arguments: the command line without the program's name; None for that of the process.
      job: whether the options `coordinator`, `num_processes` and `process_id` join processes to one job.
    """
    collect_rarely()
    print_anything()
    warnings.filterwarnings("ignore", module="PIL")  # of images that it decodes; others are errors
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    try:
        with signals.heard(_say):
            main(_parse_together(config_type, arguments) if job else parse(config_type, arguments))
            sys.stdout.flush()
    except BrokenPipeError as error:
        if error.filename is not None:
            raise
        # Who read the output has read enough, as `head`. What Python still holds of it must not be written at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(NOT_READ) from error
    except OSError as error:
        # str() of an OSError opens with its number, which helps nobody.
        where = f": {os.fsdecode(error.filename)}" if isinstance(error.filename, str | bytes | os.PathLike) else ""
        message = " ".join(f"{error.strerror or error}{where}".split())
        if error.errno in OF_THE_DISK:
            _give_up(message, error)
        _fail(message)
    except (OverflowError, RecursionError) as error:
        _fail(f"a number or the nesting of the input is too large: {' '.join(str(error).split()):.200}")
    except MemoryError as error:
        _give_up(f"there is not enough memory: {' '.join(str(error).split()):.200}", error)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        _give_up(f"the device has not enough memory: {' '.join(str(error).split()):.200}", error)
    except KeyboardInterrupt as error:
        code = signals.exit_code(error)
        _say("ended before there was a state to save; what was written before is whole")
        jobs.abandon(code)
        raise SystemExit(code) from error
    except DatasetNotFoundError as error:
        _fail(str(error))  # two lines: how to get it, and what needs no files
    except ValueError as error:
        _fail(" ".join(str(error).split()))
    except (CheckpointError, NonFiniteLossError, LostProcessError) as error:
        _give_up(str(error), error)
    except RunInterruptedError as error:
        print(f"{error}; the same command goes on from there", file=sys.stderr)
        raise SystemExit(INTERRUPTED) from error


def end_at_once(message: str) -> None:
    """Ends the process from any thread with a line and exit code 1, as kill -9 would: what was saved is whole."""
    _say(f"error: {message}")
    os._exit(FAILED)


def print_anything() -> None:
    """Lets this process print every text, whatever the encoding of its output: the rest appears as escapes."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def console(log_width: int | None = None, **options: Any) -> Console:
    """A console for a command: what it prints is text, since names of folders may hold brackets, which rich reads.

    Args:
      log_width: columns where the output is no terminal, so that wide tables need not wrap; None for rich's choice.
      **options: of `Console`.
    """
    made = Console(markup=False, emoji=False, **options)
    if log_width is not None and not made.is_terminal:
        made.width = log_width
    return made


def collect_rarely() -> None:
    """Makes this process look for garbage less often, see `COLLECT_EVERY`."""
    gc.set_threshold(COLLECT_EVERY)


def parse(config_type: type[Config] | Presets[Config], arguments: Sequence[str] | None = None) -> Config:
    """Reads a command line; arguments as of `run`.

    Raises:
      SystemExit: with code 0 after --help.
      ValueError: if tyro cannot read the command line, a value is out of range, or there is no such preset.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    if not isinstance(config_type, Presets):
        return _normalised(_tyro(config_type, arguments))
    default = config_type.default(given(arguments))
    parsed = _normalised(_tyro(_options(default, config_type.choices()), arguments))
    return settings_tree.replace(default, **settings_tree.values(parsed))


def _parse_together(config_type: type[Config] | Presets[Config], arguments: Sequence[str]) -> Config:
    """`parse`, where the command line names a job: what fails on one fails on all."""
    named = given(arguments)
    if "coordinator" not in named or "help" in named:
        return parse(config_type, arguments)
    numbers = [named.get(name) for name in ("num_processes", "process_id")]
    if all(number is None or number.isdecimal() for number in numbers):
        jobs.start(named["coordinator"], *(None if number is None else int(number) for number in numbers))
        return devices.together(lambda: parse(config_type, arguments))
    return parse(config_type, arguments)


def _normalised(config: Config) -> Config:
    """The configuration with home folders in place of ~ in all paths; ValueError if a seed is out of range."""
    changes = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.name in SEEDS and not 0 <= value <= LARGEST_SEED:
            raise ValueError(f"{field.name} must be from 0 to {LARGEST_SEED}, got {value}")
        expanded = _expanded(value)
        if expanded is not value:
            changes[field.name] = expanded
    return dataclasses.replace(config, **changes) if changes else config


def _expanded(value: Any) -> Any:
    if isinstance(value, Path) and str(value).startswith("~"):
        return Path(os.path.expanduser(value))
    if isinstance(value, tuple) and any(isinstance(each, Path) for each in value):
        return tuple(map(_expanded, value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _normalised(value)
    return value


def given(arguments: Sequence[str]) -> dict[str, str]:
    """The first value of each option that is on a command line, as text, by the name of its setting.

    >>> given(["--preset=cpu", "--batch-size", "32", "--no-tensorboard"])
    {'preset': 'cpu', 'batch_size': '32', 'no_tensorboard': ''}
    """
    found = {}
    for argument, following in zip(arguments, [*arguments[1:], "--"]):
        if argument.startswith("--"):
            option, equals, value = argument.removeprefix("--").partition("=")
            value = value if equals else "" if following.startswith("--") else following
            found[option.replace("-", "_")] = os.path.expanduser(value)
    return found


def _tyro(config_type: type[Config], arguments: Sequence[str]) -> Config:
    captured = io.StringIO()
    try:
        with contextlib.redirect_stderr(captured):
            return tyro.cli(config_type, args=arguments, prog=_program(), config=(tyro.conf.OmitArgPrefixes,))
    except SystemExit as stopped:
        if stopped.code in (0, None):  # --help
            raise
        raise ValueError(_first_paragraph(captured.getvalue())) from stopped


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


def _fail(message: str) -> NoReturn:
    _say(f"error: {message}")
    raise SystemExit(BAD_INPUT)


def _give_up(message: str, error: BaseException) -> NoReturn:
    """Ends a run that cannot go on, in a job without waiting for the other processes."""
    _say(f"error: {message}")
    jobs.abandon(FAILED)
    raise SystemExit(FAILED) from error


def _say(message: str) -> None:
    with contextlib.suppress(OSError):  # of a terminal or a disk that is gone
        print(message, file=sys.stderr, flush=True)
