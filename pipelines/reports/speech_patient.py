"""The page of one interview: the probability and what it means, and where in words and seconds the model found it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from ...data.atomic import write_text
from .pages import nonce_of, place_picture, render
from .patient import RESEARCH_USE, ReportError
from .speech_figures import (
    Deletion,
    Drawn,
    RelevanceMap,
    SpeechPicture,
    TransportPlan,
    deletion_figure,
    plan_figure,
    row_shares,
    sound_figure,
    telling_words,
)

N_LEVELS = 6
"""Steps of a word's mark: none to strong."""
N_NAMED = 12
NEW_LINE_S = 2.0
"""Longest time between two words of one line."""
FLAT_BITS = 0.05


class ShownWord(NamedTuple):
    """A word of the transcript.

    Parameters
    ----------
    text : str
    start_s, end_s : float, optional
        Seconds of the recording.
    relevance : float, optional
        0 to 1, the largest of the transcript being 1; None for a word that the model did not read.
    """

    text: str
    start_s: float | None = None
    end_s: float | None = None
    relevance: float | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class SpeechPatientReport:
    """What the page of one interview says.

    Parameters
    ----------
    key, title : str
        ``sub-01_ses-02``, and what was done.
    status : {'done', 'failed'}
    error : ReportError, optional
    classes : tuple of str
        Short names, ``('CN', 'AD')``; the last is the positive one.
    class_words : mapping
        The same in words: ``{'AD': "probable Alzheimer's disease"}``. A name without an entry stands for itself.
    probability : tuple of float
        A class each; empty where there is no answer.
    calibration : str
        How the probability was calibrated, with n; empty: it was not, and the page says so.
    prediction_set : tuple of str, optional
        Classes that cannot be ruled out; None where no sets were fitted.
    error_rate : float
        Of the set: how often it may miss the true class.
    prevalence : str
        For which mix of persons the probability holds.
    modality_share : (float, float), optional
        Text, audio: how much of the relevance lies in each; sum 1.
    modality_notes : sequence of str
        ``No transcript: the text is a learned token.``
    words : sequence of ShownWord
        In the order in which they were said.
    times_estimated : bool
        Word times were spread over utterances rather than measured.
    machine_transcript : bool
        Speech recognition wrote the words.
    sound : SpeechPicture, optional
    sound_relevance : RelevanceMap, optional
    plan : TransportPlan, optional
        A row a word.
    deletion : Deletion, optional
    deletion_note : str
        What the test found, in words.
    relevance_for : str
        Class (short name) that the relevance speaks for; empty: the positive one.
    relevance_method : str
    warnings, notices : sequence of str
        About this interview (noise, clipping, too short, another language); what holds for every one of the run.
    facts : sequence of (str, str)
        Measured, as written: ``('Speech', '48.2 s')``.
    mmse, mmse_error : float, optional
        Estimated MMSE, and its root mean square error on test persons.
    provenance, methods, citations, group_href
        As in `PatientReport`.

    Raises
    ------
    ValueError
        Parts do not fit each other.
    """

    key: str
    title: str
    status: Literal["done", "failed"]
    error: ReportError | None = None
    classes: tuple[str, ...] = ("CN", "AD")
    class_words: Mapping[str, str] = field(default_factory=dict)
    probability: tuple[float, ...] = ()
    calibration: str = ""
    prediction_set: tuple[str, ...] | None = None
    error_rate: float = 0.1
    prevalence: str = ""
    modality_share: tuple[float, float] | None = None
    modality_notes: Sequence[str] = ()
    words: Sequence[ShownWord] = ()
    times_estimated: bool = False
    machine_transcript: bool = False
    sound: SpeechPicture | None = None
    sound_relevance: RelevanceMap | None = None
    plan: TransportPlan | None = None
    deletion: Deletion | None = None
    deletion_note: str = ""
    relevance_for: str = ""
    relevance_method: str = ""
    warnings: Sequence[str] = ()
    notices: Sequence[str] = ()
    facts: Sequence[tuple[str, str]] = ()
    mmse: float | None = None
    mmse_error: float | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)
    methods: str = ""
    citations: Sequence[str] = ()
    group_href: str = ""

    def __post_init__(self) -> None:
        wrong = []
        if self.probability and len(self.probability) != len(self.classes):
            wrong.append(f"{len(self.probability)} probabilities for {len(self.classes)} classes")
        strange = [
            name for name in (*(self.prediction_set or ()), self.relevance_for) if name not in ("", *self.classes)
        ]
        if strange:
            wrong.append(f"{strange} are none of the classes")
        if not all(word.relevance is None or 0.0 <= word.relevance <= 1.0 for word in self.words):
            wrong.append("the relevance of a word is not between 0 and 1")
        if self.plan is not None and self.plan.mass.shape != (len(self.words), len(self.plan.edges_s) - 1):
            wrong.append(f"the plan has shape {self.plan.mass.shape} for {len(self.words)} words")
        if wrong:
            raise ValueError("; ".join(wrong))

    @property
    def flags(self) -> Sequence[str]:
        """The warnings, under the name that the parts shared by all pages know."""
        return self.warnings

    @property
    def positive(self) -> str:
        """The positive class in words."""
        return self.in_words(self.classes[-1])

    @property
    def certain(self) -> bool:
        """Whether the prediction set does not leave the answer open."""
        return self.prediction_set is None or len(self.prediction_set) == 1

    def in_words(self, name: str) -> str:
        """Return a class as people say it."""
        return self.class_words.get(name, name)


