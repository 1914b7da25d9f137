"""``trials.tsv`` of a plain folder: a line a trial, every mistake told with its line."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ...errors import ChiasmError, InputError, SeveralErrors, did_you_mean
from ...fmri.trials import SPLITS, TRAIN, Trials

CODES: dict[str, str] = {"CHI-IN-272": "A table of trials is missing or unreadable, or a line of it is wrong."}
NAME = "trials.tsv"
_COLUMNS = ("trial", "row", "image", "session", "repeat", "split", "category", "subject")
_MAX_BYTES = 64 << 20
_MISSING = frozenset(("", "n/a", "N/A"))
_SIDES = {name: number for number, name in enumerate(SPLITS)} | {"validation": 1}
_NUMBER = re.compile(r"\d{1,9}")


@dataclass(frozen=True, kw_only=True)
class TrialTable:
    """Lines of a table, as text; None where a column or a value is missing.

    Parameters
    ----------
    relative : str
    lines, rows, images, sessions, repeats, splits, categories : list
        A value a line.
    """

    relative: str
    lines: list[int] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    images: list[str] = field(default_factory=list)
    sessions: list[int] = field(default_factory=list)
    repeats: list[int | None] = field(default_factory=list)
    splits: list[int | None] = field(default_factory=list)
    categories: list[str | None] = field(default_factory=list)

    def trials(self, numbers: Mapping[str, int]) -> Trials:
        """Return the trials, in the order of the betas' rows.

        Parameters
        ----------
        numbers : mapping of str to int
            Image as the table writes it -> number of the stimulus; others must have been refused before.
        """
        order = sorted(range(len(self.rows)), key=lambda line: (self.sessions[line], self.rows[line]))
        seen: dict[int, int] = {}
        repeats = []
        for line in order:
            image, given = numbers[self.images[line]], self.repeats[line]
            repeats.append(seen.get(image, 0) if given is None else given)
            seen[image] = seen.get(image, 0) + 1
        return Trials(
            row=np.array([self.rows[line] for line in order], dtype=np.int64),
            image=np.array([numbers[self.images[line]] for line in order], dtype=np.int64),
            session=np.array([self.sessions[line] for line in order], dtype=np.int64),
            repeat=np.array(repeats, dtype=np.int64),
            split=np.array(
                [TRAIN if self.splits[line] is None else self.splits[line] for line in order], dtype=np.int8
            ),
        )


class Mistakes:
    """Mistakes of one table with their lines, raised together.

    Parameters
    ----------
    relative : str
        The table, for messages.
    """

    def __init__(self, relative: str) -> None:
        self.relative, self.found = relative, list[ChiasmError]()

    def add(self, line: int, what: str, remedy: str = "") -> None:
        """Note a mistake."""
        self.found.append(InputError("CHI-IN-272", f"line {line}: {what}.", remedy, file=self.relative))

    def raise_all(self) -> None:
        """Raise what was noted."""
        if self.found:
            raise self.found[0] if len(self.found) == 1 else SeveralErrors(self.found)


def read_table(path: Path, label: str, n_rows: int, relative: str) -> TrialTable:
    """Read a table of trials.

    Columns: ``image`` (a file name or a number from 0); ``row`` or ``trial`` (row of the betas, from 0; without either, the lines
    are the rows); ``session`` (from 1), ``repeat`` (from 0), ``split`` (train, val, test), ``category``, ``subject``, each optional.

    Parameters
    ----------
    path : Path
    label : str
        Of the subject, which a column ``subject`` must not contradict.
    n_rows : int
        Rows of the betas.
    relative : str
        For messages.

    Raises
    ------
    InputError, SeveralErrors
        ``CHI-IN-272``.
    """
    lines = _lines(path, relative)
    header = [name.strip() for name in lines[0]]
    where = {name: header.index(name) for name in _COLUMNS if name in header}
    if "image" not in where or len(set(header)) < len(header):
        hint = did_you_mean("image", header)
        raise refused(f"its header has no column 'image', or one twice ({', '.join(header)[:100]}).{hint}", relative)
    row_column = next((name for name in ("row", "trial") if name in where), None)
    table, mistakes = TrialTable(relative=relative), Mistakes(relative)
    for number, line in enumerate(lines[1:], 2):
        if not any(cell.strip() for cell in line):
            continue
        if len(line) != len(header):
            mistakes.add(number, f"it has {len(line)} columns and the header {len(header)}", "Separate them with tabs.")
            continue
        values = {name: line[place].strip() for name, place in where.items()}
        present = {name: value for name, value in values.items() if value not in _MISSING}
        row = present.get(row_column, "") if row_column else str(len(table.rows))
        _add(table, present, row, mistakes, number)
        subject = present.get("subject", "")
        if subject and subject.removeprefix("sub-").lstrip("0") != label.lstrip("0"):
            mistakes.add(
                number, f"it belongs to subject {subject[:20]}, and the folder to {label}", "Give each its own."
            )
    _check_rows(table, n_rows, mistakes, counted=row_column is None)
    mistakes.raise_all()
    return table


def image_numbers(table: TrialTable, names: Sequence[str], suffixes: Mapping[str, str] | None = None) -> dict[str, int]:
    """Return the number of each image as the table writes it: by file name, by name without its ending, or by number.

    A number counts from 0, but where all names are numbers themselves (``001``): then it is one of those.

    Parameters
    ----------
    table : TrialTable
    names : sequence of str
        Of the stimuli.
    suffixes : mapping of str to str, optional
        File name -> name, for stimuli that are files.

    Raises
    ------
    InputError, SeveralErrors
        ``CHI-IN-272``.
    """
    place = {name: number for number, name in enumerate(names)}
    place |= {file: place[name] for file, name in (suffixes or {}).items()}
    by_value = {int(name): i for i, name in enumerate(names) if _NUMBER.fullmatch(name)}
    if len(by_value) < len(names):
        by_value = {number: number for number in range(len(names))}
    found: dict[str, int] = {}
    mistakes = Mistakes(table.relative)
    for line, image in zip(table.lines, table.images, strict=True):
        if image in found:
            continue
        if image in place:
            found[image] = place[image]
        elif _NUMBER.fullmatch(image) and int(image) in by_value:
            found[image] = by_value[int(image)]
        else:
            counts = f" ({min(by_value)} to {max(by_value)})" if image.isdecimal() else ""
            mistakes.add(
                line,
                f"there is no stimulus '{image[:60]}' among {len(names)}{counts}",
                "" if image.isdecimal() else did_you_mean(image, list(place)),  # the range says it already
            )
    mistakes.raise_all()
    return found


def refused(problem: str, relative: str) -> InputError:
    """Return the error for a table as a whole."""
    return InputError(
        "CHI-IN-272",
        f"the table of trials cannot be used: {problem}.",
        "Write it with tabs, a header and a line a trial.",
        file=relative,
    )


def _lines(path: Path, relative: str) -> list[list[str]]:
    try:
        if not path.is_file():
            raise refused("it is missing", relative)
        if path.stat().st_size > _MAX_BYTES:
            raise refused("it is larger than 64 MiB", relative)
        with path.open(encoding="utf-8-sig", newline="") as stream:
            lines = list(csv.reader(stream, delimiter="\t", quoting=csv.QUOTE_NONE))
    except (OSError, UnicodeError, csv.Error) as error:
        raise refused("it is not text in UTF-8", relative) from error
    if len(lines) < 2:
        raise refused("it has no line below its header", relative)
    return lines


def _add(table: TrialTable, present: Mapping[str, str], row: str, mistakes: Mistakes, line: int) -> None:
    """Append a line; a wrong value is noted, and any number in its place keeps the columns of one length."""

    def number(value: str, name: str, least: int) -> int:
        if not _NUMBER.fullmatch(value) or int(value) < least:
            mistakes.add(line, f"{name} is '{value[:20]}', and a whole number from {least} is needed")
            return least
        return int(value)

    if "image" not in present:
        mistakes.add(line, "it names no image")
    split = present.get("split")
    if split is not None and split not in _SIDES:
        mistakes.add(
            line, f"split is '{split[:20]}', which is not train, val or test", did_you_mean(split, list(_SIDES))
        )
    table.lines.append(line)
    table.rows.append(number(row, "row", 0))
    table.images.append(present.get("image", ""))
    table.sessions.append(number(present.get("session", "1"), "session", 1))
    table.repeats.append(number(present["repeat"], "repeat", 0) if "repeat" in present else None)
    table.splits.append(_SIDES.get(split) if split is not None else None)
    table.categories.append(present.get("category"))


def _check_rows(table: TrialTable, n_rows: int, mistakes: Mistakes, *, counted: bool) -> None:
    if mistakes.found:
        return
    first: dict[int, int] = {}
    for line, row in zip(table.lines, table.rows, strict=True):
        if row >= n_rows:
            hint = "Rows count from 0." if min(table.rows) == 1 else ""
            mistakes.add(line, f"row {row} is asked for, and the betas have {n_rows} rows", hint)
        elif first.setdefault(row, line) != line:
            mistakes.add(line, f"row {row} is taken already, by line {first[row]}")
    if counted and len(table.rows) != n_rows:
        raise refused(
            f"it has {len(table.rows)} lines without row numbers, and the betas have {n_rows} rows", table.relative
        )
    given = sum(split is not None for split in table.splits)
    if 0 < given < len(table.splits):
        raise refused(f"{len(table.splits) - given} line(s) have no split, and the others have", table.relative)
