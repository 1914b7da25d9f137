"""MindEye2's refinement: SDXL goes over a reconstruction, from step 13 of 25, with the caption that was decoded (Scotti et al., ICML 2024).

Sizes and times are the authors': pictures of 768 pixels named as 768, target 1024, the training steps of SDXL unCLIP. They
run a fine-tuned SDXL and a long negative prompt; both are settings here, and the plain ones the default.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .interface import to_pixels
from .latent_sampling import Noise, batches, begin, decoded, run_schedule, start_latents
from .sdxl_parts import SdxlParts, load_sdxl
from .sdxl_unclip import BETAS, TRAINING_STEPS, published_times


@dataclass(frozen=True, kw_only=True)
class RefineConfig:
    """How it samples.

    Parameters
    ----------
    steps, first : int
        Of Euler's method, and the one to begin with, counted from 0.
    guidance : float
        1 is none.
    negative_prompt : str
        What guidance leads away from.
    pixels, target_pixels : int
        Side of the pictures, and the side that is named as the target.
    batch : int
        Pictures at once.
    """

    steps: int = 25
    first: int = 13
    guidance: float = 5.0
    negative_prompt: str = ""
    pixels: int = 768
    target_pixels: int = 1024
    batch: int = 1

    def __post_init__(self) -> None:
        """Refuse impossible settings; ValueError."""
        if not 0 <= self.first <= self.steps or self.batch < 1 or self.pixels % 8:
            raise ValueError(f"first in 0..steps, batch from 1, pixels in eights; got {self}")


class SdxlRefiner:
    """Pictures and captions to pictures.

    Parameters
    ----------
    parts : SdxlParts
    config : RefineConfig
    """

    def __init__(self, parts: SdxlParts, config: RefineConfig) -> None:
        from diffusers import EulerDiscreteScheduler

        self.parts, self.config = parts, config
        self.scheduler = EulerDiscreteScheduler(num_train_timesteps=TRAINING_STEPS, **BETAS)
        self.negative = parts.captions([config.negative_prompt])

    @property
    def settings(self) -> Mapping[str, Any]:
        """For reports."""
        return {"kind": "sdxl-refine", "scheduler": "Euler", **asdict(self.config)}

    @torch.no_grad()
    def refine(self, images: Tensor, captions: Sequence[str], *, seed: int, indices: Sequence[int]) -> Tensor:
        """Refine.

        Parameters
        ----------
        images : Tensor, shape (B, s, s, 3), uint8
        captions : sequence of str, length B
            As decoded from the brain.
        seed : int
        indices : sequence of int, length B
            Numbers of the pictures, for the noise.

        Returns
        -------
        Tensor, shape (B, S, S, 3), uint8, on the CPU

        Raises
        ------
        ValueError
            Where lengths differ or pictures are not uint8.
        """
        if images.dtype != torch.uint8 or images.ndim != 4 or not len(images) == len(captions) == len(indices):
            raise ValueError(
                f"uint8 pictures, a caption and an index each, got {images.dtype} {tuple(images.shape)}, "
                f"{len(captions)} and {len(indices)}"
            )
        config = self.config
        parts = [torch.zeros((0, config.pixels, config.pixels, 3), dtype=torch.uint8)]
        for part in batches(len(images), config.batch):
            noise = Noise(seed=seed, indices=indices[part])
            latents = self._latents(images[part].permute(0, 3, 1, 2).float() / 255, captions[part], noise)
            parts.append(to_pixels(decoded(self.parts.vae, latents) / 2 + 0.5))
        return torch.cat(parts)

    def _latents(self, start: Tensor, texts: Sequence[str], noise: Noise) -> Tensor:
        unet, config = self.parts.unet, self.config
        weight = next(unet.parameters())
        encoded = start_latents(self.parts.vae, start, config.pixels, noise)
        drawn = noise.draw(tuple(encoded.shape[1:]), "refinement", weight.device)
        latents, times = begin(
            self.scheduler, drawn, steps=published_times(config.steps), start=encoded, skip=config.first
        )
        captions = self.parts.captions(texts)
        if config.guidance != 1:
            captions = captions.after(self.negative.repeated(len(texts)))
        sizes = (config.pixels, config.pixels, 0, 0, config.target_pixels, config.target_pixels)
        given_too = self.parts.conditions(captions, sizes)

        def predict(given: Tensor, time: Tensor) -> Tensor:
            answer: Tensor = unet(given, time, **given_too).sample
            return answer

        return run_schedule(
            self.scheduler, predict, latents=latents, times=times, guidance=config.guidance, dtype=weight.dtype
        )


def load_refiner(
    folder: Path,
    config: RefineConfig | None = None,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> SdxlRefiner:
    """Load a local folder in the form of ``stable-diffusion-xl-base-1.0``.

    Raises
    ------
    WeightsError
        ``CHI-WT-077`` to ``CHI-WT-080``.
    """
    return SdxlRefiner(load_sdxl(folder, device=device, dtype=dtype), config or RefineConfig())
