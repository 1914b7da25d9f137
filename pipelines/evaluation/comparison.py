"""Is one classifier better than another, or than nothing: paired intervals, exact and permutation tests, stochastic order of seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...data.errors import InputError
from .classification import check_level, run_values
from .metrics import LOWER_IS_BETTER, metric_named
from .predictions import Floats, Ints, Predictions, draw_persons

CODES: dict[str, str] = {"CHI-IN-235": "two models to compare were not scored on the same persons, labels and seeds"}

MIN_SCORES = 5
"""A model, for a test of stochastic order (Dror et al. 2019)."""
DOMINATES_BELOW = 0.2
"""Largest `eps_min` that is called dominance: 0.5 is the theory's bound, and lets too much pass (Ulmer et al. 2022)."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Metric of the first model less that of the second, with the interval of a bootstrap that draws persons for both.

    Parameters
    ----------
    metric : str
    value, low, high, level : float
    n_persons, n_runs : int
    """

    metric: str
    value: float
    low: float
    high: float
    level: float
    n_persons: int
    n_runs: int

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval lies on one side of 0."""
        return self.low > 0.0 or self.high < 0.0


def paired_difference(
    first: Predictions,
    second: Predictions,
    metric: str = "accuracy",
    *,
    level: float = 0.95,
    n_draws: int = 5000,
    seed: int = 0,
) -> Difference:
    """Compare two models over the same persons and seeds.

    Raises
    ------
    InputError
        CHI-IN-235.
    RecipeError
        CHI-RC-116, CHI-RC-118.
    """
    check_level(level)
    function = metric_named(metric)
    _same_rows(first, second)
    draws = draw_persons(len(first.persons), n_draws=n_draws, seed=seed)
    value = run_values(first, function).mean() - run_values(second, function).mean()
    drawn = run_values(first, function, draws).mean(axis=0) - run_values(second, function, draws).mean(axis=0)
    kept = drawn[np.isfinite(drawn)]
    enough = 2 * kept.size >= drawn.size
    low, high = np.quantile(kept, [(1 - level) / 2, (1 + level) / 2]) if enough else (math.nan, math.nan)
    return Difference(
        metric=metric,
        value=float(value),
        low=float(low),
        high=float(high),
        level=level,
        n_persons=len(first.persons),
        n_runs=len(first.rows_by_run),
    )


@dataclass(frozen=True, kw_only=True)
class McNemar:
    """Exact test of two error rates over the same persons.

    Parameters
    ----------
    only_first, only_second : int
        Persons that only this model gets right.
    p_value : float
        Two-sided.
    n_persons : int
    """

    only_first: int
    only_second: int
    p_value: float
    n_persons: int


def mcnemar(first: Predictions, second: Predictions) -> McNemar:
    """Test with one answer a person: probabilities are averaged over a person's rows and runs first.

    Raises
    ------
    InputError
        CHI-IN-234 where a person has two labels, CHI-IN-235.
    """
    from scipy.stats import binomtest

    _same_rows(first, second)
    one, two = first.by_person(), second.by_person()
    right, also = (p.probability.argmax(axis=1) == p.label for p in (one, two))
    b, c = int((right & ~also).sum()), int((also & ~right).sum())
    p_value = float(binomtest(min(b, c), b + c, 0.5).pvalue) if b + c else 1.0
    return McNemar(only_first=b, only_second=c, p_value=p_value, n_persons=len(one))


@dataclass(frozen=True, kw_only=True)
class PermutationTest:
    """How often labels that were dealt anew among persons score as well.

    Parameters
    ----------
    metric : str
    value : float
        With the true labels, mean over runs.
    p_value : float
        One-sided; the true labels count as one of the permutations.
    null_mean, null_sd : float
        Of the permuted scores.
    n_permutations, n_persons : int
    """

    metric: str
    value: float
    p_value: float
    null_mean: float
    null_sd: float
    n_permutations: int
    n_persons: int


def permutation_test(
    predictions: Predictions, metric: str = "accuracy", *, n_permutations: int = 2000, seed: int = 0
) -> PermutationTest:
    """Permute labels among persons; all rows and runs of a person keep together.

    Raises
    ------
    InputError
        CHI-IN-234 where a person has two labels.
    RecipeError
        CHI-RC-118.
    """
    function = metric_named(metric)
    labels, rng = predictions.person_labels(), np.random.default_rng(seed)
    runs = [
        (predictions.person_index[rows], predictions.probability[rows], np.ones((1, len(rows))))
        for rows in predictions.rows_by_run.values()
    ]

    def mean_score(dealt: Ints) -> float:
        return float(np.mean([function(dealt[person], p, weights)[0] for person, p, weights in runs]))

    value = mean_score(labels)
    null = np.array([mean_score(rng.permutation(labels)) for _ in range(n_permutations)])
    sign = -1.0 if metric in LOWER_IS_BETTER else 1.0
    as_good = int((sign * null >= sign * value - 1e-12).sum())
    return PermutationTest(
        metric=metric,
        value=value,
        p_value=(1 + as_good) / (1 + n_permutations),
        null_mean=float(null.mean()),
        null_sd=float(null.std()),
        n_permutations=n_permutations,
        n_persons=len(labels),
    )


