"""Retrieval among a pool: which of 300 images was seen (brain to image), which of 300 responses belongs to an image (image to brain)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

POOL, DRAWS = 300, 30
NORMAL_95 = 1.959963984540054


@dataclass(frozen=True, eq=False, kw_only=True)
class RetrievalScore:
    """Accuracy of one direction.

    Parameters
    ----------
    direction : str
        ``brain-to-image`` ("image retrieval" in the papers) or ``image-to-brain`` ("brain retrieval").
    top : int
        The right one must be among this many.
    per_draw : ndarray, shape (draws,)
    pool : int
        Candidates in a draw.
    note : str
        What differs from the published protocol; empty where nothing does.
    """

    direction: str
    top: int
    per_draw: NDArray[np.float64]
    pool: int
    note: str

    @property
    def value(self) -> float:
        """Mean over the draws."""
        return float(self.per_draw.mean())

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the mean over draws (normal); says how well 30 draws were averaged, not how other stimuli would do."""
        n = len(self.per_draw)
        half = NORMAL_95 * float(self.per_draw.std(ddof=1)) / n**0.5 if n > 1 else float("nan")
        return self.value - half, self.value + half

    @property
    def chance(self) -> float:
        """Expected accuracy of guessing."""
        return min(self.top / self.pool, 1.0)


def retrieval(
    brain: Tensor,
    images: Tensor,
    *,
    pool: int = POOL,
    draws: int = DRAWS,
    top: tuple[int, ...] = (1,),
    seed: int = 0,
) -> tuple[RetrievalScore, ...]:
    """Score both directions on pools that are drawn independently and without replacement.

    Parameters
    ----------
    brain, images : Tensor, shape (n, ...)
        Projected brain tokens and the images' own; each is flattened and divided by its norm.
    pool : int
        Candidates a draw; where there are fewer images, all of them in a single draw, which the note says.
    draws : int
    top : tuple of int
    seed : int

    Returns
    -------
    tuple of RetrievalScore
        For each of `top`, brain to image and image to brain. A candidate as similar as the right one counts as better.

    Raises
    ------
    ValueError
        For tokens of other numbers or sizes.
    """
    table = cosines(brain, images)
    n = len(table)
    if table.shape != (n, n) or n < 1 or pool < 1 or draws < 1:
        raise ValueError(f"as many brain tokens as images are needed, and pool and draws >= 1; got {table.shape}")
    note = "" if n >= pool else f"only {n} images: all of them in one pool, not {draws} pools of {pool}"
    chosen = _pools(n, pool, draws, seed)
    ranks = np.stack([np.stack(_ranks(table[np.ix_(some, some)])) for some in chosen])  # draws x directions x pool
    return tuple(
        RetrievalScore(
            direction=direction, top=k, per_draw=(ranks[:, side] < k).mean(1), pool=len(chosen[0]), note=note
        )
        for k in top
        for side, direction in enumerate(("brain-to-image", "image-to-brain"))
    )


def cosines(a: Tensor, b: Tensor) -> NDArray[np.float32]:
    """Cosine of every flattened `a` (n, ...) with every flattened `b` (m, ...), shape (n, m); 0 for all zeros."""
    flat = [torch.nn.functional.normalize(tokens.detach().flatten(1).float(), dim=1) for tokens in (a, b)]
    if flat[0].shape[1] != flat[1].shape[1]:
        raise ValueError(f"tokens of one size are needed, got {tuple(a.shape)} and {tuple(b.shape)}")
    return (flat[0] @ flat[1].T).cpu().numpy()


def _pools(n: int, pool: int, draws: int, seed: int) -> list[NDArray[np.int64]]:
    if n <= pool:
        return [np.arange(n)]
    rng = np.random.default_rng(seed)
    return [rng.choice(n, pool, replace=False) for _ in range(draws)]


def _ranks(table: NDArray[np.float32]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Count, for each row and each column, the others that are at least as similar as the right one."""
    own = np.diag(table)
    return (table >= own[:, None]).sum(1) - 1, (table >= own[None, :]).sum(0) - 1
