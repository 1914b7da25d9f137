"""Two-way identification: how often a reconstruction is more like its own image than like another one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Rule = Literal["columns", "rows"]
SLICE = 8192
ROUNDING = 1e-6
"""Deviation, relative to the mean, that rounding in float32 alone may cause."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Identification:
    """Outcome of all comparisons.

    Parameters
    ----------
    wins, ties : ndarray of int64, shape (n,)
        Of each reconstruction's (rule ``rows``: each image's) n - 1 comparisons.
    """

    wins: NDArray[np.int64]
    ties: NDArray[np.int64]

    @property
    def per_image(self) -> NDArray[np.float64]:
        """Share of the comparisons won; a tie is lost, as published."""
        return self.wins / (len(self.wins) - 1)

    @property
    def per_image_with_ties(self) -> NDArray[np.float64]:
        """Share of the comparisons won, a tie being half a win."""
        return (self.wins + self.ties / 2) / (len(self.wins) - 1)

    @property
    def score(self) -> float:
        """Mean over the images; chance is 0.5."""
        return float(self.per_image.mean())

    @property
    def tie_share(self) -> float:
        """Share of all comparisons that are ties: where it is not near 0, read `per_image_with_ties`."""
        return float(self.ties.mean() / (len(self.ties) - 1))


def correlations(real: Tensor, reconstructed: Tensor) -> NDArray[np.float64]:
    """Pearson's correlation of every row of `real` (n, f) with every row of `reconstructed` (m, f), shape (n, m).

    0 where one of the two is a constant but for rounding in float32: such a row is like nothing.
    """
    if real.shape[1] != reconstructed.shape[1]:
        raise ValueError(f"features of one kind are needed, got {tuple(real.shape)} and {tuple(reconstructed.shape)}")
    means = [torch.stack([row.double().mean() for row in rows]) for rows in (real, reconstructed)]
    products = torch.zeros(len(real), len(reconstructed), dtype=torch.float64, device=real.device)
    squares = [torch.zeros_like(mean) for mean in means]
    # In slices of the features: a layer of AlexNet has 186,624, and 1,000 images of it in float64 would be 1.5 GB.
    for start in range(0, real.shape[1], SLICE):
        a, b = (
            rows[:, start : start + SLICE].double() - mean[:, None]
            for rows, mean in zip((real, reconstructed), means, strict=True)
        )
        products += a @ b.T
        for total, part in zip(squares, (a, b), strict=True):
            total += part.square().sum(1)
    norms = [
        torch.where(total > rows.shape[1] * (ROUNDING * mean).square(), total.sqrt(), torch.inf)
        for total, mean, rows in zip(squares, means, (real, reconstructed), strict=True)
    ]
    return (products / norms[0][:, None] / norms[1][None, :]).cpu().numpy()


def row_correlation(a: Tensor, b: Tensor) -> NDArray[np.float64]:
    """Pearson's correlation of each row of `a` (n, f) with that of `b`; 0 where one is a constant."""
    return np.array([correlations(x[None], y[None])[0, 0] for x, y in zip(a, b, strict=True)])


def two_way(
    table: NDArray[np.floating], *, rule: Rule = "columns", partner: NDArray[np.int64] | None = None
) -> Identification:
    """Compare matched with unmatched similarities.

    Parameters
    ----------
    table : ndarray, shape (n, n)
        Rows: real images; columns: reconstructions (`correlations`).
    rule : "columns" or "rows"
        ``columns``, the published code's: reconstruction j is compared with all images i, won where table[i, j] < table[j, j].
        ``rows``, what MindEye2's text describes: image i with all reconstructions.
    partner : ndarray of int64, shape (n,), optional
        Whose image reconstruction j is taken for, where pairs were permuted to find chance.

    Raises
    ------
    ValueError
        For a table that is not square, or of fewer than two images.
    """
    n = len(table)
    if table.shape != (n, n) or n < 2:
        raise ValueError(
            f"similarities of at least 2 images with as many reconstructions are needed, got {table.shape}"
        )
    if partner is not None:
        table = table[partner]  # row j: the image that reconstruction j is taken for
    others = table if rule == "columns" else table.T
    own = np.diag(table)
    return Identification(wins=(others < own).sum(0), ties=(others == own).sum(0) - 1)
