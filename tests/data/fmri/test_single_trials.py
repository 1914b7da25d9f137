"""LSS in closed form is nilearn's, trial by trial; betas that were put in come out; what cannot be separated is refused."""

from __future__ import annotations

import sys
import types
from dataclasses import replace

import numpy as np
import pytest

from chiasm.data.errors import InputError, ToolError
from chiasm.data.fmri.events import Events
from chiasm.data.fmri.single_trials import (
    SingleTrialSettings,
    event_regressors,
    glmsingle_betas,
    lss_betas,
    nuisance_regressors,
    whitened,
)

TR, N_SCANS, V = 1.6, 150, 11
TIMES = TR / 2 + TR * np.arange(N_SCANS)
PLAIN = SingleTrialSettings(scaling="none")


def events(n: int = 24, *, seed: int = 0, kinds: int = 2, rests: int = 4, gap_s: float = 7.3) -> Events:
    rng = np.random.default_rng(seed)
    onset = 4 + np.arange(n + rests) * gap_s + rng.uniform(0, 3, n + rests)
    rest = rng.permutation(n + rests) < rests
    return Events(
        onset_s=onset,
        duration_s=np.full(n + rests, 2.0),
        stimulus=tuple("" if r else f"{i}.png" for i, r in enumerate(rest)),
        condition=tuple("button" if r else f"kind{i % kinds}" for i, r in enumerate(rest)),
        side=np.full(n + rests, -1, dtype=np.int8),
    )


def simulated(shown: Events, *, noise: float, rho: float = 0.0, seed: int = 1) -> tuple[np.ndarray, ...]:
    """Return BOLD, confounds and the true betas of the trials."""
    rng = np.random.default_rng(seed)
    truth = rng.standard_normal((len(shown), V)) + 1
    confounds = np.cumsum(rng.standard_normal((N_SCANS, 3)), axis=0)
    bold = event_regressors(shown, TIMES, hrf="glover") @ truth + confounds @ rng.standard_normal((3, V))
    hum = rng.standard_normal((N_SCANS, V))
    for scan in range(1, N_SCANS):
        hum[scan] += rho * hum[scan - 1]
    drift = np.sin(np.arange(N_SCANS) / N_SCANS * np.pi)[:, None]
    return bold + noise * hum + drift * 3 + 100, confounds, truth[shown.shown]


def slow_design(shown: Events, trial: int, nuisance: np.ndarray) -> np.ndarray:
    """nilearn's own regressors: the trial under a name of its own, everything else by condition."""
    from nilearn.glm.first_level import compute_regressor

    names = list(shown.condition)
    names[trial] = "this"
    columns = []
    for name in ["this", *sorted(set(names) - {"this"})]:
        chosen = [i for i, other in enumerate(names) if other == name]
        timing = np.array([shown.onset_s[chosen], shown.duration_s[chosen], np.ones(len(chosen))])
        columns.append(compute_regressor(timing, "glover", TIMES)[0][:, 0])
    return np.column_stack([*columns, nuisance])


@pytest.mark.parametrize(("kinds", "drift"), [(1, "cosine"), (2, "cosine"), (3, "polynomial"), (2, "none")])
def test_closed_form_equals_nilearns_loop(kinds: int, drift: str) -> None:
    from nilearn.glm.first_level import run_glm

    shown = events(kinds=kinds)
    bold, confounds, _ = simulated(shown, noise=2.0)
    settings = replace(PLAIN, drift=drift)
    nuisance = nuisance_regressors(confounds, TIMES, settings)
    slow = []
    for trial in shown.shown:
        _, results = run_glm(bold, slow_design(shown, trial, nuisance), noise_model="ols")
        slow.append(results[0.0].theta[0])
    fast = lss_betas(bold, shown, confounds, frame_times_s=TIMES, settings=settings)
    np.testing.assert_allclose(fast, slow, rtol=1e-6, atol=1e-6)  # stored as float32


def test_closed_form_is_exact_in_float64() -> None:
    from chiasm.data.fmri.single_trials import _Design

    shown = events()
    bold, confounds, _ = simulated(shown, noise=2.0)
    nuisance = nuisance_regressors(confounds, TIMES, PLAIN)
    slow = [np.linalg.lstsq(slow_design(shown, trial, nuisance), bold, rcond=None)[0][0] for trial in shown.shown]
    design = _Design(event_regressors(shown, TIMES, hrf="glover"), nuisance, shown.condition, shown.shown, "")
    np.testing.assert_allclose(design.ols(bold), slow, rtol=1e-8, atol=1e-9)


