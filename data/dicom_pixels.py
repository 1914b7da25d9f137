"""Pixel values of DICOM planes: native ones read straight from the file, compressed ones by pydicom in a guarded child."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .dicom_geometry import Plane
from .dicom_header import EXPLICIT_BE, NATIVE, DicomHeader
from .errors import InputError

if TYPE_CHECKING:
    from .guard import GuardedReader

JOBS = {"decode_frames": "chiasm.data.dicom_pixels:decode_frames"}
"""What the guarded child may be asked for."""

_FLOAT_PIXELS = (0x7FE00008, 0x7FE00009)


def read_frames(
    planes: Sequence[Plane], rows: int, columns: int, *, guard: GuardedReader | None = None
) -> NDArray[np.float32]:
    """Return the rescaled values of planes, shape (len(planes), rows, columns), float32.

    Raises
    ------
    InputError
        ``CHI-IN-033`` no decoder, ``CHI-IN-044`` too few bytes, ``CHI-IN-047`` damaged compressed data.
    """
    frames = np.empty((len(planes), rows, columns), np.float32)
    headers = {id(plane.header): plane.header for plane in planes}
    for header in headers.values():
        if header.transfer_syntax in NATIVE:
            _check_length(header, rows * columns)  # all files, before the first voxel is touched by a read
    decoded: dict[int, NDArray[Any]] = {}
    with ExitStack() as stack:
        for index, plane in enumerate(planes):
            header = plane.header
            if header.transfer_syntax in NATIVE:
                stored = _native_frame(header, plane.frame, rows, columns)
            else:
                if guard is None:
                    guard = stack.enter_context(_own_guard())
                if id(header) not in decoded:
                    decoded = {id(header): _compressed(header, guard)}  # only the current file's frames are held
                stored = _one_frame(decoded[id(header)], plane.frame, rows, columns, header.relative)
            np.multiply(stored, plane.slope, out=frames[index], casting="unsafe")
            if plane.intercept:
                frames[index] += np.float32(plane.intercept)
    return frames


def _own_guard() -> GuardedReader:
    from .guard import GuardedReader

    return GuardedReader(JOBS)


def n_frames(header: DicomHeader) -> int:
    """Return NumberOfFrames, 1 when absent."""
    value = header.values.get(0x00280008)
    return int(value[0]) if value else 1


def _check_length(header: DicomHeader, n_pixels: int) -> None:
    if header.pixel_length < 0:
        raise InputError(
            "CHI-IN-044",
            "The pixel data are encapsulated, but the transfer syntax is not a compressed one.",
            "Export the series again.",
            file=header.relative,
        )
    wanted = n_pixels * n_frames(header) * header.number(0x00280100) // 8
    there = min(header.pixel_length, header.size - header.pixel_offset)
    if there < wanted:
        raise InputError(
            "CHI-IN-044",
            f"The pixel data have {there} bytes; {wanted} are needed.",
            "The file is cut short: copy it again.",
            file=header.relative,
        )


def _native_frame(header: DicomHeader, frame: int, rows: int, columns: int) -> NDArray[Any]:
    n_bytes = header.number(0x00280100) // 8
    signed = header.number(0x00280103) == 1
    order = ">" if header.transfer_syntax == EXPLICIT_BE else "<"
    dtype = np.dtype(f"{order}{'i' if signed else 'u'}{n_bytes}")
    count = rows * columns
    try:
        with header.path.open("rb") as file:
            file.seek(header.pixel_offset + frame * count * n_bytes)
            raw = file.read(count * n_bytes)
    except OSError as error:
        raise InputError(
            "CHI-IN-044", f"The file cannot be read ({error.strerror}).", "Copy it again.", file=header.relative
        ) from error
    if len(raw) < count * n_bytes:
        raise InputError(
            "CHI-IN-044", "The file became shorter while it was read.", "Copy it again.", file=header.relative
        )
    stored = np.frombuffer(raw, dtype).reshape(rows, columns)
    return _used_bits(stored, header.number(0x00280101), signed)


def _used_bits(stored: NDArray[Any], bits: int, signed: bool) -> NDArray[Any]:
    """Drop what stands above the stored bits (old scanners put overlays there), keeping the sign."""
    spare = stored.dtype.itemsize * 8 - bits
    if not spare:
        return stored
    native = stored.astype(stored.dtype.newbyteorder("="))
    used: NDArray[Any] = (native << spare) >> spare if signed else native & native.dtype.type((1 << bits) - 1)
    return used


def _compressed(header: DicomHeader, guard: GuardedReader) -> NDArray[Any]:
    _, arrays = guard.run("decode_frames", {"path": str(header.path)}, file=header.relative)
    return arrays["frames"]


def _one_frame(frames: NDArray[Any], frame: int, rows: int, columns: int, relative: str) -> NDArray[Any]:
    if frames.ndim != 3 or frames.shape[1:] != (rows, columns) or frame >= frames.shape[0]:
        raise InputError(
            "CHI-IN-047",
            "The compressed pixel data do not decode to the size that the header says.",
            "Export the series again without compression.",
            file=relative,
        )
    return np.asarray(frames[frame])


def decode_frames(path: str) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Decode all frames of one compressed file (runs in the guarded child, never in a worker).

    Returns
    -------
    value : dict
        Empty.
    arrays : dict
        ``frames``, shape (n, rows, columns), as stored.
    """
    import pydicom
    from pydicom.pixels.decoders.base import get_decoder

    dataset = pydicom.dcmread(path)
    syntax = dataset.file_meta.TransferSyntaxUID
    try:
        available = get_decoder(syntax).is_available
    except NotImplementedError:
        available = False
    if not available:
        # The UID is looked up, not echoed: a file may hold any text there.
        name = syntax.name if syntax.is_transfer_syntax and syntax.name != str(syntax) else "unknown"
        raise InputError(
            "CHI-IN-033",
            f"No decoder for the transfer syntax '{name}'.",
            "Decompress the files first: dcmdjpeg, dcmdjpls or gdcmconv --raw.",
        )
    try:
        frames = np.asarray(dataset.pixel_array)
    except (ValueError, RuntimeError, AttributeError, NotImplementedError, IndexError, KeyError, OSError, TypeError):
        raise InputError(
            "CHI-IN-047",
            "The compressed pixel data cannot be decoded.",
            "Copy the file again, or decompress it with dcmdjpeg, dcmdjpls or gdcmconv --raw.",
        ) from None
    return {}, {"frames": frames[None] if frames.ndim == 2 else frames}
