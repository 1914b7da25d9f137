"""Numbers and flags of label maps whose content is known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from chiasm.data.patients import Session
from chiasm.data.volumes import Grid, Volume
from chiasm.pipelines.engine.stage import Context
from chiasm.pipelines.stages.items import Case, Labelled
from chiasm.pipelines.stages.measure import Measure, border_values, count_and_sum

AFFINE = np.array([[-2.0, 0, 0, 40], [0, 0, 1.5, -10], [0, 1, 0, 5], [0, 0, 0, 1]])


def labelled(labels: np.ndarray, mask: np.ndarray | None = None) -> Labelled:
    volume = Volume(labels.astype(np.float32), Grid(labels.shape, AFFINE))
    return Labelled(labels=labels, case=Case(session=Session(patient="1"), channels={"T1w": volume}), mask=mask)


@pytest.mark.parametrize("order", ["C", "F"])
def test_counts_and_centres_are_those_of_a_plain_count(order: str) -> None:
    labels = np.asarray(np.random.default_rng(0).integers(0, 6, (7, 9, 5)), np.uint8, order=order)
    labels[:, 4] = 0
    counts, sums = count_and_sum(labels, 5)
    np.testing.assert_array_equal(counts, np.bincount(labels.ravel(), minlength=6))
    for value in range(1, 6):
        np.testing.assert_allclose(sums[value], np.argwhere(labels == value).sum(axis=0))


def test_volumes_are_voxels_times_the_native_voxel(recipe_of: Any, context: Context) -> None:
    labels = np.zeros((10, 11, 12), np.uint8)
    labels[2:4, 3:6, 5:9] = 1
    labels[5:8, 5:8, 5:8] = 2
    mask = np.zeros(labels.shape, bool)
    mask[1:9, 1:9, 1:9] = True
    measured = Measure(recipe_of()).run(labelled(labels, mask), context)
    assert measured.row == {"brain_ml": 1.536, "low_ml": 0.072, "high_ml": 0.081}
    low = next(m for m in measured.measures if m.name == "low")
    np.testing.assert_allclose(low.centre_mm, (AFFINE @ [2.5, 4, 6.5, 1])[:3], atol=0.006)
    assert context.flags == []


def test_empty_cut_off_and_implausible_labels_are_flagged_in_words(recipe_of: Any, context: Context) -> None:
    labels = np.zeros((10, 11, 12), np.uint8)
    labels[0:4, 3:6, 5:9] = 1
    Measure(recipe_of(plausible_ml={"low": [1, 2]})).run(labelled(labels), context)
    assert context.flags == [
        "low: touches the border of the volume, part of it may be missing",
        "low: 0.1 ml lies outside the plausible range of 1 to 2 ml",
        "high: empty, not one voxel was found",
    ]


@pytest.mark.parametrize("face", range(6))
def test_every_face_counts_as_border(face: int) -> None:
    labels = np.zeros((5, 6, 7), np.uint8)
    labels[2, 2, 2] = 3
    index = [2, 2, 2]
    index[face // 2] = -(face % 2)
    labels[tuple(index)] = 9
    assert border_values(labels) == {9}
