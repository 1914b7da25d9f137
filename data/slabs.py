"""Labels on the source grid from logits on the network's grid, slab by slab, without ever holding classes x full resolution.

A full trilinear interpolation of 40 classes takes gigabytes and most of a minute; here each slab of planes keeps a running maximum
over the classes and only the labels (one byte a voxel) are stored.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

    from .geometry import Crop, Resampling

SLAB_BYTES = 4 << 20
"""Size of the working slab: three of them should stay in a core's cache."""
SLAB_BYTES_CUDA = 256 << 20


def slab_argmax(
    logits: torch.Tensor, resampling: Resampling | None = None, *, crop: Crop | None = None
) -> NDArray[np.uint8]:
    """Return the channel with the greatest logit in every voxel of the source grid (the first one among equals).

    The same as ``F.interpolate(logits, size, mode="trilinear").argmax(0)`` up to ties within float32's rounding.

    Parameters
    ----------
    logits : Tensor, shape (K, x, y, z)
        On any device, of any float type; at most 256 channels.
    resampling : Resampling, optional
        `logits` lie on its target grid. None: they lie on the source grid already.
    crop : Crop, optional
        The box of the target grid that `logits` cover; outside it labels are 0.

    Returns
    -------
    ndarray of uint8, shape (X, Y, Z)

    Raises
    ------
    ValueError
        Where shapes contradict each other, or there are more than 256 channels.
    """
    import torch

    if not 1 <= logits.shape[0] <= 256:
        raise ValueError(f"1 to 256 channels are possible, got {logits.shape[0]}")
    plan = _plan(logits, resampling, crop)
    labels = np.zeros(plan.shape, np.uint8)
    for slab in _slabs(plan, logits):
        best = slab.channel(0, slab.buffer(0))
        best = best.clone() if slab.shares_input else best
        where = torch.zeros(best.shape, dtype=torch.uint8, device=logits.device)
        greater = torch.empty(best.shape, dtype=torch.bool, device=logits.device)
        for channel in range(1, logits.shape[0]):
            values = slab.channel(channel, slab.buffer(1))
            torch.gt(values, best, out=greater)
            if channel + 1 < logits.shape[0]:
                torch.maximum(best, values, out=best)
            # Channels come in rising order, so the label is a maximum too: plain byte arithmetic, many voxels an instruction.
            torch.maximum(where, greater.view(torch.uint8).mul_(channel), out=where)
        labels[slab.place] = where.cpu().numpy()
    return labels


def slab_regions(
    logits: torch.Tensor,
    writes: Sequence[tuple[int, int]],
    resampling: Resampling | None = None,
    *,
    crop: Crop | None = None,
    threshold: float = 0.0,
) -> NDArray[np.uint8]:
    """Return the labels of nested regions: each region in turn writes its value where its logit exceeds the threshold.

    Parameters
    ----------
    logits : Tensor, shape (K, x, y, z)
        One sigmoid channel a region.
    writes : sequence of (channel, value)
        In order; later ones overwrite earlier ones, so that an inner region follows the outer.
    resampling, crop
        As `slab_argmax`.
    threshold : float
        Of the logit; 0 is a probability of one half.

    Returns
    -------
    ndarray of uint8, shape (X, Y, Z)

    Raises
    ------
    ValueError
        Where shapes contradict each other, or a channel or a value is not possible.
    """
    import torch

    if any(not 0 <= channel < logits.shape[0] or not 0 <= value <= 255 for channel, value in writes):
        raise ValueError(f"channels must be below {logits.shape[0]} and values below 256, got {list(writes)}")
    plan = _plan(logits, resampling, crop)
    labels = np.zeros(plan.shape, np.uint8)
    for slab in _slabs(plan, logits):
        where: torch.Tensor | None = None
        for channel, value in writes:
            values = slab.channel(channel, slab.buffer(0))
            if where is None:
                where = torch.zeros(values.shape, dtype=torch.uint8, device=logits.device)
            where.masked_fill_(values > threshold, value)
        if where is not None:
            labels[slab.place] = where.cpu().numpy()
    return labels


@dataclass(frozen=True)
class _Axis:
    """Where the output voxels ``start`` to ``stop`` of one axis lie between the logits' voxels; `low` None: one to one."""

    start: int
    stop: int
    low: NDArray[np.int64] | None
    weight: NDArray[np.float32] | None
    n_from: int


@dataclass(frozen=True)
class _Plan:
    shape: tuple[int, int, int]
    axes: tuple[_Axis, _Axis, _Axis]


def _plan(logits: torch.Tensor, resampling: Resampling | None, crop: Crop | None) -> _Plan:
    if logits.ndim != 4:
        raise ValueError(f"logits must have shape (K, x, y, z), got {tuple(logits.shape)}")
    x, y, z = logits.shape[1:]
    covered = crop.size if crop is not None else (x, y, z)
    whole = crop.shape if crop is not None else (x, y, z)
    start = crop.start if crop is not None else (0, 0, 0)
    target = resampling.target.shape if resampling is not None else whole
    source = resampling.source.shape if resampling is not None else whole
    if (x, y, z) != covered or whole != target:
        raise ValueError(f"logits of {x}x{y}x{z} voxels are neither the target grid {target} nor its crop {covered}")
    first, second, third = (_axis(target[a], source[a], start[a], covered[a]) for a in range(3))
    return _Plan(source, (first, second, third))


