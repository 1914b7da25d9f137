"""Counts of a transcript: known shares, and marks that are missing stay missing."""

from __future__ import annotations

import math

import pytest

from chiasm.pipelines.training.speech.linguistic_counts import NAMES, linguistic_counts


def named(text: str, **marked: int) -> dict[str, float]:
    return dict(zip(NAMES, linguistic_counts(text, marked).tolist(), strict=True))


def test_shares_of_a_sentence() -> None:
    found = named("The the boy uh he's taking it .")
    assert found["n_words"] == 7
    assert found["type_token_ratio"] == pytest.approx(6 / 7)
    assert found["repeat_share"] == pytest.approx(1 / 7)
    assert found["determiner_share"] == pytest.approx(2 / 7)
    assert found["filler_share"] == pytest.approx(1 / 7)
    assert found["pronoun_share"] == pytest.approx(1 / 7)
    assert found["mean_word_length"] == pytest.approx((3 + 3 + 3 + 2 + 4 + 6 + 2) / 7)


def test_the_moving_ratio_does_not_fall_with_length() -> None:
    words = " ".join(f"word{'abcdefghijklmnopqrstuvwxyz'[i % 25]}" for i in range(200))
    found = named(words)
    assert found["type_token_ratio"] == pytest.approx(25 / 200)
    assert found["moving_type_token_ratio"] == 1.0


def test_marks_are_rates_and_missing_ones_are_not_zero() -> None:
    found = named("one two three four", fillers=2, repeats=0)
    assert found["marked_fillers_per_word"] == 0.5
    assert found["marked_repeats_per_word"] == 0.0
    assert math.isnan(found["marked_pauses_per_word"])


def test_an_empty_transcript_has_no_words() -> None:
    assert named("... 12")["n_words"] == 0.0
