"""One brain: the promised median ceiling, sessions that can be undone, trials cut into sessions and runs as NSD's."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from chiasm.data.phantoms.nsd.brain import HIGHEST, LOWEST, PhantomBrain, grow_brain, runs, sessions
from chiasm.data.phantoms.nsd.forward_model import ForwardModel

MODEL = ForwardModel()


@cache
def brain(subject: int = 1, strength: float = 1.0, ceiling: float = 40.0) -> PhantomBrain:
    return grow_brain(subject, seed=0, strength=strength, model=replace(MODEL, noise_ceiling=ceiling))


@pytest.mark.parametrize("ceiling", [20.0, 40.0, 60.0])
def test_the_median_noise_ceiling_is_the_asked_one_and_its_range_is_nsds(ceiling: float) -> None:
    found = brain(ceiling=ceiling)
    inside = found.ceiling[found.cortex.visual]
    assert 100 * np.median(inside) == pytest.approx(ceiling, abs=0.2)
    assert LOWEST <= inside.min() < 0.15
    assert 0.7 <= inside.max() <= HIGHEST
    assert (found.ceiling[~found.cortex.visual] == 0).all()


def test_ncsnr_is_that_of_the_ceiling_and_follows_strength() -> None:
    inside = brain().cortex.visual
    ratio = brain().ncsnr[inside] ** 2
    assert 3 * ratio / (3 * ratio + 1) == pytest.approx(brain().ceiling[inside])
    assert brain(strength=0.5).ncsnr == pytest.approx(brain().ncsnr / 2)
    assert (brain(strength=0.0).ncsnr == 0).all()


def test_errors_have_the_size_of_the_ceiling_and_no_signal_reaches_other_cortex() -> None:
    made = brain()
    nothing = np.zeros((750, len(made.mean)), dtype=np.float32)
    errors = np.concatenate([made.undo_session(made.session_betas(nothing, s), s) for s in (1, 2, 3, 4)])
    expected = np.hypot(made.noise.own, np.linalg.norm(made.noise.shared, axis=1))
    assert np.median(errors.std(axis=0) / expected) == pytest.approx(1, abs=0.02)
    # Shared noise is in the betas, too.
    whitened = made.noise.whiten(errors)
    assert (whitened**2).mean() == pytest.approx(1, abs=0.02)


def test_sessions_have_shifts_and_gains_that_can_be_undone() -> None:
    made = brain()
    shown = np.random.default_rng(0).standard_normal((60, len(made.mean))).astype(np.float32)
    one, two = (made.session_betas(shown, s) for s in (1, 2))
    offset = np.abs(one.mean(axis=0) - two.mean(axis=0)) / made.amplitude
    assert np.median(offset) > 0.2
    gains = [made.session_terms(s)[0] for s in range(1, 40)]
    assert np.std(np.log(gains)) == pytest.approx(MODEL.session_gain, rel=0.35)
    again = made.undo_session(one, 1) - made.undo_session(made.session_betas(0 * shown, 1), 1)
    assert again == pytest.approx(shown, abs=1e-3)


def test_a_subject_depends_on_seed_and_number_only() -> None:
    again = grow_brain(1, seed=0, strength=1.0, model=MODEL)
    assert (again.tuning.centre_deg == brain().tuning.centre_deg).all()
    assert len(brain(2).mean) != len(brain(1).mean)
    assert grow_brain(1, seed=1, strength=1.0, model=MODEL).cortex.shape != brain().cortex.shape


@pytest.mark.parametrize(
    ("n", "expected"), [(30, [30]), (750, [750]), (899, [899]), (900, [750, 150]), (5100, [750] * 6 + [600])]
)
def test_sessions_are_cut_as_nsds(n: int, expected: list[int]) -> None:
    parts = list(sessions(n))
    assert [len(part) for part in parts] == expected
    assert [trial for part in parts for trial in part] == list(range(n))


@pytest.mark.parametrize(("n", "lengths"), [(750, {62, 63}), (600, {60}), (1, {1}), (140, {46, 47}), (899, {64, 65})])
def test_runs_have_room_for_their_trials(n: int, lengths: set[int]) -> None:
    parts = runs(n)
    assert {len(part) for part in parts} <= lengths
    assert [trial for part in parts for trial in part] == list(range(n))
