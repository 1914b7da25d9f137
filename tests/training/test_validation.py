from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from chiasm.pipelines.recipes import Recipe, parse_recipe
from chiasm.pipelines.training.validation import predict, predicted_regions, score_volumes, true_regions

HEAD = """
recipe: 1
pipeline: segmentation
title: test
channels: {t1: {}}
components: {network: {kind: unet3d}}
windows: {size: [16, 16, 16], overlap: 0.5}
"""


def recipe(text: str) -> Recipe:
    return parse_recipe(HEAD + text, name="test")


CLASSES = recipe("labels: {1: outer, 2: inner}\n")
REGIONS = recipe("regions: [{name: whole, labels: [1, 2], write: 1}, {name: core, labels: [2], write: 2}]\n")


class Reads(nn.Module):
    """Knows the labels: the image holds them."""

    def __init__(self, regions: bool) -> None:
        super().__init__()
        self.regions = regions

    def forward(self, x: Tensor) -> Tensor:
        if self.regions:
            return torch.cat([x - 0.5, x - 1.5], dim=1)
        return torch.cat([-((x - k) ** 2) for k in range(3)], dim=1)


def volume() -> tuple[Tensor, np.ndarray, tuple[float, float, float]]:
    labels = np.zeros((20, 24, 18), np.uint8)
    labels[4:14, 6:16, 4:12] = 1
    labels[6:10, 8:12, 6:10] = 2
    return torch.from_numpy(labels.astype(np.float32))[None], labels, (1.0, 1.0, 2.0)


@pytest.mark.parametrize("which", [CLASSES, REGIONS], ids=["classes", "regions"])
def test_a_network_that_knows_scores_one_and_no_distance(which: Recipe) -> None:
    scores = score_volumes(Reads(bool(which.regions)), [volume(), volume()], which)
    names = [r.name for r in which.regions] or list(which.labels.values())
    assert scores == {"dice": 1.0, **{f"dice_{n}": 1.0 for n in names}, **{f"hd95_mm_{n}": 0.0 for n in names}}


def test_distances_are_in_millimetres() -> None:
    image, labels, spacing = volume()
    shifted = np.roll(labels, 3, axis=2)
    scores = score_volumes(Reads(True), [(image, shifted, spacing)], REGIONS)
    assert scores["hd95_mm_whole"] == pytest.approx(6.0)
    assert scores["dice_whole"] == pytest.approx(5 / 8, abs=1e-3)


def test_an_empty_region_follows_the_brats_rules() -> None:
    image, labels, spacing = volume()
    nothing = np.zeros_like(labels)
    assert score_volumes(Reads(True), [(image * 0, nothing, spacing)], REGIONS)["dice"] == 1.0
    missed = score_volumes(Reads(True), [(image * 0, labels, spacing)], REGIONS)
    assert missed["dice_whole"] == 0.0
    assert missed["hd95_mm_whole"] == 373.13


def test_no_volumes_give_no_scores() -> None:
    assert score_volumes(Reads(True), [], REGIONS) == {}


def test_prediction_and_truth_name_the_same_masks() -> None:
    image, labels, _ = volume()
    for which in (CLASSES, REGIONS):
        predicted = predicted_regions(predict(Reads(bool(which.regions)), image, which), which)
        truth = true_regions(labels, which)
        assert predicted.keys() == truth.keys()
        assert all(np.array_equal(predicted[name], truth[name]) for name in truth)
