"""Synthetic voices: pitch, rate and what is done to them can be measured in the sound."""

from __future__ import annotations

import shutil
import subprocess
from typing import Any

import numpy as np
import pytest

from chiasm.data.errors import ToolError
from chiasm.data.phantoms.speech_synthesis import (
    RATE,
    Prosody,
    Samples,
    Voice,
    choose,
    resample,
    speak,
    speak_often,
    with_prosody,
)

TEXT = "the boy is standing on the stool"


def tone(seconds: float, hz: float = 200.0) -> Samples:
    """A tone of root mean square 1."""
    return np.asarray(np.sqrt(2) * np.sin(2 * np.pi * hz * np.arange(int(seconds * RATE)) / RATE), dtype=np.float32)


def pitches(samples: Samples) -> np.ndarray:
    """Pitch of each cycle of a tone, from its rising zero crossings (interpolated)."""
    at = np.flatnonzero((samples[:-1] < 0) & (samples[1:] >= 0))
    exact = at + samples[at] / (samples[at] - samples[at + 1])
    return RATE / np.diff(exact)


def fundamental(samples: Samples) -> float:
    """Strongest lag of the autocorrelation between 70 and 350 Hz, as Hz."""
    spectrum = np.abs(np.fft.rfft(samples, 2 * len(samples))) ** 2
    lags = np.arange(RATE // 350, RATE // 70)
    return float(RATE / lags[np.argmax(np.fft.irfft(spectrum)[lags])])


@pytest.mark.parametrize(("variant", "hz"), [("m3", 110.0), ("f3", 195.0)])
def test_formant_voices_have_their_pitch(variant: str, hz: float) -> None:
    assert fundamental(speak("a oo a", Voice(variant=variant), "formant")) == pytest.approx(hz, rel=0.04)
    higher = fundamental(speak("a oo a", Voice(variant=variant, pitch=60), "formant"))
    assert higher / hz == pytest.approx(2 ** (10 / 60), rel=0.04)


def test_vowels_of_the_formant_voice_differ_as_their_formants_do() -> None:
    def centroid(letter: str) -> float:
        sound = speak(letter, Voice(variant="m3", words_per_minute=80), "formant")
        power = np.abs(np.fft.rfft(sound)) ** 2
        hz = np.fft.rfftfreq(len(sound), 1 / RATE)
        band = (hz > 1200) & (hz < 2300)
        return float(power[band].sum() / power[(hz > 500) & (hz < 1200)].sum())

    assert centroid("i") > 3 * centroid("o")


def test_a_faster_voice_is_shorter_in_proportion() -> None:
    slow, fast = (len(speak(TEXT, Voice(words_per_minute=n), "formant")) for n in (120, 240))
    assert slow / fast == pytest.approx(2.0, rel=0.03)


def test_speech_has_unit_level_and_no_silence_at_its_ends() -> None:
    sound = speak(TEXT, Voice(), "formant")
    assert np.sqrt(np.mean(sound**2)) == pytest.approx(1.0, rel=1e-4)
    assert min(np.abs(sound[:200]).max(), np.abs(sound[-200:]).max()) > 0.01 * np.abs(sound).max()


def test_without_prosody_nothing_but_the_level_changes() -> None:
    sound = tone(0.5, hz=20.0)
    moved = with_prosody(3.0 * sound, Prosody(), np.random.default_rng(0))
    assert np.abs(moved - sound).max() < 0.01  # the time of a sample


@pytest.mark.parametrize("jitter", [0.01, 0.03])
def test_jitter_is_the_spread_of_cycle_to_cycle_pitch(jitter: float) -> None:
    hz = pitches(with_prosody(tone(4.0), Prosody(jitter=jitter), np.random.default_rng(0)))
    # A cycle of 200 Hz averages over part of the noise, which is drawn 120 times a second.
    assert 0.6 * jitter < np.std(np.log(hz)) < 1.05 * jitter


def test_pitch_range_is_in_semitones_and_the_length_stays() -> None:
    sound = tone(8.0)
    moved = with_prosody(sound, Prosody(pitch_range=2.0), np.random.default_rng(1))
    assert len(moved) == len(sound)
    assert np.std(12 * np.log2(pitches(moved))) == pytest.approx(2.0, rel=0.25)


def test_shimmer_is_the_spread_of_the_amplitude_of_cycles() -> None:
    moved = with_prosody(tone(4.0), Prosody(shimmer=0.2), np.random.default_rng(2))
    cycles = moved[: len(moved) // 110 * 110].reshape(-1, 110)
    assert np.std(np.log(np.sqrt((cycles**2).mean(axis=1)))) == pytest.approx(0.2, rel=0.25)


def test_effort_tilts_the_spectrum_and_leaves_the_level() -> None:
    noise = np.random.default_rng(3).standard_normal(RATE).astype(np.float32)

    def tilt(effort: float) -> float:
        sound = with_prosody(noise, Prosody(effort=effort), np.random.default_rng(0))
        assert np.sqrt(np.mean(sound**2)) == pytest.approx(1.0, rel=1e-4)
        power, hz = np.abs(np.fft.rfft(sound)) ** 2, np.fft.rfftfreq(len(sound), 1 / RATE)
        return float(10 * np.log10(power[hz > 3000].mean() / power[hz < 1000].mean()))

    assert tilt(0.6) - tilt(-0.6) > 12.0


def test_size_of_one_marker_does_not_change_the_draws_of_another() -> None:
    sound = tone(1.0)
    plain = pitches(with_prosody(sound, Prosody(pitch_range=1.0), np.random.default_rng(4)))
    also = pitches(with_prosody(sound, Prosody(pitch_range=1.0, shimmer=0.05), np.random.default_rng(4)))
    assert np.median(np.abs(plain / also - 1)) < 0.01


def test_resampling_keeps_length_in_seconds_and_pitch() -> None:
    moved = resample(tone(1.0, hz=440.0), 16000)
    assert len(moved) == 16000
    assert np.argmax(np.abs(np.fft.rfft(moved))) == 440
    assert resample(moved, RATE) is moved


def test_espeak_that_is_asked_for_and_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert choose("auto") == "formant"
    assert choose("formant") == "formant"
    with pytest.raises(ToolError, match="CHI-TL-011"):
        choose("espeak")
    with pytest.raises(ToolError, match="CHI-TL-011"):
        speak(TEXT, Voice(), "espeak")


def test_text_never_reaches_the_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[list[str], dict[str, Any]]] = []
    header = b"RIFF\0\0\0\0WAVEfmt " + bytes(8) + RATE.to_bytes(4, "little") + bytes(16)
    samples = np.array([0, 500, -800, 300, 0], dtype="<i2").tobytes()

    def run(arguments: list[str], **options: Any) -> subprocess.CompletedProcess[bytes]:
        calls.append((arguments, options))
        return subprocess.CompletedProcess(arguments, 0, header + samples)

    monkeypatch.setattr(shutil, "which", lambda name: f"bin/{name}")
    monkeypatch.setattr(subprocess, "run", run)
    sound = speak("-v; rm", Voice(accent="en-gb", variant="m1", pitch=40, words_per_minute=150), "espeak")
    assert sound / sound[0] == pytest.approx([1.0, -1.6, 0.6])
    ((arguments, options),) = calls
    assert arguments == ["bin/espeak-ng", *"-v en-gb+m1 -s 150 -p 40 -z --stdin --stdout".split()]
    assert options["input"] == b"-v; rm"
    assert "shell" not in options


@pytest.mark.parametrize("wav", [b"", b"RIFF" + bytes(60)])
def test_a_program_that_does_not_speak_is_named(monkeypatch: pytest.MonkeyPatch, wav: bytes) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: name)
    monkeypatch.setattr(subprocess, "run", lambda arguments, **_: subprocess.CompletedProcess(arguments, 0, wav))
    with pytest.raises(ToolError, match="CHI-TL-011"):
        speak(TEXT, Voice(), "espeak")


@pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="espeak-ng is not installed")
def test_espeak_speaks_the_same_twice_and_faster_when_told() -> None:
    sound = speak(TEXT, Voice(), "espeak")
    assert (sound == speak(TEXT, Voice(), "espeak")).all()
    assert 1.0 < len(sound) / RATE < 3.5
    assert len(speak(TEXT, Voice(words_per_minute=250), "espeak")) < 0.8 * len(sound)


def test_what_is_said_often_is_kept_and_cannot_be_changed() -> None:
    sound = speak_often("anything else", Voice(), "formant")
    assert speak_often("anything else", Voice(), "formant") is sound
    with pytest.raises(ValueError, match="read-only"):
        sound[0] = 0
