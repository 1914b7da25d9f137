"""Which fits a study consists of: the model over seeds and folds, each stream alone, baselines, controls, other recipes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from ....data.errors import InputError
from ....data.interviews import Interview, InterviewSet
from ....data.splits import Fold, challenge, check_disjoint, k_fold, leave_one_person_out
from ...speech_recipe import SpeechRecipe
from ...stages.speech.hearing import View
from .fits import FitSpec
from .settings import Protocol, SpeechTraining

RowKind = Literal["model", "variant", "single modality", "baseline", "control"]


@dataclass(frozen=True, kw_only=True)
class Row:
    """A line of the result table.

    Parameters
    ----------
    name : str
    kind : str
    note : str
        What it is, in words.
    fits : tuple of FitSpec
    """

    name: str
    kind: RowKind
    note: str
    fits: tuple[FitSpec, ...]

    @property
    def view(self) -> View:
        """What its fits hear."""
        return self.fits[0].view


MODEL = "model"
BASELINES = {
    "majority": "the more frequent class for everyone",
    "pauses": "pauses, speech segments and length only; logistic regression",
    "words": "TF-IDF of words and pairs; logistic regression",
    "voice": "statistics of MFCC and energy; support vectors",
    "counts": "fillers, repeats, pronouns, type-token ratio; logistic regression",
}
CONTROLS = {
    "permuted labels": "the same model, trained and stopped on labels dealt anew",
    "background only": "the audio stream on non-speech sound, cut to one length for everyone",
    "investigator only": "the same model on the investigator's words and voice",
    "metadata only": "age, sex, sample rate, bit depth, file properties; logistic regression",
}


def chosen_protocol(found: InterviewSet, asked: Protocol) -> Protocol:
    """Return the protocol that `auto` stands for: the data set's own split where it has a labelled test side."""
    if asked != "auto":
        return asked
    test = found.of_split("test")
    return "challenge" if test and all(interview.label is not None for interview in test) else "k-fold"


def folds_of(
    found: InterviewSet, settings: SpeechTraining, protocol: Protocol, seed: int
) -> Iterator[tuple[str, Fold]]:
    """Give the folds of one seed with their names; every one is checked for persons on two sides."""
    share = settings.validation_share
    labelled = [interview for interview in found.interviews if interview.label is not None]
    if protocol == "challenge":
        folds = [_with_labelled_test(challenge(found, seed, validation_share=share), labelled)]
    elif protocol == "k-fold":
        folds = k_fold(labelled, settings.folds, seed=seed, validation_share=share)
    else:
        folds = leave_one_person_out(labelled, seed, validation_share=share)
    for index, fold in enumerate(folds):
        check_disjoint(fold, labelled)
        yield ("challenge" if protocol == "challenge" else f"fold-{index:03d}"), fold


def _with_labelled_test(fold: Fold, labelled: Sequence[Interview]) -> Fold:
    """Take interviews whose label is withheld out of the test side: nothing can be said about them here."""
    known = {interview.name for interview in labelled}
    test = tuple(name for name in fold.test if name in known)
    if not test:
        raise InputError(
            "CHI-IN-182",
            "No interview of the data set's own test side has a label.",
            "Use cross-validation, or add the labels of the test side.",
        )
    return replace(fold, test=test)


