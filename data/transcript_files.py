"""Transcripts in whatever file they come: CHAT, plain text, tables and JSON of words with times, subtitles."""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, Literal, NamedTuple

from .atomic import write_tsv
from .chat import read_chat, read_text, spread
from .chat_cleaning import CleaningOptions
from .errors import InputError
from .transcripts import Speaker, Transcript, Turn, Word

CODES: dict[str, str] = {
    "CHI-IN-164": "A transcript is in no known format.",
    "CHI-IN-165": "A table or JSON of words lacks the words, or is damaged.",
    "CHI-IN-166": "A time in a transcript is no time, or ends before it begins.",
    "CHI-IN-167": "A transcript holds no word.",
}
SUFFIXES = (".cha", ".txt", ".tsv", ".csv", ".json", ".srt", ".vtt")
COLUMNS = ("word", "start_s", "end_s", "speaker")
"""Of the table that `write_words` writes."""

_WORD = ("word", "text", "token", "punctuated_word")
_START = ("start_s", "start", "begin", "onset", "start_time", "start_ms")
_END = ("end_s", "end", "stop", "offset", "end_time", "end_ms")
_SPEAKER = ("speaker", "speaker_id", "role")
_EDGES = '.,?!;:\u2026"\u201c\u201d\u201e\u00ab\u00bb\u00bf\u00a1()\u3002\uff0c'
_CLOCK = r"(?:(\d{1,3}):)?(\d{1,2}):(\d{1,2})[.,](\d{1,3})"
_CUE = re.compile(rf"[ \t]*{_CLOCK}[ \t]*-->[ \t]*{_CLOCK}")
_TAG = re.compile(r"<[^<>]*>")
_BEGIN = re.compile(r"^@begin[ \t]*$", re.IGNORECASE | re.MULTILINE)
_SPEAKERS: dict[str, Speaker] = {
    **dict.fromkeys(("", "n/a", "participant", "par", "patient", "pat", "subject", "sub"), "participant"),
    **dict.fromkeys(("investigator", "inv", "interviewer", "int", "examiner", "clinician"), "investigator"),
}

Format = Literal["chat", "text", "table", "json", "subtitles", ""]


class _Said(NamedTuple):
    text: str
    speaker: Speaker
    times: tuple[float, float] | None


def read_transcript(path: Path, options: CleaningOptions | None = None, *, relative: str = "") -> Transcript:
    """Read a transcript; what it is comes from its content, then from its name.

    Parameters
    ----------
    path : Path
        CHAT; a table (tabs, commas or semicolons) with the columns ``word, start, end[, speaker]``; JSON with a list of words,
        or segments with words or text (as faster-whisper gives them); SubRip or WebVTT; plain text, all the participant's.
    options : CleaningOptions, optional
        Of CHAT; of the other formats only `keep_punctuation` and `keep_investigator` count.
    relative : str
        Name of the file in messages; by default its own.

    Returns
    -------
    Transcript
        `counts` are empty for all but CHAT. Consecutive timed words of one speaker make a turn.

    Raises
    ------
    InputError
        ``CHI-IN-160`` to ``CHI-IN-167``.
    """
    options = options or CleaningOptions()
    name = relative or path.name
    text = read_text(path, name)
    kind = guess_format(text, path.suffix.lower())
    if kind == "chat":
        return read_chat(path, options, relative=name)
    if kind == "":
        raise InputError(
            "CHI-IN-164",
            "The transcript is in no known format.",
            f"Give one of {', '.join(SUFFIXES)}.",
            file=name,
        )
    if kind == "text":
        said = [_Said(text, "participant", None)]
    elif kind == "table":
        said = _table(text, name)
    elif kind == "json":
        said = _json(text, name)
    else:
        said = _subtitles(text)
    return _transcript(said, options, source="text" if kind == "text" else "words", name=name)


def write_words(path: Path, transcript: Transcript) -> None:
    """Write the words as a table (tabs; `COLUMNS`), which `read_transcript` reads back exactly.

    Turns, counts and whether times were estimated are not kept. Words with punctuation at their ends come back only with
    ``keep_punctuation``.

    Raises
    ------
    ResourceError
        As `chiasm.data.atomic.write_tsv`.
    """
    rows = (
        {"word": word.text, "start_s": word.start_s, "end_s": word.end_s, "speaker": word.speaker}
        for word in transcript.words
    )
    write_tsv(path, rows, COLUMNS)


