"""Risk against coverage: known curves, ties, and what perfect ranking would give."""

from __future__ import annotations

import numpy as np
import pytest

from chiasm.pipelines.evaluation.predictions import Predictions, stacked
from chiasm.pipelines.evaluation.risk_coverage import risk_coverage, selective_risk


def of(confidence: list[float], right: list[bool]) -> Predictions:
    p = np.array([[1 - c, c] for c in confidence])
    return Predictions(person=[str(i) for i in range(len(right))], label=np.array(right).astype(int), probability=p)


def test_the_surest_are_answered_first() -> None:
    curve = risk_coverage(of([0.9, 0.6, 0.8, 0.7], [True, False, True, False]))
    assert curve.coverage.tolist() == [0.25, 0.5, 0.75, 1.0]
    assert curve.risk == pytest.approx([0, 0, 1 / 3, 1 / 2])
    assert curve.aurc == pytest.approx((1 / 3 + 1 / 2) / 4)
    assert curve.excess_aurc == pytest.approx(0.0)
    assert curve.accuracy_at(0.5) == 1.0


def test_ties_enter_together_whatever_their_order() -> None:
    error = np.array([1.0, 0.0, 1.0, 0.0])
    flat = selective_risk(np.full(4, 0.7), error)
    assert flat == pytest.approx([0.5] * 4)
    assert flat == pytest.approx(selective_risk(np.full(4, 0.7), error[::-1]))


def test_a_ranking_upside_down_has_an_excess() -> None:
    curve = risk_coverage(of([0.6, 0.9], [True, False]))
    assert curve.risk == pytest.approx([1.0, 0.5])
    assert curve.excess_aurc == pytest.approx(0.75 - 0.25)


def test_runs_are_averaged() -> None:
    good, bad = of([0.9, 0.6], [True, False]), of([0.6, 0.9], [True, False])
    curve = risk_coverage(stacked([good, bad]))
    assert curve.risk == pytest.approx([0.5, 0.5])
    assert curve.n_persons == 2
