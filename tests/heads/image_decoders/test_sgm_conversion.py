"""SDXL unCLIP's checkpoint in its original names: every tensor lands where it computes the same."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel

from chiasm.data.errors import WeightsError
from chiasm.heads.image_decoders.sdxl_unclip import SdxlUnclipConfig, load_sdxl_unclip
from chiasm.heads.image_decoders.sgm_conversion import UnclipSizes, convert_sdxl_unclip

SIZES = UnclipSizes(
    model_channels=8, num_head_channels=4, context_dim=12, adm_in_channels=16, transformer_depth=(1, 1, 2), vae_channels=8,
    vae_mult=(1, 2), latent=8, norm_groups=4,
)  # fmt: skip
RESNET = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "norm2": "out_layers.0",
    "conv2": "out_layers.3", "conv_shortcut": "skip_connection",
}  # fmt: skip
PLAIN = {
    "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
    "class_embedding.linear_1": "label_emb.0.0", "class_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2",
}  # fmt: skip


def unet_name(name: str) -> str:
    """Name a U-Net's tensor as generative-models does: blocks counted through, resnet 0, attention 1, resampling last."""
    for ours, theirs in PLAIN.items():
        if name.startswith(ours + "."):
            return theirs + name.removeprefix(ours)
    if found := re.match(r"mid_block\.(resnets|attentions)\.(\d)\.(.*)", name):
        kind, number, rest = found.groups()
        place = f"middle_block.{1 if kind == 'attentions' else 2 * int(number)}"
        return f"{place}.{_resnet(rest) if kind == 'resnets' else rest}"
    found = re.match(r"(down|up)_blocks\.(\d)\.(resnets|attentions|downsamplers|upsamplers)\.(\d)\.(.*)", name)
    assert found
    way, block, kind, layer, rest = found.groups()
    if way == "down":
        number = 1 + 3 * int(block) + int(layer)
        if kind == "downsamplers":
            return f"input_blocks.{3 * int(block) + 3}.0.{rest.replace('conv', 'op', 1)}"
        return f"input_blocks.{number}.{'0.' + _resnet(rest) if kind == 'resnets' else '1.' + rest}"
    number = 3 * int(block) + int(layer)
    if kind == "upsamplers":
        attends = int(block) < 2  # the two lower resolutions
        return f"output_blocks.{3 * int(block) + 2}.{2 if attends else 1}.{rest}"
    return f"output_blocks.{number}.{'0.' + _resnet(rest) if kind == 'resnets' else '1.' + rest}"


def _resnet(rest: str) -> str:
    part, _, end = rest.rpartition(".")
    return f"{RESNET[part]}.{end}"


def vae_name(name: str) -> str:
    """Name an auto-encoder's tensor as generative-models does; up blocks are counted from the other end."""
    name = name.replace("mid_block.resnets.0", "mid.block_1").replace("mid_block.resnets.1", "mid.block_2")
    name = re.sub(r"down_blocks\.(\d)\.resnets\.(\d)", r"down.\1.block.\2", name)
    name = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", name)
    name = re.sub(r"up_blocks\.(\d)\.resnets\.(\d)", lambda m: f"up.{1 - int(m[1])}.block.{m[2]}", name)
    name = re.sub(r"up_blocks\.(\d)\.upsamplers\.0", lambda m: f"up.{1 - int(m[1])}.upsample", name)
    for ours, theirs in (("group_norm", "norm"), ("to_q", "q"), ("to_k", "k"), ("to_v", "v"), ("to_out.0", "proj_out")):
        name = name.replace(f"mid_block.attentions.0.{ours}", f"mid.attn_1.{theirs}")
    return name.replace("conv_shortcut", "nin_shortcut").replace("conv_norm_out", "norm_out")


def models() -> tuple[UNet2DConditionModel, AutoencoderKL]:
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8, in_channels=4, out_channels=4, block_out_channels=(8, 16, 32), layers_per_block=2, norm_num_groups=4,
        cross_attention_dim=12, attention_head_dim=(2, 4, 8), transformer_layers_per_block=(1, 1, 2),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"), use_linear_projection=True,
        class_embed_type="projection", projection_class_embeddings_input_dim=16,
    )  # fmt: skip
    vae = AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * 2, up_block_types=["UpDecoderBlock2D"] * 2, block_out_channels=[8, 16],
        layers_per_block=2, norm_num_groups=4, latent_channels=4,
    )  # fmt: skip
    return unet.eval(), vae.eval()


