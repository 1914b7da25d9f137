"""Layer-wise relevance propagation, one layer a function: relevance of an output in, relevance of its inputs out.

Source: Chefer, Gur & Wolf, CVPR 2021, and ``modules/layers_ours`` of the authors' code, whose handling of zero
denominators and of biases (which get nothing) is followed. Softmax, GELU, layer normalisation and dropout pass
relevance on as it is and have no rule here.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

EPSILON = 1e-9


def safe_divide(a: Tensor, b: Tensor) -> Tensor:
    """Return a / b, moved off zero by 1e-9 and exactly zero where b is."""
    moved = b.clamp(min=EPSILON) + b.clamp(max=EPSILON)
    moved = torch.where(moved == 0, EPSILON, moved)
    return torch.where(b == 0, 0.0, a / moved)


def linear_rule(x: Tensor, weight: Tensor, relevance: Tensor, *, alpha: float = 1.0) -> Tensor:
    """Alpha-beta rule of a linear layer, beta = alpha - 1; both signs share one denominator.

    Parameters
    ----------
    x : Tensor, shape (..., d_in)
    weight : Tensor, shape (d_out, d_in)
    relevance : Tensor, shape (..., d_out)
    alpha : float
        1: only pairs of input and weight with a positive product count.

    Returns
    -------
    Tensor, shape (..., d_in)
    """
    x_parts, w_parts = _signs(x), _signs(weight)

    def share(w_plus: Tensor, w_minus: Tensor) -> Tensor:
        pairs = tuple(zip(x_parts, (w_plus, w_minus), strict=True))
        shares = safe_divide(relevance, F.linear(*pairs[0]) + F.linear(*pairs[1]))
        return pairs[0][0] * (shares @ w_plus) + pairs[1][0] * (shares @ w_minus)

    result = alpha * share(*w_parts)
    return result if alpha == 1 else result - (alpha - 1) * share(*w_parts[::-1])


def conv_rule(x: Tensor, weight: Tensor, relevance: Tensor, *, stride: int, alpha: float = 1.0) -> Tensor:
    """Alpha-beta rule of an unpadded 2-D convolution of features; each sign has its own denominator.

    Parameters
    ----------
    x : Tensor, shape (B, C, H, W)
    weight : Tensor, shape (D, C, k, k)
    relevance : Tensor, shape (B, D, H', W')
    stride : int
    alpha : float

    Returns
    -------
    Tensor, shape (B, C, H, W)
    """
    x_parts, w_parts = _signs(x), _signs(weight)

    def share(*weights: Tensor) -> Tensor:
        parts = []
        for part, w in zip(x_parts, weights, strict=True):
            shares = safe_divide(relevance, F.conv2d(part, w, stride=stride))
            parts.append(part * _transposed(shares, w, x, stride))
        return parts[0] + parts[1]

    result = alpha * share(*w_parts)
    return result if alpha == 1 else result - (alpha - 1) * share(*w_parts[::-1])


def bounded_conv_rule(x: Tensor, weight: Tensor, relevance: Tensor, *, stride: int) -> Tensor:
    """z^B rule of an unpadded 2-D convolution of pixels, with the least and greatest value of each image as bounds.

    Parameters and shapes as in `conv_rule`.
    """
    w_plus, w_minus = _signs(weight)
    low, high = (bound.expand_as(x) for bound in (x.amin((1, 2, 3), keepdim=True), x.amax((1, 2, 3), keepdim=True)))
    terms = ((x, weight, 1), (low, w_plus, -1), (high, w_minus, -1))
    total = sum(sign * F.conv2d(part, w, stride=stride) for part, w, sign in terms) + EPSILON
    shares = relevance / total
    return torch.stack([sign * part * _transposed(shares, w, x, stride) for part, w, sign in terms]).sum(0)


def add_rule(a: Tensor, b: Tensor, relevance: Tensor, *, per_case: bool = False) -> tuple[Tensor, Tensor]:
    """Split the relevance of a + b, then rescale both parts to the shares of their absolute sums.

    Parameters
    ----------
    a, b, relevance : Tensor, same shape
    per_case : bool
        Sums over each case (first dimension) instead of over the whole tensor, as the authors' code has it: a case's
        map then does not depend on who else is in the batch.

    Returns
    -------
    tuple of Tensor
        Relevance of a and of b.
    """
    axes = tuple(range(int(per_case), relevance.ndim))

    def total(part: Tensor) -> Tensor:
        return part.sum(axes, keepdim=True)

    shares = safe_divide(relevance, a + b)
    parts = (a * shares, b * shares)
    sizes = [total(part).abs() for part in parts]
    wanted = [safe_divide(size, sizes[0] + sizes[1]) * total(relevance) for size in sizes]
    scaled = [part * safe_divide(sum_, total(part)) for part, sum_ in zip(parts, wanted, strict=True)]
    return scaled[0], scaled[1]


def clone_rule(x: Tensor, *relevances: Tensor) -> Tensor:
    """Join the relevance of the branches that x went into; all of the shape of x."""
    return x * torch.stack([safe_divide(relevance, x) for relevance in relevances]).sum(0)


def einsum_rule(equation: str, a: Tensor, b: Tensor, relevance: Tensor) -> tuple[Tensor, Tensor]:
    """Gradient x input of a product of two tensors, ``torch.einsum(equation, a, b)``.

    Each operand gets the relevance whole: a network in which both come from one input halves them.
    """
    parts = _gradient_times_input(lambda *xs: torch.einsum(equation, *xs), relevance, a, b)
    return parts[0], parts[1]


def select_rule(x: Tensor, relevance: Tensor, *, index: int = 0, dim: int = 1) -> Tensor:
    """Relevance of x when `index` of axis `dim` was taken out (axis kept); zero elsewhere."""
    return _gradient_times_input(lambda whole: whole.narrow(dim, index, 1), relevance, x)[0]


def _gradient_times_input(function: Callable[..., Tensor], relevance: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
    with torch.enable_grad():
        leaves = [x.detach().requires_grad_() for x in inputs]
        result = function(*leaves)
        gradients = torch.autograd.grad(result, leaves, safe_divide(relevance, result.detach()))
    return tuple(x.detach() * gradient for x, gradient in zip(inputs, gradients, strict=True))


def _signs(x: Tensor) -> tuple[Tensor, Tensor]:
    return x.clamp(min=0), x.clamp(max=0)


def _transposed(shares: Tensor, weight: Tensor, x: Tensor, stride: int) -> Tensor:
    """Return the gradient of the convolution with respect to its input: rows that no kernel reaches get zero."""
    rest = [
        whole - ((n - 1) * stride + k)
        for whole, n, k in zip(x.shape[2:], shares.shape[2:], weight.shape[2:], strict=True)
    ]
    return F.conv_transpose2d(shares, weight, stride=stride, output_padding=rest)
