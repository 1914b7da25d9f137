"""The published table (means of NSD's subjects 1, 2, 5 and 7), to stand beside own results of the same kind of split."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

TABLE = Path(__file__).with_name("published.tsv")
SPLITS = {
    "37": "37 sessions: 982 test images (MindEye, MindBridge)",
    "40": "40 sessions: 1,000 test images (MindEye2)",
    "unknown": "the paper's split was not verified",
}
"""Generations of the split: rows of different ones are not comparable."""
PER_CENT = ("AlexNet(2)", "AlexNet(5)", "Inception", "CLIP", "image_retrieval", "brain_retrieval")
_TEXT = ("method", "split", "source", "note")


@dataclass(frozen=True, kw_only=True)
class PublishedRow:
    """A method's scores.

    Parameters
    ----------
    method, split, source, note : str
        `split` is a key of `SPLITS`.
    scores : dict of str to float
        Name of the metric as in a `Scorecard` -> value, two-way and retrieval as shares from 0 to 1. What a paper does not give is absent.
    """

    method: str
    split: str
    source: str
    note: str
    scores: dict[str, float]


def published_results(split: str | None = None) -> tuple[PublishedRow, ...]:
    """Return the table, or its rows of one generation of the split."""
    if split is not None and split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
    with TABLE.open(encoding="utf-8", newline="") as stream:
        found = tuple(_row(line) for line in csv.DictReader(stream, delimiter="\t"))
    return tuple(row for row in found if split in (None, row.split))


def _row(line: dict[str, str]) -> PublishedRow:
    scores = {
        name: round(float(text) / (100 if name in PER_CENT else 1), 6)
        for name, text in line.items()
        if name not in _TEXT and text
    }
    return PublishedRow(**{name: line[name] for name in _TEXT}, scores=scores)
