"""A small 3-D U-Net: instance norm, leaky ReLU, strided convolutions down, trilinear interpolation up."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True, kw_only=True)
class UNet3dConfig:
    """Sizes of a `UNet3d`.

    Parameters
    ----------
    in_channels, out_channels : int
        Image channels; classes or regions (logits).
    channels : tuple of int
        Feature channels a level, full resolution first; each level halves the resolution.
    convolutions : tuple of int
        Convolutions a level on the way down (the first of a lower level has stride 2). On the way up there is one
        convolution that merges and, but at full resolution, one more.
    deep_supervision : bool
        Whether `UNet3d.forward` returns logits of the lower levels too while training.
    """

    in_channels: int = 1
    out_channels: int = 4
    channels: tuple[int, ...] = (16, 32, 64, 128)
    convolutions: tuple[int, ...] = (2, 2, 2, 2)
    deep_supervision: bool = False

    def __post_init__(self) -> None:
        if len(self.channels) != len(self.convolutions):
            raise ValueError(f"channels has {len(self.channels)} levels, convolutions {len(self.convolutions)}")
        if len(self.channels) < 2 or min(self.convolutions) < 1:
            raise ValueError("a U-Net needs two levels at least, and one convolution or more at each")

    @property
    def divisor(self) -> int:
        """Every side of an input is a multiple of this (`forward` pads where it is not)."""
        return int(2 ** (len(self.channels) - 1))


class ConvBlock(nn.Module):
    """3x3x3 convolution, instance norm with scale and shift, leaky ReLU."""

    def __init__(self, n_in: int, n_out: int, *, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv3d(n_in, n_out, 3, stride=stride, padding=1, bias=False)
        self.norm = nn.InstanceNorm3d(n_out, affine=True)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, n_in, X, Y, Z) to (B, n_out, X / stride, Y / stride, Z / stride)."""
        return F.leaky_relu(self.norm(self.conv(x)), 0.01, inplace=True)


class UNet3d(nn.Module):
    """U-Net (Ronneberger et al. 2015; 3-D: Cicek et al. 2016) with instance norm (as in Isensee et al. 2021).

    Parameters
    ----------
    config : UNet3dConfig
    """

    def __init__(self, config: UNet3dConfig) -> None:
        super().__init__()
        self.config = config
        widths = config.channels
        self.down = nn.ModuleList()
        n_in = config.in_channels
        for level, (width, count) in enumerate(zip(widths, config.convolutions, strict=True)):
            blocks = [
                ConvBlock(n_in if i == 0 else width, width, stride=2 if level and i == 0 else 1) for i in range(count)
            ]
            self.down.append(nn.Sequential(*blocks))
            n_in = width
        self.reduce = nn.ModuleList()
        self.up = nn.ModuleList()
        for level in range(len(widths) - 2, -1, -1):
            width = widths[level]
            # 1x1x1 before the interpolation: an eighth of the arithmetic of doing it after.
            self.reduce.append(nn.Conv3d(widths[level + 1], width, 1, bias=False))
            merge = [ConvBlock(2 * width, width)]
            if level:
                merge.append(ConvBlock(width, width))
            self.up.append(nn.Sequential(*merge))
        self.head = nn.Conv3d(widths[0], config.out_channels, 1)
        n_extra = len(widths) - 2 if config.deep_supervision else 0
        self.extra_heads = nn.ModuleList(
            nn.Conv3d(widths[level], config.out_channels, 1) for level in range(n_extra, 0, -1)
        )

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """Return logits.

        Parameters
        ----------
        x : Tensor, shape (B, in_channels, X, Y, Z)

        Returns
        -------
        Tensor, shape (B, out_channels, X, Y, Z)
            While training with deep supervision: a list of it and of the logits at 1/2, 1/4 ... of the resolution.
        """
        size = x.shape[2:]
        excess = [-n % self.config.divisor for n in size]
        if any(excess):
            x = F.pad(x, (0, excess[2], 0, excess[1], 0, excess[0]))
        skips: list[Tensor] = []
        for stage in self.down:
            x = stage(x)
            skips.append(x)
        skips.pop()
        extra: list[Tensor] = []
        for i, (reduce, merge) in enumerate(zip(self.reduce, self.up, strict=True)):
            x = F.interpolate(reduce(x), scale_factor=2.0, mode="trilinear", align_corners=False)
            x = merge(torch.cat([skips.pop(), x], dim=1))
            if self.training and i < len(self.extra_heads):
                extra.append(self.extra_heads[i](x))
        logits: Tensor = self.head(x)[..., : size[0], : size[1], : size[2]]
        return [logits, *reversed(extra)] if extra else logits
