"""Softmax attention across two streams: the partner of transport in ablations.

Queries come from one stream, keys and values from the other (Tsai et al., ACL 2019, eq. 2; Vaswani et al. 2017).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from .attention import Attended, attend, check_heads, split_heads
from .masks import cleaned


@dataclass(frozen=True, kw_only=True)
class CrossAttentionConfig:
    """Sizes of a `CrossAttention`.

    Parameters
    ----------
    width : int
        Features of a token of the stream that asks, and of the result.
    other_width : int, optional
        Features of a token of the stream that answers; None means `width`.
    heads : int
        Divides `width`.
    dropout : float
        Of the attention weights, in training.
    bias, merge : bool
        As in `SelfAttentionConfig`.
    """

    width: int
    other_width: int | None = None
    heads: int = 1
    dropout: float = 0.0
    bias: bool = False
    merge: bool = False

    def __post_init__(self) -> None:
        check_heads(self.width, self.heads, self.dropout)
        if self.other_width is not None and self.other_width < 1:
            raise ValueError(f"other_width must be >= 1, got {self.other_width}")


class CrossAttention(nn.Module):
    """Tokens of one stream, rewritten in values of another.

    Parameters
    ----------
    config : CrossAttentionConfig
    """

    def __init__(self, config: CrossAttentionConfig) -> None:
        super().__init__()
        self.config = config
        width, other = config.width, config.other_width or config.width
        self.query = nn.Linear(width, width, bias=config.bias)
        self.key = nn.Linear(other, width, bias=config.bias)
        self.value = nn.Linear(other, width, bias=config.bias)
        self.merge = nn.Linear(width, width, bias=config.bias) if config.merge else None

    def forward(
        self, x: Tensor, other: Tensor, mask: Tensor, other_mask: Tensor, *, keep_weights: bool = False
    ) -> Attended:
        """Let every valid token of `x` look at all valid tokens of `other`.

        Parameters
        ----------
        x : Tensor, shape (B, N, width)
        other : Tensor, shape (B, M, other_width)
        mask, other_mask : Tensor of bool, shapes (B, N), (B, M)
        keep_weights : bool
            Return the weights (B, H, N, M), on the graph.

        Returns
        -------
        Attended
            Tokens of shape (B, N, width); zeros where the other stream has no valid token.

        Raises
        ------
        ValueError
            Where shapes do not fit.
        """
        config = self.config
        x = cleaned(x, mask, width=config.width)
        other = cleaned(other, other_mask, width=config.other_width or config.width, name="other")
        if len(other) != len(x):
            raise ValueError(f"both streams must hold as many cases, got {len(x)} and {len(other)}")
        attended = attend(
            split_heads(self.query(x), config.heads),
            split_heads(self.key(other), config.heads),
            split_heads(self.value(other), config.heads),
            query_mask=mask,
            key_mask=other_mask,
            dropout=config.dropout if self.training else 0.0,
            keep_weights=keep_weights,
        )
        if self.merge is None:
            return attended
        answered = mask & other_mask.any(dim=1, keepdim=True)  # a bias of the merge would fill the rest
        tokens = self.merge(attended.tokens).masked_fill(~answered[..., None], 0.0)
        return Attended(tokens=tokens, weights=attended.weights)
