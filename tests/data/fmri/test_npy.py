"""Small arrays from bytes: numpy's own values for every type and order, and only coded errors for anything else."""

from __future__ import annotations

import io

import numpy as np
import pytest

from chiasm.data.errors import InputError
from chiasm.data.fmri.npy import npy_array, npy_header


def saved(values: np.ndarray, version: tuple[int, int] = (1, 0)) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, values, version=version, allow_pickle=True)
    return buffer.getvalue()


@pytest.mark.parametrize("dtype", ["<f2", "<f4", "<f8", ">f4", "|i1", "<i2", ">i8", "|u1", "<u4"])
@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_values_are_numpys(dtype: str, version: tuple[int, int]) -> None:
    values = np.arange(24).astype(dtype).reshape(2, 3, 4)
    for array in (values, np.asfortranarray(values), values[0, 0, 0]):
        found = npy_array(saved(np.asarray(array, order="A"), version))
        np.testing.assert_array_equal(found, array)
        assert found.shape == array.shape


def with_header(text: str, body: bytes = b"") -> bytes:
    head = text.encode().ljust(118) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head + body


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x93NUMPY",
        saved(np.arange(5))[:-1],
        saved(np.arange(5)) + b"0",
        saved(np.array([{}], dtype=object)),
        saved(np.array(["text"])),
        saved(np.zeros(2, dtype=[("a", "f4")])),
        saved(np.zeros(2, dtype=complex)),
        with_header("{'descr': '<f4', 'fortran_order': False, 'shape': (-1,)}"),
        with_header("{'descr': '<f4', 'fortran_order': False, 'shape': (10**9,)}"),
        with_header("{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999, 99999999999)}"),
        with_header("{'descr': '<f4', 'fortran_order': False, 'shape': (True,)}", b"0000"),
        with_header("{'descr': ['<f4'], 'fortran_order': False, 'shape': (1,)}", b"0000"),
        with_header("{'descr': '<f4', 'shape': (1,)}", b"0000"),
        with_header("{[]: 1}"),
        with_header("__import__('os').getcwd()"),
    ],
)
def test_anything_else_is_refused(data: bytes) -> None:
    with pytest.raises(InputError, match="CHI-IN-283"):
        npy_array(data)


def test_a_header_alone_says_where_values_begin() -> None:
    data = saved(np.ones((3, 5), dtype="<f4"))
    header = npy_header(data[:200], size=len(data))
    assert (header.shape, header.dtype, header.offset, header.n_bytes) == ((3, 5), np.float32, 128, len(data))
