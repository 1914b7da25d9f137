"""Attention of the diffusion prior: cosine logits, one key and value head, a null key, rotary and relative positions.

The mathematics of dalle2-pytorch 1.14.2 with rotary-embedding-torch 0.2.3, whose state-dict names are kept.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

_SHARPNESS = 4.0  # queries and keys are unit vectors times this: cosine logits between -16 and 16
_BUCKETS, _EXACT_BUCKETS, _FARTHEST = 32, 16, 128  # T5's one-sided relative positions
_ROTATED = 32  # rotary positions turn at most this many channels of a head
# Elements. Below, fused kernels gain little, and plain arithmetic in the published order rounds alike: priors that
# predict noise magnify rounding a hundredfold.
_FUSED_FROM = 2**14


class GainNorm(nn.Module):
    """Layer norm with a gain and no bias.

    Parameters
    ----------
    dim : int
    stable : bool
        Divide by the row's largest entry first, which keeps half precision from overflowing.
    """

    def __init__(self, dim: int, *, stable: bool = False) -> None:
        super().__init__()
        self.g = nn.Parameter(torch.ones(dim))
        self.stable = stable

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last axis of (..., dim)."""
        if self.stable:
            x = x / x.amax(-1, keepdim=True).detach()
        eps = 1e-5 if x.dtype in (torch.float32, torch.float64) else 1e-3
        if x.numel() < _FUSED_FROM:
            variance, mean = torch.var_mean(x, -1, correction=0, keepdim=True)
            return (x - mean) * (variance + eps).rsqrt() * self.g.to(x.dtype)
        return functional.layer_norm(x, self.g.shape, self.g.to(x.dtype), None, eps)


class RotaryFrequencies(nn.Module):
    """Frequencies of the rotary positions: a buffer, because the published state dicts have it in every layer."""

    freqs: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("freqs", 10000.0 ** -(torch.arange(0, dim, 2).float() / dim))

    def forward(self, length: int) -> tuple[Tensor, Tensor]:
        """Cosines and sines, (length, dim / 2) each."""
        angles = torch.arange(length, device=self.freqs.device, dtype=torch.float32)[:, None] * self.freqs.float()
        return angles.cos(), angles.sin()


def _rotate(x: Tensor, rotary: tuple[Tensor, Tensor] | None) -> Tensor:
    """Turn neighbouring pairs among the first channels of (B, heads, L, dim_head)."""
    if rotary is None:
        return x
    cos, sin = (part.to(x.dtype) for part in rotary)
    n_turned = 2 * cos.shape[-1]
    even, odd = x[..., 0:n_turned:2], x[..., 1:n_turned:2]
    turned = torch.stack((even * cos - odd * sin, odd * cos + even * sin), -1).flatten(-2)
    return torch.cat((turned, x[..., n_turned:]), -1)


def _attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, dropout: float) -> Tensor:
    """Softmax of q k^T + bias, times v: (B, 1, rows, dim_head)."""
    bias = bias.to(q.dtype)
    if len(q) * bias.numel() >= _FUSED_FROM:
        return functional.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=dropout, scale=1.0)
    weights = (q @ k.transpose(-1, -2) + bias).softmax(-1, dtype=torch.float32).to(q.dtype)
    return functional.dropout(weights, dropout) @ v


class MultiQueryAttention(nn.Module):
    """Cosine attention whose query heads share one key and value head, with a learned null key and value.

    Parameters
    ----------
    dim, heads, dim_head : int
    rotary : bool
    dropout : float
    """

    def __init__(self, dim: int, *, heads: int, dim_head: int, rotary: bool, dropout: float = 0.0) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.norm = GainNorm(dim)
        self.null_kv = nn.Parameter(torch.randn(2, dim_head))
        self.to_q = nn.Linear(dim, heads * dim_head, bias=False)
        self.to_kv = nn.Linear(dim, 2 * dim_head, bias=False)
        self.rotary_emb = RotaryFrequencies(min(_ROTATED, dim_head)) if rotary else None
        self.to_out = nn.Sequential(nn.Linear(heads * dim_head, dim, bias=False), GainNorm(dim))

    def forward(self, x: Tensor, bias: Tensor, rotary: tuple[Tensor, Tensor] | None) -> Tensor:
        """Attend.

        Parameters
        ----------
        x : Tensor, shape (B, L, dim)
        bias : Tensor, shape (heads * L, L + 1)
            Added to the logits; column 0 is the null key.
        rotary : pair of Tensor, optional
            Cosines and sines, shape (L, pairs).

        Returns
        -------
        Tensor, shape (B, L, dim)
        """
        batch, length = x.shape[:2]
        x = self.norm(x)
        q = _rotate(self.to_q(x).unflatten(-1, (self.heads, -1)).transpose(1, 2), rotary)
        k, v = self.to_kv(x).unsqueeze(1).chunk(2, -1)
        null_k, null_v = self.null_kv.to(v.dtype).view(2, 1, 1, 1, -1).expand(2, batch, 1, 1, -1)
        k = torch.cat((null_k, _rotate(k, rotary)), 2)
        v = torch.cat((null_v, v), 2)
        q, k = (functional.normalize(part, dim=-1) * _SHARPNESS for part in (q, k))
        # the heads stand one under another as queries of the one key head: nothing is copied per head
        out = _attend(q.reshape(batch, 1, self.heads * length, -1), k, v, bias, self.dropout if self.training else 0.0)
        merged = out.view(batch, self.heads, length, -1).transpose(1, 2).flatten(2)
        attended: Tensor = self.to_out(merged)
        return attended


def relative_buckets(length: int) -> Tensor:
    """T5 bucket of every query and key, (L, L + 1); the null key is position 0, so real keys stand one later."""
    distance = (torch.arange(length)[:, None] - torch.arange(length + 1)).clamp(min=0)
    span = math.log(_FARTHEST / _EXACT_BUCKETS)
    coarse = (distance.clamp(min=1) / _EXACT_BUCKETS).log() / span * (_BUCKETS - _EXACT_BUCKETS)
    far = (_EXACT_BUCKETS + coarse.long()).clamp(max=_BUCKETS - 1)
    return torch.where(distance < _EXACT_BUCKETS, distance, far)


class RelativeBias(nn.Module):
    """One bias per bucket and head, shared by all layers."""

    buckets: Tensor
    hidden: Tensor

    def __init__(self, heads: int, length: int, *, causal: bool) -> None:
        super().__init__()
        self.relative_attention_bias = nn.Embedding(_BUCKETS, heads)
        self.register_buffer("buckets", relative_buckets(length), persistent=False)
        future = torch.ones(length, length + 1, dtype=torch.bool).triu(2) if causal else torch.empty(0)
        self.register_buffer("hidden", future, persistent=False)

    def forward(self) -> Tensor:
        """Bias of the logits, (heads * L, L + 1)."""
        bias: Tensor = self.relative_attention_bias(self.buckets).permute(2, 0, 1)
        if self.hidden.numel():
            bias = bias.masked_fill(self.hidden, -torch.inf)
        return bias.flatten(0, 1)
