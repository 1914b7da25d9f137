"""No person is ever on two sides; classes and sexes are spread evenly; the same seed gives the same split in any order."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from chiasm.data.errors import InputError
from chiasm.data.interviews import Interview, InterviewSet
from chiasm.data.splits import CODES, Fold, challenge, check_disjoint, k_fold, leave_one_person_out

SEEDS = range(12)


def cohort(seed: int, *, classes: tuple[str, ...] = ("CN", "AD"), most: int = 40) -> list[Interview]:
    """Persons with one to three interviews each, six or more a class, sexes partly unknown."""
    rng = np.random.default_rng(seed)
    found = []
    for label in classes:
        for n in range(int(rng.integers(6, most))):
            sex = (None, "female", "male")[int(rng.integers(3))]
            for visit in range(int(rng.integers(1, 4))):
                person = f"{label}{n:03d}"
                found.append(Interview(name=f"{person}v{visit}", person=person, label=label, sex=sex))  # type: ignore[arg-type]
    return found


def adress() -> InterviewSet:
    """The sizes of ADReSS-IS2020."""
    found = []
    for split, n_men, n_women in (("train", 24, 30), ("test", 11, 13)):
        for label in ("CN", "AD"):
            for n in range(n_men + n_women):
                name = f"{split}{label}{n:02d}"
                sex = "male" if n < n_men else "female"
                found.append(Interview(name=name, person=name, label=label, sex=sex, split=split))  # type: ignore[arg-type]
    return InterviewSet(layout="adress", root=Path("x"), interviews=found)


def persons(names: tuple[str, ...], interviews: list[Interview]) -> set[str]:
    of = {i.name: i.person for i in interviews}
    return {of[name] for name in names}


def labels(names: tuple[str, ...], interviews: list[Interview]) -> Counter[str]:
    """Persons by label."""
    of = {i.person: str(i.label) for i in interviews}
    return Counter(of[person] for person in persons(names, interviews))


def check(fold: Fold, interviews: list[Interview]) -> None:
    check_disjoint(fold, interviews)
    names = (*fold.train, *fold.validation, *fold.test)
    assert sorted(names) == sorted(i.name for i in interviews)  # every interview once
    for side in (fold.train, fold.validation, fold.test):
        assert list(side) == sorted(side)
    assert labels(fold.train, interviews).keys() == labels(fold.validation, interviews).keys()


def refused(code: str, call: object, *args: object, **named: object) -> InputError:
    with pytest.raises(InputError) as caught:
        call(*args, **named)  # type: ignore[operator]
    assert caught.value.code == code
    assert code in CODES
    return caught.value


# ---- properties -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
def test_k_fold_tests_every_person_once_and_shares_none(seed: int) -> None:
    interviews = cohort(seed, classes=("AD", "CN", "MCI") if seed % 2 else ("AD", "CN"))
    folds = k_fold(interviews, 2 + seed % 4, seed=seed, validation_share=0.2)
    for fold in folds:
        check(fold, interviews)
    tested = [person for fold in folds for person in persons(fold.test, interviews)]
    assert sorted(tested) == sorted({i.person for i in interviews})


@pytest.mark.parametrize("seed", SEEDS)
def test_k_fold_spreads_persons_classes_and_sexes_evenly(seed: int) -> None:
    interviews = cohort(seed)
    sex_of = {i.person: i.sex for i in interviews}
    folds = k_fold(interviews, 3, seed=seed)
    tested = [persons(fold.test, interviews) for fold in folds]
    for sizes in (
        [len(side) for side in tested],
        *([sum(p.startswith(label) for p in side) for side in tested] for label in ("CN", "AD")),
        *(
            [sum(p.startswith(label) and sex_of[p] == sex for p in side) for side in tested]
            for label in ("CN", "AD")
            for sex in ("female", "male", None)
        ),
    ):
        assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("seed", SEEDS)
def test_the_order_of_the_input_does_not_matter_and_the_seed_does(seed: int) -> None:
    interviews = cohort(seed)
    shuffled = [interviews[i] for i in np.random.default_rng(seed + 99).permutation(len(interviews))]
    assert k_fold(interviews, 3, seed=seed) == k_fold(shuffled, 3, seed=seed)
    assert leave_one_person_out(interviews, seed) == leave_one_person_out(shuffled, seed)
    assert k_fold(interviews, 3, seed=seed) != k_fold(interviews, 3, seed=seed + 1)


@pytest.mark.parametrize("seed", SEEDS[:4])
def test_leave_one_person_out_takes_all_interviews_of_the_person(seed: int) -> None:
    interviews = cohort(seed, most=12)
    folds = leave_one_person_out(interviews, seed, validation_share=0.2)
    assert len(folds) == len({i.person for i in interviews})
    for fold in folds:
        check(fold, interviews)
        (person,) = persons(fold.test, interviews)
        assert list(fold.test) == sorted(i.name for i in interviews if i.person == person)


def test_the_seed_chooses_who_validates_where_the_tests_are_the_same() -> None:
    interviews = [one(f"{label}{n}", label) for label in ("AD", "CN") for n in range(6)]
    for make in (
        lambda seed: k_fold(interviews, 12, seed=seed),
        lambda seed: leave_one_person_out(interviews, seed),
    ):
        first, second = ({fold.test: fold.validation for fold in make(seed)} for seed in (0, 1))
        assert first.keys() == second.keys()
        assert first != second


# ---- the challenge's own split --------------------------------------------------------------------------------------


def test_challenge_keeps_the_test_side_and_takes_the_share_from_each_class_and_sex() -> None:
    found = adress()
    fold = challenge(found, 3, validation_share=0.35)
    check(fold, list(found.interviews))
    assert fold.test == tuple(sorted(i.name for i in found.of_split("test")))
    of = {i.name: i for i in found.interviews}
    # 54 persons a class: 19 of them (0.35), 24/54 of these men.
    assert Counter((of[n].label, of[n].sex) for n in fold.validation) == {
        ("CN", "male"): 8,
        ("CN", "female"): 11,
        ("AD", "male"): 8,
        ("AD", "female"): 11,
    }
    assert challenge(found, 3) == fold
    assert challenge(found, 4) != fold


def test_seeds_choose_every_person_for_validation_some_day() -> None:
    found = adress()
    chosen = {name for seed in range(40) for name in challenge(found, seed).validation}
    assert chosen == {i.name for i in found.of_split("train")}


def test_challenge_keeps_unlabelled_interviews_on_the_test_side_only() -> None:
    found = adress()
    hidden = [replace(i, label=None) if i.split == "test" or i.name == "trainAD00" else i for i in found.interviews]
    fold = challenge(replace(found, interviews=hidden), 0)
    assert len(fold.test) == 48
    assert "trainAD00" not in (*fold.train, *fold.validation)


def test_challenge_refuses_a_data_set_whose_own_split_shares_a_person() -> None:
    found = adress()
    first = found.of_split("train")[0]
    shared = [replace(i, person=first.person) if i.name == "testCN00" else i for i in found.interviews]
    error = refused("CHI-IN-180", challenge, replace(found, interviews=shared), 0)
    assert error.message.startswith("1 person(s)")


@pytest.mark.parametrize("side", ["train", "test"])
def test_challenge_needs_both_sides_and_everyone_on_one(side: str) -> None:
    found = adress()
    refused("CHI-IN-182", challenge, replace(found, interviews=found.of_split(side)), 0)  # type: ignore[arg-type]
    loose = [replace(i, split="") if i.name == "trainAD00" else i for i in found.interviews]
    assert "1 that belong to neither" in refused("CHI-IN-182", challenge, replace(found, interviews=loose), 0).message


# ---- refusals -------------------------------------------------------------------------------------------------------


def one(name: str, label: str | None, person: str = "") -> Interview:
    return Interview(name=name, person=person or name, label=label)


def test_a_fold_with_a_person_on_two_sides_is_refused() -> None:
    interviews = [one("a1", "AD", "a"), one("a2", "AD", "a"), one("b", "CN")]
    for fold in (
        Fold(("a1",), ("a2",), ()),
        Fold(("a1",), (), ("a2",)),
        Fold((), ("a1",), ("a2",)),
        Fold(("b",), (), ("b",)),
    ):
        refused("CHI-IN-180", check_disjoint, fold, interviews)
    check_disjoint(Fold(("a1", "a2"), ("b",), ()), interviews)
    with pytest.raises(ValueError, match="not there"):
        check_disjoint(Fold(("c",), (), ()), interviews)


def test_one_class_and_classes_of_one_person_are_refused() -> None:
    refused("CHI-IN-181", k_fold, [one(f"a{n}", "AD") for n in range(9)], 3, seed=0)
    few = [one(f"a{n}", "AD") for n in range(9)] + [one("c1", "CN")]
    refused("CHI-IN-181", leave_one_person_out, few, 0)
    # Two persons of a class are enough, until one of them is the test.
    refused("CHI-IN-181", leave_one_person_out, [*few, one("c2", "CN")], 0)
    with_three = leave_one_person_out([*few, one("c2", "CN"), one("c3", "CN")], 0)
    assert len(with_three) == 12


def test_too_many_folds_and_nobody_with_a_label_are_refused() -> None:
    interviews = [one("a1", "AD"), one("a2", "CN"), one("a3", None)]
    refused("CHI-IN-183", k_fold, interviews, 3, seed=0)
    refused("CHI-IN-183", k_fold, interviews, 1, seed=0)
    found = InterviewSet(
        layout="",
        root=Path("x"),
        interviews=[replace(one("a", None), split="train"), replace(one("b", None), split="test")],
    )
    refused("CHI-IN-182", challenge, found, 0)


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1])
def test_a_share_outside_is_a_programmers_mistake(share: float) -> None:
    with pytest.raises(ValueError, match="validation_share"):
        challenge(adress(), 0, validation_share=share)


def test_who_changed_class_stays_one_person_and_counts_to_the_graver_class() -> None:
    interviews = [one(f"c{n}", "CN") for n in range(6)] + [
        one("x1", "CN", "x"),
        one("x2", "AD", "x"),
        one("y", "AD"),
        one("z", "AD"),
    ]
    folds = k_fold(interviews, 3, seed=1)
    assert sum({"x1", "x2"} <= set(fold.test) for fold in folds) == 1
    assert [len({"x2", "y", "z"} & set(fold.test)) for fold in folds] == [1, 1, 1]
