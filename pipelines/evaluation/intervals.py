"""Intervals that know that patients, not scans or voxels, are the sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A mean over patients with its bootstrap interval.

    Parameters
    ----------
    mean, low, high : float
        NaN where there is no value.
    n : int
        Patients.
    """

    mean: float
    low: float
    high: float
    n: int


def bootstrap_mean(
    values: ArrayLike, patients: Sequence[str] | None = None, *, level: float = 0.95, n_draws: int = 5000, seed: int = 0
) -> Interval:
    """Mean over patients and its percentile bootstrap interval; patients are drawn, never their single scans.

    Parameters
    ----------
    values : array_like, shape (N,)
        NaN values are left out.
    patients : sequence of str, optional
        Patient of each value; a patient's values are averaged first. Each value is a patient of its own where absent.
    level : float
    n_draws, seed : int
    """
    scores = np.asarray(values, dtype=float)
    names = np.asarray(patients if patients is not None else range(len(scores)))
    kept = ~np.isnan(scores)
    scores, names = scores[kept], names[kept]
    if not scores.size:
        return Interval(mean=float("nan"), low=float("nan"), high=float("nan"), n=0)
    means = np.array([scores[names == name].mean() for name in np.unique(names)])
    draws = np.random.default_rng(seed).integers(len(means), size=(n_draws, len(means)))
    low, high = np.percentile(means[draws].mean(axis=1), [50 * (1 - level), 50 * (1 + level)])
    return Interval(mean=float(means.mean()), low=float(low), high=float(high), n=len(means))