class _Figure(NamedTuple):
    src: str
    drawn: Drawn


class _Marked(NamedTuple):
    """A word as the page prints it."""

    text: str
    level: int
    title: str


class _Line(NamedTuple):
    """Words that follow each other closely, and when the first was said."""

    time: str
    words: list[_Marked]


class _Named(NamedTuple):
    """A row of the table of words."""

    text: str
    said: str
    relevance: float
    partner: str


def write_speech_patient_report(
    path: Path, report: SpeechPatientReport, *, assets: Path | None = None, single_file: bool = False
) -> list[Path]:
    """Write the page of one interview and its figures; the page itself comes last.

    Parameters
    ----------
    path : Path
        The page; figures go to ``figures/`` beside it.
    report : SpeechPatientReport
    assets : Path, optional
        Taken and left alone, as all pages are written by one call: this page has no script.
    single_file : bool
        Put the figures into the page.

    Returns
    -------
    list of Path
        The page and its figures.

    Raises
    ------
    ValueError
        Shapes of a figure's parts do not fit.
    ResourceError
        The disk is full or may not be written.
    """
    shown = telling_words(report.words, report.plan) if report.plan is not None else []
    pictures = _draw(report, shown)
    written, figures = [], {}
    for name, one in pictures.items():
        src, file = place_picture(path, name, one.png, inline=single_file)
        figures[name] = _Figure(src, one)
        written += [file] if file is not None else []
    # The fields as text miss the middle of long arrays; the pictures made of these are hashed as well.
    nonce = nonce_of([repr(report), *(one.png for one in pictures.values())])
    page = render(
        "speech_patient.html",
        nonce,
        report=report,
        figures=figures,
        lines=_lines(report),
        named=_named(report),
        levels=[level / (N_LEVELS - 1) for level in range(N_LEVELS)],
        n_unread=sum(word.relevance is None for word in report.words),
        has_relevance=any(word.relevance is not None for word in report.words),
        answer=_answer(report),
        flat=report.plan is not None and report.plan.information_bits < FLAT_BITS,
        n_plan_words=len(shown),
        target=report.in_words(report.relevance_for or report.classes[-1]),
        research_use=RESEARCH_USE,
        paragraphs=[p.strip() for p in re.split(r"\n\s*\n", report.methods) if p.strip()],
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, page)
    return [path, *written]


