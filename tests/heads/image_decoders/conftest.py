"""Tiny pipelines with random weights in the form in which published ones lie on disk."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

WORDS = [
    "<|startoftext|>",
    "<|endoftext|>",
    *"abcdr",
    *(f"{letter}</w>" for letter in "abcdr"),
    "ca",
    "ca</w>",
    "car</w>",
]


@pytest.fixture(scope="session")
def write_tokenizer() -> Callable[[Path], None]:
    """Writes a tokenizer of 14 words."""

    def write(folder: Path) -> None:
        folder.mkdir(parents=True)
        (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(WORDS)}))
        (folder / "merges.txt").write_text("#version: 0.2\nc a\nca r</w>\n")
        about = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 8}
        (folder / "tokenizer_config.json").write_text(json.dumps(about))

    return write


@pytest.fixture(scope="session")
def write_text_encoder() -> Callable[..., None]:
    """Writes a text encoder, with or without projection."""

    def write(folder: Path, width: int, projection: int = 0) -> None:
        from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

        from chiasm.heads.image_decoders.diffusers_folder import quiet

        kind = CLIPTextModelWithProjection if projection else CLIPTextModel
        settings = CLIPTextConfig(
            vocab_size=len(WORDS), hidden_size=width, intermediate_size=32, num_hidden_layers=3, num_attention_heads=2,
            max_position_embeddings=8, projection_dim=projection or width, bos_token_id=0, eos_token_id=1, pad_token_id=1,
        )  # fmt: skip
        with quiet():
            kind(settings).save_pretrained(folder)

    return write


@pytest.fixture(scope="session")
def write_vae() -> Callable[..., None]:
    """Writes an auto-encoder that halves pictures once."""

    def write(folder: Path, scaling_factor: float = 0.18215) -> None:
        from diffusers import AutoencoderKL

        AutoencoderKL(
            down_block_types=["DownEncoderBlock2D"] * 2, up_block_types=["UpDecoderBlock2D"] * 2, block_out_channels=[8, 8],
            norm_num_groups=4, latent_channels=4, scaling_factor=scaling_factor,
        ).save_pretrained(folder)  # fmt: skip

    return write


@pytest.fixture(scope="session")
def sdxl_folder(
    tmp_path_factory: pytest.TempPathFactory,
    write_tokenizer: Callable[[Path], None],
    write_text_encoder: Callable[..., None],
    write_vae: Callable[..., None],
) -> Path:
    """Stable Diffusion XL with pictures of 16 pixels."""
    from diffusers import EulerDiscreteScheduler, UNet2DConditionModel

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("sdxl") / "sdxl"
    write_tokenizer(path / "tokenizer")
    write_tokenizer(path / "tokenizer_2")
    write_text_encoder(path / "text_encoder", 8)
    write_text_encoder(path / "text_encoder_2", 16, 12)
    write_vae(path / "vae", 0.13025)
    UNet2DConditionModel(
        sample_size=8, in_channels=4, out_channels=4, block_out_channels=(16, 16), layers_per_block=1, norm_num_groups=8,
        cross_attention_dim=24, attention_head_dim=2, down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), use_linear_projection=True, addition_embed_type="text_time",
        addition_time_embed_dim=4, projection_class_embeddings_input_dim=12 + 6 * 4,
    ).save_pretrained(path / "unet")  # fmt: skip
    EulerDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", timestep_spacing="leading", steps_offset=1
    ).save_pretrained(path / "scheduler")
    return path
