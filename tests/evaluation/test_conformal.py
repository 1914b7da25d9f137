"""Conformal sets: coverage by simulation, the finite-sample quantile, and what happens with too few persons."""

from __future__ import annotations

import math

import numpy as np
import pytest

from chiasm.data.errors import InputError, RecipeError
from chiasm.pipelines.evaluation.conformal import UNCERTAIN, coverage, fit_conformal, quantile
from chiasm.pipelines.evaluation.predictions import Predictions


def noisy(n: int, rng: np.random.Generator, *, share: float = 0.5, overconfident: float = 4.0) -> Predictions:
    """Predictions that promise far too much: coverage must not depend on calibration."""
    label = (rng.random(n) < share).astype(int)
    z = overconfident * (rng.normal(0, 1, n) + (2 * label - 1) * 0.7 * (0.5 + label))
    q = 1 / (1 + np.exp(-z))
    return Predictions(person=[str(i) for i in range(n)], label=label, probability=np.stack([1 - q, q], axis=1))


@pytest.mark.parametrize(("n", "alpha", "rank"), [(19, 0.05, 19), (48, 0.1, 45), (9, 0.1, 9), (99, 0.1, 90)])
def test_the_quantile_is_the_finite_sample_one(n: int, alpha: float, rank: int) -> None:
    assert quantile(np.random.default_rng(0).permutation(np.arange(1.0, n + 1)), alpha) == rank


def test_too_few_persons_can_promise_nothing() -> None:
    rng = np.random.default_rng(0)
    few = fit_conformal(noisy(8, rng), error_rate=0.1)  # 9 * 0.9 = 8.1: a ninth is needed
    assert few.thresholds == (math.inf, math.inf)
    test = noisy(20, rng)
    assert few.sets(test.probability).all()
    assert few.answers(test.probability) == [UNCERTAIN] * 20
    assert coverage(few, test).answered == 0.0
    assert math.isnan(coverage(few, test).accuracy_answered)


@pytest.mark.parametrize("alpha", [0.1, 0.3])
def test_coverage_is_as_promised_and_not_much_more(alpha: float) -> None:
    rng = np.random.default_rng(1)
    held = [coverage(fit_conformal(noisy(48, rng), error_rate=alpha), noisy(200, rng)).covered for _ in range(400)]
    exact = math.ceil(49 * (1 - alpha)) / 49  # for scores without ties
    assert np.mean(held) == pytest.approx(exact, abs=0.01)


def test_a_promise_by_class_holds_in_the_rare_class() -> None:
    rng = np.random.default_rng(2)

    def in_class(conditional: bool) -> list[float]:
        held = []
        for _ in range(150):
            sets = fit_conformal(noisy(120, rng, share=0.25), error_rate=0.2, class_conditional=conditional)
            test = noisy(300, rng, share=0.25)
            held.append([coverage(sets, test.rows(test.label == c)).covered for c in (0, 1)])
        return np.mean(held, axis=0).tolist()

    by_class = in_class(True)
    assert min(by_class) > 0.79
    assert max(by_class) < 0.86
    assert min(in_class(False)) < 0.77


def test_persons_with_several_recordings_count_once_with_the_worst() -> None:
    p = np.array([0.9, 0.6, 0.8, 0.7])
    one = Predictions(person=["a", "a", "b", "c"], label=np.ones(4, int), probability=np.stack([1 - p, p], axis=1))
    sets = fit_conformal(one, error_rate=0.25)
    assert sets.n == (3, 3)
    assert sets.thresholds[1] == pytest.approx(0.4)  # of a's worse recording


def test_answers_name_one_class_or_none() -> None:
    rng = np.random.default_rng(3)
    sets = fit_conformal(noisy(60, rng), error_rate=0.3)
    threshold = sets.thresholds[0]
    assert threshold < 1.0
    p = np.array([[0.999, 0.001], [0.001, 0.999], [0.5, 0.5]])
    both = threshold <= 0.5
    assert sets.answers(p)[:2] == ["CN", "AD"]
    assert sets.answers(p)[2] == UNCERTAIN
    assert sets.sets(p)[2].sum() == (0 if both else 2)


def test_accuracy_among_the_answered_is_counted() -> None:
    calibration = Predictions(
        person=[str(i) for i in range(9)], label=np.zeros(9, int), probability=np.tile([0.8, 0.2], (9, 1))
    )
    sets = fit_conformal(calibration, error_rate=0.1)  # threshold 0.2
    test = Predictions(
        person=list("abc"), label=np.array([0, 1, 0]), probability=np.array([[0.9, 0.1], [0.9, 0.1], [0.5, 0.5]])
    )
    found = coverage(sets, test)
    assert (found.covered, found.answered, found.accuracy_answered) == pytest.approx((1 / 3, 2 / 3, 1 / 2))
    assert found.mean_size == pytest.approx(2 / 3)


def test_a_class_without_persons_and_impossible_rates_are_refused() -> None:
    one = noisy(20, np.random.default_rng(0), share=0.0)
    with pytest.raises(InputError) as caught:
        fit_conformal(one, class_conditional=True)
    assert caught.value.code == "CHI-IN-236"
    assert fit_conformal(one).n == (20, 20)
    with pytest.raises(RecipeError) as rate:
        fit_conformal(one, error_rate=10)
    assert rate.value.code == "CHI-RC-116"
