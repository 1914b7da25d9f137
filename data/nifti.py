"""NIfTI volumes in and out: bounded inflation, one pass over the file, outputs on the input's own header."""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
from isal import igzip_lib, isal_zlib
from numpy.typing import DTypeLike, NDArray

from .atomic import resource_error, write_bytes
from .errors import InputError
from .nifti_header import NiftiHeader, byte_order, header_size, output_header, parse_header
from .volumes import Grid, Volume

MAX_RATIO = 200
FREE_BYTES = 1 << 30
"""A file that inflates to exactly what its header claims may be compressed beyond `MAX_RATIO` up to this size: label maps are."""
DEFLATE_LIMIT = 1040
"""No deflate stream expands further than 1032 times: a greater claim is a lie that need not be tried."""
SLACK_BYTES = 1 << 20
"""What may follow the last voxel (padding of some writers)."""
CHUNK = 1 << 18


class Digest(Protocol):
    """A hash of `hashlib`."""

    def update(self, data: bytes, /) -> None:
        """Take the next bytes."""


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
    with _open(path, relative, None) as source:
        return _admit(source, relative)


def read_volume(
    path: Path, *, index: int | None = None, dtype: DTypeLike | None = np.float32, relative: str = "", digest: Digest | None = None
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
    return read_volumes(path, indices=None if index is None else [index], dtype=dtype, relative=relative, digest=digest)[0]


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
    with _open(path, relative, digest) as source:
        header = _admit(source, relative)
        wanted = _wanted(header, indices, relative)
        source.skip(header.vox_offset - len(header.raw))
        blocks: dict[int, NDArray[np.uint8]] = {}
        for number in range(header.n_volumes):
            if number in wanted:
                block = np.empty(header.volume_bytes, np.uint8)
                n_read = source.fill(memoryview(block))
                blocks[number] = block
            else:
                n_read = source.skip(header.volume_bytes)
            if n_read < header.volume_bytes:
                raise _cut_off(relative)
        if source.skip(SLACK_BYTES + 1) > SLACK_BYTES:
            raise _too_long(relative)
    grid = header.grid
    values = {number: _values(blocks.pop(number), header, dtype, relative) for number in sorted(blocks)}
    return [Volume(values[number], grid) for number in wanted]


def looks_like_nifti(path: Path) -> bool:
    """Whether the content is NIfTI-1/2 or Analyze, plain or gzipped; reads a few hundred bytes and never raises for content."""
    try:
        with _open(path, "", None) as source:
            header_size(source.read(4))
    except InputError as error:
        return error.code == "CHI-IN-021"
    return True


def all_finite(values: NDArray[np.generic]) -> bool:
    """Whether no value is NaN or infinite, without a temporary array of the volume's size.

    Parameters
    ----------
    values : ndarray
        Of any type and order; integers are finite without a look.
    """
    if values.dtype.kind != "f":
        return True
    flat = values.ravel(order="K")
    if values.dtype == np.float32:
        # The dot product of a block with zeros is NaN exactly where the block holds NaN or an infinity; BLAS reads at full speed.
        zeros = np.zeros(min(flat.size, 1 << 16), np.float32)
        return all(float(np.dot(part, zeros[: part.size])) == 0.0 for part in _parts(flat, 1 << 16))
    return all(bool(np.isfinite(part).all()) for part in _parts(flat, 1 << 16))


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
    body = memoryview(stored.view(np.uint8).reshape(-1))
    if path.suffix == ".nii":
        write_bytes(path, header, body)
        return
    packer = isal_zlib.compressobj(1, isal_zlib.DEFLATED, 31)
    write_bytes(path, packer.compress(header), packer.compress(body), packer.flush())


class _Plain:
    """Bytes of a file in order, each passed to the digest once."""

    def __init__(self, stream: BinaryIO, digest: Digest | None) -> None:
        self.stream, self.digest = stream, digest
        self.size = os.fstat(stream.fileno()).st_size
        self.limit = self.size

    def read(self, n: int) -> bytes:
        """Return up to `n` bytes; fewer only at the end."""
        data = self.stream.read(n)
        if self.digest is not None:
            self.digest.update(data)
        return data

    def fill(self, view: memoryview) -> int:
        """Fill the buffer; return how many bytes there were."""
        done = 0
        while done < len(view) and (data := self.read(min(len(view) - done, CHUNK))):
            view[done : done + len(data)] = data
            done += len(data)
        return done

    def skip(self, n: int) -> int:
        """Pass over up to `n` bytes; return how many there were."""
        done = 0
        while done < n and (data := self.read(min(n - done, CHUNK))):
            done += len(data)
        return done


class _Gzip(_Plain):
    """The inflated bytes of a gzip file, possibly of several members, never more than asked for."""

    def __init__(self, raw: _Plain, start: bytes, relative: str) -> None:
        self.raw, self.relative = raw, relative
        self.size = raw.size
        self.limit = raw.size * DEFLATE_LIMIT
        self.pending, self.ended = start, False
        self.n_members, self.n_out = 1, 0
        self.member = igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP)

    def read(self, n: int) -> bytes:
        """Return up to `n` inflated bytes; fewer only at the end."""
        parts: list[bytes] = []
        left = n
        while left and (data := self._some(left)):
            parts.append(data)
            left -= len(data)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _some(self, most: int) -> bytes:
        while not self.ended:
            if self.member.eof and not self._next_member():
                break
            data = self.pending
            self.pending = b""
            if not data and self.member.needs_input:
                data = self.raw.read(CHUNK)
                if not data:
                    raise self._damaged("ends too early")
            try:
                out = self.member.decompress(data, most)
            except igzip_lib.IsalError as error:
                raise self._damaged("is damaged") from error
            if out:
                self.n_out += len(out)
                return bytes(out)
        return b""

    def _next_member(self) -> bool:
        # Zero padding may follow a member (tapes, some archives); anything else must be another member.
        rest = bytes(self.member.unused_data).lstrip(b"\0")
        while not rest:
            data = self.raw.read(CHUNK)
            if not data:
                self.ended = True
                return False
            rest = data.lstrip(b"\0")
        if len(rest) == 1:
            rest += self.raw.read(CHUNK)
        self.n_members += 1
        # Thousands of empty members would cost time for nothing; block gzip has one for every 64 KB.
        if rest[:2] != b"\x1f\x8b" or self.n_members > 64 + self.n_out // 1024:
            raise self._damaged("is followed by something else")
        self.member = igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP)
        self.pending = rest
        return True

    def _damaged(self, what: str) -> InputError:
        return InputError("CHI-IN-006", f"the gzip stream {what}.", "Copy the file again from where it came.", file=self.relative)


