"""Subgroup tables: every row lands in one band, and small cells do not show."""

from __future__ import annotations

import numpy as np
import pytest

from chiasm.data.errors import InputError
from chiasm.pipelines.evaluation.predictions import Predictions
from chiasm.pipelines.evaluation.subgroups import NOT_STATED, subgroups

N = 60
LABEL = np.tile([0, 1], N // 2)


def predictions(right: np.ndarray) -> Predictions:
    q = np.where(right, LABEL, 1 - LABEL) * 0.8 + 0.1
    return Predictions(person=[f"p{i:02}" for i in range(N)], label=LABEL, probability=np.stack([1 - q, q], axis=1))


def test_a_model_that_works_for_women_only_is_seen() -> None:
    sex = ["female"] * 30 + ["male"] * 30
    table = subgroups(predictions(np.array(sex) == "female"), sex=sex)
    assert [(row.by, row.name, row.n_persons) for row in table] == [("sex", "female", 30), ("sex", "male", 30)]
    assert [row.score.value for row in table if row.score] == [1.0, 0.0]


def test_cells_of_few_persons_are_hidden() -> None:
    sex = ["female"] * 51 + ["male"] * 9
    table = subgroups(predictions(np.ones(N, bool)), sex=sex)
    assert [row.hidden for row in table] == [False, True]
    assert table[1].n_persons is None


def test_the_limit_counts_persons_not_recordings() -> None:
    one = predictions(np.ones(N, bool))
    again = Predictions(person=[f"p{i % 9}" for i in range(N)], label=one.label, probability=one.probability)
    assert [row.hidden for row in subgroups(again, sex=["male"] * N)] == [True]


def test_bands_of_age_take_their_lower_edge() -> None:
    ages = [59.9] * 10 + [60.0] * 10 + [69.9] * 10 + [70.0] * 10 + [80.0] * 10 + [None] * 10
    table = subgroups(predictions(np.ones(N, bool)), age=ages)
    assert [(row.name, row.n_persons) for row in table] == [
        ("under 60 years", 10),
        ("60 to 69 years", 20),
        ("70 to 79 years", 10),
        ("80 years and over", 10),
        (NOT_STATED, 10),
    ]


def test_lengths_fall_into_thirds_or_given_bands() -> None:
    lengths = np.linspace(10, 128, N).tolist()
    thirds = subgroups(predictions(np.ones(N, bool)), duration_s=lengths)
    assert [row.n_persons for row in thirds] == [20, 20, 20]
    given = subgroups(predictions(np.ones(N, bool)), duration_s=lengths, length_edges_s=[50.0])
    assert [row.name for row in given] == ["under 50.0 s", "50.0 s and over"]
    assert sum(row.n_persons or 0 for row in given) == N


def test_a_metric_that_a_cell_cannot_have_gives_its_reason() -> None:
    table = subgroups(predictions(np.ones(N, bool)), "auc", sex=["male" if one else "female" for one in LABEL])
    assert all(row.score is not None and "class" in row.score.reason for row in table)


def test_a_property_that_does_not_pair_is_refused() -> None:
    with pytest.raises(InputError) as caught:
        subgroups(predictions(np.ones(N, bool)), age=[70.0])
    assert caught.value.code == "CHI-IN-230"
