"""The sheet: voxel counts, retinotopy that turns round at borders, fields that are smooth along the sheet only."""

from __future__ import annotations

import numpy as np
import pytest

from chiasm.data.phantoms.nsd.cortex import AREAS, Cortex, grow_cortex, smooth_field
from chiasm.data.phantoms.nsd.forward_model import ForwardModel

MODEL = ForwardModel()


def grow(seed: int) -> Cortex:
    return grow_cortex(np.random.default_rng(seed), MODEL)


@pytest.mark.parametrize("seed", range(12))
def test_a_sheet_has_900_to_1200_visual_voxels_and_some_beyond(seed: int) -> None:
    cortex = grow(seed)
    assert 900 <= cortex.visual.sum() <= 1200
    assert 100 <= (~cortex.visual).sum() <= 500
    assert (cortex.voxel >= 1).all()
    assert (cortex.voxel < np.array(cortex.shape) - 1).all()
    assert (np.diff(np.ravel_multi_index(tuple(cortex.voxel.T), cortex.shape)) > 0).all()  # C order, none twice
    assert all((cortex.area == i).sum() > 30 for i in range(len(AREAS)))


def test_subjects_differ_in_geometry() -> None:
    assert len({(cortex.shape, len(cortex.area)) for cortex in map(grow, range(5))}) == 5


def test_each_hemisphere_sees_the_other_side_and_lower_field_is_dorsal() -> None:
    cortex = grow(1)
    x, y = cortex.centre_deg.T
    assert (x[cortex.left] > -1e-6).all()
    assert (x[~cortex.left] < 1e-6).all()
    named = np.array(AREAS)[cortex.area]
    for dorsal, ventral in (("V1d", "V1v"), ("V2d", "V2v"), ("V3d", "V3v")):
        assert (y[cortex.visual & (named == dorsal)] <= 0).all()
        assert (y[cortex.visual & (named == ventral)] >= 0).all()
    assert cortex.voxel[cortex.left, 0].max() < cortex.voxel[~cortex.left, 0].min()


def test_polar_angle_is_continuous_across_every_border() -> None:
    cortex = grow(2)
    one = cortex.left & cortex.visual
    order = np.argsort(cortex.sheet_mm[one, 1])
    across, angle = cortex.sheet_mm[one, 1][order], cortex.angle[one][order]
    near = np.diff(across) < 0.3
    assert np.abs(np.diff(angle))[near].max() < 25


def test_eccentricity_follows_cortical_magnification() -> None:
    cortex = grow(3)
    assert cortex.eccentricity[cortex.visual].max() == pytest.approx(MODEL.field_deg / 2, rel=0.1)
    # Half of the length serves the inner 1.2 of 4.2 degrees.
    assert np.median(cortex.eccentricity[cortex.visual]) == pytest.approx(1.17, abs=0.25)


def test_fields_have_unit_variance_and_change_along_the_sheet_only() -> None:
    cortex = grow(4)
    field = smooth_field(cortex, np.random.default_rng(0), 150, length_mm=4.0)
    assert (field**2).mean() == pytest.approx(1, abs=0.05)
    distance = np.linalg.norm(cortex.sheet_mm[:200, None] - cortex.sheet_mm[None, :200], axis=2)
    similar = field[:200] @ field[:200].T / 150
    assert similar == pytest.approx(np.exp(-0.5 * (distance / 4.0) ** 2), abs=0.45)
    assert np.abs(field[cortex.left] @ field[~cortex.left].T / 150).mean() < 0.1


def test_painting_puts_values_at_their_voxels() -> None:
    cortex = grow(5)
    volume = cortex.painted(np.arange(1, len(cortex.area) + 1), fill=-1)
    assert volume[volume > 0].tolist() == list(range(1, len(cortex.area) + 1))
    assert (volume == -1).sum() == np.prod(cortex.shape) - len(cortex.area)
