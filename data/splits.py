"""Training, validation and test sides that share no person, stratified by label and sex, the same for one seed for ever."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from .errors import InputError
from .interviews import Interview, InterviewSet

CODES: dict[str, str] = {
    "CHI-IN-180": "A person is on two sides of a split.",
    "CHI-IN-181": "A side of a split lacks a class.",
    "CHI-IN-182": "A side of a split is empty, or some interviews belong to none.",
    "CHI-IN-183": "There are too few persons for so many folds.",
}
_SEVERITY = ("CN", "MCI", "AD")
_SIDES: tuple[Literal["train", "test"], ...] = ("train", "test")


@dataclass(frozen=True)
class Fold:
    """Names of interviews, sorted.

    Parameters
    ----------
    train, validation, test : tuple of str
    """

    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]


@dataclass(frozen=True)
class _Person:
    name: str
    label: str
    sex: str
    interviews: tuple[str, ...]


def challenge(found: InterviewSet, seed: int, *, validation_share: float = 0.35) -> Fold:
    """Return the data set's own split, with a part of its training side for validation.

    Interviews without a label are left out, but for those of the test side.

    Parameters
    ----------
    found : InterviewSet
    seed : int
        Not negative.
    validation_share : float
        Of the persons of each class, between 0 and 1; at least one person.

    Raises
    ------
    InputError
        ``CHI-IN-180`` to ``CHI-IN-182``.
    """
    sides = {side: found.of_split(side) for side in _SIDES}
    outside = len(found.interviews) - sum(map(len, sides.values()))
    if outside or not all(sides.values()):
        raise InputError(
            "CHI-IN-182",
            f"The data set's own split has {len(sides['train'])} interviews for training, {len(sides['test'])} for the test, "
            f"and {outside} that belong to neither.",
            "Use cross-validation, or say train or test for every interview.",
        )
    test = tuple(sorted(interview.name for interview in sides["test"]))
    own = Fold(tuple(interview.name for interview in sides["train"]), (), test)
    check_disjoint(own, found.interviews)
    return _fold(_persons(sides["train"]), test, [seed], validation_share)


def k_fold(interviews: Sequence[Interview], folds: int, *, seed: int, validation_share: float = 0.35) -> list[Fold]:
    """Return folds whose test sides hold every labelled person once, each class and sex spread evenly.

    Raises
    ------
    InputError
        ``CHI-IN-181`` to ``CHI-IN-183``.
    """
    persons = _persons(interviews)
    if not 2 <= folds <= len(persons):
        raise InputError(
            "CHI-IN-183",
            f"{folds} folds are asked for and there are {len(persons)} persons with a label.",
            "Ask for 2 folds or more, and not more than there are persons.",
        )
    # Dealt like cards, class after class and sex after sex: the sizes of all strata differ by one at most.
    dealt = [person for group in _strata(persons, [seed]).values() for person in group]
    made = []
    for number in range(folds):
        test = {person.name for person in dealt[number::folds]}
        made.append(_without(persons, test, [seed, number + 1], validation_share))
    return made


def leave_one_person_out(interviews: Sequence[Interview], seed: int, *, validation_share: float = 0.35) -> list[Fold]:
    """Return a fold a labelled person, in order of the persons' names.

    Raises
    ------
    InputError
        ``CHI-IN-181``, ``CHI-IN-182``.
    """
    persons = _persons(interviews)
    return [_without(persons, {person.name}, [seed, i + 1], validation_share) for i, person in enumerate(persons)]


def check_disjoint(fold: Fold, interviews: Iterable[Interview]) -> None:
    """Refuse a fold that has a person on two sides.

    Raises
    ------
    InputError
        ``CHI-IN-180``.
    ValueError
        The fold names an interview that is not among `interviews`.
    """
    person_of = {interview.name: interview.person for interview in interviews}
    names = (*fold.train, *fold.validation, *fold.test)
    if not person_of.keys() >= set(names):
        raise ValueError("the fold names interviews that are not there")
    sides = [{person_of[name] for name in side} for side in (fold.train, fold.validation, fold.test)]
    twice = (sides[0] & sides[1]) | (sides[0] & sides[2]) | (sides[1] & sides[2])
    if twice:
        raise InputError(
            "CHI-IN-180",
            f"{len(twice)} person(s) have interviews on two sides of the split.",
            "Put all interviews of a person on one side: otherwise the test measures how well persons are remembered.",
        )


def _persons(interviews: Iterable[Interview]) -> list[_Person]:
    """Return who has a label, by name; whoever changed class counts to the graver one."""
    own: dict[str, list[Interview]] = {}
    for interview in interviews:
        if interview.label is not None:
            own.setdefault(interview.person, []).append(interview)
    return [
        _Person(
            name,
            max((str(i.label) for i in group), key=_gravity),
            min((i.sex for i in group if i.sex), default=""),
            tuple(i.name for i in group),
        )
        for name, group in sorted(own.items())
    ]


def _gravity(label: str) -> tuple[int, str]:
    return (_SEVERITY.index(label) if label in _SEVERITY else -1, label)


def _strata(persons: Sequence[_Person], seed: Sequence[int]) -> dict[str, list[_Person]]:
    """Return the persons of each class, sex after sex, in random order within."""
    rng = np.random.default_rng(list(seed))
    strata: dict[str, list[_Person]] = {}
    for label, sex in sorted({(person.label, person.sex) for person in persons}):
        group = [person for person in persons if (person.label, person.sex) == (label, sex)]
        strata.setdefault(label, []).extend(group[i] for i in rng.permutation(len(group)))
    return strata


def _without(persons: Sequence[_Person], test: set[str], seed: Sequence[int], share: float) -> Fold:
    names = [name for person in persons if person.name in test for name in person.interviews]
    return _fold([person for person in persons if person.name not in test], tuple(sorted(names)), seed, share)


def _fold(persons: Sequence[_Person], test: tuple[str, ...], seed: Sequence[int], share: float) -> Fold:
    """Take the validation side from each class: persons at even distances in the list that is sorted by sex."""
    if not 0.0 < share < 1.0:
        raise ValueError("validation_share lies between 0 and 1")
    strata = _strata(persons, seed)
    chosen: set[str] = set()
    for group in strata.values():
        n = max(1, round(share * len(group)))
        chosen |= {group[int((i + 0.5) * len(group) / n)].name for i in range(n)}
    fold = Fold(
        tuple(sorted(name for person in persons if person.name not in chosen for name in person.interviews)),
        tuple(sorted(name for person in persons if person.name in chosen for name in person.interviews)),
        test,
    )
    _check_classes(persons, chosen, strata)
    return fold


def _check_classes(persons: Sequence[_Person], chosen: set[str], strata: Mapping[str, Sequence[_Person]]) -> None:
    if not persons:
        raise InputError(
            "CHI-IN-182", "No interview with a label is left for training.", "Check the labels of the data set."
        )
    in_train = {person.label for person in persons if person.name not in chosen}
    if len(strata) < 2 or in_train != set(strata):
        listed = ", ".join(f"{label} {len(group)}" for label, group in strata.items())
        raise InputError(
            "CHI-IN-181",
            f"Training and validation need persons of two classes, and of each class two or more; there are: {listed}.",
            "Add persons, ask for fewer folds or a smaller share for validation, or leave the small class out.",
        )
