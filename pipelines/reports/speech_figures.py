"""Pictures of one interview: its sound with relevance in seconds and Mel bands, the transport plan, the deletion test."""

from __future__ import annotations

import struct
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .classifier_plots import INK, LINES, SERIES, picture

Floats = NDArray[Any]

MAX_COLUMNS = 1400
"""Columns of a drawn spectrogram: more do not fit on a screen, and ten minutes have 26,000 frames."""
MAX_WORDS = 25
MAX_LETTERS = 18
NOT_HEARD = "#d4d8da"
_TICKS_HZ = (60, 125, 250, 500, 1000, 2000, 4000, 8000, 16000)
_FONT = "DejaVu Sans"  # comes with matplotlib, so that pictures do not depend on the machine


@dataclass(frozen=True, kw_only=True, eq=False)
class SpeechPicture:
    """The log-Mel picture of a recording.

    Parameters
    ----------
    decibels : ndarray of float32, shape (n_mels, n_frames)
        The lowest band first.
    times_s : ndarray, shape (n_frames,)
        Middle of each frame in the recording; frames that the model did not hear are left out.
    centre_hz : ndarray, shape (n_mels,)
    """

    decibels: Floats
    times_s: Floats
    centre_hz: Floats


@dataclass(frozen=True, kw_only=True, eq=False)
class RelevanceMap:
    """Relevance of the sound.

    Parameters
    ----------
    grid : ndarray, shape (R, B)
        Not negative, in any unit; the lowest band first. NaN where the model heard nothing.
    edges_s : ndarray, shape (B + 1,)
        Seconds of the recording.
    band_edges : ndarray, shape (R + 1,)
        In Mel bands of the picture, 0 to n_mels.
    """

    grid: Floats
    edges_s: Floats
    band_edges: Floats


@dataclass(frozen=True, kw_only=True, eq=False)
class TransportPlan:
    """Which words exchange mass with which seconds.

    Parameters
    ----------
    mass : ndarray, shape (n_words, B)
        Not negative, in any unit.
    edges_s : ndarray, shape (B + 1,)
        Seconds of the recording.
    """

    mass: Floats
    edges_s: Floats

    @property
    def information_bits(self) -> float:
        """Mutual information of words and seconds: 0 where every word exchanges with all seconds alike."""
        whole = float(self.mass.sum())
        if whole <= 0.0:
            return 0.0
        joint = np.asarray(self.mass, np.float64) / whole
        alone = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0, keepdims=True)
        there = joint > 0
        return max(0.0, float((joint[there] * np.log2(joint[there] / alone[there])).sum()))


@dataclass(frozen=True, kw_only=True, eq=False)
class Deletion:
    """Score of the class while tokens are taken away (`heads.deletion`).

    Parameters
    ----------
    fractions : ndarray, shape (K,)
        Share that is gone.
    by_relevance, at_random : ndarray, shape (K,)
        Most relevant first; mean over random orders.
    least_first : ndarray, shape (K,), optional
    """

    fractions: Floats
    by_relevance: Floats
    at_random: Floats
    least_first: Floats | None = None


class Drawn(NamedTuple):
    """A PNG, its size in pixels, and what it shows in words."""

    png: bytes
    size: tuple[int, int]
    alt: str


