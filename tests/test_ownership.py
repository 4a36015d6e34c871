"""Two processes never write into one folder."""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys

import pytest

from experiments import cifar_search, cli
from jaxnas.results import read_metrics
from jaxnas.results.ownership import LOCK, OwnedError, owned
from jaxnas.results.workdir import open_workdir
from tests.test_cifar_search import SMALL, outcome

ROOT = pathlib.Path(__file__).parents[1]

# Opens a folder as soon as all have started, says what came of it, and holds it until it is told to end.
OPENER = """
import sys
from jaxnas.results.workdir import open_workdir
name = sys.argv[1]
print("ready", flush=True)
sys.stdin.readline()
try:
    with open_workdir(None if name == "fresh" else __import__("pathlib").Path(name), "run", {"seed": 0}) as folder:
        print("owns", folder, flush=True)
        sys.stdin.readline()
except ValueError as error:
    print(error, flush=True)
    sys.exit(2)
"""


def start(name, cwd):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, "-c", OPENER, str(name)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
        cwd=cwd,
    )
    assert process.stdout.readline() == "ready\n"
    return process


def go(process):
    process.stdin.write("\n")
    process.stdin.flush()


def race(name, cwd):
    """Two processes open a folder at once: what each says, its exit code, and its process number."""
    both = [start(name, cwd) for _ in range(2)]
    for process in both:
        go(process)
    said = [process.stdout.readline().strip() for process in both]
    for process in both:
        process.communicate("\n", timeout=60)
    return [(line, process.returncode, process.pid) for line, process in zip(said, both)]


def check_one_owner(folder):
    (winner, loser) = sorted(race(folder, folder.parent), key=lambda each: each[1])
    assert winner[:2] == (f"owns {folder}", 0)
    assert loser[1] == 2
    assert re.fullmatch(rf"workdir \S+ is in use by process {winner[2]} on \S+; wait .*", loser[0])


@pytest.mark.long
def test_of_two_starts_at_once_one_owns_the_folder(tmp_path):
    check_one_owner(tmp_path / "run")


@pytest.mark.slow
def test_of_two_starts_at_once_one_owns_the_folder_in_fifty_rounds(tmp_path):
    for number in range(50):
        check_one_owner(tmp_path / f"run{number}")
        race("fresh", tmp_path)
    assert len(list((tmp_path / "runs").iterdir())) == 100


@pytest.mark.long
def test_two_fresh_starts_at_once_get_a_folder_each(tmp_path):
    lines, codes, _ = zip(*race("fresh", tmp_path))
    assert codes == (0, 0)
    assert len(set(lines)) == 2
    assert len(list((tmp_path / "runs").iterdir())) == 2


def test_a_killed_owner_owns_nothing(tmp_path):
    process = start(tmp_path, tmp_path)
    go(process)
    assert process.stdout.readline().startswith("owns")
    with pytest.raises(OwnedError, match=f"process {process.pid} on "), owned(tmp_path):
        pass
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    assert str(process.pid) in (tmp_path / LOCK).read_text()
    with owned(tmp_path):
        assert str(os.getpid()) in (tmp_path / LOCK).read_text()
    assert (tmp_path / LOCK).read_text() == ""


def test_the_second_start_touches_nothing(tmp_path, capsys):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"half')
    (tmp_path / "checkpoints").mkdir()
    with open_workdir(tmp_path / "new", "run", {"seed": 0}):
        pass
    with owned(tmp_path):
        before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
        with pytest.raises(SystemExit) as stopped:
            cli.run(cifar_search.main, cifar_search.Config, [f"--workdir={tmp_path}", *SMALL])
        assert stopped.value.code == 2
        line = capsys.readouterr().err
        assert line.count("\n") == 1
        assert f"in use by process {os.getpid()} on " in line
        assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


def test_a_lock_that_is_a_link_is_not_followed(tmp_path):
    outside = tmp_path / "outside"
    outside.write_text("precious")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / LOCK).symlink_to(outside)
    with pytest.raises(ValueError, match="cannot be written"), open_workdir(tmp_path / "run", "run", {}):
        pass
    assert outside.read_text() == "precious"


# Imports all that a search needs, then for each folder that it reads forks two processes, which start the same command
# when a pipe that both wait at is closed.
STARTER = """
import json, os, sys, warnings
from experiments import cifar_search, cli
from tests import tiny_search
warnings.simplefilter("ignore")  # of the fork: nothing was computed here
for line in sys.stdin:
    arguments = json.loads(line)
    barrier = os.pipe()
    children = {}
    for name in ("first", "second"):
        child = os.fork()
        if not child:
            os.close(barrier[1])
            for number in (1, 2):
                os.dup2(os.open(f"{arguments['workdir']}.{name}.{number}", os.O_WRONLY | os.O_CREAT), number)
            os.read(barrier[0], 1)
            try:
                cli.run(cifar_search.main, cifar_search.Config, arguments["command"])
            except SystemExit as stopped:
                os._exit(stopped.code or 0)
            os._exit(0)
        children[child] = name
    os.close(barrier[0])
    os.close(barrier[1])
    ended = [os.wait() for _ in children]
    print(json.dumps({children[pid]: [pid, os.waitstatus_to_exitcode(status)] for pid, status in ended}), flush=True)
"""


@pytest.mark.slow
def test_of_two_starts_of_one_command_one_searches_in_fifty_rounds(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAXNAS_CACHE": str(tmp_path / "xla")}
    starter = subprocess.Popen(
        [sys.executable, "-c", STARTER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    )
    results = []
    for number in range(50):
        workdir = tmp_path / f"run{number}"
        request = {"workdir": str(workdir), "command": [*SMALL, "--candidates=0", f"--workdir={workdir}"]}
        starter.stdin.write(json.dumps(request) + "\n")
        starter.stdin.flush()
        ended = json.loads(starter.stdout.readline())
        (winner, (pid, code)), (loser, (_, refused)) = sorted(ended.items(), key=lambda item: item[1][1])
        errors = {name: pathlib.Path(f"{workdir}.{name}.2").read_text() for name in ended}
        assert (code, refused) == (0, 2), errors
        assert re.fullmatch(rf"error: workdir \S+ is in use by process {pid} on \S+; wait .*\n", errors[loser])
        assert [record["step"] for record in read_metrics(workdir / "metrics.jsonl")] == list(range(1, 17))
        results.append(outcome(workdir))
    starter.communicate(timeout=60)
    assert all(result == results[0] for result in results)
