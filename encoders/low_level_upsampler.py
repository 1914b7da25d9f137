"""From a small map to the latents of an image auto-encoder: the decoder of Stable Diffusion's VAE, in plain torch.

Rombach et al. 2022, appendix; attribute names are those of diffusers' ``Decoder``, so that published branches fit. Files
written with diffusers before 0.23 name the attention differently (see `pipelines/engine/conversion`).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional

EPS = 1e-6


@dataclass(frozen=True, kw_only=True)
class LowLevelUpsamplerConfig:
    """Sizes of a `LowLevelUpsampler`; the defaults are MindEye's.

    Parameters
    ----------
    in_channels, out_channels : int
        Of the map; of the latents.
    widths : tuple of int
        From the finest level to the coarsest, where the map enters; each level but the finest doubles the side.
    layers : int
        Residual blocks a level, less one.
    norm_groups : int
        Of every GroupNorm; divides every width.
    """

    in_channels: int = 64
    out_channels: int = 4
    widths: tuple[int, ...] = (64, 128, 256)
    layers: int = 1
    norm_groups: int = 32

    def __post_init__(self) -> None:
        if not self.widths or any(width % self.norm_groups or width < 1 for width in self.widths):
            raise ValueError(f"widths must be multiples of {self.norm_groups}, at least one; got {self.widths}")

    @property
    def factor(self) -> int:
        """How much longer the side of the latents is than that of the map."""
        return int(2 ** (len(self.widths) - 1))


class ResidualBlock(nn.Module):
    """Twice GroupNorm, SiLU, 3x3 convolution, plus the input (through a 1x1 convolution where the width changes)."""

    def __init__(self, n_in: int, n_out: int, *, groups: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, n_in, eps=EPS)
        self.conv1 = nn.Conv2d(n_in, n_out, 3, padding=1)
        self.norm2 = nn.GroupNorm(groups, n_out, eps=EPS)
        self.conv2 = nn.Conv2d(n_out, n_out, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(n_in, n_out, 1) if n_in != n_out else None

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, n_in, H, W) to (B, n_out, H, W)."""
        out = self.conv1(functional.silu(self.norm1(x)))
        out = self.conv2(functional.silu(self.norm2(out)))
        same = x if self.conv_shortcut is None else self.conv_shortcut(x)
        result: Tensor = same + out
        return result


class PositionAttention(nn.Module):
    """Single-head self-attention over the positions of a map, added to it."""

    def __init__(self, width: int, *, groups: int) -> None:
        super().__init__()
        self.group_norm = nn.GroupNorm(groups, width, eps=EPS)
        self.to_q, self.to_k, self.to_v = (nn.Linear(width, width) for _ in range(3))
        self.to_out = nn.ModuleList([nn.Linear(width, width)])

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        tokens = self.group_norm(x).flatten(2).mT
        q, k, v = (layer(tokens)[:, None] for layer in (self.to_q, self.to_k, self.to_v))
        attended = functional.scaled_dot_product_attention(q, k, v)[:, 0]
        result: Tensor = x + self.to_out[0](attended).mT.reshape(x.shape)
        return result


class _MiddleBlock(nn.Module):
    def __init__(self, width: int, *, groups: int) -> None:
        super().__init__()
        self.attentions = nn.ModuleList([PositionAttention(width, groups=groups)])
        self.resnets = nn.ModuleList([ResidualBlock(width, width, groups=groups) for _ in range(2)])

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.resnets[1](self.attentions[0](self.resnets[0](x)))
        return result


class _Doubled(nn.Module):
    """Nearest neighbour to twice the side, then a 3x3 convolution."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.conv(functional.interpolate(x, scale_factor=2.0, mode="nearest"))
        return result


class _UpBlock(nn.Module):
    def __init__(self, n_in: int, n_out: int, *, layers: int, groups: int, doubles: bool) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(
            [ResidualBlock(n_out if layer else n_in, n_out, groups=groups) for layer in range(layers + 1)]
        )
        self.upsamplers = nn.ModuleList([_Doubled(n_out)] if doubles else [])

    def forward(self, x: Tensor) -> Tensor:
        for block in (*self.resnets, *self.upsamplers):
            x = block(x)
        return x


class LowLevelUpsampler(nn.Module):
    """The decoder.

    Parameters
    ----------
    config : LowLevelUpsamplerConfig
    """

    def __init__(self, config: LowLevelUpsamplerConfig) -> None:
        super().__init__()
        self.config = config
        groups, widths = config.norm_groups, tuple(reversed(config.widths))
        self.conv_in = nn.Conv2d(config.in_channels, widths[0], 3, padding=1)
        self.mid_block = _MiddleBlock(widths[0], groups=groups)
        self.up_blocks = nn.ModuleList(
            [
                _UpBlock(n_in, n_out, layers=config.layers, groups=groups, doubles=level < len(widths) - 1)
                for level, (n_in, n_out) in enumerate(zip((widths[0], *widths[:-1]), widths, strict=True))
            ]
        )
        self.conv_norm_out = nn.GroupNorm(groups, widths[-1], eps=EPS)
        self.conv_out = nn.Conv2d(widths[-1], config.out_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, in_channels, H, W) to (B, out_channels, H * factor, W * factor)."""
        x = self.mid_block(self.conv_in(x))
        for block in self.up_blocks:
            x = block(x)
        latents: Tensor = self.conv_out(functional.silu(self.conv_norm_out(x)))
        return latents
