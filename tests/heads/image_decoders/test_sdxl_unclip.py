"""SDXL unCLIP: published times, sizes and conditions; the authors' sampling by hand; conversion; batches; folders."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel

from chiasm.data.errors import WeightsError
from chiasm.heads.image_decoders.interface import image_noise
from chiasm.heads.image_decoders.sdxl_unclip import (
    SdxlUnclip,
    SdxlUnclipConfig,
    load_sdxl_unclip,
    published_times,
    size_vector,
)

N, D, ADDED = 3, 24, 16


def config(**changes: object) -> SdxlUnclipConfig:
    return SdxlUnclipConfig(
        **{"steps": 5, "tokens": N, "width": D, "added": ADDED, "pixels": 16, "batch": 3, **changes}
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("unclip")
    UNet2DConditionModel(
        sample_size=8, in_channels=4, out_channels=4, block_out_channels=(16, 16), layers_per_block=1, norm_num_groups=8,
        cross_attention_dim=D, attention_head_dim=2, down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), use_linear_projection=True, class_embed_type="projection",
        projection_class_embeddings_input_dim=ADDED,
    ).save_pretrained(path / "unet")  # fmt: skip
    AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * 2, up_block_types=["UpDecoderBlock2D"] * 2, block_out_channels=[8, 8],
        norm_num_groups=4, latent_channels=4, scaling_factor=0.13025,
    ).save_pretrained(path / "vae")  # fmt: skip
    return path


def tokens(n: int = 3) -> torch.Tensor:
    return torch.randn(n, N, D, generator=torch.Generator().manual_seed(1))


def by_hand(decoder: SdxlUnclip, given: torch.Tensor, steps: int, seed: int, indices: list[int]) -> torch.Tensor:
    """Sample as the authors' script does, in its own order: sigmas, division, multiplication, Euler steps."""

    def draw(shape: tuple[int, ...], purpose: str) -> torch.Tensor:
        return image_noise(shape, seed=seed, indices=indices, purpose=purpose)

    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    products = np.cumprod(1 - betas)
    times = np.linspace(999, 0, steps, endpoint=False).astype(int)
    sigmas = torch.tensor([*np.sqrt((1 - products[times]) / products[times]), 0.0], dtype=torch.float32)
    noise = draw((4, 8, 8), "latents") + 0.04 * draw((1, 1, 1), "offset")
    x = (draw((4, 8, 8), "beginning") + noise * sigmas[0]) / torch.sqrt(1 + sigmas[0] ** 2)
    x = x * torch.sqrt(1 + sigmas[0] ** 2)
    vector = size_vector(16, ADDED).expand(len(given), -1)
    for i, time in enumerate(times):
        denoised = []
        for context in (draw((N, D), "free"), given):
            into = x / torch.sqrt(sigmas[i] ** 2 + 1)
            answer = decoder.unet(into, int(time), encoder_hidden_states=context, class_labels=vector).sample
            denoised.append(x - sigmas[i] * answer)
        guided = denoised[0] + 5.0 * (denoised[1] - denoised[0])
        x = x + (sigmas[i + 1] - sigmas[i]) * (x - guided) / sigmas[i]
    made = decoder.vae.decode(x / 0.13025).sample
    return ((made * 0.8 + 0.2).clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1)


def test_pictures_are_those_of_the_authors_script(folder: Path) -> None:
    decoder = load_sdxl_unclip(folder, config())
    with torch.no_grad():
        expected = by_hand(decoder, tokens(), 5, 9, [3, 1, 4])
    made = decoder.decode(tokens(), seed=9, indices=[3, 1, 4])
    assert (made.int() - expected.int()).abs().max() <= 1
    assert made.float().std() > 5


def test_published_times() -> None:
    times = published_times(38)
    assert times[:3] == [999, 972, 946]
    assert times[-1] == 26
    assert len(set(times)) == 38


def test_vector_is_of_the_size_twice_and_of_no_crop() -> None:
    vector = size_vector(768, 1024)[0].reshape(4, 256)
    for row, number in zip(vector, (768, 768, 0, 0), strict=True):
        for k in (0, 5, 127):
            angle = number * math.exp(-math.log(10_000) * k / 128)
            assert row[k].item() == pytest.approx(math.cos(angle), abs=1e-3)
            assert row[128 + k].item() == pytest.approx(math.sin(angle), abs=1e-3)


