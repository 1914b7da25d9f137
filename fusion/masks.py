"""The rule of padding, in one place: what a mask calls padding is replaced before anything is computed with it.

Multiplying by a mask is not enough (0 x NaN is NaN), and a softmax over nothing is NaN, so both are done by selection.
"""

from __future__ import annotations

import torch
from torch import Tensor


def cleaned(tokens: Tensor, mask: Tensor, *, width: int, name: str = "tokens") -> Tensor:
    """Put zeros where a mask says padding, whatever stood there.

    Parameters
    ----------
    tokens : Tensor, shape (B, N, width)
    mask : Tensor of bool, shape (B, N)
        True = valid.
    width : int
        What the block was made for.
    name : str
        What the message calls the tokens.

    Returns
    -------
    Tensor, shape (B, N, width)
        No gradient reaches the padding.

    Raises
    ------
    ValueError
        Where shapes or the mask's type do not fit; all that is wrong is listed.
    """
    wrong = []
    if tokens.ndim != 3 or tokens.shape[-1] != width:
        wrong.append(f"{name} must have shape (B, N, {width}), got {tuple(tokens.shape)}")
    if mask.dtype != torch.bool:
        wrong.append(f"the mask of {name} must be bool (True = valid), got {mask.dtype}")
    if mask.shape != tokens.shape[:-1]:
        wrong.append(f"the mask of {name} must have shape {tuple(tokens.shape[:-1])}, got {tuple(mask.shape)}")
    if wrong:
        raise ValueError("; ".join(wrong))
    return tokens.masked_fill(~mask[..., None], 0.0)


def masked_softmax(scores: Tensor, allowed: Tensor, *, dim: int = -1) -> Tensor:
    """Softmax over what is allowed; exactly 0 elsewhere, and everywhere where nothing is allowed.

    Parameters
    ----------
    scores : Tensor
    allowed : Tensor of bool
        Broadcasts to `scores`.
    dim : int
        Dimension that sums to one.

    Returns
    -------
    Tensor, shape of `scores`
        Its gradient is finite for every mask.
    """
    lowest = torch.finfo(scores.dtype).min  # not -inf: a row without any allowed entry would be NaN
    return scores.masked_fill(~allowed, lowest).softmax(dim).masked_fill(~allowed, 0.0)


def masked_mean(tokens: Tensor, mask: Tensor) -> Tensor:
    """Mean over valid tokens; zeros for a row without any.

    Parameters
    ----------
    tokens : Tensor, shape (B, N, d)
    mask : Tensor of bool, shape (B, N)

    Returns
    -------
    Tensor, shape (B, d)
    """
    total = cleaned(tokens, mask, width=tokens.shape[-1]).sum(dim=1)
    return total / mask.sum(dim=1, keepdim=True).clamp(min=1)
