"""SDXL unCLIP: MindEye2's decoder, from 256 x 1664 OpenCLIP tokens to 768 x 768 pictures (Scotti et al., ICML 2024).

SDXL's U-Net (Podell et al., ICLR 2024) with image tokens of width 1664 in cross-attention and a vector of 1024 beside the
time: the published size and the crop, (768, 768, 0, 0), as sines and cosines of 256 each. No pipeline of diffusers has
these conditions, so this one is built around its ``UNet2DConditionModel``. Behaviours from the authors' unclip6.yaml and
`unclip_recon`: 38 Euler steps over 999 to 0 (end left out), guidance 5 against tokens of pure noise, noise offset 0.04,
and pictures read as 0.8 x + 0.2 instead of x / 2 + 0.5, which takes back that their tokens are of faint images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from .diffusers_folder import check_size, load_component
from .interface import check_request, to_pixels
from .latent_sampling import Noise, batches, begin, decoded, first_step, run_schedule, start_latents

TRAINING_STEPS = 1000
BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
READ_AS = {"openclip-bigg-14": (0.8, 0.2), "openclip-bigg-14-exact": (0.5, 0.5)}
"""Target -> scale and shift from decoded values to 0..1."""


@dataclass(frozen=True, kw_only=True)
class SdxlUnclipConfig:
    """How it samples.

    Parameters
    ----------
    target : str
        Space of the tokens, which decides how decoded values are read (`READ_AS`).
    steps : int
    guidance : float
        1 is none.
    free : 'noise' or 'zeros'
        What stands for no image in guidance; published is noise, drawn for each picture.
    offset_noise : float
        Deviation of one number a picture, added to all of its noise.
    tokens, width : int
        Shape of the image tokens.
    added : int
        Length of the vector beside the time.
    pixels : int
        Side S of a picture, and the size named in that vector.
    batch : int
        Pictures at once.
    """

    target: Literal["openclip-bigg-14", "openclip-bigg-14-exact"] = "openclip-bigg-14"
    steps: int = 38
    guidance: float = 5.0
    free: Literal["noise", "zeros"] = "noise"
    offset_noise: float = 0.04
    tokens: int = 256
    width: int = 1664
    added: int = 1024
    pixels: int = 768
    batch: int = 1

    def __post_init__(self) -> None:
        """Refuse impossible settings; ValueError."""
        if self.target not in READ_AS or self.free not in ("noise", "zeros"):
            raise ValueError(f"target one of {', '.join(READ_AS)}, free 'noise' or 'zeros'; got {self}")
        if not 1 <= self.steps <= TRAINING_STEPS or self.batch < 1 or self.added % 4 or self.pixels % 8:
            raise ValueError(
                f"steps in 1..{TRAINING_STEPS}, batch from 1, added in fours, pixels in eights; got {self}"
            )


class SdxlUnclip:
    """An `ImageDecoder`.

    Parameters
    ----------
    unet : nn.Module
        Diffusers' ``UNet2DConditionModel`` with a projected class embedding of length `added`.
    vae : nn.Module
        Diffusers' ``AutoencoderKL``, in float32: SDXL's overflows in float16.
    config : SdxlUnclipConfig
    """

    def __init__(self, unet: nn.Module, vae: nn.Module, config: SdxlUnclipConfig) -> None:
        from diffusers import EulerDiscreteScheduler

        self.unet, self.vae, self.config = unet, vae, config
        self.scheduler = EulerDiscreteScheduler(num_train_timesteps=TRAINING_STEPS, **BETAS)

    @property
    def target(self) -> str:
        """Target space."""
        return self.config.target

    @property
    def resolution(self) -> int:
        """Side of a picture."""
        return self.config.pixels

    @property
    def settings(self) -> Mapping[str, Any]:
        """For reports."""
        return {"kind": "sdxl-unclip", "scheduler": "Euler", **asdict(self.config)}

    @torch.no_grad()
    def decode(
        self,
        tokens: Tensor,
        *,
        text: Tensor | None = None,
        start: Tensor | None = None,
        start_strength: float = 0.85,
        seed: int,
        indices: Sequence[int],
    ) -> Tensor:
        """Decode tokens (B, 256, 1664); captions are not looked at. See `ImageDecoder`."""
        config = self.config
        check_request(
            tokens, (config.tokens, config.width), start=start, start_strength=start_strength, indices=indices
        )
        scale, shift = READ_AS[config.target]
        parts = [torch.zeros((0, config.pixels, config.pixels, 3), dtype=torch.uint8)]
        for part in batches(len(tokens), config.batch):
            noise = Noise(seed=seed, indices=indices[part])
            latents = self._latents(tokens[part], None if start is None else start[part], start_strength, noise)
            parts.append(to_pixels(decoded(self.vae, latents) * scale + shift))
        return torch.cat(parts)

    def _latents(self, tokens: Tensor, start: Tensor | None, strength: float, noise: Noise) -> Tensor:
        unet: Any = self.unet
        config, weight = self.config, next(self.unet.parameters())
        shrunk = 2 ** (len(self.vae.config.block_out_channels) - 1)  # type: ignore[union-attr,arg-type]
        shape = (unet.config.in_channels, config.pixels // shrunk, config.pixels // shrunk)
        drawn = noise.draw(shape, "latents", weight.device)
        drawn = drawn + config.offset_noise * noise.draw((1, 1, 1), "offset", weight.device)
        from_start = None if start is None else start_latents(self.vae, start, config.pixels, noise)
        if start is None:  # the authors begin from a normal draw, not from zero, under the noise
            from_start, strength = noise.draw(shape, "beginning", weight.device), 1.0
        latents, times = begin(
            self.scheduler,
            drawn,
            steps=published_times(config.steps),
            start=from_start,
            skip=first_step(config.steps, strength),
        )
        conditions = self._conditions(tokens.to(weight.device).float(), noise).to(weight.dtype)
        added = size_vector(config.pixels, config.added).to(weight).expand(len(conditions), -1)

        def predict(given: Tensor, time: Tensor) -> Tensor:
            answer: Tensor = unet(given, time, encoder_hidden_states=conditions, class_labels=added).sample
            return answer

        return run_schedule(
            self.scheduler, predict, latents=latents, times=times, guidance=config.guidance, dtype=weight.dtype
        )

    def _conditions(self, tokens: Tensor, noise: Noise) -> Tensor:
        if self.config.guidance == 1:
            return tokens
        free = torch.zeros_like(tokens)
        if self.config.free == "noise":
            free = noise.draw(tuple(tokens.shape[1:]), "free", tokens.device)
        return torch.cat([free, tokens])


def published_times(steps: int) -> list[int]:
    """Return the training steps that are visited: equally spaced from 999, 0 left out, cut to whole numbers."""
    return [int(time) for time in np.linspace(TRAINING_STEPS - 1, 0, steps, endpoint=False).astype(int)]


def size_vector(pixels: int, length: int) -> Tensor:
    """Return sines and cosines (1, length) of the size, twice, and of the crop (0, 0): the vector beside the time."""
    from diffusers.models.embeddings import get_timestep_embedding

    numbers = torch.tensor([pixels, pixels, 0, 0], dtype=torch.float32)
    embedded = get_timestep_embedding(numbers, length // 4, flip_sin_to_cos=True, downscale_freq_shift=0)
    vector: Tensor = embedded.reshape(1, length)
    return vector


def load_sdxl_unclip(
    folder: Path,
    config: SdxlUnclipConfig | None = None,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> SdxlUnclip:
    """Load ``unet`` and ``vae`` of a local folder, as `sgm_conversion.convert_sdxl_unclip` writes it.

    Raises
    ------
    WeightsError
        ``CHI-WT-077`` to ``CHI-WT-080``.
    """
    from diffusers import AutoencoderKL, UNet2DConditionModel

    config = config or SdxlUnclipConfig()
    unet = load_component(folder, "unet", UNet2DConditionModel, device=device, dtype=dtype)
    check_size(folder, "the width of cross-attention", unet.config.cross_attention_dim, config.width)
    check_size(folder, "the form of the added condition", unet.config.class_embed_type, "projection")
    check_size(
        folder, "the length of the added condition", unet.config.projection_class_embeddings_input_dim, config.added
    )
    vae = load_component(folder, "vae", AutoencoderKL, device=device)
    check_size(folder, "the number of latent channels", unet.config.in_channels, vae.config.latent_channels)
    return SdxlUnclip(unet, vae, config)
