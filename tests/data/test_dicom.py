"""Series to volumes: order, affine, values, and every stack of slices that is no volume."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from chiasm.data.dicom import CODES, read_series, scan_series
from chiasm.data.errors import InputError

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
A = math.radians(20)
OBLIQUE = (math.cos(A), math.sin(A), 0.0, -math.sin(A) * math.cos(A), math.cos(A) * math.cos(A), -math.sin(A))

# Worked out by hand from PS3.3 C.7.6.2.1.1: x = column * spacing[1] along the row direction, y = row * spacing[0] along
# the column direction, z = slice along their cross product; then the signs of x and y change from LPS to RAS.
GOLDEN = {
    "axial": ((1, 0, 0, 0, 1, 0), [[-1.5, 0, 0, 20], [0, -2, 0, 30], [0, 0, 3, -40]]),
    "coronal": ((1, 0, 0, 0, 0, -1), [[-1.5, 0, 0, 20], [0, 0, -3, 30], [0, -2, 0, -40]]),
    "sagittal": ((0, 1, 0, 0, 0, -1), [[0, 0, 3, 20], [-1.5, 0, 0, 30], [0, -2, 0, -40]]),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_affine_of_an_orthogonal_series_is_the_one_worked_out_by_hand(
    name: str, tmp_path: Path, dicom_files: SimpleNamespace
) -> None:
    orientation, wanted = GOLDEN[name]
    volume = read_series(dicom_files.series(tmp_path, orientation=orientation))
    np.testing.assert_allclose(volume.grid.affine[:3], wanted, atol=1e-6)


@pytest.mark.parametrize("orientation", [g[0] for g in GOLDEN.values()] + [OBLIQUE, (-1, 0, 0, 0, 1, 0)])
def test_every_voxel_lies_where_its_own_slice_says(
    orientation: tuple[float, ...], tmp_path: Path, dicom_files: SimpleNamespace
) -> None:
    origin, step = np.array([-20.0, -30.0, -40.0]), 3.0
    volume = read_series(dicom_files.series(tmp_path, orientation=orientation, step=step))
    stored = dicom_files.values()
    row, column = np.array(orientation[:3]), np.array(orientation[3:])
    normal = np.cross(row, column)
    assert volume.grid.shape == (4, 5, 3)
    for k, r, c in [(0, 0, 0), (2, 4, 3), (1, 2, 0), (0, 4, 1)]:
        lps = origin + k * step * normal + c * 1.5 * row + r * 2.0 * column
        ras = LPS_TO_RAS @ np.array([*lps, 1.0])
        index = np.rint(np.linalg.inv(volume.grid.affine) @ ras).astype(int)[:3]
        np.testing.assert_allclose(volume.grid.affine @ [*index, 1], ras, atol=1e-4)
        assert volume.values[tuple(index)] == stored[k, r, c]


def test_order_of_the_files_does_not_matter(tmp_path: Path, dicom_files: SimpleNamespace) -> None:
    files = dicom_files.series(tmp_path)
    forward, backward = read_series(files), read_series(files[::-1])
    np.testing.assert_array_equal(forward.values, backward.values)
    np.testing.assert_array_equal(forward.grid.affine, backward.grid.affine)
    assert forward.grid.nifti_header == b""


def test_a_stack_written_against_the_normal_is_the_same_volume(tmp_path: Path, dicom_files: SimpleNamespace) -> None:
    up = read_series(dicom_files.series(tmp_path / "up"))
    places = [(-20, -30, -40 + 3 * k) for k in (2, 1, 0)]
    down = read_series(dicom_files.series(tmp_path / "down", positions=places, values=dicom_files.values()[::-1]))
    np.testing.assert_array_equal(up.values, down.values)
    np.testing.assert_allclose(up.grid.affine, down.grid.affine)


def test_rescale_of_each_slice_is_applied(tmp_path: Path, dicom_files: SimpleNamespace) -> None:
    def edit(dataset: Any, index: int) -> None:
        dataset.RescaleSlope, dataset.RescaleIntercept = str(index + 0.5), "-100"

    volume = read_series(dicom_files.series(tmp_path, edit=edit))
    stored = dicom_files.values().astype(np.float64)
    wanted = np.stack([stored[k] * (k + 0.5) - 100 for k in range(3)]).transpose(2, 1, 0)
    np.testing.assert_allclose(volume.values, wanted)
    assert volume.values.dtype == np.float32


def test_signed_values_and_bits_above_the_stored_ones_are_read_right(
    tmp_path: Path, dicom_files: SimpleNamespace
) -> None:
    def edit(dataset: Any, index: int) -> None:
        dataset.PixelRepresentation, dataset.BitsStored, dataset.HighBit = 1, 12, 11
        dataset.PixelData = np.full((5, 4), 0x0FFF | 0x3000, "<u2").tobytes()  # -1 in 12 bits, an overlay above

    assert np.unique(read_series(dicom_files.series(tmp_path, edit=edit)).values).tolist() == [-1.0]


def test_enhanced_multiframe_equals_the_classic_series(tmp_path: Path, dicom_files: SimpleNamespace) -> None:
    def edit(dataset: Any, index: int) -> None:
        dataset.RescaleSlope, dataset.RescaleIntercept = "0.5", "-10"

    classic = read_series(dicom_files.series(tmp_path / "classic", edit=edit))
    enhanced = read_series([dicom_files.enhanced(tmp_path / "enhanced.dcm")])
    np.testing.assert_array_equal(enhanced.values, classic.values)
    np.testing.assert_allclose(enhanced.grid.affine, classic.grid.affine)


def _slices(dicom_files: SimpleNamespace, folder: Path, along: list[float], shear: float = 0.0) -> list[Path]:
    places = [(-20, -30 + shear * z, z) for z in along]
    return list(dicom_files.series(folder, positions=places, values=dicom_files.values(n=len(along))))


@pytest.mark.parametrize(
    ("code", "along", "shear"),
    [
        ("CHI-IN-039", [0, 3, 3, 6], 0),
        ("CHI-IN-040", [0, 3, 6, 12, 15], 0),
        ("CHI-IN-041", [0, 3, 6, 10, 14], 0),
        ("CHI-IN-042", [0, 3, 6, 9], 0.2),
        ("CHI-IN-043", [0], 0),
        ("CHI-IN-045", [0, 30, 60], 0),
    ],
)
def test_slices_that_make_no_even_stack_are_refused_by_name(
    code: str, along: list[float], shear: float, tmp_path: Path, dicom_files: SimpleNamespace
) -> None:
    with pytest.raises(InputError) as caught:
        read_series(_slices(dicom_files, tmp_path, along, shear))
    assert caught.value.code == code


def test_missing_slices_are_counted(tmp_path: Path, dicom_files: SimpleNamespace) -> None:
    with pytest.raises(InputError, match=r"2 slice\(s\) missing: 5 of 7"):
        read_series(_slices(dicom_files, tmp_path, [0, 3, 6, 9, 18]))


def test_gantry_tilt_is_given_in_degrees(tmp_path: Path, dicom_files: SimpleNamespace) -> None:
    with pytest.raises(InputError, match=r"11\.31 degrees"):
        read_series(_slices(dicom_files, tmp_path, [0, 3, 6], shear=0.2))


def test_rounding_in_positions_is_no_mixed_spacing(tmp_path: Path, dicom_files: SimpleNamespace) -> None:
    volume = read_series(_slices(dicom_files, tmp_path, [0, 1.0003, 2.0, 2.9998, 4.0]))
    assert volume.grid.spacing_mm[2] == pytest.approx(1.0, abs=1e-4)


def test_series_are_grouped_by_uid_and_orientation(tmp_path: Path, dicom_files: SimpleNamespace) -> None:
    def other(dataset: Any, index: int) -> None:
        dataset.SeriesInstanceUID, dataset.SeriesDescription = "1.2.3.99", "FLAIR"

    files = dicom_files.series(tmp_path / "a")
    files += dicom_files.series(tmp_path / "b", orientation=GOLDEN["sagittal"][0])
    files += dicom_files.series(tmp_path / "c", edit=other)
    found = scan_series(files, tmp_path)
    assert [(s.files[0].parent.name, len(s.files)) for s in found] == [("a", 3), ("b", 3), ("c", 3)]
    assert "FLAIR" in found[2].words
    assert found[0].files == tuple(files[:3])


def test_objects_without_pixels_and_localizers_are_left_out(tmp_path: Path, dicom_files: SimpleNamespace) -> None:
    def scout(dataset: Any, index: int) -> None:
        dataset.SeriesInstanceUID, dataset.ImageType = "1.2.3.98", ["ORIGINAL", "PRIMARY", "LOCALIZER"]

    files = dicom_files.series(tmp_path / "a") + dicom_files.series(tmp_path / "b", edit=scout)
    report = dicom_files.base(uid="1.2.3.77", sop_class="1.2.840.10008.5.1.4.1.1.88.22")
    files.append(dicom_files.save(report, tmp_path / "report"))
    assert [s.files[0].parent.name for s in scan_series(files, tmp_path)] == ["a"]


def test_a_damaged_file_beside_a_series_is_its_problem(tmp_path: Path, dicom_files: SimpleNamespace) -> None:
    files = dicom_files.series(tmp_path / "a")
    files[1].write_bytes(files[1].read_bytes()[:300])
    (found,) = scan_series(sorted(files), tmp_path)
    assert [problem.code for problem in found.problems] == ["CHI-IN-030"]
    assert found.problems[0].file.startswith("a/IM")


def test_two_patients_in_one_folder_are_refused(tmp_path: Path, dicom_files: SimpleNamespace) -> None:
    def edit(dataset: Any, index: int) -> None:
        dataset.PatientID = f"CANARY{index}"

    with pytest.raises(InputError, match="3 patients") as caught:
        scan_series(dicom_files.series(tmp_path, edit=edit), tmp_path)
    assert caught.value.code == "CHI-IN-050"
    assert "CANARY" not in str(caught.value)


def test_every_code_is_in_the_range_of_dicom() -> None:
    assert all("CHI-IN-030" <= code <= "CHI-IN-059" for code in CODES)


@pytest.mark.parametrize(
    "name", ["MR_small.dcm", "MR_small_implicit.dcm", "MR_small_bigendian.dcm", "MR_small_RLE.dcm"]
)
def test_pixels_of_public_files_equal_pydicoms(name: str, tmp_path: Path) -> None:
    pydicom = pytest.importorskip("pydicom")
    source = Path(pydicom.__file__).parent / "data" / "test_files" / name
    if not source.is_file():
        pytest.skip(f"pydicom ships no {name}")
    dataset = pydicom.dcmread(source)
    wanted = dataset.pixel_array
    copies = []
    for index in range(2):
        dataset.ImagePositionPatient = [0, 0, 5 * index]
        dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        dataset.save_as(tmp_path / f"{index}.dcm")
        copies.append(tmp_path / f"{index}.dcm")
    values = read_series(copies).values
    np.testing.assert_array_equal(values[:, :, 0].T, wanted)


def test_a_public_enhanced_series_lies_where_highdicom_says() -> None:
    store = pytest.importorskip("data_store", reason="the package pydicom-data is not installed")
    highdicom = pytest.importorskip("highdicom")
    path = Path(store.__file__).parent / "data" / "eCT_Supplemental.dcm"
    wanted = highdicom.imread(path).get_volume()
    volume = read_series([path])
    for k, r, c in [(0, 0, 0), (1, 300, 200), (1, 511, 511)]:
        ras = LPS_TO_RAS @ wanted.affine @ [k, r, c, 1]
        index = np.rint(np.linalg.inv(volume.grid.affine) @ ras).astype(int)[:3]
        np.testing.assert_allclose(volume.grid.affine @ [*index, 1], ras, atol=1e-3)
        assert volume.values[tuple(index)] == pytest.approx(wanted.array[k, r, c])
