"""Bootstrap intervals: patients are the unit."""

from __future__ import annotations

import math

import numpy as np
import pytest

from chiasm.pipelines.evaluation.intervals import bootstrap_mean


def test_the_interval_covers_the_true_mean_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    samples = rng.normal(2.0, 1.0, (200, 40))
    covered = [i.low <= 2.0 <= i.high for i in (bootstrap_mean(s, n_draws=500) for s in samples)]
    assert 0.88 <= np.mean(covered) <= 0.99


def test_many_scans_of_one_patient_do_not_make_the_interval_narrower() -> None:
    values = [0.2, 0.8, 0.5]
    repeated = bootstrap_mean(values * 50, [str(i) for i in range(3)] * 50)
    alone = bootstrap_mean(values, ["0", "1", "2"])
    assert (repeated.low, repeated.high) == pytest.approx((alone.low, alone.high))
    assert repeated.n == alone.n == 3


def test_a_patient_with_more_scans_weighs_no_more() -> None:
    assert bootstrap_mean([1.0, 1.0, 1.0, 0.0], ["a", "a", "a", "b"]).mean == 0.5


def test_a_higher_level_is_wider_and_a_seed_repeats() -> None:
    values = np.linspace(0, 1, 20)
    narrow, wide = bootstrap_mean(values), bootstrap_mean(values, level=0.99)
    assert wide.low < narrow.low < narrow.mean < narrow.high < wide.high
    assert bootstrap_mean(values, seed=3) == bootstrap_mean(values, seed=3)


def test_missing_values_are_left_out_and_nothing_gives_nan() -> None:
    assert bootstrap_mean([1.0, float("nan"), 3.0]).mean == pytest.approx(2.0)
    empty = bootstrap_mean([float("nan")])
    assert empty.n == 0
    assert math.isnan(empty.mean)
