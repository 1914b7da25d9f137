"""CHAT transcripts (``.cha``, TalkBank): header, turns, and the participant's words with times and counts."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .chat_cleaning import COUNTS, CleaningOptions, clean_utterance, excluded
from .errors import InputError
from .interviews import Sex
from .transcripts import Speaker, Transcript, Turn, Word

__all__ = ["CODES", "ChatHeader", "CleaningOptions", "chat_header", "read_chat", "spread"]

CODES: dict[str, str] = {
    "CHI-IN-160": "A transcript cannot be opened, is too large or is no text.",
    "CHI-IN-161": "A CHAT transcript has no @Begin line.",
    "CHI-IN-162": "A CHAT transcript has no utterance of a participant.",
    "CHI-IN-163": "Several participants speak in a CHAT transcript.",
}
MAX_BYTES = 8 << 20
_TIER = re.compile(r"\*([^:\s]{1,32}):[ \t]*")
_BULLET = re.compile(r"\x15([^\x15]*)\x15")
_BARE_BULLET = re.compile(r"(?<!\S)(\d{1,9}_\d{1,9})(?!\S)")
_BULLET_TIMES = re.compile(r"(?:.*_)?(\d{1,9})_(\d{1,9})", re.DOTALL)
_AGE = re.compile(r"(\d{1,3})(?:;(\d{1,2})?(?:\.(\d{1,2})?)?)?")
_MMSE = re.compile(r"mmse\s*[:=]?\s*(\d{1,2})", re.IGNORECASE)
# All control characters but tab, line feed and the bullet.
_CONTROLS = {code: None for code in (*range(32), *range(127, 160)) if code not in (9, 10, 21)}
_PARTICIPANT_ROLES = frozenset("participant patient subject target_adult target_child child client".split())
_INVESTIGATOR_ROLES = frozenset(
    "investigator interviewer examiner clinician therapist doctor experimenter observer".split()
)
_PARTICIPANT_CODES = ("PAR", "CHI", "SUB", "PAT")
_INVESTIGATOR_CODES = frozenset(("INV", "EXA", "INT", "CLI", "EXP"))


@dataclass(frozen=True, kw_only=True)
class ChatHeader:
    """What the header says of the participant; None or empty where it says nothing.

    Parameters
    ----------
    participant : str
        Speaker code, upper case.
    corpus, group : str
        As written in the ``@ID`` line. Never shown: for labels only.
    age_years : float, optional
    sex : {'female', 'male'}, optional
    mmse : float, optional
        From the last field (``MMSE 23``); the Pitt corpus keeps it where others keep the years of education.
    """

    participant: str
    corpus: str = ""
    group: str = ""
    age_years: float | None = None
    sex: Sex | None = None
    mmse: float | None = None


@dataclass(frozen=True)
class _Chat:
    headers: tuple[str, ...]
    tiers: tuple[tuple[str, str], ...]  # speaker code, text: in order
    roles: Mapping[str, str]


def read_chat(path: Path, options: CleaningOptions | None = None, *, relative: str = "") -> Transcript:
    """Read a CHAT transcript.

    Parameters
    ----------
    path : Path
    options : CleaningOptions, optional
    relative : str
        Name of the file in messages; by default its own.

    Returns
    -------
    Transcript
        Words inside an utterance with a media bullet get times spread over it by their characters (`estimated`).

    Raises
    ------
    InputError
        ``CHI-IN-160`` to ``CHI-IN-163``.
    """
    options = options or CleaningOptions()
    name = relative or path.name
    chat = _parse(read_text(path, name), name)
    participant = _participant(chat, options.participant, name)
    counts = dict.fromkeys(COUNTS, 0)
    words: list[Word] = []
    turns: list[Turn] = []
    for code, text in chat.tiers:
        speaker = _speaker(code, participant, chat.roles)
        said = _utterance(text, speaker, options, counts if speaker == "participant" else dict.fromkeys(COUNTS, 0))
        turns += said[1]
        if speaker == "participant" or options.keep_investigator:
            words += said[0]
    turns.sort(key=lambda turn: (turn.start_s, turn.end_s))
    estimated = any(word.start_s is not None for word in words)
    return Transcript(words=tuple(words), turns=tuple(turns), counts=counts, source="chat", estimated=estimated)


def chat_header(path: Path, *, relative: str = "", participant: str = "") -> ChatHeader:
    """Read what the header says of the participant.

    Raises
    ------
    InputError
        As `read_chat`.
    """
    name = relative or path.name
    chat = _parse(read_text(path, name), name)
    code = _participant(chat, participant, name)
    fields = next((fields for fields in _ids(chat.headers) if fields[2].upper() == code), None)
    if fields is None:
        return ChatHeader(participant=code)
    _, corpus, _, age, sex, group, _, _, education, custom = fields
    said = _MMSE.search(custom)
    score = int(said[1]) if said else int(education) if corpus.lower() == "pitt" and _is_score(education) else None
    return ChatHeader(
        participant=code,
        corpus=corpus,
        group=group,
        age_years=_age(age),
        sex="female" if sex.lower() == "female" else "male" if sex.lower() == "male" else None,
        mmse=float(score) if score is not None and score <= 30 else None,
    )


def spread(texts: Sequence[str], speaker: Speaker, times: tuple[float, float] | None) -> list[Word]:
    """Return words with the time of their utterance shared among them by number of characters."""
    if times is None:
        return [Word(text=text, speaker=speaker) for text in texts]
    start, seconds = times[0], times[1] - times[0]
    total = sum(map(len, texts))
    words, done = [], 0
    for text in texts:
        begin, done = start + seconds * done / total, done + len(text)
        end = times[1] if done == total else start + seconds * done / total
        words.append(Word(text=text, speaker=speaker, start_s=begin, end_s=end))
    return words


def read_text(path: Path, name: str) -> str:
    """Return the text of a transcript file: UTF-8, else UTF-16 where it says so, else Western single-byte.

    Raises
    ------
    InputError
        ``CHI-IN-160``: it cannot be opened, is larger than 8 MiB, or holds NUL characters.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        reason = error.strerror or "unknown reason"
        raise InputError(
            "CHI-IN-160",
            f"The transcript cannot be opened ({reason}).",
            "Check the path and its permissions.",
            file=name,
        ) from error
    if len(data) > MAX_BYTES:
        raise InputError("CHI-IN-160", "The transcript is larger than 8 MiB.", "Give one recording a file.", file=name)
    encodings = ["utf-16"] if data[:2] in (b"\xff\xfe", b"\xfe\xff") else ["utf-8-sig", "cp1252", "latin-1"]
    for encoding in encodings:
        try:
            text = data.decode(encoding)
        except UnicodeDecodeError:
            continue
        if "\0" not in text:
            return text.replace("\r\n", "\n").replace("\r", "\n")
        break
    raise InputError("CHI-IN-160", "The file holds no text.", "Save the transcript as UTF-8 text.", file=name)


