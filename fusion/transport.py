"""Barycentric optimal transport across two streams: each token becomes the mean of what is transported to it.

The default crossing: entropic plan between the valid tokens of both streams (Courty et al. 2017, section 3; as used for
cross-modal attention by MuLOT, Pramanick, Roy and Patel 2022), read once by rows and once by columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor, nn

from .costs import Cost, Normalise, full_precision, normalise_cost, pairwise_cost, widened
from .masks import cleaned
from .sinkhorn import Gradient, Relaxation, SinkhornPlan, plan_entropy, sinkhorn_log


@dataclass(frozen=True, kw_only=True)
class TransportConfig:
    """Settings of a `BarycentricTransport`.

    Parameters
    ----------
    cost : {'cosine', 'squared-euclidean'}
    normalise : {'none', 'max', 'median'}
        What each item's cost is divided by, so that `eps` does not depend on the tokens' scale. Raw squared distances of
        768-wide tokens are about 1e3.
    eps : float
        Entropic regularisation. Between BERT- and DeiT-like tokens with the cosine cost 0.01 to 0.03 selects; from 0.1 on
        the plan is uniform, i.e. every token becomes the other stream's mean.
    iterations : int
    unbalanced : float or (float, float), optional
        KL penalty of (x, y) marginals; None asks for both exactly. A token that stays unmatched still becomes a mean, of
        the little that reaches it.
    gradient : {'unroll', 'last-step', 'none'}
        How the plan is differentiated, see `sinkhorn_log`; with 'none' the gradient passes through transported values only.
    width, other_width : int, optional
        Features of x and y (other_width: None means `width`); needed for `projection` only.
    projection : int, optional
        Learn linear maps of both streams to this many features before the cost; None learns nothing.
    """

    cost: Cost = "cosine"
    normalise: Normalise = "none"
    eps: float = 0.02
    iterations: int = 20
    unbalanced: Relaxation | None = None
    gradient: Gradient = "unroll"
    width: int | None = None
    other_width: int | None = None
    projection: int | None = None

    def __post_init__(self) -> None:
        wrong = [
            f"{name} must be one of {', '.join(allowed)}; got '{got}'"
            for name, got, allowed in (
                ("cost", self.cost, get_args(Cost)),
                ("normalise", self.normalise, get_args(Normalise)),
                ("gradient", self.gradient, get_args(Gradient)),
            )
            if got not in allowed
        ]
        if not self.eps > 0 or self.iterations < 1:
            wrong.append(f"eps must be > 0 and iterations >= 1, got {self.eps} and {self.iterations}")
        if self.projection is not None and min(self.projection, self.width or 0) < 1:
            wrong.append(f"a projection needs both sizes, got projection {self.projection} and width {self.width}")
        if wrong:
            raise ValueError("; ".join(wrong))


@dataclass(frozen=True, kw_only=True)
class TransportOutput:
    """What crosses from one stream to the other.

    Parameters
    ----------
    x_from_y : Tensor, shape (B, N, d_y)
        Each token of x as the plan's mean of the tokens of y; zeros on padding and where y has no valid token.
    y_from_x : Tensor, shape (B, M, d_x)
        The same plan read the other way.
    plan : Tensor, shape (B, N, M)
        Mass, float32 or float64; sums to 1 for each item with tokens on both sides (unless unbalanced).
    cost_value : Tensor, shape (B,)
        Transported cost <P, C>, in units of the normalised cost.
    entropy : Tensor, shape (B,)
        Of the plan, nats; ln(n m) is the uniform plan.
    """

    x_from_y: Tensor
    y_from_x: Tensor
    plan: Tensor
    cost_value: Tensor
    entropy: Tensor


class BarycentricTransport(nn.Module):
    """Transport two token sets onto each other.

    Parameters
    ----------
    config : TransportConfig
    """

    def __init__(self, config: TransportConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or TransportConfig()
        self.project_x: nn.Module = nn.Identity()
        self.project_y: nn.Module = nn.Identity()
        if config.projection is not None and config.width is not None:
            self.project_x = nn.Linear(config.width, config.projection, bias=False)
            self.project_y = nn.Linear(config.other_width or config.width, config.projection, bias=False)

    def forward(self, x: Tensor, y: Tensor, x_mask: Tensor, y_mask: Tensor) -> TransportOutput:
        """Solve for the plan and read it in both directions.

        Parameters
        ----------
        x : Tensor, shape (B, N, d_x)
        y : Tensor, shape (B, M, d_y)
            Without a projection d_x = d_y.
        x_mask, y_mask : Tensor of bool, shapes (B, N), (B, M)
            True = valid.

        Returns
        -------
        TransportOutput
            Tokens in the type of those transported.

        Raises
        ------
        ValueError
            Where shapes do not fit.
        """
        config = self.config
        x = cleaned(x, x_mask, width=config.width or x.shape[-1], name="x")
        y = cleaned(y, y_mask, width=config.other_width or config.width or y.shape[-1], name="y")
        if len(x) != len(y) or (config.projection is None and x.shape[-1] != y.shape[-1]):
            raise ValueError(
                f"x and y must hold as many cases, and as many features without a projection; "
                f"got {tuple(x.shape)} and {tuple(y.shape)}"
            )
        cost = pairwise_cost(self.project_x(x), self.project_y(y), kind=config.cost)
        cost = normalise_cost(cost, x_mask, y_mask, how=config.normalise)
        plan = self.solve(cost, x_mask, y_mask).plan
        with full_precision(x.device):
            x_from_y = _mean(plan, widened(y)).to(y.dtype)
            y_from_x = _mean(plan.mT, widened(x)).to(x.dtype)
        return TransportOutput(
            x_from_y=x_from_y,
            y_from_x=y_from_x,
            plan=plan,
            cost_value=(plan * cost).sum((1, 2)),
            entropy=plan_entropy(plan),
        )

    def solve(self, cost: Tensor, x_mask: Tensor, y_mask: Tensor) -> SinkhornPlan:
        """Return the plan of a cost (B, N, M) with its marginal error and residual, for checks and reports."""
        config = self.config
        return sinkhorn_log(
            cost,
            x_mask,
            y_mask,
            eps=config.eps,
            iterations=config.iterations,
            unbalanced=config.unbalanced,
            gradient=config.gradient,
        )


def _mean(plan: Tensor, values: Tensor) -> Tensor:
    mass = plan.sum(2, keepdim=True)
    # rows without mass (padding, or an unbalanced token that nothing reaches) give zeros, not 0 / 0
    some = mass > torch.finfo(mass.dtype).tiny
    return torch.where(some, plan / torch.where(some, mass, 1), 0) @ values
