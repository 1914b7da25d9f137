"""Mixing a reconstruction with the low-level picture (MindEye2: 0.75 and 0.25; Scotti et al., ICML 2024, section 2.6)."""

from __future__ import annotations

import torch
from torch import Tensor

from .interface import fitted_start

PUBLISHED_SHARE = 0.25
"""Of the low-level picture."""


def blended(images: Tensor, low_level: Tensor, *, share: float = PUBLISHED_SHARE) -> Tensor:
    """Return ``(1 - share) * images + share * low_level``, rounded.

    Parameters
    ----------
    images : Tensor, shape (B, S, S, 3), uint8
    low_level : Tensor, shape (B, 3, s, s)
        From 0 to 1; resized to S where needed.
    share : float
        From 0 to 1; a result must say it.

    Raises
    ------
    ValueError
        For a share outside 0..1 or batches of different length.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share must lie in 0..1, got {share}")
    if images.dtype != torch.uint8 or len(images) != len(low_level):
        raise ValueError(f"uint8 pictures and as many low-level ones are needed, got {images.dtype}, {len(low_level)}")
    below = fitted_start(low_level, images.shape[1]).to(images.device).permute(0, 2, 3, 1) * 255
    return ((1 - share) * images.float() + share * below).round().clamp(0, 255).to(torch.uint8)


def blend_record(share: float) -> dict[str, float]:
    """Return what a result says of its blend."""
    return {"reconstruction": 1 - share, "low_level": share}