def _parse(text: str, name: str) -> _Chat:
    lines: list[list[str]] = []
    # Old exports show the bullet's control character as a dot.
    for line in text.replace("\u2022", "\x15").translate(_CONTROLS).split("\n"):
        if line[:1] in {"@", "*", "%"}:
            lines.append([line])
        elif lines:
            lines[-1].append(
                line.strip()
            )  # a tier goes on in lines that begin with a tab (or were wrapped by an editor)
    joined = [" ".join(parts) for parts in lines]
    if not any(line.strip().lower() == "@begin" for line in joined):
        raise InputError(
            "CHI-IN-161",
            "The file has no @Begin line, so it is no CHAT transcript.",
            "Give a .cha file as TalkBank writes it, or the words as plain text (.txt).",
            file=name,
        )
    tiers = [(match[1].upper(), line[match.end() :]) for line in joined if (match := _TIER.match(line))]
    headers = tuple(line for line in joined if line.startswith("@"))
    return _Chat(headers, tuple(tiers), _roles(headers))


def _ids(headers: Sequence[str]) -> list[list[str]]:
    """Return the ten fields of each ``@ID`` line, stripped."""
    rows = [line[4:].strip().split("|") for line in headers if line[:4].upper() == "@ID:"]
    return [[field.strip() for field in [*row, *[""] * 10][:10]] for row in rows]


