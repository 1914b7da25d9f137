"""Low-rank multimodal fusion (Liu et al., ACL 2018, eq. 6-7): tensor fusion without the tensor.

    h = sum_r c_r (w_1r [v_1; 1]) o ... o (w_mr [v_m; 1]) + b

This is tensor fusion whose weight tensor is W[h, i_1, ..., i_m] = sum_r c_r w_1r[i_1, h] ... w_mr[i_m, h]. The weights
c_r of the ranks are in the authors' code, not in their equation; c_r = 1 gives the equation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .vectors import FusionOutput, check_sizes, stack, with_one


@dataclass(frozen=True, kw_only=True)
class LowRankFusionConfig:
    """Sizes of a `LowRankFusion`.

    Parameters
    ----------
    width, count : int
        Features of a vector; number of vectors.
    rank : int
        Terms of the sum.
    hidden : int, optional
        Features of the result; None means `width`.
    """

    width: int
    count: int
    rank: int = 4
    hidden: int | None = None

    def __post_init__(self) -> None:
        check_sizes(least_count=2, width=self.width, count=self.count, rank=self.rank, hidden=self.hidden)

    @property
    def out_width(self) -> int:
        """Features of the result."""
        return self.hidden or self.width


class LowRankFusion(nn.Module):
    """Products of linear maps of the vectors, summed over ranks.

    An absent vector takes part with its 1 alone: the orders without it stay.

    Parameters
    ----------
    config : LowRankFusionConfig
    """

    def __init__(self, config: LowRankFusionConfig) -> None:
        super().__init__()
        self.config = config
        n_factor = config.width + 1
        factors = torch.randn(config.count, config.rank, n_factor, config.out_width) * n_factor**-0.5
        self.factors = nn.Parameter(factors)
        self.rank_weights = nn.Parameter(torch.full((config.rank,), config.rank**-0.5))
        self.bias = nn.Parameter(torch.zeros(config.out_width))

    def forward(self, vectors: Sequence[Tensor], present: Tensor | None = None) -> FusionOutput:
        """Fuse m vectors (B, width) into (B, hidden); the weights are None.

        `present` is bool (B, m), None for all; ValueError where shapes do not fit.
        """
        checked = stack(vectors, present, width=self.config.width, count=self.config.count)
        maps = torch.einsum("bmp,mrph->bmrh", with_one(checked.stacked, checked.present), self.factors)
        fused = torch.einsum("brh,r->bh", maps.prod(dim=1), self.rank_weights) + self.bias
        return FusionOutput(checked.without_empty(fused), None)