def test_ar1_equals_nilearns_model_with_the_same_coefficients() -> None:
    from nilearn.glm.first_level import run_glm
    from nilearn.glm.regression import ARModel

    shown = events()
    bold, confounds, _ = simulated(shown, noise=2.0, rho=0.6)
    nuisance = nuisance_regressors(confounds, TIMES, PLAIN)
    by_condition = slow_design(shown, int(shown.shown[0]), nuisance)
    total = by_condition.copy()
    first = sorted(set(shown.condition)).index(shown.condition[shown.shown[0]])
    total[:, 1 + first] += total[:, 0]
    labels, _ = run_glm(bold, total[:, 1:], noise_model="ar1")
    rho = labels.astype(float)
    assert 0.2 < rho.mean() < 0.8
    slow = np.empty((len(shown.shown), V))
    for row, trial in enumerate(shown.shown):
        design = slow_design(shown, trial, nuisance)
        for voxel in range(V):
            slow[row, voxel] = ARModel(design, rho[voxel]).fit(bold[:, [voxel]]).theta[0, 0]
    fast = lss_betas(bold, shown, confounds, frame_times_s=TIMES, settings=replace(PLAIN, noise="ar1"))
    np.testing.assert_allclose(fast, slow, rtol=1e-5, atol=1e-5)


def test_betas_that_were_put_in_come_out() -> None:
    shown = events(n=16, kinds=1, rests=0, gap_s=14)
    bold, confounds, truth = simulated(shown, noise=0.1)
    found = lss_betas(bold, shown, confounds, frame_times_s=TIMES, settings=PLAIN)
    correlation = [np.corrcoef(found[:, v], truth[:, v])[0, 1] for v in range(V)]
    assert min(correlation) > 0.95
    shuffled = np.corrcoef(found[np.random.default_rng(0).permutation(len(found)), 0], truth[:, 0])[0, 1]
    assert abs(shuffled) < 0.6


def test_one_trial_without_noise_is_exact_and_percent_is_of_the_mean() -> None:
    shown = events(n=1, rests=0)
    regressor = event_regressors(shown, TIMES, hrf="glover")
    bold = 200 + regressor @ np.full((1, 3), 4.0)
    none = np.empty((N_SCANS, 0))
    found = lss_betas(bold, shown, none, frame_times_s=TIMES, settings=PLAIN)
    np.testing.assert_allclose(found, 4.0, rtol=1e-6)
    percent = lss_betas(bold, shown, none, frame_times_s=TIMES, settings=SingleTrialSettings())
    np.testing.assert_allclose(percent, 400.0 / bold.mean(axis=0)[None], rtol=1e-6)


def test_confounds_and_other_events_do_not_leak_into_betas() -> None:
    shown = events()
    bold, confounds, _ = simulated(shown, noise=1.0)
    first = lss_betas(bold, shown, confounds, frame_times_s=TIMES, settings=PLAIN)
    rests = [i for i, name in enumerate(shown.stimulus) if not name]
    hum = event_regressors(shown, TIMES, hrf="glover")[:, rests].sum(axis=1)
    second = lss_betas(
        bold + 50 * hum[:, None] + 30 * confounds[:, [1]], shown, confounds, frame_times_s=TIMES, settings=PLAIN
    )
    np.testing.assert_allclose(first, second, atol=1e-4)


def test_many_voxels_are_solved_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = events()
    bold, confounds, _ = simulated(shown, noise=1.0)
    whole = lss_betas(bold, shown, confounds, frame_times_s=TIMES, settings=PLAIN)
    monkeypatch.setattr("chiasm.data.fmri.single_trials._BLOCK", 4)
    np.testing.assert_allclose(lss_betas(bold, shown, confounds, frame_times_s=TIMES, settings=PLAIN), whole, rtol=1e-6)


def test_constant_voxels_have_no_beta() -> None:
    shown = events()
    bold = np.zeros((N_SCANS, 2))
    bold[:, 1] = 7.0
    none = np.empty((N_SCANS, 0))
    for noise in ("ols", "ar1"):
        settings = SingleTrialSettings(noise=noise)
        np.testing.assert_allclose(lss_betas(bold, shown, none, frame_times_s=TIMES, settings=settings), 0, atol=1e-10)


