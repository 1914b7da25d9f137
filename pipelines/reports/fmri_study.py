"""The page of a study of images from fMRI: the verdict first, then pictures, scores with intervals, and what others published."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...data.atomic import write_text
from ..evaluation.images.published import PER_CENT, SPLITS, published_results
from .fmri_figures import image_grid
from .fmri_verdict import (
    LOWER_IS_BETTER,
    RETRIEVAL,
    TWO_WAY,
    fmri_verdict,
    main_metric,
    metric_name,
    said,
)
from .pages import nonce_of, place_picture, render
from .patient import RESEARCH_USE
from .speech_figures import Drawn

PAGE = "report.html"
SPLIT_OF = {982: "37", 1000: "40"}
"""Test images of NSD -> generation of the split."""
NSD = ("nsd", "mindeye", "mindeye2")
"""Layouts whose published rows are known."""
DIRECTIONS = {"brain-to-image": "image_retrieval", "image-to-brain": "brain_retrieval"}
PUBLISHED_NAMES = {"image_retrieval": "Image retrieval", "brain_retrieval": "Brain retrieval"}
KINDS = {"model": "The model", "baseline": "Baselines", "control": "Controls", "bound": "Bounds: what cannot be beaten"}
FIRST = ("seen", "model", "nearest training image", "ridge")
"""Columns of a grid of pictures; all others follow."""

Images = NDArray[np.uint8]


class _Figure(NamedTuple):
    src: str
    drawn: Drawn


class _Cell(NamedTuple):
    """A value with its interval, as a table shows it."""

    value: float | None
    low: float | None = None
    high: float | None = None
    word: str = ""


class _Row(NamedTuple):
    name: str
    kind: str
    cells: list[_Cell]


class _Table(NamedTuple):
    """A table of scores: metrics as columns, lines as rows under the heading of their kind."""

    metrics: list[str]
    groups: list[tuple[str, list[_Row]]]
    chance: list[_Cell]


class _Missing(NamedTuple):
    reason: str
    metrics: list[str]


class _Published(NamedTuple):
    """Rows of other papers, by generation of the split, with the study's own values as first row."""

    own: list[str]
    columns: list[str]
    groups: list[tuple[str, list[tuple[str, str, list[str]]]]]
    note: str
    comparable: bool


def write_fmri_study_report(
    out: Path,
    results: Mapping[str, Any],
    pictures: Mapping[str, Mapping[str, Images]],
    *,
    single_file: bool = False,
) -> list[Path]:
    """Write ``report.html`` of a study of images from fMRI, and a grid of pictures a subject.

    Parameters
    ----------
    out : Path
        Folder of the study; figures go to ``figures/`` in it.
    results : mapping
        What ``results.json`` holds.
    pictures : mapping of str to mapping of str to ndarray of uint8, shape (k, S, S, 3)
        Subject -> name of a line (``seen`` first) -> images.
    single_file : bool
        Put the figures into the page.

    Returns
    -------
    list of Path
        The page and its figures.

    Raises
    ------
    ResourceError
        The disk is full or may not be written.
    """
    page = out / PAGE
    grids = {name: image_grid(_ordered(columns), per_panel=6) for name, columns in pictures.items() if columns}
    written, figures = [], {}
    for index, (name, one) in enumerate(grids.items(), start=1):
        # By place: a subject's label is input, and no file is named by input here.
        src, file = place_picture(page, f"images-{index}", one.png, inline=single_file)
        figures[name] = _Figure(src, one)
        written += [file] if file is not None else []
    nonce = nonce_of([json.dumps(results, sort_keys=True, default=str), *(one.png for one in grids.values())])
    text = render(
        "fmri_study.html",
        nonce,
        results=results,
        title=results["recipe"].get("title") or results["recipe"].get("name", "Images from fMRI"),
        verdict=fmri_verdict(results),
        figures=figures,
        columns={name: list(_ordered(found)) for name, found in pictures.items()},
        pooled=_pooled(results),
        tables={name: _of_subject(one) for name, one in results["subjects"].items()},
        differences=_differences(results),
        retrieval=_retrieval(results),
        notes=list(dict.fromkeys(row["note"] for _, _, row in _retrieval(results) if row["note"])),
        declared=_declared(results),
        missing=missing_networks(_model_rows(results)),
        published=_published(results),
        name_of=metric_name,
        lower=LOWER_IS_BETTER,
        two_way=TWO_WAY,
        main=main_metric(results),
        research_use=RESEARCH_USE,
        paragraphs=[p.strip() for p in re.split(r"\n\s*\n", results.get("methods") or "") if p.strip()],
    )
    out.mkdir(parents=True, exist_ok=True)
    write_text(page, text)
    return [page, *written]


