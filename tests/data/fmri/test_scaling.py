"""Statistics of voxels see training trials only (but for the switch that says it leaks), and survive chunks and saving."""

from __future__ import annotations

import numpy as np
import pytest

from chiasm.data.errors import InputError
from chiasm.data.fmri import scaling
from chiasm.data.fmri.betas import ArrayBetas
from chiasm.data.fmri.scaling import KINDS, VoxelScaler, fit_scaler
from chiasm.data.fmri.trials import Trials


def made(n: int = 120, n_voxels: int = 7, n_sessions: int = 4) -> tuple[np.ndarray, Trials]:
    rng = np.random.default_rng(0)
    session = np.repeat(np.arange(1, n_sessions + 1), n // n_sessions)
    values = rng.normal(size=(n, n_voxels)) * rng.uniform(0.5, 3, n_voxels) + session[:, None] * 5 + 100
    split = rng.choice([0, 0, 0, 1, 2], n).astype(np.int8)
    row = rng.permutation(n)
    trials = Trials(row=row, image=np.arange(n), session=session, repeat=np.zeros(n, np.int64), split=split)
    stored = np.empty_like(values)
    stored[row] = values
    return stored.astype(np.float32), trials


def test_values_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    values, trials = made()
    train = trials.of("train")
    monkeypatch.setattr(scaling, "_CHUNK_BYTES", 5 * 7 * 8)  # chunks of 5 rows: they must make no difference
    overall = fit_scaler(ArrayBetas(values), trials, "zscore")
    np.testing.assert_allclose(overall.mean, values[train.row].astype(float).mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(overall.sd, values[train.row].astype(float).std(axis=0), rtol=1e-5)
    each = fit_scaler(ArrayBetas(values), trials, "session-zscore")
    for place, session in enumerate(each.sessions):
        own = values[train.row[train.session == session]].astype(float)
        np.testing.assert_allclose(each.session_mean[place], own.mean(axis=0), rtol=1e-6)
        np.testing.assert_allclose(each.session_sd[place], own.std(axis=0), rtol=1e-5)
    scaled = each.apply(values[train.row], train.session)
    for session in each.sessions:
        np.testing.assert_allclose(scaled[train.session == session].mean(axis=0), 0, atol=1e-4)
        np.testing.assert_allclose(scaled[train.session == session].std(axis=0), 1, atol=1e-4)
    np.testing.assert_array_equal(each.apply(values[train.row].reshape(-1, 1, 7), train.session[:, None])[:, 0], scaled)
    assert each.leaks is False
    assert overall.notes == each.notes == ()


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "session-zscore-all"])
def test_held_out_trials_change_no_statistic(kind: str) -> None:
    values, trials = made()
    other = values.copy()
    held_out = trials.of("test", "val")
    other[held_out.row] = 1e6
    before, after = (fit_scaler(ArrayBetas(v), trials, kind).state() for v in (values, other))
    assert before.keys() == after.keys()
    for name in before:
        np.testing.assert_array_equal(before[name], after[name])


def test_legacy_switch_leaks_and_says_so() -> None:
    values, trials = made()
    other = values.copy()
    other[trials.of("test").row] += 50
    before, after = (fit_scaler(ArrayBetas(v), trials, "session-zscore-all") for v in (values, other))
    assert before.leaks
    assert "leak" in before.notes[0]
    assert (before.session_mean != after.session_mean).all()


def test_voxel_without_variance_gives_zero() -> None:
    values, trials = made()
    values[:, 2] = 0.1  # not exactly a binary fraction: sums of it are not exact
    values[:, 3] = trials.session[np.argsort(trials.row)] * 0.1  # constant within each session only
    for kind in ("zscore", "session-zscore"):
        scaler = fit_scaler(ArrayBetas(values), trials, kind)
        scaled = scaler.apply(values[trials.row], trials.session)
        assert np.isfinite(scaled).all()
        assert (scaled[:, 2] == 0).all()
        assert (scaled[:, 3] == 0).all() == (kind == "session-zscore")


def test_not_in_place_and_float32() -> None:
    values, trials = made()
    for kind in KINDS:
        scaler = fit_scaler(ArrayBetas(values), trials, kind)
        given = values.copy()
        got = scaler.apply(given, trials.session)
        np.testing.assert_array_equal(given, values)
        assert got.dtype == np.float32
        assert not np.shares_memory(got, given)
    np.testing.assert_array_equal(fit_scaler(ArrayBetas(values), trials, "none").apply(values, trials.session), values)


def test_session_without_training_trials_uses_all_of_them() -> None:
    values, trials = made()
    split = np.where(trials.session == 3, np.int8(2), trials.split)
    moved = Trials(row=trials.row, image=trials.image, session=trials.session, repeat=trials.repeat, split=split)
    scaler = fit_scaler(ArrayBetas(values), moved, "session-zscore")
    assert scaler.unseen(np.array([1, 3, 9, 9])) == (3, 9)
    assert "1 session(s) without training trials" in scaler.notes[0]
    overall = fit_scaler(ArrayBetas(values), moved, "zscore")
    third = moved.where(moved.session == 3)
    got = scaler.apply(values[third.row], third.session)
    np.testing.assert_allclose(got, overall.apply(values[third.row], third.session), rtol=1e-6)
    assert overall.unseen(np.array([1, 3])) == ()


def test_saved_and_read_again() -> None:
    values, trials = made()
    for kind in KINDS:
        scaler = fit_scaler(ArrayBetas(values), trials, kind)
        again = VoxelScaler.from_state(scaler.state())
        assert (again.kind, again.leaks) == (kind, kind == "session-zscore-all")
        np.testing.assert_array_equal(again.apply(values, trials.session), scaler.apply(values, trials.session))


@pytest.mark.parametrize("break_it", ["missing", "kind", "shape", "nan", "text", "order"])
def test_damaged_state(break_it: str) -> None:
    values, trials = made()
    state = dict(fit_scaler(ArrayBetas(values), trials, "session-zscore").state())
    if break_it == "missing":
        del state["sd"]
    elif break_it == "kind":
        state["kind"] = np.array([9])
    elif break_it == "shape":
        state["session_sd"] = state["session_sd"][:, :3]
    elif break_it == "nan":
        state["mean"] = state["mean"] * np.nan
    elif break_it == "order":
        state["sessions"] = state["sessions"][::-1]
    else:
        state["mean"] = np.array(["x"])
    with pytest.raises(InputError) as caught:
        VoxelScaler.from_state(state)
    assert caught.value.code == "CHI-IN-277"


def test_refusals() -> None:
    values, trials = made()
    scaler = fit_scaler(ArrayBetas(values), trials, "zscore")
    with pytest.raises(InputError, match="6 voxels") as caught:
        scaler.apply(values[:, :6], trials.session)
    assert caught.value.code == "CHI-IN-277"
    with pytest.raises(InputError) as caught:
        fit_scaler(ArrayBetas(values), trials.of("test"), "zscore")
    assert caught.value.code == "CHI-IN-276"
    with pytest.raises(ValueError, match="kind"):
        fit_scaler(ArrayBetas(values), trials, "robust")
