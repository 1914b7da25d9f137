"""SDXL's caption conditions against diffusers' pipeline, and folders of something else."""

import shutil
from pathlib import Path

import pytest
import torch

from chiasm.data.errors import WeightsError
from chiasm.heads.image_decoders.sdxl_parts import load_sdxl


def test_captions_are_those_of_the_published_pipeline(sdxl_folder: Path) -> None:
    from diffusers import StableDiffusionXLPipeline

    parts = load_sdxl(sdxl_folder)
    pipeline = StableDiffusionXLPipeline(
        vae=parts.vae, unet=parts.unet, scheduler=None, tokenizer=parts.tokenizers[0], tokenizer_2=parts.tokenizers[1],
        text_encoder=parts.text_encoders[0], text_encoder_2=parts.text_encoders[1], add_watermarker=False,
    )  # fmt: skip
    texts = ["a car", "b"]
    with torch.no_grad():
        tokens, free, pooled, free_pooled = pipeline.encode_prompt(texts, device="cpu")
    ours = parts.captions(texts)
    assert torch.allclose(ours.tokens, tokens, atol=1e-6)
    assert torch.allclose(ours.pooled, pooled, atol=1e-6)
    assert torch.equal(ours.zeros().tokens, free)
    both = ours.after(ours.zeros())
    assert torch.equal(both.pooled, torch.cat([free_pooled, pooled]))
    assert torch.equal(parts.captions(["b"]).repeated(3).tokens[2], ours.tokens[1])


def test_conditions(sdxl_folder: Path) -> None:
    parts = load_sdxl(sdxl_folder)
    given = parts.conditions(parts.captions(["a", "b"]), (16, 16, 0, 0, 32, 32), torch.ones(2, 1, 7))
    assert given["added_cond_kwargs"]["time_ids"].tolist() == [[16, 16, 0, 0, 32, 32]] * 2
    assert given["added_cond_kwargs"]["image_embeds"][0].shape == (2, 1, 7)
    assert "image_embeds" not in parts.conditions(parts.captions(["a"]), (16, 16, 0, 0, 32, 32))["added_cond_kwargs"]


def test_folders_of_something_else(sdxl_folder: Path, tmp_path: Path) -> None:
    def code(folder: Path) -> str:
        with pytest.raises(WeightsError) as caught:
            load_sdxl(folder)
        return caught.value.code

    copy = shutil.copytree(sdxl_folder, tmp_path / "copy")
    (copy / "tokenizer_2" / "vocab.json").write_text("{")
    assert code(copy) == "CHI-WT-078"
    shutil.rmtree(copy / "tokenizer_2")
    assert code(copy) == "CHI-WT-077"
    shutil.rmtree(copy / "text_encoder")
    shutil.copytree(copy / "text_encoder_2", copy / "text_encoder")
    assert code(copy) == "CHI-WT-080"
    shutil.rmtree(copy / "unet")
    shutil.copytree(copy / "vae", copy / "unet")
    assert code(copy) in ("CHI-WT-078", "CHI-WT-080")
