"""Latents: scale, mode, sizes and way back; thumbnails against means by hand; folders that do not fit."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from PIL import Image

from chiasm.data.errors import WeightsError
from chiasm.encoders.target_spaces import SPACES, load_target
from chiasm.encoders.vae_latents import load_vae_latents

CPU = torch.device("cpu")
SPACE = replace(SPACES["sd-vae-224"], tokens=4, width=64, pixels=16, latent=(4, 8, 8))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("vae") / "vae"
    AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * 2,
        up_block_types=["UpDecoderBlock2D"] * 2,
        block_out_channels=[8, 8],
        layers_per_block=1,
        norm_num_groups=4,
        latent_channels=4,
        sample_size=16,
    ).save_pretrained(path)
    return path


def pixels(n: int = 3, size: int = 16) -> torch.Tensor:
    return torch.randint(0, 256, (n, size, size, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def test_latents_are_the_scaled_mode_of_signed_pixels(folder: Path) -> None:
    encoder = load_vae_latents(SPACE, folder, CPU)
    latents = encoder.space.as_latents(encoder(pixels()))
    values = pixels().permute(0, 3, 1, 2).float() / 255 * 2 - 1
    with torch.no_grad():
        moments = encoder.model.quant_conv(encoder.model.encoder(values))
    assert torch.allclose(latents, moments[:, :4] * 0.18215, atol=1e-6)
    assert torch.equal(encoder(pixels()), encoder(pixels()))  # no draw from the posterior
    assert not latents.is_inference()


def test_the_way_back_divides_by_the_scale(folder: Path) -> None:
    encoder = load_vae_latents(SPACE, folder, CPU)
    latents = encoder(pixels())
    with torch.no_grad():
        decoded = encoder.model.decode(latents.reshape(3, 4, 8, 8) / 0.18215).sample
    assert torch.allclose(encoder.images(latents), (decoded / 2 + 0.5).clamp(0, 1))
    assert torch.equal(encoder.images(latents), encoder.images(latents.reshape(3, 4, 8, 8)))


def test_other_sizes_are_resized(folder: Path) -> None:
    encoder = load_vae_latents(SPACE, folder, CPU)
    flat = torch.full((1, 40, 40, 3), 77, dtype=torch.uint8)
    assert torch.allclose(encoder(flat), encoder(flat[:, :16, :16]), atol=1e-6)


def code_of(folder: Path, **changes: object) -> str:
    with pytest.raises(WeightsError) as caught:
        load_vae_latents(replace(SPACE, **changes), folder, CPU)
    return caught.value.code


def test_folders_that_do_not_fit(folder: Path, tmp_path: Path) -> None:
    assert code_of(tmp_path) == "CHI-WT-074"
    assert code_of(folder, tokens=16) == "CHI-WT-072"
    assert code_of(folder, pixels=32) == "CHI-WT-072"
    copy = shutil.copytree(folder, tmp_path / "vae")
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "scaling_factor": 0.13025}))
    assert code_of(copy) == "CHI-WT-075"
    weights = copy / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-64])
    assert code_of(copy) == "CHI-WT-075"
    weights.rename(copy / "diffusion_pytorch_model.bin")
    assert code_of(copy) == "CHI-WT-074"


def test_thumbnails_are_means_of_cells() -> None:
    thumbnails = load_target("thumbnail-8", None)
    image = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    expected = image.reshape(2, 8, 8, 8, 8, 3).mean((2, 4)).transpose(0, 3, 1, 2) / 127.5 - 1
    latents = thumbnails.space.as_latents(thumbnails(torch.from_numpy(image)))
    assert np.allclose(latents.numpy(), expected, atol=1e-6)
    assert thumbnails.sha256 == ""


def test_thumbnails_come_back_by_bicubic_upsampling() -> None:
    thumbnails = load_target("thumbnail-8", None)
    small = np.random.default_rng(0).uniform(0.3, 0.7, (8, 8, 3)).astype(np.float32)
    latents = torch.from_numpy(small * 2 - 1).permute(2, 0, 1)[None].flatten(2)
    image = thumbnails.images(latents)[0].permute(1, 2, 0).numpy()
    inner = slice(8, -8)  # Pillow's cubic has another parameter and another rule at the border
    for channel in range(3):
        up = np.asarray(Image.fromarray(small[..., channel]).resize((64, 64), Image.Resampling.BICUBIC))
        assert np.abs(image[inner, inner, channel] - up[inner, inner]).max() < 0.05
    flat = thumbnails.images(torch.full((1, 3, 64), 3.0))
    assert torch.equal(flat, torch.ones(1, 3, 64, 64))  # values stay in 0 to 1


def test_pixels_of_another_form() -> None:
    with pytest.raises(ValueError, match="uint8"):
        load_target("thumbnail-8", None)(torch.zeros(1, 16, 24, 3, dtype=torch.uint8))
