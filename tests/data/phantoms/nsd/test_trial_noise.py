"""Noise: betas of a run are recovered exactly without noise, errors have the stated covariance in time and over voxels."""

from __future__ import annotations

import numpy as np
import pytest

from chiasm.data.phantoms.nsd.cortex import grow_cortex
from chiasm.data.phantoms.nsd.forward_model import ForwardModel
from chiasm.data.phantoms.nsd.trial_noise import (
    SpatialNoise,
    bold_noise,
    draw_spatial_noise,
    haemodynamic_response,
    run_design,
)

MODEL = ForwardModel()


def test_the_response_peaks_at_five_seconds_and_undershoots() -> None:
    t = np.arange(0, 32, 0.01)
    shape = haemodynamic_response(t)
    assert t[shape.argmax()] == pytest.approx(5.0, abs=0.1)
    assert -0.2 < shape.min() / shape.max() < -0.05


@pytest.mark.parametrize("n", [1, 20, 62, 63, 68])
def test_planted_betas_come_back_from_bold_with_drift(n: int) -> None:
    plan = run_design(n, MODEL)
    rng = np.random.default_rng(n)
    planted, drift = rng.standard_normal((n, 3)), 100 * rng.standard_normal((MODEL.drifts + 1, 3))
    bold = plan.design @ np.concatenate([planted, drift])
    assert plan.projector @ bold == pytest.approx(planted, abs=1e-8)


def test_trials_stand_in_slots_with_blanks_at_both_ends() -> None:
    plan = run_design(63, MODEL)
    steps = np.diff(plan.onsets_s) / MODEL.slot_s
    assert set(steps.tolist()) == {1.0, 2.0}
    assert plan.onsets_s[0] == 3 * MODEL.slot_s
    assert plan.onsets_s[-1] <= (MODEL.slots - 5) * MODEL.slot_s
    assert len(plan.design) * MODEL.repetition_s >= MODEL.slots * MODEL.slot_s


def test_errors_of_neighbouring_trials_are_correlated_as_computed() -> None:
    plan = run_design(62, MODEL)
    expected = plan.covariance(MODEL)
    assert np.diag(expected).mean() == pytest.approx(1)
    spatial = SpatialNoise(own=np.ones(4000), shared=np.zeros((4000, 1)))
    errors = plan.scale * plan.projector @ bold_noise(len(plan.design), spatial, np.random.default_rng(0), MODEL)
    found = errors @ errors.T / 4000
    assert found == pytest.approx(expected, abs=0.12)
    assert np.diag(expected, 1).mean() < -0.1  # overlapping responses: one trial's excess is its neighbour's lack
    assert np.diag(expected, 2).mean() > 0.1


def test_bold_noise_is_stationary_and_autocorrelated() -> None:
    spatial = SpatialNoise(own=np.full(20_000, 2.0), shared=np.zeros((20_000, 1)))
    noise = bold_noise(6, spatial, np.random.default_rng(1), MODEL)
    assert noise.std(axis=1) == pytest.approx(2.0, rel=0.03)
    assert (noise[:-1] * noise[1:]).mean() / 4 == pytest.approx(MODEL.autocorrelation, abs=0.02)


def test_noise_over_voxels_has_the_asked_size_and_share() -> None:
    cortex = grow_cortex(np.random.default_rng(0), MODEL)
    std = np.random.default_rng(1).uniform(1, 5, len(cortex.area))
    noise = draw_spatial_noise(cortex, std, np.random.default_rng(2), MODEL)
    assert np.hypot(noise.own, np.linalg.norm(noise.shared, axis=1)) == pytest.approx(std)
    assert (noise.shared**2).sum() / (std**2).sum() == pytest.approx(MODEL.global_share)
    assert noise.shared.shape[1] == MODEL.global_components


def test_whitening_gives_mahalanobis_distances() -> None:
    rng = np.random.default_rng(3)
    noise = SpatialNoise(own=rng.uniform(0.5, 2, 30), shared=rng.standard_normal((30, 4)))
    rows = rng.standard_normal((7, 30))
    covariance = np.diag(noise.own**2) + noise.shared @ noise.shared.T
    expected = np.einsum("nv,vw,nw->n", rows, np.linalg.inv(covariance), rows)
    assert (noise.whiten(rows) ** 2).sum(axis=1) == pytest.approx(expected)
    where = rng.random(30) < 0.5
    part = noise.at(where).whiten(rows[:, where])
    expected = np.einsum("nv,vw,nw->n", rows[:, where], np.linalg.inv(covariance[np.ix_(where, where)]), rows[:, where])
    assert (part**2).sum(axis=1) == pytest.approx(expected)
