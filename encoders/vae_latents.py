"""Low-level targets: latents of Stable Diffusion's image auto-encoder, and thumbnails, which need no weights.

Rombach et al., CVPR 2022; MindEye takes 4 x 64 x 64 latents of 512 pixels, MindEye2 4 x 28 x 28 of 224.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, interpolate

from ..data.errors import WeightsError
from .target_spaces import TargetSpace, check_shape, folder_sha256

CODES: dict[str, str] = {
    "CHI-WT-074": "the folder of an image auto-encoder lacks config.json or its safetensors weights",
    "CHI-WT-075": "the weights of an image auto-encoder are damaged, or it is another one than the target space needs",
}

SCALE = 0.18215
"""What Stable Diffusion's latents are multiplied by (their inverse deviation)."""
WEIGHTS = "diffusion_pytorch_model.safetensors"


class VaeLatents:
    """Images to latents and back.

    Parameters
    ----------
    space : TargetSpace
        Of kind ``latents``.
    model : nn.Module
        Diffusers' ``AutoencoderKL``.
    sha256 : str
        Of its weights.
    """

    def __init__(self, space: TargetSpace, model: nn.Module, sha256: str) -> None:
        self.space, self.model, self.sha256 = space, model, sha256

    @torch.no_grad()
    def __call__(self, pixels: Tensor) -> Tensor:
        """Return scaled latents (B, c, h * w), float32, of pixels uint8 (B, S, S, 3): the posterior's mode, no noise."""
        model: Any = self.model
        values = resized(signed(pixels).to(next(self.model.parameters()).device), self.space.pixels)
        latents: Tensor = model.encode(values).latent_dist.mode() * SCALE
        return latents.flatten(2)

    @torch.no_grad()
    def images(self, latents: Tensor) -> Tensor:
        """Return images (B, 3, S, S) from 0 to 1, float32, of scaled latents (B, c, h, w) or (B, c, h * w)."""
        model: Any = self.model
        latents = self.space.as_latents(latents).to(next(self.model.parameters()).device)
        decoded: Tensor = model.decode(latents / SCALE).sample
        return (decoded / 2 + 0.5).clamp(0, 1)


class Thumbnails:
    """Images to 8 x 8 thumbnails and back: the low-level target where no auto-encoder's weights are.

    Parameters
    ----------
    space : TargetSpace
        Of kind ``thumbnail``.
    size : int
        Side of the images that `images` gives.
    """

    sha256 = ""

    def __init__(self, space: TargetSpace, *, size: int = 64) -> None:
        self.space, self.size = space, size

    def __call__(self, pixels: Tensor) -> Tensor:
        """Return means over a grid's cells, from -1 to 1, (B, 3, h * w), float32, of pixels uint8 (B, S, S, 3)."""
        return adaptive_avg_pool2d(signed(pixels), (self.space.pixels, self.space.pixels)).flatten(2)

    def images(self, latents: Tensor) -> Tensor:
        """Return images (B, 3, size, size) from 0 to 1 by bicubic upsampling."""
        values = self.space.as_latents(latents).float()
        values = interpolate(values, size=(self.size, self.size), mode="bicubic", align_corners=False)
        return (values / 2 + 0.5).clamp(0, 1)


def signed(pixels: Tensor) -> Tensor:
    """Return (B, 3, S, S) from -1 to 1, float32, of pixels uint8 (B, S, S, 3)."""
    if pixels.dtype != torch.uint8 or pixels.ndim != 4 or pixels.shape[3] != 3 or pixels.shape[1] != pixels.shape[2]:
        raise ValueError(f"pixels must be uint8 (B, S, S, 3), not {pixels.dtype} {tuple(pixels.shape)}")
    return pixels.permute(0, 3, 1, 2).float() / 127.5 - 1


def resized(values: Tensor, size: int) -> Tensor:
    """Resize square images (antialiased bilinear, as MindEye does); the same size is handed through."""
    if values.shape[-1] == size:
        return values
    return interpolate(values, size=(size, size), mode="bilinear", align_corners=False, antialias=True)


def load_vae_latents(space: TargetSpace, folder: Path, device: torch.device) -> VaeLatents:
    """Load an ``AutoencoderKL`` from a local diffusers folder, frozen.

    Raises
    ------
    WeightsError
        ``CHI-WT-071``, ``CHI-WT-072``, ``CHI-WT-074``, ``CHI-WT-075``.
    """
    if not (folder / "config.json").is_file() or not (folder / WEIGHTS).is_file():
        raise WeightsError(
            "CHI-WT-074",
            f"config.json or {WEIGHTS} missing.",
            "Give the auto-encoder's own folder (often called 'vae') in safetensors form; pickles are not read.",
            file=folder.name,
        )
    import safetensors
    from diffusers import AutoencoderKL

    try:
        model = AutoencoderKL.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, torch_dtype=torch.float32, low_cpu_mem_usage=False
        )
    except (safetensors.SafetensorError, RuntimeError, OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsError(
            "CHI-WT-075",
            f"the auto-encoder cannot be built ({type(error).__name__}).",
            "Fetch the folder again.",
            file=folder.name,
        ) from error
    shrunk = 2 ** (len(model.config.block_out_channels) - 1)
    check_shape(space, model.config.latent_channels, (space.pixels // shrunk) ** 2, folder.name)
    if abs(model.config.scaling_factor - SCALE) > 1e-6:
        raise WeightsError(
            "CHI-WT-075",
            f"the auto-encoder scales latents by {model.config.scaling_factor}, and '{space.name}' by {SCALE}.",
            "Give an auto-encoder of Stable Diffusion 1 or 2, not of SDXL.",
            file=folder.name,
        )
    return VaeLatents(space, model.eval().requires_grad_(False).to(device), folder_sha256(folder))