@dataclass(frozen=True, kw_only=True)
class StochasticOrder:
    """Almost stochastic order of two sets of scores, larger being better.

    Parameters
    ----------
    eps_min : float
        Upper confidence bound of the violation ratio, 0 to 1: below 0.5 the first is almost stochastically larger,
        0 where it is so at every quantile.
    violation : float
        Share of the squared distance of the quantile functions where the second lies above.
    level : float
        After the correction for `n_comparisons`.
    n_first, n_second : int
    """

    eps_min: float
    violation: float
    level: float
    n_first: int
    n_second: int

    @property
    def dominates(self) -> bool:
        """Whether ``eps_min`` is below `DOMINATES_BELOW`."""
        return self.eps_min < DOMINATES_BELOW


def almost_stochastic_order(
    first: Sequence[float] | Floats,
    second: Sequence[float] | Floats,
    *,
    level: float = 0.95,
    n_comparisons: int = 1,
    n_draws: int = 1000,
    seed: int = 0,
) -> StochasticOrder:
    """Test whether the scores of the first model (one a seed) are almost stochastically larger.

    ``eps = integral over {F^-1 < G^-1} of (F^-1 - G^-1)^2 / integral of (F^-1 - G^-1)^2`` for the empirical quantile functions, exact
    since both are steps; ``eps_min = eps - sqrt((n + m)/(n m)) sd Phi^-1(1 - level)``, sd from a bootstrap of both sets
    (del Barrio et al. 2018; Dror et al. 2019). Equal sets give 1. It speaks of seeds, not of persons.

    Raises
    ------
    InputError
        CHI-IN-236 with fewer than five scores a model, CHI-IN-231 where one is not finite.
    RecipeError
        CHI-RC-116.
    """
    from scipy.special import ndtri

    check_level(level)
    a, b = np.sort(np.asarray(first, dtype=float)), np.sort(np.asarray(second, dtype=float))
    if min(a.size, b.size) < MIN_SCORES:
        raise InputError(
            "CHI-IN-236",
            f"a test of stochastic order needs {MIN_SCORES} scores a model; there are {a.size} and {b.size}.",
            "Train with more seeds.",
        )
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise InputError("CHI-IN-231", "a score is NaN or infinite.", "Leave no seed out: find why it has no score.")
    corrected = 1.0 - (1.0 - level) / n_comparisons
    rng, scale = np.random.default_rng(seed), math.sqrt(a.size * b.size / (a.size + b.size))
    drawn = _violations(
        np.sort(a[rng.integers(a.size, size=(n_draws, a.size))], axis=1),
        np.sort(b[rng.integers(b.size, size=(n_draws, b.size))], axis=1),
    )
    violation = float(_violations(a[None], b[None])[0])
    sd = float(np.std(scale * (drawn - violation)))
    bound = violation - sd / scale * float(ndtri(1.0 - corrected))
    return StochasticOrder(
        eps_min=min(1.0, max(0.0, bound)), violation=violation, level=corrected, n_first=a.size, n_second=b.size
    )


def _violations(a: Floats, b: Floats) -> Floats:
    """Return the violation ratio of sorted scores a (D, n) over b (D, m); 1 where the quantile functions are the same."""
    n, m = a.shape[1], b.shape[1]
    edges = np.unique(np.concatenate([np.arange(n + 1) * m, np.arange(m + 1) * n]))  # in units of 1 / (n m): exact
    left, width = edges[:-1], np.diff(edges) / (n * m)
    gap = a[:, left // m] - b[:, left // n]
    whole, against = gap**2 @ width, np.minimum(gap, 0.0) ** 2 @ width
    return np.asarray(np.divide(against, whole, out=np.ones_like(whole), where=whole > 0))


def _same_rows(first: Predictions, second: Predictions) -> None:
    keys = [sorted(zip(np.asarray(p.run).tolist(), p.person, p.label.tolist(), strict=True)) for p in (first, second)]
    if keys[0] != keys[1] or first.classes != second.classes:
        raise InputError(
            "CHI-IN-235",
            f"the models have {len(first)} and {len(second)} predictions, over other persons, labels, seeds or classes.",
            "Score both on one test set with the same seeds.",
        )
