"""Scores of a classifier over persons and seeds, each with its interval.

With several runs a score is the mean over runs of the score of each; a bootstrap draw takes the same persons, with all their rows,
in every run.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ...data.errors import InputError, RecipeError
from .intervals import Interval
from .metrics import METRICS, Metric, confusion_matrices, f1s, metric_named, precisions, ratio, recalls
from .predictions import Floats, Ints, Predictions, draw_persons

CODES: dict[str, str] = {
    "CHI-RC-116": "a level or an error rate is not between 0 and 1",
}

RULES = (
    "The class with the largest probability is predicted (the first at a tie). Two classes: precision, recall, specificity and F1 "
    "are of the positive class; more: the plain mean over classes. Precision is 0 where nobody is called positive. AUC counts ties "
    "by half, more than two classes one against the rest. Brier is 0 to 1 with two classes, 0 to 2 with more. Scores are means over "
    "runs; intervals are percentiles of a bootstrap of persons with all their rows and runs."
)
CHUNK = 2_000_000  # weights at a time: 16 MB


def check_level(level: float) -> None:
    """Refuse a level, or an error rate, outside 0 to 1.

    Raises
    ------
    RecipeError
        CHI-RC-116.
    """
    if not 0.0 < level < 1.0:
        raise RecipeError("CHI-RC-116", f"{level} is not between 0 and 1.", "Give 0.95 for 95 %, 0.1 for one in ten.")


def run_values(predictions: Predictions, metric: Metric, weights: Floats | None = None) -> Floats:
    """Return the metric of each run under each draw, shape (runs, D).

    Parameters
    ----------
    predictions : Predictions
    metric : Metric
    weights : ndarray, shape (D, P), optional
        By person, from `draw_persons`; ones where absent.
    """
    weights = np.ones((1, len(predictions.persons))) if weights is None else weights
    step = max(1, CHUNK // len(predictions))
    values = []
    for rows in predictions.rows_by_run.values():
        label, p, person = predictions.label[rows], predictions.probability[rows], predictions.person_index[rows]
        chunks = [weights[i : i + step][:, person] for i in range(0, len(weights), step)]
        values.append(np.concatenate([metric(label, p, chunk) for chunk in chunks]))
    return np.stack(values)


@dataclass(frozen=True, kw_only=True)
class Score:
    """A score with what is needed to believe it.

    Parameters
    ----------
    metric : str
    value : float
        Mean over runs; NaN where the metric is not defined.
    sd : float
        Standard deviation over runs (n - 1); NaN with one run.
    low, high, level : float
        Person bootstrap; NaN where fewer than half of the draws have a value.
    n_persons, n_rows, n_runs : int
    n_draws : int
        Bootstrap draws that have a value.
    reason : str
        Why there is no value or no interval, or why the interval says nothing; else empty.
    """

    metric: str
    value: float
    sd: float
    low: float
    high: float
    level: float
    n_persons: int
    n_rows: int
    n_runs: int
    n_draws: int
    reason: str = ""

    def __str__(self) -> str:
        return f"{self.metric} {self.value:.3f} [{self.low:.3f}, {self.high:.3f}] (n = {self.n_persons})"


def score(
    predictions: Predictions,
    metric: str | Metric,
    *,
    level: float = 0.95,
    n_draws: int = 2000,
    seed: int = 0,
    name: str = "",
) -> Score:
    """Score with a percentile bootstrap interval that draws persons.

    Parameters
    ----------
    predictions : Predictions
    metric : str or Metric
        Name in `METRICS`, or a function with its `name`.

    Raises
    ------
    RecipeError
        CHI-RC-116, CHI-RC-118.
    """
    check_level(level)
    function = metric_named(metric) if isinstance(metric, str) else metric
    draws = draw_persons(len(predictions.persons), n_draws=n_draws, seed=seed)
    values = run_values(predictions, function)[:, 0]
    return _score_of(
        values,
        run_values(predictions, function, draws).mean(axis=0),
        name=metric if isinstance(metric, str) else name,
        level=level,
        counts=(len(predictions.persons), len(predictions)),
        reason=_why(predictions),
    )


def _score_of(values: Floats, drawn: Floats, *, name: str, level: float, counts: tuple[int, int], reason: str) -> Score:
    kept = drawn[~np.isnan(drawn)]
    low = high = math.nan
    value = float(values.mean())
    told = ""
    if math.isnan(value):
        told = reason
    elif math.isinf(value):
        told = "a true class was given the probability 0"
    elif 2 * kept.size < drawn.size:
        told = f"only {kept.size} of {drawn.size} draws have a value"
    elif counts[0] < 2:
        told = "one person has no interval"
    else:
        # Infinite draws are values that lie beyond any percentile; interpolation between two of them would be NaN.
        low, high = np.quantile(kept, [(1 - level) / 2, (1 + level) / 2], method="nearest")
        told = "every draw has the same value: the interval says nothing" if low == high else ""
    return Score(
        metric=name,
        value=value,
        sd=float(values.std(ddof=1)) if len(values) > 1 and np.isfinite(values).all() else math.nan,
        low=float(low),
        high=float(high),
        level=level,
        n_persons=counts[0],
        n_rows=counts[1],
        n_runs=len(values),
        n_draws=int(kept.size),
        reason=told,
    )


def _why(predictions: Predictions) -> str:
    for run, rows in predictions.rows_by_run.items():
        there = set(predictions.label[rows].tolist())
        missing = [name for i, name in enumerate(predictions.classes) if i not in there]
        if missing:
            return f"run {run} has no row of the class {', '.join(missing)}"
    return "not defined for these predictions"


@dataclass(frozen=True, kw_only=True)
class SeedSummary:
    """A metric over runs: its mean, standard deviation (n - 1) and the value of each run."""

    metric: str
    mean: float
    sd: float
    values: tuple[float, ...]

    def __str__(self) -> str:
        return f"{self.mean:.4f} ± {self.sd:.4f} ({len(self.values)} runs)"


def over_seeds(predictions: Predictions, metric: str) -> SeedSummary:
    """Return the spread over runs: of training, not of the persons, so no interval of what another sample would give."""
    values = run_values(predictions, metric_named(metric))[:, 0]
    sd = float(values.std(ddof=1)) if len(values) > 1 and np.isfinite(values).all() else math.nan
    return SeedSummary(metric=metric, mean=float(values.mean()), sd=sd, values=tuple(values.tolist()))


def wilson(successes: float, n: int, *, level: float = 0.95) -> Interval:
    """Interval of a share of `n` independent persons (Wilson 1927, without continuity correction)."""
    from scipy.special import ndtri

    check_level(level)
    if n < 1:
        return Interval(mean=math.nan, low=math.nan, high=math.nan, n=0)
    z, share = float(ndtri((1 + level) / 2)), successes / n
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return Interval(mean=share, low=max(0.0, middle - half), high=min(1.0, middle + half), n=n)


@dataclass(frozen=True, kw_only=True, eq=False)
class ClassificationReport:
    """Every score of one classifier.

    Parameters
    ----------
    classes : tuple of str
        The last is the positive one.
    scores : dict of str to Score
        By metric.
    wilson : Interval
        Of the accuracy, with the persons as the sample: runs and repeated recordings add none.
    confusion : ndarray of int64, shape (K, K)
        True class, predicted class; summed over runs.
    per_class : dict
        Class -> precision, recall, F1 (means over runs).
    """

    classes: tuple[str, ...]
    scores: Mapping[str, Score]
    wilson: Interval
    confusion: Ints
    per_class: Mapping[str, Mapping[str, float]]
    rules: str = RULES

    def as_dict(self) -> dict[str, Any]:
        """Return the report as JSON takes it; null for what is not finite."""
        whole = {
            "classes": list(self.classes),
            "scores": {name: asdict(one) for name, one in self.scores.items()},
            "accuracy_wilson": asdict(self.wilson),
            "confusion": self.confusion.tolist(),
            "per_class": {name: dict(row) for name, row in self.per_class.items()},
            "rules": self.rules,
        }
        return {key: finite(value) for key, value in whole.items()}


def finite(value: Any) -> Any:
    """Replace every float that JSON cannot hold by None, at any depth."""
    if isinstance(value, dict):
        return {key: finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def classification_report(
    predictions: Predictions, *, level: float = 0.95, n_draws: int = 2000, seed: int = 0
) -> ClassificationReport:
    """Score with every metric of `METRICS`."""
    scores = {name: score(predictions, name, level=level, n_draws=n_draws, seed=seed) for name in METRICS}
    by_run = [
        confusion_matrices(predictions.label[rows], predictions.probability[rows], np.ones((1, len(rows))))
        for rows in predictions.rows_by_run.values()
    ]
    columns = {"precision": precisions, "recall": recalls, "f1": f1s}
    means = {name: np.mean([of(one)[0] for one in by_run], axis=0) for name, of in columns.items()}
    n = len(predictions.persons)
    return ClassificationReport(
        classes=predictions.classes,
        scores=scores,
        wilson=wilson(scores["accuracy"].value * n, n, level=level),
        confusion=np.sum(by_run, axis=0)[0].astype(np.int64),
        per_class={
            c: {name: float(values[i]) for name, values in means.items()} for i, c in enumerate(predictions.classes)
        },
    )


def root_mean_square_error(
    person: Sequence[str],
    truth: Sequence[float | None] | Floats,
    predicted: Floats,
    *,
    run: Ints | None = None,
    level: float = 0.95,
    n_draws: int = 2000,
    seed: int = 0,
) -> Score:
    """Error of a predicted score (MMSE points) with its person bootstrap; rows whose truth is None or NaN are left out.

    Raises
    ------
    InputError
        CHI-IN-230 where lengths differ, CHI-IN-231 where a row with a truth has no finite prediction.
    """
    check_level(level)
    target = np.array([math.nan if one is None else one for one in truth], dtype=np.float64)
    guess = np.asarray(predicted, dtype=np.float64)
    runs = np.zeros(len(person), np.int64) if run is None else np.asarray(run)
    if not target.shape == guess.shape == runs.shape == (len(person),):
        raise InputError(
            "CHI-IN-230", f"{len(person)} persons, {target.size} truths and {guess.size} predictions do not pair."
        )
    known = ~np.isnan(target)
    if not np.isfinite(guess[known]).all():
        raise InputError(
            "CHI-IN-231", f"{int((~np.isfinite(guess[known])).sum())} predicted scores are NaN or infinite."
        )
    target, guess, runs = target[known], guess[known], runs[known]
    names = sorted({person[i] for i in np.flatnonzero(known).tolist()})
    place = {name: i for i, name in enumerate(names)}
    index = np.array([place[person[i]] for i in np.flatnonzero(known).tolist()], dtype=np.int64)
    draws = np.vstack([np.ones((1, len(names))), draw_persons(len(names), n_draws=n_draws, seed=seed)])
    by_run = []
    for one in np.unique(runs):
        weights = draws[:, index[runs == one]]
        squared = (guess - target)[runs == one] ** 2
        by_run.append(np.sqrt(ratio(weights @ squared, weights.sum(axis=1))))
    values = np.stack(by_run) if by_run else np.full((1, n_draws + 1), math.nan)
    return _score_of(
        values[:, 0],
        values[:, 1:].mean(axis=0),
        name="rmse",
        level=level,
        counts=(len(names), len(target)),
        reason="no row has a true score",
    )
