"""Whether stated probabilities are kept: calibration errors, Brier score, negative log-likelihood.

Bins are either of equal width over [0, 1] or of equal mass (the sorted samples in parts that differ by at most one).
Equal-width bins are closed on the left (torchmetrics) or on the right (Guo et al. 2017); a probability that lies on
an edge is the only difference, and it does occur: saturated networks say exactly 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Gaps:
    """Difference between what happened and what was promised, bin by bin; empty bins are left out.

    Parameters
    ----------
    size : ndarray, shape (B,)
        Samples in each bin.
    gap : ndarray, shape (B,)
        ``|mean(outcome) - mean(probability)|`` in each bin.
    """

    size: Floats
    gap: Floats

    @property
    def expected(self) -> float:
        """Mean gap, weighted by the samples (ECE)."""
        return float((self.size * self.gap).sum() / self.size.sum())

    @property
    def largest(self) -> float:
        """Largest gap (MCE)."""
        return float(self.gap.max())

    @property
    def root_mean_square(self) -> float:
        """Root of the mean squared gap, weighted by the samples (RMSCE)."""
        return float(np.sqrt((self.size * self.gap**2).sum() / self.size.sum()))

    @property
    def unweighted(self) -> float:
        """Plain mean over the bins (ACE)."""
        return float(self.gap.mean())


def equal_width(
    probability: Floats, outcome: Floats, n_bins: int, *, closed: Literal["left", "right"] = "left"
) -> Gaps:
    """Gaps over `n_bins` bins of equal width; the outermost bins take 0 and 1 whichever side is closed.

    Parameters
    ----------
    probability : ndarray, shape (N,)
    outcome : ndarray, shape (N,)
        1 where the event happened, else 0.
    """
    edges = np.linspace(0.0, 1.0, n_bins + 1)
    which = np.searchsorted(edges, probability, side="right" if closed == "left" else "left") - 1
    which = np.clip(which, 0, n_bins - 1)
    size = np.bincount(which, minlength=n_bins).astype(float)
    there = size > 0
    promised = np.bincount(which, probability, n_bins)[there] / size[there]
    happened = np.bincount(which, outcome, n_bins)[there] / size[there]
    return Gaps(size[there], np.abs(happened - promised))


def equal_mass(probability: Floats, outcome: Floats, n_bins: int) -> Gaps:
    """Gaps over `n_bins` parts of the samples sorted by probability (stable; the first parts are one larger)."""
    order = np.argsort(probability, kind="stable")
    parts = [part for part in np.array_split(order, n_bins) if part.size]
    gap = [abs(outcome[part].mean() - probability[part].mean()) for part in parts]
    return Gaps(np.array([part.size for part in parts], dtype=float), np.array(gap))


def top_label(probabilities: Floats, labels: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """Reduce (N, K) probabilities to the confidence in the first most likely class and whether it was right."""
    return probabilities.max(axis=1), (probabilities.argmax(axis=1) == labels).astype(float)


def adaptive_calibration_error(probabilities: Floats, labels: NDArray[np.int64], n_bins: int) -> float:
    """Mean gap over all classes and equal-mass bins (Nixon et al. 2019, ACE)."""
    k = probabilities.shape[1]
    gaps = [equal_mass(probabilities[:, c], (labels == c).astype(float), n_bins) for c in range(k)]
    return float(sum(g.gap.sum() for g in gaps) / (k * n_bins))


def static_calibration_error(probabilities: Floats, labels: NDArray[np.int64], n_bins: int) -> float:
    """Mean over classes of the equal-width calibration error of each (Nixon et al. 2019, SCE)."""
    k = probabilities.shape[1]
    return float(
        np.mean([equal_width(probabilities[:, c], (labels == c).astype(float), n_bins).expected for c in range(k)])
    )


def brier(probabilities: Floats, labels: NDArray[np.int64]) -> float:
    """Mean squared distance between the probabilities (N, K) and the one-hot label: 0 (perfect) to 2."""
    truth = np.eye(probabilities.shape[1])[labels]
    return float(((probabilities - truth) ** 2).sum(axis=1).mean())


def binary_brier(probability: Floats, outcome: Floats) -> float:
    """Mean squared difference between the probability of an event and the event: 0 to 1."""
    return float(((probability - outcome) ** 2).mean())


def negative_log_likelihood(probabilities: Floats, labels: NDArray[np.int64]) -> float:
    """Mean of ``-log p`` of the true class, in nats; infinite when a true class was given 0."""
    with np.errstate(divide="ignore"):
        return float(-np.log(probabilities[np.arange(len(labels)), labels]).mean())
