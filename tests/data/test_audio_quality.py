"""Level, noise, clipping measured on signals where they are known; what cannot be used is refused."""

from __future__ import annotations

import numpy as np
import pytest

from chiasm.data.audio import Clip
from chiasm.data.audio_quality import CODES, assess, check_usable, level
from chiasm.data.errors import InputError
from chiasm.data.spans import Span

RATE = 16000
SPEECH = [Span(1.0, 4.0), Span(5.0, 8.0)]


def recording(*, speech: float = 0.1, noise: float = 0.001, seconds: float = 10.0) -> Clip:
    """A tone of amplitude `speech` in SPEECH over noise of standard deviation `noise`."""
    t = np.arange(round(seconds * RATE)) / RATE
    active = sum((t >= span.start_s) & (t < span.end_s) for span in SPEECH)
    samples = speech * active * np.sin(2 * np.pi * 441.3 * t) + np.random.default_rng(0).normal(0, noise, len(t))
    return Clip(samples.astype(np.float32), RATE)


def test_level_noise_and_peak_are_those_of_the_signal() -> None:
    quality = assess(recording(), SPEECH)
    assert quality.duration_s == 10
    assert quality.speech_s == pytest.approx(6)
    assert quality.speech_level_dbfs == pytest.approx(20 * np.log10(0.1 / np.sqrt(2)), abs=0.05)
    assert quality.snr_db == pytest.approx(20 * np.log10(0.1 / np.sqrt(2) / 0.001), abs=0.2)
    assert quality.peak_dbfs == pytest.approx(-20, abs=0.5)
    assert quality.clipped_fraction == 0
    assert not quality.silent
    assert quality.warnings() == []


def test_noise_is_not_counted_as_speech() -> None:
    quality = assess(recording(speech=0.05, noise=0.05), SPEECH)
    assert quality.snr_db == pytest.approx(-3, abs=0.3)
    assert any("noisy" in text for text in quality.warnings())


@pytest.mark.parametrize("ceiling", [0.25, 0.9, 1.0])
def test_clipping_is_seen_below_full_scale_too(ceiling: float) -> None:
    clip = recording(speech=2 * ceiling, noise=0)
    cut_off = Clip(np.clip(clip.samples, -ceiling, ceiling), RATE)
    wanted = np.mean(np.abs(clip.samples) >= ceiling)
    quality = assess(cut_off, SPEECH)
    assert quality.clipped_fraction == pytest.approx(wanted, rel=0.1)
    assert any("clipped" in text for text in quality.warnings())
    assert assess(recording(speech=ceiling, noise=0), SPEECH).clipped_fraction < 0.001


def test_gated_silence_has_a_finite_ratio_and_no_gap_has_none() -> None:
    assert assess(recording(noise=0), SPEECH).snr_db == 80
    assert assess(recording(), [Span(0, 10)]).snr_db is None
    assert assess(recording(), []).snr_db is None
    assert assess(recording(), []).speech_level_dbfs is None


@pytest.mark.parametrize(
    ("clip", "speech", "word"),
    [
        (Clip(recording().samples[: 3 * RATE], RATE), [Span(1, 3)], "very little speech"),
        (recording(speech=0.003, noise=1e-5), SPEECH, "quiet"),
        (Clip(np.zeros(RATE, np.float32), RATE), [], "silent"),
        (recording(speech=0, noise=5e-6), [], "silent"),
    ],
)
def test_what_is_wrong_is_said_in_words(clip: Clip, speech: list[Span], word: str) -> None:
    (text,) = assess(clip, speech).warnings()
    assert word in text
    assert text.endswith(".")


def test_silence_and_too_short_recordings_are_refused() -> None:
    for samples in (np.zeros(RATE), np.random.default_rng(0).normal(0, 1e-5, RATE)):
        with pytest.raises(InputError, match="CHI-IN-215") as caught:
            check_usable(Clip(samples.astype(np.float32), RATE), relative="a.wav")
        assert caught.value.file == "a.wav"
    loud = np.full(8 * 512, 0.1, np.float32)
    check_usable(Clip(loud, RATE))
    for short in (loud[:-1], loud[:0]):
        with pytest.raises(InputError, match="CHI-IN-216"):
            check_usable(Clip(short, RATE))
    check_usable(Clip(loud[: 2 * 512], RATE), min_frames=3)
    check_usable(Clip(loud[: 8 * 128], RATE), hop_length=128)
    assert {"CHI-IN-215", "CHI-IN-216"} == set(CODES)


@pytest.mark.parametrize("speech", [0.01, 0.1, 0.5])
def test_speech_is_brought_to_the_level_whatever_the_pauses_are(speech: float) -> None:
    out = level(recording(speech=speech, noise=0.0001), SPEECH, target_dbfs=-23)
    assert assess(out, SPEECH).speech_level_dbfs == pytest.approx(-23, abs=0.01)
    assert out.samples.dtype == np.float32


def test_the_gain_is_limited_and_never_clips() -> None:
    faint = level(recording(speech=1e-4, noise=0), SPEECH)
    assert assess(faint, SPEECH).speech_level_dbfs == pytest.approx(20 * np.log10(1e-4 / np.sqrt(2)) + 30, abs=0.05)
    knock = recording(speech=0.01, noise=0)
    knock.samples[0] = 0.5
    out = level(knock, SPEECH, target_dbfs=-20)
    assert np.abs(out.samples).max() == pytest.approx(0.999, abs=1e-3)
    assert assess(out, SPEECH).clipped_fraction == 0


def test_level_without_spans_takes_the_whole_and_leaves_silence_alone() -> None:
    clip = Clip(np.full(RATE, 0.5, np.float32), RATE)
    assert np.allclose(level(clip, [], target_dbfs=-20).samples, 0.1)
    silence = Clip(np.zeros(RATE, np.float32), RATE)
    assert level(silence, []) is silence
    assert level(silence, [Span(0, 1)]) is silence
