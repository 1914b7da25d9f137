from __future__ import annotations

import numpy as np
import pytest

from chiasm.pipelines.reports.plots import BASE, LEFT, MAX_DOTS, MAX_NAMED, RIGHT, WIDTH, distribution


def entries(values: list[float]) -> list[tuple[str, float, str]]:
    return [(f"sub-{i}", value, f"sub-{i}.html") for i, value in enumerate(values)]


def test_quartiles_and_outliers_are_those_of_tukey() -> None:
    plot = distribution("grey matter", entries([10.0, 11.0, 12.0, 13.0, 14.0, 17.6]))
    assert plot is not None
    assert (plot.low, plot.median, plot.high) == pytest.approx((11.25, 12.5, 13.75))
    assert plot.outliers == [("sub-5", 17.6, "sub-5.html")]  # 17.5 is the fence
    assert plot.n_outliers == 1
    assert [dot.title for dot in plot.dots if dot.outlier] == ["sub-5: 17.6 ml"]


def test_every_patient_of_a_small_cohort_is_a_dot_at_its_value() -> None:
    plot = distribution("x", entries([0.0, 50.0, 100.0]))
    assert plot is not None
    xs = sorted(dot.x for dot in plot.dots)
    assert xs[1] == pytest.approx(WIDTH / 2)
    assert xs[1] - xs[0] == pytest.approx(xs[2] - xs[1])
    assert all(LEFT <= x <= WIDTH - RIGHT for x in xs)


def test_bars_count_every_patient() -> None:
    values = np.random.default_rng(0).normal(600, 50, 500).tolist()
    plot = distribution("x", entries(values))
    assert plot is not None
    tallest = max(height for _, _, _, height in plot.bins)
    counts, _ = np.histogram(values, bins=40, range=_ends(values))
    assert sum(height for _, _, _, height in plot.bins) / tallest == pytest.approx(500 / counts.max(), rel=0.02)
    assert all(y + height == pytest.approx(BASE) for _, y, _, height in plot.bins)


def _ends(values: list[float]) -> tuple[float, float]:
    span = max(values) - min(values)
    return min(values) - 0.05 * span, max(values) + 0.05 * span


def test_a_large_cohort_shows_its_outliers_only_the_farthest_first() -> None:
    values = [*np.random.default_rng(0).uniform(400, 600, 9000).tolist(), *(2000.0 + i for i in range(400))]
    plot = distribution("x", entries(values))
    assert plot is not None
    assert plot.n_outliers == 400
    assert len(plot.dots) == MAX_DOTS
    assert len(plot.outliers) == MAX_NAMED
    assert plot.outliers[0][1] == 2399.0


@pytest.mark.parametrize("values", [[5.0], [5.0, 5.0, 5.0], [0.0, 0.0], [-3.0, -3.0], [1e-9, 2e-9], [1e12, 1.0]])
def test_few_or_equal_values_have_an_axis_with_ticks(values: list[float]) -> None:
    plot = distribution("x", entries(values))
    assert plot is not None
    assert 1 <= len(plot.ticks) <= 12
    assert all(LEFT - 1 <= x <= WIDTH - RIGHT + 1 for x, _ in plot.ticks)
    assert len({text for _, text in plot.ticks}) == len(plot.ticks)


def test_what_is_not_finite_is_left_out() -> None:
    plot = distribution("x", entries([1.0, float("nan"), float("inf"), 2.0]))
    assert plot is not None
    assert plot.n == 2
    assert distribution("x", entries([float("nan")])) is None
    assert distribution("x", []) is None