def guess_format(text: str, suffix: str) -> Format:
    """Tell a transcript's format from its text (or the beginning of it) and suffix; '' where it is none."""
    beginning = text[: 1 << 16].lstrip("\ufeff \t\n")
    first = beginning.split("\n", 1)[0]
    if suffix == ".cha" or _BEGIN.search(beginning):
        return "chat"
    if first.startswith("WEBVTT") or any(map(_CUE.match, beginning.split("\n", 3)[:3])):
        return "subtitles"
    if suffix in {".srt", ".vtt"}:
        return ""
    if suffix == ".json" or beginning[:2] in {"[{", "{\n", '{"'}:
        return "json"
    if suffix in {".tsv", ".csv"} or ("\t" in first and names_words(first)):
        return "table"
    return "text" if suffix in {".txt", ""} else ""


def names_words(first_line: str) -> bool:
    """Whether the first line of a table names a column of words."""
    return _column(_cells(first_line, _delimiter(first_line)), _WORD) is not None


def _transcript(
    said: Iterable[_Said], options: CleaningOptions, *, source: Literal["text", "words"], name: str
) -> Transcript:
    words: list[Word] = []
    estimated = False
    for text, speaker, times in said:
        texts = [word for part in text.split() if (word := _tidy(part, options))]
        estimated = estimated or (times is not None and len(texts) > 1)
        words += spread(texts, speaker, times)
    turns = sorted(_turns(words), key=lambda turn: (turn.start_s, turn.end_s))
    if not any(word.speaker == "participant" for word in words):
        raise InputError(
            "CHI-IN-167",
            f"The transcript holds no word of the participant ({len(words)} of others).",
            "Check that the file has text, and that the speaker column says 'participant'.",
            file=name,
        )
    if not options.keep_investigator:
        words = [word for word in words if word.speaker == "participant"]
    return Transcript(words=tuple(words), turns=tuple(turns), source=source, estimated=estimated)


def _tidy(word: str, options: CleaningOptions) -> str:
    if options.keep_punctuation:
        return word
    word = word.strip(_EDGES).replace("\u2019", "'")
    return word if any(character.isalnum() for character in word) else ""


def _turns(words: Iterable[Word]) -> list[Turn]:
    turns = []
    for speaker, run in groupby(words, key=lambda word: word.speaker):
        spans = [(word.start_s, word.end_s) for word in run if word.start_s is not None and word.end_s is not None]
        if spans and (end := max(span[1] for span in spans)) > (start := min(span[0] for span in spans)):
            turns.append(Turn(speaker=speaker, start_s=start, end_s=end))
    return turns


# ---- tables ---------------------------------------------------------------------------------------------------------


def _delimiter(header: str) -> str:
    return max("\t;,", key=header.count) if any(sign in header for sign in "\t;,") else "\t"


def _cells(line: str, delimiter: str) -> list[str]:
    return [cell.strip().strip('"').strip().lower() for cell in line.split(delimiter)]


def _column(header: Sequence[str], names: Sequence[str]) -> int | None:
    return next((header.index(name) for name in names if name in header), None)


def _table(text: str, name: str) -> list[_Said]:
    lines = [line for line in text.split("\n") if line.strip()]
    first = lines[0] if lines else ""
    delimiter = _delimiter(first)
    header = _cells(first, delimiter)
    word = _column(header, _WORD)
    if word is None:
        raise InputError(
            "CHI-IN-165",
            f"The table has no column of words ({len(header)} columns in its first line).",
            f"The first line names the columns: {', '.join(COLUMNS)} (the last three may be missing).",
            file=name,
        )
    said = []
    try:
        # Words may be quotation marks: only commas and semicolons need quoting.
        rows = csv.reader(
            lines[1:], delimiter=delimiter, quoting=csv.QUOTE_NONE if delimiter == "\t" else csv.QUOTE_MINIMAL
        )
        for number, row in enumerate(rows, start=2):
            values = dict(zip(header, row, strict=False))
            said.append(_said(row[word] if word < len(row) else "", values, f"line {number}", name))
    except csv.Error:
        raise _damaged("The table is damaged: a field is too long or a quotation mark is not closed.", name) from None
    return said


