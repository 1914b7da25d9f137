"""``participants.tsv`` with a diagnosis, and a folder a person: the layout for one's own data (BIDS names allowed)."""

from __future__ import annotations

import os
from pathlib import Path

from ..containment import IGNORED, entries, inside
from ..errors import InputError
from ..interviews import Interview, InterviewSet
from ..recognition import clean_label
from ..speech_files import SpeechFiles, best_transcripts, case_of, is_folder, relative_to, speech_files
from .interview_media import finished
from .interview_tables import Description, Findings, read_rows, read_table

NAMES = ("participants.tsv", "participants.csv")


def _table(root: Path) -> Path | None:
    return next((path for name in NAMES if (path := root / name).is_file()), None)


def is_participants(root: Path) -> bool:
    """Whether `root` has a table of participants with a column for the diagnosis."""
    table = _table(root)
    if table is None:
        return False
    try:
        columns, _ = read_rows(table, table.name)
    except InputError:
        return True  # reading it says why
    return {"name", "label"} <= columns.keys()


def interviews(root: Path) -> InterviewSet:
    """Return the interviews of the persons in the table; a ``ses-*`` folder is an interview of its own.

    Raises
    ------
    InputError, SeveralErrors
        ``CHI-IN-171`` to ``CHI-IN-178``.
    """
    findings = Findings()
    table = _table(root)
    rows = read_table(table, root, findings, numbers=False) if table else []
    folders: dict[str, list[os.DirEntry[str]]] = {}
    for entry in entries(root):
        if is_folder(entry) and entry.name not in IGNORED:
            folders.setdefault(clean_label(entry.name), []).append(entry)
    loose = speech_files(root, root, depth=0)
    found: list[Interview] = []
    for row in rows:
        label = clean_label(row.name)
        files = SpeechFiles(
            audio=[path for path in loose.audio if clean_label(case_of(path)[0]) == label],
            transcripts=[path for path in loose.transcripts if clean_label(case_of(path)[0]) == label],
        )
        for entry in folders.get(label, ()):
            trouble = inside(entry, root)
            files.add(speech_files(Path(entry.path), root) if trouble is None else SpeechFiles(problems=[trouble]))
        findings.errors += files.problems
        found += _person(row, files, root, findings)
    known = {clean_label(row.name) for row in rows}
    others = [entry for name, same in folders.items() if name not in known for entry in same]
    unlisted = sum(inside(e, root) is None and not speech_files(Path(e.path), root).empty for e in others)
    without = len(known) - len({interview.person for interview in found})
    if unlisted:
        findings.notes.append(
            f"{unlisted} folder(s) of persons who are not in {table.name if table else ''} are left out."
        )
    if without:
        findings.notes.append(f"{without} person(s) of the table have no recording and no transcript.")
    return finished("participants", root, found, findings)


def _person(row: Description, files: SpeechFiles, root: Path, findings: Findings) -> list[Interview]:
    sessions: dict[str, SpeechFiles] = {}
    for path in files.audio:
        sessions.setdefault(_session(path, root), SpeechFiles()).audio.append(path)
    for path in best_transcripts(files.transcripts):
        sessions.setdefault(_session(path, root), SpeechFiles()).transcripts.append(path)
    person = clean_label(row.name)
    found = []
    for session, one in sorted(sessions.items()):
        if len(one.audio) > 1 or len(one.transcripts) > 1:
            findings.wrong(
                "CHI-IN-178",
                f"One interview has {len(one.audio)} recordings and {len(one.transcripts)} transcripts.",
                "Keep one recording and one transcript in a person's folder, or give each visit a folder ses-<label>.",
                file=relative_to((one.audio or one.transcripts)[0].parent, root),
            )
            continue
        found.append(
            Interview(
                name=f"{person}ses{session}" if session else person,
                person=person,
                label=row.label,
                audio=one.audio[0] if one.audio else None,
                transcript=one.transcripts[0] if one.transcripts else None,
                split=row.split,
                age=row.age,
                sex=row.sex,
                mmse=row.mmse,
            )
        )
    return found


def _session(path: Path, root: Path) -> str:
    """Return the session that the folders, or else the file's name, say."""
    folders = [part for part in path.relative_to(root).parts[:-1] if part.lower().startswith("ses-")]
    return clean_label(folders[0]) if folders else case_of(path)[1]
