from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chiasm.data.errors import InputError
from chiasm.pipelines.training.folds import held_out

PATIENTS = [f"p{i}" for i in range(11)]


@given(st.integers(2, 8), st.integers(0, 5))
def test_every_patient_is_held_out_once_and_folds_are_even(folds: int, seed: int) -> None:
    groups = [held_out(PATIENTS * 2, folds=folds, fold=k, seed=seed) for k in range(folds)]
    assert sorted(p for group in groups for p in group) == sorted(PATIENTS)
    sizes = [len(group) for group in groups]
    assert max(sizes) - min(sizes) <= 1


def test_the_order_of_the_cases_does_not_matter() -> None:
    assert held_out(PATIENTS, folds=3, fold=1, seed=0) == held_out(PATIENTS[::-1], folds=3, fold=1, seed=0)


@pytest.mark.parametrize(
    ("patients", "fold", "code"),
    [(PATIENTS[:2], 0, "CHI-IN-132"), (PATIENTS, 3, "CHI-IN-133"), (PATIENTS, -1, "CHI-IN-133")],
)
def test_what_cannot_be_split_is_a_coded_error(patients: list[str], fold: int, code: str) -> None:
    with pytest.raises(InputError) as caught:
        held_out(patients, folds=3, fold=fold, seed=0)
    assert caught.value.code == code
