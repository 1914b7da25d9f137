"""The voice's statistics: librosa's coefficients, a tone where it is, and no trace of rate or loudness where none belongs."""

from __future__ import annotations

import sys
import types

import numpy as np
import pytest
import scipy.signal

from chiasm.data.audio import Clip
from chiasm.pipelines.training.speech import acoustic_statistics as a


def noise(n: int = 16_000, seed: int = 0) -> Clip:
    return Clip(samples=np.random.default_rng(seed).normal(0, 0.1, n).astype(np.float32), rate=16_000)


def named(clip: Clip) -> dict[str, float]:
    return dict(zip(a.NAMES, a.acoustic_statistics(clip).tolist(), strict=True))


def test_cepstral_coefficients_are_those_of_librosa() -> None:
    librosa = pytest.importorskip("librosa")
    clip = noise()
    mel = librosa.feature.melspectrogram(
        y=clip.samples.astype(np.float64), sr=16_000, n_fft=400, hop_length=160, window="hamming", center=False,
        n_mels=26, fmin=20.0, fmax=6700.0, htk=True, norm=None,
    )  # fmt: skip
    expected = librosa.feature.mfcc(S=np.log(mel), n_mfcc=13)
    np.testing.assert_allclose(a.acoustic_tracks(clip)[:13], expected, atol=1e-6)
    np.testing.assert_allclose(
        a.acoustic_tracks(clip)[13:26, 4:-4], librosa.feature.delta(expected, width=9)[:, 4:-4], atol=1e-6
    )


def test_a_tone_has_its_frequency_and_noise_is_flat() -> None:
    t = np.arange(16_000) / 16_000
    tone = Clip(samples=(0.5 * np.sin(2 * np.pi * 1000 * t)).astype(np.float32), rate=16_000)
    assert named(tone)["centroid_hz_mean"] == pytest.approx(1000, abs=2)
    assert named(tone)["centroid_hz_sd"] < 1
    assert named(tone)["flatness_mean"] < 1e-3
    assert named(noise())["flatness_mean"] == pytest.approx(np.exp(-np.euler_gamma), abs=0.02)  # of exponential power
    assert named(noise())["centroid_hz_mean"] == pytest.approx(3350, abs=80)


def test_loudness_moves_the_first_coefficient_and_energy_only() -> None:
    quiet, loud = noise(), Clip(samples=noise().samples * 4, rate=16_000)
    one, two = a.acoustic_tracks(quiet), a.acoustic_tracks(loud)
    moved = np.abs(one - two).max(axis=1) > 1e-4
    assert [name for name, is_moved in zip(a.ROWS, moved, strict=True) if is_moved] == ["mfcc_0", "log_energy"]
    assert (two - one)[0] == pytest.approx(np.sqrt(26) * np.log(16), abs=1e-4)


def test_the_rate_of_the_file_is_no_feature() -> None:
    one = noise(32_000)
    tripled = scipy.signal.resample(one.samples.astype(np.float64), 96_000)  # exact: through the spectrum
    found, expected = (
        a.acoustic_statistics(clip) for clip in (Clip(samples=tripled.astype(np.float32), rate=48_000), one)
    )
    spread = np.repeat(expected.reshape(-1, 5)[:, 1], 5)
    inner = np.abs(found - expected) / spread
    assert np.median(inner) < 0.01
    assert inner.max() < 0.1


def test_statistics_are_taken_over_time() -> None:
    clip = noise()
    track = a.acoustic_tracks(clip)[3]
    found = named(clip)
    assert found["mfcc_3_mean"] == pytest.approx(track.mean())
    assert found["mfcc_3_sd"] == pytest.approx(track.std())
    assert found["mfcc_3_p95"] == pytest.approx(np.percentile(track, 95))


def test_chunks_do_not_change_the_tracks(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = a.acoustic_tracks(noise())
    monkeypatch.setattr(a, "CHUNK", 7)
    np.testing.assert_allclose(a.acoustic_tracks(noise()), whole)


@pytest.mark.parametrize("n", [0, 10, 400, 800])
def test_short_and_silent_clips_have_finite_statistics(n: int) -> None:
    assert np.isfinite(a.acoustic_statistics(Clip(samples=np.zeros(n, np.float32), rate=16_000))).all()
    assert np.isfinite(a.acoustic_statistics(Clip(samples=np.zeros(n, np.float32), rate=8_000))).all()


def test_opensmile_is_used_only_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(a.importlib.util, "find_spec", lambda name: None)
    assert a.egemaps(noise()) is None

    class Smile:
        def __init__(self, feature_set: str, feature_level: str) -> None:
            assert (feature_set, feature_level) == ("v02", "functionals")

        def process_signal(self, samples: np.ndarray, rate: int) -> np.ndarray:
            return np.full((1, 88), rate, dtype=np.float32)

    fake = types.SimpleNamespace(
        Smile=Smile,
        FeatureSet=types.SimpleNamespace(eGeMAPSv02="v02"),
        FeatureLevel=types.SimpleNamespace(Functionals="functionals"),
    )
    monkeypatch.setitem(sys.modules, "opensmile", fake)
    monkeypatch.setattr(a.importlib.util, "find_spec", lambda name: object())
    found = a.egemaps(noise())
    assert found is not None
    assert found.tolist() == [16_000.0] * 88
