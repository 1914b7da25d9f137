"""The stages: read an interview, classify and explain it, write tables, write the page."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ....data.atomic import write_json, write_tsv
from ....data.errors import ChiasmError, InputError, SeveralErrors
from ....data.patients import Session
from ....data.transcript_files import write_words
from ...engine.records import hash_inputs, label_of, sha256_of_file
from ...engine.stage import Context, Stage
from ...engine.weights import find
from ...speech_recipe import SpeechRecipe
from ..report import ASSETS, group_path, report_path
from .features import extract, pictures_of
from .hearing import Sources
from .items import AnsweredCase, HeardCase, WrittenCase
from .page import patient_report

SUFFIX_FOLDER = "beh"
STOP_WORD_SHARE = 0.2
MIN_WORDS = 30
BYTES_A_SAMPLE = 40
"""Decoded samples, their resampled copies, spectrogram and pictures (measured peak over one recording)."""


class Listen(Stage):
    """Read a session's recording and transcript.

    Parameters
    ----------
    recipe : SpeechRecipe
    """

    name = "listen"
    consumes = Session
    produces = HeardCase
    needs = ("listener", "pictures")

    def __init__(self, recipe: SpeechRecipe) -> None:
        self.recipe = recipe

    def run(self, item: Session, context: Context) -> HeardCase:
        """Read one session.

        Raises
        ------
        ChiasmError
            What discovery found, and all that the readers say.
        """
        problems: list[ChiasmError] = list(item.problems)
        if problems:
            raise problems[0] if len(problems) == 1 else SeveralErrors(problems)
        audio, words = item.channel("audio"), item.channel("transcript")
        sources = Sources(
            audio=audio.files[0] if audio else None,
            transcript=words.files[0] if words else None,
            audio_name=audio.relative if audio else "",
            transcript_name=words.relative if words else "",
        )
        heard = context.components["listener"].hear(sources)
        context.flags.extend(heard.warnings)
        context.flags.extend(self._language(heard))
        hashes = hash_inputs(item)
        context.notes["sources"] = dict(sorted(hashes.items()))
        context.notes["inputs"] = hashes
        if heard.clip is None:
            return HeardCase(session=item, heard=heard, picture=None, pixels=None)
        picture, images = pictures_of(heard, self.recipe.audio, context.components["pictures"])
        return HeardCase(session=item, heard=heard, picture=picture, pixels=images.pixels)

    def _language(self, heard: Any) -> list[str]:
        """Warn where the words do not look like the recipe's language: hardly any of its most frequent words among them."""
        if self.recipe.transcript.language != "en" or heard.transcript is None:
            return []
        from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

        words = [word.text.casefold() for word in heard.transcript.said_by("participant")]
        if len(words) < MIN_WORDS:
            return []
        share = sum(word in ENGLISH_STOP_WORDS for word in words) / len(words)
        return (
            []
            if share >= STOP_WORD_SHARE
            else ["The words do not look like English: the model knows no other language."]
        )

    def predict_bytes(self, n_voxels: int) -> int:
        """Of a recording with so many samples."""
        return n_voxels * BYTES_A_SAMPLE


class Classify(Stage):
    """Encode, classify, calibrate, explain.

    Parameters
    ----------
    recipe : SpeechRecipe
    """

    name = "classify"
    consumes = HeardCase
    produces = AnsweredCase
    device = "accelerator"
    needs = ("encoders", "pictures", "predictor")

    def __init__(self, recipe: SpeechRecipe) -> None:
        self.recipe = recipe

    def run(self, item: HeardCase, context: Context) -> AnsweredCase:
        """Classify one session."""
        predictor = context.components["predictor"]
        features = extract(item.heard, self.recipe, predictor.encoders, maker=context.components["pictures"])
        try:
            answer = predictor.answer(features, item.pixels)
        except InputError as error:
            first = next((r.relative for r in item.session.recordings), "")
            raise InputError(error.code, error.message, error.remedy, file=error.file or first) from None
        missing = {"text": "There is no transcript", "audio": "There is no recording"}
        context.flags.extend(f"{missing[name]}: a learned token stands for it." for name in answer.missing)
        if features.n_truncated:
            context.flags.append(f"The transcript is long: the last {features.n_truncated} words were not read.")
        return AnsweredCase(case=item, features=features, answer=answer)


