"""Scores against scikit-learn and hand-made answers; intervals that draw persons, not rows or seeds."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from sklearn import metrics as sk

from chiasm.data.errors import InputError, RecipeError
from chiasm.pipelines.evaluation.classification import (
    classification_report,
    over_seeds,
    root_mean_square_error,
    run_values,
    score,
    wilson,
)
from chiasm.pipelines.evaluation.metrics import METRICS
from chiasm.pipelines.evaluation.predictions import Predictions, draw_persons, stacked


def drawn(n: int = 60, k: int = 2, *, seed: int = 0, skill: float = 1.0, rounded: bool = False) -> Predictions:
    rng = np.random.default_rng(seed)
    label = np.arange(n) % k
    logits = rng.normal(size=(n, k)) + skill * np.eye(k)[label]
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    if rounded:  # ties
        p[:, 0] = np.round(p[:, 0], 1)
        p[:, 1] = 1 - p[:, 0]
    names = ("CN", "MCI", "AD") if k == 3 else ("CN", "AD")
    return Predictions(person=[f"p{i:03}" for i in range(n)], label=label, probability=p, classes=names)


@pytest.mark.parametrize("k", [2, 3])
def test_every_metric_is_the_one_of_scikit_learn(k: int) -> None:
    one = drawn(k=k)
    y, p, called = one.label, one.probability, one.probability.argmax(axis=1)
    average = {"average": "binary" if k == 2 else "macro"}
    expected = {
        "accuracy": sk.accuracy_score(y, called),
        "balanced_accuracy": sk.balanced_accuracy_score(y, called),
        "precision": sk.precision_score(y, called, **average),
        "recall": sk.recall_score(y, called, **average),
        "f1": sk.f1_score(y, called, **average),
        "auc": sk.roc_auc_score(y, p[:, 1]) if k == 2 else sk.roc_auc_score(y, p, multi_class="ovr"),
        "nll": sk.log_loss(y, p),
    }
    if k == 2:
        expected |= {"specificity": sk.recall_score(y, called, pos_label=0), "brier": sk.brier_score_loss(y, p[:, 1])}
    for name, value in expected.items():
        assert run_values(one, METRICS[name])[0, 0] == pytest.approx(value, abs=1e-12), name


def test_weights_count_rows_as_repeating_them_does() -> None:
    one = drawn(n=30, rounded=True)
    weights = draw_persons(30, n_draws=1, seed=4)
    again = np.repeat(np.arange(30), weights[0].astype(int))
    repeated = Predictions(
        person=[str(i) for i in range(30)], label=one.label[again], probability=one.probability[again]
    )
    for name, metric in METRICS.items():
        assert run_values(one, metric, weights)[0, 0] == pytest.approx(run_values(repeated, metric)[0, 0]), name


def test_ties_count_half() -> None:
    one = Predictions(person=list("abcd"), label=np.array([0, 1, 0, 1]), probability=np.full((4, 2), 0.5))
    assert run_values(one, METRICS["auc"])[0, 0] == 0.5
    tied = drawn(rounded=True)
    assert run_values(tied, METRICS["auc"])[0, 0] == pytest.approx(sk.roc_auc_score(tied.label, tied.probability[:, 1]))


def test_one_class_has_no_auc_and_says_why() -> None:
    one = drawn().rows(drawn().label == 1)
    found = score(one, "auc")
    assert math.isnan(found.value)
    assert math.isnan(found.low)
    assert "CN" in found.reason
    assert score(one, "accuracy").reason == ""


def test_nobody_called_positive_has_a_precision_of_zero() -> None:
    one = Predictions(person=list("abcd"), label=np.array([0, 1, 0, 1]), probability=np.tile([0.9, 0.1], (4, 1)))
    scores = {name: run_values(one, METRICS[name])[0, 0] for name in ("precision", "recall", "f1", "specificity")}
    assert scores == {"precision": 0.0, "recall": 0.0, "f1": 0.0, "specificity": 1.0}


def test_a_true_class_given_nothing_costs_everything() -> None:
    one = Predictions(person=list("ab"), label=np.array([0, 1]), probability=np.array([[1.0, 0.0], [1.0, 0.0]]))
    found = score(one, "nll")
    assert found.value == math.inf
    assert "probability 0" in found.reason


def test_the_interval_widens_as_persons_not_as_rows() -> None:
    single = drawn(n=40)
    copies = Predictions(
        person=single.person * 10,
        label=np.tile(single.label, 10),
        probability=np.tile(single.probability, (10, 1)),
    )
    seeds = stacked([single] * 10)
    expected = score(single, "accuracy")
    for other in (copies, seeds):
        found = score(other, "accuracy")
        assert (found.value, found.low, found.high) == pytest.approx((expected.value, expected.low, expected.high))
        assert found.n_persons == 40
    # The standard error of a share, within what 40 persons allow.
    se = math.sqrt(expected.value * (1 - expected.value) / 40)
    assert expected.high - expected.low == pytest.approx(2 * 1.96 * se, rel=0.15)


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    # Accuracy 0.7 by construction, 100 persons with 1 to 3 recordings each that are right together.
    rng, held = np.random.default_rng(0), 0
    for trial in range(200):
        right, size = rng.random(100) < 0.7, rng.integers(1, 4, 100)
        label = np.repeat(right.astype(int), size)
        p = np.tile([0.0, 1.0], (size.sum(), 1))
        one = Predictions(person=np.repeat(np.arange(100), size).astype(str).tolist(), label=label, probability=p)
        found = score(one, "accuracy", n_draws=400, seed=trial)
        held += found.low <= 0.7 <= found.high
    assert 0.90 <= held / 200 <= 0.985


def test_a_perfect_score_says_that_its_bootstrap_says_nothing() -> None:
    one = Predictions(person=list("abcd"), label=np.array([0, 1, 0, 1]), probability=np.eye(2)[[0, 1, 0, 1]])
    found = score(one, "accuracy")
    assert (found.low, found.high) == (1.0, 1.0)
    assert "says nothing" in found.reason
    assert classification_report(one).wilson.low == pytest.approx(0.5101, abs=1e-3)


@pytest.mark.parametrize(
    ("k", "low", "high"), [(30, 48.4, 74.8), (36, 61.2, 85.1), (40, 70.4, 91.3), (42, 75.3, 94.1), (44, 80.4, 96.7)]
)
def test_wilson_intervals_of_48_persons(k: int, low: float, high: float) -> None:
    found = wilson(k, 48)
    assert (100 * found.low, 100 * found.high) == pytest.approx((low, high), abs=0.06)


def test_seeds_are_summed_up_with_their_own_spread() -> None:
    runs = stacked([drawn(seed=s) for s in range(5)])
    found = over_seeds(runs, "accuracy")
    values = [run_values(drawn(seed=s), METRICS["accuracy"])[0, 0] for s in range(5)]
    assert found.values == pytest.approx(values)
    assert found.mean == pytest.approx(np.mean(values))
    assert found.sd == pytest.approx(np.std(values, ddof=1))
    assert score(runs, "accuracy").sd == pytest.approx(found.sd)
    assert math.isnan(over_seeds(drawn(), "accuracy").sd)


def test_the_report_is_json_and_its_confusion_sums_over_runs() -> None:
    runs = stacked([drawn(k=3, seed=s) for s in range(2)])
    report = classification_report(runs, n_draws=50)
    called = runs.probability.argmax(axis=1)
    np.testing.assert_array_equal(report.confusion, sk.confusion_matrix(runs.label, called))
    text = json.dumps(report.as_dict(), allow_nan=False)
    assert json.loads(text)["scores"]["auc"]["n_persons"] == 60
    of_class = [sk.f1_score(runs.label[i], called[i], average=None)[2] for i in runs.rows_by_run.values()]
    assert report.per_class["AD"]["f1"] == pytest.approx(np.mean(of_class))


def test_the_report_writes_null_for_what_is_not_defined() -> None:
    one = drawn().rows(drawn().label == 1)
    written = classification_report(one, n_draws=20).as_dict()["scores"]["auc"]
    assert written["value"] is None
    assert written["reason"]


def test_missing_scores_of_the_person_are_left_out_and_never_imputed() -> None:
    found = root_mean_square_error(["a", "b", "c"], [30.0, None, 20.0], np.array([27.0, np.nan, 24.0]))
    assert found.value == pytest.approx(math.sqrt((9 + 16) / 2))
    assert found.n_persons == 2
    nobody = root_mean_square_error(["a"], [None], np.array([20.0]))
    assert math.isnan(nobody.value)
    assert "true score" in nobody.reason


def test_rmse_is_averaged_over_runs() -> None:
    found = root_mean_square_error(
        ["a", "b"] * 2, [30.0, 20.0] * 2, np.array([29.0, 21.0, 27.0, 17.0]), run=np.array([0, 0, 1, 1])
    )
    assert found.value == pytest.approx((1 + 3) / 2)
    assert found.sd == pytest.approx(math.sqrt(2))


def test_what_is_asked_wrongly_is_refused() -> None:
    with pytest.raises(InputError, match="NaN") as caught:
        root_mean_square_error(["a"], [30.0], np.array([np.nan]))
    assert caught.value.code == "CHI-IN-231"
    with pytest.raises(RecipeError, match="accuracy") as wrong:
        score(drawn(), "acuracy")
    assert wrong.value.code == "CHI-RC-118"
    with pytest.raises(RecipeError) as level:
        score(drawn(), "accuracy", level=95)
    assert level.value.code == "CHI-RC-116"
