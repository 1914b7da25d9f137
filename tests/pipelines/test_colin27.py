"""A real head that was never trained on, through `chiasm.load`: Colin27, of the Debian package mricron-data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import chiasm
from chiasm.data.nifti import read_volume
from chiasm.pipelines.api import Predictor
from chiasm.pipelines.evaluation.segmentation import dice

HEAD = Path("/usr/share/mricron/templates/ch2.nii.gz")
BRAIN = Path("/usr/share/mricron/templates/ch2bet.nii.gz")
GREY, WHITE = 2, 3

pytestmark = pytest.mark.skipif(not HEAD.is_file(), reason="Colin27 is not installed (Debian package mricron-data)")


@dataclass(frozen=True, eq=False)
class Colin:
    segment: Predictor
    values: NDArray[np.float32]
    affine: NDArray[np.float64]
    labels: NDArray[np.generic]
    volumes_ml: dict[str, float]


@pytest.fixture(scope="module")
def colin() -> Colin:
    head = read_volume(HEAD)
    segment = chiasm.load("brain-tissue")
    values = np.asarray(head.values, np.float32)
    found = segment(values, head.grid.affine)
    return Colin(segment, values, head.grid.affine, found.labels, found.volumes_ml)


def tissue_dice(a: NDArray[np.generic], b: NDArray[np.generic]) -> list[float]:
    return [dice(a == tissue, b == tissue) for tissue in (GREY, WHITE)]


def test_the_mask_is_the_brain(colin: Colin) -> None:
    assert dice(colin.labels > 0, np.asarray(read_volume(BRAIN).values) > 0) >= 0.93


def test_volumes_are_those_of_an_adult(colin: Colin) -> None:
    assert 700 < colin.volumes_ml["grey matter"] < 1200
    assert 400 < colin.volumes_ml["white matter"] < 800


def test_tissues_agree_with_a_gaussian_mixture_in_the_same_mask(colin: Colin) -> None:
    from sklearn.mixture import GaussianMixture

    mask = colin.labels > 0
    inside = colin.values[mask].reshape(-1, 1).astype(np.float64)
    mixture = GaussianMixture(3, random_state=0, n_init=2).fit(inside[::20])
    rank = np.argsort(np.argsort(mixture.means_.ravel()))  # T1: CSF darkest, white matter brightest
    labels = np.zeros(mask.shape, np.uint8)
    labels[mask] = rank[mixture.predict(inside)] + 1
    assert min(tissue_dice(colin.labels, labels)) >= 0.75


def test_a_head_that_comes_rotated_is_segmented_alike(colin: Colin) -> None:
    from scipy.ndimage import rotate

    moved = colin.segment(rotate(colin.values, 15, axes=(0, 1), reshape=False, order=1), colin.affine).labels
    back = rotate(np.asarray(moved, np.uint8), -15, axes=(0, 1), reshape=False, order=0)
    assert min(tissue_dice(back, colin.labels)) >= 0.90


def test_inverted_contrast_with_the_mask_is_segmented_alike(colin: Colin) -> None:
    mask = (colin.labels > 0).astype(np.float32)
    inverted = colin.segment({"T1w": colin.values.max() - colin.values, "mask": mask}, colin.affine).labels
    assert min(tissue_dice(inverted, colin.labels)) >= 0.80
