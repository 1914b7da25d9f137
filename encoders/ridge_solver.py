"""Ridge regression in closed form: one factorisation for every penalty and every target, held-out errors without a refit.

With X (n, p) and Y (n, t) centred, the dual solution is A = (X X' + a I)^-1 Y, W = X'A. One orthogonal reduction of the Gram
matrix, G = Q T Q', serves all penalties a: T is tridiagonal on the CPU (half the work of an eigendecomposition, and in place) and
diagonal on a GPU. The errors of a fold F that was left out, refitted mean included, follow from the whole fit by the identity
e_F = (I - H_FF - 11'/n)^-1 r_F (H hat matrix, r residuals; for single rows Allen's PRESS statistic, Technometrics 1974).
Where n > p the same is done with X'X.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..data.errors import InputError
from .ridge_factor import Factor, factorise

CODES: dict[str, str] = {
    "CHI-IN-310": "Values for a ridge regression are not all finite.",
    "CHI-IN-311": "There are fewer images than folds, or one only, so that nothing can be held out.",
}

PANEL = 512
"""Rows (or columns) of X that are centred and multiplied at a time."""
SCRATCH_BYTES = 16 << 20
SAFE_ERROR = 2e-5
"""Largest relative error of predictions that rounding in float32 may cause before the Gram matrix is made in float64."""

Array = NDArray[np.floating] | Tensor


@dataclass(frozen=True, eq=False, kw_only=True)
class RidgeSolution:
    """A fitted ridge regression.

    Parameters
    ----------
    weights : Tensor, shape (p, t)
    intercept : Tensor, shape (t,)
    alphas : Tensor, shape (t,)
        Penalty of each target, float64.
    grid : tuple of float
        The penalties that were tried, ascending.
    scores : Tensor, shape (len(grid), t)
        Held-out R^2 of every penalty and target (float64); NaN where there was one penalty and nothing was held out, or where a
        target is constant.
    dtype : torch.dtype
        Precision in which the Gram matrix was made.
    """

    weights: Tensor
    intercept: Tensor
    alphas: Tensor
    grid: tuple[float, ...]
    scores: Tensor
    dtype: torch.dtype

    def predict(self, x: Array) -> Tensor:
        """Return predictions (m, t) for rows (m, p)."""
        return torch.as_tensor(x).to(self.weights) @ self.weights + self.intercept


def fit_ridge(
    x: Array,
    y: Array,
    *,
    alphas: Sequence[float],
    cv: Literal["loo"] | int = "loo",
    groups: NDArray[np.integer] | None = None,
    dtype: Literal["auto", "float32", "float64"] = "auto",
    device: torch.device | str = "cpu",
) -> RidgeSolution:
    """Fit a ridge regression with an unpenalised intercept, the penalty of each target chosen on rows that were held out.

    Parameters
    ----------
    x : array, shape (n, p)
        Not changed, and not copied where it is float32 on `device`.
    y : array, shape (n, t)
    alphas : sequence of float
        Penalties to try, > 0; of equally good ones the largest is taken. One alone is used without any holding out.
    cv : "loo" or int
        Leave out each row (each group, where there are `groups`), or deal rows (groups) to k folds in their order.
    groups : ndarray of int, shape (n,), optional
        Rows of one group are never on both sides: the image of each trial, so that its repeats stay together.
    dtype : "auto", "float32" or "float64"
        Precision of the products with X. ``auto`` is float32, and float64 where the smallest penalty asks for it. The
        factorisation and the final coefficients are float64 always.
    device : torch.device or str

    Returns
    -------
    RidgeSolution
        On `device`; weights and intercept are float32 (float64 where `dtype` is).

    Raises
    ------
    ValueError
        Shapes that do not fit, penalties that are not positive.
    InputError
        ``CHI-IN-310`` or ``CHI-IN-311``.
    """
    grid = tuple(sorted({float(alpha) for alpha in alphas}))
    _check(x, y, grid, cv, groups)
    folds = _folds(len(x), cv, groups) if len(grid) > 1 else []
    wide = dtype == "float64"
    problem = _Problem.centred(x, y, torch.float64 if wide else torch.float32, torch.device(device))
    factor, lift = _reduced(problem)
    if dtype == "auto" and factor.rounding(problem.dtype, grid[0]) > SAFE_ERROR:
        del factor
        problem = _Problem.centred(x, y, torch.float64, torch.device(device))
        factor, lift = _reduced(problem)
    error = _held_out_errors(problem, factor, lift, grid, folds)
    best = len(grid) - 1 - error.flip(0).argmin(0)  # of equals, the largest penalty
    weights = _weights(problem, factor, grid, best, torch.float64 if wide else torch.float32)
    spread = torch.cat([problem.targets(part).square().sum(0) for part in _parts(problem.y.shape[1], PANEL)])
    return RidgeSolution(
        weights=weights,
        intercept=(problem.y_mean - problem.x_mean @ weights.double()).to(weights),
        alphas=torch.tensor(grid, dtype=torch.float64, device=best.device)[best],
        grid=grid,
        scores=torch.where(spread > 0, 1 - error / spread, torch.nan),
        dtype=problem.dtype,
    )


@dataclass(frozen=True, eq=False, kw_only=True)
class _Problem:
    """X and Y as they were given, their means, and centred copies of small parts of them."""

    x: Tensor
    y: Tensor
    x_mean: Tensor
    y_mean: Tensor
    dtype: torch.dtype

    @classmethod
    def centred(cls, x: Array, y: Array, dtype: torch.dtype, device: torch.device) -> _Problem:
        x, y = (torch.as_tensor(values).detach().to(device) for values in (x, y))
        x_mean, y_mean = _mean(x), _mean(y)
        wrong = [name for name, mean in (("x", x_mean), ("y", y_mean)) if not bool(mean.isfinite().all())]
        if wrong:
            raise InputError(
                "CHI-IN-310",
                f"values in {' and '.join(wrong)} are NaN or infinite.",
                "Leave out those trials or voxels, or repair the file that they come from.",
            )
        # What is subtracted has X's own precision, and the intercept is made from that same number.
        return cls(x=x, y=y, x_mean=x_mean.to(dtype).double(), y_mean=y_mean, dtype=dtype)

    @property
    def dual(self) -> bool:
        return self.x.shape[0] <= self.x.shape[1]

    @property
    def size(self) -> int:
        return min(self.x.shape)

    def rows(self, index: Tensor | slice) -> Tensor:
        return self.x[index].to(self.dtype) - self.x_mean.to(self.dtype)

    def columns(self, part: slice) -> Tensor:
        return self.x[:, part].to(self.dtype) - self.x_mean[part].to(self.dtype)

    def targets(self, part: slice, index: Tensor | slice = slice(None)) -> Tensor:
        return self.y[index][:, part].double() - self.y_mean[part]

    def gram(self) -> Tensor:
        """XX' or X'X, the smaller one, in float64."""
        gram = torch.empty(self.size, self.size, dtype=torch.float64, device=self.x.device)
        panels = _parts(self.size, PANEL)
        for i, first in enumerate(panels):
            a = self.rows(first) if self.dual else self.columns(first).T
            for second in panels[: i + 1]:
                b = a if second == first else self.rows(second) if self.dual else self.columns(second).T
                product = a @ b.T
                gram[first, second] = product
                gram[second, first] = product.T
        return gram

    def projected(self, part: slice) -> Tensor:
        """What the normal equations have on their right: Y, or X'Y; shape (size, targets), float64."""
        y = self.targets(part)
        if self.dual:
            return y
        found = torch.zeros(self.size, y.shape[1], dtype=torch.float64, device=y.device)
        for some in _parts(len(y), PANEL):
            found += (self.rows(some).T @ y[some].to(self.dtype)).double()
        return found


