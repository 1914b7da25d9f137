"""Statistics of a voice over a recording: Mel-frequency cepstral coefficients, their deltas, energy and the shape of the spectrum.

The classical acoustic baseline. Everything is computed at 16 kHz, so that the rate of the file is no feature where it is 16 kHz or
more. eGeMAPS needs openSMILE, whose licence is for research only; it is used only where the user installed it.
"""

from __future__ import annotations

import importlib
import importlib.util
import math

import numpy as np
from numpy.typing import NDArray

from ....data.audio import Clip

Floats = NDArray[np.float64]

RATE = 16_000
FRAME, HOP = 400, 160  # 25 and 10 ms
N_MEL, N_CEPSTRAL = 26, 13
LOW_HZ, HIGH_HZ = 20.0, 6700.0
"""The anti-alias filter of a resampled recording falls off from 6.75 kHz: above it the rate of the file would show."""
FLOOR = 1e-10
DELTA_WIDTH = 9
CHUNK = 20_000  # frames at a time: 64 MB
PERCENTILES = (5, 50, 95)

ROWS = (
    *(f"mfcc_{i}" for i in range(N_CEPSTRAL)),
    *(f"delta_mfcc_{i}" for i in range(N_CEPSTRAL)),
    "log_energy",
    "centroid_hz",
    "flatness",
)
NAMES = tuple(f"{row}_{statistic}" for row in ROWS for statistic in ("mean", "sd", *(f"p{p}" for p in PERCENTILES)))


def acoustic_statistics(clip: Clip) -> Floats:
    """Return mean, standard deviation and percentiles over time of each of `ROWS`, shape (145,), in the order of `NAMES`."""
    tracks = acoustic_tracks(clip)
    statistics = [tracks.mean(axis=1), tracks.std(axis=1), *np.percentile(tracks, PERCENTILES, axis=1)]
    return np.stack(statistics, axis=1).ravel()


def acoustic_tracks(clip: Clip) -> Floats:
    """Return `ROWS` by frame of 10 ms, shape (29, T); a clip shorter than one frame is filled with zeros."""
    from scipy.fft import dct
    from scipy.signal import savgol_filter

    samples = _at_16_khz(clip)
    samples = np.pad(samples, (0, max(0, FRAME - len(samples))))
    frames = np.lib.stride_tricks.sliding_window_view(samples, FRAME)[::HOP]
    parts = [_spectral(frames[i : i + CHUNK]) for i in range(0, len(frames), CHUNK)]
    log_mel, shape = (np.concatenate([part[i] for part in parts], axis=1) for i in (0, 1))
    mfcc = dct(log_mel, type=2, axis=0, norm="ortho")[:N_CEPSTRAL]
    # A regression line over nine frames; the edges are held, also in clips of fewer frames.
    delta = savgol_filter(mfcc, DELTA_WIDTH, polyorder=1, deriv=1, axis=1, mode="nearest")
    return np.concatenate([mfcc, delta, shape])


def mel_filters() -> Floats:
    """Return triangles of height 1, evenly spaced on the Mel scale of HTK, shape (26, 201)."""
    edges = np.linspace(_mel(LOW_HZ), _mel(HIGH_HZ), N_MEL + 2)
    hz = 700.0 * (10.0 ** (edges / 2595.0) - 1.0)
    bins = np.fft.rfftfreq(FRAME, 1.0 / RATE)
    rise = (bins - hz[:-2, None]) / (hz[1:-1] - hz[:-2])[:, None]
    fall = (hz[2:, None] - bins) / (hz[2:] - hz[1:-1])[:, None]
    return np.asarray(np.maximum(0.0, np.minimum(rise, fall)), dtype=np.float64)


def egemaps(clip: Clip) -> Floats | None:
    """Return the 88 functionals of eGeMAPSv02 (Eyben et al. 2016) by openSMILE, or None where it is not installed."""
    if importlib.util.find_spec("opensmile") is None:
        return None
    opensmile = importlib.import_module("opensmile")
    smile = opensmile.Smile(
        feature_set=opensmile.FeatureSet.eGeMAPSv02, feature_level=opensmile.FeatureLevel.Functionals
    )
    return np.asarray(smile.process_signal(clip.samples, clip.rate), dtype=np.float64).ravel()


def _mel(hz: float) -> float:
    return 2595.0 * math.log10(1.0 + hz / 700.0)


def _at_16_khz(clip: Clip) -> Floats:
    samples = np.asarray(clip.samples, dtype=np.float64)
    if clip.rate == RATE or not samples.size:
        return samples
    from scipy.signal import resample_poly

    common = math.gcd(clip.rate, RATE)
    return np.asarray(resample_poly(samples, RATE // common, clip.rate // common), dtype=np.float64)


def _spectral(frames: Floats) -> tuple[Floats, Floats]:
    """Return log Mel energies (26, t), and log energy, centroid and flatness (3, t)."""
    # The periodic Hamming window, as a spectrum wants it.
    window = 0.54 - 0.46 * np.cos(2 * np.pi * np.arange(FRAME) / FRAME)
    hz = np.fft.rfftfreq(FRAME, 1.0 / RATE)
    kept = hz <= HIGH_HZ
    power = np.abs(np.fft.rfft(frames * window, axis=1)[:, kept]) ** 2 + FLOOR
    whole = power.sum(axis=1)
    centroid = power @ hz[kept] / whole
    flatness = np.exp(np.log(power).mean(axis=1)) / (whole / power.shape[1])
    return np.log(mel_filters()[:, kept] @ power.T + FLOOR), np.stack([np.log(whole), centroid, flatness])
