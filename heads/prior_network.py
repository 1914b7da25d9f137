"""The network of the diffusion prior: brain tokens and noisy image tokens in, clean (or noise) image tokens out.

The transformer of DALL-E 2's prior (Ramesh et al. 2022) as MindEye 1 and 2 use it on whole token sequences (Scotti et al.
2023, 2024); the mathematics of dalle2-pytorch 1.14.2, whose state-dict names are kept so that published weights load.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, Protocol, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

QueryMode = Literal["pos_emb", "token", "all_pos_emb", "none"]

_SHARPNESS = 4.0  # queries and keys are unit vectors times this: cosine logits between -16 and 16
_BUCKETS, _EXACT_BUCKETS, _FARTHEST = 32, 16, 128  # T5's one-sided relative positions
_ROTATED = 32  # rotary positions turn at most this many channels of a head
_FUSED_FROM = (
    2**17
)  # elements; below, a fused kernel gains nothing and plain arithmetic in the published order rounds alike


class PriorNetworkLike(Protocol):
    """What `DiffusionPrior` asks of a network; another architecture only needs this."""

    @property
    def token_shape(self) -> tuple[int, int]:
        """Number of image tokens and their width, (N, d)."""

    def __call__(
        self,
        noisy: Tensor,
        times: Tensor,
        brain: Tensor,
        *,
        keep_brain: Tensor | None = None,
        keep_image: Tensor | None = None,
    ) -> Tensor:
        """Predict (B, N, d); items whose flag is False see a learned null table instead of their tokens."""


@dataclass(frozen=True, kw_only=True)
class PriorNetworkConfig:
    """Sizes and switches of a `PriorNetwork`; the defaults are MindEye1's (MindEye2: 1664 wide, 32 heads of 52, 256 tokens).

    Parameters
    ----------
    dim, num_tokens : int
        Width and number of the image tokens, and of the brain tokens.
    depth, heads, dim_head : int
        Layers; query heads and their width (one key and value head is shared by all of them).
    ff_mult : int
        Width of the gated feed-forward over ``dim``.
    causal : bool
        Tokens see earlier ones only.
    learned_query_mode : {"pos_emb", "token", "all_pos_emb", "none"}
        Where the learned table goes: added to the noisy tokens, appended as tokens of its own (which are then the
        prediction), added to the whole sequence, or nowhere.
    num_timesteps : int, optional
        Look the time up in a table of so many rows; None means sinusoids and a multi-layer perceptron.
    num_time_embeds : int
        Tokens that the time becomes.
    rotary_emb : bool
        Rotary positions besides the relative bias.
    norm_in, norm_out, final_proj, normformer : bool
        Norm before the first layer; norm after the last one; linear map at the end; norm inside the feed-forward.
    dropout : float
        On attention weights and in the feed-forward; zero as published.
    """

    dim: int = 768
    num_tokens: int = 257
    depth: int = 6
    heads: int = 12
    dim_head: int = 64
    ff_mult: int = 4
    causal: bool = False
    learned_query_mode: QueryMode = "pos_emb"
    num_timesteps: int | None = None
    num_time_embeds: int = 1
    rotary_emb: bool = True
    norm_in: bool = False
    norm_out: bool = True
    final_proj: bool = True
    normformer: bool = False
    dropout: float = 0.0

    def __post_init__(self) -> None:
        counts = ("dim", "num_tokens", "depth", "heads", "dim_head", "ff_mult", "num_time_embeds")
        wrong = [f"{name} must be >= 1, got {getattr(self, name)}" for name in counts if getattr(self, name) < 1]
        if self.learned_query_mode not in get_args(QueryMode):
            wrong.append(f"learned_query_mode must be one of {get_args(QueryMode)}, got {self.learned_query_mode!r}")
        if self.num_timesteps is not None and self.num_timesteps < 1:
            wrong.append(f"num_timesteps must be None or >= 1, got {self.num_timesteps}")
        if self.num_timesteps is None and (self.dim < 4 or self.dim % 2):
            wrong.append(f"sinusoids of the time need an even dim >= 4, got {self.dim}")
        if self.rotary_emb and self.dim_head % 2:
            wrong.append(f"rotary positions turn pairs: dim_head must be even, got {self.dim_head}")
        if not 0 <= self.dropout < 1:
            wrong.append(f"dropout must be in [0, 1), got {self.dropout}")
        if wrong:
            raise ValueError("; ".join(wrong))

    @property
    def sequence_length(self) -> int:
        """Tokens of the transformer: brain, time, noisy image and, in mode ``token``, the learned queries."""
        queries = self.num_tokens if self.learned_query_mode == "token" else 0
        return 2 * self.num_tokens + self.num_time_embeds + queries


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


class SwiGLU(nn.Module):
    """First half times the SiLU of the second half."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., 2 n) to (..., n)."""
        values, gate = x.chunk(2, -1)
        return values * functional.silu(gate)


