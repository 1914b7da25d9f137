"""A region from an image of another grid lies where it lies in millimetres."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest

from chiasm.data.errors import InputError
from chiasm.data.fmri.decoding_set import VoxelMask
from chiasm.data.fmri.regions import read_region, region_from_image, regions_within

AFFINE = np.diag([2.0, 2.0, 2.0, 1.0])


def save(path: Path, values: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    nibabel.save(nibabel.Nifti1Image(values, affine), path)
    return path


@pytest.fixture
def mask() -> VoxelMask:
    inside = np.zeros((8, 8, 8), bool)
    inside[1:7, 2:6, 1:7] = True
    return VoxelMask(inside=inside, affine=AFFINE)


def test_same_grid_needs_no_resampling(mask: VoxelMask, tmp_path: Path) -> None:
    labels = np.random.default_rng(0).integers(0, 4, (8, 8, 8)).astype(np.int16)
    path = save(tmp_path / "atlas.nii.gz", labels)
    np.testing.assert_array_equal(region_from_image(mask, path, [1, 3]), np.isin(labels[mask.inside], [1, 3]))
    np.testing.assert_array_equal(region_from_image(mask, path), labels[mask.inside] > 0)


def test_finer_grid_shifted_and_flipped(mask: VoxelMask, tmp_path: Path) -> None:
    # 1 mm voxels with x running the other way: label 5 right of 7 mm, at the places of the coarse grid's centres.
    affine = np.array([[-1.0, 0, 0, 17], [0, 1, 0, -2], [0, 0, 1, -2], [0, 0, 0, 1]])
    x_mm = 17.0 - np.arange(20)
    labels = np.broadcast_to(np.where(x_mm >= 7, 5, 2)[:, None, None], (20, 20, 20)).astype(np.int16)
    path = save(tmp_path / "atlas.nii.gz", np.ascontiguousarray(labels), affine)
    centres_mm = 2.0 * np.argwhere(mask.inside)[:, 0]
    np.testing.assert_array_equal(region_from_image(mask, path, [5]), centres_mm >= 7)
    np.testing.assert_array_equal(region_from_image(mask, path, [2]), centres_mm < 7)


def test_region_outside_of_the_voxels(mask: VoxelMask, tmp_path: Path) -> None:
    path = save(tmp_path / "atlas.nii.gz", np.ones((8, 8, 8), np.int16), AFFINE + np.eye(4, k=3) * 500)
    for labels in ((), (4,)):
        with pytest.raises(InputError) as caught:
            region_from_image(mask, path, labels)
        assert caught.value.code == "CHI-IN-268"


def test_hemispheres_on_two_grids(tmp_path: Path) -> None:
    save(tmp_path / "lh.V1.nii.gz", np.ones((4, 4, 4), np.int16))
    save(tmp_path / "rh.V1.nii.gz", np.ones((4, 4, 4), np.int16), np.eye(4))
    with pytest.raises(InputError) as caught:
        read_region("V1", [tmp_path])
    assert caught.value.code == "CHI-IN-266"


def test_regions_that_cannot_be_used_are_noted(mask: VoxelMask, tmp_path: Path) -> None:
    save(tmp_path / "good.nii.gz", mask.inside.astype(np.int16))
    save(tmp_path / "other.nii.gz", np.ones((4, 4, 4), np.int16))
    save(tmp_path / "none.nii.gz", np.zeros((8, 8, 8), np.int16))
    save(tmp_path / "lh.good.nii.gz", mask.inside.astype(np.int16))
    (tmp_path / "bad.nii.gz").write_bytes(b"no image")
    found, notes = regions_within(mask, tmp_path)
    assert set(found) == {"good"}
    assert found["good"].all()
    assert len(notes) == 2
    assert "other" in notes[1]
    assert "bad" in notes[0]
