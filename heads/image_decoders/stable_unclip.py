"""Stable unCLIP: one CLIP ViT-H image embedding to a picture, by Stable Diffusion 2.1 (Ramesh et al., 2022; Rombach et al., CVPR 2022).

The embedding, noised to a level that is told, stands beside the time; cross-attention sees an empty caption. Diffusers'
``StableUnCLIPImg2ImgPipeline`` does the same with its own noise, which depends on the batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .diffusers_folder import check_size, load_component, load_scheduler, load_tokenizer
from .interface import check_request, to_pixels
from .latent_sampling import Noise, batches, begin, decoded, first_step, run_schedule, start_latents


@dataclass(frozen=True, kw_only=True)
class StableUnclipConfig:
    """How it samples.

    Parameters
    ----------
    steps : int
        Of UniPC.
    guidance : float
        1 is none.
    noise_level : int
        Training step that the embedding is noised to: more gives more variety.
    prompt : str
        What cross-attention sees.
    width : int
        Of the embedding.
    batch : int
        Pictures at once.
    """

    steps: int = 20
    guidance: float = 10.0
    noise_level: int = 0
    prompt: str = ""
    width: int = 1024
    batch: int = 2

    def __post_init__(self) -> None:
        """Refuse impossible settings; ValueError."""
        if self.steps < 1 or self.batch < 1 or self.noise_level < 0:
            raise ValueError(f"steps and batch from 1, noise_level from 0; got {self}")


class StableUnclip:
    """An `ImageDecoder`.

    Parameters
    ----------
    parts : mapping of str to networks and schedulers
        ``unet``, ``vae``, ``scheduler``, ``image_normalizer`` and ``image_noising_scheduler`` of diffusers.
    captions : Tensor, shape (2, M, d)
        What cross-attention sees: unconditional, and the prompt.
    config : StableUnclipConfig
    """

    target = "clip-vit-h14-global"

    def __init__(self, parts: Mapping[str, Any], captions: Tensor, config: StableUnclipConfig) -> None:
        self.parts, self.captions, self.config = parts, captions, config

    @property
    def resolution(self) -> int:
        """Side of a picture."""
        shrunk = 2 ** (len(self.parts["vae"].config.block_out_channels) - 1)
        return int(self.parts["unet"].config.sample_size * shrunk)

    @property
    def settings(self) -> Mapping[str, Any]:
        """For reports."""
        return {"kind": "stable-unclip", "scheduler": "UniPC", **asdict(self.config)}

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
        """Decode embeddings (B, 1, 1024) that keep their norm; caption tokens are not looked at. See `ImageDecoder`."""
        check_request(tokens, (1, self.config.width), start=start, start_strength=start_strength, indices=indices)
        parts = [torch.zeros((0, self.resolution, self.resolution, 3), dtype=torch.uint8)]
        for part in batches(len(tokens), self.config.batch):
            noise = Noise(seed=seed, indices=indices[part])
            latents = self._latents(tokens[part, 0], None if start is None else start[part], start_strength, noise)
            parts.append(to_pixels(decoded(self.parts["vae"], latents) / 2 + 0.5))
        return torch.cat(parts)

    def noised(self, embeddings: Tensor, noise: Noise) -> Tensor:
        """Return (B, 2 * d): the embedding, noised in its standardised form, and the level as sines and cosines."""
        from diffusers.models.embeddings import get_timestep_embedding

        normalizer = self.parts["image_normalizer"]
        embeddings = embeddings.to(normalizer.mean.device).float()
        level = torch.full((len(embeddings),), self.config.noise_level, device=embeddings.device)
        drawn = noise.draw((self.config.width,), "embedding", embeddings.device)
        mixed = self.parts["image_noising_scheduler"].add_noise(normalizer.scale(embeddings), drawn, level)
        told = get_timestep_embedding(level, self.config.width, flip_sin_to_cos=True, downscale_freq_shift=0)
        return torch.cat([normalizer.unscale(mixed), told], dim=1)

    def _latents(self, embeddings: Tensor, start: Tensor | None, strength: float, noise: Noise) -> Tensor:
        unet, config = self.parts["unet"], self.config
        weight = next(unet.parameters())
        drawn = noise.draw((unet.config.in_channels,) + (unet.config.sample_size,) * 2, "latents", weight.device)
        from_start = None if start is None else start_latents(self.parts["vae"], start, self.resolution, noise)
        skip = first_step(config.steps, strength)
        latents, times = begin(self.parts["scheduler"], drawn, steps=config.steps, start=from_start, skip=skip)
        labels = self.noised(embeddings, noise).to(weight)
        context = self.captions.to(weight)
        if config.guidance != 1:
            labels = torch.cat([torch.zeros_like(labels), labels])
            context = context.repeat_interleave(len(drawn), 0)
        else:
            context = context[1:].expand(len(drawn), -1, -1)

        def predict(given: Tensor, time: Tensor) -> Tensor:
            answer: Tensor = unet(given, time, encoder_hidden_states=context, class_labels=labels).sample
            return answer

        return run_schedule(
            self.parts["scheduler"],
            predict,
            latents=latents,
            times=times,
            guidance=config.guidance,
            dtype=weight.dtype,
        )


def load_stable_unclip(
    folder: Path,
    config: StableUnclipConfig | None = None,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> StableUnclip:
    """Load a local folder in the form of ``stable-diffusion-2-1-unclip``; its image encoder is not needed.

    Raises
    ------
    WeightsError
        ``CHI-WT-077`` to ``CHI-WT-080``.
    """
    from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel, UniPCMultistepScheduler
    from diffusers.pipelines.stable_diffusion.stable_unclip_image_normalizer import StableUnCLIPImageNormalizer
    from transformers import CLIPTextModel

    config = config or StableUnclipConfig()
    unet = load_component(folder, "unet", UNet2DConditionModel, device=device, dtype=dtype)
    length = unet.config.projection_class_embeddings_input_dim
    check_size(folder, "the length of embedding and noise level", length, 2 * config.width)
    normalizer = load_component(folder, "image_normalizer", StableUnCLIPImageNormalizer).to(device, torch.float32)
    check_size(folder, "the width of the normaliser", normalizer.mean.shape[1], config.width)
    text_encoder = load_component(folder, "text_encoder", CLIPTextModel)
    check_size(folder, "the width of cross-attention", unet.config.cross_attention_dim, text_encoder.config.hidden_size)
    captions = _captions(load_tokenizer(folder, "tokenizer"), text_encoder, ["", config.prompt])
    parts = {
        "unet": unet,
        "vae": load_component(folder, "vae", AutoencoderKL, device=device),
        "scheduler": load_scheduler(folder, UniPCMultistepScheduler),
        "image_normalizer": normalizer.requires_grad_(False),
        "image_noising_scheduler": load_scheduler(folder, DDPMScheduler, name="image_noising_scheduler"),
    }
    return StableUnclip(parts, captions, config)


@torch.no_grad()
def _captions(tokenizer: Any, encoder: nn.Module, texts: list[str]) -> Tensor:
    words = tokenizer(
        texts,
        padding="max_length",
        max_length=encoder.config.max_position_embeddings,  # type: ignore[union-attr]
        truncation=True,
        return_tensors="pt",
    )
    hidden: Tensor = encoder(words.input_ids).last_hidden_state
    return hidden
