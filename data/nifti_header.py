"""The NIfTI-1 and NIfTI-2 header: read with every claim checked, and written again with nothing personal in it.

Layouts: https://nifti.nimh.nih.gov/pub/dist/src/niftilib/nifti1.h and nifti2.h.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from .errors import InputError
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
SPACING_MM = (0.1, 20.0)
MAX_VOX_OFFSET = 256 << 20  # CIFTI-like XML extensions reach tens of MB, never this
MAX_OFFSET_MM = 1e5
SHEAR_LIMIT = 1e-4

_SIZES = {1: 348, 2: 540}
_DATA_STARTS = {1: 352, 2: 544}
_TYPES: dict[int, type[np.generic]] = {
    2: np.uint8, 4: np.int16, 8: np.int32, 16: np.float32, 64: np.float64, 256: np.int8,
    512: np.uint16, 768: np.uint32, 1024: np.int64, 1280: np.uint64,
}  # fmt: skip
_TYPE_CODES = {np.dtype(kind): code for code, kind in _TYPES.items()}
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
_LAYOUTS = {1: NIFTI1, 2: NIFTI2}
_KEPT = ("sizeof_hdr", "qform_code", "sform_code", "quatern", "qoffset", "srow", "xyzt_units", "dim_info")


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
    known = sizes & set(_SIZES.values())
    if not known:
        _refuse("CHI-IN-003", "the file is not NIfTI (its header length is neither 348 nor 540).", "Convert it to .nii.gz.", relative)
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
        _refuse("CHI-IN-004", f"the file ends after {len(raw)} of its header's {size} bytes.", "Copy it again from where it came.", relative)
    version = 1 if size == _SIZES[1] else 2
    order = "<" if int.from_bytes(raw[:4], "little") == size else ">"
    record = np.frombuffer(raw, _LAYOUTS[version].newbyteorder(order), count=1)[0]
    _check_magic(raw, version, relative)
    shape, n_volumes = _dims(record, relative)
    dtype = _voxel_type(record, relative).newbyteorder(order)
    offset = _vox_offset(record, version, relative)
    slope, inter = _scaling(record, relative)
    if offset + n_volumes * shape[0] * shape[1] * shape[2] * dtype.itemsize > MAX_BYTES:
        _refuse("CHI-IN-015", "the header claims more than 16 GiB of voxel values.", "Crop or resample the image.", relative)
    affine = _affine(record, shape)
    _check_affine(affine, relative)
    return NiftiHeader(version, shape, n_volumes, dtype, offset, slope, inter, affine, bytes(raw[:size]))


def output_header(grid: Grid, dtype: np.dtype[Any], *, slope: float = 1.0) -> bytes:
    """Return header and the four bytes that say "no extension" for a 3-D image on `grid`.

    Geometry (qform, sform, their codes, units, ``pixdim[0:4]``) is the input's, bit for bit and in its byte order. Every field that
    can hold a name, a date or a remark is blank, and so is what described the input's values (intent, slice timing, display range).

    Parameters
    ----------
    grid : Grid
        Where its `nifti_header` is empty or contradicts `affine`, a NIfTI-1 header is built: sform code 1, and qform code 1 where
        the axes are at right angles.
    dtype : dtype
        Voxel type; its byte order is ignored.
    slope : float
        ``scl_slope`` of the output.
    """
    raw = grid.nifti_header if _describes(grid) else _built_header(grid)
    version = 1 if len(raw) == _SIZES[1] else 2
    order = "<" if int.from_bytes(raw[:4], "little") == len(raw) else ">"
    layout = _LAYOUTS[version].newbyteorder(order)
    old, new = np.frombuffer(raw, layout, count=1), np.zeros(1, layout)
    for name in _KEPT:
        new[name] = old[name]
    new["pixdim"][0, :4] = old["pixdim"][0, :4]
    new["dim"] = (3, *grid.shape, 1, 1, 1, 1)
    new["datatype"] = _TYPE_CODES[dtype.newbyteorder("=")]
    new["bitpix"] = dtype.itemsize * 8
    new["vox_offset"] = _DATA_STARTS[version]
    new["scl_slope"] = slope
    if version == 1:
        new["regular"] = b"r"  # what SPM and FSL write; the standard leaves it open
        new["magic"] = b"n+1"
    else:
        new["magic"] = b"n+2\0\r\n\x1a\n"
    return new.tobytes() + bytes(4)


def byte_order(header: bytes) -> str:
    """Return ``<`` or ``>``: the byte order of a header, which its voxels share."""
    return "<" if int.from_bytes(header[:4], "little") in _SIZES.values() else ">"


def _refuse(code: str, message: str, remedy: str, relative: str) -> NoReturn:
    raise InputError(code, message, remedy, file=relative)


def _check_magic(raw: bytes, version: int, relative: str) -> None:
    magic = raw[344:348] if version == 1 else raw[4:8]
    if magic in (b"n+1\0", b"n+2\0") and magic[2:3] == str(version).encode():
        # NIfTI-2 adds four bytes that a text-mode transfer would change, as PNG does.
        if version == 2 and raw[8:12] not in (b"\r\n\x1a\n", bytes(4)):
            _refuse("CHI-IN-003", "the file was changed by a transfer in text mode.", "Copy it again in binary mode.", relative)
        return
    if magic in (b"ni1\0", b"ni2\0") or (version == 1 and not magic.startswith(b"n")):
        _refuse(
            "CHI-IN-005", "the file is the header of a .hdr/.img pair or Analyze 7.5, which says too little about left and right.",
            "Convert it to one file, e.g. `fslchfiletype NIFTI_GZ FILE` or nibabel's `nib.save(nib.load(FILE), 'out.nii.gz')`.", relative,
        )  # fmt: skip
    _refuse("CHI-IN-003", "the file is not NIfTI (its magic string is wrong).", "Convert it to .nii.gz.", relative)


def _dims(record: np.void, relative: str) -> tuple[tuple[int, int, int], int]:
    dims = [int(n) for n in record["dim"]]
    if not 1 <= dims[0] <= 7:
        _refuse("CHI-IN-008", f"the header claims {dims[0]} axes; 1 to 7 are possible.", "Write the file again from its source.", relative)
    lengths = dims[1 : dims[0] + 1]
    if min(lengths) < 1:
        _refuse("CHI-IN-008", f"the header claims an axis of {min(lengths)} voxels.", "Write the file again from its source.", relative)
    if len(lengths) < 3 or min(lengths[:3]) < 2:
        _refuse(
            "CHI-IN-009", f"the image is {'x'.join(map(str, lengths[:3]))}; three axes of 2 or more voxels are needed.",
            "Give the whole volume, not one slice.", relative,
        )  # fmt: skip
    further = [n for n in lengths[3:] if n > 1]
    if len(further) > 1:
        _refuse(
            "CHI-IN-010", f"the image has {len(further)} axes beyond the third; one (channel or time) is allowed.",
            "Split it, e.g. with `fslsplit`.", relative,
        )  # fmt: skip
    return (lengths[0], lengths[1], lengths[2]), (further or [1])[0]


def _voxel_type(record: np.void, relative: str) -> np.dtype[Any]:
    code, bits = int(record["datatype"]), int(record["bitpix"])
    if code not in _TYPES:
        what = "complex, colour, bit and 128-bit values are not supported" if code in _REFUSED_TYPES else "no such type exists"
        _refuse("CHI-IN-011", f"the voxel type has code {code}; {what}.", "Convert it to float32 or int16.", relative)
    dtype: np.dtype[Any] = np.dtype(_TYPES[code])
    if bits not in (0, dtype.itemsize * 8):
        _refuse(
            "CHI-IN-012", f"the header claims {bits} bits a voxel, but its voxel type has {dtype.itemsize * 8}.",
            "Write the file again from its source.", relative,
        )  # fmt: skip
    return dtype


def _vox_offset(record: np.void, version: int, relative: str) -> int:
    value, least = float(record["vox_offset"]), _DATA_STARTS[version]
    if value == 0:  # "as early as possible" in files of older writers
        return least
    if not np.isfinite(value) or value != int(value) or not _SIZES[version] <= value <= MAX_VOX_OFFSET:
        _refuse(
            "CHI-IN-013", f"the voxel values cannot start at byte {value:g}; {least} to {MAX_VOX_OFFSET} is possible.",
            "Write the file again from its source.", relative,
        )  # fmt: skip
    return int(value)


def _scaling(record: np.void, relative: str) -> tuple[float, float]:
    slope, inter = float(record["scl_slope"]), float(record["scl_inter"])
    if slope == 0:  # the standard: no scaling, whatever the intercept says
        return 1.0, 0.0
    if not (np.isfinite(slope) and np.isfinite(inter)):
        _refuse("CHI-IN-018", "scl_slope or scl_inter is not a finite number.", "Write the file again from its source.", relative)
    return slope, inter


def _affine(record: np.void, shape: tuple[int, int, int]) -> Affine:
    """Precedence of nibabel: sform, qform, then pixel sizes centred on the image with x from right to left."""
    affine = np.eye(4)
    if record["sform_code"] > 0:
        affine[:3] = record["srow"]
        return affine
    with np.errstate(invalid="ignore", over="ignore"):  # lies are found in the result
        sizes = np.abs(record["pixdim"][1:4].astype(np.float64))
        if record["qform_code"] > 0:
            affine[:3, :3] = _rotation(record["quatern"].astype(np.float64)) * sizes
            if record["pixdim"][0] == -1:
                affine[:3, 2] *= -1
            affine[:3, 3] = record["qoffset"]
            return affine
        affine[:3, :3] = np.diag(sizes * (-1, 1, 1))
        affine[:3, 3] = -affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return affine


def _rotation(bcd: NDArray[np.float64]) -> NDArray[np.float64]:
    """Unit quaternion (b, c, d) to a rotation matrix; NaN where it is no unit quaternion."""
    square = 1.0 - float(bcd @ bcd)
    if not square > -1e-3:
        return np.full((3, 3), np.nan)
    a = np.sqrt(square) if square >= 3 * np.finfo(np.float32).eps else 0.0
    # Division by the true length mends the rounding of quaternions stored in float32.
    scale = 2.0 / (a * a + float(bcd @ bcd))
    b, c, d = (float(value) for value in bcd)
    return np.array([
        [1 - scale * (c * c + d * d), scale * (b * c - a * d), scale * (b * d + a * c)],
        [scale * (b * c + a * d), 1 - scale * (b * b + d * d), scale * (c * d - a * b)],
        [scale * (b * d - a * c), scale * (c * d + a * b), 1 - scale * (b * b + c * c)],
    ])  # fmt: skip


def _check_affine(affine: Affine, relative: str) -> None:
    remedy = "Mend it in the scanner's export or with a viewer that shows the header, and check left and right."
    if not np.isfinite(affine).all():
        _refuse("CHI-IN-016", "the affine (sform, qform or pixel sizes) holds a number that is not finite.", remedy, relative)
    spacing = np.sqrt((affine[:3, :3] ** 2).sum(axis=0))
    if not spacing.all():
        _refuse("CHI-IN-016", "the affine is singular: an axis has length zero.", remedy, relative)
    low, high = SPACING_MM[0] * (1 - 1e-4), SPACING_MM[1] * (1 + 1e-4)
    if spacing.min() < low or spacing.max() > high:
        _refuse(
            "CHI-IN-017", f"the voxels are {spacing[0]:.4g} x {spacing[1]:.4g} x {spacing[2]:.4g} mm; 0.1 to 20 mm is allowed.",
            "Check the units of the affine: it must be in millimetres.", relative,
        )  # fmt: skip
    if abs(np.linalg.det(affine[:3, :3] / spacing)) < SHEAR_LIMIT:
        _refuse("CHI-IN-016", "the affine is singular: its axes lie in one plane.", remedy, relative)
    if np.abs(affine[:3, 3]).max() > MAX_OFFSET_MM:
        _refuse("CHI-IN-016", "the affine puts the image more than 100 m from the scanner.", remedy, relative)


def _describes(grid: Grid) -> bool:
    """Whether the kept header still says what the grid says (a caller may have cropped or moved the grid)."""
    raw = grid.nifti_header
    if len(raw) not in _SIZES.values():
        return False
    order = byte_order(raw)
    record = np.frombuffer(raw, _LAYOUTS[1 if len(raw) == _SIZES[1] else 2].newbyteorder(order), count=1)[0]
    return bool(np.array_equal(_affine(record, grid.shape), grid.affine))


def _built_header(grid: Grid) -> bytes:
    """A NIfTI-1 header for an affine (NIfTI-2 where an axis does not fit in 16 bits)."""
    version = 1 if max(grid.shape) < 1 << 15 else 2
    record = np.zeros(1, _LAYOUTS[version].newbyteorder("<"))
    record["sizeof_hdr"] = _SIZES[version]
    record["xyzt_units"] = 2  # millimetres
    record["sform_code"] = 1  # scanner
    record["srow"] = grid.affine[:3]
    spacing = np.array(grid.spacing_mm)
    axes = grid.affine[:3, :3] / spacing
    handed = -1.0 if np.linalg.det(axes) < 0 else 1.0
    record["pixdim"][0, :4] = (handed, *spacing)
    if np.allclose(axes.T @ axes, np.eye(3), atol=1e-5):  # a quaternion cannot hold a shear
        from scipy.spatial.transform import Rotation

        record["qform_code"] = 1
        record["quatern"] = Rotation.from_matrix(axes * (1, 1, handed)).as_quat(canonical=True)[:3]
        record["qoffset"] = grid.affine[:3, 3]
    return record.tobytes()
