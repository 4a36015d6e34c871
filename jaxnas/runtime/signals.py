"""SIGTERM and SIGINT while a command runs: a word at once, also while a program compiles, and an end at the second one.

Python runs its own handlers only between instructions of the main thread, and compiling a supernet is one instruction
of minutes. The numbers of signals therefore also go through a pipe to a thread.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType

STOPPING = (signal.SIGTERM, signal.SIGINT)


class TerminatedError(KeyboardInterrupt):
    """SIGTERM came, and nothing else looked after it."""


def exit_code(error: KeyboardInterrupt) -> int:
    """Of a process that a signal ended, as shells tell it: 130 for SIGINT, 143 for SIGTERM."""
    return 128 + (signal.SIGTERM if isinstance(error, TerminatedError) else signal.SIGINT)


@contextlib.contextmanager
def heard(say: Callable[[str], None]) -> Iterator[None]:
    """Says at once that a signal came, raises KeyboardInterrupt at the first where nothing else looks after it.

    The second signal ends the process as kill -9 would, which no file minds: all are whole or absent. Does nothing
    outside the main thread.

    Args:
      say: prints a line; called in a thread.

    Raises:
      TerminatedError: in the body, after SIGTERM; KeyboardInterrupt after SIGINT.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    thread = threading.Thread(target=_listen, args=(reader, say), name="signals", daemon=True)
    thread.start()
    before = {number: signal.getsignal(number) for number in STOPPING}
    woken = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    try:
        signal.signal(signal.SIGTERM, _terminate)
        if before[signal.SIGINT] is not signal.SIG_IGN:  # of a command in the background of a script
            signal.signal(signal.SIGINT, signal.default_int_handler)
        yield
    finally:
        signal.set_wakeup_fd(woken)
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        os.close(writer)
        thread.join()
        os.close(reader)


def _terminate(number: int, frame: FrameType | None) -> None:
    del number, frame
    raise TerminatedError


def _listen(reader: int, say: Callable[[str], None]) -> None:
    first = True
    while received := os.read(reader, 1):
        if received[0] not in STOPPING:
            continue
        name = signal.Signals(received[0]).name
        if first:
            say(f"{name} received: the run ends after the step or program under way; a second one ends it at once")
            first = False
        else:
            say(f"{name} received again: ended at once")
            sys.stdout.flush()
            os._exit(128 + received[0])
