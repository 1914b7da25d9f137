"""The NIfTI-1 and NIfTI-2 header: read with every claim checked, every number bounded before anything is allocated.

Layouts: https://nifti.nimh.nih.gov/pub/dist/src/niftilib/nifti1.h and nifti2.h.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, NoReturn

import numpy as np

from .errors import InputError
from .nifti_affine import affine_of, check_affine
from .volumes import Affine, Grid

CODES: dict[str, str] = {
    "CHI-IN-001": "the file is missing, is no regular file, or may not be read",
    "CHI-IN-002": "the file is empty",
    "CHI-IN-003": "the file is not NIfTI",
    "CHI-IN-004": "the file ends inside its header",
    "CHI-IN-005": "the file is one half of a .hdr/.img pair, or Analyze 7.5",
    "CHI-IN-006": "the gzip stream is damaged or cut off",
    "CHI-IN-007": "the file expands far beyond its size (a decompression bomb)",
    "CHI-IN-008": "the header's number of axes or an axis length is impossible",
    "CHI-IN-009": "the image is not three-dimensional",
    "CHI-IN-010": "the image has more than four axes",
    "CHI-IN-011": "the voxel type is not supported",
    "CHI-IN-012": "the header contradicts itself about the voxel type",
    "CHI-IN-013": "the header gives an impossible place for the voxel values",
    "CHI-IN-014": "the file ends before the last voxel that its header claims",
    "CHI-IN-015": "the image is larger than 16 GiB",
    "CHI-IN-016": "the affine is not finite, is singular, or is far from the scanner",
    "CHI-IN-017": "the voxel size lies outside 0.1 to 20 mm",
    "CHI-IN-018": "the scaling of the voxel values is not finite",
    "CHI-IN-019": "the file holds several volumes and none was chosen, or one that is not there",
    "CHI-IN-020": "voxel values do not fit in the integer type that is needed",
    "CHI-IN-021": "the file was gzipped twice",
    "CHI-IN-022": "the file holds far more than its header claims",
}

MAX_BYTES = 16 << 30
MAX_VOX_OFFSET = 256 << 20  # CIFTI-like XML extensions reach tens of MB, never this

SIZES = {1: 348, 2: 540}
DATA_STARTS = {1: 352, 2: 544}
TYPES: dict[int, type[np.generic]] = {
    2: np.uint8, 4: np.int16, 8: np.int32, 16: np.float32, 64: np.float64, 256: np.int8,
    512: np.uint16, 768: np.uint32, 1024: np.int64, 1280: np.uint64,
}  # fmt: skip
_REFUSED_TYPES = {1, 32, 128, 1536, 1792, 2048, 2304}

NIFTI1 = np.dtype([
    ("sizeof_hdr", "i4"), ("data_type", "S10"), ("db_name", "S18"), ("extents", "i4"), ("session_error", "i2"), ("regular", "S1"),
    ("dim_info", "u1"), ("dim", "i2", 8), ("intent_p", "f4", 3), ("intent_code", "i2"), ("datatype", "i2"), ("bitpix", "i2"),
    ("slice_start", "i2"), ("pixdim", "f4", 8), ("vox_offset", "f4"), ("scl_slope", "f4"), ("scl_inter", "f4"), ("slice_end", "i2"),
    ("slice_code", "u1"), ("xyzt_units", "u1"), ("cal_max", "f4"), ("cal_min", "f4"), ("slice_duration", "f4"), ("toffset", "f4"),
    ("glmax", "i4"), ("glmin", "i4"), ("descrip", "S80"), ("aux_file", "S24"), ("qform_code", "i2"), ("sform_code", "i2"),
    ("quatern", "f4", 3), ("qoffset", "f4", 3), ("srow", "f4", (3, 4)), ("intent_name", "S16"), ("magic", "S4"),
])  # fmt: skip
NIFTI2 = np.dtype([
    ("sizeof_hdr", "i4"), ("magic", "S8"), ("datatype", "i2"), ("bitpix", "i2"), ("dim", "i8", 8), ("intent_p", "f8", 3),
    ("pixdim", "f8", 8), ("vox_offset", "i8"), ("scl_slope", "f8"), ("scl_inter", "f8"), ("cal_max", "f8"), ("cal_min", "f8"),
    ("slice_duration", "f8"), ("toffset", "f8"), ("slice_start", "i8"), ("slice_end", "i8"), ("descrip", "S80"), ("aux_file", "S24"),
    ("qform_code", "i4"), ("sform_code", "i4"), ("quatern", "f8", 3), ("qoffset", "f8", 3), ("srow", "f8", (3, 4)),
    ("slice_code", "i4"), ("xyzt_units", "i4"), ("intent_code", "i4"), ("intent_name", "S16"), ("dim_info", "u1"), ("unused", "S15"),
])  # fmt: skip
LAYOUTS = {1: NIFTI1, 2: NIFTI2}


@dataclass(frozen=True, eq=False)
class NiftiHeader:
    """What a NIfTI header says, once every claim that can be checked without the voxels was checked.

    Parameters
    ----------
    version : int
        1 or 2.
    shape : tuple of int
        (X, Y, Z).
    n_volumes : int
        Length of the one axis beyond the third that is longer than 1, else 1.
    dtype : dtype
        Voxel type with its byte order.
    vox_offset : int
        Bytes before the first voxel.
    slope, inter : float
        Value = stored * slope + inter; 1 and 0 where the header asks for no scaling.
    affine : ndarray, shape (4, 4)
        Voxel to RAS+ millimetres.
    raw : bytes
        The 348 or 540 bytes as read.
    """

    version: int
    shape: tuple[int, int, int]
    n_volumes: int
    dtype: np.dtype[Any]
    vox_offset: int
    slope: float
    inter: float
    affine: Affine
    raw: bytes = field(repr=False)

    @property
    def grid(self) -> Grid:
        """The grid of each of its volumes."""
        return Grid(self.shape, self.affine, self.raw)

    @property
    def n_voxels(self) -> int:
        """Voxels of one volume."""
        return self.shape[0] * self.shape[1] * self.shape[2]

    @property
    def volume_bytes(self) -> int:
        """Stored bytes of one volume."""
        return self.n_voxels * self.dtype.itemsize

    @property
    def claimed_bytes(self) -> int:
        """Length that the (inflated) file must have at least."""
        return self.vox_offset + self.n_volumes * self.volume_bytes


def header_size(start: bytes, *, relative: str = "") -> int:
    """Return 348 or 540 from the first bytes of a file, or raise what says why it is no NIfTI file.

    Parameters
    ----------
    start : bytes
        At least the first four bytes, already inflated.

    Raises
    ------
    InputError
        CHI-IN-002, 003, 004 or 021.
    """
    if not start:
        _refuse("CHI-IN-002", "the file is empty.", "Copy it again from where it came.", relative)
    if start[:2] == b"\x1f\x8b":
        _refuse("CHI-IN-021", "the file was gzipped twice.", "Unpack it once with gunzip.", relative)
    sizes = {int.from_bytes(start[:4], "little"), int.from_bytes(start[:4], "big")}
    known = sizes & set(SIZES.values()) if len(start) >= 4 else set()
    if not known:
        _refuse(
            "CHI-IN-003",
            "the file is not NIfTI (its header length is neither 348 nor 540).",
            "Convert it to .nii.gz.",
            relative,
        )
    return known.pop()


def parse_header(raw: bytes, *, relative: str = "") -> NiftiHeader:
    """Read a header and check every claim that needs no voxels.

    Parameters
    ----------
    raw : bytes
        The first 348 (NIfTI-1) or 540 (NIfTI-2) bytes, in either byte order.
    relative : str
        The file's name for messages.

    Raises
    ------
    InputError
        CHI-IN-003 to 018, `CODES` says which is what.
    """
    size = header_size(raw[:4], relative=relative)
    if len(raw) < size:
        _refuse(
            "CHI-IN-004",
            f"the file ends after {len(raw)} of its header's {size} bytes.",
            "Copy it again from where it came.",
            relative,
        )
    version = 1 if size == SIZES[1] else 2
    order = byte_order(raw)
    record = np.frombuffer(raw, LAYOUTS[version].newbyteorder(order), count=1)[0]
    _check_magic(raw, version, relative)
    shape, n_volumes = _dims(record, relative)
    dtype = _voxel_type(record, relative).newbyteorder(order)
    offset = _vox_offset(record, version, relative)
    slope, inter = _scaling(record, relative)
    if offset + n_volumes * shape[0] * shape[1] * shape[2] * dtype.itemsize > MAX_BYTES:
        _refuse(
            "CHI-IN-015", "the header claims more than 16 GiB of voxel values.", "Crop or resample the image.", relative
        )
    affine = affine_of(record, shape)
    check_affine(affine, relative)
    return NiftiHeader(version, shape, n_volumes, dtype, offset, slope, inter, affine, bytes(raw[:size]))


def byte_order(header: bytes) -> Literal["<", ">"]:
    """Return ``<`` or ``>``: the byte order of a header, which its voxels share."""
    return "<" if int.from_bytes(header[:4], "little") in SIZES.values() else ">"


def _refuse(code: str, message: str, remedy: str, relative: str) -> NoReturn:
    raise InputError(code, message, remedy, file=relative)


def _check_magic(raw: bytes, version: int, relative: str) -> None:
    magic = raw[344:348] if version == 1 else raw[4:8]
    if magic in (b"n+1\0", b"n+2\0") and magic[2:3] == str(version).encode():
        # NIfTI-2 adds four bytes that a text-mode transfer would change, as PNG does.
        if version == 2 and raw[8:12] not in (b"\r\n\x1a\n", bytes(4)):
            _refuse(
                "CHI-IN-003",
                "the file was changed by a transfer in text mode.",
                "Copy it again in binary mode.",
                relative,
            )
        return
    if magic in (b"ni1\0", b"ni2\0") or (version == 1 and not magic.startswith(b"n")):
        _refuse(
            "CHI-IN-005",
            "the file is the header of a .hdr/.img pair or Analyze 7.5, which says too little about left and right.",
            "Convert it to one file, e.g. `fslchfiletype NIFTI_GZ FILE` or nibabel's `nib.save(nib.load(FILE), 'out.nii.gz')`.",
            relative,
        )
    _refuse("CHI-IN-003", "the file is not NIfTI (its magic string is wrong).", "Convert it to .nii.gz.", relative)


def _dims(record: np.void, relative: str) -> tuple[tuple[int, int, int], int]:
    dims = [int(n) for n in record["dim"]]
    if not 1 <= dims[0] <= 7:
        _refuse(
            "CHI-IN-008",
            f"the header claims {dims[0]} axes; 1 to 7 are possible.",
            "Write the file again from its source.",
            relative,
        )
    lengths = dims[1 : dims[0] + 1]
    if min(lengths) < 1:
        _refuse(
            "CHI-IN-008",
            f"the header claims an axis of {min(lengths)} voxels.",
            "Write the file again from its source.",
            relative,
        )
    if len(lengths) < 3 or min(lengths[:3]) < 2:
        _refuse(
            "CHI-IN-009",
            f"the image is {'x'.join(map(str, lengths[:3]))}; three axes of 2 or more voxels are needed.",
            "Give the whole volume, not one slice.",
            relative,
        )
    further = [n for n in lengths[3:] if n > 1]
    if len(further) > 1:
        _refuse(
            "CHI-IN-010",
            f"the image has {len(further)} axes beyond the third; one (channel or time) is allowed.",
            "Split it, e.g. with `fslsplit`.",
            relative,
        )
    return (lengths[0], lengths[1], lengths[2]), (further or [1])[0]


def _voxel_type(record: np.void, relative: str) -> np.dtype[Any]:
    code, bits = int(record["datatype"]), int(record["bitpix"])
    if code not in TYPES:
        what = (
            "complex, colour, bit and 128-bit values are not supported"
            if code in _REFUSED_TYPES
            else "no such type exists"
        )
        _refuse("CHI-IN-011", f"the voxel type has code {code}; {what}.", "Convert it to float32 or int16.", relative)
    dtype: np.dtype[Any] = np.dtype(TYPES[code])
    if bits not in (0, dtype.itemsize * 8):
        _refuse(
            "CHI-IN-012",
            f"the header claims {bits} bits a voxel, but its voxel type has {dtype.itemsize * 8}.",
            "Write the file again from its source.",
            relative,
        )
    return dtype


def _vox_offset(record: np.void, version: int, relative: str) -> int:
    value, least = float(record["vox_offset"]), DATA_STARTS[version]
    # Zero and 348 are refused too: of the readers in use one starts at 0, one at 348 and one at 352 then.
    if not np.isfinite(value) or value != int(value) or not least <= value <= MAX_VOX_OFFSET:
        _refuse(
            "CHI-IN-013",
            f"the voxel values cannot start at byte {value:g}; {least} to {MAX_VOX_OFFSET} is possible.",
            "Write the file again from its source.",
            relative,
        )
    return int(value)


def _scaling(record: np.void, relative: str) -> tuple[float, float]:
    slope, inter = float(record["scl_slope"]), float(record["scl_inter"])
    if slope == 0:  # the standard: no scaling, whatever the intercept says
        return 1.0, 0.0
    if not (np.isfinite(slope) and np.isfinite(inter)):
        _refuse(
            "CHI-IN-018",
            "scl_slope or scl_inter is not a finite number.",
            "Write the file again from its source.",
            relative,
        )
    return slope, inter
