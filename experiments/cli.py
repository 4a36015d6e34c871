"""What all experiments share: a config dataclass as a command line, and errors as one line, not as a traceback."""

import contextlib
import gc
import io
import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import tyro
from rich.console import Console

from jaxnas.data import DatasetNotFoundError
from jaxnas.runtime import devices
from jaxnas.runtime.checkpoints import CheckpointError
from jaxnas.runtime.devices import LostProcessError
from jaxnas.runtime.loop import NonFiniteLossError, RunInterruptedError

Config = TypeVar("Config")

BAD_INPUT = 2  # exit code, as of argparse
FAILED = 1  # exit code of a run that broke off; what it had saved is whole
INTERRUPTED = 75  # exit code of a run that was asked to stop, and saved its state: EX_TEMPFAIL, "try again"
# New objects between two collections of garbage. Tracing a supernet makes millions that live: with Python's 700 a
# third of the time to trace goes into looking for garbage among them.
COLLECT_EVERY = 50_000
_BOX = "─│╭╮╰╯ "


def run(main: Callable[[Config], None], config_type: type[Config], arguments: Sequence[str] | None = None) -> None:
    """Parses the command line into `config_type` and calls `main` with it.

    Whatever is wrong with the input, on the command line or in a file that it names (ValueError, OSError), becomes its
    message on stderr, one line, and exit code 2; a run that cannot go on (a loss that is no number, a full disk, a lost
    process) the same with exit code 1; one that was asked to stop, by SIGTERM or SIGINT, says so and exits with 75.
    Other exceptions are faults of the program and keep their traceback.

    Args:
      main: the experiment.
      config_type: a dataclass whose fields are the options; their docstrings are the help.
      arguments: the command line without the program's name; None for that of the process.
    """
    config = _parse(config_type, arguments)
    collect_rarely()
    try:
        main(config)
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


def _parse(config_type: type[Config], arguments: Sequence[str] | None) -> Config:
    captured = io.StringIO()
    try:
        with contextlib.redirect_stderr(captured):
            return tyro.cli(config_type, args=arguments, prog=_program())
    except SystemExit as stopped:
        if stopped.code in (0, None):  # --help
            raise
        _fail(_first_paragraph(captured.getvalue()))
        raise


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