def plan_rows(
    found: InterviewSet,
    recipe: SpeechRecipe,
    settings: SpeechTraining,
    *,
    protocol: Protocol,
    control_seeds: int,
    variants: Mapping[str, Mapping[str, Any]] | None = None,
) -> list[Row]:
    """Return every line of the table.

    Parameters
    ----------
    found : InterviewSet
    recipe : SpeechRecipe
    settings : SpeechTraining
    protocol : str
        Not ``auto``; see `chosen_protocol`.
    control_seeds : int
        Seeds 0 to n - 1 of every control; 0 leaves the controls out.
    variants : mapping, optional
        Other recipes' names -> parameters of their classifiers.
    """
    classifier = recipe.components["classifier"].parameters
    both = _has(found.interviews, "audio") and _has(found.interviews, "transcript")
    main = classifier if both else {**classifier, "streams": "audio" if _has(found.interviews, "audio") else "text"}
    splits = {
        seed: list(folds_of(found, settings, protocol, seed))
        for seed in sorted({*settings.seeds, *range(control_seeds)})
    }

    def fits(seeds: Sequence[int], **about: Any) -> tuple[FitSpec, ...]:
        return tuple(
            FitSpec(seed=seed, part=part, train=fold.train, validation=fold.validation, test=fold.test, **about)
            for seed in seeds
            for part, fold in splits[seed]
        )

    def row(name: str, row_kind: RowKind, note: str, seeds: Sequence[int], **about: Any) -> Row:
        return Row(name=name, kind=row_kind, note=note, fits=fits(seeds, row=name, **about))

    seeds = settings.seeds
    rows = [row(MODEL, "model", recipe.title, seeds, classifier=main, keep_model=True)]
    for name, parameters in (variants or {}).items():
        rows.append(row(name, "variant", "the recipe of that name", seeds, classifier=parameters))
    if both:
        for stream in ("text", "audio"):
            alone = {**classifier, "streams": stream}
            rows.append(row(f"{stream} alone", "single modality", f"the {stream} stream only", seeds, classifier=alone))
    rows += [
        row(name, "baseline", note, seeds, kind="baseline", baseline=name)
        for name, note in BASELINES.items()
        if _possible(name, [interview for interview in found.interviews if interview.label is not None])
    ]
    drawn = tuple(range(control_seeds))
    if drawn:
        rows += _controls(main, both, found.interviews, row, drawn)
    return rows


def _controls(
    main: Mapping[str, Any], both: bool, interviews: Sequence[Interview], row: Any, seeds: Sequence[int]
) -> list[Row]:
    rows = [row("permuted labels", "control", CONTROLS["permuted labels"], seeds, classifier=main, permuted=True)]
    if _has(interviews, "audio"):
        heard = {**main, "streams": "audio"}
        rows.append(
            row("background only", "control", CONTROLS["background only"], seeds, classifier=heard, view="background")
        )
    if both:
        rows.append(
            row(
                "investigator only",
                "control",
                CONTROLS["investigator only"],
                seeds,
                classifier=main,
                view="investigator",
            )
        )
    rows.append(row("metadata only", "control", CONTROLS["metadata only"], seeds, kind="baseline", baseline="metadata"))
    return rows


def _has(interviews: Sequence[Interview], what: str) -> bool:
    return any(getattr(interview, what) is not None for interview in interviews)


def _possible(baseline: str, interviews: Sequence[Interview]) -> bool:
    """Whether a baseline can be computed of everyone: one that left persons out could not be compared."""
    what = {"pauses": "audio", "voice": "audio", "words": "transcript", "counts": "transcript"}.get(baseline)
    return what is None or all(getattr(interview, what) is not None for interview in interviews)


def on_view(row: Row, found: InterviewSet, settings: SpeechTraining, protocol: Protocol) -> Row | None:
    """Split anew for a row whose view does not have all interviews, so that its folds are as balanced as the others.

    Parameters
    ----------
    row : Row
    found : InterviewSet
        Of the interviews that the row's view has.
    settings, protocol
        As in `plan_rows`.

    Returns
    -------
    Row or None
        None where too few are left to split.
    """
    first = row.fits[0]
    fits = []
    try:
        for seed in dict.fromkeys(fit.seed for fit in row.fits):
            for part, fold in folds_of(found, settings, protocol, seed):
                fits.append(
                    replace(first, seed=seed, part=part, train=fold.train, validation=fold.validation, test=fold.test)
                )
    except InputError:
        return None
    return replace(row, fits=tuple(fits))
