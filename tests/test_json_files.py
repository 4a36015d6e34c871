import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxnas.results.json_files import DEEPEST, parse_json, read_json

NUMBERS = st.integers(-(10**200), 10**200) | st.floats(allow_nan=False, allow_infinity=False)
DOCUMENTS = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(DOCUMENTS, st.booleans())
def test_what_json_writes_is_read(document, ascii_only):
    assert parse_json(json.dumps(document, ensure_ascii=ascii_only).encode()) == document


@given(st.binary())
def test_anything_else_is_a_value_error(content):
    try:
        parse_json(content)
    except ValueError as error:
        assert "\n" not in str(error)  # noqa: PT017 (any error but this one fails the test)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("1e999", "the number 1e999 is not finite"),
        ("[-1e999]", "is not finite"),
        ("Infinity", "Infinity is not valid in JSON"),
        ("[NaN]", "NaN is not valid in JSON"),
        ("9" * 400, "has more than 300 digits"),
        ("[" * 100_000, "more than 100 brackets"),
        ('{"a":' * 100_000, "more than 100 brackets"),
        ('["' + "[" * 1000 + '"' + "[" * 1000, "more than 100 brackets"),
    ],
)
def test_numbers_and_depth_are_limited(text, said):
    with pytest.raises(ValueError, match=said):
        parse_json(text.encode())


def test_brackets_in_strings_do_not_count():
    document = {"a\\": ["[" * 1000, '"{"']}
    assert parse_json(json.dumps(document).encode()) == document
    deep = b"[" * DEEPEST + b"]" * DEEPEST
    assert parse_json(b"[" + b"[]," * 1000 + b"[]]")[0] == []
    assert parse_json(deep)


def test_large_files_are_not_read(tmp_path):
    (tmp_path / "a.json").write_text('"' + "a" * 100 + '"')
    assert read_json(tmp_path / "a.json", 102) == "a" * 100
    with pytest.raises(ValueError, match="more than the 101 bytes"):
        read_json(tmp_path / "a.json", 101)
