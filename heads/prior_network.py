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

from .prior_attention import GainNorm, MultiQueryAttention, RelativeBias

QueryMode = Literal["pos_emb", "token", "all_pos_emb", "none"]


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
        out: Tensor = self.net(x.to(self.net.get_parameter("2.weight").dtype))
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


class _Transformer(nn.Module):
    def __init__(self, config: PriorNetworkConfig) -> None:
        super().__init__()
        dim, inner = config.dim, config.ff_mult * config.dim
        self.init_norm = GainNorm(dim) if config.norm_in else nn.Identity()
        self.rel_pos_bias = RelativeBias(config.heads, config.sequence_length, causal=config.causal)
        self.rotary = config.rotary_emb
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
        frequencies = self.layers[0].get_submodule("0.rotary_emb") if self.rotary else None  # the same in every layer
        rotary = None if frequencies is None else frequencies(x.shape[1])
        for layer in self.layers:
            attention, feed_forward = layer.children()
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
