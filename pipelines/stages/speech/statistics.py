"""Counts of the words and statistics of the voice: numbers of one interview that a token sequence shows only indirectly."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ....data.spans import Span
from ...training.speech.acoustic_statistics import NAMES as ACOUSTIC
from ...training.speech.linguistic_counts import NAMES as LINGUISTIC
from ...training.speech.linguistic_counts import linguistic_counts
from ...training.speech.pause_pattern import NAMES as PAUSES
from ...training.speech.pause_pattern import pause_pattern
from .features import SpeechFeatures
from .hearing import View

TEXT_STATISTICS = len(LINGUISTIC)
AUDIO_STATISTICS = len(ACOUSTIC) + len(PAUSES)


def statistics_of(features: SpeechFeatures, view: View = "participant") -> tuple[Tensor | None, Tensor | None]:
    """Return the counts of the words (13,) and the statistics of the voice with the pauses (156,), float32.

    Parameters
    ----------
    features : SpeechFeatures
    view : str
        Pauses, length and marked disfluencies are the participant's own behaviour: in the controls' views, which must not tell them,
        they are NaN.

    Returns
    -------
    text, audio : Tensor or None
        None where the modality is missing; NaN where a number is.
    """
    facts: dict[str, Any] = dict(features.facts)
    text = audio = None
    if features.has_text:
        # The marks that a transcript counts are the participant's, whoever's words a control hears.
        marked = facts.get("counts", {}) if view == "participant" else {}
        counts = linguistic_counts(" ".join(features.words), marked)
        text = torch.from_numpy(counts).float()
    if features.has_audio and facts.get("acoustic") is not None:
        pauses = np.full(len(PAUSES), np.nan)
        if view == "participant" and facts["duration_s"] > 0:
            pauses = pause_pattern([Span(*pair) for pair in facts["speech"]], facts["duration_s"])
        audio = torch.from_numpy(np.concatenate([np.asarray(facts["acoustic"], dtype=np.float64), pauses])).float()
    return text, audio
