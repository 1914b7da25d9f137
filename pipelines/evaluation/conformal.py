"""Split conformal prediction: sets of classes that hold the true one with a stated probability, and so a rule for abstaining.

The promise is marginal: over new persons from the population of the calibration persons. With n of these, coverage moves in steps
of 1/(n + 1), and an error rate below 1/(n + 1) can only be kept by answering nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...data.errors import InputError
from .classification import check_level
from .predictions import Floats, Predictions

UNCERTAIN = "uncertain"


@dataclass(frozen=True, kw_only=True)
class ConformalSets:
    """Thresholds of a calibrated classifier (Vovk et al. 2005; score 1 - p of the class, Sadinle et al. 2019).

    Parameters
    ----------
    classes : tuple of str
    error_rate : float
        alpha: the true class is missed at most this often.
    thresholds : tuple of float
        By class: a class is in the set where ``1 - p <= threshold``; infinite where n is too small for alpha.
    n : tuple of int
        Calibration persons behind each threshold.
    class_conditional : bool
        The promise holds within each class, not only on average.
    """

    classes: tuple[str, ...]
    error_rate: float
    thresholds: tuple[float, ...]
    n: tuple[int, ...]
    class_conditional: bool

    def sets(self, probability: Floats) -> NDArray[np.bool_]:
        """Return which classes are in the set of each row, shape (N, K)."""
        return np.asarray(1.0 - np.asarray(probability, dtype=np.float64) <= np.asarray(self.thresholds))

    def answers(self, probability: Floats) -> list[str]:
        """Return the class of each row whose set has one member, else ``uncertain``."""
        return [self.classes[int(row.argmax())] if int(row.sum()) == 1 else UNCERTAIN for row in self.sets(probability)]


def fit_conformal(
    calibration: Predictions, *, error_rate: float = 0.1, class_conditional: bool = False
) -> ConformalSets:
    """Choose thresholds on persons that trained nothing.

    A person with several rows counts once, with the worst row, so that all rows of a new person are covered together.

    Raises
    ------
    RecipeError
        CHI-RC-116 for an error rate outside 0 to 1.
    InputError
        CHI-IN-236 where a class has no calibration person and the promise is by class.
    """
    check_level(error_rate)
    scores = 1.0 - calibration.probability[np.arange(len(calibration)), calibration.label]
    k = len(calibration.classes)
    # By class, a person whose label changed counts in each of the classes.
    chosen = [calibration.label == c if class_conditional else np.ones(len(calibration), bool) for c in range(k)]
    worst = [_worst(scores[rows], calibration.person_index[rows]) for rows in chosen]
    empty = [calibration.classes[c] for c in range(k) if not worst[c].size]
    if empty:
        raise InputError(
            "CHI-IN-236",
            f"no calibration person has the class {', '.join(empty)}.",
            "Add persons, or ask for sets that are not by class.",
        )
    return ConformalSets(
        classes=calibration.classes,
        error_rate=error_rate,
        thresholds=tuple(quantile(one, error_rate) for one in worst),
        n=tuple(int(one.size) for one in worst),
        class_conditional=class_conditional,
    )


def quantile(scores: Floats, error_rate: float) -> float:
    """Return the ceil((n + 1)(1 - alpha))-th smallest score; infinite where there is none."""
    # The product is exact in theory only: 20 * 0.95 must be 19, not 20.
    rank = math.ceil((len(scores) + 1) * (1.0 - error_rate) - 1e-9)
    return float(np.sort(scores)[rank - 1]) if rank <= len(scores) else math.inf


@dataclass(frozen=True, kw_only=True)
class Coverage:
    """What the sets did on test rows.

    Parameters
    ----------
    covered : float
        Share of rows whose set holds the true class.
    answered : float
        Share of rows with one class.
    accuracy_answered : float
        Share of these that are right; NaN where none is answered.
    mean_size : float
    n_persons : int
    """

    covered: float
    answered: float
    accuracy_answered: float
    mean_size: float
    n_persons: int


def coverage(sets: ConformalSets, test: Predictions) -> Coverage:
    """Count on test rows."""
    inside = sets.sets(test.probability)
    held, single = inside[np.arange(len(test)), test.label], inside.sum(axis=1) == 1
    return Coverage(
        covered=float(held.mean()),
        answered=float(single.mean()),
        accuracy_answered=float(held[single].mean()) if single.any() else math.nan,
        mean_size=float(inside.sum(axis=1).mean()),
        n_persons=len(test.persons),
    )


def _worst(scores: Floats, person: NDArray[np.int64]) -> Floats:
    return np.array([scores[person == one].max() for one in np.unique(person)], dtype=np.float64)
