"""Versatile Diffusion's image branch, from CLIP tokens to 512 x 512 pictures: the decoder of MindEye and MindBridge.

Xu et al., ICCV 2023, with diffusers' networks and solver; steps, guidance and conditions as Scotti et al., NeurIPS 2023
(UniPC, 20 steps, guidance 3.5, no text) and Wang et al., CVPR 2024 (text share 0.5, guidance 5): the text tokens stand in
front of the image tokens (77 + 257), and all are zero where nothing is conditioned.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .diffusers_folder import check_size, load_component, load_scheduler
from .interface import check_request, to_pixels
from .latent_sampling import Noise, batches, begin, decoded, first_step, run_schedule, start_latents


@dataclass(frozen=True, kw_only=True)
class VersatileDiffusionConfig:
    """How it samples.

    Parameters
    ----------
    steps : int
        Of UniPC.
    guidance : float
        Weight of classifier-free guidance; 1 is none.
    text_share : float
        Of the text tokens' cross-attention, 0..1. At 0 only the image branch is loaded and run: the same pictures in
        half the time.
    renormalise : bool
        Divide image tokens by the norm of their class token, as the published scripts do with predicted ones.
    tokens, width : int
        Shape of the image tokens.
    text_tokens : int
        Number of text tokens, of the same width.
    batch : int
        Pictures at once.
    """

    steps: int = 20
    guidance: float = 3.5
    text_share: float = 0.0
    renormalise: bool = True
    tokens: int = 257
    width: int = 768
    text_tokens: int = 77
    batch: int = 4

    def __post_init__(self) -> None:
        """Refuse impossible settings; ValueError."""
        if self.steps < 1 or self.batch < 1 or not 0 <= self.text_share <= 1:
            raise ValueError(f"steps and batch from 1, text_share in 0..1; got {self}")


class VersatileDiffusion:
    """An `ImageDecoder`.

    Parameters
    ----------
    unet : nn.Module
        The image branch, or where text has a share the two branches together.
    vae : nn.Module
        Diffusers' ``AutoencoderKL``, in float32.
    scheduler : diffusers' scheduler
    config : VersatileDiffusionConfig
    """

    target = "clip-vit-l14-vd"

    def __init__(self, unet: nn.Module, vae: nn.Module, scheduler: Any, config: VersatileDiffusionConfig) -> None:
        self.unet, self.vae, self.scheduler, self.config = unet, vae, scheduler, config

    @property
    def resolution(self) -> int:
        """Side of a picture."""
        unet, vae = self.unet, self.vae
        return int(unet.config.sample_size * 2 ** (len(vae.config.block_out_channels) - 1))  # type: ignore[union-attr,arg-type]

    @property
    def settings(self) -> Mapping[str, Any]:
        """For reports."""
        return {"kind": "versatile-diffusion", "scheduler": "UniPC", **asdict(self.config)}

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
        """Decode image tokens (B, 257, 768) and, where text has a share, text tokens (B, 77, 768); see `ImageDecoder`."""
        config = self.config
        check_request(
            tokens, (config.tokens, config.width), start=start, start_strength=start_strength, indices=indices
        )
        if config.text_share and (text is None or tuple(text.shape) != (len(tokens), config.text_tokens, config.width)):
            raise ValueError(f"text tokens (B, {config.text_tokens}, {config.width}) are needed where text has a share")
        parts = [torch.zeros((0, self.resolution, self.resolution, 3), dtype=torch.uint8)]
        for part in batches(len(tokens), config.batch):
            noise = Noise(seed=seed, indices=indices[part])
            conditions = self.conditions(tokens[part], None if text is None else text[part])
            latents = self._latents(conditions, None if start is None else start[part], start_strength, noise)
            parts.append(to_pixels(decoded(self.vae, latents) / 2 + 0.5))
        return torch.cat(parts)

    def conditions(self, tokens: Tensor, text: Tensor | None) -> Tensor:
        """Return what cross-attention sees: (B, 257, 768), or with text in front (B, 77 + 257, 768)."""
        parameter = next(self.unet.parameters())
        tokens = tokens.to(parameter.device).float()
        if self.config.renormalise:
            tokens = tokens / (tokens[:, :1].norm(dim=-1, keepdim=True) + 1e-6)
        if self.config.text_share and text is not None:
            tokens = torch.cat([text.to(tokens), tokens], dim=1)
        return tokens.to(parameter.dtype)

    def _latents(self, conditions: Tensor, start: Tensor | None, strength: float, noise: Noise) -> Tensor:
        unet: Any = self.unet
        config, side = self.config, unet.config.sample_size
        drawn = noise.draw((unet.config.in_channels, side, side), "latents", conditions.device)
        from_start = None if start is None else start_latents(self.vae, start, self.resolution, noise)
        skip = first_step(config.steps, strength)
        latents, times = begin(self.scheduler, drawn, steps=config.steps, start=from_start, skip=skip)
        if config.guidance != 1:
            conditions = torch.cat([torch.zeros_like(conditions), conditions])

        def predict(given: Tensor, time: Tensor) -> Tensor:
            answer: Tensor = unet(given, time, encoder_hidden_states=conditions).sample
            return answer

        return run_schedule(
            self.scheduler, predict, latents=latents, times=times, guidance=config.guidance, dtype=conditions.dtype
        )


def load_versatile_diffusion(
    folder: Path,
    config: VersatileDiffusionConfig | None = None,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> VersatileDiffusion:
    """Load ``image_unet``, ``vae``, ``scheduler`` and, where text has a share, ``text_unet`` of a local folder.

    Raises
    ------
    WeightsError
        ``CHI-WT-077`` to ``CHI-WT-080``.
    """
    from diffusers import AutoencoderKL, UNet2DConditionModel, UniPCMultistepScheduler

    config = config or VersatileDiffusionConfig()
    vae = load_component(folder, "vae", AutoencoderKL, device=device)
    scheduler = load_scheduler(folder, UniPCMultistepScheduler)
    unet = load_component(folder, "image_unet", UNet2DConditionModel, dtype=dtype)
    check_size(folder, "the width of cross-attention", unet.config.cross_attention_dim, config.width)
    if config.text_share:
        _add_text_branch(folder, unet, dtype, config)
    return VersatileDiffusion(unet.to(device), vae, scheduler, config)


class SharedAttention(nn.Module):
    """The same place of the two branches: each attends to its own tokens, and what they add is shared out.

    Diffusers' ``DualTransformer2DModel`` does this too, but no longer takes what its own U-Net hands to it.

    Parameters
    ----------
    image, text : nn.Module
        Diffusers' ``Transformer2DModel``, one of each branch.
    text_share : float
    text_tokens : int
        How many of the tokens, in front, are text.
    """

    def __init__(self, image: nn.Module, text: nn.Module, *, text_share: float, text_tokens: int) -> None:
        super().__init__()
        self.image, self.text, self.text_share, self.text_tokens = image, text, text_share, text_tokens

    def forward(
        self, hidden: Tensor, encoder_hidden_states: Tensor, return_dict: bool = False, **_: object
    ) -> tuple[Tensor]:
        """Return the features (B, c, h, w), alone in a tuple."""
        words, patches = encoder_hidden_states[:, : self.text_tokens], encoder_hidden_states[:, self.text_tokens :]
        text = self.text(hidden, encoder_hidden_states=words, return_dict=False)[0]
        image = self.image(hidden, encoder_hidden_states=patches, return_dict=False)[0]
        return (self.text_share * text + (1 - self.text_share) * image,)


def _add_text_branch(folder: Path, unet: Any, dtype: torch.dtype, config: VersatileDiffusionConfig) -> None:
    """Put the text branch's attention beside the image branch's; the rest of the text branch is not used."""
    from diffusers.models.transformers.transformer_2d import Transformer2DModel
    from diffusers.pipelines.deprecated.versatile_diffusion.modeling_text_unet import UNetFlatConditionModel

    text_unet = load_component(folder, "text_unet", UNetFlatConditionModel, dtype=dtype)
    check_size(folder, "the width of the text branch", text_unet.config.cross_attention_dim, config.width)
    places = [name for name, module in unet.named_modules() if isinstance(module, Transformer2DModel)]
    theirs = [name for name, module in text_unet.named_modules() if isinstance(module, Transformer2DModel)]
    check_size(folder, "the number of attention blocks of the text branch", len(theirs), len(places))
    for name in places:
        parent, _, index = name.rpartition(".")
        unet.get_submodule(parent)[int(index)] = SharedAttention(
            unet.get_submodule(name),
            text_unet.get_submodule(name),
            text_share=config.text_share,
            text_tokens=config.text_tokens,
        )
