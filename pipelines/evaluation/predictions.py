"""What a classifier said about whom: the one form in which predictions are scored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ...data.errors import ChiasmError, InputError, SeveralErrors

CODES: dict[str, str] = {
    "CHI-IN-230": "persons, labels, probabilities and runs of predictions are not equally many, or there are none",
    "CHI-IN-231": "a prediction is NaN or infinite",
    "CHI-IN-232": "the probabilities of a prediction are no distribution over the classes",
    "CHI-IN-233": "a label is not one of the classes",
    "CHI-IN-234": "a person has two labels where the method needs one",
}

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

SUM_TOLERANCE = 1e-4
"""How far the probabilities of a row may be from a sum of 1: float32 softmax is nearer by two orders."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Predictions:
    """Probabilities of K classes for N rows; a person may have several rows, and several runs (seeds) may stand together.

    Parameters
    ----------
    person : sequence of str, length N
        The unit that is drawn in every interval.
    label : ndarray of int64, shape (N,)
        Index of the true class.
    probability : ndarray of float64, shape (N, K)
        Probabilities, not logits; the last class is the positive one (AD).
    run : ndarray of int64, shape (N,), optional
        Seed of each row; one run where absent.
    classes : tuple of str

    Raises
    ------
    InputError
        CHI-IN-230 to CHI-IN-233.
    SeveralErrors
        More than one of them.
    """

    person: Sequence[str]
    label: Ints
    probability: Floats
    run: Ints | None = None
    classes: tuple[str, ...] = ("CN", "AD")

    def __post_init__(self) -> None:
        label, probability = np.asarray(self.label), np.asarray(self.probability, dtype=np.float64)
        run = np.zeros(len(self.person), np.int64) if self.run is None else np.asarray(self.run, dtype=np.int64)
        errors = _mistakes(len(self.person), label, probability, run, len(self.classes))
        if errors:
            raise errors[0] if len(errors) == 1 else SeveralErrors(errors)
        object.__setattr__(self, "person", tuple(str(name) for name in self.person))
        object.__setattr__(self, "label", label.astype(np.int64))
        object.__setattr__(self, "probability", probability)
        object.__setattr__(self, "run", run)

    def __len__(self) -> int:
        return len(self.person)

    @property
    def positive(self) -> int:
        """Index of the positive class: the last."""
        return len(self.classes) - 1

    @cached_property
    def persons(self) -> tuple[str, ...]:
        """Every person once, sorted."""
        return tuple(sorted(set(self.person)))

    @cached_property
    def person_index(self) -> Ints:
        """Place in `persons` of each row's person, shape (N,)."""
        place = {name: i for i, name in enumerate(self.persons)}
        return np.array([place[name] for name in self.person], dtype=np.int64)

    @cached_property
    def rows_by_run(self) -> dict[int, Ints]:
        """Run -> its rows."""
        runs = np.asarray(self.run)
        return {int(run): np.flatnonzero(runs == run) for run in np.unique(runs)}

    def rows(self, which: NDArray[np.bool_] | Ints) -> Predictions:
        """Return the chosen rows."""
        kept = np.arange(len(self))[which]
        return Predictions(
            person=[self.person[i] for i in kept],
            label=self.label[kept],
            probability=self.probability[kept],
            run=np.asarray(self.run)[kept],
            classes=self.classes,
        )

    def by_person(self) -> Predictions:
        """Average the probabilities of each person over rows and runs (the ensemble of the seeds).

        Raises
        ------
        InputError
            CHI-IN-234 where rows of one person have different labels.
        """
        labels = self.person_labels()
        size = np.bincount(self.person_index, minlength=len(self.persons))
        summed = np.zeros((len(self.persons), len(self.classes)))
        np.add.at(summed, self.person_index, self.probability)
        return Predictions(person=self.persons, label=labels, probability=summed / size[:, None], classes=self.classes)

    def person_labels(self) -> Ints:
        """Return the label of each of `persons`, shape (P,).

        Raises
        ------
        InputError
            CHI-IN-234 where rows of one person have different labels.
        """
        labels = np.full(len(self.persons), -1, np.int64)
        labels[self.person_index] = self.label
        changed = int(np.unique(self.person_index[labels[self.person_index] != self.label]).size)
        if changed:
            raise InputError(
                "CHI-IN-234",
                f"{changed} persons have rows with different labels, and this method needs one label a person.",
                "Keep one visit a person.",
            )
        return labels


def stacked(runs: Sequence[Predictions]) -> Predictions:
    """Put the predictions of several runs, numbered 0, 1, ... in the order given, into one.

    Raises
    ------
    InputError
        CHI-IN-230 where there is none, or the classes differ.
    """
    if not runs or len({one.classes for one in runs}) != 1:
        raise InputError(
            "CHI-IN-230", "there are no runs to stack, or their classes differ.", "Give runs of one study."
        )
    return Predictions(
        person=[name for one in runs for name in one.person],
        label=np.concatenate([one.label for one in runs]),
        probability=np.concatenate([one.probability for one in runs]),
        run=np.repeat(np.arange(len(runs)), [len(one) for one in runs]),
        classes=runs[0].classes,
    )


def draw_persons(n_persons: int, *, n_draws: int, seed: int) -> Floats:
    """Return how often each person occurs in each bootstrap draw, shape (n_draws, n_persons); rows sum to n_persons."""
    chosen = np.random.default_rng(seed).integers(n_persons, size=(n_draws, n_persons))
    chosen += n_persons * np.arange(n_draws)[:, None]
    return np.bincount(chosen.ravel(), minlength=n_draws * n_persons).reshape(n_draws, n_persons).astype(np.float64)


def _mistakes(n: int, label: NDArray[np.generic], p: Floats, run: Ints, k: int) -> list[ChiasmError]:
    if not n or label.shape != (n,) or p.shape != (n, k) or run.shape != (n,):
        text = f"{n} persons, labels {label.shape}, probabilities {p.shape} over {k} classes and runs {run.shape} do not pair."
        return [InputError("CHI-IN-230", text, "Give one of each a row, and at least one row.")]
    found: list[ChiasmError] = []
    bad = ~np.isfinite(p).all(axis=1)
    if bad.any():
        text = f"{int(bad.sum())} of {n} predictions are NaN or infinite."
        found.append(
            InputError("CHI-IN-231", text, "Find the fit that diverged; a score without its rows would flatter.")
        )
    else:
        off = (p < 0).any(axis=1) | (np.abs(p.sum(axis=1) - 1.0) > SUM_TOLERANCE)
        if off.any():
            text = f"{int(off.sum())} of {n} predictions are no distribution: negative, or with a sum other than 1."
            found.append(InputError("CHI-IN-232", text, "Give probabilities, not logits."))
    strange = ~np.isin(label, np.arange(k))
    if strange.any():
        text = f"{int(strange.sum())} of {n} labels are none of 0 to {k - 1}."
        found.append(InputError("CHI-IN-233", text, "Give the index of the class."))
    return found