def checkpoint(unet: UNet2DConditionModel, vae: AutoencoderKL) -> dict[str, torch.Tensor]:
    state = {f"model.diffusion_model.{unet_name(name)}": value for name, value in unet.state_dict().items()}
    for name, value in vae.state_dict().items():
        theirs = f"first_stage_model.{vae_name(name)}"
        state[theirs] = value[..., None, None] if ".attn_1." in theirs and value.ndim == 2 else value
    return {**state, "conditioner.embedders.0.model.visual.proj": torch.zeros(2, 2)}


def test_the_converted_networks_compute_the_same(tmp_path: Path) -> None:
    unet, vae = models()
    convert_sdxl_unclip(checkpoint(unet, vae), tmp_path, sizes=SIZES)
    config = SdxlUnclipConfig(tokens=3, width=12, added=16, pixels=16, steps=2)
    decoder = load_sdxl_unclip(tmp_path, config)
    generator = torch.Generator().manual_seed(1)
    x, context, vector = (torch.randn(*s, generator=generator) for s in ((2, 4, 8, 8), (2, 3, 12), (2, 16)))
    with torch.no_grad():
        given = {"encoder_hidden_states": context, "class_labels": vector}
        assert torch.allclose(decoder.unet(x, 500, **given).sample, unet(x, 500, **given).sample, atol=1e-6)
        assert torch.allclose(decoder.vae.decode(x).sample, vae.decode(x).sample, atol=1e-6)
        pictures = torch.rand(1, 3, 16, 16, generator=generator)
        ours, theirs = (m.encode(pictures).latent_dist.mean for m in (decoder.vae, vae))
        assert torch.allclose(ours, theirs, atol=1e-6)
    assert decoder.vae.config.scaling_factor == 0.13025
    assert decoder.decode(torch.randn(1, 3, 12), seed=0, indices=[0]).shape == (1, 16, 16, 3)


def test_published_sizes_are_those_of_the_authors_configuration() -> None:
    from diffusers.loaders.single_file_utils import create_unet_diffusers_config_from_ldm

    about = create_unet_diffusers_config_from_ldm(UnclipSizes().original(), {})
    assert about["block_out_channels"] == [320, 640, 1280]
    assert about["attention_head_dim"] == [5, 10, 20]  # heads of 64 channels
    assert about["transformer_layers_per_block"] == [1, 2, 10]
    assert about["down_block_types"] == ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"]
    assert (about["cross_attention_dim"], about["projection_class_embeddings_input_dim"]) == (1664, 1024)
    assert about["class_embed_type"] == "projection"
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(about)
    # SDXL's count, less what narrower keys and values (60 blocks of 1280, 10 of 640) and a shorter vector save.
    saved = 2 * (2048 - 1664) * (60 * 1280 + 10 * 640) + (2816 - 1024) * 1280
    assert sum(weight.numel() for weight in unet.parameters()) == 2_567_463_684 - saved


def test_checkpoints_of_something_else(tmp_path: Path) -> None:
    unet, vae = models()
    whole = checkpoint(unet, vae)
    lacking = {k: v for k, v in whole.items() if "middle_block.1" not in k}
    label = "model.diffusion_model.label_emb.0.0.weight"
    other = {**whole, label: torch.zeros(32, 2816)}  # plain SDXL
    without = {k: v for k, v in whole.items() if k != label}
    for state in ({}, lacking, other, without):
        with pytest.raises(WeightsError) as caught:
            convert_sdxl_unclip(state, tmp_path / "out", sizes=SIZES)
        assert caught.value.code == "CHI-WT-081"
        assert not (tmp_path / "out").exists()


def test_the_folder_says_what_it_is(tmp_path: Path) -> None:
    convert_sdxl_unclip(checkpoint(*models()), tmp_path, sizes=SIZES)
    assert json.loads((tmp_path / "unet" / "config.json").read_text())["_class_name"] == "UNet2DConditionModel"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["unet", "vae"]