@pytest.mark.parametrize("onset", [TIMES[-1] + 1, -30.0])
def test_events_outside_the_run(onset: float) -> None:
    shown = events()
    shown.onset_s[3] = onset
    bold = np.ones((N_SCANS, 2), dtype=np.float32)
    with pytest.raises(InputError, match=r"CHI-IN-302.*1 events"):
        lss_betas(bold, shown, np.empty((N_SCANS, 0)), frame_times_s=TIMES, settings=PLAIN)


def test_two_trials_at_once_and_a_confound_that_is_the_trial() -> None:
    none = np.empty((N_SCANS, 0))
    bold = np.ones((N_SCANS, 2), dtype=np.float32)
    twins = events(n=2, rests=0, kinds=1)
    twins.onset_s[1] = twins.onset_s[0]
    with pytest.raises(InputError, match=r"CHI-IN-302.*2 trials"):
        lss_betas(bold, twins, none, frame_times_s=TIMES, settings=PLAIN)
    shown = events()
    same = event_regressors(shown, TIMES, hrf="glover")[:, shown.shown[:1]]
    with pytest.raises(InputError, match=r"CHI-IN-302.*1 trials"):
        lss_betas(bold, shown, same, frame_times_s=TIMES, settings=PLAIN)


def test_whitening_is_nilearns() -> None:
    from nilearn.glm.regression import ARModel

    values = np.random.default_rng(0).standard_normal((20, 3))
    np.testing.assert_allclose(whitened(values, 0.4), ARModel(values, 0.4).whiten(values))


def test_settings_are_checked() -> None:
    with pytest.raises(ValueError, match="noise"):
        SingleTrialSettings(noise="arma")
    with pytest.raises(ValueError, match="high_pass_hz"):
        SingleTrialSettings(high_pass_hz=0)


def test_glmsingle_is_named_where_it_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "glmsingle", None)
    with pytest.raises(ToolError, match=r"CHI-TL-070.*pip install glmsingle"):
        glmsingle_betas([], [], [], repetition_time_s=1.0)


def test_glmsingle_gets_designs_and_gives_betas_back_in_the_order_of_the_tables(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    got = {}

    class Fake:
        def __init__(self, options: dict[str, object]) -> None:
            got["options"] = options

        def fit(self, designs: list, data: list, stimulus_s: float, tr: float, **folders: object) -> dict:
            got.update(designs=designs, data=data, stimulus_s=stimulus_s, tr=tr, folders=folders)
            # A trial's beta is the scan at which it begins, in the order of time, as GLMsingle orders them.
            scans = np.concatenate([np.flatnonzero(design.sum(axis=1)) for design in designs])
            return {"typed": {"betasmd": np.tile(scans, (2, 1, 1, 1)).astype(float).reshape(2, 1, 1, -1)}}

    module = types.ModuleType("glmsingle.glmsingle")
    module.GLM_single = Fake
    monkeypatch.setitem(sys.modules, "glmsingle", types.ModuleType("glmsingle"))
    monkeypatch.setitem(sys.modules, "glmsingle.glmsingle", module)

    def run(onsets: list[float], stimuli: tuple[str, ...]) -> Events:
        n = len(onsets)
        side, kinds = np.full(n, -1, dtype=np.int8), ("x",) * n
        return Events(
            onset_s=np.array(onsets), duration_s=np.full(n, 3.0), stimulus=stimuli, condition=kinds, side=side
        )

    runs = [run([8.1, 2.0, 5.0], ("b", "a", "")), run([4.0, 11.9], ("a", "c"))]
    bold = [np.ones((10, 2), np.float32)] * 2
    found = glmsingle_betas(bold, runs, [np.zeros((10, 0))] * 2, repetition_time_s=2.0)
    np.testing.assert_array_equal([part[:, 0].tolist() for part in found], [[4, 1], [2, 6]])
    assert [np.argwhere(design).tolist() for design in got["designs"]] == [[[1, 0], [4, 1]], [[2, 0], [6, 2]]]
    assert got["stimulus_s"] == 3.0
    assert got["options"]["extra_regressors"] is False
