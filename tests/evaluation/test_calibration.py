"""Calibration scores: known answers on hand-made probabilities."""

from __future__ import annotations

import numpy as np
import pytest

from chiasm.pipelines.evaluation import calibration as c


def test_probabilities_that_are_kept_have_no_gap() -> None:
    p = np.array([0.25] * 4 + [0.75] * 4)
    happened = np.array([1, 0, 0, 0, 1, 1, 1, 0], dtype=float)
    gaps = c.equal_width(p, happened, 10)
    assert (gaps.expected, gaps.largest, gaps.root_mean_square) == (0.0, 0.0, 0.0)


def test_the_expected_gap_weighs_bins_by_their_samples() -> None:
    p = np.array([0.1, 0.1, 0.1, 0.9])
    gaps = c.equal_width(p, np.zeros(4), 2)
    assert gaps.expected == pytest.approx(0.75 * 0.1 + 0.25 * 0.9)
    assert gaps.largest == pytest.approx(0.9)
    assert gaps.unweighted == pytest.approx(0.5)


def test_a_probability_on_an_edge_goes_to_the_bin_that_is_closed_there() -> None:
    p, happened = np.array([0.5, 0.2, 0.9]), np.array([0.0, 0.0, 1.0])
    left, right = c.equal_width(p, happened, 2), c.equal_width(p, happened, 2, closed="right")
    assert left.size.tolist() == [1, 2]
    assert right.size.tolist() == [2, 1]


def test_zero_and_one_have_a_bin_whichever_side_is_closed() -> None:
    p = np.array([0.0, 1.0])
    for closed in ("left", "right"):
        assert c.equal_width(p, p, 5, closed=closed).size.tolist() == [1, 1]


def test_equal_mass_parts_differ_by_at_most_one_sample() -> None:
    assert c.equal_mass(np.linspace(0, 1, 11), np.zeros(11), 3).size.tolist() == [4, 4, 3]


def test_a_sure_and_right_network_scores_zero_and_a_sure_and_wrong_one_the_worst() -> None:
    sure, label = np.eye(3), np.array([0, 1, 2])
    wrong = np.roll(label, 1)
    assert c.brier(sure, label) == 0.0
    assert c.brier(sure, wrong) == 2.0
    assert c.negative_log_likelihood(sure, label) == 0.0
    assert c.negative_log_likelihood(sure, wrong) == np.inf
    assert c.binary_brier(np.array([1.0, 0.0]), np.array([0.0, 1.0])) == 1.0


def test_class_wise_errors_see_a_bias_that_the_top_label_hides() -> None:
    p = np.array([[0.6, 0.3, 0.1]] * 10)
    label = np.array([0] * 6 + [2] * 4)  # the first class is kept; the second is promised and never comes
    confidence, hit = c.top_label(p, label)
    assert c.equal_width(confidence, hit, 10).expected == pytest.approx(0.0, abs=1e-12)
    assert c.static_calibration_error(p, label, 10) == pytest.approx((0.0 + 0.3 + 0.3) / 3)
    assert c.adaptive_calibration_error(p, label, 1) == pytest.approx((0.0 + 0.3 + 0.3) / 3)
