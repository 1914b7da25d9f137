"""One recording of one person as a data set describes it: what dementia-from-speech is trained and tested on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Sex = Literal["female", "male"]
Split = Literal["", "train", "test"]


@dataclass(frozen=True, kw_only=True)
class Interview:
    """One recording and its transcript, with what the data set says about the person.

    Parameters
    ----------
    name : str
        Unique in the set, letters and digits: the recording.
    person : str
        Who speaks. Splits are by person; several interviews may share one.
    label : str, optional
        ``CN``, ``MCI`` or ``AD``; None where the set withholds it.
    audio, transcript, segments : Path, optional
        Absolute paths: the sound, the words, and who speaks when (diarisation table) where a set has one.
    split : {'', 'train', 'test'}
        What the data set says; empty where it has no split of its own.
    age : float, optional
        Years.
    sex : {'female', 'male'}, optional
    mmse : float, optional
        Mini-Mental State Examination, 0 to 30; None where it was not taken. Never imputed.
    """

    name: str
    person: str
    label: str | None = None
    audio: Path | None = None
    transcript: Path | None = None
    segments: Path | None = None
    split: Split = ""
    age: float | None = None
    sex: Sex | None = None
    mmse: float | None = None


@dataclass(frozen=True, kw_only=True)
class InterviewSet:
    """A data set's interviews.

    Parameters
    ----------
    layout : str
        ``adress``, ``adresso``, ``pitt`` or ``participants``.
    root : Path
    interviews : sequence of Interview
        Sorted by name.
    notes : sequence of str
        What a reader should know: fields that were padded, scores that are missing, files that are not there.
    """

    layout: str
    root: Path
    interviews: Sequence[Interview]
    notes: Sequence[str] = ()

    def of_split(self, split: Split) -> list[Interview]:
        """Return the interviews of one split of the data set's own."""
        return [interview for interview in self.interviews if interview.split == split]