class WriteAnswer(Stage):
    """Write a session's answer, words and relevance as a BIDS derivative.

    Parameters
    ----------
    recipe : SpeechRecipe
    """

    name = "write"
    consumes = AnsweredCase
    produces = WrittenCase

    def __init__(self, recipe: SpeechRecipe) -> None:
        self.recipe, self.desc = recipe, label_of(recipe.name)

    def run(self, item: AnsweredCase, context: Context) -> WrittenCase:
        """Write; returns the hashes for the done-record."""
        session = item.case.session
        stem = context.out / session.folder / SUFFIX_FOLDER / f"{session.key}_desc-{self.desc}"
        answer = item.answer
        result = stem.with_name(stem.name + "_answer.json")
        write_json(result, self._answer(item, context))
        files = [result]
        if item.features.words:
            words = stem.with_name(stem.name + "_words.tsv")
            write_tsv(words, _words(item), ("word", "start_s", "end_s", "relevance"))
            files.append(words)
        if answer.explanation is not None and item.features.audio_spans is not None:
            sound = stem.with_name(stem.name + "_sound.tsv")
            write_tsv(sound, _sound(item), ("start_s", "end_s", "lowest_band", "highest_band", "relevance"))
            files.append(sound)
        heard = item.case.heard
        if heard.transcript is not None and heard.transcript.source == "asr":
            written = stem.with_name(stem.name + "_transcript.tsv")
            write_words(written, heard.transcript)
            files.append(written)
        outputs = {path.relative_to(context.out).as_posix(): sha256_of_file(path) for path in files}
        return WrittenCase(answered=item, outputs=outputs, row=self._row(item))

    def _answer(self, item: AnsweredCase, context: Context) -> Mapping[str, Any]:
        answer, explanation = item.answer, item.answer.explanation
        shares = explanation.shares if explanation is not None else None
        return {
            "classes": list(answer.classes),
            "probability": [round(p, 6) for p in answer.probability],
            "prediction_set": list(answer.prediction_set),
            "error_rate": self.recipe.answer.error_rate,
            "prevalence": self.recipe.answer.prevalence,
            "mmse": None if answer.mmse is None else round(answer.mmse, 2),
            "severity": [round(p, 4) for p in answer.severity],
            "modality_share": None if shares is None else {"text": round(shares[0], 4), "audio": round(shares[1], 4)},
            "vector_shares": {} if explanation is None else {n: round(v, 4) for n, v in explanation.vectors.items()},
            "vector_weights": {name: round(value, 4) for name, value in answer.vector_weights.items()},
            "explained_class": explanation.target if explanation is not None else None,
            "explained_by": explanation.method if explanation is not None else None,
            "missing": list(answer.missing),
            "facts": {k: v for k, v in item.features.facts.items() if k not in {"acoustic", "speech"}},
            "warnings": list(context.flags),
            "Sources": dict(context.notes.get("sources", {})),
            "Recipe": self.recipe.name,
            "RecipeSha256": self.recipe.sha256(),
            "Models": {n: find(n).sha256 for s in self.recipe.components.values() for n in s.weight_names},
            "Plan": context.plan.as_json(),
            "Notice": "Research use only; no diagnosis.",
        }

    def _row(self, item: AnsweredCase) -> Mapping[str, float | str]:
        answer, facts = item.answer, item.features.facts
        row: dict[str, float | str] = {
            f"p_{name}": round(p, 4) for name, p in zip(answer.classes[1:], answer.probability[1:], strict=True)
        }
        row["prediction_set"] = " or ".join(answer.prediction_set) or "none"
        if answer.mmse is not None:
            row["mmse_estimate"] = round(answer.mmse, 1)
        if answer.explanation is not None:
            row["text_share"] = round(answer.explanation.shares[0], 3)
        if item.features.has_audio:
            row["duration_s"] = round(float(facts["duration_s"]), 1)
        row["words"] = float(len(item.features.words))
        return row


class SpeechReport(Stage):
    """Write the page of a session.

    Parameters
    ----------
    recipe : SpeechRecipe
    single_file : bool
        Figures inside the page.
    """

    name = "report"
    consumes = WrittenCase
    produces = WrittenCase

    def __init__(self, recipe: SpeechRecipe, *, single_file: bool = False) -> None:
        self.recipe, self.single_file = recipe, single_file

    def run(self, item: WrittenCase, context: Context) -> WrittenCase:
        """Write the page; returns the item with the page among its outputs."""
        from ...reports.speech_patient import write_speech_patient_report

        page = report_path(context.out, item.answered.case.session, self.recipe.name)
        group = Path(os.path.relpath(group_path(context.out, self.recipe.name), page.parent)).as_posix()
        report = patient_report(item.answered, self.recipe, context, group_href=group)
        files = write_speech_patient_report(page, report, assets=context.out / ASSETS, single_file=self.single_file)
        hashes = {path.relative_to(context.out).as_posix(): sha256_of_file(path) for path in files}
        return replace(item, outputs={**item.outputs, **hashes})


def _words(item: AnsweredCase) -> list[dict[str, Any]]:
    relevance = item.answer.explanation.words if item.answer.explanation is not None else np.array([])
    rows = []
    for index, word in enumerate(item.features.words):
        times = item.features.word_times[index] if index < len(item.features.word_times) else None
        value = float(relevance[index]) if index < len(relevance) else float("nan")
        rows.append(
            {
                "word": word,
                "start_s": None if times is None else f"{times[0]:.3f}",
                "end_s": None if times is None else f"{times[1]:.3f}",
                "relevance": None if np.isnan(value) else f"{value:.6f}",
            }
        )
    return rows


def _sound(item: AnsweredCase) -> list[dict[str, Any]]:
    spans, explanation = item.features.audio_spans, item.answer.explanation
    if spans is None or explanation is None:
        return []
    return [
        {
            "start_s": f"{span[0]:.3f}",
            "end_s": f"{span[1]:.3f}",
            "lowest_band": f"{span[2]:.0f}",
            "highest_band": f"{span[3]:.0f}",
            "relevance": f"{value:.6f}",
        }
        for span, value in zip(spans.tolist(), explanation.audio.tolist(), strict=False)
    ]
