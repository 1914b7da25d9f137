"""Pauses: known numbers of a hand-made recording."""

from __future__ import annotations

import numpy as np
import pytest

from chiasm.data.spans import Span
from chiasm.pipelines.training.speech.pause_pattern import NAMES, pause_pattern


def named(speech: list[Span], duration_s: float) -> dict[str, float]:
    return dict(zip(NAMES, pause_pattern(speech, duration_s).tolist(), strict=True))


def test_pauses_lie_between_stretches_of_speech() -> None:
    found = named([Span(10, 12), Span(1, 4), Span(5, 8)], 20.0)
    assert found["n_pauses"] == 2  # 4-5 and 8-10; neither the start nor the end
    assert (found["pause_mean_s"], found["pause_sd_s"], found["pause_max_s"]) == (1.5, 0.5, 2.0)
    assert found["pauses_per_minute"] == pytest.approx(6.0)
    assert found["silence_share"] == pytest.approx(0.6)
    assert (found["n_segments"], found["segment_mean_s"]) == (3, pytest.approx(8 / 3))
    assert found["segments_per_minute"] == pytest.approx(9.0)
    assert found["duration_s"] == 20.0


def test_speech_from_the_first_moment_keeps_its_pauses() -> None:
    assert named([Span(0, 1), Span(2, 3)], 3.0)["n_pauses"] == 1


def test_silence_and_unbroken_speech_are_numbers_too() -> None:
    silent, whole = named([], 5.0), named([Span(0, 5)], 5.0)
    assert (silent["silence_share"], silent["n_pauses"], silent["n_segments"]) == (1.0, 0, 0)
    assert (whole["silence_share"], whole["n_pauses"], whole["segment_sd_s"]) == (0.0, 0, 0.0)
    assert np.isfinite(list(silent.values()) + list(whole.values())).all()
