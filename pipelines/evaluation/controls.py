"""Controls of a segmentation pipeline: a signal that must be found, and one that must not.

Positive: a network that is trained on phantoms finds the tumours of other phantoms. Negative: trained on label maps that belong to
other patients, it must be no better than a guess; how good a guess can be is measured here, since tumours are not spread evenly and
a large guess overlaps with anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .intervals import Interval, bootstrap_mean
from .segmentation import dice

Masks = Sequence[NDArray[np.bool_]]


@dataclass(frozen=True, kw_only=True)
class Chance:
    """Dice of each held-out patient under guesses that see nothing of that patient's images but the brain.

    Parameters
    ----------
    guesses : dict of ndarray, shape (N,)
        Name of the guess -> Dice by held-out patient.
    """

    guesses: dict[str, NDArray[np.float64]]

    @property
    def best(self) -> str:
        """The guess with the highest mean: the chance level is its."""
        return max(self.guesses, key=lambda name: float(self.guesses[name].mean()))

    @property
    def values(self) -> NDArray[np.float64]:
        """Dice of the best guess by held-out patient."""
        return self.guesses[self.best]


def chance_dice(training: Masks, held_out: Masks, brains: Masks) -> Chance:
    """Estimate how well a guess scores.

    The guesses are: the mask of another patient (mean over all of `training`), the whole brain, and every voxel where at
    least a certain share of the training masks lies, with the share that is best on the training masks themselves.

    Parameters
    ----------
    training, held_out : sequence of ndarray of bool, shape (X, Y, Z)
        On one grid.
    brains : sequence of ndarray of bool
        Brain of each held-out patient.

    Raises
    ------
    ValueError
        When there is nothing to guess from, or brains and patients do not pair.
    """
    if not training or not held_out or len(brains) != len(held_out):
        raise ValueError(f"got {len(training)} training, {len(held_out)} held-out masks and {len(brains)} brains")
    share = np.mean([mask.astype(np.float32) for mask in training], axis=0)
    cuts = sorted({float(value) for value in np.quantile(share[share > 0], np.linspace(0.0, 0.99, 25))})
    cut = max(cuts, key=lambda c: float(np.mean([_dice(share >= c, mask) for mask in training])))
    return Chance(
        guesses={
            "another patient's mask": np.array([np.mean([_dice(t, mask) for t in training]) for mask in held_out]),
            "the whole brain": np.array([_dice(b, mask) for b, mask in zip(brains, held_out, strict=True)]),
            "where tumours are often": np.array([_dice(share >= cut, mask) for mask in held_out]),
        }
    )


def threshold_dice(
    training: Sequence[NDArray[np.floating]],
    training_masks: Masks,
    held_out: Sequence[NDArray[np.floating]],
    masks: Masks,
) -> tuple[float, NDArray[np.float64]]:
    """Score what needs no network: one cut on one channel, chosen on the training images.

    A positive control that a cut passes too says that training runs, not that the network learnt more than brightness.

    Returns
    -------
    cut : float
    dice : ndarray, shape (N,)
        By held-out patient.
    """
    low, high = min(float(i.min()) for i in training), max(float(i.max()) for i in training)
    cuts = np.linspace(low, high, 100)
    images = list(zip(training, training_masks, strict=True))
    cut = float(max(cuts, key=lambda c: float(np.mean([_dice(image > c, mask) for image, mask in images]))))
    return cut, np.array([_dice(image > cut, mask) for image, mask in zip(held_out, masks, strict=True)])


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a control says.

    Parameters
    ----------
    passed : bool
    score : Interval
        Mean Dice over held-out patients.
    against : float
        The bar (positive control) or the chance level (negative control).
    excess : Interval
        Paired difference from `against`, patient by patient.
    """

    passed: bool
    score: Interval
    against: float
    excess: Interval


def positive_control(scores: NDArray[np.float64], bar: float) -> Verdict:
    """Pass where the mean Dice reaches the bar."""
    score = bootstrap_mean(scores, level=0.99)
    return Verdict(passed=score.mean >= bar, score=score, against=bar, excess=bootstrap_mean(scores - bar, level=0.99))


def negative_control(scores: NDArray[np.float64], chance: Chance) -> Verdict:
    """Pass where the 99 % interval of the paired difference from the best guess does not lie above zero.

    Parameters
    ----------
    scores : ndarray, shape (N,)
        Dice by held-out patient; where several networks were trained, each patient's mean over them.
    """
    excess = bootstrap_mean(scores - chance.values, level=0.99)
    score = bootstrap_mean(scores, level=0.99)
    return Verdict(passed=excess.low <= 0.0, score=score, against=float(chance.values.mean()), excess=excess)


def _dice(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    return dice(one, other, both_empty=1.0)
