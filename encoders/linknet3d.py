"""A residual 3-D LinkNet: the network behind deepbet's brain masks.

LinkNet: Chaurasia and Culurciello 2017, fig. 1-2, in three dimensions with parameter-free instance norm; sizes and
attribute names follow the networks that deepbet 1.0.2 publishes (Fisch et al. 2024; MIT licence).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class LinkNet3dConfig:
    """Sizes of a `LinkNet3d`; the defaults are the published ones.

    Parameters
    ----------
    in_channels, out_channels : int
        Image channels; classes.
    widths : tuple of int
        Channels of the encoder's levels. The first stands at a quarter of the input's resolution, each further one
        halves it again. All must be multiples of 4 (the bottleneck of a decoder step).
    """

    in_channels: int = 1
    out_channels: int = 2
    widths: tuple[int, ...] = (16, 32, 64, 128)

    def __post_init__(self) -> None:
        wrong = [width for width in self.widths if width < 4 or width % 4]
        if wrong or not self.widths:
            raise ValueError(f"widths must be positive multiples of 4, at least one; got {self.widths}")
        if min(self.in_channels, self.out_channels) < 1:
            raise ValueError(
                f"in_channels and out_channels must be >= 1, got {self.in_channels} and {self.out_channels}"
            )

    @property
    def divisor(self) -> int:
        """Every side of an input must be a multiple of this."""
        return int(2 ** (len(self.widths) + 1))


def _normed(convolution: nn.Module, width: int, *, activation: bool = True) -> nn.Sequential:
    norm = nn.InstanceNorm3d(width)
    return nn.Sequential(convolution, norm, nn.ReLU(inplace=True)) if activation else nn.Sequential(convolution, norm)


class ResidualBlock(nn.Module):
    """conv-norm-ReLU-conv-norm plus a shortcut (1x1 convolution and norm where the shape changes), then ReLU."""

    def __init__(self, n_in: int, n_out: int, *, stride: int = 1) -> None:
        super().__init__()
        self.double_conv = nn.Sequential(
            *_normed(nn.Conv3d(n_in, n_out, 3, stride=stride, padding=1, bias=False), n_out),
            *_normed(nn.Conv3d(n_out, n_out, 3, padding=1, bias=False), n_out, activation=False),
        )
        changes = stride != 1 or n_in != n_out
        self.downsample = (
            _normed(nn.Conv3d(n_in, n_out, 1, stride=stride, bias=False), n_out, activation=False) if changes else None
        )
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, n_in, X, Y, Z) to (B, n_out, X / stride, Y / stride, Z / stride)."""
        out = self.double_conv(x)
        out += x if self.downsample is None else self.downsample(x)
        activated: Tensor = self.act(out)
        return activated


class Down(nn.Module):
    """Two residual blocks; the first one may halve the resolution."""

    def __init__(self, n_in: int, n_out: int, *, stride: int) -> None:
        super().__init__()
        self.block1 = ResidualBlock(n_in, n_out, stride=stride)
        self.block2 = ResidualBlock(n_out, n_out)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, n_in, X, Y, Z) to (B, n_out, X / stride, Y / stride, Z / stride)."""
        out: Tensor = self.block2(self.block1(x))
        return out


class Up(nn.Module):
    """Bottleneck of a quarter of the channels, transposed convolution, expansion (LinkNet, fig. 2)."""

    def __init__(self, n_in: int, n_out: int, *, stride: int) -> None:
        super().__init__()
        narrow = n_in // 4
        transposed = nn.ConvTranspose3d(
            narrow, narrow, 3, stride=stride, padding=1, output_padding=stride - 1, bias=False
        )
        self.conv1 = _normed(nn.Conv3d(n_in, narrow, 1, bias=False), narrow)
        self.tp_conv = _normed(transposed, narrow)
        self.conv2 = _normed(nn.Conv3d(narrow, n_out, 1, bias=False), n_out)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, n_in, X, Y, Z) to (B, n_out, stride X, stride Y, stride Z)."""
        out: Tensor = self.conv2(self.tp_conv(self.conv1(x)))
        return out


class LinkNet3d(nn.Module):
    """Residual encoder, bottlenecked decoder, skips that are added.

    Parameters
    ----------
    config : LinkNet3dConfig
    """

    def __init__(self, config: LinkNet3dConfig) -> None:
        super().__init__()
        self.config = config
        first, last_level = config.widths[0], len(config.widths) - 1
        half = first // 2
        self.init = nn.Sequential(
            *_normed(nn.Conv3d(config.in_channels, first, 7, stride=2, padding=3, bias=False), first),
            nn.MaxPool3d(3, 2, 1),
        )
        n_in = first
        for level, width in enumerate(config.widths):
            self.add_module(f"down{level}", Down(n_in, width, stride=2 if level else 1))
            n_in = width
        for step, level in enumerate(range(last_level, -1, -1)):
            n_out = config.widths[max(level - 1, 0)]
            self.add_module(f"up{step}", Up(config.widths[level], n_out, stride=2 if level else 1))
        self.tp_conv1 = _normed(nn.ConvTranspose3d(first, half, 3, stride=2, padding=1, output_padding=1), half)
        self.conv = _normed(nn.Conv3d(half, half, 3, padding=1), half)
        self.tp_conv2 = nn.ConvTranspose3d(half, config.out_channels, 2, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """Compute logits.

        Parameters
        ----------
        x : Tensor, shape (B, in_channels, X, Y, Z)
            Sides are multiples of ``config.divisor``.

        Returns
        -------
        Tensor, shape (B, out_channels, X, Y, Z)
            Logits; the published networks end with a softmax over the channels, which is left to the caller.

        Raises
        ------
        ValueError
            Where a side is not a multiple of ``config.divisor``.
        """
        divisor = self.config.divisor
        if any(side % divisor for side in x.shape[2:]):
            raise ValueError(f"sides must be multiples of {divisor}, got {tuple(x.shape[2:])}")
        skips = [self.init(x)]
        for level in range(len(self.config.widths)):
            skips.append(self.get_submodule(f"down{level}")(skips[-1]))
        x = skips.pop()
        for step in range(len(self.config.widths)):
            x = self.get_submodule(f"up{step}")(x)
            x = x + skips.pop()  # not in place: the ReLU above keeps its output for the gradient
        logits: Tensor = self.tp_conv2(self.conv(self.tp_conv1(x)))
        return logits
