"""The timeline of a synthetic interview, and its two files: 16-bit WAV and CHAT, both marked as synthetic."""

from __future__ import annotations

import math
import struct
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from .interview_scripts import BULLET
from .speech_synthesis import Samples

NOTE = "Synthetic: no person was recorded or measured."

_LINE = 80


@dataclass(frozen=True)
class Line:
    """One main line of CHAT with its times in the recording."""

    speaker: str
    text: str
    start_ms: int
    end_ms: int


@dataclass(eq=False)
class Track:
    """Sound that grows at its end.

    Parameters
    ----------
    rate : int
        Samples a second.
    """

    rate: int
    lines: list[Line] = field(default_factory=list)
    _parts: list[Samples] = field(default_factory=list)
    _length: int = 0

    def wait(self, seconds: float) -> None:
        """Add silence."""
        self._add(np.zeros(round(seconds * self.rate), dtype=np.float32))

    def say(self, speaker: str, text: str, samples: Samples) -> None:
        """Add speech, and its line in the transcript."""
        start = self._length
        self._add(samples)
        self.lines.append(Line(speaker, text, *(round(1000 * n / self.rate) for n in (start, self._length))))

    def into_room(self, rng: np.random.Generator, *, noise_db: float, gain_db: float) -> None:
        """Add the noise of a room, then turn the knob of the microphone.

        Parameters
        ----------
        rng : Generator
        noise_db : float
            Level of the noise relative to speech of root mean square 1.
        gain_db : float
            What becomes of root mean square 1, relative to full scale.
        """
        from scipy.signal import lfilter

        white = rng.standard_normal(self._length)
        # Half hum and rumble, half hiss; unit variance each (a first-order filter multiplies it by 1 / (1 - a^2)).
        rumble = lfilter([np.sqrt(1 - 0.95**2)], [1.0, -0.95], white)
        noise = np.sqrt(0.5) * (rumble + rng.standard_normal(self._length))
        mixed = self.samples + 10 ** (noise_db / 20) * noise
        self._parts = [np.asarray(10 ** (gain_db / 20) * mixed, dtype=np.float32)]

    def chunks(self, speaker: str, longest_s: float = 10.0) -> Iterator[tuple[int, int, Samples]]:
        """Cut out what one speaker said, in pieces of at most `longest_s`, each brought to one level; times in ms."""
        sound = self.samples
        for line in self.lines:
            n = max(1, math.ceil((line.end_ms - line.start_ms) / (1000 * longest_s))) if line.speaker == speaker else 0
            edges = np.linspace(line.start_ms, line.end_ms, n + 1).round().astype(int).tolist() if n else []
            for start, end in pairwise(edges):
                piece = sound[start * self.rate // 1000 : end * self.rate // 1000]
                yield start, end, piece * np.float32(0.9 / max(float(np.abs(piece).max()), 1e-6))

    @property
    def samples(self) -> Samples:
        """All sound up to here."""
        return np.concatenate(self._parts) if self._parts else np.zeros(0, dtype=np.float32)

    def _add(self, samples: Samples) -> None:
        self._parts.append(samples)
        self._length += len(samples)


def wav_file(samples: NDArray[np.floating], rate: int) -> bytes:
    """Return a mono 16-bit WAV file whose INFO comment says that it is synthetic."""
    data = np.rint(np.clip(samples, -1.0, 1.0) * 32767).astype("<i2").tobytes()
    text = NOTE.encode("ascii") + b"\0"
    text += b"\0" * (len(text) % 2)
    info = b"INFO" + _chunk(b"ICMT", text)
    chunks = _chunk(b"fmt ", struct.pack("<HHIIHH", 1, 1, rate, 2 * rate, 2, 16))
    # The comment stands last, so that a reader of the plainest form of the format still finds the samples.
    return _chunk(b"RIFF", b"WAVE" + chunks + _chunk(b"data", data) + _chunk(b"LIST", info))


def chat_file(name: str, age: int, sex: str, lines: list[Line]) -> str:
    """Return a CHAT transcript; its header says nothing of the group."""
    header = [
        "@UTF8",
        "@Begin",
        "@Languages:\teng",
        "@Participants:\tPAR Participant, INV Investigator",
        f"@ID:\teng|chiasm|PAR|{age};|{sex}|||Participant|||",
        "@ID:\teng|chiasm|INV|||||Investigator|||",
        f"@Media:\t{name}, audio",
        f"@Comment:\t{NOTE}",
    ]
    body = [_folded(f"*{line.speaker}:\t{line.text} {BULLET}{line.start_ms}_{line.end_ms}{BULLET}") for line in lines]
    return "\n".join([*header, *body, "@End"]) + "\n"


def _folded(line: str) -> str:
    """Fold a long line: what follows begins with a tab."""
    return "\n\t".join(
        textwrap.wrap(
            line, _LINE, break_long_words=False, break_on_hyphens=False, expand_tabs=False, replace_whitespace=False
        )
    )


def _chunk(name: bytes, data: bytes) -> bytes:
    return name + struct.pack("<I", len(data)) + data
