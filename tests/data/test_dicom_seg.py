"""A segmentation object holds the label map that was given, where the source says, in the same bytes each time."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from chiasm.data.dicom import read_series
from chiasm.data.dicom_seg import write_segmentation
from chiasm.data.errors import InputError

NAMES = {1: "CSF", 2: "grey matter", 4: "something else"}
ORIENTATIONS = {"axial": (1, 0, 0, 0, 1, 0), "coronal": (1, 0, 0, 0, 0, -1), "sagittal": (0, 1, 0, 0, 0, -1)}


def some_labels(shape: tuple[int, ...] = (4, 5, 3)) -> np.ndarray:
    return np.random.default_rng(3).choice(np.array([0, 1, 2, 4], np.uint8), shape)


def read_back(path: Path) -> tuple[dict[tuple[float, ...], np.ndarray], Any]:
    """Return label planes by their position, decoded by highdicom frame by frame."""
    hd = pytest.importorskip("highdicom")
    segmentation = hd.seg.segread(path)
    planes: dict[tuple[float, ...], np.ndarray] = {}
    pixels = segmentation.pixel_array.reshape(-1, segmentation.Rows, segmentation.Columns)
    values = dict(enumerate(sorted(NAMES), start=1))
    for frame, group in zip(pixels, segmentation.PerFrameFunctionalGroupsSequence, strict=True):
        place = tuple(float(x) for x in group.PlanePositionSequence[0].ImagePositionPatient)
        number = group.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        planes.setdefault(place, np.zeros(frame.shape, np.uint8))[frame > 0] = values[number]
    return planes, segmentation


@pytest.mark.parametrize("orientation", ORIENTATIONS.values(), ids=ORIENTATIONS)
def test_every_voxel_comes_back_at_its_place(
    orientation: tuple[float, ...], tmp_path: Path, dicom_files: SimpleNamespace
) -> None:
    files = dicom_files.series(tmp_path / "in", orientation=orientation)
    labels = some_labels()
    write_segmentation(tmp_path / "seg.dcm", labels, files, NAMES, seed="recipe")
    planes, segmentation = read_back(tmp_path / "seg.dcm")
    affine = read_series(files).grid.affine
    assert len(planes) == labels.shape[2]
    for k in range(labels.shape[2]):
        lps = affine[:3] @ [0, 0, k, 1] * [-1, -1, 1]
        (plane,) = [value for place, value in planes.items() if np.allclose(place, lps, atol=1e-4)]
        np.testing.assert_array_equal(plane.T, labels[:, :, k])
    shared = segmentation.SharedFunctionalGroupsSequence[0]
    assert [float(x) for x in shared.PixelMeasuresSequence[0].PixelSpacing] == [2.0, 1.5]


def test_highdicom_gives_the_label_map_back_by_source_instance(tmp_path: Path, dicom_files: SimpleNamespace) -> None:
    hd = pytest.importorskip("highdicom")
    files = dicom_files.series(tmp_path / "in")
    labels = some_labels()
    write_segmentation(tmp_path / "seg.dcm", labels, files[::-1], NAMES, seed=1)
    back = hd.seg.segread(tmp_path / "seg.dcm").get_pixels_by_source_instance(
        [f"1.2.3.4.{k}" for k in range(3)], combine_segments=True, relabel=False, ignore_spatial_locations=False
    )
    numbers = np.array([0, 1, 2, 0, 3])
    np.testing.assert_array_equal(back.transpose(2, 1, 0), numbers[labels])


def test_equal_inputs_give_equal_bytes_and_another_seed_another_object(
    tmp_path: Path, dicom_files: SimpleNamespace
) -> None:
    files = dicom_files.series(tmp_path / "in")
    for name, seed in (("a", "x"), ("b", "x"), ("c", "y")):
        write_segmentation(tmp_path / name, some_labels(), files, NAMES, seed=seed)
    first = (tmp_path / "a").read_bytes()
    assert first == (tmp_path / "b").read_bytes()
    assert first != (tmp_path / "c").read_bytes()
    assert b"20200102" in first


def test_source_series_is_referenced_and_segments_are_named(tmp_path: Path, dicom_files: SimpleNamespace) -> None:
    files = dicom_files.series(tmp_path / "in")
    write_segmentation(tmp_path / "seg.dcm", some_labels(), files, NAMES, seed="recipe")
    _, segmentation = read_back(tmp_path / "seg.dcm")
    (referenced,) = segmentation.ReferencedSeriesSequence
    assert referenced.SeriesInstanceUID == "1.2.3.2"
    assert {item.ReferencedSOPInstanceUID for item in referenced.ReferencedInstanceSequence} == {
        f"1.2.3.4.{k}" for k in range(3)
    }
    assert [s.SegmentLabel for s in segmentation.SegmentSequence] == list(NAMES.values())
    assert segmentation.SegmentationType == "BINARY"
    assert (segmentation.StudyInstanceUID, segmentation.PatientID) == ("1.2.3.1", "CANARYID")
    assert (segmentation.ContentDate, segmentation.ContentTime) == ("20200102", "101112")


def test_enhanced_source_keeps_planes_at_their_places(tmp_path: Path, dicom_files: SimpleNamespace) -> None:
    source = dicom_files.enhanced(tmp_path / "in.dcm")
    labels = some_labels()
    write_segmentation(tmp_path / "seg.dcm", labels, [source], NAMES, seed="recipe")
    planes, _ = read_back(tmp_path / "seg.dcm")
    for k in range(3):
        np.testing.assert_array_equal(planes[(-20.0, -30.0, -40.0 + 3 * k)].T, labels[:, :, k])


def test_an_empty_label_map_is_written(tmp_path: Path, dicom_files: SimpleNamespace) -> None:
    files = dicom_files.series(tmp_path / "in")
    write_segmentation(tmp_path / "seg.dcm", np.zeros((4, 5, 3), np.uint8), files, NAMES, seed="recipe")
    planes, segmentation = read_back(tmp_path / "seg.dcm")
    assert not any(plane.any() for plane in planes.values())
    assert len(segmentation.SegmentSequence) == 3


@pytest.mark.parametrize(
    ("code", "shape", "names"),
    [
        ("CHI-IN-051", (5, 4, 3), NAMES),
        ("CHI-IN-052", (4, 5, 3), {1: "CSF"}),
        ("CHI-IN-052", (4, 5, 3), {0: "air", **NAMES}),
    ],
)
def test_labels_that_do_not_fit_are_refused_and_nothing_is_written(
    code: str, shape: tuple[int, ...], names: dict[int, str], tmp_path: Path, dicom_files: SimpleNamespace
) -> None:
    files = dicom_files.series(tmp_path / "in")
    with pytest.raises(InputError) as caught:
        write_segmentation(tmp_path / "out" / "seg.dcm", some_labels(shape), files, names, seed="recipe")
    assert caught.value.code == code
    assert not (tmp_path / "out").exists()
