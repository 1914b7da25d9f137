"""Entropic optimal transport between token sets, batched, masked and differentiable, in the log domain.

The problem (Cuturi 2013): minimise <P, C> + eps KL(P | a b^T) over plans P with row sums a and column sums b. At the
regularisations that are useful for BERT- or DeiT-like tokens exp(-C / eps) underflows and the usual scaling returns
zeros, so this runs in the log domain, in float32 or float64, never in a narrower type. Plans without a gradient: `scaling`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from .costs import full_precision, widened

Gradient = Literal["unroll", "last-step", "none"]
Relaxation = float | tuple[float, float]

# stands for log 0: finite, so that no inf - inf can put a NaN into a gradient; exp() of it is exactly 0
_NOTHING = -1e30


@dataclass(frozen=True, kw_only=True)
class SinkhornPlan:
    """A batch of transport plans.

    Parameters
    ----------
    plan : Tensor, shape (B, N, M)
        Mass moved; exactly zero where either side is padding.
    f, g : Tensor, shapes (B, N) and (B, M)
        Potentials with plan = a b^T exp((f + g - cost) / eps) before rounding; zero on padding.
    marginal_error : Tensor, shape (B,)
        L1 distance of the plan's row or column sums from those asked for, the larger one. A plan whose error exceeds
        1e-3 is not to be trusted. Unbalanced plans miss their marginals on purpose.
    residual : Tensor, shape (B,)
        Mass that rounding had to move, i.e. how far the iterations were from convergence.
    """

    plan: Tensor
    f: Tensor
    g: Tensor
    marginal_error: Tensor
    residual: Tensor

    @property
    def mass(self) -> Tensor:
        """Total mass, shape (B,): 1 for a balanced item, 0 where a side has no valid token."""
        return self.plan.sum((1, 2))


def plan_entropy(plan: Tensor) -> Tensor:
    """-sum P log P in nats, (B, N, M) to (B,); ln(n m) means that the plan is uniform, i.e. mean pooling."""
    tiny = torch.finfo(plan.dtype).tiny
    return -(plan * plan.clamp_min(tiny).log()).sum((1, 2))


def sinkhorn_log(
    cost: Tensor,
    a: Tensor | None = None,
    b: Tensor | None = None,
    *,
    eps: float,
    iterations: int,
    tolerance: float | None = None,
    unbalanced: Relaxation | None = None,
    gradient: Gradient = "unroll",
) -> SinkhornPlan:
    """Solve a batch of masked entropic transport problems in the log domain.

    Each iteration fits the columns, then the rows. A balanced plan is then rounded onto its marginals (Altschuler, Weed
    and Rigollet 2017, algorithm 2), which changes nothing at convergence, so rows and columns hold to rounding error after
    any number of iterations. An item's result depends neither on its padding nor on the other items of the batch.

    Parameters
    ----------
    cost : Tensor, shape (B, N, M)
        Anything, NaN too, may stand where a side is padding. Half precision is computed in float32.
    a, b : Tensor, shapes (B, N) and (B, M), optional
        Bool masks (True = valid, mass spread evenly) or weights >= 0 (zero = padding). Balanced weights are scaled to sum
        1. Default: every token valid.
    eps : float
        Entropic regularisation, in units of `cost`.
    iterations : int
        At most this many.
    tolerance : float, optional
        An item stops once the L1 error of its column sums is below this. Default: all iterations.
    unbalanced : float or (float, float), optional
        Weight tau of the KL penalty that replaces each (row, column) marginal constraint (Chizat et al. 2018): mass may
        stay unmatched. Default: balanced.
    gradient : {'unroll', 'last-step', 'none'}
        Through every iteration (exact), through one iteration from fixed potentials (approximate, small memory), or none.

    Raises
    ------
    ValueError
        For shapes, eps, iterations, tau or a gradient mode that make no problem.
    """
    check_problem(cost, eps=eps, iterations=iterations, unbalanced=unbalanced, gradient=gradient)
    with full_precision(cost.device), torch.set_grad_enabled(torch.is_grad_enabled() and gradient != "none"):
        cost = widened(cost)
        a, b = marginals(cost, a, b, balanced=unbalanced is None)
        rows, columns = a > 0, b > 0
        pairs = rows[:, :, None] & columns[:, None, :]
        # a constant for each row changes no balanced plan, and leaves float32 more digits for the differences
        shift = cost.new_zeros(a.shape) if unbalanced is not None else row_minimum(cost.detach(), pairs)
        log_a, log_b = (torch.where(m > 0, m, torch.ones_like(m)).log() for m in (a, b))
        logits = torch.where(pairs, (shift[:, :, None] - cost) / eps, _NOTHING) + log_a[:, :, None] + log_b[:, None, :]
        problem = _Problem(logits, log_a, log_b, rows, columns, _powers(unbalanced, eps))
        # from f = 0, as if nothing had been shifted: an unfinished plan depends on where it started
        u, v = problem.solve(-shift / eps, iterations, tolerance, gradient)
        plan = (logits + u[:, :, None] + v[:, None, :]).exp()
        residual = plan.new_zeros(len(plan))
        if unbalanced is None:
            plan, residual = _rounded(plan, a, b)
        error = torch.maximum((plan.sum(2) - a).abs().sum(1), (plan.sum(1) - b).abs().sum(1))
        f = torch.where(rows, eps * u + shift, torch.zeros_like(u))
        return SinkhornPlan(plan=plan, f=f, g=eps * v, marginal_error=error.detach(), residual=residual.detach())


@dataclass(frozen=True)
class _Problem:
    """Log kernel (with both marginals in it), log marginals, validity, and the exponents tau / (tau + eps)."""

    logits: Tensor
    log_a: Tensor
    log_b: Tensor
    rows: Tensor
    columns: Tensor
    powers: tuple[float, float]

    def solve(self, u: Tensor, iterations: int, tolerance: float | None, gradient: Gradient) -> tuple[Tensor, Tensor]:
        v = torch.zeros_like(self.log_b)
        if gradient != "last-step":
            return self._iterate(u, v, iterations, tolerance)
        with torch.no_grad():
            u, v = self._iterate(u, v, iterations, tolerance)
        return self._step(u)

    def _iterate(self, u: Tensor, v: Tensor, iterations: int, tolerance: float | None) -> tuple[Tensor, Tensor]:
        done = torch.zeros_like(u[:, :1], dtype=torch.bool)
        for k in range(iterations):
            before, (new_u, new_v) = v, self._step(u)
            if tolerance is None:
                u, v = new_u, new_v
                continue
            # an item that has converged is frozen, else its result would depend on its neighbours in the batch
            u, v = torch.where(done, u, new_u), torch.where(done, v, new_v)
            # b |change of v| is the columns' error of the step before, to first order, at no cost
            change = (self.log_b.exp() * (v - before).abs() * self.columns).sum(1, keepdim=True)
            done = done | (change.detach() <= tolerance) if k else done
            if bool(done.all()):
                break
        return u, v

    def _step(self, u: Tensor) -> tuple[Tensor, Tensor]:
        row_power, column_power = self.powers
        v = column_power * (self.log_b - (self.logits + u[:, :, None]).logsumexp(1))
        v = torch.where(self.columns, v, torch.zeros_like(v))
        u = row_power * (self.log_a - (self.logits + v[:, None, :]).logsumexp(2))
        return torch.where(self.rows, u, torch.zeros_like(u)), v


def marginals(cost: Tensor, a: Tensor | None, b: Tensor | None, *, balanced: bool) -> tuple[Tensor, Tensor]:
    """Return both sides as weights, (B, N) and (B, M); an item with nothing on a side has nothing on the other."""
    sides = []
    for name, given, n in (("a", a, cost.shape[1]), ("b", b, cost.shape[2])):
        side = cost.new_ones(len(cost), n) if given is None else given
        if side.shape != (len(cost), n):
            raise ValueError(
                f"{name} must have shape {(len(cost), n)} for a cost {tuple(cost.shape)}, got {tuple(side.shape)}"
            )
        uniform = given is None or side.dtype == torch.bool
        side = side.to(cost.dtype)
        if balanced or uniform:
            side = side / side.sum(1, keepdim=True).clamp_min(torch.finfo(cost.dtype).tiny)
        sides.append(side)
    usable = (sides[0] > 0).any(1, keepdim=True) & (sides[1] > 0).any(1, keepdim=True)
    return torch.where(usable, sides[0], 0), torch.where(usable, sides[1], 0)


def row_minimum(cost: Tensor, pairs: Tensor) -> Tensor:
    """Smallest cost of each row over its valid pairs, (B, N, M) to (B, N); 0 where it has none."""
    smallest = torch.where(pairs, cost, torch.inf).amin(2)
    return torch.where(pairs.any(2), smallest, 0)


def _powers(unbalanced: Relaxation | None, eps: float) -> tuple[float, float]:
    if unbalanced is None:
        return 1.0, 1.0
    row, column = unbalanced if isinstance(unbalanced, tuple) else (unbalanced, unbalanced)
    return row / (row + eps), column / (column + eps)


def _rounded(plan: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Return the plan with exact marginals, and the mass that this moved."""
    info = torch.finfo(plan.dtype)
    # rows hold but for float32's rounding of large exponents, so this factor is a constant: 1
    plan = plan * (a / plan.sum(2).clamp_min(info.tiny)).detach()[:, :, None]
    plan = plan * (b / plan.sum(1).clamp_min(info.tiny)).clamp_max(1)[:, None, :]
    missing_a, missing_b = (a - plan.sum(2)).clamp_min(0), (b - plan.sum(1)).clamp_min(0)
    moved = missing_a.sum(1)
    # not `tiny`: of a converged plan both are rounding errors, and their quotient must not make a gradient
    return plan + missing_a[:, :, None] * missing_b[:, None, :] / (moved + info.eps)[:, None, None], moved


def check_problem(
    cost: Tensor, *, eps: float, iterations: int, unbalanced: Relaxation | None, gradient: Gradient
) -> None:
    """Raise ValueError for what makes no transport problem."""
    if cost.dim() != 3 or not cost.is_floating_point():
        raise ValueError(f"cost must be floating point (B, N, M), got {tuple(cost.shape)} of {cost.dtype}")
    if not eps > 0 or iterations < 1:
        raise ValueError(f"eps must be > 0 and iterations >= 1, got {eps} and {iterations}")
    if unbalanced is not None and not min(unbalanced if isinstance(unbalanced, tuple) else (unbalanced,)) > 0:
        raise ValueError(f"unbalanced must be > 0, got {unbalanced}")
    if gradient not in get_args(Gradient):
        raise ValueError(f"gradient must be one of {', '.join(get_args(Gradient))}; got '{gradient}'")
