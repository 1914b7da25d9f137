"""Are the probabilities of a classifier kept? Every number with its n, its interval, and what chance alone would give.

The event is the positive class (AD) and the bins are bins of its probability, since that is the number a clinician reads; the
top-label error stands beside it. A binned calibration error is never zero in a small sample, not even of perfect probabilities:
the noise floor of each is simulated from the stated probabilities themselves. With several runs, scores are means over runs, and the
simulated outcomes of a person are shared by the runs, as the real one is: more seeds are not more persons.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np

from .classification import Score, finite, score, wilson
from .metrics import Metric, brier, nll, ratio
from .predictions import Floats, Ints, Predictions
from .recalibration import in_the_large, slope_and_intercept
from .risk_coverage import RiskCoverage, risk_coverage

BINNING = "{n} bins of equal width over [0, 1], closed on the left, of the probability of {name}"
NOTE = (
    "A bootstrap adds noise to binned errors, so that their intervals lie high: compare the value with the noise floor. "
    "ACE: mean over classes and equal-mass bins, unweighted. Slope and intercept: logistic recalibration; in the large: intercept "
    "with slope 1; E:O: expected over observed positives."
)


def bin_of(probability: Floats, n_bins: int) -> Ints:
    """Return the equal-width bin, closed on the left, of each probability (as `calibration.equal_width` bins)."""
    which = np.searchsorted(np.linspace(0.0, 1.0, n_bins + 1), probability, side="right") - 1
    return np.asarray(np.clip(which, 0, n_bins - 1), dtype=np.int64)


def _gaps(p: Floats, outcome: Floats, weights: Floats, n_bins: int) -> tuple[Floats, Floats]:
    """Return the sum of (outcome - p) and of the weights in each bin, both (D, n_bins)."""
    there = np.eye(n_bins)[bin_of(p, n_bins)]
    return (weights * (outcome - p)) @ there, weights @ there


def expected_error(n_bins: int, which: Literal["positive", "top"] = "positive") -> Metric:
    """Return the expected calibration error (ECE) as a metric: of p(positive), or of the largest probability."""

    def ece(label: Ints, p: Floats, weights: Floats) -> Floats:
        gap, _ = _gaps(*_event(label, p, which), weights, n_bins)
        return ratio(np.abs(gap).sum(axis=1), weights.sum(axis=1))

    return ece


def largest_error(n_bins: int) -> Metric:
    """Return the largest gap of a bin (MCE) of p(positive) as a metric."""

    def mce(label: Ints, p: Floats, weights: Floats) -> Floats:
        gap, size = _gaps(*_event(label, p, "positive"), weights, n_bins)
        return np.asarray(ratio(np.abs(gap), size, empty=0.0).max(axis=1))

    return mce


def adaptive_error(n_bins: int) -> Metric:
    """Return the adaptive calibration error (ACE, `calibration.adaptive_calibration_error`) as a metric; weights are whole numbers."""

    def ace(label: Ints, p: Floats, weights: Floats) -> Floats:
        total = np.zeros(len(weights))
        for c in range(p.shape[1]):
            order = np.argsort(p[:, c], kind="stable")
            gap = ((label == c) - p[:, c])[order]
            times = weights[:, order].astype(np.int64)
            for draw, repeats in enumerate(times):
                drawn = np.repeat(gap, repeats)
                parts = [part for part in np.array_split(drawn, n_bins) if part.size]
                total[draw] += sum(abs(part.mean()) for part in parts)
        return np.asarray(total / (p.shape[1] * n_bins))

    return ace


def _event(label: Ints, p: Floats, which: Literal["positive", "top"]) -> tuple[Floats, Floats]:
    if which == "top":
        return p.max(axis=1), (p.argmax(axis=1) == label).astype(float)
    return p[:, -1], (label == p.shape[1] - 1).astype(float)


def slope(label: Ints, p: Floats, weights: Floats) -> Floats:
    """Calibration slope of p(positive)."""
    return slope_and_intercept(*_event(label, p, "positive"), weights)[:, 0]


def intercept(label: Ints, p: Floats, weights: Floats) -> Floats:
    """Intercept that belongs to `slope`."""
    return slope_and_intercept(*_event(label, p, "positive"), weights)[:, 1]


def large(label: Ints, p: Floats, weights: Floats) -> Floats:
    """Calibration in the large of p(positive): the intercept at slope 1."""
    return in_the_large(*_event(label, p, "positive"), weights)


def expected_to_observed(label: Ints, p: Floats, weights: Floats) -> Floats:
    """Expected over observed number of positives; NaN where there is none."""
    q, outcome = _event(label, p, "positive")
    return ratio(weights @ q, weights @ outcome)


@dataclass(frozen=True, kw_only=True)
class NoiseFloor:
    """A calibration error of perfectly kept probabilities in a sample this small.

    Parameters
    ----------
    mean, low, high : float
        Mean, 5th and 95th percentile over the simulations.
    n : int
        Persons.
    n_bins, n_draws : int
    """

    mean: float
    low: float
    high: float
    n: int
    n_bins: int
    n_draws: int


def reference_noise_floor(n: int, n_bins: int, *, n_draws: int = 2000, seed: int = 0) -> NoiseFloor:
    """Simulate top-label ECE for n persons without any data: confidences are 0.5 + 0.5 Beta(4, 1.2), a typical two-class network."""
    rng = np.random.default_rng(seed)
    confidence = 0.5 + 0.5 * rng.beta(4.0, 1.2, (n_draws, n))
    miss = (rng.random((n_draws, n)) < confidence) - confidence
    cell = bin_of(confidence, n_bins) + n_bins * np.arange(n_draws)[:, None]
    errors = np.abs(np.bincount(cell.ravel(), miss.ravel(), n_draws * n_bins)).reshape(n_draws, n_bins).sum(axis=1) / n
    return _floor(errors, n, n_bins)


def simulated_errors(
    predictions: Predictions,
    n_bins: int,
    *,
    which: Literal["positive", "top"] = "positive",
    n_draws: int = 2000,
    seed: int = 0,
) -> Floats:
    """Draw outcomes from the probabilities themselves and return the ECE (mean over runs) of each draw, shape (n_draws,).

    One uniform number a person and draw decides all its rows and runs.
    """
    uniform = np.random.default_rng(seed).random((n_draws, len(predictions.persons)))
    by_run = []
    for rows in predictions.rows_by_run.values():
        q, _ = _event(predictions.label[rows], predictions.probability[rows], which)
        happened = uniform[:, predictions.person_index[rows]] < q
        by_run.append(np.abs((happened - q) @ np.eye(n_bins)[bin_of(q, n_bins)]).sum(axis=1) / len(rows))
    return np.asarray(np.mean(by_run, axis=0))


def simulated_scores(predictions: Predictions, n_bins: int, *, n_draws: int = 2000, seed: int = 0) -> dict[str, Floats]:
    """Draw outcomes as `simulated_errors` does, and return ``ece``, ``ece_top``, ``ace`` and ``mce`` of each draw, each (n_draws,).

    The number of a person and draw that makes it positive for ``ece`` makes it one of the other classes otherwise, so that all four
    are of the same outcomes; ``ece_top`` draws whether the likeliest class is right.
    """
    uniform = np.random.default_rng(seed).random((n_draws, len(predictions.persons)))
    ace, mce = [], []
    for rows in predictions.rows_by_run.values():
        p = predictions.probability[rows]
        drawn = uniform[:, predictions.person_index[rows]]
        ace.append(_adaptive(_classes(drawn, p), p, n_bins))
        cell = np.eye(n_bins)[bin_of(p[:, -1], n_bins)]
        gap = ((drawn < p[:, -1]) - p[:, -1]) @ cell
        mce.append(ratio(np.abs(gap), np.broadcast_to(cell.sum(axis=0), gap.shape), empty=0.0).max(axis=1))
    return {
        "ece": simulated_errors(predictions, n_bins, n_draws=n_draws, seed=seed),
        "ece_top": simulated_errors(predictions, n_bins, which="top", n_draws=n_draws, seed=seed),
        "ace": np.asarray(np.mean(ace, axis=0)),
        "mce": np.asarray(np.mean(mce, axis=0)),
    }


def _classes(uniform: Floats, p: Floats) -> Ints:
    """Return the class that each number of ``uniform`` (D, n) stands for: below p(last) the last, then the one before it, and so on."""
    edges = np.cumsum(p[:, ::-1], axis=1)[:, :-1]
    passed = np.zeros(uniform.shape, dtype=np.int64)
    for edge in edges.T:
        passed += uniform >= edge
    return np.asarray(p.shape[1] - 1 - passed, dtype=np.int64)


def _adaptive(label: Ints, p: Floats, n_bins: int) -> Floats:
    """Return the ACE of each row of labels (D, n), as `adaptive_error` computes it for weights of one."""
    total = np.zeros(len(label))
    for c in range(p.shape[1]):
        order = np.argsort(p[:, c], kind="stable")
        gap = ((label == c) - p[:, c])[:, order]
        total += sum(np.abs(part.mean(axis=1)) for part in np.array_split(gap, n_bins, axis=1) if part.size)
    return np.asarray(total / (p.shape[1] * n_bins))


def _floor(errors: Floats, n: int, n_bins: int) -> NoiseFloor:
    low, high = (float(value) for value in np.quantile(errors, [0.05, 0.95]))
    return NoiseFloor(mean=float(errors.mean()), low=low, high=high, n=n, n_bins=n_bins, n_draws=len(errors))


@dataclass(frozen=True, kw_only=True)
class ReliabilityBin:
    """One bin of the reliability table.

    Parameters
    ----------
    low, high : float
        Its edges.
    n_rows, n_persons : int
    promised, happened : float
        Mean probability, and share of positives, over the rows of all runs.
    happened_low, happened_high : float
        Wilson 95 % interval with the persons as the sample.
    """

    low: float
    high: float
    n_rows: int
    n_persons: int
    promised: float
    happened: float
    happened_low: float
    happened_high: float


def reliability_table(predictions: Predictions, n_bins: int = 10) -> list[ReliabilityBin]:
    """Tabulate p(positive) against what happened; empty bins are left out."""
    q, outcome = _event(predictions.label, predictions.probability, "positive")
    which, edges = bin_of(q, n_bins), np.linspace(0.0, 1.0, n_bins + 1)
    table = []
    for b in np.unique(which):
        rows = which == b
        n_persons, happened = int(np.unique(predictions.person_index[rows]).size), float(outcome[rows].mean())
        interval = wilson(happened * n_persons, n_persons)
        table.append(
            ReliabilityBin(
                low=float(edges[b]),
                high=float(edges[b + 1]),
                n_rows=int(rows.sum()),
                n_persons=n_persons,
                promised=float(q[rows].mean()),
                happened=happened,
                happened_low=interval.low,
                happened_high=interval.high,
            )
        )
    return table


@dataclass(frozen=True, kw_only=True, eq=False)
class CalibrationReport:
    """Calibration of one classifier. There is no way to make one without n, intervals and noise floor.

    Parameters
    ----------
    n_persons, n_rows, n_runs, n_bins : int
    binning : str
        In words.
    scores : dict of str to Score
        ``ece``, ``ece_top``, ``ace``, ``mce``, ``brier``, ``nll``, ``slope``, ``intercept``, ``in_the_large``,
        ``expected_to_observed``.
    noise_floor : NoiseFloor
        Of ``ece``.
    noise_floors : dict of str to NoiseFloor
        Of ``ece``, ``ece_top``, ``ace`` and ``mce``, from the same draws.
    p_value : float
        Share of simulations of kept probabilities whose ECE is at least as large: small says miscalibrated.
    table : sequence of ReliabilityBin
    curve : RiskCoverage
    """

    n_persons: int
    n_rows: int
    n_runs: int
    n_bins: int
    binning: str
    scores: Mapping[str, Score]
    noise_floor: NoiseFloor
    p_value: float
    table: tuple[ReliabilityBin, ...]
    curve: RiskCoverage
    noise_floors: Mapping[str, NoiseFloor] = field(default_factory=dict)
    note: str = NOTE

    @property
    def excess(self) -> float:
        """ECE less the mean of the noise floor."""
        return self.scores["ece"].value - self.noise_floor.mean

    def __str__(self) -> str:
        ece, floor = self.scores["ece"], self.noise_floor
        return (
            f"ECE {ece.value:.3f} [{ece.low:.3f}, {ece.high:.3f}] (n = {ece.n_persons}, {self.n_bins} bins; "
            f"kept probabilities give {floor.mean:.3f}, {floor.low:.3f} to {floor.high:.3f}, p = {self.p_value:.3f})"
        )

    def as_dict(self) -> dict[str, Any]:
        """Return the report as JSON takes it; null for what is not finite."""
        plain = ("n_persons", "n_rows", "n_runs", "n_bins", "binning", "p_value", "note")
        whole = {
            **{name: getattr(self, name) for name in plain},
            "scores": {name: asdict(one) for name, one in self.scores.items()},
            "noise_floor": asdict(self.noise_floor),
            "noise_floors": {name: asdict(one) for name, one in self.noise_floors.items()},
            "reliability": [asdict(row) for row in self.table],
            "risk_coverage": {
                "coverage": self.curve.coverage.tolist(),
                "risk": self.curve.risk.tolist(),
                "aurc": self.curve.aurc,
                "excess_aurc": self.curve.excess_aurc,
            },
        }
        return {key: finite(value) for key, value in whole.items()}


def calibration_report(
    predictions: Predictions, *, n_bins: int = 10, level: float = 0.95, n_draws: int = 1000, seed: int = 0
) -> CalibrationReport:
    """Measure the calibration of p(positive).

    Raises
    ------
    RecipeError
        CHI-RC-116 for an impossible level.
    """
    metrics: dict[str, Metric] = {
        "ece": expected_error(n_bins),
        "ece_top": expected_error(n_bins, "top"),
        "ace": adaptive_error(n_bins),
        "mce": largest_error(n_bins),
        "brier": brier,
        "nll": nll,
        "slope": slope,
        "intercept": intercept,
        "in_the_large": large,
        "expected_to_observed": expected_to_observed,
    }
    scores = {
        name: score(predictions, metric, name=name, level=level, n_draws=n_draws, seed=seed)
        for name, metric in metrics.items()
    }
    drawn = simulated_scores(predictions, n_bins, seed=seed)
    simulated = drawn["ece"]
    floors = {name: _floor(errors, len(predictions.persons), n_bins) for name, errors in drawn.items()}
    beyond = int((simulated >= scores["ece"].value - 1e-12).sum())
    return CalibrationReport(
        n_persons=len(predictions.persons),
        n_rows=len(predictions),
        n_runs=len(predictions.rows_by_run),
        n_bins=n_bins,
        binning=BINNING.format(n=n_bins, name=predictions.classes[-1]),
        scores=scores,
        noise_floor=floors["ece"],
        noise_floors=floors,
        p_value=(1 + beyond) / (1 + len(simulated)),
        table=tuple(reliability_table(predictions, n_bins)),
        curve=risk_coverage(predictions),
    )
