"""What every fusion of vectors shares: the rule of absence, and what is returned.

A fusion is called as ``fusion(vectors, present=None)`` with m vectors of shape (B, d) and a bool mask (B, m), True =
there; None means that all are. What stands in an absent vector never changes a result, and a case without any vector
gives zeros. ``fusion.config.out_width`` is the width of the result.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class FusionOutput(NamedTuple):
    """What a fusion returns.

    Parameters
    ----------
    fused : Tensor, shape (B, d_out)
    weights : Tensor, shape (B, m), or None
        Share of each vector, exactly 0 where it is absent; None where a fusion has no such thing.
    """

    fused: Tensor
    weights: Tensor | None


class Vectors(NamedTuple):
    """Vectors that have been checked and stacked.

    Parameters
    ----------
    stacked : Tensor, shape (B, m, d)
        Zeros where a vector is absent.
    present : Tensor of bool, shape (B, m)
    """

    stacked: Tensor
    present: Tensor

    def without_empty(self, fused: Tensor) -> Tensor:
        """Put zeros, (B, d_out), for cases that have no vector at all."""
        return fused.masked_fill(~self.present.any(dim=1, keepdim=True), 0.0)


def stack(vectors: Sequence[Tensor], present: Tensor | None, *, width: int, count: int) -> Vectors:
    """Check vectors and put zeros for the absent ones, whatever stood there.

    Parameters
    ----------
    vectors : sequence of Tensor, shape (B, width)
    present : Tensor of bool, shape (B, count), or None
        None: all are there.
    width, count : int
        What the fusion was made for.

    Returns
    -------
    Vectors
        No gradient reaches an absent vector.

    Raises
    ------
    ValueError
        Where number, shapes or the mask's type do not fit.
    """
    shapes = [tuple(vector.shape) for vector in vectors]
    if len(shapes) != count or len(set(shapes)) != 1 or len(shapes[0]) != 2 or shapes[0][1] != width:
        raise ValueError(f"vectors must be {count} of shape (B, {width}), got {len(shapes)} of shapes {shapes}")
    stacked = torch.stack(list(vectors), dim=1)
    if present is None:
        present = torch.ones(stacked.shape[:2], dtype=torch.bool, device=stacked.device)
    if present.dtype != torch.bool or present.shape != stacked.shape[:2]:
        raise ValueError(
            f"present must be bool of shape {tuple(stacked.shape[:2])}, got {present.dtype} of {tuple(present.shape)}"
        )
    return Vectors(stacked.masked_fill(~present[..., None], 0.0), present)


def check_sizes(*, least_count: int, **sizes: int | None) -> None:
    """Raise ValueError, listing all that is wrong, for a size below 1 or a ``count`` below `least_count`; None is fine."""
    least = {name: least_count if name == "count" else 1 for name in sizes}
    wrong = [
        f"{name} must be >= {least[name]}, got {n}" for name, n in sizes.items() if n is not None and n < least[name]
    ]
    if wrong:
        raise ValueError("; ".join(wrong))


def with_one(vectors: Tensor, present: Tensor) -> Tensor:
    """Append a 1 to each vector, so that products keep the lower orders; an absent vector becomes (0, ..., 0, 1).

    Parameters
    ----------
    vectors : Tensor, shape (B, m, p)
    present : Tensor of bool, shape (B, m)

    Returns
    -------
    Tensor, shape (B, m, p + 1)
    """
    return torch.nn.functional.pad(vectors.masked_fill(~present[..., None], 0.0), (0, 1), value=1.0)
