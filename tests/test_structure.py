"""The structure of the code: no block of lines stands twice, and importing it computes nothing."""

import ast
import collections
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[1]
BLOCK = 8  # equal lines in a row; imports, comments, and lines of punctuation alone are passed over


def code_lines(text):
    """(number, content) of each line that counts."""
    imports = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            imports.update(range(node.lineno, node.end_lineno + 1))
    lines = ((number, line.strip()) for number, line in enumerate(text.splitlines(), 1))
    counts = ((number, line) for number, line in lines if line[:1] != "#" and number not in imports)
    return [(number, line) for number, line in counts if any(letter.isalnum() for letter in line)]


def repeated_blocks(files):
    """Pairs of places, such as ("a.py:3-10", "b.py:7-14"), whose lines are equal, each run of lines once.

    Args:
      files: {name: text}.
    """
    lines = {name: code_lines(text) for name, text in files.items()}
    places = collections.defaultdict(list)
    for name, numbered in lines.items():
        for start in range(len(numbered) - BLOCK + 1):
            places[tuple(line for _, line in numbered[start : start + BLOCK])].append((name, start))
    runs = {}  # (file, file, distance) -> the last run of windows, [first, last]
    found = []
    for name, numbered in lines.items():
        for start in range(len(numbered) - BLOCK + 1):
            for other, at in places[tuple(line for _, line in numbered[start : start + BLOCK])]:
                if (other, at) <= (name, start):
                    continue
                run = runs.get((name, other, at - start))
                if run is not None and run[1] == start - 1:
                    run[1] = start
                else:
                    runs[name, other, at - start] = run = [start, start]
                    found.append((name, other, at - start, run))

    def place(name, first, last):
        return f"{name}:{lines[name][first][0]}-{lines[name][last + BLOCK - 1][0]}"

    return [
        (place(name, first, last), place(other, first + distance, last + distance))
        for name, other, distance, (first, last) in found
    ]


def test_repeated_blocks_are_found():
    block = "".join(f"x{i} = {i}\n" for i in range(9))
    files = {"a": "import os\n" + block, "b": "y = 0\n\n" + block.replace("x4", "# a comment\n\nx4"), "c": "z = 1\n"}
    assert repeated_blocks(files) == [("a:2-10", "b:3-13")]
    assert repeated_blocks({"a": block + "y = 0\n" + block}) == [("a:1-9", "a:11-19")]
    assert repeated_blocks({"a": block, "b": block.replace("x4", "x5")}) == []
    imports = "from a import (\n" + "".join(f"    x{i},\n" for i in range(9)) + ")\n"
    assert repeated_blocks({"a": imports, "b": imports}) == []


def test_no_block_stands_twice():
    files = {
        path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
        for folder in ("jaxnas", "experiments")
        for path in sorted((ROOT / folder).rglob("*.py"))
    }
    found = [f"{one} ~ {other}" for one, other in repeated_blocks(files)]
    assert not found, f"blocks of {BLOCK} or more equal lines:\n" + "\n".join(found)


def test_importing_the_library_starts_no_backend():
    """`jax.distributed.initialize` must come before."""
    program = (
        "import jaxnas, experiments.imagenet_search, experiments.cifar_search, experiments.retrain\n"
        "from jax._src import xla_bridge\n"
        "raise SystemExit(xla_bridge.backends_are_initialized())"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT)
