"""Tables that say who was recorded: found by their columns, padded or not, in the many spellings of labels and sexes."""

from __future__ import annotations

import csv
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..chat import read_text
from ..containment import entries, inside
from ..errors import ChiasmError, InputError
from ..interviews import Sex, Split
from ..speech_files import relative_to

CODES: dict[str, str] = {
    "CHI-IN-170": "The folder is in none of the known layouts of interviews.",
    "CHI-IN-171": "Labels of a data set are none of the known words.",
    "CHI-IN-172": "An interview is there twice.",
    "CHI-IN-173": "Two places say different things about one interview.",
    "CHI-IN-174": "A data set of interviews is empty.",
    "CHI-IN-175": "A table of a data set of interviews cannot be read.",
    "CHI-IN-176": "A table of a data set has an age, a sex, a score or a split that is none.",
    "CHI-IN-177": "A table of who speaks when cannot be used.",
    "CHI-IN-178": "One interview has several recordings or transcripts and no rule chooses.",
}

LABELS: Mapping[str, tuple[str, ...]] = {
    "CN": (
        *(
            "cn",
            "cc",
            "control",
            "controls",
            "hc",
            "nc",
            "nci",
            "healthy",
            "healthycontrol",
            "healthycontrols",
            "normal",
        ),
        *("normalcontrol", "cognitivelynormal", "cognitivelyhealthy", "nonad", "nodementia"),
    ),
    "MCI": ("mci", "amci", "mildcognitiveimpairment"),
    "AD": (
        *("ad", "cd", "dementia", "demented", "probablead", "possiblead", "probable", "alzheimer", "alzheimers"),
        *("alzheimersdisease", "alzheimerdisease", "alzheimersdementia", "alzheimerdementia", "dat", "dementiaad"),
    ),
}
"""Canonical labels and the words for them, without case, blanks and signs."""

