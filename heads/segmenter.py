"""From windows to one volume of logits: the sliding-window grid, the blending weights and the accumulator.

Same grid and weights as MONAI's ``monai.inferers.sliding_window_inference`` (read in release 1.6.1), so that a network gives the
same answer here and in a MONAI script: scan interval ``int(size * (1 - overlap))``, the last window moved back to
the end of the volume, symmetric zero padding where the volume is smaller than the window, Gaussian weights with sigma = size / 8.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

Triple = tuple[int, int, int]
SIGMA_SCALE = 0.125
SMALLEST_WEIGHT = 1e-3


@dataclass(frozen=True)
class WindowGrid:
    """Where the windows of a volume lie.

    Parameters
    ----------
    shape : tuple of int
        (X, Y, Z) of the volume, voxels.
    size : tuple of int
        Of a window, voxels.
    overlap : float
        Share of a window that its neighbour covers too, in [0, 1).
    """

    shape: Triple
    size: Triple
    overlap: float

    @property
    def padding(self) -> tuple[tuple[int, int], ...]:
        """Voxels to add before and after each axis."""
        missing = [max(size - n, 0) for n, size in zip(self.shape, self.size, strict=True)]
        return tuple((m // 2, m - m // 2) for m in missing)

    @property
    def padded(self) -> Triple:
        """(X, Y, Z) after padding."""
        x, y, z = (max(n, size) for n, size in zip(self.shape, self.size, strict=True))
        return x, y, z

    @cached_property
    def starts(self) -> tuple[Triple, ...]:
        """First voxel of every window in the padded volume, last axis fastest."""
        axes = [_starts(n, size, self.overlap) for n, size in zip(self.padded, self.size, strict=True)]
        return tuple(itertools.product(*axes))  # type: ignore[arg-type]

    def __len__(self) -> int:
        return len(self.starts)

    def window(self, index: int) -> tuple[slice, slice, slice]:
        """Return the slices of window `index` in the padded volume."""
        x, y, z = (slice(a, a + n) for a, n in zip(self.starts[index], self.size, strict=True))
        return x, y, z

    def pad(self, image: Tensor) -> Tensor:
        """Return `image` (C, X, Y, Z) zero-padded to `padded`; itself where nothing is missing."""
        flat = [voxels for pair in reversed(self.padding) for voxels in pair]
        return functional.pad(image, flat) if any(flat) else image

    def unpad(self, image: Tensor) -> Tensor:
        """Return the view of a padded volume (C, X, Y, Z) that `pad` was given."""
        inner = tuple(slice(low, low + n) for (low, _), n in zip(self.padding, self.shape, strict=True))
        return image[(slice(None), *inner)]


def _starts(n: int, size: int, overlap: float) -> list[int]:
    interval = max(int(size * (1 - overlap)), 1)
    count = -(-(n - size) // interval) + 1
    return [min(i * interval, n - size) for i in range(count)]


def importance(size: Triple, blend: Literal["gaussian", "constant"], device: torch.device | str = "cpu") -> Tensor:
    """Return the weight of each voxel of a window, shape `size`, float32, always > 0."""
    if blend == "constant":
        return torch.ones(size, device=device)
    weights = torch.ones((), device=device)
    for n in size:
        # In float32 from the start and multiplied in this order, so that the weights are MONAI's to the last bit.
        x = torch.arange(-(n - 1) / 2.0, (n - 1) / 2.0 + 1, dtype=torch.float32, device=device)
        weights = weights.unsqueeze(-1) * torch.exp(x**2 / (-2 * (n * SIGMA_SCALE) ** 2))
    return weights.clamp_(min=max(float(weights.min()), SMALLEST_WEIGHT))


class Blend:
    """Sums weighted window logits into one volume.

    Parameters
    ----------
    grid : WindowGrid
    weights : Tensor, shape `grid.size`
    device : device of the sum, which may differ from that of the windows.
    """

    def __init__(self, grid: WindowGrid, weights: Tensor, device: torch.device | str) -> None:
        self.grid, self.weights, self.device = grid, weights, torch.device(device)
        self._sum: Tensor | None = None

    def add(self, index: int, logits: Tensor) -> None:
        """Add the logits (K, *size) of window `index`."""
        if self._sum is None:
            self._sum = torch.zeros((logits.shape[0], *self.grid.padded), device=self.device)
        place = self._sum[(slice(None), *self.grid.window(index))]
        place.addcmul_(logits.to(self.device, torch.float32), self.weights)  # one pass instead of multiply, then add

    def result(self, *, normalised: bool) -> Tensor:
        """Return the blended logits (K, X, Y, Z).

        Parameters
        ----------
        normalised : bool
            Divide by the summed weights. Neither an argmax over channels nor a sign depends on it, so that it is only needed
            before an interpolation or where probabilities are asked for.
        """
        if self._sum is None:
            raise ValueError("no window was added")
        total, self._sum = self._sum, None
        if normalised:
            count = torch.zeros(self.grid.padded, device=self.device)
            for index in range(len(self.grid)):
                count[self.grid.window(index)] += self.weights
            total /= count
        return self.grid.unpad(total)


def sliding_windows(
    image: Tensor,
    network: Callable[[Tensor], Tensor],
    *,
    size: Sequence[int],
    overlap: float = 0.5,
    blend: Literal["gaussian", "constant"] = "gaussian",
    batch_size: int = 1,
) -> Tensor:
    """Run `network` over all windows of one volume (what training uses to validate; a pipeline batches across patients instead).

    Parameters
    ----------
    image : Tensor, shape (C, X, Y, Z)
    network : (B, C, *size) to (B, K, *size)

    Returns
    -------
    Tensor, shape (K, X, Y, Z)
        Blended logits on the device of `image`.
    """
    x, y, z = size
    grid = WindowGrid((image.shape[1], image.shape[2], image.shape[3]), (x, y, z), overlap)
    padded = grid.pad(image)
    blended = Blend(grid, importance(grid.size, blend, image.device), image.device)
    for first in range(0, len(grid), batch_size):
        indices = range(first, min(first + batch_size, len(grid)))
        batch = torch.stack([padded[(slice(None), *grid.window(i))] for i in indices])
        for index, logits in zip(indices, network(batch), strict=True):
            blended.add(index, logits)
    return blended.result(normalised=True)
