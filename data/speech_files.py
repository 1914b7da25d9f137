"""Which files are recordings of speech and which are transcripts: by content, helped by the name where content says little."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from .containment import IGNORED, entries, inside
from .errors import ChiasmError, InputError
from .transcript_files import SUFFIXES as TRANSCRIPT_SUFFIXES
from .transcript_files import guess_format, names_words

AUDIO_SUFFIXES = frozenset(".wav .mp3 .flac .ogg .oga .opus .m4a .mp4 .aac .amr .aif .aiff .aifc .caf".split())
MAX_DEPTH = 4
MAX_FILES = 200_000
_HEAD_BYTES = 1 << 16
_TRANSCRIPT_ORDER = (".cha", ".json", ".tsv", ".csv", ".vtt", ".srt", ".txt")
"""Of files with one stem the first is taken: most is known there."""

_NEVER_TRANSCRIPTS = re.compile(
    r"(read[-_ ]?me|licen[cs]e|change(s|log)|notes?|citation|participants|dataset[-_]description|phenotype|scans|sessions"
    r"|.*meta[-_ ]?data.*|.*labels?|.*results?|.*scores?|task\d+|index|demographics)",
    re.IGNORECASE,
)
_KIND_ENDING = re.compile(r"[-_. ](audio|sound|speech|recording|transcript|transcription|words|asr)$", re.IGNORECASE)
_BIDS = re.compile(r"sub-(?P<patient>[A-Za-z0-9]+)(?:_ses-(?P<session>[A-Za-z0-9]+))?(?:_.*)?")
_JSON_KEYS = ('"words"', '"segments"', '"chunks"', '"word"', '"text"')


@dataclass
class SpeechFiles:
    """What lies in a folder: absolute paths in order of name."""

    audio: list[Path] = field(default_factory=list)
    transcripts: list[Path] = field(default_factory=list)
    problems: list[ChiasmError] = field(default_factory=list)

    @property
    def empty(self) -> bool:
        """Whether there is nothing, not even trouble."""
        return not (self.audio or self.transcripts or self.problems)

    def add(self, other: SpeechFiles) -> None:
        """Take over what another folder holds."""
        self.audio += other.audio
        self.transcripts += other.transcripts
        self.problems += other.problems


def speech_files(folder: Path, root: Path, *, depth: int = MAX_DEPTH) -> SpeechFiles:
    """Collect recordings and transcripts under `folder`; links that leave `root` (resolved) are problems.

    Parameters
    ----------
    folder, root : Path
    depth : int
        Levels of subfolders; 0 looks at the folder's own files only.
    """
    found = SpeechFiles()
    n_files = 0
    stack = [(folder, depth)]
    while stack:
        here, left = stack.pop()
        for entry in entries(here):
            trouble = inside(entry, root)
            if trouble is not None:
                if Path(entry.name).suffix.lower() in {"", *AUDIO_SUFFIXES, *TRANSCRIPT_SUFFIXES}:
                    found.problems.append(trouble)
            elif is_folder(entry):
                # A link to a folder inside the input would show its files twice.
                if left > 0 and entry.name not in IGNORED and not entry.is_symlink():
                    stack.append((Path(entry.path), left - 1))
            elif entry.is_file() and n_files < MAX_FILES:
                n_files += 1
                _add(Path(entry.path), root, found)
    found.audio.sort()
    found.transcripts.sort()
    return found


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a folder or leads to one; a loop of links is none."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def _add(path: Path, root: Path, found: SpeechFiles) -> None:
    try:
        kind = speech_kind(path)
    except OSError:
        relative = path.relative_to(root).as_posix()
        found.problems.append(
            InputError("CHI-IN-068", "The file cannot be opened.", "Check its permissions.", file=relative)
        )
        return
    if kind == "audio":
        found.audio.append(path)
    elif kind == "transcript":
        found.transcripts.append(path)


def speech_kind(path: Path) -> str:
    """Return ``audio``, ``transcript`` or nothing.

    A damaged file that is named like audio counts as audio: the reader then says exactly what is wrong with it.

    Raises
    ------
    OSError
        The file cannot be opened.
    """
    suffix = path.suffix.lower()
    with path.open("rb") as file:
        head = file.read(16)
        if suffix in AUDIO_SUFFIXES or looks_like_audio(head):
            return "audio"
        if suffix not in TRANSCRIPT_SUFFIXES or _NEVER_TRANSCRIPTS.fullmatch(path.stem):
            return ""
        head += file.read(_HEAD_BYTES - len(head))
    return "transcript" if _looks_like_transcript(head, suffix) else ""


def looks_like_audio(head: bytes) -> bool:
    """Whether the first 16 bytes of a file are those of a sound format."""
    if head[:4] in (b"RIFF", b"RIFX", b"RF64", b"BW64"):
        return head[8:12] == b"WAVE"
    if head[:4] == b"FORM":
        return head[8:12] in (b"AIFF", b"AIFC")
    if head[:4] in (b"fLaC", b"OggS", b"caff") or head[:3] == b"ID3" or head[:5] == b"#!AMR" or head[4:8] == b"ftyp":
        return True
    # MPEG layers II and III, and ADTS (layer 0). Layer I is left out: its sync word is the byte order mark of UTF-16.
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
        return False
    version, layer = head[1] >> 3 & 3, head[1] >> 1 & 3
    if layer == 0:
        return head[1] & 0xF0 == 0xF0 and head[2] >> 2 & 15 < 13
    return version != 1 and layer != 3 and head[2] >> 4 not in (0, 15) and head[2] >> 2 & 3 != 3


def _looks_like_transcript(head: bytes, suffix: str) -> bool:
    if suffix == ".cha":
        return True
    encoding = "utf-16" if head[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    text = head.decode(encoding, "replace")
    if "\0" in text or not any(character.isalpha() for character in text):
        return False
    kind = guess_format(text, suffix)
    if kind == "json":
        return any(key in text for key in _JSON_KEYS)
    if kind == "table":
        return names_words(text.split("\n", 1)[0])
    # A list of values with separators in its first line is a table of something, not speech.
    return kind in {"chat", "subtitles"} or (kind == "text" and not re.search(r"[\t;|]", text.split("\n", 1)[0]))


def best_transcripts(paths: Iterable[Path]) -> list[Path]:
    """Return one transcript a folder and stem: the format that says most of those that a recogniser writes side by side."""
    chosen: dict[tuple[Path, str], Path] = {}
    for path in sorted(paths, key=lambda path: _TRANSCRIPT_ORDER.index(path.suffix.lower())):
        chosen.setdefault((path.parent, case_of(path)[2]), path)
    return sorted(chosen.values())


def case_of(path: Path) -> tuple[str, str, str]:
    """Return patient, session and stem that a file name says: ``sub-01_ses-a_task-x_audio.wav`` -> 01, a, sub-01_ses-a_task-x."""
    stem = _KIND_ENDING.sub("", path.stem)
    bids = _BIDS.fullmatch(stem)
    return (bids["patient"], bids["session"] or "", stem) if bids else (stem, "", stem)


def relative_to(path: Path, root: Path) -> str:
    """Return a path below `root` with forward slashes, for messages."""
    return os.path.relpath(path, root).replace(os.sep, "/")
