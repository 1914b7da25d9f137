"""The Pitt corpus: ``{Control,Dementia}/cookie/<person>-<visit>.cha`` and its recordings; several visits a person.

Source: Becker, Boller, Lopez, Saxton, McGonigle: The natural history of Alzheimer's disease, Archives of Neurology 51, 1994;
DementiaBank.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from ..chat import ChatHeader, chat_header
from ..errors import InputError
from ..interviews import Interview, InterviewSet
from ..speech_files import relative_to
from .interview_media import FilesByName, Part, files_by_name, finished, parts_below, subfolders
from .interview_tables import Findings, canonical_label

_NAME = re.compile(r"(?P<person>[0-9]{1,9})-(?P<visit>[A-Za-z0-9]{1,9})")
_GROUPS = {"control": "CN", "dementia": "AD"}
TASK = "cookie"


def is_pitt(root: Path) -> bool:
    """Whether `root`, or a folder of it, has the folders ``Control`` and ``Dementia``."""
    return bool(_places(root))


def _places(root: Path) -> list[Path]:
    return parts_below(root, lambda folders: folders.keys() >= _GROUPS.keys(), depth=1)


def interviews(root: Path) -> InterviewSet:
    """Return the picture descriptions; other tasks are left out where ``cookie`` has a folder of its own.

    The label is the header's where it says one (``MCI``), else the folder's. Where the header says another disease, or
    contradicts the folder, there is no label and a note.

    Raises
    ------
    InputError, SeveralErrors
        ``CHI-IN-172``, ``CHI-IN-174``.
    """
    findings = Findings()
    found: list[Interview] = []
    counted: Counter[str] = Counter()
    for place in _places(root):
        part = Part.at(place, root)
        folders = subfolders(part, findings)
        for group, label in _GROUPS.items():
            folder = folders.get(group, place / group)
            tasks = [path for path in sorted(folder.rglob("*")) if path.name.lower() == TASK and path.is_dir()]
            audio: dict[str, tuple[Path, str | None]] = {}
            transcripts: dict[str, tuple[Path, str | None]] = {}
            for task in tasks or [folder]:
                audio |= files_by_name(task, part, findings)
                transcripts |= files_by_name(task, part, findings, transcripts=True)
            found += _group(part, label, audio, transcripts, counted)
    findings.notes += [f"{n} {what}" for what, n in sorted(counted.items()) if n]
    return finished("pitt", root, found, findings)


def _group(
    part: Part, folder_label: str, audio: FilesByName, transcripts: FilesByName, counted: Counter[str]
) -> list[Interview]:
    found = []
    for stem in sorted({*audio, *transcripts}):
        match = _NAME.fullmatch(stem)
        if match is None:
            counted["file(s) left out: not named <person>-<visit>"] += 1
            continue
        transcript = transcripts[stem][0] if stem in transcripts else None
        header = _header(transcript, part.root, counted) if transcript else None
        counted["interview(s) without audio"] += stem not in audio
        counted["interview(s) without transcript"] += transcript is None
        found.append(
            Interview(
                name=f"{match['person']}v{match['visit']}",
                person=match["person"],
                label=_label(folder_label, header, counted),
                audio=audio[stem][0] if stem in audio else None,
                transcript=transcript,
                age=header.age_years if header else None,
                sex=header.sex if header else None,
                mmse=header.mmse if header else None,
            )
        )
    return found


def _header(path: Path, root: Path, counted: Counter[str]) -> ChatHeader | None:
    try:
        return chat_header(path, relative=relative_to(path, root))
    except InputError:  # the reader of the transcript says what is wrong with it
        counted["transcript(s) without a header that can be read"] += 1
        return None


def _label(folder_label: str, header: ChatHeader | None, counted: Counter[str]) -> str | None:
    if header is None or not header.group:
        return folder_label
    said = canonical_label(header.group)
    if said is None:
        counted["interview(s) without label: the header names another group than control, MCI or Alzheimer's"] += 1
        return None
    if (said == "CN") != (folder_label == "CN"):
        counted["interview(s) without label: header and folder contradict each other"] += 1
        return None
    return said