@contextmanager
def _open(path: Path, relative: str, digest: Digest | None) -> Iterator[_Plain]:
    """Open for reading; system errors become coded ones."""
    try:
        # Asked before opening: a named pipe would block, a device could be endless.
        if not stat.S_ISREG(path.stat().st_mode):
            raise InputError("CHI-IN-001", "this is not a regular file.", "Give a .nii or .nii.gz file.", file=relative)
        with path.open("rb", buffering=0) as stream:
            plain = _Plain(stream, digest)
            start = plain.stream.read(2)
            if start == b"\x1f\x8b":
                if digest is not None:
                    digest.update(start)
                yield _Gzip(plain, start, relative)
            else:
                stream.seek(0)
                yield plain
    except OSError as error:
        coded = resource_error(error, relative)
        if coded is not None and coded.code in ("CHI-RES-013", "CHI-RES-014"):
            raise coded from error
        raise InputError("CHI-IN-001", "the file is missing or may not be read.", "Check the path and its permissions.", file=relative) from error


def _admit(source: _Plain, relative: str) -> NiftiHeader:
    """Read the header, and refuse what the file cannot hold before a byte is allocated for it."""
    start = source.read(4)
    raw = start + source.read(header_size(start, relative=relative) - len(start))
    header = parse_header(raw, relative=relative)
    claimed = header.claimed_bytes
    if claimed > source.limit:
        raise _cut_off(relative)
    if isinstance(source, _Gzip):
        if claimed > MAX_RATIO * source.size and claimed > FREE_BYTES:
            raise InputError(
                "CHI-IN-007", f"the file would expand more than {MAX_RATIO} times, to over 1 GiB.",
                "If it is meant to be so, unpack it with gunzip first.", file=relative,
            )  # fmt: skip
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
            "CHI-IN-019", f"the file holds {header.n_volumes} volumes and {got}.",
            f"Choose with an index from 0 to {header.n_volumes - 1}.", file=relative,
        )  # fmt: skip
    return list(indices)


def _values(block: NDArray[np.uint8], header: NiftiHeader, dtype: DTypeLike | None, relative: str) -> NDArray[np.generic]:
    """Bytes to scaled values in Fortran order; no copy where type, order and scaling already fit."""
    stored = block.view(header.dtype).reshape(header.shape, order="F")
    scaled = (header.slope, header.inter) != (1.0, 0.0)
    kind = np.dtype(dtype) if dtype is not None else np.dtype(np.float32) if scaled else header.dtype.newbyteorder("=")
    if kind.kind in "iu":
        return _whole(stored, header, kind, relative)
    with np.errstate(over="ignore"):  # float64 beyond float32 becomes infinite, which `all_finite` finds
        if not scaled:
            return stored.astype(kind, order="F", copy=False)
        # float32 holds every 16-bit value and float32 exactly; wider types would lose digits before an intercept takes them back.
        if kind == np.float32 and header.dtype.itemsize * (1 if header.dtype.kind == "f" else 2) <= 4:
            out = stored.astype(np.float32, order="F")
            out *= np.float32(header.slope)
            if header.inter:
                out += np.float32(header.inter)
            return out
        result = np.empty(header.shape, kind, order="F")
        for k in range(header.shape[2]):
            result[..., k] = stored[..., k].astype(np.float64) * header.slope + header.inter
        return result


def _whole(stored: NDArray[np.generic], header: NiftiHeader, kind: np.dtype[Any], relative: str) -> NDArray[np.generic]:
    """Values as integers, refused where that would change them."""
    values = stored
    if header.dtype.kind == "f" or (header.slope, header.inter) != (1.0, 0.0):
        with np.errstate(over="ignore", invalid="ignore"):
            values = stored.astype(np.float64) * header.slope + header.inter
            exact = bool((values == np.rint(values)).all()) and math.isfinite(float(values.sum()))
    else:
        exact = True
    limits = np.iinfo(kind)
    if not exact or int(values.min()) < limits.min or int(values.max()) > limits.max:
        raise InputError(
            "CHI-IN-020", f"the voxel values are not whole numbers from {limits.min} to {limits.max}.",
            "Give a label map, written without scaling.", file=relative,
        )  # fmt: skip
    return values.astype(kind, order="F", copy=False)


def _parts(flat: NDArray[Any], n: int) -> Iterator[NDArray[Any]]:
    return (flat[start : start + n] for start in range(0, flat.size, n))


def _cut_off(relative: str) -> InputError:
    return InputError(
        "CHI-IN-014", "the file ends before the last voxel that its header claims.", "Copy it again from where it came.", file=relative
    )


def _too_long(relative: str) -> InputError:
    return InputError(
        "CHI-IN-022", "the file holds over 1 MiB more than its header claims.", "Write the file again from its source.", file=relative
    )
