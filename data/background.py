"""The parts of a recording: what lies between the speech (a control), and the participant without the investigator."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .audio import Clip
from .spans import Span, complement, intersection, merged
from .transcripts import Turn

PIECE_S = 0.25
"""Background is taken in pieces of this length, whatever the pauses were."""
_CROSS_S = 0.02
_FADE_S = 0.005


def background(
    clip: Clip, speech_spans: Sequence[Span], *, length_s: float, margin_s: float = 0.1, seed: int
) -> Clip | None:
    """Return the room without the speech, of exactly one length: what a model may learn from the recording alone.

    A model that tells patients from controls on this has learnt the room, the microphone or the processing. So nothing else may be in it:
    not how much the person paused, and not how the pauses lie. All that is no speech (nor within `margin_s` of it) is divided into
    pieces of one length, as many as everyone needs are drawn without replacement in random order and joined with equal-power
    cross-fades. Everyone has the same number of samples, pieces and joins. Nothing is repeated: who has fewer pieces than are needed is
    left out, for a repetition would say so.

    Parameters
    ----------
    clip : Clip
    speech_spans : sequence of Span
        Where anybody speaks, the investigator included.
    length_s : float
        Of the result.
    margin_s : float
        Taken off around speech: breath, echo, what the voice activity detection missed.
    seed : int

    Returns
    -------
    Clip or None
        None where the recording has too little: leave the person out of the control, and count how many were left out.
    """
    if length_s <= 0 or margin_s < 0:
        raise ValueError(f"length_s must be > 0 and margin_s >= 0, got {length_s} and {margin_s}")
    cross, hop = round(_CROSS_S * clip.rate), round((PIECE_S - _CROSS_S) * clip.rate)
    n_samples = round(length_s * clip.rate)
    n_pieces = max(-(-(n_samples - cross) // hop), 1)
    wide = [Span(span.start_s - margin_s, span.end_s + margin_s) for span in merged(speech_spans)]
    starts = [
        start
        for gap in complement(wide, clip.duration_s)
        for start in range(
            int(np.ceil(gap.start_s * clip.rate)), int(gap.end_s * clip.rate) - hop - cross + 1, hop + cross
        )
    ]
    if len(starts) < n_pieces:
        return None
    drawn = np.random.default_rng(seed).choice(np.array(starts), n_pieces, replace=False)
    rise = np.sqrt((np.arange(cross) + 0.5) / cross).astype(np.float32)  # powers of uncorrelated noise add up to one
    out = np.zeros(n_pieces * hop + cross, np.float32)
    for index, start in enumerate(drawn):
        piece = clip.samples[start : start + hop + cross].copy()
        if index:
            piece[:cross] *= rise
        if index < n_pieces - 1:
            piece[hop:] *= rise[::-1]
        out[index * hop : index * hop + len(piece)] += piece
    return Clip(np.clip(out[:n_samples], -1.0, 1.0), clip.rate)


def only(clip: Clip, spans: Sequence[Span]) -> Clip:
    """Return what lies in the spans, joined; 5 ms fades at the joins, which change no length."""
    rate, n_samples = clip.rate, len(clip.samples)
    edges = [(max(round(span.start_s * rate), 0), min(round(span.end_s * rate), n_samples)) for span in merged(spans)]
    pieces = [clip.samples[start:end].copy() for start, end in edges if end > start]
    for index, piece in enumerate(pieces):
        _fade(piece, round(_FADE_S * rate), before=index > 0, after=index < len(pieces) - 1)
    return Clip(np.concatenate(pieces) if pieces else np.zeros(0, np.float32), rate)


def without(clip: Clip, spans: Sequence[Span]) -> Clip:
    """Return what lies outside the spans, joined as `only` does."""
    return only(clip, complement(spans, clip.duration_s))


def participant_spans(turns: Sequence[Turn], duration_s: float) -> list[Span]:
    """Return where the participant alone is heard.

    Parameters
    ----------
    turns : sequence of Turn
        The participant's turns less those of the others; where no turn is the participant's, all that is nobody else's.
    duration_s : float
        Of the recording.
    """
    others = merged(Span(turn.start_s, turn.end_s) for turn in turns if turn.speaker != "participant")
    own = merged(Span(turn.start_s, turn.end_s) for turn in turns if turn.speaker == "participant")
    free = complement(others, duration_s)
    return intersection(own, free) if own else free


def remove_investigator(clip: Clip, turns: Sequence[Turn]) -> Clip:
    """Return the recording without the investigator (and anyone else who is not the participant).

    The investigator says more, and other things, to a person who needs help: a model that hears it may answer to that.

    Parameters
    ----------
    clip : Clip
    turns : sequence of Turn
        With times; `participant_spans` says what is kept.

    Returns
    -------
    Clip
        Empty where nothing is left; `audio_quality.check_usable` refuses that.
    """
    return only(clip, participant_spans(turns, clip.duration_s))


def _fade(piece: NDArray[np.float32], n_samples: int, *, before: bool, after: bool) -> None:
    n_samples = min(n_samples, len(piece) // 2)
    ramp = ((np.arange(n_samples) + 0.5) / max(n_samples, 1)).astype(np.float32)
    if before:
        piece[:n_samples] *= ramp
    if after:
        piece[len(piece) - n_samples :] *= ramp[::-1]
