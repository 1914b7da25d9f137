"""Betas that lie in many places: rows of arrays inside tars, single files, tables of HDF5, or several parts one after the other."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from .betas import Betas, check_finite, check_rows
from .hdf5 import open_table
from .tar_index import changed

CODES = {
    "CHI-IN-286": "Parts of one subject's betas have different numbers of voxels.",
}


class ScatteredBetas:
    """One row a place: a file and an offset into it. Nothing is copied or unpacked.

    Parameters
    ----------
    paths : sequence of Path
    file : ndarray of int64, shape (n,)
        Which path each row lies in.
    offset : ndarray of int64, shape (n,)
        Bytes before each row.
    n_voxels : int
    dtype : dtype
        Of the stored values.
    root : Path
        Messages name files relative to it.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        file: NDArray[np.int64],
        offset: NDArray[np.int64],
        *,
        n_voxels: int,
        dtype: np.dtype[Any],
        root: Path,
    ) -> None:
        if file.shape != offset.shape or file.ndim != 1:
            raise ValueError(f"one file and one offset a row are needed, got {file.shape} and {offset.shape}")
        self.paths, self.file, self.offset = tuple(paths), file, offset
        self.n_voxels, self.dtype, self.root = n_voxels, dtype, root

    @property
    def shape(self) -> tuple[int, int]:
        """Trials and voxels."""
        return len(self.file), self.n_voxels

    def read(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return some rows; each file is opened once.

        Raises
        ------
        InputError
            ``CHI-IN-261``, ``CHI-IN-267``, ``CHI-IN-285``.
        """
        check_rows(rows, len(self.file))
        found = np.empty((len(rows), self.n_voxels), dtype=np.float32)
        files, offsets = self.file[rows], self.offset[rows]
        order = np.lexsort((offsets, files))
        for group in np.split(order, np.flatnonzero(np.diff(files[order])) + 1) if len(rows) else []:
            path = self.paths[files[group[0]]]
            name = path.relative_to(self.root).as_posix()
            try:
                with path.open("rb", buffering=0) as file:
                    for row in group:
                        found[row] = self._row(file.fileno(), int(offsets[row]), name)
            except OSError as error:
                raise changed(name) from error
            check_finite(found[group], file=name)
        return found

    def _row(self, descriptor: int, offset: int, name: str) -> NDArray[Any]:
        data = os.pread(descriptor, self.n_voxels * self.dtype.itemsize, offset)
        if len(data) != self.n_voxels * self.dtype.itemsize:
            raise changed(name)
        return np.frombuffer(data, dtype=self.dtype)


class TableBetas:
    """Betas in an HDF5 table of trials x voxels.

    Parameters
    ----------
    path : Path
    key : str
        Name of the table.
    relative : str
        For messages.

    Raises
    ------
    InputError
        ``CHI-IN-262``, ``CHI-IN-283``.
    """

    def __init__(self, path: Path, *, key: str = "betas", relative: str = "") -> None:
        self.path, self.key, self.relative = path, key, relative or path.name
        with open_table(path, key, relative=self.relative) as table:
            shape, kind = table.shape, table.dtype.kind
        if len(shape) != 2 or kind != "f":
            raise InputError(
                "CHI-IN-283",
                f"betas of trials x voxels as floats are needed, and the table has shape {shape} and kind '{kind}'.",
                "Save them again as float16 or float32, a row a trial.",
                file=self.relative,
            )
        self._shape = (int(shape[0]), int(shape[1]))

    @property
    def shape(self) -> tuple[int, int]:
        """Trials and voxels."""
        return self._shape

    def read(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return some rows; neighbours are read together.

        Raises
        ------
        InputError
            ``CHI-IN-261``, ``CHI-IN-262``, ``CHI-IN-267``.
        """
        check_rows(rows, self._shape[0])
        with open_table(self.path, self.key, relative=self.relative) as table:
            found = read_runs(table, rows).astype(np.float32, copy=False)
        check_finite(found, file=self.relative)
        return found


class StackedBetas:
    """Parts one after the other: the rows of the second follow those of the first.

    Parameters
    ----------
    parts : sequence of Betas
        Of equal numbers of voxels.
    relative : str
        Of the subject, for messages.

    Raises
    ------
    InputError
        ``CHI-IN-286``.
    """

    def __init__(self, parts: Sequence[Betas], *, relative: str = "") -> None:
        widths = list(dict.fromkeys(part.shape[1] for part in parts))
        if len(widths) != 1:
            raise InputError(
                "CHI-IN-286",
                f"the parts have {', '.join(map(str, widths)) or 'no'} voxels.",
                "All runs and sessions of a subject need one mask.",
                file=relative,
            )
        self.parts, self.relative, self._n_voxels = tuple(parts), relative, widths[0]
        self._starts = np.cumsum([0, *(part.shape[0] for part in parts)])

    @property
    def shape(self) -> tuple[int, int]:
        """Trials and voxels."""
        return int(self._starts[-1]), self._n_voxels

    def read(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return some rows.

        Raises
        ------
        InputError
            ``CHI-IN-261``, ``CHI-IN-267``, and those of the parts.
        """
        check_rows(rows, self.shape[0])
        found = np.empty((len(rows), self._n_voxels), dtype=np.float32)
        owner = np.searchsorted(self._starts, rows, side="right") - 1
        for number in np.unique(owner):
            mine = np.flatnonzero(owner == number)
            found[mine] = self.parts[number].read(rows[mine] - self._starts[number])
        check_finite(found, file=self.relative)
        return found


def read_runs(table: Any, rows: NDArray[np.int64]) -> NDArray[Any]:
    """Return rows of an HDF5 table in any order and number; h5py itself wants them ascending and once."""
    if not len(rows):
        return np.empty((0, *table.shape[1:]), dtype=table.dtype)
    once, back = np.unique(rows, return_inverse=True)
    runs = np.split(once, np.flatnonzero(np.diff(once) != 1) + 1)
    return np.concatenate([table[int(run[0]) : int(run[-1]) + 1] for run in runs])[back]
