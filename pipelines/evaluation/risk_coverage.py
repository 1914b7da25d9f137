"""What abstaining buys: the error among the cases that a classifier is surest about."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .calibration import top_label
from .predictions import Floats, Predictions


@dataclass(frozen=True, kw_only=True, eq=False)
class RiskCoverage:
    """Selective risk (Geifman & El-Yaniv 2017).

    Parameters
    ----------
    coverage : ndarray, shape (M,)
        Share of the cases that is answered, ascending to 1.
    risk : ndarray, shape (M,)
        Share of errors among them; mean over runs. Cases of equal confidence enter together.
    aurc : float
        Mean of the risk over the number of cases answered.
    excess_aurc : float
        `aurc` less that of the same errors, ranked perfectly.
    n_persons : int
    """

    coverage: Floats
    risk: Floats
    aurc: float
    excess_aurc: float
    n_persons: int

    def accuracy_at(self, coverage: float) -> float:
        """Accuracy where this share is answered."""
        return 1.0 - float(np.interp(coverage, self.coverage, self.risk))


def risk_coverage(predictions: Predictions) -> RiskCoverage:
    """Compute the curve of each run and average them over a grid of as many points as the largest run has rows."""
    runs = list(predictions.rows_by_run.values())
    grid = np.arange(1, max(len(rows) for rows in runs) + 1) / max(len(rows) for rows in runs)
    curves, areas, best = [], [], []
    for rows in runs:
        confidence, hit = top_label(predictions.probability[rows], predictions.label[rows])
        risk = selective_risk(confidence, 1.0 - hit)
        curves.append(np.interp(grid, np.arange(1, len(rows) + 1) / len(rows), risk))
        areas.append(risk.mean())
        best.append(selective_risk(hit, 1.0 - hit).mean())
    return RiskCoverage(
        coverage=grid,
        risk=np.mean(curves, axis=0),
        aurc=float(np.mean(areas)),
        excess_aurc=float(np.mean(areas) - np.mean(best)),
        n_persons=len(predictions.persons),
    )


def selective_risk(confidence: Floats, error: Floats) -> Floats:
    """Return the expected error among the i surest cases, i = 1..n, where ties are broken by chance."""
    order = np.argsort(-confidence, kind="stable")
    _, group, size = np.unique(-confidence[order], return_inverse=True, return_counts=True)
    of_group = np.bincount(group, error[order]) / size
    return np.asarray(np.cumsum(of_group[group]) / np.arange(1, len(error) + 1))
