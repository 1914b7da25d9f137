"""Scaled dot-product self-attention (Vaswani et al. 2017, eq. 1), and what every attention block here shares."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from .masks import cleaned, masked_softmax


@dataclass(frozen=True, kw_only=True)
class Attended:
    """What an attention block returns; ``tokens, weights = block(...)`` unpacks it.

    Parameters
    ----------
    tokens : Tensor, shape (B, N, d)
        Zeros at padded positions.
    weights : Tensor, shape (B, H, N, M), or None
        Attention weights before dropout, on the graph; rows of padded queries and columns of padded keys are 0.
        None unless they were asked for.
    gates : Tensor, shape (B, H or 1, N, 2), or None
        Gates of (query, key) in [0, 1], 0 at padding, for the report; None from blocks that have none.
    """

    tokens: Tensor
    weights: Tensor | None = None
    gates: Tensor | None = None

    def __iter__(self) -> Iterator[Any]:
        return iter((self.tokens, self.weights))


def check_heads(width: int, heads: int, dropout: float) -> None:
    """Raise ValueError, listing all that is wrong, where `heads` do not divide `width` or `dropout` is not in [0, 1)."""
    wrong = []
    if min(width, heads) < 1 or width % max(heads, 1):
        wrong.append(f"width must be a positive multiple of heads, got width {width} and {heads} heads")
    if not 0 <= dropout < 1:
        wrong.append(f"dropout must be in [0, 1), got {dropout}")
    if wrong:
        raise ValueError("; ".join(wrong))


def split_heads(x: Tensor, heads: int) -> Tensor:
    """Cut the width into heads: (B, N, d) to (B, H, N, d / H)."""
    batch, n, width = x.shape
    return x.reshape(batch, n, heads, width // heads).transpose(1, 2)


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    query_mask: Tensor,
    key_mask: Tensor,
    dropout: float = 0.0,
    keep_weights: bool = False,
) -> Attended:
    """Compute softmax(QK'/sqrt(d_h))V head by head and join the heads.

    Parameters
    ----------
    query : Tensor, shape (B, H, N, d_h)
    key, value : Tensor, shape (B, H, M, d_h)
    query_mask, key_mask : Tensor of bool, shapes (B, N), (B, M)
    dropout : float
        Of the weights; 0 outside training.
    keep_weights : bool
        Compute the weights explicitly and return them; otherwise torch's fused kernel is used.

    Returns
    -------
    Attended
        Tokens of shape (B, N, H d_h); zeros where the query is padding or no key is valid.
    """
    weights = None
    if keep_weights:
        scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
        weights = masked_softmax(scores, key_mask[:, None, None, :]).masked_fill(~query_mask[:, None, :, None], 0.0)
        joined = F.dropout(weights, dropout) @ value
    else:
        # A row without any valid key may be NaN in some kernels: let it see all keys, its result is dropped below.
        seen = key_mask | ~key_mask.any(dim=1, keepdim=True)
        joined = F.scaled_dot_product_attention(query, key, value, attn_mask=seen[:, None, None, :], dropout_p=dropout)
    valid = query_mask & key_mask.any(dim=1, keepdim=True)
    tokens = joined.transpose(1, 2).flatten(-2).masked_fill(~valid[..., None], 0.0)
    return Attended(tokens=tokens, weights=weights)


@dataclass(frozen=True, kw_only=True)
class SelfAttentionConfig:
    """Sizes of a `SelfAttention`.

    Parameters
    ----------
    width : int
        Features of a token, in and out.
    heads : int
        Divides `width`.
    dropout : float
        Of the attention weights, in training.
    bias : bool
        Whether the linear maps have biases.
    merge : bool
        Whether a last linear map mixes the joined heads (W_O of Vaswani et al.); the one-headed form has none.
    """

    width: int
    heads: int = 1
    dropout: float = 0.0
    bias: bool = False
    merge: bool = False

    def __post_init__(self) -> None:
        check_heads(self.width, self.heads, self.dropout)


class SelfAttention(nn.Module):
    """softmax(QK'/sqrt(d_h))V with Q, K and V linear in the tokens.

    Parameters
    ----------
    config : SelfAttentionConfig
    """

    def __init__(self, config: SelfAttentionConfig) -> None:
        super().__init__()
        self.config = config
        self.query = nn.Linear(config.width, config.width, bias=config.bias)
        self.key = nn.Linear(config.width, config.width, bias=config.bias)
        self.value = nn.Linear(config.width, config.width, bias=config.bias)
        self.merge = nn.Linear(config.width, config.width, bias=config.bias) if config.merge else None

    def forward(
        self, x: Tensor, mask: Tensor, *, previous: Sequence[Tensor] | None = None, keep_weights: bool = False
    ) -> Attended:
        """Let every valid token look at all valid tokens.

        Parameters
        ----------
        x : Tensor, shape (B, N, width)
        mask : Tensor of bool, shape (B, N)
        previous : sequence of Tensor, optional
            Not used; here so that the kinds of self-attention can be exchanged.
        keep_weights : bool
            Return the weights (B, H, N, N), on the graph.

        Returns
        -------
        Attended

        Raises
        ------
        ValueError
            Where shapes do not fit.
        """
        x, config = cleaned(x, mask, width=self.config.width), self.config
        attended = attend(
            *(split_heads(linear(x), config.heads) for linear in (self.query, self.key, self.value)),
            query_mask=mask,
            key_mask=mask,
            dropout=config.dropout if self.training else 0.0,
            keep_weights=keep_weights,
        )
        if self.merge is None:
            return attended
        # a bias of the merge would fill the padding
        return Attended(tokens=self.merge(attended.tokens).masked_fill(~mask[..., None], 0.0), weights=attended.weights)
