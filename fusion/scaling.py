"""Transport plans without a gradient, fast: scaling of exp(-cost / eps) in float32, wider where that breaks down.

Sinkhorn and Knopp's scaling is two matrix-vector products an iteration and one exp in all, where the log domain is two
exps of the whole matrix an iteration; over-relaxation makes slowly converging problems (small eps) several times shorter.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .costs import full_precision
from .sinkhorn import check_problem, marginals, row_minimum, sinkhorn_log

_CHECK = 4  # iterations between two looks at the error
_FLOOR = 1e-5  # what float32 reaches whatever the problem, with room
_TINY = float(np.finfo(np.float32).tiny)


def sinkhorn_plan(
    cost: Tensor,
    a: Tensor | None = None,
    b: Tensor | None = None,
    *,
    eps: float,
    iterations: int = 1000,
    tolerance: float = 1e-5,
) -> Tensor:
    """Return balanced plans without a gradient, fast: scaling of exp(-cost / eps) in float32.

    On a CPU problems are solved one by one over their valid tokens (one fits the cache, a batch does not), elsewhere in one
    batch. A problem for which float32 is too narrow, or that does not converge, is solved again in float64, and then in the
    log domain.

    Parameters
    ----------
    cost : Tensor, shape (B, N, M)
    a, b : Tensor, optional
        As in `sinkhorn_log`.
    eps : float
        Entropic regularisation, in units of `cost`.
    iterations : int
        At most this many; a plan that has not converged by then is rounded onto its marginals.
    tolerance : float
        Stop once the plan is expected to be this close (L1) to the converged one.

    Returns
    -------
    Tensor, shape (B, N, M), float32
        Zero on padding, and for items with no valid token on a side.
    """
    check_problem(cost, eps=eps, iterations=iterations, unbalanced=None, gradient="none")
    with torch.no_grad(), full_precision(cost.device):
        cost = cost.detach().float()
        a, b = marginals(cost, a, b, balanced=True)
        if cost.device.type == "cpu":
            plan, solved = _scale_each(cost.numpy(), a.numpy(), b.numpy(), eps, iterations, tolerance)
        else:
            plan, solved = _scale_together(cost, a, b, eps, iterations, tolerance)
        if not bool(solved.all()):
            rest = (~solved).nonzero()[:, 0]
            again = sinkhorn_log(
                cost[rest].double(), a[rest], b[rest], eps=eps, iterations=iterations, tolerance=tolerance / 10
            )
            plan[rest] = again.plan.float()
        return plan


def _scale_each(
    cost: NDArray[np.float32],
    a: NDArray[np.float32],
    b: NDArray[np.float32],
    eps: float,
    iterations: int,
    tolerance: float,
) -> tuple[Tensor, Tensor]:
    plan, solved = np.zeros_like(cost), np.ones(len(cost), dtype=bool)
    full = np.minimum(a.min(1), b.min(1)) > 0
    with np.errstate(all="ignore"):  # what divides by zero is found by _scale
        for i in range(len(cost)):
            problem = cost[i], a[i], b[i]
            if not full[i]:
                rows, columns = np.flatnonzero(a[i]), np.flatnonzero(b[i])
                problem = cost[i][rows][:, columns], a[i][rows], b[i][columns]
            if not problem[0].size:
                continue
            found = _scale(*problem, eps, iterations, tolerance)
            if found is None:
                wide_cost, wide_a, wide_b = (part.astype(np.float64) for part in problem)
                found = _scale(wide_cost, wide_a, wide_b, eps, iterations, tolerance)
            if found is None:
                solved[i] = False
            elif full[i]:
                plan[i] = found
            else:
                plan[i][np.ix_(rows, columns)] = found
    return torch.from_numpy(plan), torch.from_numpy(solved)


def _scale(
    cost: NDArray[Any],
    a: NDArray[Any],
    b: NDArray[Any],
    eps: float,
    iterations: int,
    tolerance: float,
) -> NDArray[Any] | None:
    """Scale one (n, m) kernel; None where its type was too narrow for it or the iterations did not suffice."""
    kernel = cost - torch.from_numpy(cost).amin(1, keepdim=True).numpy()  # three times as fast as numpy's min
    kernel *= -1 / eps
    np.exp(kernel, out=kernel)
    u, v, pace = a, b, _Pace(tolerance)
    for k in range(1, iterations + 1):
        kv = kernel @ v
        if k % _CHECK == 0 and pace.stop(float(np.abs(u * kv - a).sum())):
            break
        fresh = a / kv
        u = fresh if pace.omega == 1 else u * (fresh / u) ** pace.omega
        fresh = b / (u @ kernel)
        v = fresh if pace.omega == 1 else v * (fresh / v) ** pace.omega
    if not pace.converged:
        return None
    u = a / kv
    v = b / (u @ kernel)
    # entries below the smallest number became 0: the mass that they could have had, at most
    lost = float(u.max()) * float(v.max()) * float(np.finfo(kernel.dtype).tiny) * cost.size
    if not lost <= 1e-6:
        return None
    kernel *= u[:, None]
    kernel *= v
    return kernel if abs(float(kernel.sum()) - 1) <= 1e-3 else None


class _Pace:
    """When to stop, and how far to over-relax (Thibault et al. 2021), from the marginal error at every check.

    Plain iterations shrink the error by a factor `rate`, so the distance to the limit is error / (1 - rate). Where the rate
    is slow, steps with omega = 2 / (1 + sqrt(1 - rate)) shrink it by omega - 1 instead; the rate that the slower ones
    show is that of successive over-relaxation (Young 1954), and is solved for the plain rate again. Where that was too
    bold and the error grows, plain iterations measure the rate anew.
    """

    def __init__(self, tolerance: float) -> None:
        self.tolerance = tolerance
        self.omega = 1.0
        self.converged = False
        self._last = np.inf
        self._rate = 0.0
        self._checks = 0  # since omega changed
        self._needed = 3

    def stop(self, error: float) -> bool:
        if error != error:  # noqa: PLR0124  (NaN: the scaling has broken down)
            return True
        if error >= self._last and error <= _FLOOR:  # float32 has no more digits
            self.converged = True
            return True
        if error >= self._last and self._checks > 0:
            if self.omega == 1:
                return True
            self._use(1.0)
            self._needed += 1
            return False
        seen = 0.5 if math.isinf(self._last) else min((error / self._last) ** (1 / _CHECK), 0.9999)
        self._last = error
        self._checks += 1
        if self.omega == 1:
            self._rate = seen
        elif seen > self.omega - 1 and self._checks > 1:
            self._rate = max(self._rate, min((seen + self.omega - 1) ** 2 / (seen * self.omega**2), 0.9999))
        # one more iteration ends the solve, hence the rate in the numerator
        self.converged = error * self._rate / (1 - self._rate) <= self.tolerance
        if self._rate > 0.6 and self._checks > (self._needed if self.omega == 1 else 1):
            wanted = 2 / (1 + math.sqrt(1 - self._rate))
            if wanted > self.omega:
                last = self._last
                self._use(wanted)
                self._last = last
        return self.converged

    def _use(self, omega: float) -> None:
        self.omega, self._checks, self._last = omega, 0, np.inf


def _scale_together(
    cost: Tensor, a: Tensor, b: Tensor, eps: float, iterations: int, tolerance: float
) -> tuple[Tensor, Tensor]:
    pairs = (a > 0)[:, :, None] & (b > 0)[:, None, :]
    kernel = torch.where(pairs, (row_minimum(cost, pairs)[:, :, None] - cost) / eps, -torch.inf).exp()
    v, u, rows, columns = b, a, a > 0, b > 0
    last = torch.full_like(a[:, 0], torch.inf)
    done = torch.zeros_like(last, dtype=torch.bool)
    zero = torch.zeros((), device=cost.device)
    kv = kernel.new_ones(a.shape)
    for k in range(iterations):
        kv = torch.bmm(kernel, v[:, :, None])[:, :, 0]
        if k % (4 * _CHECK) == 4 * _CHECK - 1:  # rarer than on a CPU: reading the answer stops the device's queue
            error = (u * kv - a).abs().sum(1)
            rate = torch.where(last.isinf(), 0.5, (error / last) ** (1 / (4 * _CHECK)))
            done = error * rate / (1 - rate) <= tolerance
            done = done | ((error >= last) & (error <= _FLOOR))
            if bool((done | ~error.isfinite()).all()):
                break
            last = error
        u = torch.where(rows, a / kv, zero)
        v = torch.where(columns, b / torch.bmm(u[:, None], kernel)[:, 0], zero)
    u = torch.where(rows, a / kv, zero)
    plan = u[:, :, None] * kernel * v[:, None, :]
    wide = u.amax(1) * v.amax(1) * _TINY * kernel[0].numel() <= 1e-6
    solved = done & wide & ((plan.sum((1, 2)) - 1).abs() <= 1e-3)
    empty = ~pairs.any(2).any(1)
    return torch.where((solved & ~empty)[:, None, None], plan, zero), solved | empty
