"""Stable Diffusion XL's parts (Podell et al., ICLR 2024) from a local folder, and its caption conditions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .diffusers_folder import check_size, load_component, load_tokenizer


@dataclass(frozen=True, eq=False, kw_only=True)
class Captions:
    """What SDXL sees of captions.

    Parameters
    ----------
    tokens : Tensor, shape (B, 77, 2048)
        Of both text encoders, side by side.
    pooled : Tensor, shape (B, 1280)
        Of the second one.
    """

    tokens: Tensor
    pooled: Tensor

    def zeros(self) -> Captions:
        """Return SDXL's own form of no caption."""
        return Captions(tokens=torch.zeros_like(self.tokens), pooled=torch.zeros_like(self.pooled))

    def after(self, free: Captions) -> Captions:
        """Put the unconditional ones in front."""
        return Captions(tokens=torch.cat([free.tokens, self.tokens]), pooled=torch.cat([free.pooled, self.pooled]))

    def repeated(self, n: int) -> Captions:
        """Repeat one caption n times."""
        return Captions(tokens=self.tokens.expand(n, -1, -1), pooled=self.pooled.expand(n, -1))


class SdxlParts:
    """U-Net, auto-encoder and text encoders.

    Parameters
    ----------
    unet, vae : nn.Module
        Of diffusers; the auto-encoder in float32, as it overflows in float16.
    tokenizers, text_encoders : pairs
        Of transformers.
    """

    def __init__(self, unet: Any, vae: Any, tokenizers: tuple[Any, Any], text_encoders: tuple[Any, Any]) -> None:
        self.unet, self.vae, self.tokenizers, self.text_encoders = unet, vae, tokenizers, text_encoders

    @property
    def shrunk(self) -> int:
        """Pixels a latent, along a side."""
        return int(2 ** (len(self.vae.config.block_out_channels) - 1))

    @torch.no_grad()
    def captions(self, texts: Sequence[str]) -> Captions:
        """Encode captions: the last hidden state but one of both encoders, and the second one's embedding."""
        hidden, pooled = [], None
        for tokenizer, encoder in zip(self.tokenizers, self.text_encoders, strict=True):
            words = tokenizer(
                list(texts),
                padding="max_length",
                max_length=encoder.config.max_position_embeddings,
                truncation=True,
                return_tensors="pt",
            )
            out = encoder(words.input_ids.to(next(encoder.parameters()).device), output_hidden_states=True)
            hidden.append(out.hidden_states[-2])
            pooled = out[0]
        if pooled is None:
            raise ValueError("SDXL has two text encoders")
        return Captions(tokens=torch.cat(hidden, dim=-1), pooled=pooled)

    def conditions(self, captions: Captions, sizes: Sequence[int], images: Tensor | None = None) -> dict[str, Any]:
        """Return what the U-Net takes beside latents and time.

        Parameters
        ----------
        captions : Captions, of as many pictures as the latents
        sizes : six int
            Original height and width, top and left of the crop, target height and width.
        images : Tensor, shape (B, 1, d), optional
            Of an image adapter.
        """
        weight = next(self.unet.parameters())
        numbers = torch.tensor([list(sizes)], device=weight.device, dtype=weight.dtype)
        added: dict[str, Any] = {
            "text_embeds": captions.pooled.to(weight),
            "time_ids": numbers.expand(len(captions.pooled), -1),
        }
        if images is not None:
            added["image_embeds"] = [images.to(weight)]
        return {"encoder_hidden_states": captions.tokens.to(weight), "added_cond_kwargs": added}


def load_sdxl(folder: Path, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> SdxlParts:
    """Load a local folder in the form of ``stable-diffusion-xl-base-1.0``.

    Raises
    ------
    WeightsError
        ``CHI-WT-077`` to ``CHI-WT-080``.
    """
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    unet = load_component(folder, "unet", UNet2DConditionModel, device=device, dtype=dtype)
    check_size(folder, "the form of the added condition", unet.config.addition_embed_type, "text_time")
    first = load_component(folder, "text_encoder", CLIPTextModel, device=device, dtype=dtype)
    second = load_component(folder, "text_encoder_2", CLIPTextModelWithProjection, device=device, dtype=dtype)
    width = first.config.hidden_size + second.config.hidden_size
    check_size(folder, "the width of cross-attention", unet.config.cross_attention_dim, width)
    length = second.config.projection_dim + 6 * unet.config.addition_time_embed_dim
    check_size(folder, "the length of the added condition", unet.config.projection_class_embeddings_input_dim, length)
    vae = load_component(folder, "vae", AutoencoderKL, device=device)
    tokenizers = load_tokenizer(folder, "tokenizer"), load_tokenizer(folder, "tokenizer_2")
    return SdxlParts(unet, vae, tokenizers, (first, second))
