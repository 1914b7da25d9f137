"""Background of one length that says nothing about pauses; the recording without the investigator."""

from __future__ import annotations

import numpy as np
import pytest

from chiasm.data.audio import Clip
from chiasm.data.background import background, only, participant_spans, remove_investigator, without
from chiasm.data.spans import Span, complement
from chiasm.data.transcripts import Turn

RATE = 8000


def recording(speech: list[Span], seconds: float, *, noise: float = 0.01, seed: int = 0) -> Clip:
    """Noise, and a value of 0.9 (which noise never has) where somebody speaks."""
    samples = np.random.default_rng(seed).normal(0, noise, round(seconds * RATE)).astype(np.float32)
    for span in speech:
        samples[round(span.start_s * RATE) : round(span.end_s * RATE)] = 0.9
    return Clip(samples, RATE)


TALKER = [Span(k + 0.3, k + 0.7) for k in range(60)]  # many short pauses, of 0.6 s
SILENT = [Span(0.3, 2.0), Span(40.0, 45.0)]  # a few long ones


@pytest.mark.parametrize("speech", [TALKER, SILENT])
def test_background_has_one_length_no_speech_and_an_even_level(speech: list[Span]) -> None:
    clip = recording(speech, 60)
    out = background(clip, speech, length_s=5.0, seed=3)
    assert out is not None
    assert len(out.samples) == 5 * RATE
    assert out.rate == RATE
    assert np.abs(out.samples).max() < 0.1
    power = np.square(out.samples)
    assert power.mean() == pytest.approx(1e-4, rel=0.05)
    # Equal-power joins, every 0.23 s: the level does not dip there.
    joins = [power[round((k * 0.23 + 0.005) * RATE) : round((k * 0.23 + 0.015) * RATE)].mean() for k in range(1, 21)]
    assert np.mean(joins) == pytest.approx(1e-4, rel=0.1)


def test_how_a_person_pauses_cannot_be_read_from_the_joins() -> None:
    ramp = np.arange(60 * RATE, dtype=np.float32) / (60 * RATE)  # each sample tells its place
    jumps = []
    for speech in (TALKER, SILENT, [], [Span(0, 50)]):
        out = background(Clip(ramp, RATE), speech, length_s=4.0, seed=1)
        assert out is not None
        # Where two pieces are joined the slope is not that of the recording.
        broken = np.abs(np.diff(out.samples) - 1 / (60 * RATE)) > 1e-6
        places = np.flatnonzero(broken)
        jumps.append({round(place / (0.23 * RATE) - 0.02) for place in places})
    assert jumps[0] == jumps[1] == jumps[2] == jumps[3]
    assert len(jumps[0]) == 17


def test_nothing_is_used_twice_and_who_has_too_little_is_left_out() -> None:
    ramp = np.arange(10 * RATE, dtype=np.float32) / (10 * RATE)
    speech = [Span(2.0, 10.0)]  # leaves 1.9 s: seven pieces of 0.25 s
    out = background(Clip(ramp, RATE), speech, length_s=1.6, seed=0)
    assert out is not None
    # Seven pieces are needed, of 0.25 s, a new one every 0.23 s: each is seen once.
    places = [10 * float(out.samples[round((k * 0.23 + 0.1) * RATE)]) - 0.1 for k in range(7)]
    np.testing.assert_allclose(sorted(places), np.arange(7) * 0.25, atol=1e-3)
    assert background(Clip(ramp, RATE), speech, length_s=1.8, seed=0) is None
    assert background(Clip(ramp, RATE), speech, length_s=1.6, margin_s=0.5, seed=0) is None
    # Pauses shorter than a piece are not patched together.
    short = [Span(k * 0.6, k * 0.6 + 0.3) for k in range(16)]
    assert background(Clip(ramp, RATE), short, length_s=0.5, seed=0) is None


def test_a_seed_gives_one_background_and_another_seed_another() -> None:
    clip = recording(SILENT, 60)
    first, again, other = (background(clip, SILENT, length_s=3.0, seed=seed) for seed in (1, 1, 2))
    assert first is not None
    assert again is not None
    assert other is not None
    np.testing.assert_array_equal(first.samples, again.samples)
    assert not np.array_equal(first.samples, other.samples)


@pytest.mark.parametrize("rate", [16000, 22050, 44100])
@pytest.mark.parametrize("length_s", [0.1, 0.25, 1.0, 2.34567])
def test_the_length_is_exact_at_every_rate(rate: int, length_s: float) -> None:
    clip = Clip(np.full(rate * 6, 0.1, np.float32), rate)
    out = background(clip, [Span(1, 2)], length_s=length_s, seed=0)
    assert out is not None
    assert len(out.samples) == round(length_s * rate)


def test_lengths_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="length_s must be > 0"):
        background(recording([], 1), [], length_s=0, seed=0)


def test_only_and_without_divide_the_recording_between_them() -> None:
    spans = [Span(1.0, 2.0), Span(3.5, 4.0)]
    clip = recording(spans, 6)
    inside, outside = only(clip, spans), without(clip, spans)
    assert len(inside.samples) == 1.5 * RATE
    assert len(inside.samples) + len(outside.samples) == len(clip.samples)
    away = np.ones(len(inside.samples), bool)
    away[RATE - 40 : RATE + 40] = False  # 5 ms on both sides of the join
    assert (inside.samples[away] == np.float32(0.9)).all()
    assert abs(inside.samples[RATE]) < 0.05, "faded at the join"
    assert inside.samples[0] == inside.samples[-1] == np.float32(0.9), "not at the ends"
    assert np.abs(outside.samples).max() < 0.1
    assert clip.samples[RATE] == np.float32(0.9), "the recording itself is unchanged"
    assert len(only(clip, []).samples) == 0


def turn(speaker: str, start_s: float, end_s: float) -> Turn:
    return Turn(speaker=speaker, start_s=start_s, end_s=end_s)  # type: ignore[arg-type]


def test_the_investigator_is_taken_out_of_the_sound() -> None:
    questions = [Span(0.0, 1.0), Span(4.0, 4.5)]
    clip = recording(questions, 6)
    turns = [
        turn("investigator", 0, 1),
        turn("participant", 1.2, 4.2),
        turn("investigator", 4, 4.5),
        turn("participant", 5, 5.5),
    ]
    assert participant_spans(turns, 6) == [Span(1.2, 4.0), Span(5.0, 5.5)]
    heard = remove_investigator(clip, turns)
    assert len(heard.samples) == round(3.3 * RATE)
    assert heard.samples.max() < 0.1


def test_without_turns_of_the_participant_what_is_nobody_elses_is_kept() -> None:
    turns = [turn("investigator", 1, 2), turn("other", 3, 4)]
    assert participant_spans(turns, 5) == [Span(0, 1), Span(2, 3), Span(4, 5)]
    assert participant_spans([], 5) == [Span(0, 5)] == complement([], 5)
    clip = recording([], 5)
    np.testing.assert_array_equal(remove_investigator(clip, []).samples, clip.samples)
    assert len(remove_investigator(clip, [turn("investigator", 0, 9)]).samples) == 0
