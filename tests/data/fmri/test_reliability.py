"""The noise ceiling of simulated voxels is the one with which they were made."""

from __future__ import annotations

import numpy as np
import pytest

from chiasm.data.errors import InputError
from chiasm.data.fmri import reliability
from chiasm.data.fmri.betas import ArrayBetas
from chiasm.data.fmri.reliability import estimate_reliability, noise_ceiling
from chiasm.data.fmri.scaling import fit_scaler
from chiasm.data.fmri.trials import Trials

NCSNR = np.array([0.0, 0.3, 0.7, 1.0, 2.0])


def simulated(
    n_images: int = 3000, repeats: int = 3, *, drift: float = 0.0, keep: float = 1.0
) -> tuple[ArrayBetas, Trials]:
    """Voxels of SD 1 to 5 whose signal is NCSNR times as strong as their noise."""
    rng = np.random.default_rng(0)
    image = rng.permutation(np.repeat(np.arange(n_images), repeats))
    image = image[rng.random(len(image)) < keep]
    session = 1 + np.arange(len(image)) * 10 // len(image)
    signal = rng.normal(size=(n_images, len(NCSNR))) * NCSNR
    values = (signal[image] + rng.normal(size=(len(image), len(NCSNR)))) * np.arange(1, 6) + 50
    values += drift * session[:, None] ** 2
    order = np.arange(len(image))
    repeat = np.array([(image[:i] == image[i]).sum() for i in order]) if n_images < 100 else order
    trials = Trials(row=order, image=image, session=session, repeat=repeat, split=np.zeros(len(image), np.int8))
    return ArrayBetas(values.astype(np.float32)), trials


def expected(n: float) -> np.ndarray:
    return 100 * NCSNR**2 / (NCSNR**2 + 1 / n)


@pytest.mark.parametrize("keep", [1.0, 0.7])
def test_known_noise_ceiling(keep: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reliability, "_CHUNK_BYTES", 8 * 5 * 3 * 7)  # seven images at a time
    betas, trials = simulated(keep=keep)
    got = estimate_reliability(betas, trials)
    np.testing.assert_allclose(got.ncsnr[1:], NCSNR[1:], atol=0.06)
    assert got.ncsnr[0] < 0.15
    for n in (1, 2, 3):
        np.testing.assert_allclose(got.noise_ceiling(n), expected(n), atol=5 if n < 3 else 6)
    mixed = got.noise_ceiling(np.array([1, 3, 3]))
    np.testing.assert_allclose(mixed, 100 * got.signal / (got.signal + got.noise * (1 + 1 / 3 + 1 / 3) / 3))
    np.testing.assert_array_equal(noise_ceiling(betas, trials, n=2), got.noise_ceiling(2))
    assert got.n_trials == len(trials)
    assert (got.n_images == 3000) == (keep == 1.0)


def test_split_half_of_two_against_one() -> None:
    betas, trials = simulated()
    got = estimate_reliability(betas, trials)
    theory = NCSNR**2 / np.sqrt((NCSNR**2 + 0.5) * (NCSNR**2 + 1))
    np.testing.assert_allclose(got.split_half, theory, atol=0.04)


def test_against_plain_formulas() -> None:
    betas, trials = simulated(40)
    values, image = betas.values.astype(float), trials.image
    got = estimate_reliability(betas, trials)
    noise = np.mean([values[image == i].var(axis=0, ddof=1) for i in range(40)], axis=0)
    np.testing.assert_allclose(got.noise, noise, rtol=1e-9)
    np.testing.assert_allclose(got.signal, np.maximum(values.var(axis=0, ddof=1) - noise, 0), rtol=1e-9)
    halves = [np.array([values[image == i][k::2].mean(axis=0) for i in range(40)]) for k in (0, 1)]
    correlation = [np.corrcoef(halves[0][:, v], halves[1][:, v])[0, 1] for v in range(5)]
    np.testing.assert_allclose(got.split_half, correlation, rtol=1e-9)


def test_drift_between_sessions_is_taken_out_by_the_scaler() -> None:
    betas, trials = simulated(drift=0.3)
    plain = estimate_reliability(betas, trials)
    scaled = estimate_reliability(betas, trials, scaler=fit_scaler(betas, trials, "session-zscore"))
    assert (plain.ncsnr[1:3] < 0.6 * NCSNR[1:3]).all()
    np.testing.assert_allclose(scaled.ncsnr[1:], NCSNR[1:], atol=0.07)
    np.testing.assert_allclose(scaled.signal + scaled.noise, 1, atol=1e-2)


def test_voxels_without_variance_or_without_noise() -> None:
    image = np.repeat(np.arange(10), 3)
    n = np.arange(30)
    trials = Trials(row=n, image=image, session=n * 0 + 1, repeat=n % 3, split=np.zeros(30, np.int8))
    values = np.stack([np.full(30, 12345.678), image.astype(float)], axis=1)
    got = estimate_reliability(ArrayBetas(values), trials)
    assert (got.signal[0], got.noise[0], got.ncsnr[0]) == (0, 0, 0)
    assert got.ncsnr[1] == np.inf
    np.testing.assert_allclose(got.noise_ceiling(1), [0, 100])
    np.testing.assert_allclose(got.split_half, [0, 1])


def test_too_few_repeats() -> None:
    betas, trials = simulated(30, repeats=1)
    with pytest.raises(InputError, match="0 of 30") as caught:
        estimate_reliability(betas, trials)
    assert caught.value.code == "CHI-IN-278"
