"""Single-trial responses on disk, read row by row: a subject's betas never have to be in memory as a whole."""

from __future__ import annotations

import ast
import os
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..nifti_values import all_finite

CODES = {
    "CHI-IN-260": "A .npy file of betas is damaged, or is not a table of numbers (trials x voxels).",
    "CHI-IN-261": "A trial names a row that the betas do not have.",
    "CHI-IN-267": "Betas hold NaN or infinite values.",
}
_READ_BYTES = 256 << 20
"""At once: the system reads less than 2 GiB in one call."""


class Betas(Protocol):
    """Responses of one subject: trials x voxels, anywhere."""

    @property
    def shape(self) -> tuple[int, int]:
        """Trials and voxels."""

    def read(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return some rows, (k, V), in the order asked for; a row may be asked for twice."""


class ArrayBetas:
    """Betas in memory.

    Parameters
    ----------
    values : ndarray, shape (n, V)
    """

    def __init__(self, values: NDArray[np.floating]) -> None:
        if values.ndim != 2:
            raise ValueError(f"trials x voxels are needed, got shape {values.shape}")
        self.values = values

    @property
    def shape(self) -> tuple[int, int]:
        """Trials and voxels."""
        return self.values.shape[0], self.values.shape[1]

    def read(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return some rows.

        Raises
        ------
        InputError
            ``CHI-IN-261``, ``CHI-IN-267``.
        """
        check_rows(rows, self.shape[0])
        with np.errstate(over="ignore"):  # float64 beyond float32 becomes infinite, which is found below
            found = np.array(self.values[rows], dtype=np.float32, order="C")
        check_finite(found)
        return found


class StoredBetas:
    """Betas in a .npy file (float16, float32, float64 or int16; C order), read by position and not mapped into memory.

    A memory map would count every page that was ever touched as resident; single reads of one row (62 kB for 15,724 voxels in
    float32) are as fast and leave the cache to the system.

    Parameters
    ----------
    path : Path
    relative : str
        For messages.
    scale : float
        What stored values are divided by (NSD's int16: 300).

    Raises
    ------
    InputError
        ``CHI-IN-260``.
    """

    def __init__(self, path: Path, *, relative: str = "", scale: float = 1.0) -> None:
        self.path, self.scale, self._relative = path, scale, relative or path.name
        self._shape, self._dtype, self._offset = _npy_header(path, self._relative)

    @property
    def shape(self) -> tuple[int, int]:
        """Trials and voxels."""
        return self._shape

    def read(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return some rows; neighbours on disk are read together.

        Raises
        ------
        InputError
            ``CHI-IN-260`` where the file can no longer be read, ``CHI-IN-261``, ``CHI-IN-267``.
        """
        check_rows(rows, self._shape[0])
        n_voxels, size = self._shape[1], self._dtype.itemsize
        found = np.empty((len(rows), n_voxels), dtype=np.float32)
        order = np.argsort(rows, kind="stable")
        most = max(1, _READ_BYTES // (n_voxels * size))
        breaks = np.flatnonzero(np.diff(rows[order]) != 1) + 1
        try:
            with self.path.open("rb", buffering=0) as file, np.errstate(over="ignore"):
                for run in np.split(order, breaks) if len(rows) else []:
                    for part in np.split(run, range(most, len(run), most)):
                        start = self._offset + int(rows[part[0]]) * n_voxels * size
                        data = os.pread(file.fileno(), len(part) * n_voxels * size, start)
                        found[part] = np.frombuffer(data, dtype=self._dtype).reshape(len(part), n_voxels)
        except (OSError, ValueError) as error:
            raise _damaged("it can no longer be read, or became shorter", self._relative) from error
        if self.scale != 1.0:
            found /= self.scale
        if self._dtype.kind == "f":
            check_finite(found, file=self._relative)
        return found


def check_finite(values: NDArray[np.float32], *, file: str = "") -> None:
    """Refuse betas with NaN or infinite values.

    Raises
    ------
    InputError
        ``CHI-IN-267``.
    """
    if not all_finite(values):
        wrong = ~np.isfinite(values)
        raise InputError(
            "CHI-IN-267",
            f"betas are NaN or infinite: {int(wrong.any(axis=0).sum())} voxel(s), in {int(wrong.any(axis=1).sum())} of "
            f"{len(values)} trial(s) that were read.",
            "Leave such voxels out of the mask, or such trials out of the table.",
            file=file,
        )


def check_rows(rows: NDArray[np.int64], n_rows: int) -> None:
    """Refuse rows outside 0 .. n_rows - 1.

    Raises
    ------
    InputError
        ``CHI-IN-261``.
    """
    if len(rows) and (rows.min() < 0 or rows.max() >= n_rows):
        raise InputError(
            "CHI-IN-261",
            f"a trial points at row {int(rows.max() if rows.max() >= n_rows else rows.min())} of betas with {n_rows} rows.",
            "Rows count from 0; a table that counts from 1 must be shifted, and sessions must not be missing.",
        )


def _npy_header(path: Path, relative: str) -> tuple[tuple[int, int], np.dtype[np.generic], int]:
    """Read the header of a .npy file without numpy's loader, which could be led to unpickle."""
    problem = ""
    try:
        if not path.is_file():  # a named pipe would block
            raise FileNotFoundError
        with path.open("rb") as file:
            magic = file.read(8)
            width = 2 if magic[6:7] == b"\x01" else 4
            length = int.from_bytes(file.read(width), "little")
            text = file.read(length).decode("latin-1") if magic[:6] == b"\x93NUMPY" and length < 65_536 else ""
            header = ast.literal_eval(text.strip()) if text else {}
            offset, size = file.tell(), path.stat().st_size
    except (OSError, ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        header, offset, size = {}, 0, 0
    if not isinstance(header, dict) or set(header) != {"descr", "fortran_order", "shape"}:
        problem = "it has no readable header"
    elif str(header["descr"]) not in {"<f2", "<f4", "<f8", "<i2"}:
        problem = f"its type is {str(header['descr'])[:20]}, and float16, float32, float64 or int16 is needed"
    elif header["fortran_order"] or not _is_table(header["shape"]):
        problem = "it is not a table of trials x voxels in C order"
    else:
        dtype, shape = np.dtype(header["descr"]), header["shape"]
        if offset + shape[0] * shape[1] * dtype.itemsize != size:
            problem = f"its header promises {shape[0]} x {shape[1]} values and its length is another"
        else:
            return (int(shape[0]), int(shape[1])), dtype, offset
    raise _damaged(problem, relative)


def _damaged(problem: str, relative: str) -> InputError:
    return InputError(
        "CHI-IN-260",
        f"the betas cannot be used: {problem}.",
        # betas[:, mask] gives Fortran order, in which a trial does not lie in one piece.
        "Save them again: numpy.save(file, numpy.ascontiguousarray(betas)).",
        file=relative,
    )


def _is_table(shape: object) -> bool:
    return isinstance(shape, tuple) and len(shape) == 2 and all(isinstance(n, int) and n > 0 for n in shape)
