"""Sides of a split that share no stimulus, within a subject and across subjects."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from .decoding_set import BrainSubject
from .trials import SPLITS, TRAIN, VALIDATION, Trials

CODES: dict[str, str] = {
    "CHI-IN-270": "A stimulus is on two sides of a split, within one subject or across subjects.",
    "CHI-IN-279": "Holding out a share of the stimuli leaves one side empty.",
}
_NAMED = 5


def check_disjoint(subjects: Iterable[BrainSubject], names: Sequence[str] = ()) -> None:
    """Refuse a stimulus that is on two sides of the split, whoever saw it.

    Parameters
    ----------
    subjects : iterable of BrainSubject
    names : sequence of str
        Of the stimuli (`Stimuli.names`), for the message; numbers from 0 where they are not given.

    Raises
    ------
    InputError
        ``CHI-IN-270``, with the names of up to five.
    """
    side: dict[int, set[int]] = {split: set() for split in range(len(SPLITS))}
    for subject in subjects:
        for split, seen in side.items():
            seen.update(np.unique(subject.trials.image[subject.trials.split == split]).tolist())
    twice = sorted((side[0] & side[1]) | (side[0] & side[2]) | (side[1] & side[2]))
    if twice:
        named = [names[image] if 0 <= image < len(names) else str(image) for image in twice[:_NAMED]]
        sides = [SPLITS[split] for split, seen in side.items() if seen & set(twice)]
        raise InputError(
            "CHI-IN-270",
            f"{len(twice)} stimuli are on more than one side of the split ({', '.join(sides)}): {', '.join(named)}"
            f"{' ...' if len(twice) > _NAMED else ''}.",
            "Put all trials of a stimulus, of all subjects, on one side: otherwise the test measures memory.",
        )


def hold_out(trials: Trials, share: float, seed: int) -> Trials:
    """Move a share of the training stimuli, with all their trials, to the validation side.

    Whether a stimulus moves depends on its number and the seed only, so that it is on one side for every subject. The share is
    met on average.

    Parameters
    ----------
    trials : Trials
    share : float
        Of the training stimuli, between 0 and 1; 0 moves none.
    seed : int
        Not negative.

    Raises
    ------
    InputError
        ``CHI-IN-279``.
    """
    if not 0.0 <= share < 1.0 or seed < 0:
        raise ValueError("share lies from 0 to below 1, seed is not negative")
    training = trials.split == TRAIN
    moved = training & (_draw(trials.image, seed) < share)
    if share > 0 and (not moved.any() or (moved == training).all()):
        raise InputError(
            "CHI-IN-279",
            f"of {len(np.unique(trials.image[training]))} training stimuli, holding out {share:g} leaves one side empty.",
            "Use more stimuli, another share or another seed.",
        )
    split = np.where(moved, np.int8(VALIDATION), trials.split).astype(np.int8)
    return Trials(row=trials.row, image=trials.image, session=trials.session, repeat=trials.repeat, split=split)


def _draw(images: NDArray[np.int64], seed: int) -> NDArray[np.float64]:
    """Return a number from 0 to 1 for each image: two rounds of SplitMix64 (Steele, Lea & Flood 2014), alike on every machine."""
    with np.errstate(over="ignore"):
        state = _mixed(np.full(images.shape, seed % 2**64, dtype=np.uint64))
        state = _mixed(state ^ images.astype(np.uint64))
    return (state >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _mixed(state: NDArray[np.uint64]) -> NDArray[np.uint64]:
    state = state + np.uint64(0x9E3779B97F4A7C15)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))