def sound_figure(sound: SpeechPicture | None, relevance: RelevanceMap | None) -> Drawn:
    """Draw the log-Mel picture and, below it on the same seconds, the relevance.

    Raises
    ------
    ValueError
        There is neither, or shapes do not fit.
    """
    _check_sound(sound, relevance)
    by_band = relevance is not None and len(relevance.grid) > 1
    heights = ([2.6] if sound is not None else []) + ([2.6 if by_band else 1.5] if relevance is not None else [])
    figure = blank_figure(10.0, 0.7 + sum(heights))
    panels = figure.subplots(len(heights), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    told = []
    if sound is not None:
        start, stop = _draw_sound(figure, panels[0], sound)
        told.append(f"Log-Mel picture of the recording from {start:.1f} to {stop:.1f} s")
    if relevance is not None:
        n_mels = float(relevance.band_edges[-1])
        centres = sound.centre_hz if sound is not None else None
        (_draw_grid if by_band else _draw_steps)(figure, panels[-1], relevance, centres)
        panels[-1].set_xlim(*_limits(sound, relevance))
        told.append(_most_relevant(relevance, n_mels, centres))
    panels[-1].set_xlabel("seconds of the recording")
    return _finish(figure, "; ".join(told) + ".")


def plan_figure(words: Sequence[Any], plan: TransportPlan, shown: Sequence[int]) -> Drawn:
    """Draw the plan's rows of some words, each as shares of the word's own mass, and mark when the word was said.

    Parameters
    ----------
    words : sequence of ShownWord
    plan : TransportPlan
    shown : sequence of int
        Words to draw, in order, from `telling_words`.
    """
    rows = row_shares(plan)[list(shown)]
    figure = blank_figure(10.0, 1.3 + 0.235 * len(shown))
    axes = figure.subplots()
    edges = np.asarray(plan.edges_s, np.float64)
    axes.set_facecolor(NOT_HEARD)
    silent = np.broadcast_to(plan.mass.sum(axis=0) <= 0.0, rows.shape)
    mesh = axes.pcolormesh(
        edges, np.arange(len(shown) + 1) - 0.5, np.ma.array(rows, mask=silent), cmap="Blues", vmin=0.0, rasterized=True
    )
    bar = figure.colorbar(mesh, ax=axes, pad=0.01, fraction=0.03)
    bar.set_label("share of the word's mass")
    said = [(y, words[i]) for y, i in enumerate(shown) if words[i].start_s is not None and words[i].end_s is not None]
    if said:
        middles = [(word.start_s + word.end_s) / 2 for _, word in said]
        axes.plot(
            middles, [y for y, _ in said], linestyle="none", marker="D", markersize=4.5, markerfacecolor="white",
            markeredgecolor=SERIES[1], markeredgewidth=1.4, label="when the word was said",
        )  # fmt: skip
        axes.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), frameon=False, fontsize=9, borderaxespad=0.2)
    labels = [drawable(words[i].text, i) for i in shown]
    axes.set_yticks(range(len(shown)), labels, parse_math=False, fontfamily=_FONT)
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(shown) - 0.5, -0.5)
    axes.set_xlim(min([edges[0], *middles]) if said else edges[0], max([edges[-1], *middles]) if said else edges[-1])
    axes.set_xlabel("seconds of the recording")
    alt = f"Heat map of the transport plan: {len(shown)} words in the order in which they were said against seconds."
    return _finish(figure, alt)


def deletion_figure(deletion: Deletion, score: str) -> Drawn:
    """Draw the score of the class against the share of tokens that is gone."""
    figure = blank_figure(5.6, 3.4)
    axes = figure.subplots()
    curves = {"most relevant first": deletion.by_relevance, "in random order": deletion.at_random}
    if deletion.least_first is not None:
        curves["least relevant first"] = deletion.least_first
    for i, (name, values) in enumerate(curves.items()):
        axes.plot(deletion.fractions, values, color=SERIES[i], linestyle=LINES[i], linewidth=1.8, label=name)
    axes.set(xlim=(0, 1), ylim=(-0.02, 1.02), xlabel="share of words and sound taken away")
    axes.set_ylabel(score, parse_math=False)
    axes.legend(frameon=False, fontsize=9)
    ends = ", ".join(f"{name} {float(np.mean(values)):.2f}" for name, values in curves.items())
    return _finish(figure, f"Score while words and sound are taken away; mean height of the curves: {ends}.")


def row_shares(plan: TransportPlan) -> NDArray[np.float64]:
    """Return each word's mass as shares over the seconds; zeros for a word without mass."""
    mass = np.asarray(plan.mass, np.float64)
    whole = mass.sum(axis=1, keepdims=True)
    return np.asarray(np.divide(mass, whole, out=np.zeros_like(mass), where=whole > 0))