def _roles(headers: Sequence[str]) -> dict[str, str]:
    roles = {fields[2].upper(): fields[7].lower() for fields in _ids(headers) if fields[2]}
    for line in headers:
        if line.lower().startswith("@participants:"):
            # "PAR Participant, INV Mary Investigator": code, perhaps a name, role
            for entry in line.split(":", 1)[1].split(","):
                words = entry.split()
                if words and not roles.get(words[0].upper()):
                    roles[words[0].upper()] = words[-1].lower() if len(words) > 1 else ""
    return roles


def _participant(chat: _Chat, wanted: str, name: str) -> str:
    speaking = sorted({code for code, _ in chat.tiers})
    if wanted:
        candidates = [code for code in speaking if code == wanted.upper()]
    else:
        candidates = [code for code in speaking if chat.roles.get(code) in _PARTICIPANT_ROLES]
        if not candidates:
            undeclared = [code for code in _PARTICIPANT_CODES if code in speaking]
            candidates = [code for code in undeclared if chat.roles.get(code) not in _INVESTIGATOR_ROLES][:1]
    if not candidates:
        raise InputError(
            "CHI-IN-162",
            f"None of the {len(chat.tiers)} utterances is by {'the speaker asked for' if wanted else 'a participant'}.",
            "Mark the person's lines '*PAR:', or declare the speaker's role as Participant in @Participants.",
            file=name,
        )
    if len(candidates) > 1:
        raise InputError(
            "CHI-IN-163",
            f"{len(candidates)} speakers have the role of a participant.",
            "Choose one by its code: the option `participant`, such as participant: PAR.",
            file=name,
        )
    return candidates[0]


def _speaker(code: str, participant: str, roles: Mapping[str, str]) -> Speaker:
    if code == participant:
        return "participant"
    role = roles.get(code, "")
    return "investigator" if role in _INVESTIGATOR_ROLES or (not role and code in _INVESTIGATOR_CODES) else "other"


def _utterance(
    text: str, speaker: Speaker, options: CleaningOptions, counts: dict[str, int]
) -> tuple[list[Word], list[Turn]]:
    """Return the words of a tier, timed where a bullet follows them, and a turn a bullet."""
    if excluded(text) and not options.keep_excluded:
        return [], []
    counts["utterances"] += 1
    if _BULLET.search(text) is None:  # copies that lost the control characters, one or both
        text = _BARE_BULLET.sub("\x15\\1\x15", text.replace("\x15", " "))
    pieces = _BULLET.split(text)
    words: list[Word] = []
    turns: list[Turn] = []
    for piece, bullet in zip(pieces[::2], [*pieces[1::2], ""], strict=True):
        times = _times(bullet)
        if times is not None:
            turns.append(Turn(speaker=speaker, start_s=times[0], end_s=times[1]))
        words += spread(clean_utterance(piece.replace("\x15", " "), options, counts), speaker, times)
    return words, turns


def _times(bullet: str) -> tuple[float, float] | None:
    """Return the seconds of ``a_b`` or ``%snd:"name"_a_b``; None for another bullet, or one that ends before it begins."""
    match = _BULLET_TIMES.fullmatch(bullet.strip())
    if match is None:
        return None
    start, end = int(match[1]) / 1000, int(match[2]) / 1000
    return (start, end) if end > start else None


def _age(text: str) -> float | None:
    match = _AGE.fullmatch(text)
    if match is None:
        return None
    years, months, days = (int(part or 0) for part in match.groups())
    return years + months / 12 + days / 365.25


def _is_score(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 2
