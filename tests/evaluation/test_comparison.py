"""Comparisons: equal models do not differ, better ones do, and every p-value has its known answer."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom

from chiasm.data.errors import InputError, RecipeError
from chiasm.pipelines.evaluation.comparison import (
    almost_stochastic_order,
    mcnemar,
    paired_difference,
    permutation_test,
)
from chiasm.pipelines.evaluation.predictions import Predictions, stacked

LABEL = np.tile([0, 1], 24)


def answers(right: np.ndarray, *, label: np.ndarray = LABEL) -> Predictions:
    """Predictions that are right where `right` says so, with a confidence of 0.8."""
    called = np.where(right, label, 1 - label)
    q = np.where(called == 1, 0.8, 0.2)
    return Predictions(person=[f"p{i:02}" for i in range(len(label))], label=label, probability=np.stack([1 - q, q], 1))


def first_n(n: int) -> np.ndarray:
    return np.arange(48) < n


def test_a_model_does_not_differ_from_itself() -> None:
    found = paired_difference(answers(first_n(30)), answers(first_n(30)))
    assert (found.value, found.low, found.high) == (0.0, 0.0, 0.0)
    assert not found.excludes_zero


def test_pairing_sees_what_two_intervals_do_not() -> None:
    # 42 and 36 of 48, right on the same 36: only the six that differ carry noise.
    found = paired_difference(answers(first_n(42)), answers(first_n(36)))
    assert found.value == pytest.approx(6 / 48)
    assert found.excludes_zero
    assert found.high - found.low == pytest.approx(2 * 1.96 * np.sqrt(0.125 * 0.875 / 48), rel=0.1)
    turned = paired_difference(answers(first_n(36)), answers(first_n(42)))
    assert turned.value == -found.value
    assert turned.excludes_zero


def test_one_person_more_is_no_difference() -> None:
    assert not paired_difference(answers(first_n(37)), answers(first_n(36))).excludes_zero


def test_seeds_are_paired_and_their_order_does_not_matter() -> None:
    runs = [answers(first_n(n)) for n in (30, 36)]
    first = stacked(runs)
    again = first.rows(np.random.default_rng(0).permutation(len(first)))
    found = paired_difference(first, again, "auc")
    assert (found.value, found.low, found.high) == pytest.approx((0.0, 0.0, 0.0))
    assert found.n_runs == 2


@pytest.mark.parametrize(
    "other",
    [
        answers(first_n(30)[:40], label=LABEL[:40]),
        answers(first_n(30), label=1 - LABEL),
        stacked([answers(first_n(30))] * 2),
    ],
)
def test_other_persons_labels_or_seeds_are_not_compared(other: Predictions) -> None:
    for compared in (paired_difference, mcnemar):
        with pytest.raises(InputError) as caught:
            compared(answers(first_n(30)), other)
        assert caught.value.code == "CHI-IN-235"


def test_mcnemar_counts_only_who_differs() -> None:
    found = mcnemar(answers(first_n(42)), answers(first_n(36)))
    assert (found.only_first, found.only_second) == (6, 0)
    assert found.p_value == pytest.approx(2 * 0.5**6)
    mixed = mcnemar(answers(first_n(40)), answers(np.arange(48) >= 3))
    assert (mixed.only_first, mixed.only_second) == (3, 8)
    assert mixed.p_value == pytest.approx(2 * binom.cdf(3, 11, 0.5))
    assert mcnemar(answers(first_n(30)), answers(first_n(30))).p_value == 1.0


def test_permutations_find_skill_and_none() -> None:
    skilled = permutation_test(answers(first_n(40)), "accuracy", n_permutations=500)
    assert skilled.p_value == pytest.approx(1 / 501)
    assert skilled.null_mean == pytest.approx(0.5, abs=0.01)
    blind = answers(np.arange(48) % 4 < 2)  # half of each class
    for metric in ("accuracy", "auc"):
        assert permutation_test(blind, metric, n_permutations=500).p_value > 0.3


def test_permutations_keep_how_many_are_ill() -> None:
    # Two of four: one of the six ways to deal the labels is the true one.
    found = permutation_test(answers(np.ones(4, bool), label=np.array([0, 1, 0, 1])), n_permutations=3000)
    assert found.p_value == pytest.approx(1 / 6, abs=0.025)


def test_permuted_brier_scores_count_downwards() -> None:
    assert permutation_test(answers(first_n(44)), "brier", n_permutations=300).p_value < 0.01
    assert permutation_test(answers(first_n(4)), "brier", n_permutations=300).p_value > 0.99


def test_p_values_of_nothing_are_even() -> None:
    rng = np.random.default_rng(0)
    p = [permutation_test(answers(rng.random(48) < 0.5), "auc", n_permutations=200, seed=i).p_value for i in range(100)]
    assert np.mean(p) == pytest.approx(0.5, abs=0.12)
    assert np.mean(np.array(p) < 0.1) < 0.22


def test_persons_not_rows_are_permuted() -> None:
    # Ten copies of each person: shuffled rows would call this skill.
    right = np.arange(48) % 3 < 2
    once = answers(right)
    copies = Predictions(
        person=once.person * 10, label=np.tile(once.label, 10), probability=np.tile(once.probability, (10, 1))
    )
    found = permutation_test(copies, "accuracy", n_permutations=300)
    assert found.null_sd == pytest.approx(permutation_test(once, "accuracy", n_permutations=300).null_sd)
    assert found.n_persons == 48


def test_equal_scores_have_no_order() -> None:
    scores = [0.8, 0.82, 0.85, 0.79, 0.9]
    found = almost_stochastic_order(scores, scores)
    assert (found.eps_min, found.violation) == (1.0, 1.0)
    assert not found.dominates


def test_one_distribution_twice_is_seldom_called_an_order() -> None:
    rng = np.random.default_rng(0)
    eps = [almost_stochastic_order(rng.normal(size=5), rng.normal(size=5), n_draws=200).eps_min for _ in range(200)]
    assert np.mean(np.array(eps) < 0.2) < 0.12
    assert np.median(eps) > 0.5


def test_a_model_above_at_every_quantile_dominates() -> None:
    first, second = [0.90, 0.91, 0.92, 0.93, 0.94], [0.80, 0.81, 0.82, 0.83, 0.84, 0.85]
    assert almost_stochastic_order(first, second).eps_min == 0.0
    assert almost_stochastic_order(first, second).dominates
    turned = almost_stochastic_order(second, first)
    assert (turned.eps_min, turned.violation) == (1.0, 1.0)


def test_the_violation_is_the_integral_of_the_quantile_functions() -> None:
    a, b = np.array([0.0, 1.0, 4.0, 6.0, 7.0]), np.array([0.5, 1.5, 2.0, 3.0, 4.0, 5.0, 8.0])
    t = (np.arange(350_000) + 0.5) / 350_000
    gap = np.sort(a)[(t * 5).astype(int)] - np.sort(b)[(t * 7).astype(int)]
    expected = (gap[gap < 0] ** 2).sum() / (gap**2).sum()
    found = almost_stochastic_order(a[::-1], b)
    assert found.violation == pytest.approx(expected, rel=1e-9)
    assert found.violation + almost_stochastic_order(b, a).violation == pytest.approx(1.0)
    assert found.eps_min > found.violation


def test_more_comparisons_ask_for_more() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.normal(0.7, 1, 8), rng.normal(0, 1, 8)
    one, ten = almost_stochastic_order(a, b), almost_stochastic_order(a, b, n_comparisons=10)
    assert ten.level == pytest.approx(0.995)
    assert one.eps_min < ten.eps_min


@pytest.mark.parametrize(("scores", "code"), [([0.5] * 4, "CHI-IN-236"), ([0.5] * 4 + [np.nan], "CHI-IN-231")])
def test_too_few_or_broken_scores_are_refused(scores: list[float], code: str) -> None:
    with pytest.raises(InputError) as caught:
        almost_stochastic_order(scores, [0.1, 0.2, 0.3, 0.4, 0.5])
    assert caught.value.code == code


def test_a_metric_that_is_not_there_is_refused() -> None:
    with pytest.raises(RecipeError):
        paired_difference(answers(first_n(30)), answers(first_n(30)), "f2")
