"""OpenCLIP's patch tokens: which layer norm, which pixels, and the same numbers from either form of the weights."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from chiasm.data.errors import WeightsError
from chiasm.encoders.clip_images import normalised
from chiasm.encoders.open_clip_images import OWN_CONFIG, OWN_WEIGHTS, load_open_clip_images
from chiasm.encoders.target_spaces import SPACES
from chiasm.encoders.transformer_folder import quiet

CPU = torch.device("cpu")
PUBLISHED, EXACT = (
    replace(SPACES[name], tokens=4, width=32, pixels=28) for name in ("openclip-bigg-14", "openclip-bigg-14-exact")
)
VISION = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64, "projection_dim": 24,
    "image_size": 28, "patch_size": 14, "hidden_act": "gelu",
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("bigg") / "net"
    with quiet():
        model = CLIPVisionModelWithProjection(CLIPVisionConfig(**VISION))
        for weight in model.parameters():
            torch.nn.init.normal_(weight, std=0.3)
        model.save_pretrained(path)
    return path


def pixels() -> torch.Tensor:
    return torch.randint(0, 256, (3, 28, 28, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def test_patches_pass_the_post_norm_and_no_projection(folder: Path) -> None:
    encoder = load_open_clip_images(EXACT, folder, CPU)
    with torch.no_grad():
        last = encoder.model.vision_model(normalised(pixels().permute(0, 3, 1, 2))).last_hidden_state
        norm = encoder.model.vision_model.post_layernorm
        by_hand = torch.nn.functional.layer_norm(last, (32,), norm.weight, norm.bias, 1e-5)
    assert torch.allclose(encoder(pixels()), by_hand[:, 1:], atol=1e-5)
    assert torch.allclose(load_open_clip_images(EXACT, folder, CPU, norm=False)(pixels()), last[:, 1:], atol=1e-5)


def test_published_tokens_are_of_images_of_half_the_contrast(folder: Path) -> None:
    faint = pixels() // 2 * 2  # even values, so that halving them is exact
    seen = (faint / 2).to(torch.uint8) + 127
    published = load_open_clip_images(PUBLISHED, folder, CPU)(faint)
    exact = load_open_clip_images(EXACT, folder, CPU)
    assert torch.allclose(published, exact(seen), atol=0.15)  # 127 for 127.5
    assert (published - exact(faint)).abs().mean() > 5 * (published - exact(seen)).abs().mean()


def test_another_network_is_refused(folder: Path) -> None:
    for space in (SPACES["openclip-bigg-14"], replace(EXACT, tokens=5), replace(EXACT, width=24)):
        with pytest.raises(WeightsError) as caught:
            load_open_clip_images(space, folder, CPU)
        assert caught.value.code == "CHI-WT-072"


def own_form(folder: Path) -> Path:
    folder.mkdir()
    about = {
        "embed_dim": 24,
        "vision_cfg": {
            "image_size": 28,
            "layers": 2,
            "width": 32,
            "head_width": 16,
            "patch_size": 14,
            "mlp_ratio": 2.0,
        },
    }
    about["text_cfg"] = {"context_length": 7, "vocab_size": 50, "width": 16, "heads": 2, "layers": 1}
    (folder / OWN_CONFIG).write_text(json.dumps({"model_cfg": about}))
    return folder


def test_open_clips_own_form_without_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "open_clip.model", None)
    with pytest.raises(WeightsError) as caught:
        load_open_clip_images(EXACT, own_form(tmp_path / "own"), CPU)
    assert caught.value.code == "CHI-WT-076"


def renamed(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Name open_clip's vision weights as transformers does."""
    names = {
        "class_embedding": "embeddings.class_embedding", "positional_embedding": "embeddings.position_embedding.weight",
        "conv1.weight": "embeddings.patch_embedding.weight", "ln_pre": "pre_layrnorm", "ln_post": "post_layernorm",
    }  # fmt: skip
    made = {"visual_projection.weight": state["proj"].T.contiguous()}
    for name, value in state.items():
        if name.startswith("transformer.resblocks."):
            number, _, rest = name.removeprefix("transformer.resblocks.").partition(".")
            begin = f"vision_model.encoder.layers.{number}."
            if rest.startswith("attn.in_proj"):
                for part, piece in zip("qkv", value.chunk(3), strict=True):
                    made[f"{begin}self_attn.{part}_proj.{rest.removeprefix('attn.in_proj_')}"] = piece.contiguous()
                continue
            for old, new in (
                ("attn.out_proj", "self_attn.out_proj"),
                ("ln_1", "layer_norm1"),
                ("ln_2", "layer_norm2"),
                ("mlp.c_fc", "mlp.fc1"),
                ("mlp.c_proj", "mlp.fc2"),
            ):
                rest = rest.replace(old, new)
            made[begin + rest] = value
        elif name != "proj":
            for old, new in names.items():
                if name.startswith(old):
                    made["vision_model." + name.replace(old, new)] = value
    return made


def test_either_form_gives_the_same_tokens(tmp_path: Path) -> None:
    open_clip = pytest.importorskip("open_clip")
    own, other = own_form(tmp_path / "own"), tmp_path / "other"
    torch.manual_seed(0)
    model = open_clip.model.CLIP(**json.loads((own / OWN_CONFIG).read_text())["model_cfg"])
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    save_file(model.state_dict(), own / OWN_WEIGHTS)
    other.mkdir()
    (other / "config.json").write_text(json.dumps({"model_type": "clip_vision_model", **VISION}))
    save_file(renamed(model.visual.state_dict()), other / "model.safetensors", metadata={"format": "pt"})
    for norm in (True, False):
        ours, theirs = (load_open_clip_images(PUBLISHED, path, CPU, norm=norm)(pixels()) for path in (other, own))
        assert torch.allclose(ours, theirs, atol=1e-4)
    model.visual.output_tokens = True
    with torch.no_grad():
        _, tokens = model.visual.eval()(normalised(pixels().permute(0, 3, 1, 2), raised=True))
    assert torch.allclose(load_open_clip_images(PUBLISHED, own, CPU)(pixels()), tokens, atol=1e-5)
