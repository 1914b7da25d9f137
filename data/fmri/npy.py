"""Small .npy arrays from bytes, without numpy's loader, which could be led to unpickle."""

from __future__ import annotations

import ast
import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError

CODES = {"CHI-IN-283": "An array of a sample is damaged, or is not of the shape and type that the layout has."}

HEADER_BYTES = 4096
"""More than any header of a plain array of numbers takes."""
_TYPES = {
    f"{order}{kind}" for order in "<>|" for kind in ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8")
}


@dataclass(frozen=True)
class NpyHeader:
    """What the header of a .npy file says.

    Parameters
    ----------
    shape : tuple of int
    dtype : dtype
        Real numbers only.
    offset : int
        Bytes before the first value.
    fortran : bool
        Values lie in Fortran order.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    offset: int
    fortran: bool

    @property
    def n_bytes(self) -> int:
        """Length that the file must have."""
        return self.offset + math.prod(self.shape) * self.dtype.itemsize


def npy_header(start: bytes, *, size: int, relative: str = "") -> NpyHeader:
    """Read a header.

    Parameters
    ----------
    start : bytes
        The first `HEADER_BYTES` of the file, or all of a shorter one.
    size : int
        Length of the file in bytes, which the header must account for.
    relative : str
        For messages.

    Raises
    ------
    InputError
        ``CHI-IN-283``.
    """
    width = 2 if start[6:7] == b"\x01" else 4
    offset = 8 + width + int.from_bytes(start[8 : 8 + width], "little")
    known = start[:6] == b"\x93NUMPY" and offset <= len(start)
    header = _literal(start[8 + width : offset]) if known else None
    if not isinstance(header, dict) or set(header) != {"descr", "fortran_order", "shape"}:
        raise array_error("it has no readable header", relative)
    shape = header["shape"]
    if not isinstance(shape, tuple) or not all(type(n) is int and n >= 0 for n in shape) or len(shape) > 8:
        raise array_error("its shape makes no sense", relative)
    if not isinstance(header["descr"], str) or header["descr"] not in _TYPES:
        raise array_error(f"its type is {str(header['descr'])[:20]}, and real numbers are needed", relative)
    found = NpyHeader(shape, np.dtype(header["descr"]), offset, bool(header["fortran_order"]) and len(shape) > 1)
    if found.n_bytes != size:
        raise array_error(f"its header promises {found.n_bytes} bytes and it has {size}", relative)
    return found


@lru_cache(maxsize=256)
def _literal(text: bytes) -> object:
    """Return what a header says, or None; the arrays of a data set have few different ones."""
    try:
        return ast.literal_eval(text.decode("latin-1").strip())
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        return None


def npy_array(data: bytes, *, relative: str = "") -> NDArray[Any]:
    """Return the array of a whole .npy file in memory.

    Raises
    ------
    InputError
        ``CHI-IN-283``.
    """
    header = npy_header(data[:HEADER_BYTES], size=len(data), relative=relative)
    flat = np.frombuffer(data, dtype=header.dtype, offset=header.offset)
    return flat.reshape(header.shape, order="F" if header.fortran else "C")


def array_error(problem: str, relative: str) -> InputError:
    """Return the error for an array that cannot be used."""
    return InputError("CHI-IN-283", f"the array cannot be used: {problem}.", "Fetch the file again.", file=relative)
