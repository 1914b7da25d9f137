"""Figures of a study, drawn from its JSON: all rows with intervals, reliability with its noise band, risk and coverage, ROC."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..evaluation.classification import Score
from ..evaluation.classifier_calibration import CalibrationReport, NoiseFloor, ReliabilityBin
from ..evaluation.risk_coverage import RiskCoverage
from .classifier_plots import (
    FAINT,
    INK,
    SERIES,
    Estimate,
    forest_plot,
    reliability_diagram,
    risk_coverage_plot,
)
from .speech_figures import Drawn, blank_figure, drawn

ROW_COLOURS = {"model": SERIES[0], "control": SERIES[2]}
BAND_LEVEL = 0.90
MOST_LETTERS = 34


def forest_figure(study: Mapping[str, Any], metric: str, chance: float) -> Drawn:
    """Draw every row's score with its interval; a control that is above chance stands out by colour and mark."""
    rows = [row for row in study["rows"] if (row["scores"].get(metric) or {}).get("value") is not None]
    estimates = [_estimate(row, metric) for row in rows]
    figure = forest_plot(
        estimates, label=f"{metric.replace('_', ' ')}, 95 % intervals over persons; dotted: chance", chance=chance
    )
    axes = figure.axes[0]
    lines = {line.get_gid(): line for line in axes.lines}
    for i, row in enumerate(rows):
        confounded = bool((row.get("chance") or {}).get("confounded"))
        colour = SERIES[1] if confounded else ROW_COLOURS.get(row["kind"], FAINT)
        for part in (f"interval-{i}", f"value-{i}"):
            if part in lines:
                lines[part].set_color(colour)
        lines[f"value-{i}"].set_marker("X" if confounded else "s" if row["kind"] == "model" else "o")
    for text in axes.get_yticklabels():
        text.set_parse_math(False)
    told = "; ".join(f"{one.name} {one.value:.2f}" for one in estimates)
    return drawn(figure, f"Forest plot of {metric.replace('_', ' ')}: {told}. Chance is {chance:.2f}.")


def reliability_figure(calibration: Mapping[str, Any]) -> Drawn:
    """Draw the reliability diagram over the band within which kept promises would lie in so few persons.

    The band of a bin is the middle 90 % of a binomial share with its persons and its mean probability (consistency bars, Bröcker and
    Smith 2007).
    """
    from scipy.stats import binom

    report = calibration_of(calibration)
    figure = reliability_diagram(report)
    top = figure.axes[0]
    tails = [(1 - BAND_LEVEL) / 2, (1 + BAND_LEVEL) / 2]
    for i, row in enumerate(report.table):
        low, high = np.asarray(binom.ppf(tails, row.n_persons, row.promised)).tolist()
        label = "90 % band of kept promises" if i == 0 else None
        top.fill_between(
            [row.low, row.high],
            low / row.n_persons,
            high / row.n_persons,
            color="#9aa5ab",
            alpha=0.35,
            linewidth=0,
            zorder=0,
            label=label,
        )
    _legend_below(figure)
    figure.set_size_inches(5.6, 6.0)
    told = "; ".join(f"promised {row.promised:.2f}, happened {row.happened:.2f}" for row in report.table)
    return drawn(figure, f"Reliability diagram, {report.binning}: {told}.")


def risk_figure(study: Mapping[str, Any]) -> Drawn:
    """Draw the error among the answered against the share answered, and where the prediction sets stand."""
    curve = study["risk_coverage"]
    shown = RiskCoverage(
        coverage=np.array([_number(x) for x in curve["coverage"]]),
        risk=np.array([_number(x) for x in curve["risk"]]),
        aurc=_number(curve.get("aurc")),
        excess_aurc=_number(curve.get("excess_aurc")),
        n_persons=int(curve["n_persons"]),
    )
    figure = risk_coverage_plot({"this model": shown})
    axes = figure.axes[0]
    conformal = study.get("conformal") or {}
    if conformal.get("answered") is not None and conformal.get("accuracy_answered") is not None:
        axes.plot(
            [conformal["answered"]], [1.0 - conformal["accuracy_answered"]], marker="D", linestyle="none",
            color=SERIES[1], label="prediction sets of one class", clip_on=False,
        )  # fmt: skip
    axes.set_xlim(0, 1.02)
    axes.set_ylim(0, max(0.1, 1.25 * float(np.nanmax(shown.risk))))
    _legend_below(figure)
    whole = f"error {shown.risk[-1]:.2f} with all answered"
    half = f"{float(np.interp(0.5, shown.coverage, shown.risk)):.2f} with half answered"
    return drawn(figure, f"Risk-coverage curve: {whole}, {half}.")


def roc_figure(study: Mapping[str, Any]) -> Drawn:
    """Draw the ROC curve of the mean probability over seeds."""
    figure = blank_figure(4.6, 4.3)
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color=FAINT, linestyle=":", linewidth=1.0, label="chance")
    roc = study["roc"]
    axes.plot(
        roc["false_positive_rate"], roc["true_positive_rate"], color=SERIES[0], linewidth=1.6, label="mean over seeds"
    )
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), xlabel="false positive rate", ylabel="true positive rate")
    axes.legend(loc="lower right", frameon=False, fontsize=8)
    axes.set_title(f"n = {study['rows'][0]['n_persons']} persons", fontsize=9, color=INK)
    auc = (study["rows"][0]["scores"].get("auc") or {}).get("value")
    return drawn(figure, "ROC curve of the model" + (f"; AUC {auc:.2f}." if auc is not None else "."))


def calibration_of(entry: Mapping[str, Any]) -> CalibrationReport:
    """Read a report back from `CalibrationReport.as_dict`; null is NaN."""
    curve = entry["risk_coverage"]
    return CalibrationReport(
        n_persons=entry["n_persons"],
        n_rows=entry["n_rows"],
        n_runs=entry["n_runs"],
        n_bins=entry["n_bins"],
        binning=entry["binning"],
        scores={name: Score(**_numbers(one)) for name, one in entry["scores"].items()},
        noise_floor=NoiseFloor(**_numbers(entry["noise_floor"])),
        noise_floors={name: NoiseFloor(**_numbers(one)) for name, one in entry.get("noise_floors", {}).items()},
        p_value=_number(entry["p_value"]),
        table=tuple(ReliabilityBin(**_numbers(row)) for row in entry["reliability"]),
        curve=RiskCoverage(
            coverage=np.array([_number(x) for x in curve["coverage"]]),
            risk=np.array([_number(x) for x in curve["risk"]]),
            aurc=_number(curve["aurc"]),
            excess_aurc=_number(curve["excess_aurc"]),
            n_persons=entry["n_persons"],
        ),
    )


def _legend_below(figure: Any) -> None:
    """Write the legend anew with what was added; below the axes, as in a small sample no corner stays free."""
    for legend in [*figure.legends, *(axes.get_legend() for axes in figure.axes)]:
        if legend is not None:
            legend.remove()
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=8)


def _numbers(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {name: math.nan if value is None else value for name, value in entry.items()}


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)


def _estimate(row: Mapping[str, Any], metric: str) -> Estimate:
    value, low, high = (_number(row["scores"][metric].get(key)) for key in ("value", "low", "high"))
    return Estimate(_name(row), value, low, high, row["n_persons"])


def _name(row: Mapping[str, Any]) -> str:
    name = str(row["name"]) if row["kind"] != "model" else "this model"
    name = name if len(name) <= MOST_LETTERS else name[: MOST_LETTERS - 1] + "…"
    return f"{name} ({row['kind']})" if row["kind"] not in ("model", "single modality") else name
