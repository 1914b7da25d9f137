"""Fusion by attention over vectors (Pramanick, Roy and Patel, WACV 2022, MuLOT's multimodal attention fusion).

a = softmax(w^T tanh(W F^T)),  f = sum_k a_k F_k        with F (m, d): one row a vector
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from .masks import masked_softmax
from .vectors import FusionOutput, check_sizes, stack


@dataclass(frozen=True, kw_only=True)
class AttentionFusionConfig:
    """Sizes of an `AttentionFusion`.

    Parameters
    ----------
    width, count : int
        Features of a vector; number of vectors.
    hidden : int, optional
        Rows of W; None means `width`.
    """

    width: int
    count: int
    hidden: int | None = None

    def __post_init__(self) -> None:
        check_sizes(least_count=1, width=self.width, count=self.count, hidden=self.hidden)

    @property
    def out_width(self) -> int:
        """Features of the result: width."""
        return self.width


class AttentionFusion(nn.Module):
    """A weighted mean of the vectors that are there; the weights are for the report.

    Parameters
    ----------
    config : AttentionFusionConfig
    """

    def __init__(self, config: AttentionFusionConfig) -> None:
        super().__init__()
        self.config = config
        hidden = config.hidden or config.width
        self.hidden = nn.Linear(config.width, hidden, bias=False)
        self.score = nn.Linear(hidden, 1, bias=False)

    def forward(self, vectors: Sequence[Tensor], present: Tensor | None = None) -> FusionOutput:
        """Fuse m vectors (B, width) into (B, width); weights (B, m) sum to 1 over the vectors that are there.

        `present` is bool (B, m), None for all; ValueError where shapes do not fit.
        """
        stacked, there = stack(vectors, present, width=self.config.width, count=self.config.count)
        weights = masked_softmax(self.score(self.hidden(stacked).tanh())[..., 0], there)
        return FusionOutput((weights[..., None] * stacked).sum(dim=1), weights)
