"""Predictions refuse what cannot be scored, and persons are the unit of every draw."""

from __future__ import annotations

import numpy as np
import pytest

from chiasm.data.errors import InputError, SeveralErrors
from chiasm.pipelines.evaluation.predictions import Predictions, draw_persons, stacked


def made(**changes: object) -> Predictions:
    fields: dict[str, object] = {
        "person": ["a", "b", "a"],
        "label": np.array([0, 1, 0]),
        "probability": np.array([[0.8, 0.2], [0.3, 0.7], [0.4, 0.6]]),
    }
    return Predictions(**{**fields, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"person": ["a", "b"]}, "CHI-IN-230"),
        ({"person": [], "label": np.zeros(0, int), "probability": np.zeros((0, 2))}, "CHI-IN-230"),
        ({"run": np.array([0, 1])}, "CHI-IN-230"),
        ({"classes": ("CN", "MCI", "AD")}, "CHI-IN-230"),
        ({"probability": np.array([[0.8, 0.2], [np.nan, 0.7], [0.4, 0.6]])}, "CHI-IN-231"),
        ({"probability": np.array([[0.8, 0.2], [np.inf, 0.7], [0.4, 0.6]])}, "CHI-IN-231"),
        ({"probability": np.array([[1.3, -0.3], [0.3, 0.7], [0.4, 0.6]])}, "CHI-IN-232"),
        ({"probability": np.array([[2.0, 1.0], [0.3, 0.7], [0.4, 0.6]])}, "CHI-IN-232"),
        ({"label": np.array([0, 2, 0])}, "CHI-IN-233"),
    ],
)
def test_what_cannot_be_scored_is_refused_by_code(changes: dict[str, object], code: str) -> None:
    with pytest.raises(InputError) as caught:
        made(**changes)
    assert caught.value.code == code


def test_all_mistakes_are_told_at_once() -> None:
    with pytest.raises(SeveralErrors) as caught:
        made(label=np.array([0, 9, 0]), probability=np.full((3, 2), np.nan))
    assert [error.code for error in caught.value.errors] == ["CHI-IN-231", "CHI-IN-233"]


def test_float32_softmax_passes() -> None:
    p = np.random.default_rng(0).random((3, 2)).astype(np.float32)
    assert made(probability=p / p.sum(axis=1, keepdims=True)).probability.dtype == np.float64


def test_rows_of_a_person_are_averaged_over_runs_and_recordings() -> None:
    one = stacked([made(), made(probability=np.array([[0.2, 0.8], [0.1, 0.9], [0.6, 0.4]]))])
    person = one.by_person()
    assert person.person == ("a", "b")
    np.testing.assert_allclose(person.probability[:, 1], [(0.2 + 0.6 + 0.8 + 0.4) / 4, 0.8])
    assert person.label.tolist() == [0, 1]
    assert sorted(one.rows_by_run) == [0, 1]


def test_a_person_whose_label_changes_has_no_single_answer() -> None:
    with pytest.raises(InputError) as caught:
        made(label=np.array([0, 1, 1])).by_person()
    assert caught.value.code == "CHI-IN-234"
    assert "'a'" not in str(caught.value)  # a name of a person stands in no message


def test_a_draw_takes_as_many_persons_as_there_are_and_is_the_same_for_a_seed() -> None:
    draws = draw_persons(7, n_draws=500, seed=3)
    assert (draws.sum(axis=1) == 7).all()
    np.testing.assert_array_equal(draws, draw_persons(7, n_draws=500, seed=3))
    # Poisson-like: a person is left out of a draw with probability (6/7)^7.
    assert (draws == 0).mean() == pytest.approx((6 / 7) ** 7, abs=0.02)
