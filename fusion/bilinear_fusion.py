"""Factorised bilinear pooling (Yu et al., ICCV 2017, MFB, eq. 4), for two vectors or more.

s = sum of k neighbours of (U_1 v_1 o ... o U_m v_m);   y = sign(s) sqrt(|s|);   h = y / ||y||
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .vectors import FusionOutput, check_sizes, stack

EPSILON = 1e-8
"""Under the root: the slope of sqrt(|s|) is infinite at 0."""


@dataclass(frozen=True, kw_only=True)
class BilinearFusionConfig:
    """Sizes of a `BilinearFusion`.

    Parameters
    ----------
    width, count : int
        Features of a vector; number of vectors.
    factors : int
        k, products that are summed to one feature; published: 5.
    hidden : int, optional
        Features of the result; None means `width`.
    dropout : float
        Of the products, in training; published: 0.1.
    normalise : bool
        Signed square root and unit length after the sum.
    """

    width: int
    count: int
    factors: int = 5
    hidden: int | None = None
    dropout: float = 0.1
    normalise: bool = True

    def __post_init__(self) -> None:
        check_sizes(least_count=2, width=self.width, count=self.count, factors=self.factors, hidden=self.hidden)
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {self.dropout}")

    @property
    def out_width(self) -> int:
        """Features of the result."""
        return self.hidden or self.width


class BilinearFusion(nn.Module):
    """Low-rank products of all vectors, feature by feature; an absent vector counts as the factor 1.

    Parameters
    ----------
    config : BilinearFusionConfig
    """

    def __init__(self, config: BilinearFusionConfig) -> None:
        super().__init__()
        self.config = config
        wide = config.out_width * config.factors
        self.project = nn.ModuleList(nn.Linear(config.width, wide) for _ in range(config.count))
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, vectors: Sequence[Tensor], present: Tensor | None = None) -> FusionOutput:
        """Fuse m vectors (B, width) into (B, hidden); the weights are None.

        `present` is bool (B, m), None for all; ValueError where shapes do not fit.
        """
        checked = stack(vectors, present, width=self.config.width, count=self.config.count)
        maps = torch.stack([project(checked.stacked[:, i]) for i, project in enumerate(self.project)], dim=1)
        product = self.dropout(maps.masked_fill(~checked.present[..., None], 1.0).prod(dim=1))
        fused = product.unflatten(1, (self.config.out_width, self.config.factors)).sum(dim=-1)
        if self.config.normalise:
            fused = F.normalize(fused / (fused.abs() + EPSILON).sqrt(), dim=-1)
        return FusionOutput(checked.without_empty(fused), None)
