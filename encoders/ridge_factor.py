"""An orthogonal reduction of a Gram matrix, G = Q T Q', that is paid for once and solves (G + a I) for every a.

On the CPU T is tridiagonal (LAPACK ``sytrd``): half the arithmetic of an eigendecomposition, and it happens in the memory of G.
On a GPU T is diagonal, from the eigendecomposition that PyTorch has there.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, eq=False, kw_only=True)
class Factor:
    """G = Q T Q'.

    Parameters
    ----------
    q_transposed : Tensor, shape (k, k)
        Float64.
    diagonal, beside : Tensor, shapes (k,) and (k - 1,)
        Of T; `beside` is all zeros on a GPU.
    """

    q_transposed: Tensor
    diagonal: Tensor
    beside: Tensor
    _factored: dict[float, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)

    def rows(self, index: Tensor) -> Tensor:
        """Return rows of Q, (m, k)."""
        return self.q_transposed[:, index].T.contiguous()

    def solve(self, alpha: float, rhs: Tensor) -> Tensor:
        """Return (T + alpha I)^-1 rhs, shape (k, m), float64.

        Raises
        ------
        ValueError
            Where T + alpha I is not positive definite in float64.
        """
        if self.diagonal.is_cuda or len(self.diagonal) == 1:
            return rhs / (self.diagonal + alpha)[:, None]
        from scipy.linalg import lapack

        if alpha not in self._factored:
            *parts, failed = lapack.dpttrf(self.diagonal.numpy() + alpha, self.beside.numpy())
            if failed:
                raise ValueError(f"alpha {alpha:g} is too small for the scale of x: the system is singular")
            self._factored[alpha] = (parts[0], parts[1])
        solved, _ = lapack.dpttrs(*self._factored[alpha], rhs.numpy())
        return torch.from_numpy(solved)

    def rounding(self, dtype: torch.dtype, alpha: float) -> float:
        """Estimate the relative error of predictions where G was computed in `dtype`: eps |G| / (smallest eigenvalue + alpha)."""
        if self.diagonal.is_cuda or len(self.diagonal) == 1:
            low, high = float(self.diagonal.min()), float(self.diagonal.max())
        else:
            from scipy.linalg import eigvalsh_tridiagonal

            ends = (0, 0), (len(self.diagonal) - 1,) * 2
            low, high = (
                float(eigvalsh_tridiagonal(self.diagonal.numpy(), self.beside.numpy(), select="i", select_range=end)[0])
                for end in ends
            )
        room = low + alpha
        return torch.finfo(dtype).eps * high / room if room > 0 else float("inf")


def factorise(gram: Tensor) -> Factor:
    """Reduce a symmetric matrix (k, k), float64; on the CPU its memory is used and its content lost."""
    if gram.is_cuda:
        values, vectors = torch.linalg.eigh(gram)
        return Factor(q_transposed=vectors.T, diagonal=values, beside=torch.zeros_like(values[1:]))
    size = len(gram)
    if size == 1:
        return Factor(q_transposed=torch.ones_like(gram), diagonal=gram[0].clone(), beside=gram.new_zeros(0))
    from scipy.linalg import lapack

    # A symmetric matrix in C order is the same matrix in the column order of LAPACK: nothing is copied.
    matrix = gram.numpy().T
    work, _ = lapack.dsytrd_lwork(size, lower=1)
    matrix, diagonal, beside, tau, _ = lapack.dsytrd(matrix, lower=1, lwork=int(work), overwrite_a=1)
    q = _orthogonal(matrix, tau)
    return Factor(
        q_transposed=torch.from_numpy(q.T), diagonal=torch.from_numpy(diagonal), beside=torch.from_numpy(beside)
    )


def _orthogonal(matrix: np.ndarray, tau: np.ndarray) -> np.ndarray:
    """Build Q from the reflectors that ``sytrd`` left below the subdiagonal, in their own memory.

    The reflectors are those of a QR decomposition of the matrix without its first row and last column. That part is moved together
    (LAPACK's wrapper takes contiguous matrices only), turned into its Q, and moved apart again.
    """
    from scipy.linalg import lapack

    size = len(matrix)
    inner = size - 1
    flat = matrix.ravel(order="K")
    for column in range(inner):
        flat[column * inner : (column + 1) * inner] = flat[column * size + 1 : (column + 1) * size]
    part = flat[: inner * inner].reshape((inner, inner), order="F")
    _, work, _ = lapack.dorgqr(part, tau, lwork=-1)
    part, _, _ = lapack.dorgqr(part, tau, lwork=int(work[0]), overwrite_a=1)
    if not np.shares_memory(part, flat):
        flat[: inner * inner] = part.ravel(order="K")
    for column in range(inner, 0, -1):
        flat[column * size + 1 : (column + 1) * size] = flat[(column - 1) * inner : column * inner]
        flat[column * size] = 0.0
    flat[:size] = 0.0
    flat[0] = 1.0
    return matrix
