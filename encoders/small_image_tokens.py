"""Small image tokens: 16 tokens of 64 channels of a 32 x 32 picture, the target space `small-16x64` that needs no download.

A residual convolutional network halves the picture three times; transformer layers over the 4 x 4 grid that is left make the
tokens. Trained without labels (`benchmarks/fmri/train_small_decoder.py`): a picture must be told from its noisy tokens, and
two views of it from other pictures.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

GROUPS = 8
"""Of every group normalisation."""


@dataclass(frozen=True, kw_only=True)
class SmallImageTokensConfig:
    """Sizes of `SmallImageTokens`.

    Parameters
    ----------
    size : int
        Height and width of the pictures, a multiple of 8; the tokens lie on a grid of ``size / 8`` x ``size / 8``.
    token_width : int
        Channels d of a token.
    widths : tuple of three int
        Channels at a half, a quarter and an eighth of the size, multiples of 8 and of `heads`.
    blocks : int
        Residual blocks at each of the first two.
    layers, heads : int
        Transformer layers over the grid, and their attention heads.
    """

    size: int = 32
    token_width: int = 64
    widths: tuple[int, ...] = (48, 96, 160)
    blocks: int = 2
    layers: int = 2
    heads: int = 4

    def __post_init__(self) -> None:
        """Refuse sizes that do not divide; ValueError."""
        if self.size < 8 or self.size % 8:
            raise ValueError(f"SmallImageTokensConfig: size must be a multiple of 8, got {self.size}.")
        if len(self.widths) != 3 or any(width % GROUPS for width in self.widths) or self.widths[2] % self.heads:
            raise ValueError(
                f"SmallImageTokensConfig: widths must be three multiples of {GROUPS}, the last one of heads={self.heads} "
                f"also, got {self.widths}."
            )

    @property
    def n_tokens(self) -> int:
        """Tokens N of a picture."""
        return (self.size // 8) ** 2


class SmallImageTokens(nn.Module):
    """Pictures to standardised tokens; token ``cols * i + j`` is the part of the picture at row i, column j of the grid.

    The statistics are buffers: a mean of each position and channel, and a scale of each channel, so that over the training
    pictures every channel has mean 0 and variance 1.

    Parameters
    ----------
    config : SmallImageTokensConfig
    """

    token_mean: Tensor
    token_scale: Tensor

    def __init__(self, config: SmallImageTokensConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or SmallImageTokensConfig()
        first, second, third = config.widths
        self.stem = nn.Conv2d(12, first, 3, padding=1)
        self.level1 = nn.Sequential(*(ResidualBlock(first) for _ in range(config.blocks)))
        self.down1 = nn.Conv2d(first, second, 2, stride=2)
        self.level2 = nn.Sequential(*(ResidualBlock(second) for _ in range(config.blocks)))
        self.down2 = nn.Conv2d(second, third, 2, stride=2)
        self.positions = nn.Parameter(0.02 * torch.randn(config.n_tokens, third))
        self.layers = nn.ModuleList(TransformerLayer(third, config.heads) for _ in range(config.layers))
        self.norm = nn.LayerNorm(third)
        self.head = nn.Linear(third, config.token_width)
        self.register_buffer("token_mean", torch.zeros(config.n_tokens, config.token_width))
        self.register_buffer("token_scale", torch.ones(config.token_width))

    def forward(self, pixels: Tensor) -> Tensor:
        """Encode pictures.

        Parameters
        ----------
        pixels : Tensor, shape (B, S, S, 3), uint8
            RGB.

        Returns
        -------
        Tensor, shape (B, N, d), float32
            Standardised tokens.

        Raises
        ------
        ValueError
            For pictures of another size or type.
        """
        size = self.config.size
        if pixels.dtype != torch.uint8 or pixels.ndim != 4 or tuple(pixels.shape[1:]) != (size, size, 3):
            raise ValueError(
                f"SmallImageTokens: takes uint8 pictures of (B, {size}, {size}, 3), got {pixels.dtype} of {tuple(pixels.shape)}."
            )
        images = pixels.permute(0, 3, 1, 2).to(self.head.weight.dtype) / 127.5 - 1.0
        return ((self.raw(images) - self.token_mean) / self.token_scale).float()

    def raw(self, images: Tensor) -> Tensor:
        """Tokens (B, N, d) before they are standardised, of images (B, 3, S, S) in -1..1."""
        x = self.level1(self.stem(functional.pixel_unshuffle(images, 2)))
        x = self.down2(self.level2(self.down1(x)))
        x = x.flatten(2).transpose(1, 2) + self.positions
        for layer in self.layers:
            x = layer(x)
        tokens: Tensor = self.head(self.norm(x))
        return tokens

    def fit_statistics(self, batches: Iterator[Tensor]) -> None:
        """Set the statistics from raw tokens (B, N, d), in float64.

        Raises
        ------
        ValueError
            For no tokens at all.
        """
        n = 0
        total = torch.zeros_like(self.token_mean, dtype=torch.float64)
        squares = torch.zeros_like(total)
        for tokens in batches:
            tokens = tokens.double()
            n += len(tokens)
            total += tokens.sum(0)
            squares += tokens.square().sum(0)
        if n == 0:
            raise ValueError("SmallImageTokens.fit_statistics: there are no tokens.")
        mean = total / n
        variance = (squares / n - mean.square()).mean(0)
        self.token_mean.copy_(mean)
        self.token_scale.copy_(variance.clamp_min(1e-12).sqrt())

    @classmethod
    def load(cls, folder: Path) -> SmallImageTokens:
        """Read the ``config.json`` and ``model.safetensors`` of a weights folder; float32, in evaluation mode.

        Raises
        ------
        ValueError
            For a configuration that is not of this network.
        RuntimeError
            For tensors that do not fit it.
        """
        import json

        from safetensors.torch import load_file

        about = json.loads((folder / "config.json").read_text("utf-8"))
        if about.get("kind") != "small-image-tokens":
            raise ValueError(f"SmallImageTokens.load: kind must be 'small-image-tokens', got {about.get('kind')!r}.")
        parameters: dict[str, Any] = {
            key: tuple(v) if isinstance(v, list) else v for key, v in about["parameters"].items()
        }
        model = cls(SmallImageTokensConfig(**parameters))
        model.load_state_dict({key: value.float() for key, value in load_file(folder / "model.safetensors").items()})
        return model.eval().requires_grad_(False)


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions, normalised before each, with a shortcut (He et al., ECCV 2016); (B, C, h, w) in and out.

    Parameters
    ----------
    width : int
        Channels C.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(GROUPS, width)
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.norm2 = nn.GroupNorm(GROUPS, width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Apply it."""
        hidden = self.conv1(functional.silu(self.norm1(x)))
        shortcut: Tensor = x + self.conv2(functional.silu(self.norm2(hidden)))
        return shortcut


class TransformerLayer(nn.Module):
    """Attention and a perceptron of four times the width, normalised before each; (B, N, C) in and out.

    Parameters
    ----------
    width, heads : int
        Channels C and attention heads.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.project = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.expand = nn.Linear(width, 4 * width)
        self.contract = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Apply it."""
        batch, n, width = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(batch, n, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        # written out: with 16 tokens the fused kernel takes ten times as long on a processor
        weights = (q @ k.transpose(2, 3) * (width // self.heads) ** -0.5).softmax(-1)
        x = x + self.project((weights @ v).transpose(1, 2).reshape(batch, n, width))
        out: Tensor = x + self.contract(functional.gelu(self.expand(self.norm2(x))))
        return out
