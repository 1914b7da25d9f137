"""Logistic recalibration: slope and intercept of the outcome on the stated log-odds, for many weightings at once.

Slope 1 and intercept 0 are kept promises; a slope below 1 says that probabilities are too extreme, an intercept at slope 1
(calibration in the large) below 0 that they are too high (Cox 1958; Van Calster et al. 2019).
"""

from __future__ import annotations

import numpy as np

from .predictions import Floats

CLIP = 1e-6
"""Probabilities are kept this far from 0 and 1 before their log-odds are taken."""


def log_odds(probability: Floats) -> Floats:
    """Return ln(p / (1 - p)), with p kept `CLIP` from its ends."""
    p = np.clip(probability, CLIP, 1.0 - CLIP)
    return np.asarray(np.log(p) - np.log1p(-p), dtype=np.float64)


def slope_and_intercept(probability: Floats, outcome: Floats, weights: Floats) -> Floats:
    """Fit ``logit P(outcome) = intercept + slope * log_odds``.

    Parameters
    ----------
    probability, outcome : ndarray, shape (n,)
    weights : ndarray, shape (D, n)

    Returns
    -------
    ndarray, shape (D, 2)
        Slope and intercept; NaN where no finite one exists (one outcome only, equal probabilities, or a perfect separation).
    """
    x, out = log_odds(probability), np.full((len(weights), 2), np.nan)
    finite = np.flatnonzero(_overlaps(x, outcome, weights))
    w, beta = weights[finite], np.zeros((finite.size, 2))
    loss = _loss(beta, x, outcome, w)
    for _ in range(60):
        p = _sigmoid(beta @ np.stack([x, np.ones_like(x)]))
        miss, curve = w * (outcome - p), w * p * (1 - p)
        gradient = np.stack([miss @ x, miss.sum(axis=1)], axis=1)
        a, b, c = curve @ (x * x), curve @ x, curve.sum(axis=1)
        determinant = np.maximum(a * c - b * b, 1e-12)
        step = np.stack([c * gradient[:, 0] - b * gradient[:, 1], a * gradient[:, 1] - b * gradient[:, 0]], axis=1)
        step /= determinant[:, None]
        size = np.ones(finite.size)
        for _ in range(30):  # halve where Newton's step overshoots
            tried = _loss(beta + size[:, None] * step, x, outcome, w)
            worse = tried > loss + 1e-12 * np.abs(loss)
            if not worse.any():
                break
            size[worse] /= 2
        beta = beta + size[:, None] * step
        loss = _loss(beta, x, outcome, w)
        if np.abs(size[:, None] * step).max(initial=0.0) < 1e-10:
            break
    out[finite] = beta
    return out


def in_the_large(probability: Floats, outcome: Floats, weights: Floats) -> Floats:
    """Fit the intercept with the slope held at 1, shape (D,); NaN where there is one outcome only."""
    x, happened, whole = log_odds(probability), weights @ outcome, weights.sum(axis=1)
    low, high = np.full(len(weights), -40.0), np.full(len(weights), 40.0)
    for _ in range(60):
        middle = (low + high) / 2
        short = (weights * _sigmoid(x + middle[:, None])).sum(axis=1) < happened
        low, high = np.where(short, middle, low), np.where(short, high, middle)
    return np.where((happened > 0) & (happened < whole), (low + high) / 2, np.nan)


def _overlaps(x: Floats, outcome: Floats, weights: Floats) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Say where the log-odds of both outcomes overlap: else the likelihood has no finite maximum."""
    ends = []
    for event in (0.0, 1.0):
        there = (weights > 0) & (outcome == event)
        ends.append((np.where(there, x, np.inf).min(axis=1), np.where(there, x, -np.inf).max(axis=1)))
    (low0, high0), (low1, high1) = ends
    return np.asarray((high0 > low1) & (high1 > low0))


def _sigmoid(x: Floats) -> Floats:
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * x)))


def _loss(beta: Floats, x: Floats, outcome: Floats, weights: Floats) -> Floats:
    z = beta @ np.stack([x, np.ones_like(x)])
    return np.asarray((weights * (np.logaddexp(0.0, z) - outcome * z)).sum(axis=1))
