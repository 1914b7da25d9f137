"""At chance or not: the verdict on a control that must find nothing.

Definition: the score, pooled over the fixed seeds (mean over seeds, a seed's score at a time), has a 99 % bootstrap interval over
persons that contains chance. Where it lies above, what the control was left with tells the classes apart: the data are confounded.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...data.errors import InputError, RecipeError
from .classification import check_level, run_values
from .metrics import metric_named
from .predictions import Predictions, draw_persons

CODES: dict[str, str] = {
    "CHI-RC-117": "a verdict on chance was asked of another number of seeds, or of a metric without a chance level"
}

SEEDS = 20
LEVEL = 0.99
RULE = (
    "Score pooled over the seeds with a {level:.0%} bootstrap interval over persons; at chance where it contains {chance:.3f}. "
    "Accuracy where every run has as many persons of each class, else balanced accuracy, for which chance is 1 / classes whatever "
    "the mix."
)


@dataclass(frozen=True, kw_only=True)
class ChanceVerdict:
    """What a negative control says.

    Parameters
    ----------
    metric : str
    pooled, low, high : float
        Mean over seeds and its interval over persons.
    chance : float
    per_seed : tuple of float
        Sorted by seed.
    at_chance : bool
        The interval contains chance.
    confounded : bool
        The interval lies above chance.
    n_persons : int
    low_crossed, high_crossed : float
        Interval of a bootstrap that draws seeds as well as persons. It does not decide: where few seeds swing together it is
        wider than the other, and a verdict of `confounded` that it does not share deserves more seeds.
    rule : str
    """

    metric: str
    pooled: float
    low: float
    high: float
    chance: float
    per_seed: tuple[float, ...]
    at_chance: bool
    confounded: bool
    n_persons: int
    low_crossed: float
    high_crossed: float
    rule: str


def chance_verdict(
    predictions: Predictions,
    metric: str = "auto",
    *,
    seeds: int = SEEDS,
    level: float = LEVEL,
    n_draws: int = 5000,
    seed: int = 0,
) -> ChanceVerdict:
    """Judge a control.

    Parameters
    ----------
    predictions : Predictions
        One run a seed.
    metric : {'auto', 'accuracy', 'balanced_accuracy', 'auc'}
        `accuracy` has a chance level only where the classes are equally many in every run.
    seeds : int
        How many there must be; fixed before, so that none is added until the verdict pleases.
    level : float
    n_draws, seed : int

    Raises
    ------
    RecipeError
        CHI-RC-117, CHI-RC-116.
    InputError
        CHI-IN-236 where a class has no row in a run, or most draws miss one.
    """
    check_level(level)
    if len(predictions.rows_by_run) != seeds:
        raise RecipeError(
            "CHI-RC-117",
            f"the verdict is over {seeds} seeds and there are {len(predictions.rows_by_run)}.",
            "Run the seeds that were fixed beforehand, all of them.",
        )
    chosen, chance = _chosen(predictions, metric)
    function = metric_named(chosen)
    draws = draw_persons(len(predictions.persons), n_draws=n_draws, seed=seed)
    values, drawn = run_values(predictions, function)[:, 0], run_values(predictions, function, draws)
    there = ~np.isnan(drawn).any(axis=0)
    if np.isnan(values).any() or 2 * int(there.sum()) < n_draws:
        raise InputError(
            "CHI-IN-236", "a run, or most draws of persons, miss a class.", "Test on persons of every class."
        )
    ends = [(1 - level) / 2, (1 + level) / 2]
    low, high = (float(one) for one in np.quantile(drawn[:, there].mean(axis=0), ends))
    taken = draw_persons(seeds, n_draws=n_draws, seed=seed + 1)
    crossed = ((taken.T * drawn).sum(axis=0) / seeds)[there]
    low_crossed, high_crossed = (float(one) for one in np.quantile(crossed, ends))
    # Sums of many halves: an end that is chance but for rounding contains it.
    low, high = (chance if abs(one - chance) < 1e-12 else one for one in (low, high))
    return ChanceVerdict(
        metric=chosen,
        pooled=float(values.mean()),
        low=low,
        high=high,
        chance=chance,
        per_seed=tuple(values.tolist()),
        at_chance=low <= chance <= high,
        confounded=low > chance,
        n_persons=len(predictions.persons),
        low_crossed=low_crossed,
        high_crossed=high_crossed,
        rule=RULE.format(level=level, chance=chance),
    )


def _chosen(predictions: Predictions, metric: str) -> tuple[str, float]:
    k = len(predictions.classes)
    counts = [np.bincount(predictions.label[rows], minlength=k) for rows in predictions.rows_by_run.values()]
    balanced = all(len(set(one.tolist())) == 1 for one in counts)
    if metric == "auto":
        metric = "accuracy" if balanced else "balanced_accuracy"
    if metric == "auc":
        return metric, 0.5
    if metric == "balanced_accuracy" or (metric == "accuracy" and balanced):
        return metric, 1.0 / k
    raise RecipeError(
        "CHI-RC-117",
        "this metric has no chance level here: accuracy has one only where the classes are equally many.",
        "Ask for balanced_accuracy or auc.",
    )
