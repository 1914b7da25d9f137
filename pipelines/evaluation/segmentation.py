"""How well one mask agrees with another: overlap, surface distances, and the scoring rules of the BraTS challenge.

Two libraries define the 95 % Hausdorff distance differently and both are quoted in papers, so both are here under
names that say which: `SurfaceDistances.hd95_pooled` (medpy) and `SurfaceDistances.hd95_max` (MONAI, BraTS).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[Any]
"""A boolean or 0/1 array of two or three dimensions."""

BRATS_WORST_HD95_MM = 373.13
"""Diagonal of the BraTS grid (240 x 240 x 155 mm): the HD95 of a region that only one side has."""


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Voxel counts of two masks; the overlap scores are ratios of these.

    Parameters
    ----------
    true_positive, false_positive, false_negative, true_negative : int
        Voxels in both masks, only in the prediction, only in the reference, in neither.
    """

    true_positive: int
    false_positive: int
    false_negative: int
    true_negative: int

    @property
    def dice(self) -> float:
        """``2 |P and G| / (|P| + |G|)``; NaN when both masks are empty."""
        both = 2 * self.true_positive
        return _ratio(both, both + self.false_positive + self.false_negative)

    @property
    def jaccard(self) -> float:
        """``|P and G| / |P or G|``; NaN when both masks are empty."""
        return _ratio(self.true_positive, self.true_positive + self.false_positive + self.false_negative)

    @property
    def sensitivity(self) -> float:
        """Share of the reference that was found (recall); NaN when the reference is empty."""
        return _ratio(self.true_positive, self.true_positive + self.false_negative)

    @property
    def specificity(self) -> float:
        """Share of the reference's background that was left alone; NaN when there is no background."""
        return _ratio(self.true_negative, self.true_negative + self.false_positive)

    @property
    def precision(self) -> float:
        """Share of the prediction that is right; NaN when the prediction is empty."""
        return _ratio(self.true_positive, self.true_positive + self.false_positive)


@dataclass(frozen=True, eq=False)
class SurfaceDistances:
    """Distances between the surfaces of two masks, sorted, in the unit of the spacing.

    A surface voxel is in the mask and has a face neighbour outside it (beyond the array counts as outside).
    All properties are NaN when either mask is empty: see `brats_scores` for a rule that never is.

    Parameters
    ----------
    to_reference : ndarray, shape (P,)
        From each surface voxel of the prediction to the nearest one of the reference.
    to_prediction : ndarray, shape (G,)
        The other direction.
    """

    to_reference: NDArray[np.float64]
    to_prediction: NDArray[np.float64]

    @property
    def hausdorff(self) -> float:
        """The largest distance of either direction (medpy ``hd``, MONAI with no percentile)."""
        return float(self.pooled.max()) if self.pooled.size else float("nan")

    @property
    def hd95_pooled(self) -> float:
        """95th percentile of both directions taken together (medpy ``hd95``)."""
        return _percentile(self.pooled)

    @property
    def hd95_max(self) -> float:
        """The larger of the two directed 95th percentiles (MONAI ``HausdorffDistanceMetric``, BraTS)."""
        return max(_percentile(self.to_reference), _percentile(self.to_prediction))

    @property
    def hd95_directed(self) -> float:
        """95th percentile from the prediction to the reference (MONAI, ``directed=True``)."""
        return _percentile(self.to_reference)

    @property
    def asd(self) -> float:
        """Mean distance from the prediction to the reference (medpy ``asd``, MONAI not symmetric)."""
        return float(self.to_reference.mean()) if self.pooled.size else float("nan")

    @property
    def assd(self) -> float:
        """Mean of both directions taken together (medpy 0.5 ``assd``, MONAI symmetric)."""
        return float(self.pooled.mean()) if self.pooled.size else float("nan")

    @property
    def pooled(self) -> NDArray[np.float64]:
        """Both directions, one after the other."""
        return np.concatenate([self.to_reference, self.to_prediction])


def counts(prediction: Mask, reference: Mask) -> Counts:
    """Count the voxels of two masks of one shape.

    Raises
    ------
    ValueError
        When the shapes differ.
    """
    p, g = _masks(prediction, reference)
    both, n_p, n_g = int(np.count_nonzero(p & g)), int(np.count_nonzero(p)), int(np.count_nonzero(g))
    return Counts(
        true_positive=both,
        false_positive=n_p - both,
        false_negative=n_g - both,
        true_negative=p.size - n_p - n_g + both,
    )


def dice(prediction: Mask, reference: Mask, *, both_empty: float = float("nan")) -> float:
    """Dice coefficient; `both_empty` is what two empty masks score (medpy 0, MONAI NaN, BraTS 1)."""
    value = counts(prediction, reference).dice
    return both_empty if np.isnan(value) else value


def surface_distances(prediction: Mask, reference: Mask, spacing: Sequence[float] | None = None) -> SurfaceDistances:
    """Measure the distances between the surfaces of two masks.

    Parameters
    ----------
    prediction, reference : ndarray, shape (X, Y[, Z])
    spacing : sequence of float, optional
        Voxel size along each axis; 1 where not given.

    Raises
    ------
    ValueError
        When the shapes differ, or the spacing does not have one value an axis.
    """
    p, g = _masks(prediction, reference)
    scale = np.ones(p.ndim) if spacing is None else np.asarray(spacing, dtype=float)
    if scale.shape != (p.ndim,):
        raise ValueError(f"spacing must have {p.ndim} values, got {scale.size}")
    if not (p.any() and g.any()):
        return SurfaceDistances(np.empty(0), np.empty(0))

    from scipy.spatial import cKDTree

    box = _bounding_box(p | g)
    # A tree over surface voxels, not a distance transform of the box: far islands make the box large, never the tree.
    at_p, at_g = (np.argwhere(_surface(mask[box])) * scale for mask in (p, g))
    to_reference = cKDTree(at_g, leafsize=32).query(at_p)[0]
    to_prediction = cKDTree(at_p, leafsize=32).query(at_g)[0]
    return SurfaceDistances(np.sort(to_reference), np.sort(to_prediction))


def brats_scores(prediction: Mask, reference: Mask, spacing: Sequence[float] | None = None) -> tuple[float, float]:
    """Dice and HD95 by the rules of the BraTS challenge, which never leave a case out.

    Returns
    -------
    dice : float
        1 when both masks are empty, 0 when only one is.
    hd95_mm : float
        0 when both masks are empty, 373.13 when only one is.
    """
    p, g = _masks(prediction, reference)
    if not p.any() and not g.any():
        return 1.0, 0.0
    if not p.any() or not g.any():
        return 0.0, BRATS_WORST_HD95_MM
    return counts(p, g).dice, surface_distances(p, g, spacing).hd95_max


def _masks(prediction: Mask, reference: Mask) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    if prediction.shape != reference.shape:
        raise ValueError(f"the masks must have one shape, got {prediction.shape} and {reference.shape}")
    return np.asarray(prediction, dtype=bool), np.asarray(reference, dtype=bool)


def _bounding_box(mask: NDArray[np.bool_]) -> tuple[slice, ...]:
    box = []
    for axis in range(mask.ndim):
        there = np.flatnonzero(mask.any(axis=tuple(a for a in range(mask.ndim) if a != axis)))
        box.append(slice(int(there[0]), int(there[-1]) + 1))
    return tuple(box)


def _surface(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    from scipy.ndimage import binary_erosion

    return np.asarray(mask & ~binary_erosion(mask), dtype=bool)


def _percentile(distances: NDArray[np.float64]) -> float:
    return float(np.percentile(distances, 95)) if distances.size else float("nan")


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else float("nan")