class SinusoidalTime(nn.Module):
    """Sines, then cosines, of the raw step at ``dim / 2`` frequencies from 1 down to 1 / 10000."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, times: Tensor) -> Tensor:
        """Map (B,) to (B, dim) float32."""
        half = self.dim // 2
        rate = math.log(10000.0) / (half - 1)
        frequencies = torch.exp(torch.arange(half, device=times.device, dtype=torch.float32) * -rate)
        angles = times.float()[:, None] * frequencies
        return torch.cat((angles.sin(), angles.cos()), -1)


class _TimeMLP(nn.Module):
    """Two hidden SiLU layers of twice the output's width; the names are the published ones."""

    def __init__(self, dim: int, dim_out: int) -> None:
        super().__init__()
        hidden = 2 * dim_out
        self.net = nn.Sequential(
            nn.Sequential(nn.Linear(dim, hidden), nn.SiLU()),
            nn.Sequential(nn.Linear(hidden, hidden), nn.SiLU()),
            nn.Linear(hidden, dim_out),
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.net(x.to(self.net[2].weight.dtype))
        return out


def time_tokens(dim: int, n_tokens: int, n_steps: int | None) -> nn.Sequential:
    """Return the module that maps steps (B,) to time tokens (B, n_tokens, dim): a table, or sinusoids and a perceptron."""
    width = dim * n_tokens
    embed = nn.Embedding(n_steps, width) if n_steps else nn.Sequential(SinusoidalTime(dim), _TimeMLP(dim, width))
    return nn.Sequential(embed, nn.Unflatten(-1, (n_tokens, dim)))


def keep_or_null(tokens: Tensor, keep: Tensor | None, null: Tensor) -> Tensor:
    """Replace the items of (B, N, d) whose flag in ``keep`` (B,) is False by the table ``null`` (N, d)."""
    if keep is None:
        return tokens
    return torch.where(keep.view(-1, 1, 1), tokens, null.to(tokens.dtype))


class _RotaryFrequencies(nn.Module):
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
        self.rotary_emb = _RotaryFrequencies(min(_ROTATED, dim_head)) if rotary else None
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


def _buckets(length: int) -> Tensor:
    """T5 bucket of every query and key, (L, L + 1); the null key is position 0, so real keys stand one later."""
    distance = (torch.arange(length)[:, None] - torch.arange(length + 1)).clamp(min=0)
    span = math.log(_FARTHEST / _EXACT_BUCKETS)
    coarse = (distance.clamp(min=1) / _EXACT_BUCKETS).log() / span * (_BUCKETS - _EXACT_BUCKETS)
    far = (_EXACT_BUCKETS + coarse.long()).clamp(max=_BUCKETS - 1)
    return torch.where(distance < _EXACT_BUCKETS, distance, far)


class _RelativeBias(nn.Module):
    """One bias per bucket and head, shared by all layers."""

    buckets: Tensor
    hidden: Tensor

    def __init__(self, heads: int, length: int, *, causal: bool) -> None:
        super().__init__()
        self.relative_attention_bias = nn.Embedding(_BUCKETS, heads)
        self.register_buffer("buckets", _buckets(length), persistent=False)
        future = torch.ones(length, length + 1, dtype=torch.bool).triu(2) if causal else torch.empty(0)
        self.register_buffer("hidden", future, persistent=False)

    def forward(self) -> Tensor:
        """Bias of the logits, (heads * L, L + 1)."""
        bias: Tensor = self.relative_attention_bias(self.buckets).permute(2, 0, 1)
        if self.hidden.numel():
            bias = bias.masked_fill(self.hidden, -torch.inf)
        return bias.flatten(0, 1)


class _Transformer(nn.Module):
    def __init__(self, config: PriorNetworkConfig) -> None:
        super().__init__()
        dim, inner = config.dim, config.ff_mult * config.dim
        self.init_norm = GainNorm(dim) if config.norm_in else nn.Identity()
        self.rel_pos_bias = _RelativeBias(config.heads, config.sequence_length, causal=config.causal)
        self.layers = nn.ModuleList()
        for _ in range(config.depth):
            attention = MultiQueryAttention(
                dim,
                heads=config.heads,
                dim_head=config.dim_head,
                rotary=config.rotary_emb,
                dropout=config.dropout,
            )
            feed_forward = nn.Sequential(
                GainNorm(dim),
                nn.Linear(dim, 2 * inner, bias=False),
                SwiGLU(),
                GainNorm(inner) if config.normformer else nn.Identity(),
                nn.Dropout(config.dropout),
                nn.Linear(inner, dim, bias=False),
            )
            self.layers.append(nn.ModuleList((attention, feed_forward)))
        self.norm = GainNorm(dim, stable=True) if config.norm_out else nn.Identity()
        self.project_out = nn.Linear(dim, dim, bias=False) if config.final_proj else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = self.init_norm(x)
        bias = self.rel_pos_bias()
        frequencies = self.layers[0][0].rotary_emb  # the same in every layer
        rotary = None if frequencies is None else frequencies(x.shape[1])
        for attention, feed_forward in self.layers:
            x = x + attention(x, bias, rotary)
            x = x + feed_forward(x)
        out: Tensor = self.project_out(self.norm(x))
        return out


class PriorNetwork(nn.Module):
    """Transformer over [brain tokens, time, noisy image tokens (, queries)]; the last N outputs are the prediction.

    Parameters
    ----------
    config : PriorNetworkConfig
    """

    def __init__(self, config: PriorNetworkConfig) -> None:
        super().__init__()
        self.config = config
        n, dim, mode = config.num_tokens, config.dim, config.learned_query_mode
        self.to_time_embeds = time_tokens(dim, config.num_time_embeds, config.num_timesteps)
        if mode != "none":
            rows = config.sequence_length if mode == "all_pos_emb" else n
            self.learned_query = nn.Parameter(torch.randn(rows, dim) * (1.0 if mode == "token" else dim**-0.5))
        self.null_brain_embeds = nn.Parameter(torch.randn(n, dim))
        self.null_image_embed = nn.Parameter(torch.randn(n, dim))
        self.causal_transformer = _Transformer(config)

    @property
    def token_shape(self) -> tuple[int, int]:
        """Number of image tokens and their width, (N, d)."""
        return self.config.num_tokens, self.config.dim

    def forward(
        self,
        noisy: Tensor,
        times: Tensor,
        brain: Tensor,
        *,
        keep_brain: Tensor | None = None,
        keep_image: Tensor | None = None,
    ) -> Tensor:
        """Predict the image tokens (or their noise, or velocity: what the prior was trained for).

        Parameters
        ----------
        noisy : Tensor, shape (B, N, d) or (B, N * d)
        times : Tensor, shape (B,)
            Steps of the noise schedule.
        brain : Tensor, shape (B, N, d) or (B, N * d)
        keep_brain, keep_image : Tensor of bool, shape (B,), optional
            False swaps the item's brain or noisy tokens for a learned table.

        Returns
        -------
        Tensor, shape (B, N, d)
        """
        noisy, brain = (part.reshape(-1, *self.token_shape) for part in (noisy, brain))
        brain = keep_or_null(brain, keep_brain, self.null_brain_embeds)
        noisy = keep_or_null(noisy, keep_image, self.null_image_embed)
        mode = self.config.learned_query_mode
        if mode == "pos_emb":
            noisy = noisy + self.learned_query
        parts = [brain, self.to_time_embeds(times).to(brain.dtype), noisy]
        if mode == "token":
            parts.append(self.learned_query.to(brain.dtype).expand(len(brain), -1, -1))
        sequence = torch.cat(parts, 1)
        if mode == "all_pos_emb":
            sequence = sequence + self.learned_query
        out: Tensor = self.causal_transformer(sequence)
        return out[:, -self.config.num_tokens :]
