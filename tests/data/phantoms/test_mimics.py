"""What mimics a tumour lies where it does in people, and leaves the rest alone."""

from __future__ import annotations

import numpy as np
import pytest

from chiasm.data.phantoms.brats import CONTRASTS
from chiasm.data.phantoms.heads import Cohort, brain, template
from chiasm.data.phantoms.label_maps import CSF, GREY, WHITE, Draw
from chiasm.data.phantoms.mimics import BURDEN, SIGNALS, mimics

COHORT = Cohort(patients=1, seed=5, shape=(64, 64, 56), spacing_mm=3.0)


@pytest.fixture(scope="module")
def tissue() -> np.ndarray:
    return brain(template(), COHORT.draw(1), COHORT.shape, COHORT.spacing_mm)


def test_amounts_are_shares_and_stay_in_the_brain(tissue: np.ndarray) -> None:
    found = mimics(tissue, Draw(0, 1), 3.0)
    assert set(found) == set(SIGNALS)
    for amount in found.values():
        assert amount.dtype == np.float32
        assert amount.min() == 0.0
        assert 0.5 < amount.max() <= 1.0
        assert not amount[tissue == 0].any()


@pytest.mark.parametrize("index", range(4))
def test_lesions_lie_in_white_matter_take_the_stated_share_and_prefer_the_ventricles(
    tissue: np.ndarray, index: int
) -> None:
    from scipy.ndimage import distance_transform_edt

    lesions = mimics(tissue, Draw(0, index), 3.0)["lesions"]
    white = tissue == WHITE
    assert not lesions[~white].any()
    half = lesions > lesions.max() / 2
    assert BURDEN[0] * 0.8 <= half.sum() / white.sum() <= BURDEN[1] * 1.1
    depth = distance_transform_edt(tissue > 0, sampling=3.0)
    near = white & (distance_transform_edt(~((tissue == CSF) & (depth > 25)), sampling=3.0) < 5)
    assert half[near].mean() > 2 * half[white & ~near].mean()


def test_what_takes_up_contrast_agent_is_sparse_and_at_the_surface(tissue: np.ndarray) -> None:
    vascular = mimics(tissue, Draw(0, 0), 3.0)["vascular"]
    inside = tissue > 0
    assert 0.005 < (vascular[inside] > 0.2).mean() < 0.15
    assert vascular[(tissue == CSF) | (tissue == GREY)].mean() > vascular[tissue == WHITE].mean()


def test_a_brain_without_white_matter_or_ventricles_is_no_error() -> None:
    ball = np.zeros((20, 20, 20), dtype=np.uint8)
    ball[5:15, 5:15, 5:15] = GREY
    assert not mimics(ball, Draw(0, 0), 2.0)["lesions"].any()


def test_every_contrast_has_a_signal_of_every_mimic_with_the_signs_of_the_clinic() -> None:
    assert all(set(signals) == set(CONTRASTS) for signals in SIGNALS.values())
    assert SIGNALS["lesions"]["flair"] > 0 > SIGNALS["lesions"]["t1"]
    assert SIGNALS["vascular"]["t1ce"] > 3 * abs(SIGNALS["vascular"]["flair"])


def test_equal_draws_are_equal(tissue: np.ndarray) -> None:
    one, other = (mimics(tissue, Draw(3, 1), 3.0) for _ in range(2))
    assert all((one[kind] == other[kind]).all() for kind in one)
