"""What it costs to move a token of one modality onto a token of another.

Costs are computed in float32 or float64 whatever the tokens come in: a plan is exp(-cost / eps), so with eps = 0.02 the
1e-3 that TF32 or bfloat16 loses would be 5 % of every entry.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, get_args

import torch
from torch import Tensor

Cost = Literal["cosine", "squared-euclidean"]
Normalise = Literal["max", "median", "none"]


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Switch autocast and reduced-precision matrix products (TF32, bfloat16) off within the block."""
    backend: Any = torch.backends.cuda if device.type == "cuda" else torch.backends.mkldnn
    matmul = backend.matmul
    before = matmul.fp32_precision
    matmul.fp32_precision = "ieee"
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        matmul.fp32_precision = before


def widened(x: Tensor) -> Tensor:
    """Return `x` in float32, or as it is in float64."""
    return x if x.dtype == torch.float64 else x.float()


def cosine_cost(x: Tensor, y: Tensor) -> Tensor:
    """1 - cosine similarity, (B, N, d) and (B, M, d) to (B, N, M), in [0, 2].

    A token of zero norm is orthogonal to everything (cost 1) and gets a finite gradient.
    """
    with full_precision(x.device):
        return 1 - _unit(widened(x)) @ _unit(widened(y)).mT


def squared_euclidean_cost(x: Tensor, y: Tensor) -> Tensor:
    """Squared Euclidean distance, (B, N, d) and (B, M, d) to (B, N, M)."""
    with full_precision(x.device):
        x, y = widened(x), widened(y)
        squares = x.square().sum(-1)[..., :, None] + y.square().sum(-1)[..., None, :]
        return (squares - 2 * x @ y.mT).clamp_min(0)


def normalise_cost(cost: Tensor, x_mask: Tensor, y_mask: Tensor, *, how: Normalise) -> Tensor:
    """Divide each item's cost by its largest or its (lower) median entry over valid pairs.

    Parameters
    ----------
    cost : Tensor, shape (B, N, M)
    x_mask, y_mask : Tensor of bool, shapes (B, N) and (B, M)
        True = valid.
    how : {'max', 'median', 'none'}
        An item with no valid pair, or whose valid costs are all zero, stays as it is. The scale takes part in the gradient.
    """
    if how not in get_args(Normalise):
        raise ValueError(f"how must be one of {', '.join(get_args(Normalise))}; got '{how}'")
    if how == "none":
        return cost
    pairs = (x_mask[:, :, None] & y_mask[:, None, :]).flatten(1)
    flat = cost.flatten(1)
    filled = flat.masked_fill(~pairs, -torch.inf if how == "max" else torch.nan)
    scale = filled.amax(1) if how == "max" else filled.nanmedian(1).values
    usable = pairs.any(1) & (scale > 0)
    return cost / torch.where(usable, scale, torch.ones_like(scale))[:, None, None]


def pairwise_cost(x: Tensor, y: Tensor, *, kind: Cost) -> Tensor:
    """Cost by name, (B, N, d) and (B, M, d) to (B, N, M)."""
    if kind == "cosine":
        return cosine_cost(x, y)
    if kind == "squared-euclidean":
        return squared_euclidean_cost(x, y)
    raise ValueError(f"cost must be one of {', '.join(get_args(Cost))}; got '{kind}'")


def _unit(x: Tensor) -> Tensor:
    # not F.normalize: at a zero vector its gradient is 1 / its tiny epsilon
    squares = x.square().sum(-1, keepdim=True)
    return x * torch.where(squares > 0, squares, torch.ones_like(squares)).rsqrt()