def test_published_settings() -> None:
    default = SdxlUnclipConfig()
    assert (default.tokens, default.width, default.added, default.pixels) == (256, 1664, 1024, 768)
    assert (default.steps, default.guidance, default.offset_noise, default.free) == (38, 5.0, 0.04, "noise")
    for wrong in ({"steps": 0}, {"steps": 1001}, {"free": "mean"}, {"target": "clip-vit-l14-vd"}, {"added": 6}):
        with pytest.raises(ValueError, match="got"):
            config(**wrong)


def test_exact_tokens_are_read_the_usual_way(folder: Path) -> None:
    faint = load_sdxl_unclip(folder, config())
    exact = load_sdxl_unclip(folder, config(target="openclip-bigg-14-exact"))
    assert (faint.target, exact.target) == ("openclip-bigg-14", "openclip-bigg-14-exact")
    one, other = (d.decode(tokens(), seed=0, indices=range(3)).float() / 255 for d in (faint, exact))
    inside = (one > 0.02) & (one < 0.98) & (other > 0.02) & (other < 0.98)
    assert inside.float().mean() > 0.2
    assert torch.allclose(((one - 0.2) / 0.8)[inside], ((other - 0.5) / 0.5)[inside], atol=0.01)


def test_batches_do_not_matter(folder: Path) -> None:
    whole, one = (
        load_sdxl_unclip(folder, config(batch=batch)).decode(tokens(), seed=1, indices=[7, 8, 9]) for batch in (3, 1)
    )
    assert (whole.int() - one.int()).abs().max() <= 1
    assert torch.equal(one[1:2], load_sdxl_unclip(folder, config(batch=1)).decode(tokens()[1:2], seed=1, indices=[8]))


def test_guidance_is_against_noise_or_zeros(folder: Path) -> None:
    made = [
        load_sdxl_unclip(folder, config(**c)).decode(tokens(), seed=1, indices=range(3)).float()
        for c in ({}, {"free": "zeros"}, {"guidance": 1.0}, {"offset_noise": 0.0})
    ]
    for i in range(4):
        for j in range(i):
            assert not torch.equal(made[i], made[j])


def test_start(folder: Path) -> None:
    decoder = load_sdxl_unclip(folder, config())
    start = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(3))
    kept = decoder.decode(tokens(), start=start, start_strength=0.0, seed=1, indices=range(3))
    with torch.no_grad():
        posterior = decoder.vae.encode(start * 2 - 1).latent_dist
        noise = image_noise(tuple(posterior.mean.shape[1:]), seed=1, indices=range(3), purpose="posterior")
        expected = (decoder.vae.decode(posterior.mean + posterior.std * noise).sample * 0.8 + 0.2).clamp(0, 1) * 255
    assert (kept.permute(0, 3, 1, 2) - expected).abs().max() <= 1
    small = torch.nn.functional.interpolate(start, size=8, mode="area")
    assert decoder.decode(tokens(), start=small, seed=1, indices=range(3)).shape == (3, 16, 16, 3)


@pytest.mark.parametrize("change", [{"width": 1664}, {"added": 1024}])
def test_other_sizes_are_refused(folder: Path, change: dict[str, int]) -> None:
    with pytest.raises(WeightsError) as caught:
        load_sdxl_unclip(folder, config(**change))
    assert caught.value.code == "CHI-WT-080"
    assert str(next(iter(change.values()))) in caught.value.message


def test_plain_sdxl_is_refused(folder: Path, tmp_path: Path) -> None:
    import shutil

    copy = shutil.copytree(folder, tmp_path / "copy")
    about = json.loads((copy / "unet" / "config.json").read_text())
    (copy / "unet" / "config.json").write_text(json.dumps({**about, "class_embed_type": None}))
    with pytest.raises(WeightsError) as caught:
        load_sdxl_unclip(copy, config())
    assert caught.value.code in ("CHI-WT-078", "CHI-WT-080")
