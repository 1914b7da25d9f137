"""Stretches of time: sorted, disjoint lists of spans and what is done with them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Span(NamedTuple):
    """From `start_s` to `end_s`, in seconds of the recording."""

    start_s: float
    end_s: float

    @property
    def seconds(self) -> float:
        """Its length."""
        return self.end_s - self.start_s


def merged(spans: Iterable[Span], *, gap_s: float = 0.0) -> list[Span]:
    """Return the spans sorted, with those that overlap or lie within `gap_s` of each other made one; empty ones are dropped."""
    out: list[Span] = []
    for span in sorted(spans):
        if span.end_s <= span.start_s:
            continue
        if out and span.start_s <= out[-1].end_s + gap_s:
            out[-1] = Span(out[-1].start_s, max(out[-1].end_s, span.end_s))
        else:
            out.append(Span(float(span.start_s), float(span.end_s)))
    return out


def complement(spans: Sequence[Span], duration_s: float) -> list[Span]:
    """Return what lies between 0 and `duration_s` outside the spans."""
    edges, position = [], 0.0
    for span in merged(spans):
        if span.start_s > position:
            edges.append(Span(position, min(span.start_s, duration_s)))
        position = max(position, span.end_s)
    if position < duration_s:
        edges.append(Span(position, duration_s))
    return [span for span in edges if span.seconds > 0]


def intersection(first: Sequence[Span], second: Sequence[Span]) -> list[Span]:
    """Return what lies in both lists."""
    out = []
    for one in merged(first):
        for two in merged(second):
            start, end = max(one.start_s, two.start_s), min(one.end_s, two.end_s)
            if end > start:
                out.append(Span(start, end))
    return merged(out)


def total_s(spans: Iterable[Span]) -> float:
    """Return the seconds covered."""
    return sum(span.seconds for span in merged(spans))


def cut(samples: NDArray[np.float32], rate: int, spans: Sequence[Span]) -> NDArray[np.float32]:
    """Return the samples inside the spans, concatenated.

    Parameters
    ----------
    samples : ndarray of float32, shape (n,)
    rate : int
        Hz.
    """
    pieces = [samples[round(span.start_s * rate) : round(span.end_s * rate)] for span in merged(spans)]
    return np.concatenate(pieces) if pieces else np.zeros(0, dtype=np.float32)
