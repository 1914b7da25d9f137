"""Sinkhorn divergence between token sets: a loss that pulls two streams together.

S(x, y) = OT(x, y) - OT(x, x) / 2 - OT(y, y) / 2 (Genevay, Peyré and Cuturi 2018; Feydy et al. 2019, eq. 3): never negative,
zero for equal sets, where plain entropic transport would rather shrink the sets.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor, nn

from .costs import Cost, pairwise_cost
from .masks import cleaned
from .sinkhorn import sinkhorn_log


@dataclass(frozen=True, kw_only=True)
class SinkhornDivergenceConfig:
    """Settings of a `SinkhornDivergence`.

    Parameters
    ----------
    cost : {'cosine', 'squared-euclidean'}
        geomloss's ``SamplesLoss("sinkhorn", p=2, blur=s)`` is half of this loss with 'squared-euclidean', eps = 2 s^2.
    eps : float
        Entropic regularisation, in units of the cost.
    iterations : int
        At most this many; where they do not suffice (eps far below the costs) the value is too small.
    tolerance : float
        An item is done once the L1 error of its marginals is below this.
    """

    cost: Cost = "cosine"
    eps: float = 0.05
    iterations: int = 500
    tolerance: float = 1e-5

    def __post_init__(self) -> None:
        wrong = []
        if self.cost not in get_args(Cost):
            wrong.append(f"cost must be one of {', '.join(get_args(Cost))}; got '{self.cost}'")
        if not self.eps > 0 or self.iterations < 1:
            wrong.append(f"eps must be > 0 and iterations >= 1, got {self.eps} and {self.iterations}")
        if wrong:
            raise ValueError("; ".join(wrong))


class SinkhornDivergence(nn.Module):
    """Debiased entropic transport cost of two masked token sets, one number an item.

    Parameters
    ----------
    config : SinkhornDivergenceConfig
    """

    def __init__(self, config: SinkhornDivergenceConfig | None = None) -> None:
        super().__init__()
        self.config = config or SinkhornDivergenceConfig()

    def forward(self, x: Tensor, y: Tensor, x_mask: Tensor, y_mask: Tensor) -> Tensor:
        """Measure how far the sets are apart.

        Parameters
        ----------
        x : Tensor, shape (B, N, d)
        y : Tensor, shape (B, M, d)
        x_mask, y_mask : Tensor of bool, shapes (B, N), (B, M)
            True = valid.

        Returns
        -------
        Tensor, shape (B,), float32 or float64
            Zero, without gradient, for an item with no valid token on a side: average over items that have both.

        Raises
        ------
        ValueError
            Where shapes do not fit.
        """
        x = cleaned(x, x_mask, width=x.shape[-1], name="x")
        y = cleaned(y, y_mask, width=x.shape[-1], name="y")
        both = x_mask.any(1, keepdim=True) & y_mask.any(1, keepdim=True)
        x_mask, y_mask = x_mask & both, y_mask & both
        return (
            self._value(x, y, x_mask, y_mask)
            - (self._value(x, x, x_mask, x_mask) + self._value(y, y, y_mask, y_mask)) / 2
        )

    def _value(self, x: Tensor, y: Tensor, x_mask: Tensor, y_mask: Tensor) -> Tensor:
        """Dual value of OT(x, y), (B,), whose gradient is that of <P, C> at a fixed plan (the envelope theorem)."""
        config = self.config
        cost = pairwise_cost(x, y, kind=config.cost)
        solved = sinkhorn_log(
            cost,
            x_mask,
            y_mask,
            eps=config.eps,
            iterations=config.iterations,
            tolerance=config.tolerance,
            gradient="none",
        )
        dual = _masked_mean(solved.f, x_mask) + _masked_mean(solved.g, y_mask)
        return dual + (solved.plan * (cost - cost.detach())).sum((1, 2))


def _masked_mean(potential: Tensor, mask: Tensor) -> Tensor:
    return torch.where(mask, potential, 0).sum(1) / mask.sum(1).clamp_min(1)