_CANONICAL = {word: label for label, words in LABELS.items() for word in words}
_NUMBERS = {"0": "CN", "1": "AD"}
_MISSING = frozenset(("", "na", "n/a", "nan", "none", "null", "-", "?", "unknown", "."))
_SEXES: dict[str, Sex] = {"male": "male", "m": "male", "0": "male", "female": "female", "f": "female", "1": "female"}
_SPLITS: dict[str, Split] = {"train": "train", "training": "train", "test": "test", "testing": "test"}
_SUFFIXES = (".txt", ".csv", ".tsv")
_COLUMNS: Mapping[str, tuple[str, ...]] = {
    "name": (
        "id",
        "participant_id",
        "adressfname",
        "addressfname",
        "filename",
        "file",
        "subject_id",
        "subject",
        "name",
    ),
    "label": ("label", "dx", "diagnosis", "group", "class"),
    "age": ("age", "age_years"),
    "sex": ("gender", "sex"),
    "mmse": ("mmse", "mmse_score"),
    "split": ("split", "set", "partition"),
}
_MEDIA_ENDING = re.compile(r"\.(wav|mp3|cha|flac|m4a|csv|txt)$", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Description:
    """What tables say of one recording or person; None where they say nothing."""

    name: str
    label: str | None = None
    age: float | None = None
    sex: Sex | None = None
    mmse: float | None = None
    split: Split = ""


@dataclass
class Findings:
    """What is wrong with a data set, and what its reader should know."""

    errors: list[ChiasmError] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def wrong(self, code: str, message: str, remedy: str, *, file: str = "") -> None:
        """Add a mistake."""
        self.errors.append(InputError(code, message, remedy, file=file))


def canonical_label(text: str, *, numbers: bool = False) -> str | None:
    """Return ``CN``, ``MCI`` or ``AD``; None for a word that means none of them.

    Parameters
    ----------
    text : str
    numbers : bool
        Take 0 for CN and 1 for AD, as ADReSS-IS2020 does.
    """
    word = re.sub(r"[^a-z0-9]", "", text.lower())
    return _CANONICAL.get(word) or (_NUMBERS.get(word) if numbers else None)


def read_rows(path: Path, relative: str) -> tuple[dict[str, int], list[list[str]]]:
    """Return the columns that are known (place by name) and the rows of a table; names and values without padding.

    Raises
    ------
    InputError
        ``CHI-IN-160``, ``CHI-IN-175``.
    """
    lines = [line for line in read_text(path, relative).split("\n") if line.strip()]
    if not lines:
        return {}, []
    delimiter = max(";\t,", key=lines[0].count)
    try:
        header, *rows = [[cell.strip() for cell in row] for row in csv.reader(lines, delimiter=delimiter)]
    except csv.Error:
        raise InputError(
            "CHI-IN-175", "The table is damaged: a field is too long.", "Save it again as text.", file=relative
        ) from None
    names = [cell.lower() for cell in header]
    columns = {
        what: place
        for what, spellings in _COLUMNS.items()
        if (place := next((names.index(word) for word in spellings if word in names), None)) is not None
    }
    return columns, rows


def tables(folders: Iterable[Path], root: Path, findings: Findings) -> dict[str, Description]:
    """Read every table in these folders that has names and says something of them; rows of one name are put together.

    Parameters
    ----------
    folders : iterable of Path
        Each is looked at itself, not below.
    root : Path
        Resolved; for links and messages.
    findings : Findings
        Mistakes are added here, one a kind and file, with the number of rows.

    Returns
    -------
    dict of str to Description
        By name as written, without the ending of a media file.
    """
    found: dict[str, list[Description]] = {}
    for folder in dict.fromkeys(folders):
        for entry in entries(folder):
            path = Path(entry.path)
            if path.suffix.lower() not in _SUFFIXES:
                continue
            trouble = inside(entry, root)
            if trouble is not None:
                findings.errors.append(trouble)  # labels that silently are not there would be worse
                continue
            if not entry.is_file():
                continue
            try:
                rows = read_table(path, root, findings, numbers=True)
            except InputError:
                continue  # features, a document: whatever it is, it is no table of persons
            for description in rows:
                found.setdefault(description.name, []).append(description)
    return {name: _together(several, findings) for name, several in found.items()}


def read_table(path: Path, root: Path, findings: Findings, *, numbers: bool) -> list[Description]:
    """Return the rows of one table; none where it has no names or says nothing of them (a form, a list of predictions).

    Raises
    ------
    InputError
        ``CHI-IN-160``, ``CHI-IN-175``: it is no readable text.
    """
    relative = relative_to(path, root)
    columns, rows = read_rows(path, relative)
    if "name" not in columns or not columns.keys() & {"label", "age", "sex", "mmse"}:
        return []
    # Of two tables with the same columns ADReSS-IS2020 says only by their names which group they describe.
    group = re.match(r"(cc|cd)[-_ ]", path.name.lower())
    counted: Counter[str] = Counter()
    described = [_describe(row, columns, counted, numbers=numbers) for row in rows]
    _report(counted, relative, findings)
    kept = [
        row if row.label or not group else replace(row, label=_CANONICAL[group[1]]) for row in described if row.name
    ]
    doubled = sum(n > 1 for n in Counter(row.name for row in kept).values())
    if doubled:
        findings.wrong(
            "CHI-IN-172", f"{doubled} names stand in more than one row.", "Give each recording one row.", file=relative
        )
    return kept


def _describe(row: Sequence[str], columns: Mapping[str, int], counted: Counter[str], *, numbers: bool) -> Description:
    def value(what: str) -> str | None:
        place = columns.get(what, len(row))
        text = row[place] if place < len(row) else ""
        return None if text.lower() in _MISSING else text

    label, sex, split = value("label"), value("sex"), value("split")
    described = Description(
        name=_MEDIA_ENDING.sub("", value("name") or ""),
        label=canonical_label(label, numbers=numbers) if label else None,
        age=_number(value("age"), "age", 130, counted),
        sex=_SEXES.get(sex.lower()) if sex else None,
        mmse=_number(value("mmse"), "mmse", 30, counted),
        split=_SPLITS.get(split.lower(), "") if split else "",
    )
    for what, text, known in (
        ("label", label, described.label),
        ("sex", sex, described.sex),
        ("split", split, described.split),
    ):
        counted[what] += bool(text) and not known
    return described


def _number(text: str | None, what: str, most: float, counted: Counter[str]) -> float | None:
    if text is None:
        return None
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if 0 <= number <= most:
        return number
    counted[what] += 1
    return None


def _report(counted: Mapping[str, int], relative: str, findings: Findings) -> None:
    allowed = {
        "age": "Ages are 0 to 130 years, or NA.",
        "sex": "Write male or female (or 0 for male and 1 for female), or NA.",
        "mmse": "MMSE scores are 0 to 30, or NA.",
        "split": "Write train or test, or NA.",
    }
    if counted["label"]:
        unknown_labels(counted["label"], relative, findings)
    for what, remedy in allowed.items():
        if counted[what]:
            message = f"{counted[what]} row(s) have an unusable value in the column for {what}."
            findings.wrong("CHI-IN-176", message, remedy, file=relative)


def unknown_labels(n: int, relative: str, findings: Findings) -> None:
    """Add the error for `n` labels that mean nothing here; the words themselves are not shown."""
    words = "; ".join(f"{label}: {', '.join(spellings[:5])}" for label, spellings in LABELS.items())
    findings.wrong(
        "CHI-IN-171", f"{n} row(s) have a label that is none of the known words.", f"Known are {words}.", file=relative
    )


def _together(several: Sequence[Description], findings: Findings) -> Description:
    """Put the rows of one name together, from several tables; None gives way, contradictions are mistakes."""
    merged = several[0]
    for what in ("label", "age", "sex", "mmse", "split"):
        values = list(dict.fromkeys(value for row in several if (value := getattr(row, what)) not in (None, "")))
        if len(values) > 1:
            findings.wrong(
                "CHI-IN-173",
                f"Tables disagree about the {what} of a recording.",
                "Keep the table that is right, and remove the other from the folder.",
            )
        if values:
            merged = replace(merged, **{what: values[0]})
    return merged


def agreed(from_folder: str | None, description: Description | None) -> tuple[str | None, bool]:
    """Return the label that folder and table say, and whether they agree where both say one."""
    from_table = description.label if description else None
    return from_folder or from_table, not (from_folder and from_table and from_folder != from_table)
