"""What the pauses alone say: when somebody speaks and for how long, and nothing of how or of what.

A classifier of whole recordings that is no better than these numbers has learnt no more than they hold.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ....data.spans import Span, complement, merged, total_s

NAMES = (
    "duration_s",
    "n_pauses",
    "pauses_per_minute",
    "pause_mean_s",
    "pause_sd_s",
    "pause_max_s",
    "silence_share",
    "n_segments",
    "segments_per_minute",
    "segment_mean_s",
    "segment_sd_s",
)


def pause_pattern(speech: Sequence[Span], duration_s: float) -> NDArray[np.float64]:
    """Return the features `NAMES` of one recording, shape (11,).

    A pause lies between two stretches of speech; silence before the first and after the last counts as silence only.

    Parameters
    ----------
    speech : sequence of Span
        Stretches of speech; those that touch are one.
    duration_s : float
        Of the recording, above 0.
    """
    segments = merged(speech)
    minutes = duration_s / 60.0
    inside = complement(segments, segments[-1].end_s) if segments else []
    pauses = np.array([gap.seconds for gap in inside if gap.start_s > 0.0])
    lengths = np.array([segment.seconds for segment in segments])
    values = [
        duration_s,
        pauses.size,
        pauses.size / minutes,
        pauses.mean() if pauses.size else 0.0,
        pauses.std() if pauses.size else 0.0,
        pauses.max() if pauses.size else 0.0,
        1.0 - min(1.0, total_s(segments) / duration_s),
        lengths.size,
        lengths.size / minutes,
        lengths.mean() if lengths.size else 0.0,
        lengths.std() if lengths.size else 0.0,
    ]
    return np.array(values, dtype=np.float64)
