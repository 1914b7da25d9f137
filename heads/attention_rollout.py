"""Attention rollout: what reaches a token when each layer mixes tokens as its attention says.

A class-agnostic view: the same for every class, so never "the reason" for a prediction. `heads.relevance` has the
class-specific maps.

Source: Abnar & Zuidema, ACL 2020; the product without normalised rows is that of the code of Chefer et al., CVPR 2021.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import Literal

import torch
from torch import Tensor

Heads = Literal["mean", "max", "min"]


def fuse_heads(attention: Tensor, *, heads: Heads = "mean", discard: float = 0.0) -> Tensor:
    """Join the heads of one layer.

    Parameters
    ----------
    attention : Tensor, shape (..., H, n, m)
    heads : {'mean', 'max', 'min'}
    discard : float
        Share of each case's smallest entries, in [0, 1), that is set to zero after the heads are joined.

    Returns
    -------
    Tensor, shape (..., n, m)
    """
    if heads not in ("mean", "max", "min"):
        raise ValueError(f"heads: 'mean', 'max' or 'min', not {heads!r}")
    if not 0 <= discard < 1:
        raise ValueError(f"discard: in [0, 1), not {discard}")
    fused = attention.mean(-3) if heads == "mean" else getattr(attention, f"a{heads}")(-3)
    n_discarded = int(discard * fused.shape[-1] * fused.shape[-2])
    if n_discarded:
        flat = fused.flatten(-2)
        smallest = flat.topk(n_discarded, dim=-1, largest=False).indices
        fused = flat.scatter(-1, smallest, 0.0).view_as(fused)
    return fused


def attention_rollout(layers: Sequence[Tensor] | Tensor, *, start: int = 0, normalise: bool = True) -> Tensor:
    """Multiply (A + I) over the layers, later layers on the left.

    Parameters
    ----------
    layers : sequence of Tensor, shape (..., n, n)
        Head-fused attention, first layer first; or relevance of attention, as the CVPR'21 method has it.
    start : int
        First layer that counts.
    normalise : bool
        Divide each row of A + I by its sum: a row is then the share of every input token.

    Returns
    -------
    Tensor, shape (..., n, n)
        Row i: what reached token i.
    """
    if not 0 <= start < len(layers):
        raise ValueError(f"start: one of the {len(layers)} layers, not {start}")
    mixed = [layer + torch.eye(layer.shape[-1], dtype=layer.dtype, device=layer.device) for layer in layers[start:]]
    if normalise:
        mixed = [layer / layer.sum(-1, keepdim=True) for layer in mixed]
    return reduce(lambda earlier, later: later @ earlier, mixed)


def class_token_row(rollout: Tensor, *, special: int = 1) -> Tensor:
    """Return row 0 without its first `special` columns (the class token's, and a distillation token's), (..., n - k)."""
    return rollout[..., 0, special:]
