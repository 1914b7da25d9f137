"""Overlap and distance scores: known answers, and agreement with the two libraries that papers quote."""

from __future__ import annotations

import math

import numpy as np
import pytest

from chiasm.pipelines.evaluation.segmentation import (
    BRATS_WORST_HD95_MM,
    brats_scores,
    counts,
    dice,
    surface_distances,
)


def cube(start: int, stop: int, size: int = 12) -> np.ndarray:
    mask = np.zeros((size, size, size), dtype=bool)
    mask[start:stop, 2:6, 2:6] = True
    return mask


def blobs(seed: int) -> tuple[np.ndarray, np.ndarray]:
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(seed)
    field = gaussian_filter(rng.standard_normal((20, 18, 16)), 2)
    other = field + 0.5 * gaussian_filter(rng.standard_normal(field.shape), 2)
    return field > 0.03, other > 0.05


def test_overlap_scores_have_their_textbook_values() -> None:
    c = counts(cube(2, 6), cube(4, 8))  # 64 voxels each, 32 shared, of 1728
    assert (c.true_positive, c.false_positive, c.false_negative, c.true_negative) == (32, 32, 32, 1632)
    assert c.dice == 0.5
    assert c.jaccard == pytest.approx(1 / 3)
    assert c.sensitivity == 0.5
    assert c.precision == 0.5
    assert c.specificity == pytest.approx(1632 / 1664)


def test_sensitivity_and_precision_trade_places_when_the_masks_do() -> None:
    one, other = blobs(0)
    assert counts(one, other).sensitivity == counts(other, one).precision != counts(one, other).precision


def test_a_shift_of_two_voxels_is_a_hausdorff_distance_of_two_spacings() -> None:
    d = surface_distances(cube(2, 6), cube(4, 8), (3.0, 1.0, 1.0))
    assert d.hausdorff == 6.0
    assert d.hd95_max == 6.0
    assert 0 < d.assd < 6.0


def test_equal_masks_are_at_distance_zero() -> None:
    d = surface_distances(cube(2, 6), cube(2, 6))
    assert (d.hausdorff, d.hd95_pooled, d.asd, d.assd) == (0.0, 0.0, 0.0, 0.0)


def test_a_mask_that_fills_the_array_still_has_a_surface() -> None:
    full = np.ones((4, 4, 4), dtype=bool)
    assert surface_distances(full, full).to_reference.size == 4**3 - 2**3


def test_percentiles_of_the_two_definitions_differ_when_the_errors_are_one_sided() -> None:
    reference = cube(2, 6)
    prediction = reference.copy()
    prediction[10, 2:6, 2:6] = True  # a far island that only the prediction has
    d = surface_distances(prediction, reference)
    assert d.hd95_max == d.hd95_directed == 5.0
    assert surface_distances(reference, prediction).hd95_directed == 0.0
    assert d.hd95_pooled <= d.hd95_max


@pytest.mark.parametrize("seed", range(3))
def test_scores_equal_medpy(seed: int) -> None:
    medpy = pytest.importorskip("medpy.metric.binary")
    p, g = blobs(seed)
    spacing = (1.0, 2.0, 0.5)
    c, d = counts(p, g), surface_distances(p, g, spacing)
    assert c.dice == pytest.approx(medpy.dc(p, g))
    assert c.specificity == pytest.approx(medpy.specificity(p, g))
    assert d.hausdorff == pytest.approx(medpy.hd(p, g, spacing))
    assert d.hd95_pooled == pytest.approx(medpy.hd95(p, g, spacing))
    assert d.asd == pytest.approx(medpy.asd(p, g, spacing))
    assert d.assd == pytest.approx(medpy.assd(p, g, spacing))


@pytest.mark.filterwarnings("ignore:.*always_return_as_numpy:FutureWarning")  # MONAI warns about its own call
def test_distances_equal_monai() -> None:
    import torch
    from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance

    p, g = blobs(7)
    spacing = (1.0, 2.0, 0.5)
    d = surface_distances(p, g, spacing)
    pair = [torch.from_numpy(m.astype(np.float32))[None, None] for m in (p, g)]
    options = {"include_background": True, "spacing": spacing}
    for ours, theirs in (
        (d.hd95_max, compute_hausdorff_distance(*pair, percentile=95, **options)),
        (d.hd95_directed, compute_hausdorff_distance(*pair, percentile=95, directed=True, **options)),
        (d.assd, compute_average_surface_distance(*pair, symmetric=True, **options)),
    ):
        assert ours == pytest.approx(theirs.item(), rel=1e-5)


def test_brats_scores_never_leave_a_case_out() -> None:
    empty, full = np.zeros((12, 12, 12), dtype=bool), cube(2, 6)
    assert brats_scores(empty, empty) == (1.0, 0.0)
    assert brats_scores(full, empty) == (0.0, BRATS_WORST_HD95_MM)
    assert brats_scores(empty, full) == (0.0, 373.13)
    assert brats_scores(full, full) == (1.0, 0.0)
    assert brats_scores(cube(2, 6), cube(4, 8), (3.0, 1.0, 1.0)) == (0.5, 6.0)


def test_scores_that_do_not_exist_are_nan_unless_a_rule_is_named() -> None:
    empty = np.zeros((3, 3), dtype=bool)
    assert math.isnan(dice(empty, empty))
    assert dice(empty, empty, both_empty=1.0) == 1.0
    d = surface_distances(empty, ~empty)
    assert all(math.isnan(v) for v in (d.hausdorff, d.hd95_max, d.hd95_pooled, d.asd, d.assd))


def test_masks_of_two_shapes_are_refused_with_both() -> None:
    with pytest.raises(ValueError, match=r"\(2, 2\) and \(2, 3\)"):
        counts(np.zeros((2, 2)), np.zeros((2, 3)))
    with pytest.raises(ValueError, match="spacing must have 2 values, got 3"):
        surface_distances(np.zeros((2, 2)), np.zeros((2, 2)), (1, 1, 1))
