"""What the voxels of one subject answer to, and the answers: receptive fields, preferences, categories, compression."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .cortex import AREAS, Cortex, smooth_field
from .forward_model import COLOURS, ForwardModel, Values, grid_deg

FIELD_CLASS = {"V1d": 0, "V1v": 0, "V2d": 1, "V2v": 1, "V3d": 2, "V3v": 2, "hV4": 3, "lateral": 4, "ventral": 4}
"""Which receptive field size of the model an area has."""

CATEGORY_SHARE = {"hV4": 0.35, "lateral": 0.6, "ventral": 0.9}
"""Share of the drive that is category and not place; early areas have none."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Tuning:
    """Preferences of one subject's visual voxels.

    Parameters
    ----------
    centre_deg : ndarray of float64, shape (V, 2)
        Receptive fields: x (right), y (up).
    size_deg : ndarray of float64, shape (V,)
        Their standard deviation.
    channel_weights : ndarray of float32, shape (V, C)
        Non-negative; sums to 1.
    category_share : ndarray of float32, shape (V,)
    category_axis : ndarray of float32, shape (V, embedding)
    shape_axis : ndarray of float32, shape (V, shape_dimensions)
    """

    centre_deg: NDArray[np.float64]
    size_deg: NDArray[np.float64]
    channel_weights: Values
    category_share: Values
    category_axis: Values
    shape_axis: Values


def draw_tuning(cortex: Cortex, rng: np.random.Generator, model: ForwardModel) -> Tuning:
    """Draw what each visual voxel of a subject prefers; neighbours on the sheet prefer similar things."""

    def field(n: int) -> NDArray[np.float64]:
        smooth = smooth_field(cortex, rng, n, length_mm=model.smooth_mm)[cortex.visual]
        own = rng.standard_normal(smooth.shape)
        mixed: NDArray[np.float64] = np.sqrt(model.smooth_share) * smooth + np.sqrt(1 - model.smooth_share) * own
        return mixed

    area = cortex.area[cortex.visual]
    kind = np.array([FIELD_CLASS[name] for name in AREAS])[area]
    base, slope = (np.array(values)[kind] for values in (model.rf_base_deg, model.rf_slope))
    size = (base + slope * cortex.eccentricity[cortex.visual]) * np.exp(0.2 * field(1)[:, 0])
    scatter = model.rf_scatter * base[:, None] * rng.standard_normal((len(area), 2))
    angle = np.pi * np.arange(model.orientations) / model.orientations
    preferred = np.arctan2(*field(2).T) / 2
    orientation = 1 + model.orientation_gain * np.cos(2 * (angle[None, :] - preferred[:, None]))
    # Small fields prefer fine gratings.
    best = -np.log2(size / 0.45) + 0.5 * field(1)[:, 0] + np.log2(model.frequencies[-1])
    distance = np.log2(model.frequencies)[None, :] - np.clip(best, *np.log2(model.frequencies)[[0, -1]])[:, None]
    frequency = np.exp(-0.5 * (distance / model.frequency_octaves) ** 2)
    energies = (frequency[:, :, None] * orientation[:, None, :]).reshape(len(area), -1)
    colours = model.colour_gain * np.exp(0.7 * field(len(COLOURS)))
    weights = np.concatenate([energies / energies.sum(1, keepdims=True), colours / len(COLOURS)], axis=1)
    return Tuning(
        centre_deg=cortex.centre_deg[cortex.visual] + scatter,
        size_deg=size,
        channel_weights=(weights / weights.sum(1, keepdims=True)).astype(np.float32),
        category_share=np.array([CATEGORY_SHARE.get(name, 0.0) for name in AREAS], dtype=np.float32)[area],
        category_axis=field(model.embedding).astype(np.float32),
        shape_axis=(field(model.shape_dimensions) / np.sqrt(model.shape_dimensions)).astype(np.float32),
    )


def category_vector(name: str, n: int) -> Values:
    """Place of a category in the space that people share: drawn from its name, of unit length."""
    seed = int.from_bytes(hashlib.sha256(name.encode("utf-8")).digest()[:8], "big")
    vector = np.random.default_rng(seed).standard_normal(n)
    unit: Values = (vector / np.linalg.norm(vector)).astype(np.float32)
    return unit


def shape_space(driven: Values, model: ForwardModel) -> Values:
    """Describe each image coarsely, the same way for every subject; (n, shape_dimensions), z-scored.

    Compressed channels are averaged in eight sectors (four quadrants, inner and outer), projected at random and squashed.
    """
    n, n_channels, _ = driven.shape
    rings = driven.reshape(n, n_channels, 2, model.rings // 2, 4, model.angles // 4)
    coarse = np.sqrt(rings.mean(axis=(3, 5), dtype=np.float64)).reshape(n, -1)
    coarse = (coarse - coarse.mean(axis=0)) / np.maximum(coarse.std(axis=0), 1e-6)
    axes = np.random.default_rng([8, 4]).standard_normal((coarse.shape[1], model.shape_dimensions))
    squashed = np.tanh(coarse @ axes / np.sqrt(coarse.shape[1]))
    return _zscored(squashed)


def responses(driven: Values, categories: Sequence[str], tuning: Tuning, model: ForwardModel) -> Values:
    """Return the mean response of each visual voxel to each image, z-scored over the images; (n, V).

    Parameters
    ----------
    driven : ndarray of float32, shape (n, C, places)
        Of `forward_model.channels`, for all stimuli of the data set.
    categories : sequence of str
    tuning : Tuning
    model : ForwardModel
    """
    place = _zscored(_place_drive(driven, tuning, model))
    names = sorted(set(categories))
    vectors = np.stack([category_vector(name, model.embedding) for name in names])
    embedded = vectors[[names.index(category) for category in categories]]
    shape = shape_space(driven, model)
    graded = embedded @ tuning.category_axis.T + model.shape_gain * (shape @ tuning.shape_axis.T)
    # Rectified smoothly, then compressed as any drive is.
    category = _zscored(np.logaddexp(0, 2 * graded) ** model.exponent)
    share = tuning.category_share
    return _zscored((1 - share) * place + share * category)


def _place_drive(driven: Values, tuning: Tuning, model: ForwardModel) -> Values:
    """Gaussian pooling over the visual field, weighting of channels, compression (Kay et al. 2013)."""
    x, y, area = grid_deg(model)
    squared = (x[None] - tuning.centre_deg[:, :1]) ** 2 + (y[None] - tuning.centre_deg[:, 1:]) ** 2
    pool = area * np.exp(-0.5 * squared / tuning.size_deg[:, None] ** 2)
    pool = (pool / np.maximum(pool.sum(axis=1, keepdims=True), 1e-12)).astype(np.float32)
    summed = np.zeros((len(driven), len(pool)), dtype=np.float32)
    for channel in np.flatnonzero(driven.any(axis=(0, 2))):  # grey images have no colour
        summed += (driven[:, channel] @ pool.T) * tuning.channel_weights[:, channel]
    compressed: Values = summed**model.exponent
    return compressed


def _zscored(values: NDArray[np.floating]) -> Values:
    mean, std = values.mean(axis=0, dtype=np.float64), values.std(axis=0, dtype=np.float64)
    scored: Values = ((values - mean) / np.maximum(std, 1e-6)).astype(np.float32)
    return scored
