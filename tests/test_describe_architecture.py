"""The description of one architecture, through the real entry point."""

import dataclasses
import json

import pytest

from experiments import cli, describe_architecture
from jaxnas import spaces
from jaxnas.results import FoundArchitecture, SearchResult
from jaxnas.results.files import to_plain
from tests import tiny_search

MACRO = spaces.nasbench_macro()
ARCH = [0, 1, 2, 1, 0, 0, 2, 1]


@pytest.fixture
def describe(tmp_path, capsys):
    """Runs the command on a document; returns what it printed and what it complained of."""

    def run(document, *arguments):
        path = tmp_path / "architecture.json"
        path.write_text(document if isinstance(document, str) else json.dumps(document))
        cli.run(
            describe_architecture.main, describe_architecture.Config, [f"--architecture={path}", *map(str, arguments)]
        )
        return capsys.readouterr().out

    return run


def search_result():
    found = tuple(
        FoundArchitecture(k, 0.1 * k, encoding, "", 1, 1, 1.0, 0.5, 0.5) for k, encoding in enumerate(((0, 0), (1, 0)))
    )
    result = SearchResult("shared_model", "tiny", "digits", 0, {}, {}, 1, 1.0, found)
    result = dataclasses.replace(result, space_description=tiny_search.tiny().description)
    return to_plain(result)


def test_an_encoded_architecture(describe):
    out = describe(MACRO.encode(ARCH))
    lines = out.splitlines()
    for d, choice in enumerate(ARCH):
        (line,) = [line for line in lines if f"layer {d + 1} " in line]
        assert MACRO.decisions[d].choices[choice] in line
        assert f"{MACRO.cost('params').table[d][choice]:,}" in line
        assert f"{MACRO.cost('macs').table[d][choice]:,}" in line
    (total,) = [line for line in lines if "total" in line]
    assert f"{int(MACRO.cost('params').total(ARCH)):,}" in total
    assert f"{int(MACRO.cost('macs').total(ARCH)):,}" in total
    assert describe(MACRO.encode(ARCH), "--space=nasbench_macro") == out


def test_a_cell(describe):
    cell = spaces.nasbench201()
    assert "edge 2-3" in describe(cell.encode([0, 1, 2, 3, 4, 0]))


def test_the_scaled_cost_is_zero_for_the_cheapest_and_one_for_the_dearest(describe):
    for arch, scaled in (([0] * 8, "0.000"), ([2] * 8, "1.000")):
        (line,) = [line for line in describe(MACRO.encode(arch)).splitlines() if " R " in line]
        assert line.count(scaled) == 2


def test_a_network_of_a_search(describe):
    assert "mbconv_k3_e2" in describe(search_result(), "--k=0")
    (first,) = [line for line in describe(search_result(), "--k=1").splitlines() if "layer 1" in line]
    assert "skip" in first


def encoded(*encoding, space="nasbench_macro"):
    return {"space": space, "encoding": list(encoding)}


@pytest.mark.parametrize(
    ("document", "arguments", "words"),
    [
        ('{"space": ', (), ["not valid JSON"]),
        ("[" * 100_000, (), ["not valid JSON"]),
        ([1, 2], (), ['"space" and "encoding"']),
        ({"space": "nasbench_macro"}, (), ["encoding"]),
        ({"encoding": [0, 1]}, (), ["None", "nasbench_macro"]),
        (encoded(*ARCH, space="darts"), (), ["'darts'", "nasbench_macro"]),
        (encoded(*ARCH, space=["nasbench_macro"]), (), ["is not known"]),
        (encoded(*ARCH), ("--space=mbconv_cifar10",), ["belongs to space 'nasbench_macro'", "'mbconv_cifar10'"]),
        (encoded(*ARCH), ("--space=darts",), ["'darts'", "mbconv_cifar10"]),
        (encoded(0, 1), (), ["8 decisions", "(2,)"]),
        (encoded(0, 1, 2, 3, 0, 0, 0, 0), (), ["choice 3 for 'layer 4'", "choose 0 to 2"]),
        (encoded(0, 1, 2, -1, 0, 0, 0, 0), (), ["choice -1"]),
        (encoded(0, 1, 2, 10**30, 0, 0, 0, 0), (), ["counted from 0", "1000000"]),
        (encoded(0, 1, 2, 1.5, 0, 0, 0, 0), (), ["integers", "1.5"]),
        (encoded(*ARCH), ("--k=0",), ["holds one architecture"]),
        (encoded(*ARCH), ("--k=first",), ["first"]),
        (search_result(), (), ["0, 1", "--k"]),
        (search_result(), ("--k=2",), ["0, 1", "got 2"]),
        (search_result(), ("--k=0", "--space=nasbench_macro"), ["belongs to space 'tiny'"]),
        ({"architectures": []}, ("--k=0",), ["not a search result"]),
    ],
)
def test_bad_input_is_one_line_and_code_2(describe, capsys, document, arguments, words):
    with pytest.raises(SystemExit) as stopped:
        describe(document, *arguments)
    assert stopped.value.code == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert message.startswith("error: ")
    assert all(word in message for word in words), message


@pytest.mark.parametrize("name", ["missing.json", "."])
def test_a_file_that_cannot_be_read(capsys, tmp_path, name):
    with pytest.raises(SystemExit) as stopped:
        cli.run(
            describe_architecture.main, describe_architecture.Config, [f"--architecture={tmp_path / name}", "--k=0"]
        )
    assert stopped.value.code == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert str(tmp_path) in message
