"""From an answered case to the dataclass that its page is written from."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ....encoders.log_mel import LogMelConfig, mel_filters
from ...engine.stage import Context
from ...engine.weights import find
from ...reports.speech_figures import Deletion, RelevanceMap, SpeechPicture, TransportPlan
from ...reports.speech_grids import relevance_map, second_edges, transport_plan
from ...reports.speech_patient import ShownWord, SpeechPatientReport
from ...speech_recipe import SpeechRecipe
from .explain import Explanation
from .items import AnsweredCase

CLASS_WORDS = {"CN": "no dementia", "MCI": "mild cognitive impairment", "AD": "Alzheimer's dementia"}
MISSING = {
    "text": "No transcript: a learned token stands for the words.",
    "audio": "No recording: a learned token stands for the sound.",
}
FACTS = {"fillers": "fillers", "repeats": "repetitions", "revisions": "revisions", "pauses": "marked pauses"}


def patient_report(
    item: AnsweredCase, recipe: SpeechRecipe, context: Context, *, group_href: str
) -> SpeechPatientReport:
    """Gather everything that a session's page shows."""
    answer, features, heard = item.answer, item.features, item.case.heard
    explanation = answer.explanation
    edges = second_edges(features.audio_spans.numpy()) if features.audio_spans is not None else None
    has_sound = features.audio_spans is not None and edges is not None and explanation is not None
    return SpeechPatientReport(
        key=item.case.session.key,
        title=recipe.title,
        status="done",
        classes=answer.classes,
        class_words={name: CLASS_WORDS[name] for name in answer.classes},
        probability=answer.probability,
        calibration="temperature fitted on validation persons",
        prediction_set=answer.prediction_set,
        error_rate=recipe.answer.error_rate,
        prevalence=_prevalence(recipe),
        modality_share=explanation.shares if explanation is not None and not answer.missing else None,
        modality_notes=[MISSING[name] for name in answer.missing],
        words=_shown(item),
        times_estimated=heard.transcript.estimated if heard.transcript is not None else False,
        machine_transcript=heard.transcript is not None and heard.transcript.source == "asr",
        sound=_sound(item, recipe) if has_sound else None,
        sound_relevance=_relevance(item, explanation, edges, recipe) if has_sound and explanation is not None else None,
        plan=_plan(item, explanation, edges) if has_sound and explanation is not None else None,
        deletion=_deletion(explanation),
        relevance_for=explanation.target if explanation is not None else "",
        relevance_method=explanation.method if explanation is not None else "",
        warnings=list(context.flags),
        notices=recipe.notices,
        facts=_facts(item),
        mmse=answer.mmse,
        provenance={
            "inputs": dict(context.notes.get("sources", {})),
            "recipe": {"name": recipe.name, "sha256": recipe.sha256()},
            "weights": {n: find(n).sha256 for s in recipe.components.values() for n in s.weight_names},
            "plan": context.plan.as_json(),
        },
        methods=recipe.methods,
        citations=recipe.citations,
        group_href=group_href,
    )


def _prevalence(recipe: SpeechRecipe) -> str:
    share = recipe.answer.prevalence
    if share is None:
        return "The probability supposes the class shares of the training data, which are seldom those of a clinic."
    return f"The probability supposes that {100 * share:.0f} % of those who are examined have {CLASS_WORDS[recipe.positive]}."


def _shown(item: AnsweredCase) -> list[ShownWord]:
    features, explanation = item.features, item.answer.explanation
    values = explanation.words if explanation is not None else np.zeros(0)
    largest = float(np.nanmax(values)) if values.size and np.isfinite(values).any() else 0.0
    words = []
    for index, text in enumerate(features.words):
        start, end = features.word_times[index] or (None, None)
        value = float(values[index]) if index < len(values) and np.isfinite(values[index]) and largest > 0 else None
        words.append(ShownWord(text, start, end, None if value is None else value / largest))
    return words


def _sound(item: AnsweredCase, recipe: SpeechRecipe) -> SpeechPicture | None:
    if item.case.picture is None:
        return None
    config = LogMelConfig(sample_rate=recipe.audio.sample_rate, n_fft=recipe.audio.n_fft, n_mels=recipe.audio.n_mels)
    decibels = item.case.picture[0].numpy()
    hop_s = recipe.audio.hop_length / config.sample_rate
    times = np.array([item.case.heard.recording_time((frame + 0.5) * hop_s) for frame in range(decibels.shape[1])])
    filters = mel_filters(config)
    hz = np.arange(filters.shape[1]) * config.sample_rate / config.n_fft
    centres = (filters * hz).sum(1) / np.maximum(filters.sum(1), 1e-12)
    return SpeechPicture(decibels=decibels, times_s=times, centre_hz=centres)


def _relevance(item: AnsweredCase, explanation: Explanation, edges: Any, recipe: SpeechRecipe) -> RelevanceMap | None:
    spans = item.features.audio_spans
    if spans is None:
        return None
    places, values = _by_band(np.asarray(spans.numpy(), dtype=np.float64), explanation, recipe.audio.n_mels)
    return relevance_map(places, values, edges, n_mels=recipe.audio.n_mels)


def _by_band(
    spans: NDArray[np.float64], explanation: Explanation, n_mels: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Split tokens that stand for all Mel bands into the rows of the patches below them."""
    values = explanation.audio[: len(spans)]
    if explanation.patches is None:
        return spans, values
    n_rows = explanation.patches.shape[1]
    edges = np.arange(n_rows + 1) * n_mels / n_rows
    places = np.repeat(spans, n_rows, axis=0)
    places[:, 2], places[:, 3] = np.tile(edges[:-1], len(spans)), np.tile(edges[1:], len(spans))
    return places, (values[:, None] * explanation.patches[: len(spans)]).ravel()


def _plan(item: AnsweredCase, explanation: Explanation, edges: Any) -> TransportPlan | None:
    features = item.features
    if explanation.plan is None or features.word_index is None or features.audio_spans is None:
        return None
    n_text, n_audio = len(features.word_index), len(features.audio_spans)
    return transport_plan(
        explanation.plan[:n_text, :n_audio],
        features.word_index.numpy(),
        len(features.words),
        spans=features.audio_spans.numpy(),
        edges_s=edges,
    )


def _deletion(explanation: Explanation | None) -> Deletion | None:
    if explanation is None or explanation.deletion is None:
        return None
    fractions, most, at_random, least = explanation.deletion
    return Deletion(fractions=fractions, by_relevance=most, at_random=at_random, least_first=least)


def _facts(item: AnsweredCase) -> list[tuple[str, str]]:
    facts = item.features.facts
    rows = []
    if item.features.has_audio:
        spoken = sum(end - start for start, end in facts["speech"])
        rows += [("length of the recording", f"{facts['duration_s']:.1f} s"), ("speech in it", f"{spoken:.1f} s")]
        if facts["snr_db"] is not None:
            rows.append(("speech above noise", f"{facts['snr_db']:.0f} dB"))
    if item.features.words:
        rows.append(("words", str(len(item.features.words))))
    explanation = item.answer.explanation
    if explanation is not None:
        rows += [
            (f"share of the {name} in the score", f"{100 * explanation.vectors[name]:.0f} %")
            for name in ("word counts", "voice statistics")
            if name in explanation.vectors
        ]
    rows += [(text, str(facts["counts"][name])) for name, text in FACTS.items() if name in facts["counts"]]
    return rows