def _axis(n_target: int, n_source: int, start: int, size: int) -> _Axis:
    if n_target == n_source:
        return _Axis(start, start + size, None, None, size)
    # In float32, as torch's interpolation computes it: at 300 voxels the last digits decide near ties.
    ratio = np.float32(n_target) / np.float32(n_source)
    places = ratio * (np.arange(n_source, dtype=np.float32) + np.float32(0.5)) - np.float32(0.5)
    inside = np.flatnonzero((places >= start - 0.5) & (places < start + size - 0.5))
    if start == 0 and size == n_target:  # both faces belong to the volume, whatever the rounding says
        inside = np.arange(n_source)
    if not inside.size:
        return _Axis(0, 0, np.zeros(0, np.int64), np.zeros(0, np.float32), size)
    places = np.clip(places[inside], np.float32(0), None)
    low = np.clip(places.astype(np.int64), start, start + size - 1)
    weight = np.clip(places - low.astype(np.float32), np.float32(0), np.float32(1))
    weight[low == start + size - 1] = 0  # no neighbour beyond the last voxel: exactly its value
    return _Axis(int(inside[0]), int(inside[-1]) + 1, low - start, weight, size)


class _Slab:
    """Some output planes of all channels, interpolated one channel at a time into buffers that are used again."""

    def __init__(self, plan: _Plan, logits: torch.Tensor, first: int, last: int, work: _Work) -> None:
        x, y, z = plan.axes
        self.logits, self.work = logits, work
        self.n_planes = last - first
        self.place = (slice(x.start + first, x.start + last), slice(y.start, y.stop), slice(z.start, z.stop))
        if x.low is None or x.weight is None:
            self.source = slice(first, last)
            self.pairs: list[tuple[int, int, float]] | None = None
        else:
            low = x.low[first:last]
            self.source = slice(int(low[0]), min(int(low[-1]) + 2, x.n_from))
            high = np.minimum(low + 1, x.n_from - 1)
            self.pairs = [
                (int(a - low[0]), int(b - low[0]), float(w))
                for a, b, w in zip(low, high, x.weight[first:last], strict=True)
            ]

    @property
    def shares_input(self) -> bool:
        """Whether `channel` returns a view of the logits."""
        return self.pairs is None and not self.work.in_plane

    def buffer(self, number: int) -> torch.Tensor:
        """Return one of two buffers of the slab's size."""
        return self.work.buffers[number][: self.n_planes]

    def channel(self, channel: int, out: torch.Tensor) -> torch.Tensor:
        """Return channel values (planes, Y, Z) on the source grid, as float32; `out` may hold them."""
        import torch

        planes = self.logits[channel, self.source]
        if planes.dtype != torch.float32:
            planes = planes.float()
        planes = self.work.interpolate_in_plane(planes)
        if self.pairs is None:
            return planes
        for row, (low, high, weight) in enumerate(self.pairs):
            torch.lerp(planes[low], planes[high], weight, out=out[row])
        return out


class _Work:
    """What the slabs share: the buffers, and the interpolation inside a plane."""

    def __init__(self, plan: _Plan, logits: torch.Tensor, n_planes: int) -> None:
        import torch

        _, y, z = plan.axes
        device = logits.device
        self.in_plane = y.low is not None or z.low is not None
        self.buffers = [
            torch.empty((n_planes, y.stop - y.start, z.stop - z.start), dtype=torch.float32, device=device)
            for _ in range(2)
        ]
        self.along_z: torch.Tensor | None = None
        if z.low is not None and z.weight is not None:
            matrix = np.zeros((z.n_from, len(z.low)), np.float32)
            columns = np.arange(len(z.low))
            matrix[z.low, columns] = 1 - z.weight
            matrix[np.minimum(z.low + 1, z.n_from - 1), columns] += z.weight
            self.along_z = torch.from_numpy(matrix).to(device)
        self.along_y: tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None = None
        if y.low is not None and y.weight is not None:
            high = np.minimum(y.low + 1, y.n_from - 1)
            low_, high_, weight_ = (torch.from_numpy(part).to(device) for part in (y.low, high, y.weight))
            self.along_y = (low_, high_, weight_[:, None])

    def interpolate_in_plane(self, planes: torch.Tensor) -> torch.Tensor:
        """(p, y, z) to (p, Y, Z)."""
        import torch

        if self.along_z is not None:
            # A dense product: two of many factors are not zero, yet BLAS beats gathering neighbours along the innermost axis.
            planes = planes @ self.along_z
        if self.along_y is not None:
            low, high, weight = self.along_y
            planes = torch.lerp(planes.index_select(1, low), planes.index_select(1, high), weight)
        return planes


def _slabs(plan: _Plan, logits: torch.Tensor) -> Iterator[_Slab]:
    x, y, z = plan.axes
    n, plane_bytes = x.stop - x.start, 4 * (y.stop - y.start) * (z.stop - z.start)
    if not n or not plane_bytes:
        return
    budget = SLAB_BYTES if logits.device.type == "cpu" else SLAB_BYTES_CUDA
    step = int(np.clip(budget // plane_bytes, 1, n))
    work = _Work(plan, logits, step)
    for first in range(0, n, step):
        yield _Slab(plan, logits, first, min(first + step, n), work)
