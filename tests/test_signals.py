"""SIGTERM, SIGINT, and what the system refuses: one line and the documented exit code, in every command."""

import os
import pathlib
import re
import signal
import subprocess
import sys

import pytest

pytestmark = pytest.mark.long

ROOT = pathlib.Path(__file__).parents[1]

# A command that is busy in Python, or, as while a program compiles, in one call that Python cannot interrupt.
COMMAND = """
import dataclasses, hashlib, sys, threading, time
from experiments import cli

@dataclasses.dataclass(frozen=True)
class Config:
    kind: str

def call():
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2**28)

def say_when_called():
    while sys._current_frames()[threading.main_thread().ident].f_code.co_name != "call":
        time.sleep(0.001)
    print("busy", flush=True)

def main(config):
    if config.kind == "call":  # a signal before the call would be handled by Python
        threading.Thread(target=say_when_called, daemon=True).start()
        call()
    print("busy", flush=True)
    time.sleep(60)

cli.run(main, Config)
"""


def heeding_interrupts():
    """In a new process: a job in the background of a script ignores SIGINT, and so would its child."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def start(kind):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND, f"--kind={kind}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        preexec_fn=heeding_interrupts,
    )
    assert process.stdout.readline() == "busy\n"
    return process


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_command_without_a_state_ends_with_a_line_and_the_signals_code(number):
    process = start("sleep")
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    heard, ended = errors.splitlines()
    assert heard.startswith(f"{number.name} received: the run ends")
    assert ended.startswith("ended before there was a state to save")


def test_a_word_at_once_while_nothing_can_stop_and_the_second_signal_ends_it():
    process = start("call")
    process.send_signal(signal.SIGINT)
    assert process.stderr.readline().startswith("SIGINT received: the run ends")
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert process.stderr.readline() == "SIGTERM received again: ended at once\n"
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (128 + signal.SIGTERM, "")


def test_output_in_ascii(tmp_path):
    program = (
        "import dataclasses\nfrom experiments import cli\n"
        "@dataclasses.dataclass(frozen=True)\nclass Config:\n    name: str\n"
        "def main(config):\n    cli.console().print('spread ±', config.name)\n    raise ValueError(config.name)\n"
        "cli.run(main, Config)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(
        [sys.executable, "-c", program, "--name=straße"], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 2
    assert done.stdout == "spread \\xb1 stra\\xdfe\n"
    assert re.fullmatch(r"error: stra\\xdfe\n", done.stderr)
