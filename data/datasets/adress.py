"""ADReSS-IS2020: ``{train,test}/{Full_wave_enhanced_audio,transcription}[/{cc,cd}]``, labels in tables found by their columns.

Source: Luz, Haider, de la Fuente, Fromm, MacWhinney: Alzheimer's Dementia Recognition through Spontaneous Speech: The ADReSS
Challenge, Interspeech 2020.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ..interviews import Interview, InterviewSet
from .interview_media import Part, files_by_name, finished, interviews_of, note_absent, parts_below, subfolders
from .interview_tables import Findings, tables

_TRANSCRIPTS = "transcription"
_FULL_WAVE = "full_wave_enhanced_audio"
_CHUNKS = "normalised_audio-chunks"


def is_adress(root: Path) -> bool:
    """Whether `root`, or a folder at most two levels below, has the folders of the challenge."""
    return bool(_parts(root))


def _parts(root: Path) -> list[Path]:
    return parts_below(root, _recognised, depth=2)


def _recognised(folders: Mapping[str, Path]) -> bool:
    return bool({_FULL_WAVE, _CHUNKS} & folders.keys()) or (_TRANSCRIPTS in folders and "audio" not in folders)


def interviews(root: Path) -> InterviewSet:
    """Return the interviews; chunks are left alone, whole recordings taken.

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
        folders = subfolders(part, findings)
        if _CHUNKS in folders:
            n_chunks = sum(1 for path in folders[_CHUNKS].rglob("*") if path.is_file())
            findings.notes.append(
                f"{part.name}: {n_chunks} file(s) of chunks are not used; whole recordings are, where they are there."
            )
        audio = files_by_name(folders.get(_FULL_WAVE), part, findings)
        transcripts = files_by_name(
            folders.get(_TRANSCRIPTS) or folders.get("transcripts"), part, findings, transcripts=True
        )
        described = tables(part.table_folders(), root, findings)
        names.update(described)
        found += interviews_of(part, findings, described=described, audio=audio, transcripts=transcripts)
    note_absent(names, found, findings)
    return finished("adress", root, found, findings)
