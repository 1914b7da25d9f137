"""From tokens to words, seconds and Mel bands: what belongs to tokens is summed over words and spread over a grid, nothing lost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .speech_figures import RelevanceMap, TransportPlan

Floats = NDArray[np.float64]

MAX_BINS = 60


def second_edges(spans: NDArray[Any], *, max_bins: int = MAX_BINS) -> Floats:
    """Return edges of equal bins over all that tokens cover: none finer than the finest token, at most `max_bins`.

    Parameters
    ----------
    spans : ndarray, shape (T, 2 or more)
        start_s, end_s, ... of each token.

    Raises
    ------
    ValueError
        There is no token of some length.
    """
    ends = np.asarray(spans, np.float64)[:, :2]
    lengths = ends[:, 1] - ends[:, 0]
    if not (lengths > 0).any():
        raise ValueError("spans: at least one token with a length")
    start, stop = float(ends[:, 0].min()), float(ends[:, 1].max())
    n_bins = int(np.clip(round((stop - start) / float(lengths[lengths > 0].min())), 1, max_bins))
    return np.linspace(start, stop, n_bins + 1)


def shares_of_bins(low: Floats, high: Floats, edges: Floats) -> Floats:
    """Return which share of each interval lies in each bin, shape (T, B); rows of intervals within the edges sum to 1.

    An interval without length lies in the bin that holds its point.
    """
    length = high - low
    inside = np.minimum(high[:, None], edges[1:]) - np.maximum(low[:, None], edges[:-1])
    shares = np.maximum(inside, 0.0) / np.where(length > 0, length, 1.0)[:, None]
    for row in np.flatnonzero(length <= 0):
        place = int(np.searchsorted(edges, low[row], side="right")) - 1
        shares[row, min(max(place, 0), len(edges) - 2)] = 1.0
    return np.asarray(shares)


def relevance_map(spans: NDArray[Any], relevance: NDArray[Any], edges_s: Floats, *, n_mels: int) -> RelevanceMap:
    """Spread the relevance of audio tokens over seconds and Mel bands; the sum stays.

    Parameters
    ----------
    spans : ndarray, shape (T, 4)
        start_s, end_s, lowest band and highest band (exclusive), as `encoders.speech_images.token_spans` gives them.
    relevance : ndarray, shape (T,)
    edges_s : ndarray, shape (B + 1,)
        From `second_edges`.
    n_mels : int
        Bands of the picture.

    Returns
    -------
    RelevanceMap
        As many rows as tokens divide the bands into; NaN where no token lies.
    """
    spans, values = np.asarray(spans, np.float64), np.asarray(relevance, np.float64)
    # Tokens of 14 rows over 100 bands end at fractions of a band: rounding joins what float32 has parted.
    low, high = np.round(spans[:, 2], 3), np.round(spans[:, 3], 3)
    band_edges = np.unique(np.concatenate([[0.0, float(n_mels)], low, high]))
    seconds = shares_of_bins(spans[:, 0], spans[:, 1], edges_s)
    bands = shares_of_bins(low, high, band_edges)
    grid = np.einsum("t,tm,tb->mb", values, bands, seconds)
    grid[np.einsum("tm,tb->mb", bands, seconds) == 0.0] = np.nan
    return RelevanceMap(grid=grid, edges_s=edges_s, band_edges=band_edges)


def sums_of_words(values: NDArray[Any], word_index: Sequence[int] | NDArray[Any], n_words: int) -> Floats:
    """Sum rows of tokens over the words they belong to; NaN for words of which the model read no token.

    Parameters
    ----------
    values : ndarray, shape (N,) or (N, T)
    word_index : sequence of int, length N
        -1: a special token, which belongs to no word.
    n_words : int
    """
    values, index = np.asarray(values, np.float64), np.asarray(word_index)
    out = np.zeros((n_words, *values.shape[1:]))
    np.add.at(out, index[index >= 0], values[index >= 0])
    unread = np.setdiff1d(np.arange(n_words), index)
    out[unread] = np.nan
    return out


def transport_plan(
    plan: NDArray[Any], word_index: Sequence[int] | NDArray[Any], n_words: int, *, spans: NDArray[Any], edges_s: Floats
) -> TransportPlan:
    """Turn a plan between tokens into one between words and seconds.

    Parameters
    ----------
    plan : ndarray, shape (N, T)
        Text tokens by audio tokens; the mass of special tokens is left out.
    word_index, n_words
        As in `sums_of_words`.
    spans : ndarray, shape (T, 2 or more)
    edges_s : ndarray, shape (B + 1,)
    """
    spans = np.asarray(spans, np.float64)
    mass = sums_of_words(plan, word_index, n_words) @ shares_of_bins(spans[:, 0], spans[:, 1], edges_s)
    return TransportPlan(mass=np.nan_to_num(mass), edges_s=edges_s)
