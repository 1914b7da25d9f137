"""Decoders by name: only those of the list, settings checked all at once, the embedded one in the common form."""

from __future__ import annotations

import inspect
import json
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from chiasm.data.errors import WeightsError
from chiasm.heads.image_decoders.build import KINDS, load_decoder
from chiasm.heads.image_decoders.interface import ImageDecoder
from chiasm.heads.image_decoders.ip_adapter_sdxl import IpAdapterSdxl
from chiasm.heads.image_decoders.sdxl_unclip import SdxlUnclip
from chiasm.heads.image_decoders.small_diffusion import SmallDiffusionConfig, SmallDiffusionDecoder
from chiasm.heads.image_decoders.small_unet import SmallUNet, SmallUNetConfig
from chiasm.heads.image_decoders.stable_unclip import StableUnclip
from chiasm.heads.image_decoders.versatile_diffusion import VersatileDiffusion


@pytest.fixture
def small(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    path = tmp_path
    config = SmallUNetConfig()
    network = SmallUNet(config)
    torch.nn.init.normal_(network.image_out.weight, std=0.1)
    save_file(network.state_dict(), path / "model.safetensors")
    (path / "config.json").write_text(json.dumps({"kind": "small-image-decoder", "parameters": asdict(config)}))
    return path


def code(kind: str, folder: Path, **parameters: object) -> tuple[str, str]:
    with pytest.raises(WeightsError) as caught:
        load_decoder(kind, folder, parameters=parameters)
    return caught.value.code, str(caught.value)


def test_only_kinds_of_the_list(tmp_path: Path) -> None:
    number, text = code("sdxl-unclp", tmp_path)
    assert number == "CHI-WT-083"
    assert "Did you mean 'sdxl-unclip'" in text
    assert all(kind in text for kind in KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_wrong_settings_are_all_named_before_anything_is_loaded(kind: str, tmp_path: Path) -> None:
    number, text = code(kind, tmp_path, stepz=3, colour="red")
    assert number == "CHI-WT-084"
    assert "'stepz'" in text
    assert "'colour'" in text
    assert "Did you mean 'steps'" in text
    assert code(kind, tmp_path, steps=0)[0] == "CHI-WT-084"
    assert code(kind, tmp_path, dtype="float8")[0] == "CHI-WT-084"
    assert code(kind, tmp_path / "none")[0] in ("CHI-WT-077", "CHI-WT-078")


def test_the_embedded_decoder(small: Path) -> None:
    decoder = load_decoder("small-diffusion", small, parameters={"steps": 3})
    assert (decoder.target, decoder.resolution) == ("small-16x64", 32)
    assert decoder.settings["steps"] == 3
    tokens = torch.randn(2, 16, 64, generator=torch.Generator().manual_seed(0))
    own = SmallDiffusionDecoder.load(small, SmallDiffusionConfig(steps=3))
    assert torch.equal(decoder.decode(tokens, seed=1, indices=[3, 4]), own.decode(tokens, seed=1, indices=[3, 4]))
    (small / "config.json").write_text('{"kind": "brain-mask"}')
    assert code("small-diffusion", small)[0] == "CHI-WT-078"


def test_all_kinds_answer_the_same_call() -> None:
    wanted = inspect.signature(ImageDecoder.decode)
    for kind in (SmallDiffusionDecoder, VersatileDiffusion, SdxlUnclip, StableUnclip, IpAdapterSdxl):
        assert inspect.signature(kind.decode) == wanted
        assert not {"target", "resolution", "settings"} - set(dir(kind))


def test_settings_reach_the_decoder(tmp_path: Path, write_vae: object) -> None:
    from diffusers import UNet2DConditionModel

    UNet2DConditionModel(
        sample_size=8, in_channels=4, out_channels=4, block_out_channels=(16, 16), layers_per_block=1, norm_num_groups=8,
        cross_attention_dim=24, attention_head_dim=2, down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), class_embed_type="projection",
        projection_class_embeddings_input_dim=16,
    ).save_pretrained(tmp_path / "unet")  # fmt: skip
    write_vae(tmp_path / "vae", 0.13025)  # type: ignore[operator]
    parameters = {"tokens": 3, "width": 24, "added": 16, "pixels": 16, "steps": 2, "dtype": "bfloat16"}
    decoder = load_decoder("sdxl-unclip", tmp_path, parameters=parameters)
    assert decoder.settings["steps"] == 2
    assert next(decoder.unet.parameters()).dtype == torch.bfloat16  # type: ignore[attr-defined]
    assert next(decoder.vae.parameters()).dtype == torch.float32  # type: ignore[attr-defined]
    full = load_decoder("sdxl-unclip", tmp_path, parameters={**parameters, "dtype": "float32"})
    tokens = torch.randn(2, 3, 24, generator=torch.Generator().manual_seed(0))
    pictures = [d.decode(tokens, seed=0, indices=[0, 1]).int() for d in (decoder, full)]
    assert 0 < (pictures[0] - pictures[1]).abs().float().mean() < 10
