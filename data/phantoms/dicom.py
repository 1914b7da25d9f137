"""The tumour phantoms as DICOM: one classic MR series a contrast, axial or oblique.

Oblique means that the planes are tilted against the patient's axes, as when they are laid along the
anterior-posterior commissure line: the direction cosines of the series are then no unit vectors, which is what a
reader must get right.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from ..atomic import write_bytes
from ..errors import RecipeError
from .brats import CONTRASTS, Tumours, patient, row
from .heads import Cohort, centred_affine, refuse_non_empty, template, write_marker, write_nifti

if TYPE_CHECKING:
    from pydicom import Dataset

MR_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.4"
TILT_DEG = (18.0, 7.0)
"""Angles of an oblique series: about the left-right axis, then about the front-back axis."""

_LPS = np.diag([-1.0, -1.0, 1.0])
_SEQUENCES = {
    "flair": ("SE\\IR", 9000.0, 120.0),
    "t1ce": ("GR", 8.0, 3.0),
    "t1": ("GR", 8.0, 3.0),
    "t2": ("SE", 4500.0, 90.0),
}


@dataclass(frozen=True, kw_only=True)
class Plane:
    """Where the slices of a series lie.

    Parameters
    ----------
    origin : ndarray, shape (3,)
        Centre of the first voxel in LPS mm.
    row, column, normal : ndarray, shape (3,)
        Unit vectors in LPS along a row of pixels, along a column, and from slice to slice.
    """

    origin: NDArray[np.float64]
    row: NDArray[np.float64]
    column: NDArray[np.float64]
    normal: NDArray[np.float64]


def write_dicom(
    out: Path,
    cohort: Cohort,
    *,
    orientation: Literal["axial", "oblique"] = "axial",
    tumours: Tumours | None = None,
) -> list[str]:
    """Write ``PHANTOM00001/<contrast>/0001.dcm`` for a cohort, and the true labels to ``derivatives/truth``.

    Returns
    -------
    list of str
        Patient names.

    Raises
    ------
    RecipeError
        CHI-RC-070 for an unknown orientation, CHI-RC-071 where `out` holds something already.
    """
    if orientation not in {"axial", "oblique"}:
        raise RecipeError("CHI-RC-070", f"orientation must be axial or oblique, got {orientation}.", "Choose one.")
    refuse_non_empty(out)
    maps, affine = template(), phantom_affine(cohort, orientation)
    names, rows = [], []
    for index in range(1, cohort.patients + 1):
        made, name = patient(maps, cohort, index, tumours=tumours), f"PHANTOM{index:05d}"
        for number, contrast in enumerate(CONTRASTS, start=1):
            write_series(
                out / name / contrast,
                made.images[contrast],
                affine,
                patient_name=name,
                contrast=contrast,
                number=number,
            )
        write_nifti(out / "derivatives" / "truth" / f"{name}_seg.nii.gz", made.labels, affine)
        names.append(name)
        rows.append(row(name, made, cohort.spacing_mm))
    write_marker(out, f"Phantom cohort as DICOM, {orientation}", rows)
    return names


def phantom_affine(cohort: Cohort, orientation: str) -> NDArray[np.float64]:
    """RAS+ affine of the volumes: along the axes, or tilted by `TILT_DEG` about the middle."""
    affine = centred_affine(cohort.shape, cohort.spacing_mm)
    if orientation == "oblique":
        a, b = (math.radians(angle) for angle in TILT_DEG)
        nod = np.array([[1, 0, 0], [0, math.cos(a), -math.sin(a)], [0, math.sin(a), math.cos(a)]])
        lean = np.array([[math.cos(b), 0, math.sin(b)], [0, 1, 0], [-math.sin(b), 0, math.cos(b)]])
        turn = np.eye(4)
        turn[:3, :3] = lean @ nod
        affine = turn @ affine
    return affine


def write_series(
    folder: Path,
    values: NDArray[np.int16],
    affine: NDArray[np.float64],
    *,
    patient_name: str,
    contrast: str,
    number: int,
) -> list[Path]:
    """Write one series, a file a slice, feet to head.

    Parameters
    ----------
    folder : Path
    values : ndarray of int16, shape (X, Y, Z)
        Running to the patient's right, front and head (before any tilt).
    affine : ndarray, shape (4, 4)
        Voxel to RAS+ mm, isotropic.
    patient_name, contrast : str
    number : int
        SeriesNumber.

    Returns
    -------
    list of Path
    """
    spacing = float(np.linalg.norm(affine[:3, 0]))
    # Slices, rows to the back, columns to the left: radiological display.
    pixels = values[::-1, ::-1].transpose(2, 1, 0)
    plane = _plane(affine, values.shape)
    shared = _shared(patient_name, contrast, number, spacing, plane)
    paths = []
    for k, slice_pixels in enumerate(pixels):
        position = plane.origin + k * spacing * plane.normal
        path = folder / f"{k + 1:04d}.dcm"
        write_bytes(path, _slice_bytes(shared, slice_pixels, position, plane, k))
        paths.append(path)
    return paths


def _plane(affine: NDArray[np.float64], shape: tuple[int, ...]) -> Plane:
    corner = np.array([shape[0] - 1, shape[1] - 1, 0, 1])
    axes = _LPS @ affine[:3, :3]
    axes = axes / np.linalg.norm(axes, axis=0)
    return Plane(origin=_LPS @ (affine @ corner)[:3], row=-axes[:, 0], column=-axes[:, 1], normal=axes[:, 2])


def _shared(patient_name: str, contrast: str, number: int, spacing: float, plane: Plane) -> Dataset:
    from pydicom import Dataset

    sequence, repetition, echo = _SEQUENCES[contrast]
    ds = Dataset()
    ds.SOPClassUID = MR_IMAGE_STORAGE
    ds.StudyDate, ds.StudyTime, ds.AccessionNumber, ds.StudyID = "20000101", "120000", "", "1"
    ds.Modality, ds.Manufacturer, ds.ReferringPhysicianName = "MR", "Chiasm phantom", ""
    ds.StudyDescription, ds.SeriesDescription = "Synthetic phantom, no person", contrast
    ds.ImageType = ["DERIVED", "PRIMARY", "OTHER"]
    ds.PatientName, ds.PatientID, ds.PatientBirthDate, ds.PatientSex = patient_name, patient_name, "", "O"
    ds.ScanningSequence, ds.SequenceVariant, ds.ScanOptions = sequence.split("\\"), "NONE", ""
    ds.MRAcquisitionType, ds.RepetitionTime, ds.EchoTime, ds.EchoTrainLength = "3D", repetition, echo, 1
    if contrast == "t1ce":
        ds.ContrastBolusAgent = "phantom"
    ds.StudyInstanceUID = uid(patient_name, "study")
    ds.SeriesInstanceUID = uid(patient_name, contrast)
    ds.FrameOfReferenceUID = uid(patient_name, "frame")
    ds.SeriesNumber, ds.PositionReferenceIndicator, ds.PatientPosition = number, "", "HFS"
    ds.ImageOrientationPatient = [_decimal(v) for v in (*plane.row, *plane.column)]
    ds.PixelSpacing, ds.SliceThickness, ds.SpacingBetweenSlices = [spacing, spacing], spacing, spacing
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 1
    return ds


def _slice_bytes(
    shared: Dataset, pixels: NDArray[np.int16], position: NDArray[np.float64], plane: Plane, k: int
) -> bytes:
    from pydicom import Dataset
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import UID, ExplicitVRLittleEndian

    ds = Dataset()
    ds.update(shared)
    ds.SOPInstanceUID = uid(str(shared.SeriesInstanceUID), str(k))
    ds.InstanceNumber = k + 1
    ds.ImagePositionPatient = [_decimal(v) for v in position]
    ds.SliceLocation = _decimal(float(position @ plane.normal))
    ds.Rows, ds.Columns = pixels.shape
    ds.PixelData = np.ascontiguousarray(pixels, dtype="<i2").tobytes()
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = UID(MR_IMAGE_STORAGE), ds.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta = meta
    stream = BytesIO()
    ds.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def uid(*words: str) -> str:
    """Return a UID that depends on the words only (the 2.25 form of DICOM PS3.5 B.2), so that a cohort repeats exactly."""
    digest = hashlib.sha256("\0".join(words).encode()).digest()
    return f"2.25.{int.from_bytes(digest[:16], 'big')}"


def _decimal(value: float) -> str:
    """Write a number in the 16 characters that a decimal string may have."""
    text = f"{value:.10f}"
    return text[:16] if abs(value) < 1e4 else f"{value:.9e}"
