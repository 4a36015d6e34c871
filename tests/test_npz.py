"""Arrays from files that anyone may have made."""

import io
import struct
import tracemalloc
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxnas.results.npz import read_arrays
from jaxnas.tasks import read_table, synthetic_table


def header(shape, descr="<f8"):
    """The head of an .npy file that claims a shape."""
    text = str({"descr": descr, "fortran_order": False, "shape": shape}).encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text) + 1) + text + b"\n"


def write(path, **members):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return path


@pytest.mark.parametrize("member", ["choices", "error", "flops"])
def test_a_header_that_claims_too_much_is_refused_before_memory_is_taken(tmp_path, member):
    small = io.BytesIO()
    np.save(small, np.zeros(4))
    members = {name: small.getvalue() for name in ("choices", "error", "flops")}
    path = write(tmp_path / "huge.npz", **members | {member: header((10**14,)) + bytes(64)})
    tracemalloc.start()
    said = rf"huge\.npz: array '{member}' claims 800,000,000,000,000 bytes, at most 1,073,741,824 are read"
    with pytest.raises(ValueError, match=said):
        read_table(path, "flops")
    assert tracemalloc.get_traced_memory()[1] < 2**24
    tracemalloc.stop()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (header((2**62, 4)) + bytes(8), "claims"),
        (header((-3,)) + bytes(8), "claims -1 bytes"),
        (header((4,)) + bytes(8), "not a readable npz"),
        (header((1,)) + bytes(16), "followed by other data"),
        (header((2,), "|O") + bytes(16), "pickled objects are not read"),
        (b"\x93NUMPY\x03\x00" + bytes(20), "format"),
        (b"", "not a readable npz"),
    ],
)
def test_other_bad_members_are_errors(tmp_path, content, said):
    with pytest.raises(ValueError, match=said):
        read_arrays(write(tmp_path / "bad.npz", error=content), ["error"])


def test_the_limit_is_the_last_size_that_is_read(tmp_path):
    np.savez_compressed(tmp_path / "t.npz", error=np.arange(100.0))
    read = read_arrays(tmp_path / "t.npz", ["error"], optional=["names"], largest=800)
    np.testing.assert_array_equal(read["error"], np.arange(100.0))
    assert list(read) == ["error"]
    with pytest.raises(ValueError, match="claims 800 bytes, at most 799"):
        read_arrays(tmp_path / "t.npz", ["error"], largest=799)


@settings(max_examples=60, deadline=None)
@given(place=st.integers(0, 10**6), bit=st.integers(0, 7), compressed=st.booleans())
def test_a_flipped_bit_is_an_error_or_changes_nothing(tmp_path_factory, place, bit, compressed):
    table, file = synthetic_table((3, 2)), io.BytesIO()
    arrays = {"choices": table.archs, "error": table.error, "flops": table.cost}
    (np.savez_compressed if compressed else np.savez)(file, **arrays)
    content = bytearray(file.getvalue())
    content[place % len(content)] ^= 1 << bit
    path = tmp_path_factory.mktemp("flipped") / "t.npz"
    path.write_bytes(content)
    try:
        read = read_table(path, "flops")
    except ValueError as error:
        assert "t.npz" in str(error)  # noqa: PT017 (it may as well be whole)
    else:
        np.testing.assert_array_equal(read.error, table.error)
        np.testing.assert_array_equal(read.cost, table.cost)