def _draw(report: SpeechPatientReport, shown: Sequence[int]) -> dict[str, Drawn]:
    pictures = {}
    if report.sound is not None or report.sound_relevance is not None:
        pictures["sound"] = sound_figure(report.sound, report.sound_relevance)
    if report.plan is not None and shown:
        pictures["plan"] = plan_figure(report.words, report.plan, shown)
    if report.deletion is not None:
        name = report.relevance_for or report.classes[-1]
        pictures["deletion"] = deletion_figure(report.deletion, f"probability of {name}")
    return pictures


def _answer(report: SpeechPatientReport) -> dict[str, str]:
    """Say in whole sentences what probability and set mean."""
    if not report.probability:
        return {}
    p, whom = report.probability[-1], report.positive
    of_100 = round(100 * p)
    kept = f"about {of_100}" if 0 < of_100 < 100 else "hardly any" if of_100 == 0 else "nearly all"
    if report.calibration:
        meaning = (
            f"Of 100 interviews that get this number, {kept} should come from persons with {whom}, as long as they are like "
            "the persons on whom the probability was calibrated."
        )
    else:
        meaning = (
            "The probability was not calibrated: read it as a score that is higher where the model is surer, not as a share "
            "of persons."
        )
    return {"meaning": meaning, "set": _set_in_words(report), "share": f"{100 * (1 - report.error_rate):.0f}"}


def _set_in_words(report: SpeechPatientReport) -> str:
    if report.prediction_set is None:
        return "No prediction set was fitted for this model: nothing says whether the answer is certain."
    names = [report.in_words(name) for name in report.prediction_set]
    if len(names) == 1:
        return f"One class is left: {names[0]}."
    if not names:
        return "Not certain: no class fits. The interview is unlike those on which the sets were calibrated."
    return f"Not certain: {', '.join(names[:-1])} and {names[-1]} are both possible." if len(names) == 2 else (
        f"Not certain: {', '.join(names[:-1])} and {names[-1]} are all possible."
    )  # fmt: skip


def _lines(report: SpeechPatientReport) -> list[_Line]:
    """Break the words into lines where the person said nothing for a while."""
    lines: list[_Line] = []
    before: float | None = None
    for word in report.words:
        gap = word.start_s is not None and before is not None and word.start_s - before >= NEW_LINE_S
        if not lines or gap:
            lines.append(_Line("" if word.start_s is None else _clock(word.start_s), []))
        lines[-1].words.append(_marked(word))
        before = word.end_s if word.end_s is not None else before
    return lines


def _marked(word: ShownWord) -> _Marked:
    level = 0 if word.relevance is None else round(word.relevance * (N_LEVELS - 1))
    said = "not read by the model" if word.relevance is None else f"relevance {word.relevance:.2f}"
    return _Marked(word.text, level, "; ".join(part for part in (said, _said(word)) if part))


def _said(word: ShownWord) -> str:
    if word.start_s is None or word.end_s is None:
        return ""
    return f"{word.start_s:.1f} to {word.end_s:.1f} s"


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def _named(report: SpeechPatientReport) -> list[_Named]:
    """List the most relevant words with the seconds that they exchange most mass with."""
    there = [i for i, word in enumerate(report.words) if word.relevance]
    order = sorted(there, key=lambda i: -(report.words[i].relevance or 0.0))[:N_NAMED]
    shares = row_shares(report.plan) if report.plan is not None else None
    rows = []
    for i in order:
        partner = ""
        if shares is not None and report.plan is not None and shares[i].any():
            best, edges = int(shares[i].argmax()), report.plan.edges_s
            partner = f"{edges[best]:.1f} to {edges[best + 1]:.1f} s ({100 * shares[i][best]:.0f} %)"
        word = report.words[i]
        rows.append(_Named(word.text, _said(word), word.relevance or 0.0, partner))
    return rows
