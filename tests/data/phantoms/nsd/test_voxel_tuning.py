"""Voxels: early ones answer to places, ventral ones to categories, neighbours are alike, and people share the category space."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from chiasm.data.phantoms.nsd.cortex import AREAS, Cortex, grow_cortex
from chiasm.data.phantoms.nsd.forward_model import ForwardModel, channels, grid_deg
from chiasm.data.phantoms.nsd.stimulus_sources import load_stimuli
from chiasm.data.phantoms.nsd.voxel_tuning import Tuning, category_vector, draw_tuning, responses

MODEL = ForwardModel()


@cache
def made() -> tuple[Cortex, Tuning, np.ndarray, list[str], np.ndarray]:
    """Return one subject's cortex and tuning, channels, categories and responses."""
    source = load_stimuli("fashion-mnist-small")
    driven, categories = channels(source.images[:300], MODEL), list(source.categories[:300])
    cortex = grow_cortex(np.random.default_rng(1), MODEL)
    tuning = draw_tuning(cortex, np.random.default_rng(2), MODEL)
    return cortex, tuning, driven, categories, responses(driven, categories, tuning, MODEL)


def areas(cortex: Cortex) -> np.ndarray:
    return np.array(AREAS)[cortex.area[cortex.visual]]


def test_responses_are_z_scored() -> None:
    answers = made()[-1]
    assert answers.mean(axis=0) == pytest.approx(0, abs=1e-4)
    assert answers.std(axis=0) == pytest.approx(1, abs=1e-3)


def test_category_explains_ventral_voxels_and_not_all_of_them() -> None:
    cortex, _, _, categories, answers = made()
    labels = np.array(categories)
    between = np.zeros(answers.shape[1])
    for name in set(categories):
        between += (labels == name).mean() * answers[labels == name].mean(axis=0) ** 2
    named = areas(cortex)
    ventral, v1 = (float(np.median(between[np.char.startswith(named, name)])) for name in ("ventral", "V1"))
    assert 0.3 < ventral < 0.95  # graded inside a category
    assert v1 < ventral - 0.1


def test_a_label_moves_ventral_voxels_and_no_early_one() -> None:
    cortex, tuning, driven, categories, answers = made()
    swapped = ["bag" if name == "coat" else "coat" if name == "bag" else name for name in categories]
    other = responses(driven, swapped, tuning, MODEL)
    early = np.char.startswith(areas(cortex), "V")
    assert other[:, early] == pytest.approx(answers[:, early], abs=1e-5)
    assert np.abs(other - answers)[:, areas(cortex) == "ventral"].max() > 1


def test_a_category_is_the_same_place_for_everyone_and_on_every_run() -> None:
    vector = category_vector("bag", 6)
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-6)
    assert (category_vector("bag", 6) == vector).all()
    assert np.abs(category_vector("coat", 6) - vector).max() > 0.1
    assert vector[:2] == pytest.approx(category_vector("bag", 6)[:2])


def test_receptive_fields_grow_with_eccentricity_and_from_v1_on() -> None:
    cortex, tuning, *_ = made()
    named, far = areas(cortex), cortex.eccentricity[cortex.visual] > 2
    v1 = np.char.startswith(named, "V1")
    assert np.median(tuning.size_deg[v1 & far]) > 1.3 * np.median(tuning.size_deg[v1 & ~far])
    sizes = [
        np.median(tuning.size_deg[np.char.startswith(named, name)]) for name in ("V1", "V2", "V3", "hV4", "lateral")
    ]
    assert sizes == sorted(sizes)


def test_receptive_fields_can_be_found_again_from_responses() -> None:
    """The place whose own drive predicts a V1 voxel best is near the centre of its field, for images that differ everywhere."""
    rng = np.random.default_rng(3)
    noise = rng.integers(0, 256, (300, 16, 16), dtype=np.uint8).repeat(4, axis=1).repeat(4, axis=2)
    mask = rng.random((300, 4, 4)).repeat(16, axis=1).repeat(16, axis=2)
    shown = np.rint(127.5 + (noise - 127.5) * mask).astype(np.uint8)[..., None].repeat(3, axis=3)
    cortex, tuning, *_ = made()
    driven = channels(shown, MODEL)
    answers = responses(driven, ["one"] * 300, tuning, MODEL)
    v1 = np.flatnonzero(np.char.startswith(areas(cortex), "V1") & (np.linalg.norm(tuning.centre_deg, axis=1) < 3.5))
    weights = tuning.channel_weights[v1]
    drive = np.sqrt(np.einsum("ncp,vc->vnp", driven, weights))
    drive = (drive - drive.mean(1, keepdims=True)) / drive.std(1, keepdims=True)
    similar = np.einsum("vnp,nv->vp", drive, answers[:, v1])
    x, y, _ = grid_deg(MODEL)
    best = similar.argmax(axis=1)
    error = np.hypot(x[best] - tuning.centre_deg[v1, 0], y[best] - tuning.centre_deg[v1, 1])
    assert np.median(error) < 0.5
    assert np.quantile(error, 0.9) < 1.2


def test_neighbours_on_the_sheet_answer_alike() -> None:
    cortex, _, _, _, answers = made()
    similar = np.corrcoef(answers.T)
    distance = np.linalg.norm(cortex.sheet_mm[cortex.visual][:, None] - cortex.sheet_mm[cortex.visual][None], axis=2)
    near, far = (distance > 0) & (distance < 2.5), (distance > 15) & (distance < 500)
    assert similar[near].mean() > similar[far].mean() + 0.1


def test_subjects_have_tunings_of_their_own() -> None:
    cortex, _, driven, categories, answers = made()
    other = responses(driven, categories, draw_tuning(cortex, np.random.default_rng(9), MODEL), MODEL)
    same = np.array([np.corrcoef(a, b)[0, 1] for a, b in zip(answers.T, other.T, strict=True)])
    assert np.median(same[areas(cortex) == "ventral"]) < 0.4
