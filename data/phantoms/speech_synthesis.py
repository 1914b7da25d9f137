"""Synthetic voices: espeak-ng where it is installed, else a rough formant synthesiser in numpy; and what is done to them.

Jitter, pitch range, shimmer and vocal effort are put on the finished waveform, so that they mean the same with either
voice: moving along the time axis unevenly moves the pitch (and, a little, the formants).
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ..errors import ToolError

CODES: dict[str, str] = {
    "CHI-TL-011": "espeak-ng, which was asked for, is not installed or does not speak",
}

Samples = NDArray[np.float32]
Synthesiser = Literal["espeak", "formant"]

RATE = 22050
"""Sampling rate of both synthesisers, in Hz."""

PROGRAM = "espeak-ng"
TIMEOUT_S = 60.0
_HEADER_BYTES = 44  # of the RIFF file that espeak-ng writes to its standard output


@dataclass(frozen=True, kw_only=True)
class Voice:
    """Who speaks.

    Parameters
    ----------
    accent, variant : str
        A language and a voice variant of espeak-ng: ``en-us``, ``f2``.
    pitch : int
        0 to 99, 50 is the variant's own.
    words_per_minute : int
        80 to 450.
    """

    accent: str = "en-us"
    variant: str = "f2"
    pitch: int = 50
    words_per_minute: int = 165


@dataclass(frozen=True, kw_only=True)
class Prosody:
    """What is done to a voice.

    Parameters
    ----------
    jitter : float
        Standard deviation of the fast change of pitch, relative.
    pitch_range : float
        Standard deviation of the slow change of pitch, in semitones.
    shimmer : float
        Standard deviation of the fast change of amplitude, in nepers.
    effort : float
        First-difference coefficient: above 0 bright (pressed), below 0 dark (breathy).
    """

    jitter: float = 0.0
    pitch_range: float = 0.0
    shimmer: float = 0.0
    effort: float = 0.0


def choose(name: str) -> Synthesiser:
    """Return the synthesiser of a name; ``auto`` is espeak-ng where it is installed.

    Raises
    ------
    ToolError
        CHI-TL-011: espeak-ng was asked for and is not there.
    """
    installed = shutil.which(PROGRAM) is not None
    if name == "espeak" and not installed:
        raise ToolError("CHI-TL-011", "espeak-ng is not installed.", "Install it, or use --synthesiser formant.")
    return "espeak" if installed and name != "formant" else "formant"


def speak(text: str, voice: Voice, synthesiser: Synthesiser) -> Samples:
    """Return words as sound at 22050 Hz, without silence at the ends.

    Parameters
    ----------
    text : str
    voice : Voice
    synthesiser : {'espeak', 'formant'}

    Returns
    -------
    ndarray of float32, shape (n,)
        Root mean square 1.

    Raises
    ------
    ToolError
        CHI-TL-011.
    """
    return _trimmed(_espeak(text, voice) if synthesiser == "espeak" else _formant(text, voice))


@lru_cache(maxsize=4096)
def speak_often(text: str, voice: Voice, synthesiser: Synthesiser) -> Samples:
    """Do as `speak`, for what is said again and again: remembered, and read-only."""
    samples = speak(text, voice, synthesiser)
    samples.setflags(write=False)
    return samples


def with_prosody(samples: Samples, prosody: Prosody, rng: np.random.Generator) -> Samples:
    """Move pitch and amplitude; the length stays (to a few per mille), the root mean square becomes 1.

    Parameters
    ----------
    samples : ndarray of float32, shape (n,)
        At 22050 Hz.
    prosody : Prosody
    rng : Generator

    Returns
    -------
    ndarray of float32, shape (m,)
    """
    n = len(samples)
    # Pitch wanders about four times a second, jitter and shimmer change from one glottal cycle to the next or the one
    # after that. Both are drawn whatever their size, so that markers do not shift the random numbers of each other.
    slow, fast, loud = (_smooth(rng, n, hz) for hz in (4.0, 120.0, 120.0))
    speed = np.exp(prosody.pitch_range * np.log(2) / 12 * slow + prosody.jitter * fast)
    position = np.cumsum(speed)
    position *= (n - 1) / position[-1]  # the mean speed is no marker here
    moved = np.interp(position, np.arange(n), samples) * np.exp(prosody.shimmer * loud)
    tilted = np.append(moved[:1], moved[1:] - prosody.effort * moved[:-1])
    return _unit(tilted)


def resample(samples: Samples, rate: int) -> Samples:
    """Bring 22050 Hz to another rate."""
    from scipy.signal import resample_poly

    if rate == RATE:
        return samples
    divisor = int(np.gcd(rate, RATE))
    return np.asarray(resample_poly(samples, rate // divisor, RATE // divisor), dtype=np.float32)


def _smooth(rng: np.random.Generator, n: int, hz: float) -> NDArray[np.float64]:
    """Noise of unit variance, linear between values that are drawn `hz` times a second."""
    knots = rng.standard_normal(int(n * hz / RATE) + 3)
    noise = np.interp(np.arange(n) * hz / RATE + rng.random(), np.arange(len(knots)), knots)
    return np.asarray(noise * np.sqrt(1.5))  # linear interpolation leaves two thirds of the variance


def _unit(samples: NDArray[np.floating]) -> Samples:
    level = float(np.sqrt(np.mean(np.square(samples, dtype=np.float64))))
    return np.asarray(samples / max(level, 1e-9), dtype=np.float32)


def _trimmed(samples: Samples) -> Samples:
    loud = np.flatnonzero(np.abs(samples) > 0.01 * np.abs(samples).max(initial=0.0))
    return _unit(samples[loud[0] : loud[-1] + 1]) if len(loud) else samples


def _espeak(text: str, voice: Voice) -> Samples:
    program = shutil.which(PROGRAM)
    command = ["-v", f"{voice.accent}+{voice.variant}", "-s", str(voice.words_per_minute), "-p", str(voice.pitch)]
    wav = b""
    with suppress(OSError, subprocess.SubprocessError):  # whatever went wrong, there is no sound
        if program is not None:
            wav = subprocess.run(  # noqa: S603 - a fixed program, no shell, the text goes through standard input
                [program, *command, "-z", "--stdin", "--stdout"],
                input=text.encode("ascii"),
                capture_output=True,
                timeout=TIMEOUT_S,
                check=True,
            ).stdout
    if len(wav) <= _HEADER_BYTES or int.from_bytes(wav[24:28], "little") != RATE:
        raise ToolError("CHI-TL-011", "espeak-ng does not speak as expected.", "Use --synthesiser formant.")
    # The length in the header of a stream is not known to its writer: what follows the header is samples.
    return np.frombuffer(wav[_HEADER_BYTES : len(wav) - len(wav) % 2], dtype="<i2").astype(np.float32)


# Formants in Hz (first to third) of letters that are voiced; loudness; relative length.
_VOICED: Mapping[str, tuple[tuple[int, int, int], float, float]] = {
    "a": ((730, 1090, 2440), 1.0, 1.2),
    "e": ((530, 1840, 2480), 1.0, 1.0),
    "i": ((390, 1990, 2550), 0.9, 0.9),
    "o": ((570, 840, 2410), 1.0, 1.1),
    "u": ((440, 1020, 2240), 0.9, 1.0),
    "y": ((300, 2200, 2900), 0.8, 0.9),
    "m": ((280, 1000, 2200), 0.4, 0.8),
    "n": ((280, 1500, 2500), 0.4, 0.8),
    "l": ((360, 1300, 2700), 0.6, 0.7),
    "r": ((420, 1250, 1600), 0.6, 0.7),
    "w": ((300, 700, 2200), 0.6, 0.7),
    "v": ((280, 1200, 2300), 0.3, 0.7),
    "z": ((280, 1700, 2500), 0.3, 0.8),
    "j": ((280, 2100, 2700), 0.4, 0.8),
}
# Centre of the noise in Hz; loudness; relative length. A stop is a short noise after as long a silence.
_NOISE: Mapping[str, tuple[int, float, float]] = {
    "s": (5500, 0.25, 0.9),
    "x": (5000, 0.25, 0.9),
    "c": (3500, 0.3, 0.7),
    "f": (4500, 0.15, 0.8),
    "h": (1500, 0.12, 0.6),
}
_STOPS: Mapping[str, int] = {"p": 900, "b": 700, "t": 4000, "d": 3000, "k": 2000, "g": 1800, "q": 2000}
_PHONEME_S = 0.075
_REFERENCE_RATE = 165.0


def _formant(text: str, voice: Voice) -> Samples:
    """Speak letters as if each were a sound; two of the same are one."""
    unit = _PHONEME_S * _REFERENCE_RATE / voice.words_per_minute
    low = voice.variant.startswith("m")
    # The number of the variant stands for the size of the throat.
    throat = (1.0 if low else 1.15) * (1 + 0.02 * (int(re.sub(r"\D", "", voice.variant) or 0) - 3))
    f0 = (110.0 if low else 195.0) * 2 ** ((voice.pitch - 50) / 60)
    rng = np.random.default_rng(len(text))  # the hiss of one text is always the same
    parts = []
    for word in text.split():
        parts += [_sound(letter, unit, f0, throat, rng) for letter in re.sub(r"(.)\1+", r"\1", word)]
        parts.append(np.zeros(int(0.25 * unit * RATE), dtype=np.float32))
    sound = np.concatenate(parts)
    seconds = np.arange(len(sound)) / RATE
    # Sounds swell and fade within a stretch as breath does, which also spares clicks at its ends.
    return np.asarray(sound * np.minimum(1.0, np.minimum(seconds, seconds[::-1]) / 0.01), dtype=np.float32)


def _sound(letter: str, unit: float, f0: float, throat: float, rng: np.random.Generator) -> Samples:
    from scipy.signal import lfilter

    if letter in _VOICED:
        formants, loudness, length = _VOICED[letter]
        n = int(length * unit * RATE)
        phase = np.arange(n) * f0 / RATE
        # A saw tooth, smoothed: about what comes through the glottis.
        sound = np.asarray(lfilter([0.1], [1.0, -0.9], 1.0 - 2.0 * (phase % 1.0)))
        for centre, width in zip(formants, (80.0, 110.0, 160.0), strict=True):
            sound = sound + 0.9 * _resonated(sound, centre * throat, width)
    elif letter in _NOISE:
        centre, loudness, length = _NOISE[letter]
        n = int(length * unit * RATE)
        sound = _resonated(rng.standard_normal(n), centre * throat, 1200.0)
    else:
        n = int(0.35 * unit * RATE)
        burst = _resonated(rng.standard_normal(n), _STOPS.get(letter, 2000) * throat, 600.0)
        sound, loudness = np.append(np.zeros(n), burst), 0.2
    fade = np.minimum(1.0, np.minimum(np.arange(len(sound)), np.arange(len(sound))[::-1]) / (0.005 * RATE))
    return loudness * _unit(sound) * fade.astype(np.float32)


def _resonated(sound: NDArray[np.floating], centre_hz: float, width_hz: float) -> NDArray[np.float64]:
    """Second-order resonator with unit gain at its centre, roughly."""
    from scipy.signal import lfilter

    radius, angle = np.exp(-np.pi * width_hz / RATE), 2 * np.pi * min(centre_hz, 0.45 * RATE) / RATE
    gain = (1 - radius) * np.sqrt(1 - 2 * radius * np.cos(2 * angle) + radius**2)
    return np.asarray(lfilter([gain], [1.0, -2 * radius * np.cos(angle), radius**2], sound))
