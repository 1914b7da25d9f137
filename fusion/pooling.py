"""From tokens to one vector: mean of the valid ones, the first one, or a mean weighted by a learned query."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .masks import cleaned, masked_mean, masked_softmax

__all__ = ["AttentionPooling", "AttentionPoolingConfig", "Pooled", "first_token", "masked_mean"]


def first_token(tokens: Tensor, mask: Tensor) -> Tensor:
    """Take the first valid token (CLS, where the encoder has one); zeros for a row without any.

    Parameters
    ----------
    tokens : Tensor, shape (B, N, d)
    mask : Tensor of bool, shape (B, N)
        Padding may stand on either side.

    Returns
    -------
    Tensor, shape (B, d)
    """
    tokens = cleaned(tokens, mask, width=tokens.shape[-1])
    first = mask.int().argmax(dim=1)  # 0 for a row without any, where the token is zeros by now
    return tokens[torch.arange(len(tokens), device=tokens.device), first]


class Pooled(NamedTuple):
    """What `AttentionPooling` returns.

    Parameters
    ----------
    vector : Tensor, shape (B, d)
    weights : Tensor, shape (B, N)
        Share of each token; 0 at padding.
    """

    vector: Tensor
    weights: Tensor


@dataclass(frozen=True, kw_only=True)
class AttentionPoolingConfig:
    """Sizes of an `AttentionPooling`.

    Parameters
    ----------
    width : int
        Features of a token.
    """

    width: int

    def __post_init__(self) -> None:
        if self.width < 1:
            raise ValueError(f"width must be >= 1, got {self.width}")


class AttentionPooling(nn.Module):
    """sum_i a_i x_i with a = softmax(x q / sqrt(d)) over valid tokens: chunks of a long recording, say.

    Parameters
    ----------
    config : AttentionPoolingConfig

    Notes
    -----
    q starts at zero, so that an untrained pooling is the masked mean.
    """

    def __init__(self, config: AttentionPoolingConfig) -> None:
        super().__init__()
        self.config = config
        self.query = nn.Parameter(torch.zeros(config.width))

    def forward(self, tokens: Tensor, mask: Tensor) -> Pooled:
        """Pool tokens (B, N, width) with a mask (B, N); ValueError where shapes do not fit."""
        tokens = cleaned(tokens, mask, width=self.config.width)
        weights = masked_softmax(tokens @ self.query / math.sqrt(self.config.width), mask)
        return Pooled((weights[..., None] * tokens).sum(dim=1), weights)
