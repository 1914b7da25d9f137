"""The page of a study: the verdict and its controls first, then every score with its interval, and what others published."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ...data.atomic import write_text
from ..evaluation.classification import RULES, wilson
from .pages import nonce_of, place_picture, render
from .patient import RESEARCH_USE
from .published import PUBLISHED
from .speech_figures import Drawn
from .study_figures import forest_figure, reliability_figure, risk_figure, roc_figure
from .study_schema import METRICS, Study, check_study
from .study_verdict import interval, main_metric, study_verdict

PAGE = "report.html"
NAMES = {"f1": "F1", "auc": "AUC", "nll": "negative log-likelihood"}
KINDS = {
    "model": "The model",
    "variant": "Other recipes",
    "single modality": "One modality alone",
    "baseline": "Baselines",
    "control": "Controls: these must be at chance",
}
CALIBRATION = {
    "ece": "ECE, positive class",
    "ece_top": "ECE, most likely class",
    "ace": "ACE",
    "mce": "MCE",
    "brier": "Brier score",
    "nll": "Log-likelihood, negative",
    "slope": "Slope (kept: 1)",
    "intercept": "Intercept (kept: 0)",
    "in_the_large": "In the large (kept: 0)",
    "expected_to_observed": "Expected : observed (kept: 1)",
}


class _Figure(NamedTuple):
    src: str
    drawn: Drawn


def write_study_report(out: Path, study: Study | Mapping[str, Any], *, single_file: bool = False) -> list[Path]:
    """Write ``report.html`` of a study and its figures.

    Parameters
    ----------
    out : Path
        Folder of the study; figures go to ``figures/`` in it.
    study : mapping
        As `study_schema.Study` says; what ``results.json`` holds.
    single_file : bool
        Put the figures into the page.

    Returns
    -------
    list of Path
        The page and its figures.

    Raises
    ------
    ValueError
        The study lacks what every page needs.
    ResourceError
        The disk is full or may not be written.
    """
    check_study(study)
    study = {**study, "rows": [_whole(row) for row in study["rows"]]}
    page = out / PAGE
    metric, chance = main_metric(study)
    pictures = _draw(study, metric, chance)
    written, figures = [], {}
    for name, one in pictures.items():
        src, file = place_picture(page, name, one.png, inline=single_file)
        figures[name] = _Figure(src, one)
        written += [file] if file is not None else []
    nonce = nonce_of([json.dumps(study, sort_keys=True, default=str), *(one.png for one in pictures.values())])
    text = render(
        "study.html",
        nonce,
        study=study,
        title=study["recipe"].get("title") or study["recipe"].get("name", "Study"),
        verdict=study_verdict(study),
        figures=figures,
        metric=NAMES.get(metric, metric.replace("_", " ")),
        metric_key=metric,
        chance=chance,
        controls=[row for row in study["rows"] if row["kind"] == "control"],
        groups=_groups(study),
        columns=_columns(study),
        paired=[row for row in study["rows"] if row.get("difference")],
        calibration=_calibration(study),
        published=_published(study),
        excluded=_excluded(study),
        persons=_persons(study),
        interval=interval,
        rules=RULES,
        protocol=_protocol(study),
        research_use=RESEARCH_USE,
    )
    out.mkdir(parents=True, exist_ok=True)
    write_text(page, text)
    return [page, *written]


def _whole(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row with what may be left out."""
    scores = {name: {"value": None, "low": None, "high": None, **one} for name, one in row["scores"].items()}
    return {"note": "", "per_seed": {}, "sd": {}, **row, "scores": scores}


def _draw(study: Mapping[str, Any], metric: str, chance: float) -> dict[str, Drawn]:
    pictures = {"forest": forest_figure(study, metric, chance)}
    if study.get("calibration"):
        pictures["reliability"] = reliability_figure(study["calibration"])
    if (study.get("risk_coverage") or {}).get("coverage"):
        pictures["risk-coverage"] = risk_figure(study)
    if (study.get("roc") or {}).get("false_positive_rate"):
        pictures["roc"] = roc_figure(study)
    return pictures


def _groups(study: Mapping[str, Any]) -> list[tuple[str, list[Mapping[str, Any]]]]:
    """Return the rows under the heading of their kind, in the order of `KINDS`."""
    kinds = [*KINDS, *sorted({row["kind"] for row in study["rows"]} - set(KINDS))]
    found = [(KINDS.get(kind, kind), [row for row in study["rows"] if row["kind"] == kind]) for kind in kinds]
    return [(name, rows) for name, rows in found if rows]


def _columns(study: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return (metric, heading) of the metrics that some row has; the verdict's own metric is always among them."""
    there = {name for row in study["rows"] for name in row["scores"]}
    chosen = list(dict.fromkeys([main_metric(study)[0], *METRICS]))
    return [(name, NAMES.get(name, name.replace("_", " ").capitalize())) for name in chosen if name in there]


def _calibration(study: Mapping[str, Any]) -> list[tuple[str, Any, Any, Any]]:
    """Return (name, after the temperature, before it, noise floor) of each calibration score, each as a scored entry or None."""
    report = study.get("calibration")
    if not report:
        return []
    before = (study.get("calibration_before") or {}).get("scores", {})
    floors = {"ece": report.get("noise_floor"), **report.get("noise_floors", {})}
    rows = []
    for key, name in CALIBRATION.items():
        if key in report["scores"]:
            floor = floors.get(key)
            told = {**floor, "value": floor["mean"]} if floor else None
            rows.append((name, report["scores"][key], before.get(key), told))
    return rows


def _published(study: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the published rows with a Wilson interval where the accuracy is of a test set of known size."""
    given: Sequence[Mapping[str, Any]] | None = study.get("published")
    rows = PUBLISHED.get(study["data"].get("layout", ""), ()) if given is None else given
    found = []
    for row in rows:
        n = row.get("n_test")
        told = f"{row['accuracy']:g}"  # with the digits that were published
        if n:
            known = wilson(row["accuracy"] * n, n)
            told += f" [{known.low:.3f}, {known.high:.3f}]"
        found.append({**row, "told": told})
    return found


def _excluded(study: Mapping[str, Any]) -> list[tuple[str, str, str, list[str]]]:
    """Return (view, code, message, names): interviews that were left out for one reason stand together."""
    reasons: dict[tuple[str, str, str], list[str]] = {}
    for view, entries in (study.get("excluded") or {}).items():
        for entry in entries:
            reasons.setdefault((view, entry.get("code", ""), entry.get("message", "")), []).append(entry["name"])
    return [(*reason, names) for reason, names in reasons.items()]


def _persons(study: Mapping[str, Any]) -> list[tuple[str, list[int], int]]:
    """Return (side, persons by class, their sum)."""
    sides = study["data"].get("persons") or {}
    rows = []
    for side, counts in sides.items():
        by_class = [int(counts.get(name, 0)) for name in study["classes"]]
        rows.append((side, by_class, sum(by_class)))
    return rows


def _protocol(study: Mapping[str, Any]) -> str:
    seeds = study.get("seeds") or ()
    names = {
        "challenge": "the data set’s own test persons",
        "k-fold": f"{study.get('folds') or ''} folds over persons".strip(),
        "leave-one-person-out": "each person left out once",
    }
    told = names.get(study.get("protocol", ""), study.get("protocol", ""))
    runs = f"{len(seeds)} seed{'' if len(seeds) == 1 else 's'}" if seeds else ""
    controls = f"controls {study['control_seeds']} seeds" if study.get("control_seeds") else ""
    return "; ".join(part for part in (told, runs, controls) if part)
