"""The affine of a NIfTI header: which of its three statements counts, and whether it can be true."""

from __future__ import annotations

from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from .errors import InputError
from .volumes import Affine

SHEAR_LIMIT = 1e-4
MAX_OFFSET_MM = 1e5
SPACING_MM = (0.1, 20.0)


def affine_of(record: np.void, shape: tuple[int, int, int]) -> Affine:
    """Return the affine (4, 4) of a header record, unchecked.

    Precedence of nibabel: sform, qform, then pixel sizes centred on the image with x from right to left.
    """
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


def check_affine(affine: Affine, relative: str) -> None:
    """Refuse an affine that is not finite, is singular, or has voxels of a size that no head scan has.

    Raises
    ------
    InputError
        CHI-IN-016 or 017.
    """
    remedy = "Mend it in the scanner's export or with a viewer that shows the header, and check left and right."
    if not np.isfinite(affine).all():
        _refuse(
            "CHI-IN-016",
            "the affine (sform, qform or pixel sizes) holds a number that is not finite.",
            remedy,
            relative,
        )
    with np.errstate(over="ignore"):  # 1e300 squared: infinite, hence too large
        spacing = np.sqrt((affine[:3, :3] ** 2).sum(axis=0))
    if not spacing.all():
        _refuse("CHI-IN-016", "the affine is singular: an axis has length zero.", remedy, relative)
    low, high = SPACING_MM[0] * (1 - 1e-4), SPACING_MM[1] * (1 + 1e-4)
    if spacing.min() < low or spacing.max() > high:
        _refuse(
            "CHI-IN-017",
            f"the voxels are {spacing[0]:.4g} x {spacing[1]:.4g} x {spacing[2]:.4g} mm; 0.1 to 20 mm is allowed.",
            "Check the units of the affine: it must be in millimetres.",
            relative,
        )
    if abs(np.linalg.det(affine[:3, :3] / spacing)) < SHEAR_LIMIT:
        _refuse("CHI-IN-016", "the affine is singular: its axes lie in one plane.", remedy, relative)
    if np.abs(affine[:3, 3]).max() > MAX_OFFSET_MM:
        _refuse("CHI-IN-016", "the affine puts the image more than 100 m from the scanner.", remedy, relative)


def _refuse(code: str, message: str, remedy: str, relative: str) -> NoReturn:
    raise InputError(code, message, remedy, file=relative)
