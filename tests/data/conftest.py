"""Input files made by code: DICOM series with the geometry that a test asks for, and small NIfTI files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
MR_IMAGE, ENHANCED_MR = "1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.5.1.4.1.1.4.1"
EXPLICIT_LE = "1.2.840.10008.1.2.1"


def stored_values(rows: int = 5, columns: int = 4, n: int = 3) -> np.ndarray:
    """Return (n, rows, columns) with every voxel different."""
    return np.arange(n * rows * columns, dtype=np.uint16).reshape(n, rows, columns)


def base_dataset(*, uid: str, sop_class: str = MR_IMAGE, syntax: str = EXPLICIT_LE) -> Any:
    """Return the elements that every image of the tests has."""
    from pydicom.dataset import Dataset, FileMetaDataset

    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.file_meta.MediaStorageSOPClassUID = sop_class
    dataset.file_meta.MediaStorageSOPInstanceUID = uid
    dataset.SOPClassUID, dataset.SOPInstanceUID, dataset.Modality = sop_class, uid, "MR"
    dataset.PatientID, dataset.PatientName = "CANARYID", "CANARY^NAME"
    dataset.PatientBirthDate, dataset.PatientSex = "", ""
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.FrameOfReferenceUID = "1.2.3.1", "1.2.3.2", "1.2.3.3"
    dataset.StudyDate, dataset.StudyTime, dataset.StudyID, dataset.AccessionNumber = "20200102", "101112", "1", ""
    dataset.ReferringPhysicianName, dataset.Manufacturer = "", "Phantom"
    dataset.SeriesNumber, dataset.PositionReferenceIndicator = 4, ""
    dataset.SeriesDescription, dataset.ImageType = "T1 MPRAGE", ["ORIGINAL", "PRIMARY", "M"]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit, dataset.PixelRepresentation = 15, 0
    return dataset


def save(dataset: Any, path: Path) -> Path:
    """Write a data set with preamble and meta group."""
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)
    return path


def place(dataset: Any, position: Any, orientation: Any, spacing: Any) -> None:
    """Set the image plane of a classic slice."""
    dataset.ImagePositionPatient = [f"{value:.9g}" for value in position]
    dataset.ImageOrientationPatient = [f"{value:.9g}" for value in orientation]
    dataset.PixelSpacing, dataset.SliceThickness = list(spacing), 3.0


def write_series(
    folder: Path,
    *,
    orientation: tuple[float, ...] = AXIAL,
    origin: tuple[float, float, float] = (-20.0, -30.0, -40.0),
    spacing: tuple[float, float] = (2.0, 1.5),
    step: float = 3.0,
    positions: list[Any] | None = None,
    values: np.ndarray | None = None,
    edit: Callable[[Any, int], None] | None = None,
) -> list[Path]:
    """Write classic slices whose names do not follow their positions."""
    values = stored_values() if values is None else values
    normal = np.cross(orientation[:3], orientation[3:])
    names = np.random.default_rng(1).permutation(len(values))
    paths = []
    for index, plane in enumerate(values):
        dataset = base_dataset(uid=f"1.2.3.4.{index}")
        dataset.InstanceNumber = index + 1
        dataset.Rows, dataset.Columns = plane.shape
        where = positions[index] if positions is not None else np.array(origin) + index * step * normal
        place(dataset, where, orientation, spacing)
        dataset.add_new(0x7FE00010, "OW", plane.astype("<u2").tobytes())
        if edit is not None:
            edit(dataset, index)
        paths.append(save(dataset, folder / f"IM{names[index]:04d}"))
    return paths


def write_enhanced(
    path: Path,
    *,
    order: tuple[int, ...] = (2, 0, 1),
    values: np.ndarray | None = None,
    edit: Callable[[Any], None] | None = None,
) -> Path:
    """Write an enhanced multi-frame MR object: frame i is the plane at position order[i] along an axial stack."""
    from pydicom.dataset import Dataset

    values = stored_values() if values is None else values
    dataset = base_dataset(uid="1.2.3.5", sop_class=ENHANCED_MR)
    dataset.InstanceNumber, dataset.NumberOfFrames = 1, len(order)
    dataset.Rows, dataset.Columns = values.shape[1:]
    dataset.ContentDate, dataset.ContentTime = "20200102", "101112"
    shared = Dataset()
    orientation, measures, rescale = Dataset(), Dataset(), Dataset()
    orientation.ImageOrientationPatient = list(AXIAL)
    measures.PixelSpacing, measures.SliceThickness, measures.SpacingBetweenSlices = [2.0, 1.5], 3.0, 3.0
    rescale.RescaleIntercept, rescale.RescaleSlope, rescale.RescaleType = "-10", "0.5", "US"
    shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = [orientation], [measures]
    shared.PixelValueTransformationSequence = [rescale]
    dataset.SharedFunctionalGroupsSequence = [shared]
    frames = []
    for index in order:
        frame, position, content = Dataset(), Dataset(), Dataset()
        position.ImagePositionPatient = [-20.0, -30.0, -40.0 + 3.0 * index]
        content.StackID, content.InStackPositionNumber = "1", index + 1
        frame.PlanePositionSequence, frame.FrameContentSequence = [position], [content]
        frames.append(frame)
    dataset.PerFrameFunctionalGroupsSequence = frames
    dataset.add_new(0x7FE00010, "OW", values[list(order)].astype("<u2").tobytes())
    if edit is not None:
        edit(dataset)
    return save(dataset, path)


def write_nifti_file(path: Path, shape: tuple[int, ...] = (3, 4, 5)) -> Path:
    """Write a small NIfTI file of ones."""
    import nibabel as nib

    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(np.ones(shape, np.int16), np.eye(4)), path)
    return path


@pytest.fixture
def dicom_files() -> SimpleNamespace:
    """The functions of this file that write DICOM."""
    return SimpleNamespace(
        series=write_series, enhanced=write_enhanced, base=base_dataset, place=place, save=save, values=stored_values
    )


@pytest.fixture
def nifti_file() -> Callable[..., Path]:
    """Write a small NIfTI file of ones: path, shape."""
    return write_nifti_file