def missing_networks(rows: Sequence[Mapping[str, Any]]) -> list[_Missing]:
    """Gather metrics without a value under the reason, which says where the weights belong."""
    reasons: dict[str, list[str]] = {}
    for row in rows:
        if row["value"] is None:
            reasons.setdefault(row["reason"], []).append(row["metric"])
    return [_Missing(reason, metrics) for reason, metrics in reasons.items()]


def _ordered(columns: Mapping[str, Images]) -> dict[str, Images]:
    names = [name for name in FIRST if name in columns]
    return {name: columns[name] for name in [*names, *(name for name in columns if name not in FIRST)]}


def _model_rows(results: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    lines = [line for one in results["subjects"].values() for line in one["lines"] if line["name"] == "model"]
    rows: Sequence[Mapping[str, Any]] = lines[0]["metrics"] if lines else ()
    return rows


def _cell(score: Mapping[str, Any] | None) -> _Cell:
    if score is None:
        return _Cell(None)
    return _Cell(score.get("mean", score.get("value")), score.get("low"), score.get("high"))


def _grouped(rows: Sequence[_Row]) -> list[tuple[str, list[_Row]]]:
    kinds = [*KINDS, *sorted({row.kind for row in rows} - set(KINDS))]
    found = [(KINDS.get(kind, kind), [row for row in rows if row.kind == kind]) for kind in kinds]
    return [(name, some) for name, some in found if some]


def _pooled(results: Mapping[str, Any]) -> _Table:
    """Return the table over all subjects; chance is the mean of the subjects'."""
    lines = results["pooled"]["lines"]
    metrics = _in_order({metric for line in lines for metric in line["scores"]}, results)
    rows = [
        _Row(line["name"], line["kind"], [_cell(line["scores"].get(metric)) for metric in metrics]) for line in lines
    ]
    parts = [_of_subject(one) for one in results["subjects"].values()]
    chance = []
    for metric in metrics:
        known = [t.chance[t.metrics.index(metric)].value for t in parts if metric in t.metrics]
        values = [value for value in known if value is not None]
        chance.append(_Cell(sum(values) / len(values) if values else None))
    return _Table(metrics, _grouped(rows), chance)


def _of_subject(one: Mapping[str, Any]) -> _Table:
    """Return the table of a subject."""
    scores = {line["name"]: {row["metric"]: row for row in line["metrics"]} for line in one["lines"]}
    metrics = list(
        dict.fromkeys(m for found in scores.values() for m, row in found.items() if row["value"] is not None)
    )
    rows = [
        _Row(
            line["name"],
            line["kind"],
            [_cell(line["retrieval_all"]), *(_cell(scores[line["name"]].get(metric)) for metric in metrics)],
        )
        for line in one["lines"]
    ]
    chance = [_Cell(1.0 / max(1, one["test_images"]))]
    for metric in metrics:
        row = scores.get("model", {}).get(metric, {})
        chance.append(_Cell(row.get("chance"), row.get("chance_low"), row.get("chance_high")))
    return _Table([RETRIEVAL, *metrics], _grouped(rows), chance)


def _in_order(names: set[str], results: Mapping[str, Any]) -> list[str]:
    """Put metrics in the order of the scorecard, retrieval first."""
    order = [RETRIEVAL, *(row["metric"] for row in _model_rows(results))]
    return [name for name in order if name in names] + sorted(names - set(order))


def _differences(results: Mapping[str, Any]) -> tuple[list[str], list[_Row]]:
    """Return metrics and rows, model minus the other, with what each difference says."""
    found = results["pooled"]["differences"]
    metrics = _in_order({metric for other in found.values() for metric in other}, results)
    kinds = {line["name"]: line["kind"] for line in results["pooled"]["lines"]}
    rows = []
    for name, other in found.items():
        cells = [
            _cell(other[metric])._replace(word=said(metric, other[metric])) if metric in other else _Cell(None)
            for metric in metrics
        ]
        rows.append(_Row(name, kinds.get(name, ""), cells))
    return metrics, [row for row in rows if any(cell.value is not None for cell in row.cells)]


def _retrieval(results: Mapping[str, Any]) -> list[tuple[str, str, Mapping[str, Any]]]:
    """Return (subject, line, row) of every retrieval score."""
    return [
        (name, line["name"], row)
        for name, one in results["subjects"].items()
        for line in one["lines"]
        for row in line["retrieval"]
    ]


def _declared(results: Mapping[str, Any]) -> tuple[list[str], list[tuple[str, Mapping[str, str]]]]:
    """Return the names of what is declared, and (line, declared): how candidates were chosen, and what was blended."""
    subjects = list(results["subjects"].values())
    rows = [(line["name"], line["declared"]) for one in subjects[:1] for line in one["lines"] if line["declared"]]
    return list(dict.fromkeys(key for _, found in rows for key in found)), rows


def _published(results: Mapping[str, Any]) -> _Published | None:
    """Return what others published on this data set, of the generation of the split that this study has."""
    data, subjects = results["data"], results["subjects"]
    if data.get("layout") not in NSD:
        return None
    sizes = {one["test_images"] for one in subjects.values()}
    split = SPLIT_OF.get(next(iter(sizes))) if len(sizes) == 1 and not data.get("phantom") else None
    if data.get("phantom"):
        note = "This study is on phantom brains: its numbers do not compare with those of the papers, which are of persons."
    elif split is None:
        note = "The test images are those of neither generation of the split: no row compares with this study."
    else:
        note = "The same generation of the split. The papers give the mean of subjects 1, 2, 5 and 7."
    splits = [split] if split else list(SPLITS)
    rows = {one: published_results(one) for one in splits}
    columns = list(dict.fromkeys(name for found in rows.values() for row in found for name in row.scores))
    groups = [
        (
            SPLITS[one],
            [
                (row.method, "; ".join(t for t in (row.source, row.note) if t), _told(columns, row.scores))
                for row in found
            ],
        )
        for one, found in rows.items()
        if found
    ]
    names = [PUBLISHED_NAMES.get(name, name) for name in columns]
    return _Published(_told(columns, _own(results)), names, groups, note, split is not None)


def _own(results: Mapping[str, Any]) -> dict[str, float]:
    """Return the model's scores under the names of the published table."""
    own = {
        name: score["mean"]
        for line in results["pooled"]["lines"]
        if line["name"] == "model"
        for name, score in line["scores"].items()
    }
    for direction, name in DIRECTIONS.items():
        values = [
            row["value"] for _, line, row in _retrieval(results) if line == "model" and row["direction"] == direction
        ]
        if values:
            own[name] = sum(values) / len(values)
    return own


def _told(columns: Sequence[str], scores: Mapping[str, float]) -> list[str]:
    """Write scores as papers do: shares in per cent."""
    return [
        "–" if name not in scores else f"{100 * scores[name]:.1f} %" if name in PER_CENT else f"{scores[name]:.3f}"
        for name in columns
    ]
