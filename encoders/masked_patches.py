"""Learning from pictures without labels: hide most patches, predict them from the others.

Masked autoencoder of He et al. (CVPR 2022): the encoder sees the visible patches only, a small decoder fills in the rest;
the loss is the squared error over hidden patches. Targets are scaled by the picture's own planes or, as in the paper's
second form, by each patch's own mean and deviation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from .image_transformer import ImageTransformer


@dataclass(frozen=True, kw_only=True)
class MaskedPatchesConfig:
    """How much is hidden, and who fills it in.

    Parameters
    ----------
    ratio : float
        Share of hidden patches, in (0, 1).
    target : 'image' or 'patch'
        What is predicted: pixels with mean 0 and variance 1 over each plane of the picture (levels and pauses must be
        known), or over each patch (its texture alone counts).
    plane_weights : (float, float, float)
        Weights of the planes in the loss. The derivatives of a squeezed recording are nearly noise: at equal weight most
        of the loss, and of its gradient, is what nobody can predict.
    decoder_width, decoder_layers, decoder_heads : int
        Size of the decoder, which is thrown away afterwards.
    """

    ratio: float = 0.75
    target: Literal["image", "patch"] = "image"
    plane_weights: tuple[float, float, float] = (1.0, 1.0, 1.0)
    decoder_width: int = 96
    decoder_layers: int = 2
    decoder_heads: int = 3

    def __post_init__(self) -> None:
        if not 0 < self.ratio < 1 or self.target not in ("image", "patch"):
            raise ValueError(
                f"ratio must lie in (0, 1) and target be 'image' or 'patch', not {self.ratio}, {self.target!r}"
            )


@dataclass(frozen=True)
class MaskedPatchesOutput:
    """Loss and what it is made of.

    Parameters
    ----------
    loss : Tensor, scalar
        Mean squared error over the hidden patches, planes weighted.
    predicted, target : Tensor, shape (B, N, 3 * height * width)
        Of every patch, the visible ones too.
    hidden : Tensor of bool, shape (B, N)
        True where a patch was hidden.
    """

    loss: Tensor
    predicted: Tensor
    target: Tensor
    hidden: Tensor


class MaskedPatches(nn.Module):
    """An image encoder with the decoder that trains it.

    Parameters
    ----------
    encoder : ImageTransformer
        DeiT or ViT; patches that overlap (AST) would show what is hidden.
    config : MaskedPatchesConfig
    """

    def __init__(self, encoder: ImageTransformer, config: MaskedPatchesConfig) -> None:
        super().__init__()
        if encoder.kind == "audio-spectrogram-transformer":
            raise ValueError("patches of an Audio Spectrogram Transformer overlap: they cannot be hidden one by one")
        self.encoder, self.config = encoder, config
        self.n_patches = encoder.grid[0] * encoder.grid[1]
        self.n_visible = max(1, round(self.n_patches * (1 - config.ratio)))
        width = config.decoder_width
        self.project = nn.Linear(encoder.width, width)
        self.hidden_token = nn.Parameter(torch.zeros(width))
        self.positions = nn.Parameter(sincos_positions(encoder.grid, width))
        layer = nn.TransformerEncoderLayer(
            width, config.decoder_heads, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.decoder = nn.TransformerEncoder(
            layer, config.decoder_layers, nn.LayerNorm(width), enable_nested_tensor=False
        )
        self.pixels = nn.Linear(width, 3 * encoder.patch[0] * encoder.patch[1])

    def forward(self, pixels: Tensor, *, generator: torch.Generator | None = None) -> MaskedPatchesOutput:
        """Hide patches at random and predict them.

        Parameters
        ----------
        pixels : Tensor, shape (B, 3, H, W)
        generator : torch.Generator, optional
            For the choice of patches.
        """
        order = torch.rand(len(pixels), self.n_patches, generator=generator, device=pixels.device).argsort(1)
        visible = order[:, : self.n_visible]
        hidden = torch.ones_like(order, dtype=torch.bool).scatter_(1, visible, False)
        tokens = self.project(self.encoder.encode_visible(pixels, visible))
        special, seen = tokens[:, : self.encoder.n_special], tokens[:, self.encoder.n_special :]
        grid = self.hidden_token.to(seen.dtype).expand(*hidden.shape, -1)
        grid = grid.scatter(1, visible[..., None].expand_as(seen), seen) + self.positions
        decoded = self.decoder(torch.cat([special.to(grid.dtype), grid], dim=1))
        predicted = self.pixels(decoded[:, self.encoder.n_special :]).float()
        target = self.targets(pixels)
        planes = (predicted - target).square().reshape(*target.shape[:2], 3, -1).mean(3)[hidden].mean(0)
        weights = planes.new_tensor(self.config.plane_weights)
        loss = (planes * weights).sum() / weights.sum()
        return MaskedPatchesOutput(loss, predicted, target, hidden)

    def targets(self, pixels: Tensor) -> Tensor:
        """Return what is to be predicted, shape (B, N, 3 * height * width); see `MaskedPatchesConfig`."""
        if self.config.target == "image":
            return patchify(_standardised(pixels.float(), (2, 3)), self.encoder.patch)
        return _standardised(patchify(pixels.float(), self.encoder.patch), (2,))


def begin(network: MaskedPatches) -> None:
    """Set weights to begin learning from, as He et al. do: uniform (Glorot & Bengio 2010), positions as sines and cosines.

    Small widths learn very slowly from the narrow normal distribution of transformers.
    """
    for module in network.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            nn.init.xavier_uniform_(module.weight.data.flatten(1))
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    encoder, model = network.encoder, network.encoder.model
    places: Tensor = model.embeddings.position_embeddings.data  # type: ignore[union-attr, assignment]
    places[0, encoder.n_special :] = sincos_positions(encoder.grid, encoder.width)


def sincos_positions(grid: tuple[int, int], width: int) -> Tensor:
    """Return sines and cosines of row (first half) and column of each patch, shape (rows * cols, width)."""
    if width % 4:
        raise ValueError(f"the width of positions in two directions is a multiple of 4, not {width}")
    frequencies = 10000 ** (-torch.arange(width // 4) / (width // 4))
    angles = [torch.arange(n)[:, None] * frequencies for n in grid]
    rows, cols = (torch.cat([angle.sin(), angle.cos()], dim=1) for angle in angles)
    both = [rows[:, None].expand(-1, grid[1], -1), cols[None].expand(grid[0], -1, -1)]
    return torch.cat(both, dim=2).flatten(0, 1)


def patchify(pixels: Tensor, patch: tuple[int, int]) -> Tensor:
    """Cut pictures (B, C, H, W) into patches (B, rows * cols, C * height * width), row by row."""
    height, width = patch
    n, channels, rows, cols = *pixels.shape[:2], pixels.shape[2] // height, pixels.shape[3] // width
    grid = pixels.reshape(n, channels, rows, height, cols, width)
    return grid.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)


def _standardised(values: Tensor, dims: tuple[int, ...]) -> Tensor:
    variance, mean = torch.var_mean(values, dims, correction=0, keepdim=True)
    return (values - mean) / (variance + 1e-6).sqrt()
