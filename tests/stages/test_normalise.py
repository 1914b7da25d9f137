"""Intensities: the same numbers as MONAI's transform, and nothing outside the mask."""

from __future__ import annotations

import numpy as np
import pytest

from chiasm.pipelines.stages.normalise import normalise


@pytest.fixture
def image() -> np.ndarray:
    generator = np.random.default_rng(5)
    values = generator.gamma(3, 200, (12, 14, 10)).astype(np.float32)
    values[generator.random(values.shape) < 0.5] = 0
    return values


def test_zscore_equals_monai(image: np.ndarray) -> None:
    transforms = pytest.importorskip("monai.transforms")
    expected = np.asarray(transforms.NormalizeIntensity(nonzero=True, channel_wise=True)(image[None].copy())[0])
    normalise(image, "zscore-nonzero")
    np.testing.assert_allclose(image, expected, atol=2e-6)
    assert (image[expected == 0] == 0).all()


def test_zscore_over_a_mask_counts_its_zeros_and_clears_the_outside(image: np.ndarray) -> None:
    mask = np.zeros(image.shape, bool)
    mask[3:9, 2:12, 4:8] = True
    inside = image[mask].astype(np.float64)
    assert (inside == 0).any()
    normalise(image, "zscore-nonzero", mask)
    np.testing.assert_allclose(image[mask], (inside - inside.mean()) / inside.std(), atol=1e-5)
    assert (image[~mask] == 0).all()


def test_percentile_scales_the_bulk_to_0_to_1_and_clips_the_rest(image: np.ndarray) -> None:
    low, high = np.percentile(image, (0.5, 99.5))
    expected = np.clip((image - low) / (high - low), 0, 1)
    normalise(image, "percentile")
    np.testing.assert_allclose(image, expected, atol=1e-6)


def test_a_volume_without_contrast_gives_zeros_not_nan() -> None:
    for how in ("zscore-nonzero", "percentile"):
        flat = np.full((4, 4, 4), 7, np.float32)
        normalise(flat, how)
        assert np.isfinite(flat).all()
        assert not flat.any()


def test_none_changes_nothing_inside_the_mask(image: np.ndarray) -> None:
    mask = image > 300
    before = image.copy()
    normalise(image, "none", mask)
    np.testing.assert_array_equal(image, np.where(mask, before, 0))
