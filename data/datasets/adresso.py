"""ADReSSo-2021: ``diagnosis/{train,test-dist}/{audio,segmentation}[/{ad,cn}]``, labels and scores in csv files; no transcripts.

Source: Luz, Haider, de la Fuente, Fromm, MacWhinney: Detecting Cognitive Decline Using Speech Only: The ADReSSo Challenge,
Interspeech 2021.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..chat import read_text
from ..containment import contained, entries
from ..errors import InputError
from ..interviews import Interview, InterviewSet
from ..speech_files import is_folder
from ..transcripts import Speaker, Turn
from .interview_media import Part, files_by_name, finished, interviews_of, note_absent, parts_below, subfolders
from .interview_tables import Findings, canonical_label, tables

_SPEAKERS: Mapping[str, Speaker] = {
    **dict.fromkeys(("par", "participant", "patient", "subject"), "participant"),
    **dict.fromkeys(("inv", "investigator", "interviewer", "examiner"), "investigator"),
}
_SPEAKER, _BEGIN, _END = ("speaker",), ("begin", "start", "onset"), ("end", "stop", "offset")


def is_adresso(root: Path) -> bool:
    """Whether `root`, or a folder at most three levels below, has ``audio`` beside ``segmentation``, or with ``ad`` and ``cn``."""
    return bool(_parts(root))


def _parts(root: Path) -> list[Path]:
    return parts_below(root, _recognised, depth=3)


def _recognised(folders: Mapping[str, Path]) -> bool:
    if "audio" not in folders:
        return False
    groups = {entry.name.lower() for entry in entries(folders["audio"]) if is_folder(entry)}
    return "segmentation" in folders or groups >= {"ad", "cn"} or groups >= {"decline", "no_decline"}


def interviews(root: Path) -> InterviewSet:
    """Return the interviews of the diagnosis task; those of the progression task have other labels and are left out.

    Raises
    ------
    InputError, SeveralErrors
        ``CHI-IN-171`` to ``CHI-IN-178``.
    """
    findings = Findings()
    found: list[Interview] = []
    names: set[str] = set()
    for place in _parts(root):
        part = Part.at(place, root)
        if "progression" in {
            folder.name.lower() for folder in (place, *place.parents[: len(place.relative_to(root).parts)])
        }:
            findings.notes.append(f"{part.name}: the progression task is not read.")
            continue
        folders = subfolders(part, findings)
        described = tables(part.table_folders(), root, findings)
        names.update(described)
        found += interviews_of(
            part,
            findings,
            described=described,
            audio=files_by_name(folders.get("audio"), part, findings),
            transcripts=files_by_name(
                folders.get("transcripts") or folders.get("transcription"), part, findings, transcripts=True
            ),
            segments=_segment_files(folders.get("segmentation"), root),
        )
    note_absent(names, found, findings)
    return finished("adresso", root, found, findings)


def _segment_files(folder: Path | None, root: Path) -> dict[str, tuple[Path, str | None]]:
    if folder is None:
        return {}
    files = [path for path in sorted(folder.rglob("*.csv")) if path.is_file() and contained(path, root) is None]
    return {path.stem: (path, canonical_label(path.parent.name) if path.parent != folder else None) for path in files}


def read_segments(path: Path, *, relative: str = "") -> tuple[Turn, ...]:
    """Read who speaks when: a csv with the columns ``speaker`` (PAR, INV), ``begin`` and ``end`` (milliseconds).

    Returns
    -------
    tuple of Turn
        Sorted by start, in seconds; stretches without length are left out.

    Raises
    ------
    InputError
        ``CHI-IN-160``, ``CHI-IN-177``.
    """
    name = relative or path.name
    lines = [line for line in read_text(path, name).split("\n") if line.strip()]
    delimiter = max(",;\t", key=lines[0].count) if lines else ","
    try:
        header, *rows = [[cell.strip() for cell in row] for row in csv.reader(lines, delimiter=delimiter)] or [[]]
    except csv.Error:
        header, rows = [], []
    columns = [_column(header, names) for names in (_SPEAKER, _BEGIN, _END)]
    speaker, begin, end = (-1 if place is None else place for place in columns)
    if min(speaker, begin, end) < 0:
        raise InputError(
            "CHI-IN-177",
            f"The table of who speaks lacks a column ({len(header)} columns in its first line).",
            "It has the columns speaker, begin and end; times are in milliseconds.",
            file=name,
        )
    turns = []
    for number, row in enumerate(rows, start=2):
        padded = [*row, *[""] * len(header)]
        start_s, end_s = (_seconds(padded[place], number, name) for place in (begin, end))
        if end_s > start_s:
            turns.append(Turn(speaker=_SPEAKERS.get(padded[speaker].lower(), "other"), start_s=start_s, end_s=end_s))
    return tuple(sorted(turns, key=lambda turn: (turn.start_s, turn.end_s)))


def _column(header: Sequence[str], names: Sequence[str]) -> int | None:
    """Return the column named so, with or without a unit or ``_time`` behind it."""
    lowered = [cell.lower() for cell in header]
    for name in names:
        for place, cell in enumerate(lowered):
            if cell.startswith(name) and cell[len(name) :].strip(" _()[]") in {"", "ms", "time", "time_ms"}:
                return place
    return None


def _seconds(text: str, number: int, name: str) -> float:
    try:
        seconds = float(text) / 1000
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < 1e7:
        raise InputError(
            "CHI-IN-177", f"line {number} has a time that is no number of milliseconds.", "Correct the line.", file=name
        )
    return seconds
