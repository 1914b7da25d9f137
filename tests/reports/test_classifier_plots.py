"""Figures of a classifier: what is drawn is what was measured, texts do not overlap, and bytes are the same twice."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from matplotlib.figure import Figure
from sklearn.metrics import roc_auc_score

from chiasm.pipelines.evaluation.classifier_calibration import calibration_report
from chiasm.pipelines.evaluation.predictions import Predictions, stacked
from chiasm.pipelines.evaluation.risk_coverage import risk_coverage
from chiasm.pipelines.reports import classifier_plots as plots


def drawn(seed: int = 0) -> Predictions:
    rng = np.random.default_rng(seed)
    label = np.tile([0, 1], 24)
    q = 1 / (1 + np.exp(-rng.normal(2 * label - 1, 1.5)))
    return Predictions(person=[f"p{i:02}" for i in range(48)], label=label, probability=np.stack([1 - q, q], axis=1))


ESTIMATES = [
    plots.Estimate("two streams, transport, gated fusion", 0.90, 0.81, 0.97, 48),
    plots.Estimate("words", 0.79, 0.67, 0.90, 48),
    plots.Estimate("hidden", 0.70, math.nan, math.nan, 9),
]


def figures() -> dict[str, Figure]:
    report = calibration_report(drawn(), n_draws=50)
    return {
        "reliability": plots.reliability_diagram(report),
        "risk": plots.risk_coverage_plot({"one": risk_coverage(drawn()), "other": risk_coverage(drawn(1))}),
        "roc": plots.roc_plot({"one": drawn(), "other": drawn(1)}),
        "forest": plots.forest_plot(ESTIMATES, label="accuracy, 95 % intervals", chance=0.5),
    }


def test_the_reliability_diagram_draws_the_table() -> None:
    report = calibration_report(drawn(), n_draws=50)
    top, bottom = plots.reliability_diagram(report).axes
    points, _, (bars,) = top.containers[0]
    np.testing.assert_allclose(points.get_xdata(), [row.promised for row in report.table])
    np.testing.assert_allclose(points.get_ydata(), [row.happened for row in report.table])
    ends = [segment[:, 1] for segment in bars.get_segments()]
    np.testing.assert_allclose(ends, [[row.happened_low, row.happened_high] for row in report.table], atol=1e-12)
    assert [patch.get_height() for patch in bottom.patches] == [row.n_rows for row in report.table]
    assert [patch.get_x() for patch in bottom.patches] == [row.low for row in report.table]
    assert "n = 48" in top.get_title()
    assert f"{report.noise_floor.mean:.3f}" in top.get_title()


def test_the_risk_curve_is_the_one_measured() -> None:
    curve = risk_coverage(drawn())
    (axes,) = plots.risk_coverage_plot({"model": curve}).axes
    (line,) = axes.lines
    np.testing.assert_array_equal(line.get_xydata(), np.stack([curve.coverage, curve.risk], axis=1))
    assert f"AURC {curve.aurc:.3f}" in line.get_label()


def test_the_roc_curve_encloses_the_auc() -> None:
    for one in (drawn(), stacked([drawn(), drawn(1)])):
        false, true = plots.roc_points(one)
        area = np.mean([roc_auc_score(one.label[rows], one.probability[rows, 1]) for rows in one.rows_by_run.values()])
        assert np.trapezoid(true, false) == pytest.approx(area, abs=0.012)
        assert (true[0], true[-1]) == (0.0, 1.0)
        assert (np.diff(true) >= 0).all()
    axes = plots.roc_plot({"a": drawn(), "b": drawn(1)}).axes[0]
    np.testing.assert_array_equal(axes.lines[2].get_ydata(), plots.roc_points(drawn(1))[1])
    assert len({line.get_linestyle() for line in axes.lines}) == 3


def test_a_roc_curve_of_one_class_is_not_drawn() -> None:
    assert np.isnan(plots.roc_points(drawn().rows(drawn().label == 1))[1]).all()


def test_the_forest_reads_from_the_top() -> None:
    axes = plots.forest_plot(ESTIMATES, label="accuracy", chance=0.5).axes[0]
    values = {line.get_gid(): line.get_xydata().tolist() for line in axes.lines if line.get_gid()}
    assert values == {
        "interval-0": [[0.81, 2], [0.97, 2]],
        "value-0": [[0.90, 2]],
        "interval-1": [[0.67, 1], [0.90, 1]],
        "value-1": [[0.79, 1]],
        "value-2": [[0.70, 0]],
    }
    assert dict(zip(axes.get_yticks(), [text.get_text() for text in axes.get_yticklabels()], strict=True)) == {
        2: "two streams, transport, gated fusion",
        1: "words",
        0: "hidden",
    }
    assert [line.get_xdata()[0] for line in axes.lines if line.get_linestyle() == ":"] == [0.5]
    hollow = next(line for line in axes.lines if line.get_gid() == "value-2")
    assert hollow.get_markerfacecolor() == "white"


@pytest.mark.parametrize("name", ["reliability", "risk", "roc", "forest"])
def test_texts_do_not_overlap_and_stay_in_the_picture(name: str) -> None:
    figure = figures()[name]
    figure.canvas.draw()
    renderer = figure.canvas.get_renderer()
    boxes = [
        (text.get_text(), text.get_window_extent(renderer)) for legend in figure.legends for text in legend.get_texts()
    ]
    assert all(not box.overlaps(axes.bbox) for _, box in boxes for axes in figure.axes)
    for axes in [*figure.axes, *(child for one in figure.axes for child in one.child_axes)]:
        texts = [axes.title, axes.xaxis.label, axes.yaxis.label]
        for axis, (low, high) in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
            # Ticks beyond the view have a text and are not drawn.
            texts += [
                tick.label1
                for tick in axis.get_major_ticks()
                if low <= tick.get_loc() <= high and tick.label1.get_visible()
            ]
            texts += [
                tick.label2
                for tick in axis.get_major_ticks()
                if low <= tick.get_loc() <= high and tick.label2.get_visible()
            ]
        boxes += [
            (text.get_text(), text.get_window_extent(renderer))
            for text in texts
            if text.get_text() and text.get_visible()
        ]
    shown = {text for text, _ in boxes}
    assert len(shown) > 6
    for (one, box), (other, second) in itertools.combinations(boxes, 2):
        if one != other:
            assert not box.overlaps(second), (one, other)
    for text, box in boxes:
        assert box.x0 >= -1, text
        assert box.x1 <= figure.bbox.x1 + 1, text


def test_the_same_numbers_give_the_same_bytes() -> None:
    for kind, start in (("png", b"\x89PNG"), ("svg", b"<?xml")):
        first, second = (
            {
                name: plots.picture(figure, kind)
                for name, figure in figures().items()
                if name in ("forest", "reliability")
            }
            for _ in range(2)
        )
        assert first == second
        assert all(one.startswith(start) for one in first.values())
    assert all(b"<script" not in one and b"dc:date" not in one for one in first.values())


def test_colours_stand_out_from_the_page() -> None:
    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    # WCAG 2.2, 1.4.11: 3 : 1 for graphics; 4.5 : 1 for text.
    for colour in plots.SERIES:
        assert 1.05 / (luminance(colour) + 0.05) >= 2.9, colour
    for colour in (plots.INK, plots.FAINT):
        assert 1.05 / (luminance(colour) + 0.05) >= 4.5