def telling_words(words: Sequence[Any], plan: TransportPlan, *, most: int = MAX_WORDS) -> list[int]:
    """Choose the words to draw: the most relevant ones, or the least evenly spread where there is no relevance.

    Returns
    -------
    list of int
        In the order in which they were said.
    """
    shares = row_shares(plan)
    there = [i for i in range(len(words)) if shares[i].any()]
    relevance = np.array([words[i].relevance or 0.0 for i in there])
    if not relevance.any():
        with np.errstate(divide="ignore", invalid="ignore"):
            logs = np.where(shares > 0, np.log(shares), 0.0)
        relevance = (shares * logs).sum(axis=1)[there]  # minus the entropy
    order = np.argsort(-relevance, kind="stable")[:most]
    return sorted(there[int(i)] for i in order)


def drawable(text: str, place: int) -> str:
    """Return a word as the picture's font can show it, or its number in the transcript.

    Control and direction characters go: a word may not turn the labels around it.
    """
    kept = "".join(c for c in text if unicodedata.category(c)[0] not in "CZ")
    if not kept or not set(map(ord, kept)) <= _glyphs():
        return f"word {place + 1}"
    return kept if len(kept) <= MAX_LETTERS else kept[: MAX_LETTERS - 1] + "…"


def blank_figure(width: float, height: float) -> Any:
    """Return an empty figure in inches, drawn without a display."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def drawn(figure: Any, alt: str) -> Drawn:
    """Write a figure as PNG with its size and its words."""
    png = picture(figure)
    width, height = struct.unpack(">II", png[16:24])  # the header chunk of a PNG
    return Drawn(png, (width, height), alt)


def _finish(figure: Any, alt: str) -> Drawn:
    for axes in figure.axes:
        axes.tick_params(colors=INK, labelsize=9)
    return drawn(figure, alt)


def _check_sound(sound: SpeechPicture | None, relevance: RelevanceMap | None) -> None:
    wrong = []
    if sound is None and relevance is None:
        wrong.append("a picture of sound needs the sound, or its relevance")
    if sound is not None:
        n_mels, n_frames = sound.decibels.shape
        if sound.times_s.shape != (n_frames,) or sound.centre_hz.shape != (n_mels,) or not n_frames:
            wrong.append(f"{n_mels} bands and {n_frames} frames, {sound.centre_hz.shape} and {sound.times_s.shape}")
        elif relevance is not None and abs(float(relevance.band_edges[-1]) - n_mels) > 1e-3:
            wrong.append(f"band_edges end at {relevance.band_edges[-1]}, the picture has {n_mels} bands")
    if relevance is not None:
        expected = (len(relevance.band_edges) - 1, len(relevance.edges_s) - 1)
        if relevance.grid.shape != expected:
            wrong.append(f"the grid has shape {relevance.grid.shape}, its edges say {expected}")
    if wrong:
        raise ValueError("; ".join(wrong))


def columns_of(sound: SpeechPicture) -> tuple[NDArray[np.float32], tuple[float, float]]:
    """Average frames into at most `MAX_COLUMNS` equal steps of time; NaN where no frame lies.

    Returns
    -------
    columns : ndarray of float32, shape (n_mels, C)
    extent : (float, float)
        Seconds where the first column begins and the last one ends.
    """
    order = np.argsort(sound.times_s, kind="stable")
    times = np.asarray(sound.times_s, np.float64)[order]
    span = float(times[-1] - times[0])
    step = float(np.median(np.diff(times))) if len(times) > 1 else 1.0
    n = 1 if span <= 0 or step <= 0 else int(min(MAX_COLUMNS, round(span / step) + 1))
    place = np.zeros(len(times), np.int64) if n == 1 else np.rint((times - times[0]) / span * (n - 1)).astype(np.int64)
    starts = np.flatnonzero(np.diff(place, prepend=-1))
    sums = np.add.reduceat(np.asarray(sound.decibels, np.float32)[:, order], starts, axis=1)
    columns = np.full((len(sound.decibels), n), np.nan, np.float32)
    columns[:, place[starts]] = sums / np.diff(starts, append=len(times))
    half = span / (n - 1) / 2 if n > 1 else step / 2
    return columns, (float(times[0]) - half, float(times[-1]) + half)


def _draw_sound(figure: Any, axes: Any, sound: SpeechPicture) -> tuple[float, float]:
    columns, (start, stop) = columns_of(sound)
    axes.set_facecolor(NOT_HEARD)
    image = axes.imshow(
        np.ma.masked_invalid(columns), origin="lower", aspect="auto", cmap="magma", interpolation="nearest",
        extent=(start, stop, 0, len(columns)),
    )  # fmt: skip
    figure.colorbar(image, ax=axes, pad=0.01, fraction=0.03).set_label("level (dB)")
    _hertz(axes, sound.centre_hz, len(columns))
    axes.set_title("Sound that the model heard", fontsize=10, loc="left", color=INK)
    return start, stop


def _draw_grid(figure: Any, axes: Any, relevance: RelevanceMap, centres: Floats | None) -> None:
    axes.set_facecolor(NOT_HEARD)
    mesh = axes.pcolormesh(
        relevance.edges_s, relevance.band_edges, np.ma.masked_invalid(_of_largest(relevance)), cmap="YlOrBr",
        vmin=0.0, vmax=1.0, rasterized=True,
    )  # fmt: skip
    figure.colorbar(mesh, ax=axes, pad=0.01, fraction=0.03).set_label("relevance (largest = 1)")
    _hertz(axes, centres, float(relevance.band_edges[-1]))
    axes.set_title("Relevance of the sound", fontsize=10, loc="left", color=INK)


def _draw_steps(figure: Any, axes: Any, relevance: RelevanceMap, centres: Floats | None) -> None:
    values = _of_largest(relevance)[0]
    for i in np.flatnonzero(np.isnan(values)):
        axes.axvspan(relevance.edges_s[i], relevance.edges_s[i + 1], color=NOT_HEARD, linewidth=0)
    axes.stairs(np.nan_to_num(values), relevance.edges_s, fill=True, color="#cc7a00")
    axes.set(ylim=(0, 1.05), ylabel="largest = 1")
    axes.set_title("Relevance of the sound, all Mel bands together", fontsize=10, loc="left", color=INK)


def _of_largest(relevance: RelevanceMap) -> NDArray[np.float64]:
    grid = np.asarray(relevance.grid, np.float64)
    top = float(np.nanmax(grid)) if np.isfinite(grid).any() else 0.0
    return grid / top if top > 0 else grid


def _hertz(axes: Any, centres: Floats | None, n_mels: float) -> None:
    axes.set_ylim(0, n_mels)
    if centres is None:
        axes.set_ylabel("Mel band")
        return
    # The middle of band i lies at i + 0.5. From the top: low frequencies lie close to each other, and to the axis.
    shown: list[tuple[float, int]] = []
    for hz in reversed([hz for hz in _TICKS_HZ if centres[0] <= hz <= centres[-1]]):
        place = float(np.interp(hz, centres, np.arange(len(centres)) + 0.5))
        if not shown or shown[-1][0] - place > 0.065 * n_mels:
            shown.append((place, hz))
    axes.set_yticks([place for place, _ in shown], [f"{hz:,}" for _, hz in shown])
    axes.set_ylabel("Mel band (Hz)")


def _limits(sound: SpeechPicture | None, relevance: RelevanceMap) -> tuple[float, float]:
    ends = [float(relevance.edges_s[0]), float(relevance.edges_s[-1])]
    if sound is not None:
        ends += [float(sound.times_s.min()), float(sound.times_s.max())]
    return min(ends), max(ends)


def _most_relevant(relevance: RelevanceMap, n_mels: float, centres: Floats | None) -> str:
    """Say where the largest cell lies."""
    grid = np.nan_to_num(np.asarray(relevance.grid, np.float64), nan=-1.0)
    row, column = (int(i) for i in np.unravel_index(int(grid.argmax()), grid.shape))
    seconds = f"{relevance.edges_s[column]:.1f} to {relevance.edges_s[column + 1]:.1f} s"
    if len(grid) == 1 or centres is None:
        return f"the relevance is largest from {seconds}"
    low, high = np.interp(relevance.band_edges[row : row + 2] - 0.5, np.arange(len(centres)), centres)
    return f"the relevance is largest from {seconds} and from {low:,.0f} to {high:,.0f} Hz"


@cache
def _glyphs() -> frozenset[int]:
    from matplotlib.font_manager import findfont, get_font

    return frozenset(get_font(findfont(_FONT)).get_charmap())
