"""From the scanner's grid to the network's and back: orientation, crop, spacing, each with its exact inverse."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from .slabs import slab_argmax, slab_regions
from .volumes import Affine, Grid

__all__ = ["Canonical", "Crop", "Resampling", "slab_argmax", "slab_regions"]

Scalar = TypeVar("Scalar", bound=np.generic)
Triple = tuple[int, int, int]


@dataclass(frozen=True)
class Canonical:
    """Axis order and directions that bring a volume nearest to RAS+ (x to the right, y forward, z up).

    Nothing is interpolated: an oblique volume stays oblique. The choice is that of nibabel's ``io_orientation``: each voxel axis,
    the best aligned one first, takes the free world axis that it is nearest to, after the affine's shear is removed.

    Parameters
    ----------
    axes : tuple of int
        ``axes[w]`` is the array axis that becomes axis ``w``.
    flips : tuple of bool
        Whether axis ``w`` of the result runs against that array axis.
    """

    axes: Triple
    flips: tuple[bool, bool, bool]

    @classmethod
    def from_affine(cls, affine: Affine) -> Canonical:
        """Choose for an affine, shape (4, 4), that is not singular."""
        matrix = affine[:3, :3]
        left, _, right = np.linalg.svd(matrix / np.linalg.norm(matrix, axis=0))
        nearest = left @ right  # the polar factor: the rotation nearest to the affine
        axes, flips = [0, 0, 0], [False, False, False]
        likeness = np.abs(nearest)
        for axis in np.argsort(-(nearest**2).max(axis=0), kind="stable"):
            world = int(np.argmax(likeness[:, axis]))
            likeness[world] = -1  # taken
            axes[world], flips[world] = int(axis), bool(nearest[world, axis] < 0)
        return cls((axes[0], axes[1], axes[2]), (flips[0], flips[1], flips[2]))

    def forward(self, values: NDArray[Scalar]) -> NDArray[Scalar]:
        """Return the view (..., X, Y, Z) in canonical order; leading axes stay."""
        lead = values.ndim - 3
        turned = values.transpose(*range(lead), *(lead + axis for axis in self.axes))
        return turned[(..., *self._steps)]

    def inverse(self, values: NDArray[Scalar]) -> NDArray[Scalar]:
        """Return the view (..., X, Y, Z) in the original order: the exact inverse of `forward`."""
        lead = values.ndim - 3
        flipped = values[(..., *self._steps)]
        return flipped.transpose(*range(lead), *(lead + self.axes.index(axis) for axis in range(3)))

    def grid(self, grid: Grid) -> Grid:
        """Return the grid on which `forward` of a volume on `grid` lies, at the same places in the world."""
        affine = grid.affine.copy()
        for world, (axis, flip) in enumerate(zip(self.axes, self.flips, strict=True)):
            column = grid.affine[:3, axis]
            affine[:3, world] = -column if flip else column
            if flip:
                affine[:3, 3] += column * (grid.shape[axis] - 1)
        shape = grid.shape
        return Grid((shape[self.axes[0]], shape[self.axes[1]], shape[self.axes[2]]), affine)

    @property
    def _steps(self) -> tuple[slice, slice, slice]:
        x, y, z = (slice(None, None, -1) if flip else slice(None) for flip in self.flips)
        return x, y, z


@dataclass(frozen=True)
class Crop:
    """A box of voxels inside a volume.

    Parameters
    ----------
    start, stop : tuple of int
        Half-open, inside the volume.
    shape : tuple of int
        Of the whole volume.
    """

    start: Triple
    stop: Triple
    shape: Triple

    @classmethod
    def whole(cls, shape: Triple) -> Crop:
        """Return the box that cuts nothing off."""
        return cls((0, 0, 0), shape, shape)

    @classmethod
    def around(cls, mask: NDArray[Any], grid: Grid, *, margin_mm: float = 0.0) -> Crop:
        """Return the smallest box that holds every voxel that is not zero, with a margin; the whole volume for an empty mask.

        Parameters
        ----------
        mask : ndarray, shape (X, Y, Z)
        grid : Grid
            Of the mask; its spacing turns the margin into voxels (rounded up).
        margin_mm : float
            Margin on each side; cut off at the volume's faces.
        """
        filled: NDArray[np.bool_] = np.asarray(mask, dtype=np.bool_)
        start, stop = [0, 0, 0], list(mask.shape)
        over_z: NDArray[np.bool_] = np.any(filled, axis=2)
        lines = (np.any(over_z, axis=1), np.any(over_z, axis=0), np.any(filled, axis=(0, 1)))
        for axis, line in enumerate(lines):
            found = np.flatnonzero(line)
            if found.size:
                margin = int(np.ceil(margin_mm / grid.spacing_mm[axis] - 1e-6))
                start[axis] = max(0, int(found[0]) - margin)
                stop[axis] = min(mask.shape[axis], int(found[-1]) + 1 + margin)
        x, y, z = mask.shape
        return cls((start[0], start[1], start[2]), (stop[0], stop[1], stop[2]), (x, y, z))

    @property
    def size(self) -> Triple:
        """Voxels along each axis of the box."""
        return self.stop[0] - self.start[0], self.stop[1] - self.start[1], self.stop[2] - self.start[2]

    @property
    def slices(self) -> tuple[slice, slice, slice]:
        """The box as an index."""
        x, y, z = (slice(a, b) for a, b in zip(self.start, self.stop, strict=True))
        return x, y, z

    def cut(self, values: NDArray[Scalar]) -> NDArray[Scalar]:
        """Return the view (..., x, y, z) of the box; leading axes stay."""
        return values[(..., *self.slices)]

    def paste(self, values: NDArray[Scalar], *, fill: float = 0) -> NDArray[Scalar]:
        """Return a whole volume (..., X, Y, Z) with the box in its place and `fill` around it."""
        out = np.full((*values.shape[:-3], *self.shape), fill, values.dtype)
        out[(..., *self.slices)] = values
        return out

    def grid(self, grid: Grid) -> Grid:
        """Return the grid of the box, at the same places in the world."""
        affine = grid.affine.copy()
        affine[:3, 3] += affine[:3, :3] @ np.array(self.start, dtype=np.float64)
        return Grid(self.size, affine)


@dataclass(frozen=True, eq=False)
class Resampling:
    """Linear interpolation between two spacings over one field of view.

    The outer faces of both grids coincide (``align_corners=False``): with ``r = n_source / n_target`` voxels, target voxel ``i`` lies at
    source index ``(i + 0.5) r - 0.5``. The spacing that results is the one asked for up to half a voxel over the whole extent; the target
    grid's affine is exact, so a voxel's place in the world is never rounded.

    Parameters
    ----------
    source, target : Grid
        Use `to_spacing`, which makes the target.
    """

    source: Grid
    target: Grid

    @classmethod
    def to_spacing(cls, source: Grid, spacing_mm: float | tuple[float, float, float] | None) -> Resampling:
        """Plan the way to a spacing.

        Parameters
        ----------
        source : Grid
            Of the volume as it is, in canonical order.
        spacing_mm : float or tuple of float, optional
            Wanted distance of voxels, one number or one an axis; None keeps the source's.
        """
        if spacing_mm is None:
            return cls(source, Grid(source.shape, source.affine))
        wanted = np.broadcast_to(np.asarray(spacing_mm, dtype=np.float64), 3)
        extent = np.array(source.shape) * source.spacing_mm
        # Halves go up, also where the affine's float32 digits leave them just below: equal scans get equal grids.
        x, y, z = (max(1, int(n)) for n in np.floor(extent / wanted + 0.5 + 1e-4))
        ratio = np.array(source.shape) / (x, y, z)
        affine = source.affine.copy()
        affine[:3, :3] = source.affine[:3, :3] * ratio
        affine[:3, 3] += source.affine[:3, :3] @ (0.5 * ratio - 0.5)
        return cls(source, Grid((x, y, z), affine))

    @property
    def is_identity(self) -> bool:
        """Whether nothing has to be interpolated."""
        return self.source.shape == self.target.shape

    def to_target(self, values: NDArray[Any]) -> NDArray[np.float32]:
        """Resample an image, smoothed first along every axis that gets coarser.

        The Gaussian has a standard deviation of ``sqrt(r**2 - 1) / (2 sqrt(2 ln 2))`` source voxels, so that its width at half
        maximum brings a source voxel's point spread to a target voxel's (Cardoso et al., MICCAI 2015).

        Parameters
        ----------
        values : ndarray, shape (..., X, Y, Z)
            On the source grid.

        Returns
        -------
        ndarray of float32, shape (..., X', Y', Z')
            On the target grid.
        """
        return _along_axes(values, self.source.shape, self.target.shape, smooth=True)

    def to_source(self, values: NDArray[Any]) -> NDArray[np.float32]:
        """Resample values (..., X', Y', Z'), such as logits or probabilities, from the target grid to the source grid (..., X, Y, Z)."""
        return _along_axes(values, self.target.shape, self.source.shape, smooth=False)


def _along_axes(values: NDArray[Any], before: Triple, after: Triple, *, smooth: bool) -> NDArray[np.float32]:
    """Multiply each axis with its small interpolation matrix: dense, since BLAS is faster than gathering two neighbours."""
    if values.shape[-3:] != before:
        raise ValueError(f"values have shape {values.shape[-3:]}, the grid has {before}")
    x, y, z = (
        None if a == b else interpolation_matrix(a, b, smooth=smooth) for a, b in zip(before, after, strict=True)
    )
    out = np.ascontiguousarray(values, dtype=np.float32)
    if z is not None:
        out = out @ z.T
    if y is not None:
        out = y @ out
    if x is not None:
        flat = out.reshape(*out.shape[:-2], -1)
        out = (x @ flat).reshape(*out.shape[:-3], after[0], *out.shape[-2:])
    # Without a step above the input itself may be what is left; a caller may write into what it got.
    return out.copy() if np.may_share_memory(out, values) else out


def interpolation_matrix(n_from: int, n_to: int, *, smooth: bool) -> NDArray[np.float32]:
    """Return the matrix, shape (n_to, n_from), of linear interpolation over one extent; every row sums to 1.

    Parameters
    ----------
    n_from, n_to : int
        Voxels before and after.
    smooth : bool
        Whether a Gaussian precedes where `n_to` is smaller; outside the volume the last voxel is repeated.
    """
    ratio = n_from / n_to
    places = np.clip((np.arange(n_to) + 0.5) * ratio - 0.5, 0, n_from - 1)
    low = np.minimum(places.astype(np.int64), max(n_from - 2, 0))
    weight = places - low
    matrix = np.zeros((n_to, n_from))
    rows = np.arange(n_to)
    matrix[rows, low] = 1 - weight
    matrix[rows, np.minimum(low + 1, n_from - 1)] += weight
    if smooth and ratio > 1:
        sigma = np.sqrt(ratio**2 - 1) / np.sqrt(8 * np.log(2))
        reach = int(np.ceil(4 * sigma))
        kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
        kernel /= kernel.sum()
        gaussian = np.zeros((n_from, n_from))
        for shift, part in zip(range(-reach, reach + 1), kernel, strict=True):
            np.add.at(gaussian, (np.arange(n_from), np.clip(np.arange(n_from) + shift, 0, n_from - 1)), part)
        matrix = matrix @ gaussian
    return matrix.astype(np.float32)
