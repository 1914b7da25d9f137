"""The network of the embedded image decoder: a U-Net over 32 x 32 pictures that sees a grid of tokens.

Pixels are folded 2 x 2 into channels, so that the widest layers work at 16 x 16. The tokens lie on the coarsest grid, 4 x 4:
they are added there, where attention mixes them; everything else is conditioned by scale and shift (FiLM, Perez et al.,
AAAI 2018) from the time, the noise told to be in the tokens, and the tokens' mean.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

GROUPS = 8
"""Of every group normalisation."""


@dataclass(frozen=True, kw_only=True)
class SmallUNetConfig:
    """Sizes of `SmallUNet`.

    Parameters
    ----------
    size : int
        Height and width of the pictures, a multiple of 8.
    token_width : int
        Channels d of a token; there are ``(size / 8)^2`` of them.
    widths : tuple of three int
        Channels at a half, a quarter and an eighth of the size; multiples of 8, the last one of `heads` also.
    embedding : int
        Width of what conditions the blocks.
    layers, heads : int
        Transformer layers over the coarsest grid and over the tokens alone (one fewer), and their heads.
    """

    size: int = 32
    token_width: int = 64
    widths: tuple[int, ...] = (48, 112, 128)
    embedding: int = 128
    layers: int = 2
    heads: int = 4

    def __post_init__(self) -> None:
        """Refuse sizes that do not divide; ValueError."""
        if self.size < 8 or self.size % 8:
            raise ValueError(f"SmallUNetConfig: size must be a multiple of 8, got {self.size}.")
        if len(self.widths) != 3 or any(width % GROUPS for width in self.widths) or self.widths[2] % self.heads:
            raise ValueError(
                f"SmallUNetConfig: widths must be three multiples of {GROUPS}, the last one of heads={self.heads} also, "
                f"got {self.widths}."
            )

    @property
    def n_tokens(self) -> int:
        """Tokens N of a picture."""
        return (self.size // 8) ** 2


class SmallUNet(nn.Module):
    """Noisy pictures, time and tokens to the velocity ``alpha * noise - sigma * picture`` (Salimans & Ho, ICLR 2022).

    Parameters
    ----------
    config : SmallUNetConfig
    """

    def __init__(self, config: SmallUNetConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or SmallUNetConfig()
        first, second, third = config.widths
        wide = config.embedding
        self.no_tokens = nn.Parameter(torch.zeros(config.n_tokens, config.token_width))
        self.positions = nn.Parameter(0.02 * torch.randn(config.n_tokens, third))
        self.token_in = nn.Linear(config.token_width, third)
        self.token_layers = nn.ModuleList(ConditionedLayer(third, config) for _ in range(config.layers - 1))
        self.times = nn.Sequential(nn.Linear(96, wide), nn.SiLU(), nn.Linear(wide, wide))
        self.token_mean = nn.Linear(third, wide)

        self.image_in = nn.Conv2d(12, first, 3, padding=1)
        self.down1 = ConditionedBlock(first, first, wide)
        self.to2 = nn.Conv2d(first, second, 2, stride=2)
        self.down2 = ConditionedBlock(second, second, wide)
        self.to3 = nn.Conv2d(second, third, 2, stride=2)
        self.layers = nn.ModuleList(ConditionedLayer(third, config) for _ in range(config.layers))
        self.from3 = nn.Conv2d(third, 4 * second, 1)
        self.up2 = ConditionedBlock(2 * second, second, wide)
        self.from2 = nn.Conv2d(second, 4 * first, 1)
        self.up1 = ConditionedBlock(2 * first, first, wide)
        self.last = ConditionedBlock(first, first, wide)
        self.norm = nn.GroupNorm(GROUPS, first)
        self.image_out = nn.Conv2d(first, 12, 3, padding=1)
        nn.init.zeros_(self.image_out.weight)

    def forward(self, noisy: Tensor, time: Tensor, tokens: Tensor | None, level: Tensor) -> Tensor:
        """Predict the velocity.

        Parameters
        ----------
        noisy : Tensor, shape (B, 3, S, S)
            ``alpha * picture + sigma * noise``, pictures in -1..1.
        time : Tensor, shape (B,)
            Time t in 0..1.
        tokens : Tensor, shape (B, N, d), optional
            None stands for no condition.
        level : Tensor, shape (B,)
            Level of the noise in the tokens.

        Returns
        -------
        Tensor, shape (B, 3, S, S)
        """
        if tokens is None:
            tokens = self.no_tokens.expand(len(noisy), -1, -1)
        known = self.times(torch.cat([waves(time, 64, 200.0), waves(level, 32, 20.0)], dim=1))
        told = self.token_in(tokens) + self.positions
        for layer in self.token_layers:
            told = layer(told, known)
        known = functional.silu(known + self.token_mean(told.mean(1)))

        x1 = self.down1(self.image_in(functional.pixel_unshuffle(noisy, 2)), known)
        x2 = self.down2(self.to2(x1), known)
        x3 = self.to3(x2)
        grid = x3.shape[2:]
        x = x3.flatten(2).transpose(1, 2) + told
        for layer in self.layers:
            x = layer(x, known)
        x = self.from3(x.transpose(1, 2).unflatten(2, grid))
        x = self.up2(torch.cat([functional.pixel_shuffle(x, 2), x2], dim=1), known)
        x = self.up1(torch.cat([functional.pixel_shuffle(self.from2(x), 2), x1], dim=1), known)
        x = self.image_out(functional.silu(self.norm(self.last(x, known))))
        return functional.pixel_shuffle(x, 2)


class ConditionedBlock(nn.Module):
    """Two 3 x 3 convolutions with a shortcut; the second normalisation is scaled and shifted by the condition.

    Parameters
    ----------
    width_in, width_out : int
        Channels before and after.
    embedding : int
        Width of the condition.
    """

    def __init__(self, width_in: int, width_out: int, embedding: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(GROUPS, width_in)
        self.conv1 = nn.Conv2d(width_in, width_out, 3, padding=1)
        self.film = nn.Linear(embedding, 2 * width_out)
        self.norm2 = nn.GroupNorm(GROUPS, width_out)
        self.conv2 = nn.Conv2d(width_out, width_out, 3, padding=1)
        self.shortcut = nn.Identity() if width_in == width_out else nn.Conv2d(width_in, width_out, 1)

    def forward(self, x: Tensor, known: Tensor) -> Tensor:
        """(B, C_in, h, w) and (B, E) -> (B, C_out, h, w)."""
        hidden = self.conv1(functional.silu(self.norm1(x)))
        scale, shift = self.film(known)[:, :, None, None].chunk(2, dim=1)
        hidden = functional.silu(torch.addcmul(shift, self.norm2(hidden), 1 + scale))
        out: Tensor = self.shortcut(x) + self.conv2(hidden)
        return out


class ConditionedLayer(nn.Module):
    """A transformer layer whose two normalisations are scaled and shifted by the condition.

    Parameters
    ----------
    width : int
        Channels of a position.
    config : SmallUNetConfig
        For `heads` and `embedding`.
    """

    def __init__(self, width: int, config: SmallUNetConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.film = nn.Linear(config.embedding, 4 * width)
        self.norm1 = nn.LayerNorm(width, elementwise_affine=False)
        self.qkv = nn.Linear(width, 3 * width)
        self.project = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width, elementwise_affine=False)
        self.expand = nn.Linear(width, 4 * width)
        self.contract = nn.Linear(4 * width, width)

    def forward(self, x: Tensor, known: Tensor) -> Tensor:
        """(B, N, C) and (B, E) -> (B, N, C)."""
        batch, n, width = x.shape
        scale1, shift1, scale2, shift2 = self.film(known)[:, None].chunk(4, dim=2)
        q, k, v = (
            self.qkv(torch.addcmul(shift1, self.norm1(x), 1 + scale1))
            .view(batch, n, 3, self.heads, width // self.heads)
            .permute(2, 0, 3, 1, 4)
        )
        # written out: with 16 positions the fused kernel takes ten times as long on a processor
        weights = (q @ k.transpose(2, 3) * (width // self.heads) ** -0.5).softmax(-1)
        x = x + self.project((weights @ v).transpose(1, 2).reshape(batch, n, width))
        hidden = self.expand(torch.addcmul(shift2, self.norm2(x), 1 + scale2))
        out: Tensor = x + self.contract(functional.gelu(hidden))
        return out


def waves(values: Tensor, width: int, fastest: float) -> Tensor:
    """Sines and cosines (B, width) of values (B,), angular frequencies from 1 to `fastest`."""
    steps = torch.arange(width // 2, device=values.device, dtype=torch.float32) / (width // 2 - 1)
    angles = values.float()[:, None] * torch.exp(math.log(fastest) * steps)
    return torch.cat([angles.sin(), angles.cos()], dim=1)