def _said(text: str, values: Mapping[str, Any], where: str, name: str) -> _Said:
    """Return one word or segment of a table or a JSON, its times checked."""
    times = []
    for names in (_START, _END):
        key = next((key for key in names if key in values), "")
        times.append(_seconds(values.get(key), 0.001 if key.endswith("_ms") else 1.0, where, name))
    speaker = str(values.get(next((key for key in _SPEAKER if key in values), ""), "") or "").strip().lower()
    start, end = times
    if start is None or end is None:
        return _Said(text, _SPEAKERS.get(speaker, "other"), None)
    if end < start:
        raise _no_time(where, "ends before it begins", name)
    return _Said(text, _SPEAKERS.get(speaker, "other"), (start, end))


def _seconds(value: object, unit: float, where: str, name: str) -> float | None:
    if value is None or (isinstance(value, str) and value.strip().lower() in {"", "n/a", "na", "nan", "none"}):
        return None
    try:
        seconds = float(value) * unit if isinstance(value, str | int | float) else math.nan
    except (ValueError, OverflowError):
        seconds = math.nan
    if not (math.isfinite(seconds) and 0 <= seconds < 1e7):
        raise _no_time(where, "has a time that is no number of seconds from 0", name)
    return seconds


def _no_time(where: str, what: str, name: str) -> InputError:
    return InputError(
        "CHI-IN-166", f"{where} {what}.", "Write times in seconds from the start of the recording, or n/a.", file=name
    )


def _damaged(message: str, name: str) -> InputError:
    return InputError("CHI-IN-165", message, "Write the file again with the program that made it.", file=name)


# ---- JSON -----------------------------------------------------------------------------------------------------------


def _json(text: str, name: str) -> list[_Said]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        raise _damaged("The file is no JSON.", name) from None
    entries = value
    if isinstance(value, dict):
        entries = next(
            (value[key] for key in ("words", "segments", "chunks") if isinstance(value.get(key), list)), None
        )
        if entries is None and isinstance(value.get("text"), str):
            return [_Said(value["text"], "participant", None)]
    if not isinstance(entries, list):
        raise _damaged("The JSON has neither 'words' nor 'segments' nor 'text'.", name)
    said = []
    for number, entry in enumerate(entries, start=1):
        said += _entry(entry, f"entry {number}", name)
    return said


def _entry(entry: object, where: str, name: str) -> list[_Said]:
    if not isinstance(entry, dict):
        raise _damaged(f"{where} of the JSON is no object.", name)
    inner = entry.get("words")
    if isinstance(inner, list) and inner:
        said = []
        for word in inner:
            if not isinstance(word, dict):
                raise _damaged(f"A word in {where} of the JSON is no object.", name)
            # A word has its own speaker only where the segment's changes within it.
            said += _entry({"speaker": entry.get("speaker"), **word, "words": None}, where, name)
        return said
    text = next((entry[key] for key in _WORD if isinstance(entry.get(key), str)), None)
    if text is None:
        raise _damaged(f"{where} of the JSON has neither 'word' nor 'text'.", name)
    stamp = entry.get("timestamp")
    if isinstance(stamp, list) and len(stamp) == 2:
        entry = {**entry, "start": stamp[0], "end": stamp[1]}
    return [_said(text, entry, where, name)]


# ---- subtitles ------------------------------------------------------------------------------------------------------


def _subtitles(text: str) -> list[_Said]:
    said: list[_Said] = []
    times: tuple[float, float] | None = None
    for line in text.split("\n"):
        cue = _CUE.match(line)
        if cue is not None:
            start, end = _clock(cue.groups()[:4]), _clock(cue.groups()[4:])
            times = (start, max(start, end))
        elif not line.strip():
            times = None
        elif times is not None:
            said.append(_Said(_TAG.sub("", line), "participant", times))
    return _one_a_cue(said)


def _one_a_cue(said: Sequence[_Said]) -> list[_Said]:
    """Join the lines of a cue, which share its time."""
    out = []
    for times, lines in groupby(said, key=lambda line: line.times):
        out.append(_Said(" ".join(line.text for line in lines), "participant", times))
    return out


def _clock(parts: Sequence[str | None]) -> float:
    hours, minutes, seconds, fraction = (part or "0" for part in parts)
    return int(hours) * 3600 + int(minutes) * 60 + int(seconds) + int(fraction.ljust(3, "0")) / 1000
