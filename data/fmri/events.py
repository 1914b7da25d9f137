"""Tables of BIDS: when which stimulus was shown, and the confounds of a run."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from .trials import SPLITS

CODES = {
    "CHI-IN-294": "A table of events, trials or confounds cannot be read, or lacks a column.",
    "CHI-IN-295": "A table of events, trials or confounds has a value that cannot be used.",
}

STIMULUS_COLUMNS = ("stim_file", "image")
MAX_BYTES = 64 << 20
_MISSING = frozenset(("", "n/a", "na", "nan"))
_SIDES = {"train": 0, "training": 0, "val": 1, "validation": 1, "valid": 1, "test": 2, "testing": 2}


@dataclass(frozen=True, eq=False, kw_only=True)
class Events:
    """Events of one run, in the order of the table.

    Parameters
    ----------
    onset_s, duration_s : ndarray, shape (n,)
        From the start of the run; NaN in tables that need not say it.
    stimulus : tuple of str
        File under ``stimuli/``; empty where the event shows none (a rest, a question).
    condition : tuple of str
        ``trial_type``, or ``trial`` and ``other`` where there is none.
    side : ndarray of int8, shape (n,)
        Index into `trials.SPLITS`; -1 where the table does not say.
    """

    onset_s: NDArray[np.float64]
    duration_s: NDArray[np.float64]
    stimulus: tuple[str, ...]
    condition: tuple[str, ...]
    side: NDArray[np.int8]

    def __len__(self) -> int:
        return len(self.stimulus)

    @property
    def shown(self) -> NDArray[np.int64]:
        """Places of the events that show a stimulus: the trials."""
        return np.array([place for place, name in enumerate(self.stimulus) if name], dtype=np.int64)


def read_events(path: Path, *, timed: bool, relative: str = "") -> Events:
    """Read ``*_events.tsv`` or ``*_trials.tsv``.

    Parameters
    ----------
    path : Path
    timed : bool
        Onsets and durations are needed.
    relative : str
        For messages.

    Raises
    ------
    InputError
        ``CHI-IN-294``, ``CHI-IN-295``.
    """
    name = relative or path.name
    columns = read_columns(path, relative=name)
    stimuli = next((columns[column] for column in STIMULUS_COLUMNS if column in columns), None)
    needed = [column for column in ("onset", "duration") if timed and column not in columns]
    if stimuli is None:
        needed.append(" or ".join(STIMULUS_COLUMNS))
    if needed or stimuli is None:
        raise InputError(
            "CHI-IN-294",
            f"the table has no column {' and no column '.join(needed)}.",
            "Write onset and duration in seconds and the file under stimuli/ as BIDS says.",
            file=name,
        )
    n = len(stimuli)
    shown = tuple("" if cell.lower() in _MISSING else cell for cell in stimuli)
    onset, duration = (_seconds(columns, what, n, name, timed=timed) for what in ("onset", "duration"))
    kinds = columns.get("trial_type", [""] * n)
    return Events(
        onset_s=onset,
        duration_s=duration,
        stimulus=shown,
        condition=tuple(
            ("trial" if stimulus else "other") if kind.lower() in _MISSING else kind
            for kind, stimulus in zip(kinds, shown, strict=True)
        ),
        side=_sides(columns.get("split"), shown, name),
    )


def read_confounds(path: Path, wanted: Sequence[str], *, relative: str = "") -> tuple[NDArray[np.float64], list[str]]:
    """Read the columns of a confounds table that fit one of the patterns.

    Parameters
    ----------
    path : Path
    wanted : sequence of str
        Names, or patterns with ``*``. A name must be there; a pattern may fit nothing.
    relative : str
        For messages.

    Returns
    -------
    values : ndarray, shape (n_scans, k)
        ``n/a`` (the first scans of derivatives) is the mean of the others.
    names : list of str

    Raises
    ------
    InputError
        ``CHI-IN-294``, ``CHI-IN-295``.
    """
    name = relative or path.name
    columns = read_columns(path, relative=name)
    missing = [pattern for pattern in wanted if "*" not in pattern and pattern not in columns]
    if missing:
        raise InputError(
            "CHI-IN-294",
            f"the table has no column {', '.join(missing)[:200]}.",
            "Name confounds that fMRIPrep wrote, or none.",
            file=name,
        )
    fits = [re.compile(re.escape(pattern).replace(r"\*", ".*")) for pattern in wanted]
    chosen = [column for column in columns if any(fit.fullmatch(column) for fit in fits)]
    values = [_confound(columns[column], name) for column in chosen]
    n_scans = len(next(iter(columns.values())))
    return (np.stack(values, axis=1) if values else np.empty((n_scans, 0))), chosen


def read_columns(path: Path, *, relative: str) -> dict[str, list[str]]:
    """Return the columns of a tab-separated table as text.

    Raises
    ------
    InputError
        ``CHI-IN-294``.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise _unreadable("is larger than 64 MiB", relative)
        text = path.read_text(encoding="utf-8-sig")
        rows = [row for row in csv.reader(text.splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE) if any(row)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise _unreadable("is missing, or is no UTF-8 text", relative) from error
    if len(rows) < 2:
        raise _unreadable("has no rows", relative)
    header = [cell.strip() for cell in rows[0]]
    if len(set(header)) != len(header) or any(len(row) != len(header) for row in rows):
        raise _unreadable("has rows of different lengths, or two columns of one name", relative)
    return {column: [row[place].strip() for row in rows[1:]] for place, column in enumerate(header)}


def repeat_numbers(image: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return how often each image came before, trials being in order."""
    order = np.argsort(image, kind="stable")
    starts = np.flatnonzero(np.diff(image[order], prepend=-1))
    found = np.empty(len(image), dtype=np.int64)
    found[order] = np.arange(len(image)) - np.repeat(starts, np.diff([*starts, len(image)]))
    return found


def _seconds(columns: Mapping[str, list[str]], what: str, n: int, name: str, *, timed: bool) -> NDArray[np.float64]:
    if not timed:
        return np.full(n, np.nan)
    values = np.array([_number(cell) for cell in columns[what]], dtype=np.float64)
    wrong = ~np.isfinite(values) | (values < 0 if what == "duration" else values < -3600)
    if wrong.any():
        raise InputError(
            "CHI-IN-295",
            f"{int(wrong.sum())} rows have no usable {what}.",
            "Write seconds as a number; durations are 0 or more.",
            file=name,
        )
    return values


def _number(cell: str) -> float:
    try:
        return float(cell)
    except ValueError:
        return math.nan


def _confound(cells: Sequence[str], name: str) -> NDArray[np.float64]:
    missing = np.array([cell.lower() in _MISSING for cell in cells])
    values = np.array([_number(cell) for cell in cells], dtype=np.float64)
    if missing.all() or not np.isfinite(values[~missing]).all():
        raise InputError(
            "CHI-IN-295", "a confound has values that are no numbers.", "Run fMRIPrep again for this run.", file=name
        )
    values[missing] = values[~missing].mean()
    return values


def _sides(cells: Sequence[str] | None, shown: Sequence[str], name: str) -> NDArray[np.int8]:
    if cells is None:
        return np.full(len(shown), -1, dtype=np.int8)
    unknown = sum(bool(stimulus) and cell.lower() not in _SIDES for cell, stimulus in zip(cells, shown, strict=True))
    if unknown:
        raise InputError(
            "CHI-IN-295",
            f"{unknown} trials have a split that is none of {', '.join(SPLITS)}.",
            "Fill the column split for every trial, or leave it out.",
            file=name,
        )
    return np.array([_SIDES.get(cell.lower(), -1) for cell in cells], dtype=np.int8)


def _unreadable(problem: str, relative: str) -> InputError:
    return InputError("CHI-IN-294", f"the table {problem}.", "Save it again as tab-separated text.", file=relative)
