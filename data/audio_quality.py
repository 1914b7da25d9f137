"""What a recording is like: level, clipping, noise; whether it can be used; and its speech brought to one level."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .audio import Clip
from .errors import InputError
from .spans import Span, complement, cut, total_s

CODES: dict[str, str] = {
    "CHI-IN-215": "the recording is silent",
    "CHI-IN-216": "the recording is too short",
}

FLOOR_DBFS = -120.0
"""What digital silence is said to have."""
MAX_SNR_DB = 80.0
SILENT_DBFS = -70.0
"""A peak below this is silence: the noise of a microphone that was not plugged in."""
_MIN_NOISE_S = 0.3
_FLAT = 3  # equal samples in a row at the top of the wave
_STEP = 1.5 / 32768  # "equal" within one step of 16 bits
_LITTLE_SPEECH_S = 5.0
_MAX_GAIN_DB = 30.0
_HEADROOM = 0.999


@dataclass(frozen=True, kw_only=True)
class Quality:
    """What was measured in a recording.

    Parameters
    ----------
    duration_s, speech_s : float
        Of the recording; of the speech in it.
    peak_dbfs : float
        Of the loudest sample; 0 is full scale.
    speech_level_dbfs : float, optional
        Root mean square of the speech; None where there is none.
    clipped_fraction : float
        Samples in flat tops of the wave, 0..1.
    snr_db : float, optional
        Speech over what lies between, noise subtracted from speech; at most 80 (a recording that was gated to digital silence). None
        where there is no speech or less than 0.3 s between.
    silent : bool
        The peak lies below -70 dBFS.
    """

    duration_s: float
    speech_s: float
    peak_dbfs: float
    speech_level_dbfs: float | None
    clipped_fraction: float
    snr_db: float | None
    silent: bool

    def warnings(self) -> list[str]:
        """Return what a reader of the result should know, in plain words; empty for a good recording."""
        if self.silent:
            return ["The recording is silent."]
        found = []
        if self.speech_s < _LITTLE_SPEECH_S:
            found.append(
                f"There is very little speech in the recording: {self.speech_s:.1f} s of {self.duration_s:.1f} s."
            )
        if self.snr_db is not None and self.snr_db < 10:
            found.append(
                f"The recording is noisy: speech stands {self.snr_db:.0f} dB above the noise; 15 or more is good."
            )
        if self.clipped_fraction > 0.001:
            found.append(
                f"The recording is clipped: {100 * self.clipped_fraction:.1f} % of its samples were cut off, too loud."
            )
        if self.speech_level_dbfs is not None and self.speech_level_dbfs < -45:
            found.append(f"The speech is very quiet ({self.speech_level_dbfs:.0f} dB below full scale).")
        return found


def assess(clip: Clip, speech: Sequence[Span]) -> Quality:
    """Measure a recording.

    Parameters
    ----------
    clip : Clip
    speech : sequence of Span
        Where anybody speaks.
    """
    samples = clip.samples
    peak = float(np.abs(samples).max(initial=0.0))
    inside = _mean_square(cut(samples, clip.rate, speech))
    gaps = complement(speech, clip.duration_s)
    noise = _mean_square(cut(samples, clip.rate, gaps)) if total_s(gaps) >= _MIN_NOISE_S else None
    return Quality(
        duration_s=clip.duration_s,
        speech_s=min(total_s(speech), clip.duration_s),
        peak_dbfs=_db(peak**2),
        speech_level_dbfs=None if inside is None else _db(inside),
        clipped_fraction=_clipped_fraction(samples),
        snr_db=None if inside is None or noise is None else _snr_db(inside, noise),
        silent=_db(peak**2) < SILENT_DBFS,
    )


def check_usable(clip: Clip, *, hop_length: int = 512, min_frames: int = 9, relative: str = "") -> None:
    """Refuse a recording of which no spectrogram can be made: silent, or shorter than the frames that its slopes need.

    Parameters
    ----------
    clip : Clip
        At the sample rate of the spectrogram.
    hop_length, min_frames : int
        Samples between frames; frames that a slope over time is fitted to.
    relative : str
        The file's name for messages.

    Raises
    ------
    InputError
        CHI-IN-215 silent, CHI-IN-216 too short.
    """
    n_frames = 1 + len(clip.samples) // hop_length if len(clip.samples) else 0
    if n_frames < min_frames:
        raise InputError(
            "CHI-IN-216",
            f"the recording has {clip.duration_s:.2f} s of sound; {(min_frames - 1) * hop_length / clip.rate:.2f} s are the least.",
            "Look whether the participant's turns were marked, and whether the file is the right one.",
            file=relative,
        )
    if _db(float(np.abs(clip.samples).max()) ** 2) < SILENT_DBFS:
        raise InputError(
            "CHI-IN-215",
            f"the recording is silent (no sample above {SILENT_DBFS:.0f} dB of full scale).",
            "Look for the channel or the file that holds the sound.",
            file=relative,
        )


def level(clip: Clip, speech: Sequence[Span], target_dbfs: float = -23.0) -> Clip:
    """Return the clip with its speech at one level: the loudness that a recorder was set to says nothing about a person.

    The gain is at most 30 dB, and never so large that a sample would be clipped: a recording with one loud knock stays below the target.

    Parameters
    ----------
    clip : Clip
    speech : sequence of Span
        What is brought to `target_dbfs` (root mean square); where it is empty, the whole recording is.
    """
    inside = _mean_square(cut(clip.samples, clip.rate, speech))
    power = _mean_square(clip.samples) if inside is None else inside
    if not power or _db(power) <= FLOOR_DBFS:
        return clip
    gain = 10.0 ** (min(target_dbfs - _db(power), _MAX_GAIN_DB) / 20)
    gain = min(gain, _HEADROOM / float(np.abs(clip.samples).max()))
    return Clip((clip.samples * np.float32(gain)).astype(np.float32, copy=False), clip.rate)


def _mean_square(samples: NDArray[np.float32]) -> float | None:
    return float(np.mean(np.square(samples, dtype=np.float64))) if len(samples) else None


def _db(power: float) -> float:
    return float(10 * np.log10(max(power, 10 ** (FLOOR_DBFS / 10))))


def _snr_db(speech: float, noise: float) -> float:
    # What lies between is in the speech too.
    return min(_db(max(speech - noise, 0.0)) - _db(noise), MAX_SNR_DB)


def _clipped_fraction(samples: NDArray[np.float32]) -> float:
    """Return the share of samples in runs of three or more equal ones within 1 % of the highest or the lowest value.

    Full scale is not asked for: recordings are clipped before they are normalised, mixed or filtered.
    """
    n_clipped = 0
    for sign in (1.0, -1.0):
        top = float((sign * samples).max(initial=0.0))
        if top < 0.1:  # steps of 16 bits are no plateau
            continue
        flat = (sign * samples >= 0.99 * top)[1:] & (np.abs(np.diff(samples)) <= _STEP)
        edges = np.flatnonzero(np.diff(np.concatenate([[False], flat, [False]]).astype(np.int8)))
        lengths = edges[1::2] - edges[::2] + 1  # k equal steps join k + 1 samples
        n_clipped += int(lengths[lengths >= _FLAT].sum())
    return n_clipped / max(len(samples), 1)
