"""Which people an input of recorded speech holds: a published data set, folders of people, a flat folder, or one file.

Nothing is read here but names, first bytes and, for a published layout, its tables. What is wrong with one person is kept in that
person's `Session.problems`, so that the others run; only an input that as a whole cannot be used raises.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from .containment import IGNORED, entries, inside
from .datasets.interviews import labelled_interviews, layout_of
from .discovery import _chosen, _resolved, _without_collisions
from .errors import ChiasmError, InputError
from .patients import Recording, Session
from .recognition import clean_label
from .speech_files import (
    MAX_DEPTH,
    SpeechFiles,
    best_transcripts,
    case_of,
    is_folder,
    relative_to,
    speech_files,
    speech_kind,
)

CODES: dict[str, str] = {
    "CHI-IN-185": "Several recordings or transcripts fit one person and no rule chooses.",
    "CHI-IN-186": "A person's folder has no recording and no transcript.",
    "CHI-IN-187": "The input holds no recorded speech and no transcript.",
}
_PUBLISHED = ("adress", "adresso", "pitt")
# Folders that say what files are, or which group: the files' own names then say who speaks.
_TRANSPARENT = re.compile(
    r"audio|audios|wav|wavs|mp3|sound|sounds|speech|recordings?|transcripts?|transcriptions?|cha|chat|text|texts|asr|beh|media"
    r"|cc|cd|cn|ad|mci|control|controls|dementia|patients|train|test",
    re.IGNORECASE,
)
_VISIT = re.compile(r"(ses|session|visit|tp|timepoint|baseline|followup|month|year|week)[-_ ]?\w{0,16}", re.IGNORECASE)
_Found = list[tuple[str, Session]]


def speech_sessions(root: Path, *, participants: Sequence[str] = ()) -> list[Session]:
    """Find the sessions of an input of speech, in a fixed order (by patient, then session).

    Parameters
    ----------
    root : Path
        ADReSS-IS2020, ADReSSo-2021 or Pitt (a session an interview); folders of people, each with one recording, one transcript, or
        both, at any depth up to 4 (BIDS names and ``ses-*`` folders too); a flat folder whose files pair by stem; or one file.
    participants : sequence of str
        Keep these only; ``sub-`` before the label is allowed.

    Returns
    -------
    list of Session
        Recordings have the channels (and kinds) ``audio`` and ``transcript``, with absolute paths.

    Raises
    ------
    InputError, SeveralErrors
        ``CHI-IN-061``, ``CHI-IN-071``, ``CHI-IN-187``; ``CHI-IN-171`` to ``CHI-IN-176`` where a published data set is wrong.
    """
    root = _resolved(root)
    if root.is_file():
        found = _single(root)
    elif layout_of(root) in _PUBLISHED:
        found = _interviews(root)
    else:
        found = _people(root)
    if not found:
        raise _nothing()
    return _chosen(_without_collisions(found), participants)


def _nothing() -> InputError:
    return InputError(
        "CHI-IN-187",
        "Nothing to do: looked for recordings (by content) and transcripts (.cha, .txt, .tsv, .csv, .json, .srt, .vtt).",
        "Give a folder with one folder a person, or with files whose names say the person, or one file.",
    )


def _single(path: Path) -> _Found:
    try:
        kind = speech_kind(path)
    except OSError as error:
        raise InputError(
            "CHI-IN-061", f"The input cannot be read ({error.strerror}).", "Check its permissions."
        ) from error
    if not kind:
        raise _nothing()
    files = SpeechFiles(audio=[path] if kind == "audio" else [], transcripts=[path] if kind == "transcript" else [])
    patient, session, _ = case_of(path)
    return [(path.name, _session(patient, session, path.name, files, path.parent))]


def _interviews(root: Path) -> _Found:
    found = []
    for interview in labelled_interviews(root).interviews:
        files = SpeechFiles(
            audio=[interview.audio] if interview.audio else [],
            transcripts=[interview.transcript] if interview.transcript else [],
        )
        where = relative_to((files.audio or files.transcripts)[0], root)
        found.append((where, _session(interview.name, "", where, files, root)))
    return found


def _people(root: Path) -> _Found:
    """Return the people of a folder: its own files by stem, and a person (or a group of people) a subfolder."""
    flat, folders = _flat_files(root, root, MAX_DEPTH)
    found = _by_stem(flat, root)
    must_have = not found
    for folder in folders:
        found += _person(folder, root, MAX_DEPTH - 1, must_have=must_have)
    # Folders without speech count only beside folders with it: else nothing here is an input of speech.
    if all(problem.code == "CHI-IN-186" for _, session in found for problem in session.problems) and not any(
        session.recordings for _, session in found
    ):
        return []
    return found


def _flat_files(folder: Path, root: Path, depth: int) -> tuple[SpeechFiles, list[os.DirEntry[str]]]:
    """Return the files that stand for themselves by their names, and the folders that may stand for people."""
    files = speech_files(folder, root, depth=0)
    # Links to folders are told of with the folder.
    files.problems = [problem for problem in files.problems if Path(problem.file).suffix]
    people = []
    for entry in entries(folder):
        if not is_folder(entry) and not (entry.is_symlink() and not Path(entry.name).suffix):
            continue
        if entry.name in IGNORED:
            continue
        if depth > 0 and _TRANSPARENT.fullmatch(entry.name) and inside(entry, root) is None:
            inner, deeper = _flat_files(Path(entry.path), root, depth - 1)
            files.add(inner)
            people += deeper
        else:
            people.append(entry)
    return files, people


def _by_stem(files: SpeechFiles, root: Path) -> _Found:
    cases: dict[tuple[str, str], SpeechFiles] = {}
    for path in files.audio:
        cases.setdefault(case_of(path)[:2], SpeechFiles()).audio.append(path)
    for path in files.transcripts:
        cases.setdefault(case_of(path)[:2], SpeechFiles()).transcripts.append(path)
    for problem in files.problems:
        cases.setdefault(case_of(Path(problem.file))[:2], SpeechFiles()).problems.append(problem)
    found = []
    for (patient, session), case in cases.items():
        where = relative_to([*case.audio, *case.transcripts][0], root) if case.audio or case.transcripts else patient
        found.append((where, _session(patient, session, where, case, root)))
    return found


def _person(folder: os.DirEntry[str], root: Path, depth: int, *, must_have: bool) -> _Found:
    outside = inside(folder, root)
    path = Path(folder.path)
    where = relative_to(path, root)
    if outside is not None:
        return [(where, Session(patient=clean_label(folder.name), problems=(outside,)))]
    people = [e for e in entries(path) if is_folder(e) and e.name not in IGNORED and inside(e, root) is None]
    visits = [entry for entry in people if _VISIT.fullmatch(entry.name)]
    if visits:
        found = []
        for visit in visits:
            files, at = speech_files(Path(visit.path), root, depth=depth), f"{where}/{visit.name}"
            found.append((at, _session(folder.name, visit.name, at, files, root)))
        return found
    if depth > 0 and not folder.name.startswith("sub-"):
        own = speech_files(path, root, depth=0)
        holding = [e for e in people if not _TRANSPARENT.fullmatch(e.name) and _holds_speech(e, root, depth - 1)]
        if own.empty and len(holding) > 1:
            # No files of its own and several folders with some: a group of people.
            return [one for entry in holding for one in _person(entry, root, depth - 1, must_have=False)]
    files = speech_files(path, root, depth=depth)
    return [(where, _session(folder.name, "", where, files, root))] if must_have or not files.empty else []


def _holds_speech(folder: os.DirEntry[str], root: Path, depth: int) -> bool:
    files = speech_files(Path(folder.path), root, depth=depth)
    return bool(files.audio or files.transcripts)


def _session(patient: str, session: str, where: str, files: SpeechFiles, root: Path) -> Session:
    """Return a session with one recording, one transcript, or both; anything else is its problem."""
    problems: list[ChiasmError] = list(files.problems)
    recordings = []
    for kind, paths in (("audio", files.audio), ("transcript", best_transcripts(files.transcripts))):
        if len(paths) > 1:
            problems.append(_several(kind, paths, root))
        elif paths and kind == "audio":
            recordings.append(
                Recording(channel="audio", kind="audio", files=(paths[0],), relative=relative_to(paths[0], root))
            )
        elif paths:
            recordings.append(
                Recording(
                    channel="transcript", kind="transcript", files=(paths[0],), relative=relative_to(paths[0], root)
                )
            )
    if not recordings and not problems:
        problems.append(
            InputError(
                "CHI-IN-186",
                "The folder has no recording and no transcript.",
                "Put the person's recording there, or take the folder out of the input.",
                file=where,
            )
        )
    return Session(
        patient=clean_label(patient),
        session=clean_label(session) if session else "",
        recordings=tuple(recordings),
        problems=tuple(problems),
    )


def _several(kind: str, paths: Sequence[Path], root: Path) -> InputError:
    names = [relative_to(path, root) for path in paths]
    listed = ", ".join(names[:4]) + (" ..." if len(names) > 4 else "")
    what = "recordings" if kind == "audio" else "transcripts"
    return InputError(
        "CHI-IN-185",
        f"{len(paths)} {what} for one person: {listed}; no rule to choose.",
        "Keep one in the person's folder, or give each visit a folder of its own (ses-<label>).",
        file=names[0],
    )
