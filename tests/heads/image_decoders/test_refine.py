"""Refinement: the authors' steps by hand, captions, batches."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from chiasm.heads.image_decoders.interface import image_noise
from chiasm.heads.image_decoders.refine import RefineConfig, SdxlRefiner, load_refiner


def config(**changes: object) -> RefineConfig:
    return RefineConfig(**{"steps": 6, "first": 3, "pixels": 16, "target_pixels": 32, "batch": 2, **changes})


def pictures() -> torch.Tensor:
    return torch.randint(0, 256, (2, 16, 16, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def by_hand(refiner: SdxlRefiner, images: torch.Tensor, texts: list[str], seed: int) -> torch.Tensor:
    """Go the last sigmas from the encoded picture on, as the authors' script does."""
    parts, indices = refiner.parts, [0, 1]
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    products = np.cumprod(1 - betas)
    times = np.linspace(999, 0, 6, endpoint=False).astype(int)
    sigmas = torch.tensor([*np.sqrt((1 - products[times]) / products[times]), 0.0], dtype=torch.float32)
    posterior = parts.vae.encode(images.permute(0, 3, 1, 2) / 127.5 - 1).latent_dist
    drawn = image_noise((4, 8, 8), seed=seed, indices=indices, purpose="posterior")
    z = (posterior.mean + posterior.std * drawn) * 0.13025
    x = z + image_noise((4, 8, 8), seed=seed, indices=indices, purpose="refinement") * sigmas[-4]
    answers = [parts.captions(["b d"] * 2), parts.captions(texts)]
    ids = torch.tensor([[16.0, 16, 0, 0, 32, 32]] * 2)
    for i in range(3, 6):
        noise = []
        for caption in answers:
            added = {"text_embeds": caption.pooled, "time_ids": ids}
            into = x / torch.sqrt(sigmas[i] ** 2 + 1)
            noise.append(
                parts.unet(into, int(times[i]), encoder_hidden_states=caption.tokens, added_cond_kwargs=added).sample
            )
        x = x + (sigmas[i + 1] - sigmas[i]) * (noise[0] + 5 * (noise[1] - noise[0]))
    made = parts.vae.decode(x / 0.13025).sample
    return ((made / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1)


def test_pictures_are_those_of_the_authors_script(sdxl_folder: Path) -> None:
    refiner = load_refiner(sdxl_folder, config(negative_prompt="b d"))
    made = refiner.refine(pictures(), ["a car", "c"], seed=4, indices=[0, 1])
    with torch.no_grad():
        expected = by_hand(refiner, pictures(), ["a car", "c"], 4)
    assert (made.int() - expected.int()).abs().max() <= 1
    assert made.float().std() > 5


def test_batches_do_not_matter_and_captions_do(sdxl_folder: Path) -> None:
    whole, one = (
        load_refiner(sdxl_folder, config(batch=b)).refine(pictures(), ["a", "b"], seed=1, indices=[8, 9])
        for b in (2, 1)
    )
    assert (whole.int() - one.int()).abs().max() <= 1
    other = load_refiner(sdxl_folder, config()).refine(pictures(), ["a", "car car"], seed=1, indices=[8, 9])
    assert torch.equal(other[0], whole[0])
    assert not torch.equal(other[1], whole[1])


def test_nothing_is_left_to_do_at_the_last_step(sdxl_folder: Path) -> None:
    refiner = load_refiner(sdxl_folder, config(first=6))
    kept = refiner.refine(pictures(), ["a", "b"], seed=1, indices=[0, 1])
    with torch.no_grad():
        posterior = refiner.parts.vae.encode(pictures().permute(0, 3, 1, 2) / 127.5 - 1).latent_dist
        noise = image_noise(tuple(posterior.mean.shape[1:]), seed=1, indices=[0, 1], purpose="posterior")
        expected = refiner.parts.vae.decode(posterior.mean + posterior.std * noise).sample / 2 + 0.5
    assert (kept.permute(0, 3, 1, 2) - expected.clamp(0, 1) * 255).abs().max() <= 1


def test_settings_and_mistakes(sdxl_folder: Path) -> None:
    default = RefineConfig()
    assert (default.steps, default.first, default.guidance, default.pixels, default.target_pixels) == (
        25,
        13,
        5.0,
        768,
        1024,
    )
    with pytest.raises(ValueError, match="first"):
        config(first=7)
    with pytest.raises(ValueError, match="caption"):
        load_refiner(sdxl_folder, config()).refine(pictures(), ["a"], seed=0, indices=[0, 1])
