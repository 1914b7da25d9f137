"""CLIP's targets: preprocessing against transformers' own, normalisations against diffusers' and by hand, bad folders."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import CLIPConfig, CLIPModel, CLIPVisionModelWithProjection
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from chiasm.data.errors import WeightsError
from chiasm.encoders.clip_images import load_clip_images, normalised, square_pixels
from chiasm.encoders.target_spaces import SPACES
from chiasm.encoders.transformer_folder import quiet

CPU = torch.device("cpu")
SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "projection_dim": 24,
}
VISION = {**SIZES, "image_size": 28, "patch_size": 14}
TEXT = {
    **SIZES,
    "vocab_size": 60,
    "max_position_embeddings": 9,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
TOKENS = {
    "versatile": (5, 24),
    "hidden": (5, 32),
    "hidden-patches": (4, 32),
    "embedding": (1, 24),
    "unit-embedding": (1, 24),
}


def space(layer: str):
    tokens, width = TOKENS[layer]
    return replace(SPACES["clip-vit-l14-vd"], tokens=tokens, width=width, pixels=28, layer=layer)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("clip") / "net"
    with quiet():
        model = CLIPModel(CLIPConfig(text_config=TEXT, vision_config=VISION, projection_dim=24))
        torch.nn.init.normal_(model.vision_model.post_layernorm.weight)  # ones would hide where the norm stands
        model.save_pretrained(path)
    return path


def pixels(n: int = 3, size: int = 28) -> torch.Tensor:
    return torch.randint(0, 256, (n, size, size, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("shape", [(224, 224), (425, 425), (300, 224), (100, 160), (32, 32)])
def test_pixels_are_those_of_the_published_processor(shape: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    expected = CLIPImageProcessorPil()(images=[image], return_tensors="pt").pixel_values
    ours = normalised(square_pixels(torch.from_numpy(image)[None], 224))
    different = (ours - expected).abs() > 1e-5
    assert different.float().mean() < 3e-4  # where a value lies half way between two whole numbers
    assert (ours - expected).abs().max() < 1.05 / 255 / 0.26


def test_raised_pixels_have_half_the_contrast() -> None:
    planes = torch.tensor([0, 255], dtype=torch.uint8)[None, None, None].expand(1, 3, 1, 2)
    low, high = normalised(planes, raised=True)[0, 0, 0]
    assert low == pytest.approx((0.5 - 0.48145466) / 0.26862954)
    assert high == pytest.approx((1 - 0.48145466) / 0.26862954)


@pytest.mark.parametrize("bad", [torch.zeros(1, 28, 28, 3), torch.zeros(1, 3, 28, 28, dtype=torch.uint8)])
def test_other_pixels_are_refused(bad: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="uint8"):
        square_pixels(bad, 28)


def test_tokens_in_the_normalisation_of_versatile_diffusion(folder: Path) -> None:
    from diffusers.pipelines.deprecated.versatile_diffusion import VersatileDiffusionDualGuidedPipeline as Published

    encoder = load_clip_images(space("versatile"), folder, CPU)

    class Pipeline:  # what the method of diffusers' pipeline reads of its pipeline
        image_encoder = encoder.model

        @staticmethod
        def image_feature_extractor(images: torch.Tensor, **_: object) -> object:
            return type("Batch", (), {"pixel_values": normalised(images.permute(0, 3, 1, 2))})

    Pipeline.image_encoder.dtype  # noqa: B018 - it has one
    prompt = pixels()
    with torch.no_grad():
        expected = torch.cat([Published._encode_image_prompt(Pipeline, image[None], CPU, 1, False) for image in prompt])
    tokens = encoder(prompt)
    assert torch.allclose(tokens, expected, atol=1e-6)
    assert torch.allclose(tokens[:, 0].norm(dim=-1), torch.ones(3), atol=1e-5)
    assert not torch.allclose(tokens[:, 1].norm(dim=-1), torch.ones(3), atol=1e-2)  # the class token's norm for all


def test_hidden_states_are_those_before_the_last_layer(folder: Path) -> None:
    encoder = load_clip_images(space("hidden"), folder, CPU)
    tokens, patches = encoder(pixels()), load_clip_images(space("hidden-patches"), folder, CPU)(pixels())
    assert torch.equal(tokens[:, 1:], patches)
    tower = encoder.model.vision_model
    with torch.no_grad():
        last = tower(normalised(pixels().permute(0, 3, 1, 2))).last_hidden_state
        assert torch.allclose(tower.encoder.layers[-1](tokens, attention_mask=None), last, atol=1e-5)


def test_embeddings_with_and_without_their_norm(folder: Path) -> None:
    raw = load_clip_images(space("embedding"), folder, CPU)(pixels())
    unit = load_clip_images(space("unit-embedding"), folder, CPU)(pixels())
    with quiet():
        whole = CLIPModel.from_pretrained(folder)
    with torch.no_grad():
        expected = whole.get_image_features(normalised(pixels().permute(0, 3, 1, 2))).pooler_output
    assert torch.allclose(raw[:, 0], expected, atol=1e-6)
    assert torch.allclose(unit, raw / raw.norm(dim=-1, keepdim=True), atol=1e-6)


def test_the_tower_alone_gives_the_same(folder: Path, tmp_path: Path) -> None:
    with quiet():
        CLIPVisionModelWithProjection.from_pretrained(folder).save_pretrained(tmp_path / "tower")
    alone = load_clip_images(space("versatile"), tmp_path / "tower", CPU)
    assert torch.equal(alone(pixels()), load_clip_images(space("versatile"), folder, CPU)(pixels()))


def test_batches_do_not_matter(folder: Path) -> None:
    encoder = load_clip_images(space("versatile"), folder, CPU)
    whole = encoder(pixels(4))
    assert torch.allclose(whole, torch.cat([encoder(pixels(4)[i : i + 1]) for i in range(4)]), atol=1e-6)
    assert not whole.is_inference()  # or a network could not be trained on it
    assert not any(p.requires_grad for p in encoder.model.parameters())


def code_of(layer: str, path: Path, **changes: int) -> str:
    with pytest.raises(WeightsError) as caught:
        load_clip_images(replace(space(layer), **changes), path, CPU)
    return caught.value.code


def test_folders_that_do_not_fit(folder: Path, tmp_path: Path) -> None:
    assert code_of("versatile", tmp_path / "none") == "CHI-WT-030"
    assert code_of("versatile", folder, width=768) == "CHI-WT-072"
    assert code_of("hidden", folder, tokens=257) == "CHI-WT-072"
    assert code_of("versatile", folder, pixels=224) == "CHI-WT-031"
    copy = shutil.copytree(folder, tmp_path / "copy")
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert code_of("versatile", copy) == "CHI-WT-034"
    weights.rename(copy / "pytorch_model.bin")
    assert code_of("versatile", copy) == "CHI-WT-033"
    (copy / "config.json").write_text('{"model_type": "bert"}')
    assert code_of("versatile", copy) == "CHI-WT-032"
    (copy / "config.json").write_text('{"model_type": "clip_vision_model", "patch_size": 0}')
    assert code_of("versatile", copy) == "CHI-WT-031"


def test_a_missing_projection_matters_only_where_it_is_used(folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    copy = shutil.copytree(folder, tmp_path / "copy")
    kept = {k: v for k, v in load_file(folder / "model.safetensors").items() if not k.startswith("visual_projection")}
    save_file(kept, copy / "model.safetensors", metadata={"format": "pt"})
    assert code_of("versatile", copy) == "CHI-WT-034"
    assert torch.equal(
        load_clip_images(space("hidden"), copy, CPU)(pixels()), load_clip_images(space("hidden"), folder, CPU)(pixels())
    )
