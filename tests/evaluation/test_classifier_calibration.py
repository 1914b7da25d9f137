"""Calibration reports: equal to the plain definitions, a floor that is the sheet's, and no number without n and interval."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from chiasm.pipelines.evaluation import calibration as plain
from chiasm.pipelines.evaluation import classifier_calibration as c
from chiasm.pipelines.evaluation.classification import run_values
from chiasm.pipelines.evaluation.predictions import Predictions, draw_persons, stacked
from chiasm.pipelines.evaluation.recalibration import CLIP, in_the_large, log_odds, slope_and_intercept


def kept(n: int, *, seed: int = 0, sharpen: float = 1.0) -> Predictions:
    """Probabilities that are kept where `sharpen` is 1, too extreme where it is larger."""
    rng = np.random.default_rng(seed)
    z = rng.normal(0, 1.5, n)
    label = (rng.random(n) < 1 / (1 + np.exp(-z))).astype(int)
    q = 1 / (1 + np.exp(-sharpen * z))
    return Predictions(person=[f"p{i:05}" for i in range(n)], label=label, probability=np.stack([1 - q, q], axis=1))


def test_weighted_errors_are_the_plain_ones_with_weights_of_one() -> None:
    one = kept(150)
    q, y = one.probability[:, 1], one.label.astype(float)
    gaps = plain.equal_width(q, y, 10)
    confidence, hit = plain.top_label(one.probability, one.label)
    expected = {
        "ece": (c.expected_error(10), gaps.expected),
        "mce": (c.largest_error(10), gaps.largest),
        "ece_top": (c.expected_error(10, "top"), plain.equal_width(confidence, hit, 10).expected),
        "ace": (c.adaptive_error(10), plain.adaptive_calibration_error(one.probability, one.label, 10)),
    }
    for name, (metric, value) in expected.items():
        assert run_values(one, metric)[0, 0] == pytest.approx(value, abs=1e-12), name


def test_bootstrapped_errors_are_those_of_repeated_rows() -> None:
    one, weights = kept(60), draw_persons(60, n_draws=1, seed=1)
    again = np.repeat(np.arange(60), weights[0].astype(int))
    q, y = one.probability[again, 1], one.label[again].astype(float)
    assert run_values(one, c.expected_error(7), weights)[0, 0] == pytest.approx(plain.equal_width(q, y, 7).expected)
    ace = plain.adaptive_calibration_error(one.probability[again], one.label[again], 5)
    assert run_values(one, c.adaptive_error(5), weights)[0, 0] == pytest.approx(ace)


@pytest.mark.parametrize(
    ("n", "n_bins", "mean", "low", "high"),
    [
        (48, 5, 0.050, 0.013, 0.098),
        (48, 10, 0.069, 0.030, 0.119),
        (48, 15, 0.083, 0.045, 0.128),
        (240, 10, 0.032, 0.014, 0.053),
        (1000, 10, 0.016, 0.007, 0.026),
    ],
)
def test_the_noise_floor_of_small_samples(n: int, n_bins: int, mean: float, low: float, high: float) -> None:
    found = c.reference_noise_floor(n, n_bins)
    assert found.mean == pytest.approx(mean, abs=0.0025)
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.006)


def test_the_floor_of_a_sample_is_the_error_of_outcomes_drawn_from_its_probabilities() -> None:
    one = kept(48)
    q, rng = one.probability[:, 1], np.random.default_rng(9)
    by_hand = [plain.equal_width(q, (rng.random(48) < q).astype(float), 10).expected for _ in range(1500)]
    assert c.simulated_errors(one, 10).mean() == pytest.approx(np.mean(by_hand), abs=0.003)


def three_classes(n: int, *, seed: int = 0) -> Predictions:
    rng = np.random.default_rng(seed)
    p = rng.dirichlet([0.7, 0.5, 0.9], n)
    label = (rng.random(n)[:, None] >= np.cumsum(p, axis=1)[:, :-1]).sum(axis=1)
    return Predictions(person=[f"p{i}" for i in range(n)], label=label, probability=p, classes=("CN", "MCI", "AD"))


@pytest.mark.parametrize("one", [kept(48), three_classes(60)], ids=["two classes", "three classes"])
def test_the_other_floors_are_those_errors_of_outcomes_drawn_from_the_probabilities(one: Predictions) -> None:
    p, rng = one.probability, np.random.default_rng(9)
    ace, mce = [], []
    for _ in range(1500):
        label = (rng.random(len(p))[:, None] >= np.cumsum(p, axis=1)[:, :-1]).sum(axis=1)
        ace.append(plain.adaptive_calibration_error(p, label, 10))
        mce.append(plain.equal_width(p[:, -1], (label == p.shape[1] - 1).astype(float), 10).largest)
    found = c.simulated_scores(one, 10)
    for name, by_hand in (("ace", ace), ("mce", mce)):
        assert found[name].mean() == pytest.approx(np.mean(by_hand), rel=0.03), name
        assert found[name].std() == pytest.approx(np.std(by_hand), rel=0.08), name


def test_all_floors_are_of_the_same_outcomes() -> None:
    sure = Predictions(person=list("abcd"), label=np.array([0, 1, 0, 1]), probability=np.full((4, 2), 0.5))
    found = c.simulated_scores(sure, 10, n_draws=50)
    np.testing.assert_allclose(
        found["mce"], found["ece"]
    )  # one bin holds everybody: the largest gap is the expected one
    assert set(np.round(found["ece"], 6)) == {0.0, 0.25, 0.5}


def test_the_report_has_a_floor_for_each_binned_error_and_keeps_that_of_the_ece() -> None:
    report = c.calibration_report(stacked([kept(48)] * 3), n_draws=20)
    assert set(report.noise_floors) == {"ece", "ece_top", "ace", "mce"}
    assert report.noise_floors["ece"] == report.noise_floor
    written = json.loads(json.dumps(report.as_dict()))["noise_floors"]
    assert written["mce"]["n"] == 48
    assert written["mce"]["mean"] > written["ece"]["mean"] > 0
    assert written["ace"]["low"] < written["ace"]["mean"] < written["ace"]["high"]


def test_more_seeds_of_the_same_persons_do_not_lower_the_floor() -> None:
    one = kept(48)
    assert c.simulated_errors(stacked([one] * 5), 10).mean() == pytest.approx(c.simulated_errors(one, 10).mean())
    assert c.simulated_errors(kept(240), 10).mean() < 0.6 * c.simulated_errors(one, 10).mean()
    few, again = c.simulated_scores(one, 10), c.simulated_scores(stacked([one] * 5), 10)
    assert all(again[name].mean() == pytest.approx(few[name].mean()) for name in few)


def test_kept_probabilities_are_not_called_miscalibrated_and_extreme_ones_are() -> None:
    p_values = [c.calibration_report(kept(48, seed=s), n_draws=20).p_value for s in range(30)]
    assert sum(p < 0.05 for p in p_values) <= 5
    assert c.calibration_report(kept(400, sharpen=3.0), n_draws=20).p_value < 0.01


def test_slope_and_intercept_are_those_of_a_logistic_regression() -> None:
    one = kept(5000, sharpen=2.0)
    q, y = one.probability[:, 1], one.label.astype(float)
    fitted = LogisticRegression(C=1e12, tol=1e-10, max_iter=1000).fit(log_odds(q)[:, None], y)
    slope, intercept = slope_and_intercept(q, y, np.ones((1, 5000)))[0]
    assert (slope, intercept) == pytest.approx((fitted.coef_[0, 0], fitted.intercept_[0]), abs=1e-4)
    assert slope == pytest.approx(0.5, abs=0.05)  # sharpened twofold


def test_the_intercept_at_slope_one_balances_expected_and_observed() -> None:
    rng = np.random.default_rng(0)
    q, y = rng.uniform(0.05, 0.95, 300), (rng.random(300) < 0.3).astype(float)
    weights = draw_persons(300, n_draws=5, seed=0)
    shifted = 1 / (1 + np.exp(-(log_odds(q) + in_the_large(q, y, weights)[:, None])))
    np.testing.assert_allclose((weights * shifted).sum(axis=1), weights @ y, rtol=1e-9)


def test_weights_fit_as_repeated_rows_do() -> None:
    one, weights = kept(80, sharpen=1.5), draw_persons(80, n_draws=3, seed=2)
    q, y = one.probability[:, 1], one.label.astype(float)
    for row, found in zip(weights, slope_and_intercept(q, y, weights), strict=True):
        again = np.repeat(np.arange(80), row.astype(int))
        np.testing.assert_allclose(found, slope_and_intercept(q[again], y[again], np.ones((1, 80)))[0], atol=1e-8)


@pytest.mark.parametrize(
    ("q", "y"),
    [
        ([0.1, 0.2, 0.8, 0.9], [0, 0, 1, 1]),  # perfect separation
        ([0.1, 0.2, 0.8, 0.9], [1, 1, 0, 0]),
        ([0.1, 0.5, 0.5, 0.9], [0, 0, 1, 1]),  # touching only
        ([0.3, 0.3, 0.3, 0.3], [0, 1, 0, 1]),  # nothing to regress on
        ([0.1, 0.4, 0.6, 0.9], [1, 1, 1, 1]),
    ],
)
def test_where_no_finite_slope_exists_there_is_none(q: list[float], y: list[int]) -> None:
    assert np.isnan(slope_and_intercept(np.array(q), np.array(y, dtype=float), np.ones((1, 4)))).all()


def test_saturated_probabilities_have_finite_log_odds() -> None:
    np.testing.assert_allclose(log_odds(np.array([0.0, 1.0])), np.log(CLIP / (1 - CLIP)) * np.array([1, -1]))


def test_expected_over_observed() -> None:
    one = Predictions(person=list("abcd"), label=np.array([0, 0, 0, 1]), probability=np.full((4, 2), 0.5))
    assert c.expected_to_observed(one.label, one.probability, np.ones((1, 4)))[0] == 2.0


def test_the_reliability_table_counts_persons() -> None:
    one = Predictions(
        person=["a", "a", "b", "c"],
        label=np.array([0, 0, 1, 1]),
        probability=np.array([[0.78, 0.22], [0.76, 0.24], [0.72, 0.28], [0.1, 0.9]]),
    )
    low, high = c.reliability_table(one, 10)
    assert (low.n_rows, low.n_persons, low.low, low.high) == (3, 2, 0.2, pytest.approx(0.3))
    assert low.promised == pytest.approx((0.22 + 0.24 + 0.28) / 3)
    assert low.happened == pytest.approx(1 / 3)
    assert low.happened_low < 1 / 3 < low.happened_high
    assert (high.happened, high.n_persons) == (1.0, 1)
    assert high.happened_low == pytest.approx(0.2065, abs=1e-3)  # Wilson of 1 of 1


def test_no_report_exists_without_n_intervals_and_floor() -> None:
    needed = {f.name for f in dataclasses.fields(c.CalibrationReport) if f.default is dataclasses.MISSING}
    assert {"n_persons", "n_bins", "binning", "scores", "noise_floor", "p_value"} <= needed
    report = c.calibration_report(kept(48), n_draws=200)
    ece = report.scores["ece"]
    assert ece.n_persons == 48
    assert 0 <= ece.low < ece.high
    text = str(report)
    assert "n = 48" in text
    assert "10 bins" in text
    assert f"{ece.low:.3f}" in text
    assert report.excess == pytest.approx(ece.value - report.noise_floor.mean)
    assert "closed on the left" in report.binning


def test_the_report_is_json_even_of_a_perfect_classifier() -> None:
    sure = Predictions(person=list("abcd"), label=np.array([0, 1, 0, 1]), probability=np.eye(2)[[0, 1, 0, 1]])
    written = json.loads(json.dumps(c.calibration_report(sure, n_draws=20).as_dict(), allow_nan=False))
    assert written["scores"]["slope"]["value"] is None
    assert written["scores"]["ece"]["value"] == 0.0
    assert math.isclose(written["risk_coverage"]["aurc"], 0.0)


def test_three_classes_are_judged_by_the_positive_one() -> None:
    p = np.array([[0.2, 0.5, 0.3], [0.6, 0.1, 0.3], [0.1, 0.1, 0.8]])
    one = Predictions(person=list("abc"), label=np.array([1, 0, 2]), probability=p, classes=("CN", "MCI", "AD"))
    found = run_values(one, c.expected_error(10))[0, 0]
    assert found == pytest.approx((0.6 + 0.2) / 3)