def _reduced(problem: _Problem) -> tuple[Factor, float]:
    """Reduce the Gram matrix; XX' first gets an eigenvalue like the mean of the others for the constant vector, whose own is 0."""
    gram = problem.gram()
    lift = float(gram.diagonal().mean()) or 1.0
    if problem.dual:
        gram += lift / len(gram)
    return factorise(gram), lift


def _held_out_errors(
    problem: _Problem, factor: Factor, lift: float, grid: tuple[float, ...], folds: list[Tensor]
) -> Tensor:
    """Sums over the rows of squared held-out errors, shape (penalties, targets); NaN where there are no folds."""
    n_targets = problem.y.shape[1]
    error = torch.full(
        (len(grid), n_targets), 0.0 if folds else torch.nan, dtype=torch.float64, device=problem.x.device
    )
    scratch = max(SCRATCH_BYTES, problem.x.element_size() * problem.x.numel() // 4)
    width = max(16, scratch // (len(grid) * problem.size * problem.dtype.itemsize))
    keep = 8 * len(grid) * sum(index.numel() * index.shape[1] for index in folds) <= scratch
    kept: dict[int, list[Tensor]] = {}
    for part in _parts(n_targets, width) if folds else []:
        right = factor.q_transposed @ problem.projected(part)
        solved = [factor.solve(alpha, right) for alpha in grid]
        if not problem.dual:
            solved = [factor.q_transposed.T @ one for one in solved]
        solved = [one.to(problem.dtype) for one in solved]
        for number, index in enumerate(folds):
            flat = index.flatten()
            rows = (factor.rows(flat) if problem.dual else problem.rows(flat)).to(problem.dtype)
            blocks: Iterable[Tensor] = kept.get(number) or _blocks(problem, factor, lift, index, grid)
            if keep:
                blocks = kept.setdefault(number, list(blocks))
            for i, block in enumerate(blocks):
                found = (rows @ solved[i]).double()
                residual = (found if problem.dual else problem.targets(part, flat) - found).view(*index.shape, -1)
                left_out = residual / block if index.shape[1] == 1 else torch.linalg.solve(block, residual)
                error[i, part] += left_out.square().sum((0, 1))
    return error


def _blocks(problem: _Problem, factor: Factor, lift: float, index: Tensor, grid: tuple[float, ...]) -> Iterator[Tensor]:
    """For each penalty (I - H - 11'/n) between the rows of each fold, (folds, r, r); in the dual form over alpha, as its residuals."""
    n_folds, n_rows = index.shape
    if problem.dual:
        rows = factor.rows(index.flatten())
    else:
        rows = (problem.rows(index.flatten()) @ factor.q_transposed.T.to(problem.dtype)).double()
    shape = (n_folds, n_rows, problem.size)
    one = torch.eye(n_rows, dtype=rows.dtype, device=rows.device) - 1 / len(problem.x)
    for alpha in grid:
        solved = factor.solve(alpha, rows.T).T
        products = (
            (rows * solved).sum(1).view(n_folds, 1, 1)  # single rows: no need of small matrix products
            if n_rows == 1
            else rows.view(shape) @ solved.reshape(shape).transpose(1, 2)
        )
        yield products - 1 / (len(problem.x) * (lift + alpha)) if problem.dual else one - products


def _weights(problem: _Problem, factor: Factor, grid: tuple[float, ...], best: Tensor, dtype: torch.dtype) -> Tensor:
    """Coefficients of each target under its own penalty, shape (p, t)."""
    n_targets = problem.y.shape[1]
    weights = torch.empty(problem.x.shape[1], n_targets, dtype=dtype, device=problem.x.device)
    for part in _parts(n_targets, max(16, SCRATCH_BYTES // (8 * problem.size))):
        right = factor.q_transposed @ problem.projected(part)
        for i in sorted(set(best[part].tolist())):
            own = best[part] == i
            right[:, own] = factor.solve(grid[i], right[:, own])
        dual = factor.q_transposed.T @ right
        if not problem.dual:
            weights[:, part] = dual.to(dtype)
            continue
        dual = dual.to(problem.dtype)
        for some in _parts(len(weights), PANEL):
            weights[some, part] = (problem.columns(some).T @ dual).to(dtype)
    return weights


def _folds(n_rows: int, cv: Literal["loo"] | int, groups: NDArray[np.integer] | None) -> list[Tensor]:
    """Rows of the folds, as (folds, rows) of folds of one size, about `PANEL` rows at a time."""
    numbers = np.arange(n_rows) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1].ravel()
    # Groups are dealt in the order of their first rows.
    first = np.unique(numbers, return_index=True)[1]
    numbers = np.argsort(np.argsort(first))[numbers]
    n_groups = len(first)
    n_folds = n_groups if cv == "loo" else cv
    if n_groups < max(n_folds, 2):
        raise InputError(
            "CHI-IN-311",
            f"{n_groups} images (groups of rows) cannot be held out in {n_folds} folds.",
            "Give more images, or fewer folds (at least 2).",
        )
    sizes = np.full(n_folds, n_groups // n_folds)
    sizes[: n_groups % n_folds] += 1
    fold = np.repeat(np.arange(n_folds), sizes)[numbers]
    order, counts = np.argsort(fold, kind="stable"), np.bincount(fold)
    starts = np.cumsum(counts) - counts
    found = []
    for count in np.unique(counts):
        rows = order[starts[counts == count][:, None] + np.arange(count)]
        found += [torch.from_numpy(some) for some in np.array_split(rows, max(1, min(len(rows), rows.size // PANEL)))]
    return found


def _mean(values: Tensor) -> Tensor:
    total = torch.zeros(values.shape[1], dtype=torch.float64, device=values.device)
    for some in _parts(len(values), PANEL):
        total += values[some].double().sum(0)
    return total / len(values)


def _parts(size: int, width: int) -> list[slice]:
    return [slice(start, min(start + width, size)) for start in range(0, size, width)]


def _check(
    x: Array,
    y: Array,
    grid: tuple[float, ...],
    cv: Literal["loo"] | int,
    groups: NDArray[np.integer] | None,
) -> None:
    wrong = []
    if x.ndim != 2 or y.ndim != 2 or len(x) != len(y) or min(*x.shape, *y.shape) < 1:
        wrong.append(f"x (n, p) and y (n, t) are needed, got {tuple(x.shape)} and {tuple(y.shape)}")
    if not grid or not all(0 < alpha < float("inf") for alpha in grid):
        wrong.append(f"alphas must be finite and > 0, got {grid}")
    if cv != "loo" and cv < 2:
        wrong.append(f"cv must be 'loo' or a number of folds >= 2, got {cv!r}")
    if groups is not None and np.shape(groups) != (len(x),):
        wrong.append(f"groups must have one number a row ({len(x)}), got shape {np.shape(groups)}")
    if wrong:
        raise ValueError("; ".join(wrong))
