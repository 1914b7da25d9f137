"""From the planes of a DICOM series to one affine: order, distances, and what makes a stack of slices no volume.

Source: DICOM PS3.3 equation C.7.6.2.1-1. The normal is the cross product of the row and column direction.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .dicom_header import DicomHeader
from .errors import InputError
from .volumes import Affine

_SPACING_MM = (0.1, 20.0)
_SAME_PLACE_MM = 1e-3
_TILT = 0.005
"""Shift in the plane over shift along the normal: 0.3 degrees, far above rounding in the file."""
_UNEVEN = 0.02
_SHARED, _PER_FRAME = 0x52009229, 0x52009230
_POSITION, _ORIENTATION, _PIXEL_SPACING = 0x00200032, 0x00200037, 0x00280030
_SLOPE, _INTERCEPT = 0x00281053, 0x00281052
_GROUP_OF = {
    _POSITION: 0x00209113,
    _ORIENTATION: 0x00209116,
    _PIXEL_SPACING: 0x00289110,
    _SLOPE: 0x00289145,
    _INTERCEPT: 0x00289145,
}
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0])


@dataclass(frozen=True)
class Plane:
    """One slice: where it is, and how stored values become real ones."""

    header: DicomHeader
    frame: int
    position: NDArray[np.float64]
    orientation: NDArray[np.float64]
    spacing: NDArray[np.float64]
    slope: float
    intercept: float


def planes_of(header: DicomHeader) -> list[Plane]:
    """Return the planes of one file: one for a classic slice, one a frame for an enhanced multi-frame object.

    Raises
    ------
    InputError
        ``CHI-IN-038``, ``CHI-IN-045``, ``CHI-IN-046``, ``CHI-IN-048``.
    """
    declared = header.values.get(0x00280008) or (1.0,)
    count = int(declared[0]) if math.isfinite(declared[0]) else 0
    per_frame = header.values.get(_PER_FRAME, [])
    shared = (header.values.get(_SHARED) or [{}])[0]
    if not per_frame and count == 1:
        return [_plane(header, 0, header.values, {})]
    if count != len(per_frame):
        raise InputError(
            "CHI-IN-048",
            f"A multi-frame object of {count} frames describes the place of {len(per_frame)}.",
            "Export it as an enhanced multi-frame object or as single slices.",
            file=header.relative,
        )
    stacks = {_nested(frame, shared, 0x00209111, 0x00209056) or "" for frame in per_frame}
    if len(stacks) > 1:
        raise InputError(
            "CHI-IN-048",
            f"A multi-frame object with {len(stacks)} stacks is not one volume.",
            "Export each stack as its own series.",
            file=header.relative,
        )
    return [_plane(header, index, frame, shared) for index, frame in enumerate(per_frame)]


def _nested(frame: dict[int, Any], shared: dict[int, Any], group: int, tag: int) -> Any:
    for source in (frame, shared):
        items = source.get(group)
        if items and tag in items[0]:
            return items[0][tag]
    return None


def _plane(header: DicomHeader, index: int, frame: dict[int, Any], shared: dict[int, Any]) -> Plane:
    def get(tag: int, default: tuple[float, ...] = ()) -> tuple[float, ...]:
        direct = frame.get(tag)
        if direct is None:
            direct = _nested(frame, shared, _GROUP_OF[tag], tag)
        # PS3.3 C.7.6.16: some writers leave the rescale at the top level of an enhanced object.
        value = direct if direct is not None else header.values.get(tag, default)
        return value or default

    position, orientation, spacing = get(_POSITION), get(_ORIENTATION), get(_PIXEL_SPACING)
    slope, intercept = get(_SLOPE, (1.0,))[0], get(_INTERCEPT, (0.0,))[0]
    _check_place(header, position, orientation)
    if len(spacing) != 2 or not all(_SPACING_MM[0] <= value <= _SPACING_MM[1] for value in spacing):
        raise InputError(
            "CHI-IN-045",
            f"The pixel spacing is missing or outside {_SPACING_MM[0]} to {_SPACING_MM[1]} mm.",
            "Export the series again with its geometry.",
            file=header.relative,
        )
    if not (math.isfinite(slope) and math.isfinite(intercept)) or slope == 0:
        raise InputError(
            "CHI-IN-046",
            "The rescale slope or intercept is zero or not finite.",
            "Export the series again.",
            file=header.relative,
        )
    return Plane(header, index, np.array(position), np.array(orientation), np.array(spacing), slope, intercept)


def _check_place(header: DicomHeader, position: Sequence[float], orientation: Sequence[float]) -> None:
    sound = len(position) == 3 and len(orientation) == 6 and all(map(math.isfinite, (*position, *orientation)))
    if sound:
        row, column = np.array(orientation[:3]), np.array(orientation[3:])
        lengths = np.array([np.linalg.norm(row), np.linalg.norm(column)])
        sound = bool(np.all(np.abs(lengths - 1) < 1e-2) and abs(row @ column) < 1e-2) and max(map(abs, position)) < 1e5
    if not sound:
        raise InputError(
            "CHI-IN-038",
            "ImagePositionPatient or ImageOrientationPatient is missing or impossible.",
            "Export the series again with its geometry; a secondary capture or a scanned film has none.",
            file=header.relative,
        )


def stack_planes(planes: Sequence[Plane], relative: str) -> tuple[list[Plane], Affine]:
    """Order planes along their normal and return them with the affine (column, row, slice index to RAS+ mm).

    Raises
    ------
    InputError
        ``CHI-IN-036`` spacing differs, ``CHI-IN-038`` orientation differs, ``CHI-IN-039`` duplicate positions,
        ``CHI-IN-040`` missing slices, ``CHI-IN-041`` mixed spacing, ``CHI-IN-042`` gantry tilt, ``CHI-IN-043`` one slice.
    """
    if len(planes) < 2:
        raise InputError(
            "CHI-IN-043",
            "One slice is not a volume.",
            "Give all slices of a 3-D series (at least two).",
            file=relative,
        )
    first = planes[0]
    for plane in planes:
        if np.abs(plane.orientation - first.orientation).max() > 1e-3:
            raise InputError(
                "CHI-IN-038", "The slices have several orientations.", "Give one stack.", file=plane.header.relative
            )
        if np.abs(plane.spacing - first.spacing).max() > 1e-3:
            raise InputError(
                "CHI-IN-036", "The slices have several pixel spacings.", "Give one stack.", file=plane.header.relative
            )
    row, column = first.orientation[:3], first.orientation[3:]
    normal = np.cross(row, column)
    normal /= np.linalg.norm(normal)
    ordered = sorted(planes, key=lambda plane: float(normal @ plane.position))
    positions = np.array([plane.position for plane in ordered])
    _check_distances(positions @ normal, ordered, relative)
    _check_tilt(positions, normal, relative)
    step = (positions[-1] - positions[0]) / (len(ordered) - 1)
    lps = np.column_stack([row * first.spacing[1], column * first.spacing[0], step])
    affine = np.eye(4)
    affine[:3, :3] = _LPS_TO_RAS @ lps
    affine[:3, 3] = _LPS_TO_RAS @ positions[0]
    return ordered, affine


def _check_distances(along: NDArray[np.float64], ordered: Sequence[Plane], relative: str) -> None:
    gaps = np.diff(along)
    twice = np.flatnonzero(gaps < _SAME_PLACE_MM)
    if twice.size:
        raise InputError(
            "CHI-IN-039",
            f"{twice.size + 1} slices or more share a position ({len(ordered)} slices, "
            f"{len(ordered) - twice.size} positions).",
            "Remove the copies; give echoes, phases and time points as series of their own.",
            file=ordered[int(twice[0]) + 1].header.relative,
        )
    usual = float(np.median(gaps))
    uneven = np.abs(gaps - usual) > max(_UNEVEN * usual, 0.01)
    if uneven.any():
        ratio = gaps / usual
        whole = np.abs(ratio - np.round(ratio)) < 0.05
        if whole.all() and np.round(ratio).min() == 1:
            lost = int(np.round(ratio).sum()) - len(gaps)
            raise InputError(
                "CHI-IN-040",
                f"{lost} slice(s) missing: {len(ordered)} of {len(ordered) + lost} are there.",
                "Copy the series again, completely.",
                file=relative,
            )
        raise InputError(
            "CHI-IN-041",
            f"The distance between slices varies from {gaps.min():.3f} to {gaps.max():.3f} mm.",
            "Give a series with even distances, or resample it.",
            file=relative,
        )
    if not _SPACING_MM[0] <= usual <= _SPACING_MM[1]:
        raise InputError(
            "CHI-IN-045",
            f"The slice distance {usual:.3f} mm is outside {_SPACING_MM[0]} to {_SPACING_MM[1]} mm.",
            "Export the series again with its geometry.",
            file=relative,
        )


def _check_tilt(positions: NDArray[np.float64], normal: NDArray[np.float64], relative: str) -> None:
    offsets = positions - positions[0]
    along = offsets @ normal
    in_plane = np.linalg.norm(offsets - np.outer(along, normal), axis=1)
    worst = float(np.max(in_plane[1:] / along[1:]))
    if in_plane.max() > 0.02 and worst > _TILT:
        raise InputError(
            "CHI-IN-042",
            f"The slices are sheared by {math.degrees(math.atan(worst)):.2f} degrees (gantry tilt).",
            "Correct the tilt first (dcm2niix does) and give the NIfTI file.",
            file=relative,
        )
