"""NIfTI volumes in and out: bounded inflation, one pass over the file, outputs on the input's own header."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from isal import isal_zlib
from numpy.typing import DTypeLike, NDArray

from .atomic import write_bytes
from .errors import InputError
from .nifti_header import NiftiHeader, byte_order, header_size, parse_header
from .nifti_output import output_header
from .nifti_stream import Digest, GzipBytes, PlainBytes, open_bytes
from .nifti_values import all_finite, to_values
from .volumes import Grid, Volume

__all__ = [
    "all_finite",
    "looks_like_nifti",
    "read_header",
    "read_volume",
    "read_volumes",
    "write_labels",
    "write_values",
]

MAX_RATIO = 200
FREE_BYTES = 1 << 30
"""A file that inflates to exactly what its header claims may be compressed beyond `MAX_RATIO` up to this size: label maps are."""
SLACK_BYTES = 1 << 20
"""What may follow the last voxel (padding of some writers)."""


def read_header(path: Path, *, relative: str = "") -> NiftiHeader:
    """Read and check the header; inflate no more than the header.

    Parameters
    ----------
    path : Path
        ``.nii`` or ``.nii.gz``; the content decides, not the name.
    relative : str
        Name for messages.

    Raises
    ------
    InputError
        CHI-IN-001 to 018, 021, 022 (`nifti_header.CODES`).
    """
    with open_bytes(path, relative, None) as source:
        return _admit(source, relative)


def read_volume(
    path: Path,
    *,
    index: int | None = None,
    dtype: DTypeLike | None = np.float32,
    relative: str = "",
    digest: Digest | None = None,
) -> Volume:
    """Read one 3-D volume.

    Parameters
    ----------
    path : Path
        ``.nii`` or ``.nii.gz``; the content decides, not the name.
    index : int, optional
        Which volume of a 4-D file; must be given where there are several.
    dtype : dtype, optional
        Type of the result. None: the stored type where the header asks for no scaling, else float32.
    relative : str
        Name for messages.
    digest : Digest, optional
        Gets every byte of the file as it is read.

    Returns
    -------
    Volume
        Values in Fortran order and native byte order, scaled. NaN and infinities pass: see `all_finite`.

    Raises
    ------
    InputError
        CHI-IN-001 to 022 (`nifti_header.CODES`).
    """
    return read_volumes(
        path, indices=None if index is None else [index], dtype=dtype, relative=relative, digest=digest
    )[0]


def read_volumes(
    path: Path,
    *,
    indices: Sequence[int] | None = None,
    dtype: DTypeLike | None = np.float32,
    relative: str = "",
    digest: Digest | None = None,
) -> list[Volume]:
    """Read several volumes of a 4-D file in one pass, in the order of `indices`; otherwise as `read_volume`.

    Raises
    ------
    InputError
        CHI-IN-001 to 022 (`nifti_header.CODES`).
    """
    with open_bytes(path, relative, digest) as source:
        header = _admit(source, relative)
        wanted = _wanted(header, indices, relative)
        source.skip(header.vox_offset - len(header.raw))
        blocks: dict[int, NDArray[np.uint8]] = {}
        for number in range(header.n_volumes):
            if number in wanted:
                block = np.empty(header.volume_bytes, np.uint8)
                n_read = source.fill(block.data)
                blocks[number] = block
            else:
                n_read = source.skip(header.volume_bytes)
            if n_read < header.volume_bytes:
                raise _cut_off(relative)
        if source.skip(SLACK_BYTES + 1) > SLACK_BYTES:
            raise _too_long(relative)
    grid = header.grid
    values = {number: to_values(blocks.pop(number), header, dtype, relative) for number in sorted(blocks)}
    return [Volume(values[number], grid) for number in wanted]


def looks_like_nifti(path: Path) -> bool:
    """Whether the content is NIfTI-1/2 or Analyze, plain or gzipped; reads a few hundred bytes and never raises for content."""
    try:
        with open_bytes(path, "", None) as source:
            start = source.read(132)
            header_size(start)
    except InputError as error:
        return error.code == "CHI-IN-021"
    return start[128:] != b"DICM"


def write_labels(path: Path, labels: NDArray[np.integer[Any]], grid: Grid, *, dtype: DTypeLike | None = None) -> None:
    """Write a label map on the header of the input.

    Equal labels on equal headers give equal bytes (on one machine: isal picks its code by the processor).

    Parameters
    ----------
    path : Path
        ``.nii`` is written plain, all else gzipped (level 1, no time, no name).
    labels : ndarray, shape (X, Y, Z)
        Integers.
    grid : Grid
        The input's; `nifti_header.output_header` says what is kept of its header.
    dtype : dtype, optional
        Default: the smallest of uint8, uint16 and int32 that holds every label.

    Raises
    ------
    ValueError
        Where the shapes differ, or a label does not fit.
    ResourceError
        As `atomic.atomic_path`.
    """
    if labels.dtype.kind not in "iub":
        raise ValueError(f"labels must be integers, got {labels.dtype}")
    low, high = int(labels.min()), int(labels.max())
    kinds: list[DTypeLike] = [np.uint8, np.uint16, np.int32] if dtype is None else [dtype]
    fitting = [np.dtype(k) for k in kinds if np.iinfo(k).min <= low and high <= np.iinfo(k).max]
    if not fitting:
        raise ValueError(f"labels {low} to {high} do not fit in {np.dtype(kinds[-1])}")
    _write(path, labels, grid, fitting[0])


def write_values(path: Path, values: NDArray[np.generic], grid: Grid, *, dtype: DTypeLike = np.float32) -> None:
    """Write a map of values on the header of the input.

    Parameters
    ----------
    path : Path
        As `write_labels`.
    values : ndarray, shape (X, Y, Z)
        Any real numbers for float32; probabilities (0 to 1) for uint8.
    grid : Grid
        The input's.
    dtype : dtype
        ``float32``, or ``uint8``: steps of 1/255 with that ``scl_slope``, a quarter of the bytes.

    Raises
    ------
    ValueError
        Where the shapes differ, the type is another one, or a probability lies outside 0 to 1.
    ResourceError
        As `atomic.atomic_path`.
    """
    kind = np.dtype(dtype)
    if kind == np.float32:
        _write(path, values, grid, kind)
    elif kind == np.uint8:
        if not (float(values.min()) >= 0 and float(values.max()) <= 1):
            raise ValueError("probabilities must lie between 0 and 1")
        steps = values.astype(np.float32)
        steps *= 255
        _write(path, np.rint(steps, out=steps), grid, kind, slope=1 / 255)
    else:
        raise ValueError(f"values are written as float32 or uint8, not {kind}")


def _write(path: Path, values: NDArray[np.generic], grid: Grid, dtype: np.dtype[Any], *, slope: float = 1.0) -> None:
    if values.shape != grid.shape:
        raise ValueError(f"values have shape {values.shape}, the grid has {grid.shape}")
    header = output_header(grid, dtype, slope=slope)
    # Transposed, so that the bytes of a C-ordered buffer are in the file's (Fortran) order.
    stored = np.ascontiguousarray(values.T, dtype=dtype.newbyteorder(byte_order(header)))
    body = stored.view(np.uint8).reshape(-1).data
    if path.suffix == ".nii":
        write_bytes(path, header, body)
        return
    packer = isal_zlib.compressobj(1, isal_zlib.DEFLATED, 31)
    write_bytes(path, packer.compress(header), packer.compress(body), packer.flush())


def _admit(source: PlainBytes, relative: str) -> NiftiHeader:
    """Read the header, and refuse what the file cannot hold before a byte is allocated for it."""
    start = source.read(4)
    raw = start + source.read(header_size(start, relative=relative) - len(start))
    header = parse_header(raw, relative=relative)
    claimed = header.claimed_bytes
    if claimed > source.limit:
        raise _cut_off(relative)
    if isinstance(source, GzipBytes):
        if claimed > MAX_RATIO * source.size and claimed > FREE_BYTES:
            raise InputError(
                "CHI-IN-007",
                f"the file would expand more than {MAX_RATIO} times, to over 1 GiB.",
                "If it is meant to be so, unpack it with gunzip first.",
                file=relative,
            )
    elif source.size > claimed + SLACK_BYTES:
        raise _too_long(relative)
    return header


def _wanted(header: NiftiHeader, indices: Sequence[int] | None, relative: str) -> list[int]:
    if indices is None and header.n_volumes == 1:
        return [0]
    wrong = indices is None or any(not 0 <= index < header.n_volumes for index in indices)
    if wrong or indices is None:
        got = "none was chosen" if indices is None else "one was asked for that is not there"
        raise InputError(
            "CHI-IN-019",
            f"the file holds {header.n_volumes} volumes and {got}.",
            f"Choose with an index from 0 to {header.n_volumes - 1}.",
            file=relative,
        )
    return list(indices)


def _cut_off(relative: str) -> InputError:
    return InputError(
        "CHI-IN-014",
        "the file ends before the last voxel that its header claims.",
        "Copy it again from where it came.",
        file=relative,
    )


def _too_long(relative: str) -> InputError:
    return InputError(
        "CHI-IN-022",
        "the file holds over 1 MiB more than its header claims.",
        "Write the file again from its source.",
        file=relative,
    )
