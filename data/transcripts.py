"""Words with times and speakers, whatever file they came from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Speaker = Literal["participant", "investigator", "other"]


@dataclass(frozen=True, kw_only=True)
class Word:
    """One word (or kept filler).

    Parameters
    ----------
    text : str
        Without white space.
    speaker : {'participant', 'investigator', 'other'}
    start_s, end_s : float, optional
        In the recording; None where nothing says when.
    """

    text: str
    speaker: Speaker = "participant"
    start_s: float | None = None
    end_s: float | None = None


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One stretch of one speaker; times in seconds of the recording."""

    speaker: Speaker
    start_s: float
    end_s: float


@dataclass(frozen=True, kw_only=True)
class Transcript:
    """What was said.

    Parameters
    ----------
    words : tuple of Word
        In order, all speakers.
    turns : tuple of Turn
        Where the file gives times; sorted by start.
    counts : mapping of str to int
        Of the participant: ``fillers``, ``repeats``, ``revisions``, ``pauses``, ``unintelligible``, ``utterances`` ...; empty where
        the format does not mark them.
    source : {'chat', 'text', 'words', 'asr'}
    estimated : bool
        Word times were spread over an utterance's time rather than measured.
    """

    words: tuple[Word, ...]
    turns: tuple[Turn, ...] = ()
    counts: Mapping[str, int] = field(default_factory=dict)
    source: Literal["chat", "text", "words", "asr"] = "text"
    estimated: bool = False

    def said_by(self, speaker: Speaker) -> tuple[Word, ...]:
        """Return the words of one speaker."""
        return tuple(word for word in self.words if word.speaker == speaker)

    @property
    def text(self) -> str:
        """The participant's words, joined by blanks."""
        return " ".join(word.text for word in self.said_by("participant"))
