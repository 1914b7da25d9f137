"""Figures of a classifier: reliability, risk against coverage, ROC, intervals. The same numbers give the same bytes.

Series differ by mark and line as well as by colour, and every figure says how many persons stand behind it.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from ..evaluation.classifier_calibration import CalibrationReport
from ..evaluation.predictions import Floats, Predictions
from ..evaluation.risk_coverage import RiskCoverage
from .colours import default_colour, hex_colour

INK, FAINT = "#222222", "#767676"
# Of the label colours, those that stand out from a white page, darkest first: blue, vermilion, green, purple.
SERIES = tuple(hex_colour(default_colour(i)) for i in (6, 5, 4, 3))
LINES, MARKS = ("-", "--", "-.", ":"), ("o", "s", "^", "D")
INCH_A_ROW = 0.34


class Estimate(NamedTuple):
    """A row of a forest plot: a name, a value and its interval (NaN where it has none), and the persons behind it."""

    name: str
    value: float
    low: float
    high: float
    n: int


def reliability_diagram(report: CalibrationReport) -> Any:
    """Draw what happened against what was promised, with intervals, over a histogram of the probabilities.

    Returns
    -------
    matplotlib.figure.Figure
        Axes: reliability, histogram of rows.
    """
    figure = _figure(5.0, 5.6)
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    promised = np.array([row.promised for row in report.table])
    happened = np.array([row.happened for row in report.table])
    down = happened - np.array([row.happened_low for row in report.table])
    up = np.array([row.happened_high for row in report.table]) - happened
    top.plot([0, 1], [0, 1], color=FAINT, linestyle=":", linewidth=1.0, label="kept promises")
    # A share of 1 and its Wilson end differ by rounding: an error bar may not be negative.
    bars = np.maximum(np.stack([down, up]), 0.0)
    top.errorbar(
        promised, happened, yerr=bars, fmt="o-", color=SERIES[0], capsize=3, linewidth=1.2, label="bins, 95 % intervals"
    )
    top.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), ylabel="share that is positive")
    ece, floor = report.scores["ece"], report.noise_floor
    top.set_title(
        f"ECE {ece.value:.3f} [{ece.low:.3f}, {ece.high:.3f}], n = {ece.n_persons} persons, {report.n_bins} bins\n"
        f"by chance alone: {floor.mean:.3f} ({floor.low:.3f} to {floor.high:.3f})",
        fontsize=9,
        color=INK,
    )
    lows = [row.low for row in report.table]
    widths = [row.high - row.low for row in report.table]
    bottom.bar(
        lows, [row.n_rows for row in report.table], width=widths, align="edge", color=SERIES[0], edgecolor="white"
    )
    bottom.set(xlabel="predicted probability", ylabel="rows")
    _legend(figure)
    return figure


def risk_coverage_plot(curves: Mapping[str, RiskCoverage]) -> Any:
    """Draw the error among the answered cases against the share that is answered, a line a model."""
    figure = _figure(5.0, 4.0)
    axes = figure.subplots()
    for i, (name, curve) in enumerate(curves.items()):
        style = {"color": SERIES[i % len(SERIES)], "linestyle": LINES[i % len(LINES)]}
        text = f"{name} (AURC {curve.aurc:.3f}, n = {curve.n_persons})"
        axes.plot(curve.coverage, curve.risk, linewidth=1.6, label=text, **style)
    axes.set(xlim=(0, 1), xlabel="coverage: share of cases answered", ylabel="risk: errors among them")
    axes.set_ylim(bottom=0)
    _legend(figure)
    return figure


def roc_points(predictions: Predictions) -> tuple[Floats, Floats]:
    """Return the mean ROC curve over runs of the positive class: false positive rates (a grid of 201) and true positive rates."""
    from sklearn.metrics import roc_curve

    grid, by_run = np.linspace(0.0, 1.0, 201), []
    for rows in predictions.rows_by_run.values():
        event = predictions.label[rows] == predictions.positive
        if event.all() or not event.any():
            return grid, np.full_like(grid, np.nan)
        false, true, _ = roc_curve(event, predictions.probability[rows, -1], drop_intermediate=False)
        by_run.append(np.interp(grid, false, true))
    mean = np.mean(by_run, axis=0)
    mean[0] = 0.0
    return grid, np.asarray(mean, dtype=np.float64)


def roc_plot(models: Mapping[str, Predictions]) -> Any:
    """Draw the ROC curve of each model, averaged over its runs."""
    figure = _figure(4.8, 4.8)
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color=FAINT, linestyle=":", linewidth=1.0, label="chance")
    for i, (name, predictions) in enumerate(models.items()):
        style = {"color": SERIES[i % len(SERIES)], "linestyle": LINES[i % len(LINES)]}
        axes.plot(*roc_points(predictions), linewidth=1.6, label=f"{name} (n = {len(predictions.persons)})", **style)
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), xlabel="false positive rate", ylabel="true positive rate")
    axes.set_aspect("equal")
    _legend(figure)
    return figure


def forest_plot(rows: Sequence[Estimate], *, label: str, chance: float | None = None) -> Any:
    """Draw values with their intervals, one a line from the top, with the number of persons to the right.

    Parameters
    ----------
    rows : sequence of Estimate
    label : str
        Of the axis: the metric, and the level of the intervals.
    chance : float, optional
        Where a line is drawn.
    """
    figure = _figure(6.4, 1.1 + INCH_A_ROW * max(1, len(rows)))
    axes = figure.subplots()
    places = np.arange(len(rows))[::-1]
    for i, (row, y) in enumerate(zip(rows, places, strict=True)):
        mark = {"color": SERIES[0], "marker": MARKS[0], "linestyle": "none"}
        if np.isfinite(row.low) and np.isfinite(row.high):
            axes.plot([row.low, row.high], [y, y], color=SERIES[0], linewidth=1.6, gid=f"interval-{i}")
        else:
            mark |= {"markerfacecolor": "white"}  # a value without an interval
        axes.plot([row.value], [y], gid=f"value-{i}", **mark)
    if chance is not None:
        axes.axvline(chance, color=FAINT, linestyle=":", linewidth=1.0)
    axes.set_yticks(places, [row.name for row in rows])
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.set_xlabel(label)
    counts = axes.secondary_yaxis("right")
    counts.set_yticks(places, [f"n = {row.n}" for row in rows])
    counts.tick_params(length=0)
    return figure


def picture(figure: Any, kind: Literal["png", "svg"] = "png") -> bytes:
    """Write a figure; no date, version or random identifier goes in."""
    import matplotlib as mpl

    buffer = io.BytesIO()
    metadata = {"Software": None} if kind == "png" else {"Date": None, "Creator": None}
    with mpl.rc_context({"svg.hashsalt": "chiasm", "svg.fonttype": "path"}):
        figure.savefig(buffer, format=kind, dpi=120, metadata=metadata)
    return buffer.getvalue()


def _legend(figure: Any) -> None:
    # Outside the axes, where it hides no curve whatever the data.
    figure.legend(loc="outside lower center", frameon=False, fontsize=8)


def _figure(width: float, height: float) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure
