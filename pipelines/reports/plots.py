"""Small distribution plots as inline SVG: a histogram with its quartiles, and every outlier as a dot with a link."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

WIDTH, HEIGHT = 420, 150
LEFT, RIGHT = 12, 12
BASE = 104  # y of the axis
MAX_DOTS = 150
MAX_NAMED = 12
WHISKER = 1.5
"""An outlier lies further than this many interquartile ranges outside the quartiles (Tukey 1977)."""


@dataclass(frozen=True)
class Dot:
    """One patient in a plot: where it is, what a pointer shows, where it leads."""

    x: float
    y: float
    title: str
    href: str
    outlier: bool


@dataclass(frozen=True)
class Distribution:
    """A plot ready for the template, and the same in words.

    Parameters
    ----------
    name : str
    n : int
        Patients that have a value.
    median, low, high, least, most : float
        Median, quartiles and range.
    bins : list of (x, y, width, height)
    dots : list of Dot
        All patients of a small cohort; the outliers of a large one, the farthest first up to `MAX_DOTS`.
    outliers : list of (key, value, href)
        The farthest first, at most `MAX_NAMED`.
    n_outliers : int
    ticks : list of (x, text)
    """

    name: str
    n: int
    median: float
    low: float
    high: float
    least: float
    most: float
    bins: list[tuple[float, float, float, float]]
    box: tuple[float, float, float]
    dots: list[Dot]
    outliers: list[tuple[str, float, str]]
    n_outliers: int
    ticks: list[tuple[float, str]]


def _millilitres(value: float) -> str:
    return f"{value:,.1f} ml"


def distribution(
    name: str, values: Sequence[tuple[str, float, str]], *, show: Callable[[float], str] = _millilitres
) -> Distribution | None:
    """Lay out the distribution of one column.

    Parameters
    ----------
    name : str
        Column, in words.
    values : sequence of (key, value, href)
        Values that are not finite are left out.
    show : callable
        Value -> text with its unit, for a pointer that rests on a dot; millilitres if not given.

    Returns
    -------
    Distribution or None
        None where no patient has a value.
    """
    kept = [entry for entry in values if np.isfinite(entry[1])]
    if not kept:
        return None
    data = np.array([entry[1] for entry in kept], np.float64)
    low, median, high = (float(v) for v in np.percentile(data, (25, 50, 75)))
    reach = WHISKER * (high - low)
    far = (data < low - reach) | (data > high + reach)
    start, stop, ticks = _axis(float(data.min()), float(data.max()))
    scale = (WIDTH - LEFT - RIGHT) / (stop - start)
    xs = LEFT + (data - start) * scale
    # The farthest first, so that a cut list keeps what matters most.
    order = np.argsort(-np.abs(data - median), kind="stable")
    shown = [int(i) for i in order if far[i]][:MAX_DOTS]
    if len(kept) <= MAX_DOTS:
        shown = list(range(len(kept)))
    dots = [_dot(kept[i], float(xs[i]), show(kept[i][1]), outlier=bool(far[i]), row=i) for i in shown]
    named = [kept[int(i)] for i in order if far[i]][:MAX_NAMED]
    left, middle, right = (float(LEFT + (v - start) * scale) for v in (low, median, high))
    return Distribution(
        name, len(kept), median, low, high, float(data.min()), float(data.max()),
        _bins(data, start, stop, scale), (left, middle, right), dots, named, int(far.sum()),
        [(LEFT + (tick - start) * scale, text) for tick, text in ticks],
    )  # fmt: skip


def _dot(entry: tuple[str, float, str], x: float, text: str, *, outlier: bool, row: int) -> Dot:
    # Three fixed rows part dots of nearly equal value, without chance.
    return Dot(x, BASE + 30 + 5 * (row % 3), f"{entry[0]}: {text}", entry[2], outlier)


def _bins(
    data: NDArray[np.float64], start: float, stop: float, scale: float
) -> list[tuple[float, float, float, float]]:
    n_bins = int(np.clip(np.sqrt(data.size) * 2, 6, 40))
    counts, edges = np.histogram(data, bins=n_bins, range=(start, stop))
    tall = 84.0 / max(1, int(counts.max()))
    step = (edges[1] - edges[0]) * scale
    return [
        (float(LEFT + (edge - start) * scale) + 0.5, BASE - count * tall, float(step) - 1.0, count * tall)
        for count, edge in zip(counts.tolist(), edges.tolist(), strict=False)
        if count
    ]


def _axis(least: float, most: float) -> tuple[float, float, list[tuple[float, str]]]:
    """Return the ends of the axis and three to six round ticks between them."""
    span = most - least if most > least else max(abs(most), 1.0) * 0.2
    start, stop = least - 0.05 * span, most + 0.05 * span
    raw = (stop - start) / 4.0
    power = 10.0 ** np.floor(np.log10(raw))
    step = float(min((m * power for m in (1.0, 2.0, 2.5, 5.0, 10.0)), key=lambda s: abs(s - raw)))
    first = np.ceil(start / step)
    ticks = [float((first + i) * step) for i in range(int((stop - first * step) / step) + 1)]
    decimals = 0 if step >= 1 and float(step).is_integer() else int(max(1, -np.floor(np.log10(step))))
    return start, stop, [(tick, f"{tick + 0.0:,.{decimals}f}") for tick in ticks]
