"""The two-look brain mask, with networks that are thresholds: each step's effect can be known."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from chiasm.data.errors import InputError
from chiasm.heads.brain_mask import BrainMasker, bounding_box, largest_component

CH2 = Path("/usr/share/mricron/templates/ch2.nii.gz")


class Threshold(nn.Module):
    """Brain is what lies over the mean of the standardised intensities."""

    def __init__(self, at: float = 0.449) -> None:
        super().__init__()
        self.at = nn.Parameter(torch.tensor(at), requires_grad=False)
        self.seen: list[torch.Tensor] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen.append(x)
        return torch.cat([self.at.expand_as(x), x], 1)


def masker(**settings: object) -> BrainMasker:
    return BrainMasker(Threshold(), Threshold(), coarse_shape=(16, 16, 16), fine_shape=(32, 32, 32), **settings)


def head(shape: tuple[int, int, int] = (32, 32, 32)) -> np.ndarray:
    values = np.zeros(shape, np.float32)
    values[8:24, 8:24, 8:24] = 100
    return values


def test_a_cube_is_found_exactly() -> None:
    values = head()
    np.testing.assert_array_equal(masker()(values), values > 0)


def test_holes_are_filled_and_islands_dropped() -> None:
    values = head()
    values[14:18, 14:18, 14:18] = 0
    values[0:2, 0:2, 0:2] = 100
    np.testing.assert_array_equal(masker()(values), head() > 0)


def test_the_scale_and_offset_of_intensities_do_not_matter_and_the_input_is_left_alone() -> None:
    values = head() * 7 + 300
    before = values.copy()
    np.testing.assert_array_equal(masker()(values), head() > 0)
    np.testing.assert_array_equal(values, before)


def test_values_that_are_not_numbers_count_as_zero() -> None:
    values = head()
    values[0, 0, 0] = np.nan
    np.testing.assert_array_equal(masker()(values), head() > 0)


def test_the_fine_network_sees_the_box_and_the_published_mean_and_deviation() -> None:
    look = masker()
    look(head())
    (window,) = look.fine.seen
    assert window.shape == (1, 1, 32, 32, 32)
    assert (window > 0.449).float().mean() > 0.3  # the cube is an eighth of the volume, but most of the box
    np.testing.assert_allclose([window.mean(), window.std()], [0.449, 0.226], rtol=1e-4)


@pytest.mark.parametrize("values", [np.zeros((16, 16, 16)), np.full((16, 16, 16), 5.0)])
def test_a_volume_without_contrast_has_no_brain(values: np.ndarray) -> None:
    with pytest.raises(InputError, match="no brain found") as error:
        masker()(values.astype(np.float32))
    assert error.value.code == "CHI-IN-110"


def test_a_network_that_finds_nothing_ends_in_the_coded_error() -> None:
    with pytest.raises(InputError, match="no brain found"):
        BrainMasker(Threshold(99.0), Threshold(), coarse_shape=(16, 16, 16), fine_shape=(16, 16, 16))(head())


def test_the_box_has_a_tenth_more_on_each_side_and_stays_inside() -> None:
    mask = np.zeros((10, 10, 10), bool)
    mask[2:7, 0:10, 4:6] = True
    assert bounding_box(mask, (100, 50, 10)) == (slice(15, 75), slice(0, 50), slice(4, 6))


def test_regions_that_touch_at_a_corner_hang_together() -> None:
    mask = np.zeros((6, 6, 6), bool)
    mask[0, 0, 0] = mask[1, 1, 1] = True
    mask[4, 4, 4] = True
    assert largest_component(mask).sum() == 2


@pytest.mark.skipif(not CH2.exists(), reason="needs the Debian package mricron-data")
@pytest.mark.slow
def test_colin27_is_outlined_as_published() -> None:
    nibabel = pytest.importorskip("nibabel")
    from chiasm.pipelines.engine.components import load_component
    from chiasm.pipelines.engine.weights import find
    from chiasm.pipelines.recipes import ComponentSpec

    os.environ.pop("CHIASM_WEIGHTS", None)
    look = load_component(ComponentSpec(kind="brain-mask"), [find("chiasm/brain-mask")], "cpu")
    image = nibabel.as_closest_canonical(nibabel.load(CH2))
    truth = nibabel.as_closest_canonical(nibabel.load(CH2.with_name("ch2bet.nii.gz"))).get_fdata() > 0
    ours = look(image.get_fdata(dtype=np.float32))
    assert 2 * (ours & truth).sum() / (ours.sum() + truth.sum()) >= 0.935
