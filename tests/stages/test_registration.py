"""A known rotation and translation is found again, whatever the contrast."""

from __future__ import annotations

from pathlib import Path

import nilearn
import numpy as np
import pytest

from chiasm.data.errors import InputError
from chiasm.data.geometry import Canonical, Resampling
from chiasm.data.nifti import read_volume
from chiasm.data.volumes import Grid, Volume
from chiasm.pipelines.stages.registration import Registration, register, resample

pytest.importorskip("SimpleITK")

TURN_DEGREES = np.array([7.0, -5.0, 9.0])
MOVE_MM = np.array([6.0, -4.0, 8.0])


def euler(degrees: np.ndarray) -> np.ndarray:
    rotation = np.eye(3)
    for axis, angle in enumerate(np.radians(degrees)):
        c, s = np.cos(angle), np.sin(angle)
        one = np.eye(3)
        i, j = [a for a in range(3) if a != axis]
        one[i, i], one[i, j], one[j, i], one[j, j] = c, -s, s, c
        rotation = rotation @ one
    return rotation


@pytest.fixture(scope="module")
def pair() -> tuple[Volume, Volume, np.ndarray]:
    """A brain at 4 mm; the same moved, with inverted contrast, on a grid of its own; and the move."""
    path = Path(nilearn.__file__).parent / "datasets/data/mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"
    whole = read_volume(path)
    canonical = Canonical.from_affine(whole.grid.affine)
    smaller = Resampling.to_spacing(canonical.grid(whole.grid), 4.0)
    fixed = Volume(smaller.to_target(canonical.forward(whole.values)), smaller.target)
    truth = np.eye(4)
    truth[:3, :3], truth[:3, 3] = euler(TURN_DEGREES), MOVE_MM
    affine = np.diag([-3.5, 3.5, 5.0, 1.0])  # stored from right to left, with thicker slices
    affine[:3, 3] = (95, -135, -85)
    moved = resample(whole, Grid((55, 66, 38), affine), Registration(np.linalg.inv(truth), 0.0, (0.0, 0.0, 0.0)))
    inverted = np.where(moved.values > 5, 255 - moved.values, 0).astype(np.float32)
    return fixed, Volume(inverted, moved.grid), truth


@pytest.fixture(scope="module")
def found(pair: tuple[Volume, Volume, np.ndarray]) -> Registration:
    return register(pair[0], pair[1])


def test_a_known_rigid_move_is_found_within_1_mm_and_1_degree(
    pair: tuple[Volume, Volume, np.ndarray], found: Registration
) -> None:
    truth = pair[2]
    wrong = found.matrix @ np.linalg.inv(truth)
    turn = np.degrees(np.arccos(np.clip((np.trace(wrong[:3, :3]) - 1) / 2, -1, 1)))
    corners = np.array([[x, y, z, 1.0] for x in (-60, 60) for y in (-90, 60) for z in (-50, 70)])
    distances = np.linalg.norm((corners @ (found.matrix - truth).T)[:, :3], axis=1)
    assert turn < 1.0
    assert distances.max() < 1.0
    assert found.turn_degrees == pytest.approx(np.degrees(np.arccos((np.trace(truth[:3, :3]) - 1) / 2)), abs=1.0)


def test_the_same_input_gives_the_same_transform(pair: tuple[Volume, Volume, np.ndarray], found: Registration) -> None:
    np.testing.assert_array_equal(register(pair[0], pair[1]).matrix, found.matrix)


def test_a_registered_channel_lies_on_the_reference(
    pair: tuple[Volume, Volume, np.ndarray], found: Registration
) -> None:
    fixed, moving, _ = pair
    brain = fixed.values > 20
    with_it = resample(moving, fixed.grid, found).values
    without = resample(moving, fixed.grid, Registration(np.eye(4), 0.0, (0.0, 0.0, 0.0))).values
    assert np.corrcoef(with_it[brain], -fixed.values[brain])[0, 1] > 0.85
    assert np.corrcoef(without[brain], -fixed.values[brain])[0, 1] < 0.5


def test_sheared_axes_are_refused(pair: tuple[Volume, Volume, np.ndarray]) -> None:
    fixed, moving, _ = pair
    affine = moving.grid.affine.copy()
    affine[0, 1] = 0.4
    with pytest.raises(InputError) as caught:
        register(fixed, Volume(moving.values, Grid(moving.grid.shape, affine)))
    assert caught.value.code == "CHI-IN-099"
