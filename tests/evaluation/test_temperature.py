"""Temperature: the known optimum is found, order is kept, small sets are drawn towards 1; prevalence moves the log-odds."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from chiasm.data.errors import InputError, RecipeError
from chiasm.pipelines.evaluation.temperature import fit_temperature, shift_prevalence, softmax


def sample(n: int, t: float, *, k: int = 2, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits whose probabilities are kept at the temperature t."""
    rng = np.random.default_rng(seed)
    kept = rng.normal(0, 1.5, (n, k))
    labels = (softmax(kept).cumsum(axis=1) < rng.random((n, 1))).sum(axis=1)
    return kept * t, labels


@pytest.mark.parametrize("t", [0.5, 1.0, 3.0])
def test_the_temperature_that_was_put_in_is_found(t: float) -> None:
    found = fit_temperature(*sample(20000, t, k=3))
    assert found.value == pytest.approx(t, rel=0.04)
    assert not found.shrunk
    assert not found.at_bound
    assert found.nll_after <= found.nll_before


def test_the_optimum_is_that_of_a_search_over_the_likelihood() -> None:
    logits, labels = sample(80, 2.5)

    def nll(log_t: float) -> float:
        p = softmax(logits / np.exp(log_t))
        return float(-np.log(p[np.arange(80), labels]).mean())

    best = minimize_scalar(nll, bounds=(-3, 3), method="bounded", options={"xatol": 1e-10})
    found = fit_temperature(logits, labels)
    assert np.log(found.value) == pytest.approx(best.x, abs=1e-5)
    assert found.nll_after == pytest.approx(best.fun, abs=1e-10)
    assert found.nll_before == pytest.approx(nll(0.0))


def test_a_small_set_is_shrunk_to_the_posterior_mode() -> None:
    logits, labels = sample(30, 4.0, seed=2)

    def posterior(log_t: float) -> float:
        p = softmax(logits / np.exp(log_t))
        return float(-np.log(p[np.arange(30), labels]).sum() + 0.5 * (log_t / 0.5) ** 2)

    best = minimize_scalar(posterior, bounds=(-3, 3), method="bounded", options={"xatol": 1e-10})
    shrunk, free = fit_temperature(logits, labels), fit_temperature(logits, labels, shrink_below=0)
    assert shrunk.shrunk
    assert np.log(shrunk.value) == pytest.approx(best.x, abs=1e-5)
    assert 1.0 < shrunk.value < free.value


def test_shrinkage_counts_persons_and_each_person_once() -> None:
    logits, labels = sample(40, 2.0)
    one = fit_temperature(logits, labels)
    four = fit_temperature(np.tile(logits, (4, 1)), np.tile(labels, 4), persons=[f"p{i}" for i in range(40)] * 4)
    assert four.n == 40
    assert four.shrunk
    assert four.value == pytest.approx(one.value, rel=1e-6)


def test_a_separated_set_is_bounded_and_says_so() -> None:
    logits, labels = np.array([[2.0, -2.0], [-2.0, 2.0]] * 40), np.array([0, 1] * 40)
    found = fit_temperature(logits, labels)
    assert found.at_bound
    assert found.value == pytest.approx(0.01)
    assert np.isfinite(found.probabilities(logits)).all()
    # With few persons the prior keeps it within reason.
    few = fit_temperature(logits[:20], labels[:20])
    assert not few.at_bound
    assert 0.1 < few.value < 1.0


def test_the_order_of_predictions_is_kept() -> None:
    logits, labels = sample(60, 3.0, k=3)
    found = fit_temperature(logits, labels)
    before, after = softmax(logits), found.probabilities(logits)
    np.testing.assert_array_equal(before.argsort(axis=1), after.argsort(axis=1))
    binary, labels = sample(60, 3.0)
    after = fit_temperature(binary, labels).probabilities(binary)
    np.testing.assert_array_equal(softmax(binary)[:, 1].argsort(), after[:, 1].argsort())


def test_large_logits_do_not_overflow() -> None:
    found = fit_temperature(np.array([[800.0, -800.0], [900.0, 0.0], [-700.0, 700.0]]), np.array([0, 1, 1]))
    assert np.isfinite([found.value, found.nll_before, found.nll_after]).all()


def test_half_patients_to_a_tenth() -> None:
    logits = np.array([[0.0, 0.0], [0.0, np.log(9.0)]])
    moved = softmax(shift_prevalence(logits, trained=[0.5, 0.5], deployed=[0.9, 0.1]))
    # Even odds become those of the clinic; what was 90 % becomes even.
    np.testing.assert_allclose(moved[:, 1], [0.1, 0.5])


def test_prevalence_of_three_classes_follows_bayes() -> None:
    p = np.array([[0.2, 0.3, 0.5]])
    trained, deployed = np.array([0.3, 0.3, 0.4]), np.array([0.7, 0.2, 0.1])
    expected = p * deployed / trained
    found = softmax(shift_prevalence(np.log(p), trained=trained, deployed=deployed))
    np.testing.assert_allclose(found, expected / expected.sum())


@pytest.mark.parametrize("shares", [[0.5, 0.6], [0.0, 1.0], [1.0], [-0.5, 1.5], [float("nan"), 0.5]])
def test_impossible_prevalences_are_refused(shares: list[float]) -> None:
    with pytest.raises(RecipeError) as caught:
        shift_prevalence(np.zeros((1, 2)), trained=[0.5, 0.5], deployed=shares)
    assert caught.value.code == "CHI-RC-115"


@pytest.mark.parametrize(
    ("logits", "labels", "code"),
    [
        (np.zeros((3, 2)), np.zeros(2, int), "CHI-IN-230"),
        (np.zeros((0, 2)), np.zeros(0, int), "CHI-IN-236"),
        (np.array([[np.nan, 0.0]]), np.zeros(1, int), "CHI-IN-231"),
        (np.zeros((1, 2)), np.array([2]), "CHI-IN-233"),
    ],
)
def test_unusable_validation_sets_are_refused(logits: np.ndarray, labels: np.ndarray, code: str) -> None:
    with pytest.raises(InputError) as caught:
        fit_temperature(logits, labels)
    assert caught.value.code == code
