"""DICOM phantoms: read with other libraries they are the same heads at the same place."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest

from chiasm.data.errors import RecipeError
from chiasm.data.phantoms.brats import CONTRASTS, patient
from chiasm.data.phantoms.dicom import phantom_affine, uid, write_dicom
from chiasm.data.phantoms.heads import Cohort, template

SMALL = Cohort(patients=1, seed=4, shape=(32, 40, 28), spacing_mm=6.0)


@pytest.fixture(scope="module", params=["axial", "oblique"])
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    out = tmp_path_factory.mktemp(request.param) / "out"
    assert write_dicom(out, SMALL, orientation=request.param) == ["PHANTOM00001"]
    return request.param, out


def test_pixels_and_positions_are_the_phantoms(written: tuple[str, Path]) -> None:
    orientation, out = written
    truth = patient(template(), SMALL, 1)
    affine = phantom_affine(SMALL, orientation)
    files = sorted((out / "PHANTOM00001" / "flair").iterdir())
    assert len(files) == SMALL.shape[2]
    rng = np.random.default_rng(0)
    for k in (0, 15, 27):
        ds = pydicom.dcmread(files[k])
        axes = np.array(ds.ImageOrientationPatient, dtype=float).reshape(2, 3)
        for _ in range(5):
            r, c = int(rng.integers(ds.Rows)), int(rng.integers(ds.Columns))
            # DICOM PS3.3 C.7.6.2.1.1: position + column index along the row vector + row index along the column vector
            lps = np.array(ds.ImagePositionPatient, dtype=float) + 6.0 * (c * axes[0] + r * axes[1])
            voxel = np.linalg.inv(affine) @ [-lps[0], -lps[1], lps[2], 1.0]
            i, j, kk = np.rint(voxel[:3]).astype(int)
            assert np.abs(voxel[:3] - (i, j, kk)).max() < 1e-4
            assert ds.pixel_array[r, c] == truth.images["flair"][i, j, kk]


def test_each_contrast_is_one_series_of_one_study_in_one_frame(written: tuple[str, Path]) -> None:
    _, out = written
    heads = {
        c: [pydicom.dcmread(f, stop_before_pixels=True) for f in (out / "PHANTOM00001" / c).iterdir()]
        for c in CONTRASTS
    }
    every = [ds for series in heads.values() for ds in series]
    assert len({ds.StudyInstanceUID for ds in every}) == len({ds.FrameOfReferenceUID for ds in every}) == 1
    assert len({ds.SeriesInstanceUID for ds in every}) == 4
    assert len({ds.SOPInstanceUID for ds in every}) == len(every)
    assert all(len(ds.SeriesInstanceUID) <= 64 and ds.SOPClassUID == "1.2.840.10008.5.1.4.1.1.4" for ds in every)


def test_slices_run_along_the_normal_at_the_stated_distance(written: tuple[str, Path]) -> None:
    orientation, out = written
    slices = [pydicom.dcmread(f, stop_before_pixels=True) for f in sorted((out / "PHANTOM00001" / "t1").iterdir())]
    positions = np.array([ds.ImagePositionPatient for ds in slices], dtype=float)
    row, column = np.array(slices[0].ImageOrientationPatient, dtype=float).reshape(2, 3)
    np.testing.assert_allclose(np.diff(positions, axis=0), np.tile(6.0 * np.cross(row, column), (27, 1)), atol=1e-5)
    assert (np.abs(row) == [1, 0, 0]).all() == (orientation == "axial")


def test_the_truth_lies_on_the_series_grid(written: tuple[str, Path]) -> None:
    orientation, out = written
    truth = nibabel.load(out / "derivatives" / "truth" / "PHANTOM00001_seg.nii.gz")
    np.testing.assert_allclose(truth.affine, phantom_affine(SMALL, orientation), atol=1e-5)


def test_a_cohort_repeats_byte_for_byte(written: tuple[str, Path], tmp_path: Path) -> None:
    orientation, out = written
    write_dicom(tmp_path / "again", SMALL, orientation=orientation)
    for file in out.rglob("*.dcm"):
        assert (tmp_path / "again" / file.relative_to(out)).read_bytes() == file.read_bytes()


def test_uids_differ_with_every_word_and_repeat() -> None:
    assert uid("a", "bc") == uid("a", "bc") != uid("ab", "c")
    assert uid("a").startswith("2.25.")


def test_an_unknown_orientation_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="axial or oblique"):
        write_dicom(tmp_path / "x", SMALL, orientation="upside-down")
