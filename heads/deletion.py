"""Is a relevance map faithful? Take tokens away in its order and see whether the class's score falls as it should.

Taking the most relevant first must lose the score sooner than taking tokens at random, the least relevant first later
(the positive and negative perturbation of Chefer et al., CVPR 2021).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Order = Literal["most", "least"] | int
"""What goes first; a number is the seed of a random order."""

Score = Callable[[Tensor], Any]
"""From tokens that are kept, bool (n,), to the class's score; or, batched, from (K, n) to K scores."""


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Score of the class after a growing share of the tokens was taken away.

    Parameters
    ----------
    fractions : Tensor, shape (K,)
        Share that is gone, from 0.
    scores : Tensor of float64, shape (K,)
    area : float
        Mean height of the curve (trapezoids over the fractions, divided by their range).
    """

    fractions: Tensor
    scores: Tensor
    area: float


def keep_masks(relevance: Tensor, *, steps: int = 10, order: Order = "most", valid: Tensor | None = None) -> Tensor:
    """Return which tokens are left after each step, bool (steps, n).

    Parameters
    ----------
    relevance : Tensor, shape (n,)
    steps : int
        Step k takes away k / steps of the valid tokens, rounded; the last one leaves 1 / steps.
    order : 'most', 'least' or int
    valid : Tensor of bool, shape (n,), optional
        Padding and special tokens are False: they are never counted and never taken away.
    """
    if steps < 2:
        raise ValueError(f"steps: at least 2, not {steps}")
    valid = torch.ones_like(relevance, dtype=torch.bool) if valid is None else valid.bool()
    places = valid.nonzero()[:, 0]
    if isinstance(order, int):
        shuffled = np.random.default_rng(order).permutation(len(places))
        ranked = places[torch.from_numpy(shuffled).to(places.device)]
    elif order in ("most", "least"):
        ranked = places[relevance[places].argsort(descending=order == "most", stable=True)]
    else:
        raise ValueError(f"order: 'most', 'least' or a seed, not {order!r}")
    masks = torch.ones(steps, len(relevance), dtype=torch.bool, device=relevance.device)
    for step in range(steps):
        masks[step, ranked[: round(step / steps * len(places))]] = False
    return masks


def deletion_curve(
    score: Score,
    relevance: Tensor,
    *,
    steps: int = 10,
    order: Order = "most",
    valid: Tensor | None = None,
    batched: bool = False,
) -> Curve:
    """Score a case while its tokens are taken away.

    Parameters
    ----------
    score : callable
        Keeps the tokens it is told to and returns the class's score (a probability, best). For two streams lay text
        and audio behind each other and let it split the mask; one of them may then be left without a token. A model
        that refuses that is tested a stream at a time: `valid` is False for the other.
    relevance : Tensor, shape (n,)
    steps, order, valid
        As in `keep_masks`.
    batched : bool
        `score` takes all masks (steps, n) at once.

    Returns
    -------
    Curve
    """
    masks = keep_masks(relevance, steps=steps, order=order, valid=valid)
    found = score(masks) if batched else [float(score(mask)) for mask in masks]
    scores = torch.as_tensor(found, dtype=torch.float64).detach().cpu().reshape(-1)
    if len(scores) != steps:
        raise ValueError(f"{len(scores)} scores for {steps} masks")
    if not bool(scores.isfinite().all()):
        raise ValueError(
            "a score is not finite: a stream without any token needs an answer too, or `valid` for one stream"
        )
    fractions = torch.arange(steps, dtype=torch.float64) / steps
    area = float(torch.trapezoid(scores, fractions) / fractions[-1])
    return Curve(fractions=fractions, scores=scores, area=area)


@dataclass(frozen=True, kw_only=True)
class DeletionCase:
    """One explained case.

    Parameters
    ----------
    score : callable
    relevance : Tensor, shape (n,)
    person : str
        Cases of one person are drawn together.
    valid : Tensor of bool, shape (n,), optional
    """

    score: Score
    relevance: Tensor
    person: str
    valid: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class Margin:
    """A mean over persons with its interval; above 0: better than chance.

    Parameters
    ----------
    mean, low, high : float
    """

    mean: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Faithfulness:
    """Areas of the curves, and what separates the map's order from random orders.

    Parameters
    ----------
    most_first, least_first, random : ndarray, shape (n_cases,)
        Areas; `random` is the mean over random orders.
    positive : Margin
        random - most_first.
    negative : Margin
        least_first - random.
    n_persons : int
    """

    most_first: NDArray[np.float64] = field(repr=False)
    least_first: NDArray[np.float64] = field(repr=False)
    random: NDArray[np.float64] = field(repr=False)
    positive: Margin
    negative: Margin
    n_persons: int


def compare_with_random(
    cases: Sequence[DeletionCase],
    *,
    steps: int = 10,
    n_random: int = 10,
    n_resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
    batched: bool = False,
) -> Faithfulness:
    """Hold the map's order against random orders over cases, with a percentile bootstrap over persons.

    Parameters
    ----------
    cases : sequence of DeletionCase
    steps : int
    n_random : int
        Random orders a case.
    n_resamples : int
    level : float
        Of the interval.
    seed : int
    batched : bool
        As in `deletion_curve`.

    Returns
    -------
    Faithfulness
    """
    if not cases or n_random < 1:
        raise ValueError(f"at least one case and one random order, not {len(cases)} and {n_random}")
    seeds = itertools.count(seed * 1_000_003)  # another order in every case

    def area(case: DeletionCase, order: Order) -> float:
        curve = deletion_curve(case.score, case.relevance, steps=steps, order=order, valid=case.valid, batched=batched)
        return curve.area

    most = np.array([area(case, "most") for case in cases])
    least = np.array([area(case, "least") for case in cases])
    chance = np.array([np.mean([area(case, next(seeds)) for _ in range(n_random)]) for case in cases])
    persons = np.unique([case.person for case in cases], return_inverse=True)[1]
    n_persons = int(persons.max()) + 1
    drawn = np.random.default_rng(seed).integers(n_persons, size=(n_resamples, n_persons))
    tails = [50 * (1 - level), 50 * (1 + level)]

    def margin(difference: NDArray[np.float64]) -> Margin:
        means = np.bincount(persons, difference) / np.bincount(persons)
        low, high = np.percentile(means[drawn].mean(1), tails)
        return Margin(mean=float(means.mean()), low=float(low), high=float(high))

    return Faithfulness(
        most_first=most,
        least_first=least,
        random=chance,
        positive=margin(chance - most),
        negative=margin(least - chance),
        n_persons=n_persons,
    )
