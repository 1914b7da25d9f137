"""The verdict on a control: coin tosses are at chance, a hidden cue is not, and the rule is fixed beforehand."""

from __future__ import annotations

import numpy as np
import pytest

from chiasm.data.errors import InputError, RecipeError
from chiasm.pipelines.evaluation.chance import chance_verdict
from chiasm.pipelines.evaluation.predictions import Predictions, stacked


def control(cue: float, *, seeds: int = 20, label: np.ndarray | None = None, seed: int = 0) -> Predictions:
    """Predictions of `seeds` fits to noise, with as much of a cue to the label."""
    rng, label = np.random.default_rng(seed), np.tile([0, 1], 24) if label is None else label
    persons = rng.normal(size=len(label)) + cue * (2 * label - 1)
    runs = []
    for _ in range(seeds):
        q = 1 / (1 + np.exp(-(rng.normal(size=len(label)) + rng.normal(0, 0.3) * persons + cue * persons)))
        names = [f"p{i:03}" for i in range(len(label))]
        runs.append(Predictions(person=names, label=label, probability=np.stack([1 - q, q], axis=1)))
    return stacked(runs)


def test_coin_tosses_are_at_chance() -> None:
    found = chance_verdict(control(0.0))
    assert found.at_chance
    assert not found.confounded
    assert (found.metric, found.chance) == ("accuracy", 0.5)
    assert len(found.per_seed) == 20
    assert found.pooled == pytest.approx(np.mean(found.per_seed))
    assert found.low < 0.5 < found.high
    assert "99%" in found.rule


def test_a_cue_is_confounding() -> None:
    found = chance_verdict(control(0.6))
    assert found.confounded
    assert not found.at_chance
    assert found.low > 0.5
    assert found.low_crossed > 0.5


def test_below_chance_is_neither() -> None:
    one = control(0.6)
    turned = Predictions(person=one.person, label=1 - one.label, probability=one.probability, run=one.run)
    found = chance_verdict(turned)
    assert not found.at_chance
    assert not found.confounded
    assert found.high < 0.5


def test_false_alarms_are_rare() -> None:
    alarms = []
    for trial in range(60):
        rng = np.random.default_rng(trial)
        q = rng.random(20 * 48)
        one = Predictions(
            person=[f"p{i:03}" for i in range(48)] * 20,
            label=np.tile([0, 1], 480),
            probability=np.stack([1 - q, q], axis=1),
            run=np.repeat(np.arange(20), 48),
        )
        alarms.append(not chance_verdict(one, n_draws=400, seed=trial).at_chance)
    assert np.mean(alarms) <= 0.07


def test_unequal_classes_are_judged_by_balanced_accuracy() -> None:
    label = (np.arange(48) % 4 == 0).astype(int)
    n = len(label)
    runs = [
        Predictions(person=[str(i) for i in range(n)], label=label, probability=np.tile([0.9, 0.1], (n, 1)))
        for _ in range(20)
    ]
    found = chance_verdict(stacked(runs))  # always the majority: accuracy would be 0.75
    assert found.metric == "balanced_accuracy"
    assert (found.low, found.pooled, found.high) == (0.5, 0.5, 0.5)
    assert found.at_chance
    with pytest.raises(RecipeError) as caught:
        chance_verdict(stacked(runs), "accuracy")
    assert caught.value.code == "CHI-RC-117"
    assert chance_verdict(stacked(runs), "auc").chance == 0.5


def test_three_classes_have_a_chance_of_a_third() -> None:
    rng = np.random.default_rng(0)
    runs = [
        Predictions(
            person=[str(i) for i in range(60)],
            label=np.arange(60) % 3,
            probability=rng.dirichlet(np.ones(3), 60),
            classes=("CN", "MCI", "AD"),
        )
        for _ in range(20)
    ]
    found = chance_verdict(stacked(runs))
    assert found.chance == pytest.approx(1 / 3)
    assert found.at_chance


def test_seeds_that_swing_together_widen_the_crossed_interval() -> None:
    # Each seed sorts the persons perfectly, up or down: persons alone carry no noise.
    label = np.tile([0, 1], 24)
    signs = np.where(np.arange(20) < 13, 1, -1)
    runs = []
    for sign in signs:
        q = 0.5 + 0.4 * sign * (2 * label - 1)
        names = [str(i) for i in range(48)]
        runs.append(Predictions(person=names, label=label, probability=np.stack([1 - q, q], axis=1)))
    found = chance_verdict(stacked(runs))
    assert found.pooled == pytest.approx(0.65)
    assert found.confounded  # by the definition
    assert found.low_crossed < 0.5 < found.high_crossed  # and what to think of it


def test_the_number_of_seeds_is_fixed() -> None:
    with pytest.raises(RecipeError) as caught:
        chance_verdict(control(0.0, seeds=5))
    assert caught.value.code == "CHI-RC-117"
    assert len(chance_verdict(control(0.0, seeds=5), seeds=5).per_seed) == 5


def test_a_metric_without_a_chance_level_is_refused() -> None:
    with pytest.raises(RecipeError) as caught:
        chance_verdict(control(0.0), "f1")
    assert caught.value.code == "CHI-RC-117"


def test_one_class_has_no_verdict() -> None:
    with pytest.raises(InputError) as caught:
        chance_verdict(control(0.0, label=np.ones(48, int)))
    assert caught.value.code == "CHI-IN-236"
