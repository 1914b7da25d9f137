"""Optimal-transport kernel embedding: attention-like pooling of a token set onto a reference set.

Mialon, Chen, d'Aspremont and Mairal 2021 (ICLR), eq. 4-6; numbers as of the authors' public code (claying/OTK). The
similarity is a dot product, each reference receives mass 1, and what a reference receives is a mean of tokens, so the
cost is O(n p). Position weights multiply the similarity before, and the plan after transport.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from .costs import full_precision, widened

Position = Literal["gaussian", "hard"]

_NOTHING = -1e30  # log 0, finite: see `sinkhorn`


@dataclass(frozen=True, kw_only=True)
class OTKernelConfig:
    """Settings of an `OTKernel`; defaults are the published ones.

    Parameters
    ----------
    in_dim : int
        Features of a token.
    out_size : int
        References (supports) of each head; for images a square number.
    heads : int
        Independent reference sets, whose results are concatenated.
    eps : float
        Entropic regularisation of the dot product.
    max_iter : int
        Sinkhorn iterations.
    log_domain : bool
        Iterate on logarithms: slower, needed where eps is small.
    position_encoding : {'gaussian', 'hard'}, optional
        How the distance of relative positions weighs.
    position_sigma : float
        Its width, in units of the whole length.
    """

    in_dim: int
    out_size: int
    heads: int = 1
    eps: float = 0.1
    max_iter: int = 100
    log_domain: bool = False
    position_encoding: Position | None = None
    position_sigma: float = 0.1

    def __post_init__(self) -> None:
        wrong = []
        if min(self.in_dim, self.out_size, self.heads, self.max_iter) < 1:
            wrong.append("in_dim, out_size, heads and max_iter must be >= 1")
        if not min(self.eps, self.position_sigma) > 0:
            wrong.append("eps and position_sigma must be > 0")
        if self.position_encoding not in (None, *get_args(Position)):
            wrong.append(f"position_encoding must be None or one of {', '.join(get_args(Position))}")
        if wrong:
            raise ValueError(f"{'; '.join(wrong)}; got {self}")


@dataclass(frozen=True, kw_only=True)
class KernelEmbedding:
    """Tokens pooled onto references.

    Parameters
    ----------
    embedding : Tensor, shape (B, p, heads * d)
        From an image (B, s, s, heads * d) with s * s = p.
    plan : Tensor, shape (B, p, heads, n)
        Weights of the tokens, after the position weights.
    value : Tensor, shape (B, heads)
        Similarity that the plan (before the second position weights) collects, divided by the number of references: the kernel itself.
    """

    embedding: Tensor
    plan: Tensor
    value: Tensor


def kernel_plan(
    similarity: Tensor,
    mask: Tensor | None = None,
    reference_mask: Tensor | None = None,
    *,
    eps: float,
    iterations: int,
    log_domain: bool = True,
) -> Tensor:
    """Plan that maximises similarity plus eps times entropy; each reference receives 1, each token gives p / n.

    Parameters
    ----------
    similarity : Tensor, shape (B, n, p)
    mask, reference_mask : Tensor of bool, shapes (B, n) and (B, p), optional
        True = valid; n and p count valid ones.
    eps : float
    iterations : int
        Of: fit the tokens, then the references.
    log_domain : bool
        Same plan, safe for any eps.

    Returns
    -------
    Tensor, shape (B, n, p)
        Zero on padding, and for items with nothing valid on a side.
    """
    tokens = similarity.new_ones(similarity.shape[:2], dtype=torch.bool) if mask is None else mask
    references = similarity.new_ones(similarity[:, 0].shape, dtype=torch.bool)
    references = references if reference_mask is None else reference_mask
    pairs = tokens[:, :, None] & references[:, None, :]
    tokens, references = pairs.any(2), pairs.any(1)
    share = references.sum(1, keepdim=True) / tokens.sum(1, keepdim=True).clamp_min(1)
    a = torch.where(tokens, share.to(similarity.dtype), 1)
    # a constant for each token changes no plan, and keeps exp() from overflowing
    highest = torch.where(pairs, similarity.detach(), _NOTHING).amax(2, keepdim=True)
    logits = torch.where(pairs, (similarity - highest) / eps, _NOTHING)
    if not log_domain:
        return _scaled(logits.exp(), a, tokens, references, iterations)
    u, v = torch.zeros_like(a), torch.zeros_like(similarity[:, 0])
    for _ in range(iterations):
        u = torch.where(tokens, a.log() - (logits + v[:, None, :]).logsumexp(2), 0)
        v = torch.where(references, -(logits + u[:, :, None]).logsumexp(1), 0)
    return (logits + u[:, :, None] + v[:, None, :]).exp()


def _scaled(kernel: Tensor, a: Tensor, tokens: Tensor, references: Tensor, iterations: int) -> Tensor:
    u, v = torch.zeros_like(a), references.to(a.dtype)
    for _ in range(iterations):
        # where() twice: a quotient that is not taken must not be 0 / 0, its gradient would be NaN
        u = torch.where(tokens, a / torch.where(tokens, (kernel @ v[:, :, None])[:, :, 0], 1), 0)
        v = torch.where(references, 1 / torch.where(references, (u[:, None] @ kernel)[:, 0], 1), 0)
    return u[:, :, None] * kernel * v[:, None, :]


def position_weights(size: tuple[int, ...], out_size: int, *, kind: Position, sigma: float) -> Tensor:
    """Weight of token i for reference j by their relative positions, (n, p).

    Parameters
    ----------
    size : (n,) or (H, W)
        Of the input; an image's tokens are in row-major order and its references form a square.
    out_size : int
        p.
    kind : {'gaussian', 'hard'}
        exp(-(distance / sigma)^2), or 1 within sigma and 0 beyond.
    sigma : float
    """
    side = out_size if len(size) == 1 else _side(out_size)
    start = len(size) - 1  # the published code counts from 0 in sequences and from 1 in images
    factors = []
    for n in size:
        token = torch.arange(start, n + start, dtype=torch.float32) / n
        reference = torch.arange(start, side + start, dtype=torch.float32) / side
        distance = token[:, None] - reference[None, :]
        factors.append((-((distance / sigma) ** 2)).exp() if kind == "gaussian" else (distance.abs() < sigma).float())
    return factors[0] if len(factors) == 1 else torch.kron(factors[0], factors[1])


def kernel_embedding(
    x: Tensor,
    reference: Tensor,
    mask: Tensor | None = None,
    reference_mask: Tensor | None = None,
    *,
    eps: float = 0.1,
    iterations: int = 100,
    log_domain: bool = True,
    position: Tensor | None = None,
) -> KernelEmbedding:
    """Pool tokens onto each item's own references; with another modality's tokens as references, a crossing.

    Parameters
    ----------
    x : Tensor, shape (B, n, d)
    reference : Tensor, shape (B, p, d) or (B, heads, p, d)
    mask, reference_mask : Tensor of bool, shapes (B, n) and (B, p), optional
        True = valid.
    eps, iterations, log_domain
        As in `kernel_plan`.
    position : Tensor, shape (n, p), optional
        See `position_weights`.

    Returns
    -------
    KernelEmbedding
        Row j of the embedding is what reference j receives; zeros on padding.

    Raises
    ------
    ValueError
        Where shapes do not fit.
    """
    references = reference[:, None] if reference.dim() == 3 else reference
    if x.dim() != 3 or references.dim() != 4 or (len(x), x.shape[2]) != (len(references), references.shape[3]):
        raise ValueError(
            f"x (B, n, d) and reference (B, p, d) or (B, heads, p, d) must share B and d; "
            f"got {tuple(x.shape)} and {tuple(reference.shape)}"
        )
    heads, dtype = references.shape[1], x.dtype
    with full_precision(x.device):
        x, references = widened(x), widened(references)
        if mask is not None:
            x = x.masked_fill(~mask[:, :, None], 0)
        if reference_mask is not None:
            references = references.masked_fill(~reference_mask[:, None, :, None], 0)
        similarity = torch.einsum("bnd,bhpd->bhnp", x, references)
        if position is not None:
            position = position.to(similarity)
            similarity = similarity * position
        plan = kernel_plan(
            similarity.flatten(0, 1),
            None if mask is None else mask.repeat_interleave(heads, 0),
            None if reference_mask is None else reference_mask.repeat_interleave(heads, 0),
            eps=eps,
            iterations=iterations,
            log_domain=log_domain,
        ).view_as(similarity)
        n_references = (
            similarity.shape[3] if reference_mask is None else reference_mask.sum(1, keepdim=True).clamp_min(1)
        )
        value = (plan * similarity).sum((2, 3)) / n_references
        if position is not None:
            plan = plan * position
        embedding = torch.einsum("bhnp,bnd->bphd", plan, x).flatten(2).to(dtype)
    return KernelEmbedding(embedding=embedding, plan=plan.permute(0, 3, 1, 2), value=value)


class OTKernel(nn.Module):
    """Pool a sequence or an image onto learned references.

    The parameter `weight` (heads, out_size, in_dim) has the name and layout of the published checkpoints.

    Parameters
    ----------
    config : OTKernelConfig
    """

    def __init__(self, config: OTKernelConfig) -> None:
        super().__init__()
        self.config = config
        bound = 1 / math.sqrt(config.out_size)
        weight = torch.empty(config.heads, config.out_size, config.in_dim)
        self.weight = nn.Parameter(nn.init.uniform_(weight, -bound, bound))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> KernelEmbedding:
        """Pool.

        Parameters
        ----------
        x : Tensor, shape (B, n, in_dim) or (B, H, W, in_dim)
        mask : Tensor of bool, shape (B, n) or (B, H, W), optional
            True = valid.

        Raises
        ------
        ValueError
            Where shapes do not fit, and for an image when out_size is no square.
        """
        config = self.config
        size = tuple(x.shape[1:-1])
        if len(size) not in {1, 2} or x.shape[-1] != config.in_dim:
            raise ValueError(f"x must be (B, n, {config.in_dim}) or (B, H, W, {config.in_dim}), got {tuple(x.shape)}")
        side = _side(config.out_size) if len(size) == 2 else 0
        position = None
        if config.position_encoding is not None:
            position = position_weights(
                size, config.out_size, kind=config.position_encoding, sigma=config.position_sigma
            )
        pooled = kernel_embedding(
            x.flatten(1, -2),
            self.weight.expand(len(x), -1, -1, -1),
            None if mask is None else mask.flatten(1),
            eps=config.eps,
            iterations=config.max_iter,
            log_domain=config.log_domain,
            position=position,
        )
        if not side:
            return pooled
        image = pooled.embedding.view(len(x), side, side, -1)
        return KernelEmbedding(embedding=image, plan=pooled.plan, value=pooled.value)


def _side(out_size: int) -> int:
    side = math.isqrt(out_size)
    if side * side != out_size:
        raise ValueError(f"an image is pooled onto a square of references; out_size {out_size} is no square")
    return side
