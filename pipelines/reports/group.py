"""The page of a whole run: failures first, distributions of what was measured, every patient in a table that sorts."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ...data.atomic import write_text
from .columns import Column, column_of, in_order, is_number
from .pages import nonce_of, render
from .patient import RESEARCH_USE
from .plots import Distribution, distribution


@dataclass(frozen=True, kw_only=True)
class GroupRow:
    """One patient in the table.

    Parameters
    ----------
    key : str
    href : str
        The patient's page relative to the group page; empty where there is none.
    status : {'done', 'failed'}
    code, message, remedy : str
        Why it failed; empty when done.
    values : mapping of str to float, str or None
        Results by their names in the table; `columns.column_of` says what a name means (``..._ml`` is a volume, ``p_AD`` a probability).
    flags : sequence of str
        Warnings, in words.
    """

    key: str
    href: str = ""
    status: Literal["done", "failed"] = "done"
    code: str = ""
    message: str = ""
    remedy: str = ""
    values: Mapping[str, float | str | None] = field(default_factory=dict)
    flags: Sequence[str] = ()


@dataclass(frozen=True)
class _Cause:
    """Patients that failed for one reason."""

    code: str
    remedy: str
    rows: Sequence[GroupRow]


def write_group_page(
    path: Path,
    rows: Sequence[GroupRow],
    title: str,
    *,
    columns: Sequence[str] | None = None,
    notices: Sequence[str] = (),
    methods: str = "",
    citations: Sequence[str] = (),
    provenance: Mapping[str, Any] | None = None,
) -> list[Path]:
    """Write the group page.

    Parameters
    ----------
    path : Path
    rows : sequence of GroupRow
        In any order: the page lists failures first, then warnings, each by key (``sub-2`` before ``sub-10``).
    title : str
        What was done.
    columns : sequence of str, optional
        Names of results and their order (default: answers first, else as they first appear in `rows`).
    notices, methods, citations, provenance
        As in `PatientReport`, for the whole run.

    Returns
    -------
    list of Path
        The page.

    Raises
    ------
    ResourceError
        The disk is full or may not be written.
    """
    ordered = sorted(rows, key=_rank)
    names = (
        list(columns) if columns is not None else in_order(dict.fromkeys(name for row in rows for name in row.values))
    )
    known = [column_of(name, (row.values.get(name) for row in ordered)) for name in names]
    plots = _plots(ordered, known)
    nonce = nonce_of([title, repr(names), repr(ordered), repr((notices, methods, citations, provenance))])
    page = render(
        "group.html",
        nonce,
        title=title,
        rows=ordered,
        columns=known,
        counts=_counts(ordered),
        causes=_causes(ordered),
        plots=plots,
        quantity="Volumes" if all(column.unit == "ml" for column, _ in plots) else "Distributions",
        notices=notices,
        paragraphs=[p.strip() for p in re.split(r"\n\s*\n", methods) if p.strip()],
        citations=citations,
        provenance_tree=provenance or {},
        research_use=RESEARCH_USE,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, page)
    return [path]


def natural(text: str) -> tuple[tuple[int, int, str], ...]:
    """Return a sort key that reads runs of digits as numbers."""
    parts = re.findall(r"[0-9]+|[^0-9]+", text)
    return tuple((0, int(part), "") if part.isdigit() and part.isascii() else (1, 0, part.casefold()) for part in parts)


def _rank(row: GroupRow) -> tuple[int, tuple[tuple[int, int, str], ...], str]:
    return 0 if row.status == "failed" else 1 if row.flags else 2, natural(row.key), row.key


def _counts(rows: Sequence[GroupRow]) -> dict[str, int]:
    failed = sum(row.status == "failed" for row in rows)
    flagged = sum(row.status == "done" and bool(row.flags) for row in rows)
    return {"all": len(rows), "failed": failed, "flagged": flagged, "done": len(rows) - failed}


def _causes(rows: Sequence[GroupRow]) -> list[_Cause]:
    """Group failures by code and remedy, the most frequent first."""
    groups: dict[tuple[str, str], list[GroupRow]] = {}
    for row in rows:
        if row.status == "failed":
            groups.setdefault((row.code, row.remedy), []).append(row)
    causes = [_Cause(code, remedy, members) for (code, remedy), members in groups.items()]
    return sorted(causes, key=lambda cause: (-len(cause.rows), cause.code, cause.remedy))


def _plots(rows: Sequence[GroupRow], columns: Sequence[Column]) -> list[tuple[Column, Distribution]]:
    plots = []
    for column in columns:
        if column.text:
            continue
        values = ((row.key, row.values.get(column.name), row.href) for row in rows if row.status == "done")
        numbers = [(key, float(value), href) for key, value, href in values if value is not None and is_number(value)]
        plot = distribution(column.heading, numbers, show=column.show_with_unit)
        if plot is not None:
            plots.append((column, plot))
    return plots
