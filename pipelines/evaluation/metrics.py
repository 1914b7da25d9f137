"""Metrics of a classifier, each written once, for weighted rows.

A metric takes labels (n,), probabilities (n, K) and weights (D, n), and gives one value a row of weights: weights of one give the
score, weights from `draw_persons` its bootstrap. NaN where a metric is not defined.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ...data.errors import RecipeError, did_you_mean
from .predictions import Floats, Ints

CODES: dict[str, str] = {"CHI-RC-118": "there is no metric of that name"}

Metric = Callable[[Ints, Floats, Floats], Floats]
"""Labels, probabilities and weights of the rows of one run -> score (D,)."""


def confusion_matrices(label: Ints, p: Floats, weights: Floats) -> Floats:
    """Return the weighted confusion matrices, shape (D, K, K): true class, predicted class."""
    k = p.shape[1]
    cell = np.eye(k * k)[label * k + p.argmax(axis=1)]
    counted: Floats = (weights @ cell).reshape(-1, k, k)
    return counted


def ratio(above: Floats, below: Floats, *, empty: float = math.nan) -> Floats:
    """Divide; `empty` where there is nothing to divide by."""
    return np.divide(above, below, out=np.full_like(above, empty), where=below > 0)


def _positive_or_mean(by_class: Floats) -> Floats:
    return by_class[:, 1] if by_class.shape[1] == 2 else by_class.mean(axis=1)


def recalls(confusion: Floats) -> Floats:
    """Return the recall of each class, shape (D, K); NaN where a class has no row."""
    return ratio(np.diagonal(confusion, axis1=1, axis2=2), confusion.sum(axis=2))


def precisions(confusion: Floats) -> Floats:
    """Return the precision of each class, shape (D, K); 0 where nobody is called so."""
    return ratio(np.diagonal(confusion, axis1=1, axis2=2), confusion.sum(axis=1), empty=0.0)


def f1s(confusion: Floats) -> Floats:
    """Return the F1 of each class, shape (D, K)."""
    return ratio(2 * np.diagonal(confusion, axis1=1, axis2=2), confusion.sum(axis=1) + confusion.sum(axis=2))


def accuracy(label: Ints, p: Floats, weights: Floats) -> Floats:
    """Share of rows whose most likely class is the true one."""
    return ratio(weights @ (p.argmax(axis=1) == label).astype(float), weights.sum(axis=1))


def balanced_accuracy(label: Ints, p: Floats, weights: Floats) -> Floats:
    """Mean over classes of the recall; NaN where a class has no row."""
    return np.asarray(recalls(confusion_matrices(label, p, weights)).mean(axis=1))


def precision(label: Ints, p: Floats, weights: Floats) -> Floats:
    """Share of the rows called positive that are."""
    return _positive_or_mean(precisions(confusion_matrices(label, p, weights)))


def recall(label: Ints, p: Floats, weights: Floats) -> Floats:
    """Share of the positive rows that are called so (sensitivity); NaN where there is none."""
    return _positive_or_mean(recalls(confusion_matrices(label, p, weights)))


def specificity(label: Ints, p: Floats, weights: Floats) -> Floats:
    """Share of the rows not positive that are called so; NaN where there is none."""
    confusion = confusion_matrices(label, p, weights)
    own, called, whole = confusion.sum(axis=2), confusion.sum(axis=1), confusion.sum(axis=(1, 2))[:, None]
    rest = whole - own
    return _positive_or_mean(ratio(rest - (called - np.diagonal(confusion, axis1=1, axis2=2)), rest))


def f1(label: Ints, p: Floats, weights: Floats) -> Floats:
    """Harmonic mean of precision and recall; NaN where nobody is, or is called, positive."""
    return _positive_or_mean(f1s(confusion_matrices(label, p, weights)))


def auc(label: Ints, p: Floats, weights: Floats) -> Floats:
    """Probability that a positive row ranks above another, ties counting half; NaN where a class has no row."""
    by_class = [_binary_auc(p[:, c], label == c, weights) for c in range(p.shape[1])]
    return _positive_or_mean(np.stack(by_class, axis=1))


def _binary_auc(score: Floats, event: NDArray[np.bool_], weights: Floats) -> Floats:
    order = np.argsort(score, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(score[order]) > 0])
    with_event, without = (np.add.reduceat(weights[:, order] * mask[order], starts, axis=1) for mask in (event, ~event))
    below = np.cumsum(without, axis=1) - without
    return ratio((with_event * (below + 0.5 * without)).sum(axis=1), with_event.sum(axis=1) * without.sum(axis=1))


def brier(label: Ints, p: Floats, weights: Floats) -> Floats:
    """Mean squared distance from the truth: of p(positive) with two classes, summed over classes with more."""
    gap = (p - np.eye(p.shape[1])[label]) ** 2
    return ratio(weights @ (gap[:, 1] if p.shape[1] == 2 else gap.sum(axis=1)), weights.sum(axis=1))


def nll(label: Ints, p: Floats, weights: Floats) -> Floats:
    """Mean of -log p of the true class, in nats; infinite where a true class was given 0."""
    with np.errstate(divide="ignore"):
        loss = -np.log(p[np.arange(len(label)), label])
    never = np.isinf(loss)
    mean = ratio(weights @ np.where(never, 0.0, loss), weights.sum(axis=1))
    return np.where(weights @ never.astype(float) > 0, math.inf, mean)


METRICS: dict[str, Metric] = {
    metric.__name__: metric
    for metric in (accuracy, balanced_accuracy, precision, recall, specificity, f1, auc, brier, nll)
}
LOWER_IS_BETTER = frozenset({"brier", "nll"})


def metric_named(name: str) -> Metric:
    """Return a metric of `METRICS`.

    Raises
    ------
    RecipeError
        CHI-RC-118.
    """
    if name not in METRICS:
        raise RecipeError(
            "CHI-RC-118",
            f"there is no metric of that name.{did_you_mean(name, list(METRICS))}",
            f"Choose of {', '.join(METRICS)}.",
        )
    return METRICS[name]
