"""Betas as volumes, one 4-D file a session: gathered once into a table of trials x voxels that can be read row by row."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..atomic import atomic_path, write_json
from ..errors import InputError
from ..nifti import read_header
from ..nifti_stream import open_bytes
from .betas import ArrayBetas, Betas, StoredBetas, check_finite
from .hdf5 import open_table

CODES: dict[str, str] = {
    "CHI-IN-265": "A file of betas is missing, cut off, or has other trials than announced.",
    "CHI-IN-269": "The betas are too large for the memory, and no folder for a cache is given.",
}
INT16_SCALE = 300.0
"""NSD stores percent signal change times 300 where it stores whole numbers."""
MAX_MEMORY_BYTES = 1 << 30
_BLOCK_BYTES = 64 << 20
_SLAB_BYTES = 1 << 28


@dataclass(frozen=True, eq=False, kw_only=True)
class BetaVolumes:
    """One file of volumes, NIfTI (X, Y, Z, trials) or HDF5 (trials, Z, Y, X).

    Parameters
    ----------
    path : Path
    relative : str
        For messages.
    n_trials : int
    reversed_axes : bool
        The file's spatial axes are the mask's, the other way round (HDF5 as NSD's Matlab wrote it).
    key : str
        Of an HDF5 table; empty for NIfTI.
    whole_scale : float
        What whole numbers without a scale of their own are divided by.
    """

    path: Path
    relative: str
    n_trials: int
    reversed_axes: bool
    key: str
    whole_scale: float

    def chunks(self, inside: NDArray[np.bool_]) -> Iterator[NDArray[np.float32]]:
        """Yield the betas of the mask's voxels, (k, V), trials in order and voxels in the mask's C order.

        Parameters
        ----------
        inside : ndarray of bool, shape (X, Y, Z)

        Raises
        ------
        InputError
            ``CHI-IN-262``, ``CHI-IN-265``, ``CHI-IN-267``.
        """
        places = np.nonzero(inside)
        for chunk in self._from_hdf5(places) if self.key else self._from_nifti(places, inside.shape):
            check_finite(chunk, file=self.relative)
            yield chunk

    def _from_nifti(
        self, places: tuple[NDArray[np.int64], ...], shape: tuple[int, ...]
    ) -> Iterator[NDArray[np.float32]]:
        header = read_header(self.path, relative=self.relative)
        flat = np.ravel_multi_index(places, shape, order="F")  # NIfTI's first axis runs fastest
        step = max(1, _BLOCK_BYTES // (4 * len(flat)))
        block = np.empty(header.volume_bytes, np.uint8)
        plain = (header.slope, header.inter) == (1.0, 0.0)
        with open_bytes(self.path, self.relative, None) as source, np.errstate(over="ignore"):
            source.skip(header.vox_offset)
            for start in range(0, self.n_trials, step):
                out = np.empty((min(step, self.n_trials - start), len(flat)), np.float32)
                for row in out:
                    if source.fill(block.data) < header.volume_bytes:
                        raise _refused("it ends before its last volume", self.relative)
                    stored = block.view(header.dtype)[flat]
                    row[:] = stored if plain else stored.astype(np.float64) * header.slope + header.inter
                if plain and header.dtype.kind in "iu":
                    out /= np.float32(self.whole_scale)
                yield out

    def _from_hdf5(self, places: tuple[NDArray[np.int64], ...]) -> Iterator[NDArray[np.float32]]:
        axes = places[::-1] if self.reversed_axes else places
        with open_table(self.path, self.key, relative=self.relative) as table:
            scale = np.float32(self.whole_scale if table.dtype.kind in "iu" else 1)
            volume_bytes = math.prod(table.shape[1:]) * table.dtype.itemsize
            packed = table.chunks[0] if table.chunks else 1
            step = max(packed, _BLOCK_BYTES // volume_bytes // packed * packed, 1)
            with np.errstate(over="ignore"):
                if step * volume_bytes > _SLAB_BYTES:
                    # Packed along the trials: each block of the file must be unpacked once, not once a trial.
                    yield _by_slabs(table, axes) / scale
                    return
                flat = np.ravel_multi_index(axes, table.shape[1:])
                for start in range(0, self.n_trials, step):
                    volumes = table[start : start + step]
                    yield volumes.reshape(len(volumes), -1)[:, flat].astype(np.float32) / scale


def _by_slabs(table: Any, axes: tuple[NDArray[np.int64], ...]) -> NDArray[np.float32]:
    out = np.empty((table.shape[0], len(axes[0])), np.float32)
    deep = table.chunks[1]
    for start in range(0, table.shape[1], deep):
        voxels = np.flatnonzero((axes[0] >= start) & (axes[0] < start + deep))
        if len(voxels):
            slab = table[:, start : start + deep]
            out[:, voxels] = slab[:, axes[0][voxels] - start, axes[1][voxels], axes[2][voxels]]
    return out


def open_volumes(
    path: Path, shape: tuple[int, ...], *, key: str = "betas", whole_scale: float = 1.0, relative: str = ""
) -> BetaVolumes:
    """Open a file of betas and check that its volumes lie on the mask's grid.

    Parameters
    ----------
    path : Path
        ``.hdf5``, ``.h5``, ``.nii`` or ``.nii.gz``.
    shape : tuple of int
        (X, Y, Z) of the mask.
    key : str
        Of an HDF5 table.
    whole_scale : float
        What whole numbers without a scale of their own are divided by: `INT16_SCALE` for NSD.
    relative : str
        For messages.

    Raises
    ------
    InputError
        ``CHI-IN-262``, ``CHI-IN-266``, or what is wrong with a NIfTI file.
    """
    name = relative or path.name
    if path.suffix in {".hdf5", ".h5"}:
        with open_table(path, key, relative=name) as table:
            found = tuple(int(n) for n in table.shape)
        if len(found) == 4 and found[1:] in {shape, shape[::-1]}:
            # Where both fit, NSD's own order is meant.
            return BetaVolumes(
                path=path,
                relative=name,
                n_trials=found[0],
                reversed_axes=found[1:] == shape[::-1],
                key=key,
                whole_scale=whole_scale,
            )
        raise _other_grid(found, (-1, *shape[::-1]), name)
    header = read_header(path, relative=name)
    if header.shape != shape:
        raise _other_grid(header.shape, shape, name)
    return BetaVolumes(
        path=path, relative=name, n_trials=header.n_volumes, reversed_axes=False, key="", whole_scale=whole_scale
    )


def gathered(
    parts: Iterable[NDArray[np.float32]],
    shape: tuple[int, int],
    *,
    name: str,
    identity: str,
    cache: Path | None = None,
) -> Betas:
    """Bring betas that come in chunks into one table: in ``cache`` where it is given, else in memory up to 1 GiB.

    Parameters
    ----------
    parts : iterable of ndarray of float32, shape (k, V)
        Trials in order; not touched where the cache has them.
    shape : tuple of int
        Trials and voxels.
    name : str
        Of the file: ``<name>_betas.npy``, with ``<name>_betas.json`` beside it that holds `identity`.
    identity : str
        From `identity_of`: a table of another identity is made anew.
    cache : Path, optional
        A folder.

    Raises
    ------
    InputError
        ``CHI-IN-265``, ``CHI-IN-269``, and what the chunks raise.
    ResourceError
        ``CHI-RES-010`` to 014: disk full and its like; nothing is left behind then.
    """
    if cache is None:
        return _in_memory(parts, shape, name)
    table, note = cache / f"{name}_betas.npy", cache / f"{name}_betas.json"
    if _is_current(table, note, shape, identity):
        return StoredBetas(table)
    with suppress(OSError):
        note.unlink()  # first: an old note must never stand beside a new table
    with atomic_path(table) as temporary, temporary.open("wb") as stream:
        header = {"descr": "<f4", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(stream, header)
        n_rows = 0
        for part in parts:
            stream.write(np.ascontiguousarray(part, dtype="<f4").data)
            n_rows += len(part)
        _check_rows(n_rows, shape, name)
    write_json(note, {"identity": identity, "trials": shape[0], "voxels": shape[1]})
    return StoredBetas(table)


def identity_of(files: Sequence[Path], root: Path, settings: Mapping[str, Any]) -> str:
    """Return a hash of the files' names, sizes and times of change and of the settings that decide what is taken of them."""
    listed = []
    for file in files:
        state = file.stat()
        relative = file.relative_to(root).as_posix() if file.is_relative_to(root) else file.name
        listed.append([relative, state.st_size, state.st_mtime_ns])
    text = json.dumps({"files": listed, "settings": dict(settings), "form": 1}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def mask_hash(inside: NDArray[np.bool_]) -> str:
    """Return a hash of a mask's shape and voxels, for `identity_of`."""
    return hashlib.sha256(repr(inside.shape).encode() + np.packbits(inside).tobytes()).hexdigest()


def _in_memory(parts: Iterable[NDArray[np.float32]], shape: tuple[int, int], name: str) -> Betas:
    if shape[0] * shape[1] * 4 > MAX_MEMORY_BYTES:
        raise InputError(
            "CHI-IN-269",
            f"{shape[0]} trials x {shape[1]} voxels take {shape[0] * shape[1] * 4 / 2**30:.1f} GiB.",
            "Give a folder for the cache: they are gathered there once, and read from it row by row.",
            file=name,
        )
    values, n_rows = np.empty(shape, np.float32), 0
    for part in parts:
        if n_rows + len(part) <= shape[0]:
            values[n_rows : n_rows + len(part)] = part
        n_rows += len(part)
    _check_rows(n_rows, shape, name)
    return ArrayBetas(values)


def _check_rows(n_rows: int, shape: tuple[int, int], name: str) -> None:
    if n_rows != shape[0]:
        raise _refused(f"{n_rows} trials were read where {shape[0]} were announced", name)


def _is_current(table: Path, note: Path, shape: tuple[int, int], identity: str) -> bool:
    try:
        told = json.loads(note.read_bytes()[:10_000])
        return bool(told["identity"] == identity) and StoredBetas(table).shape == shape
    except (OSError, ValueError, KeyError, TypeError, InputError):
        return False


def _other_grid(found: tuple[int, ...], wanted: tuple[int, ...], name: str) -> InputError:
    return InputError(
        "CHI-IN-266",
        f"the betas have shape {found}, and the mask asks for {str(wanted).replace('-1', 'trials')}.",
        "Take the mask of the same subject and resolution.",
        file=name,
    )


def _refused(problem: str, name: str) -> InputError:
    return InputError(
        "CHI-IN-265",
        f"the betas cannot be used: {problem}.",
        "Fetch the file again, and check that betas and masks have one resolution.",
        file=name,
    )
