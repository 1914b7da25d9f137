"""IP-Adapter: the published pipeline's pictures for embeddings handed in directly; files; batches."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from chiasm.data.errors import WeightsError
from chiasm.heads.image_decoders.diffusers_folder import load_scheduler
from chiasm.heads.image_decoders.interface import image_noise
from chiasm.heads.image_decoders.ip_adapter_sdxl import IpAdapterConfig, load_ip_adapter_sdxl

D = 20
FILE = "ip-adapter_sdxl.safetensors"


def config(**changes: object) -> IpAdapterConfig:
    return IpAdapterConfig(**{"width": D, "steps": 4, "pixels": 16, "batch": 3, **changes})


@pytest.fixture(scope="module")
def folder(sdxl_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from diffusers import UNet2DConditionModel

    path = shutil.copytree(sdxl_folder, tmp_path_factory.mktemp("ip") / "sdxl")
    unet = UNet2DConditionModel.from_pretrained(path / "unet", low_cpu_mem_usage=False)
    generator = torch.Generator().manual_seed(5)
    # Numbers of attention layers as the published file counts them: cross-attention is every second one.
    crossed = [i for i, name in enumerate(unet.attn_processors) if name.endswith("attn2.processor")]
    tensors = {
        "image_proj.proj.weight": 0.3 * torch.randn(4 * 24, D, generator=generator),
        "image_proj.proj.bias": torch.zeros(4 * 24),
        "image_proj.norm.weight": torch.ones(24),
        "image_proj.norm.bias": torch.zeros(24),
    }
    for number in sorted({2 * k + 1 for k in range(len(crossed))}):
        for part in ("k", "v"):
            tensors[f"ip_adapter.{number}.to_{part}_ip.weight"] = torch.randn(16, 24, generator=generator)
    (path / "ip_adapter").mkdir()
    save_file(tensors, path / "ip_adapter" / FILE)
    return path


def embeddings(n: int = 3) -> torch.Tensor:
    return torch.randn(n, 1, D, generator=torch.Generator().manual_seed(1))


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # diffusers, in its own loop
def test_pictures_are_those_of_the_published_pipeline(folder: Path) -> None:
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline

    decoder = load_ip_adapter_sdxl(folder, config(prompt="a car"))
    made = decoder.decode(embeddings(), seed=3, indices=[5, 6, 7])
    parts = decoder.parts
    pipeline = StableDiffusionXLPipeline(
        vae=parts.vae, unet=parts.unet, scheduler=load_scheduler(folder, EulerDiscreteScheduler),
        tokenizer=parts.tokenizers[0], tokenizer_2=parts.tokenizers[1], text_encoder=parts.text_encoders[0],
        text_encoder_2=parts.text_encoders[1], add_watermarker=False,
    )  # fmt: skip
    pipeline.set_progress_bar_config(disable=True)
    noise = image_noise((4, 8, 8), seed=3, indices=[5, 6, 7])
    # One at a time: the pipeline gives every picture of a batch all embeddings of the batch.
    expected = torch.cat([
        pipeline(
            "a car", height=16, width=16, num_inference_steps=4, guidance_scale=5.0, latents=noise[i : i + 1],
            ip_adapter_image_embeds=[torch.cat([torch.zeros(1, 1, D), embeddings()[i : i + 1]])], output_type="pt",
        ).images
        for i in range(3)
    ])  # fmt: skip
    expected = (expected * 255).round().to(torch.uint8).permute(0, 2, 3, 1)
    assert (made.int() - expected.int()).abs().max() <= 1
    assert made.float().std() > 5


def test_the_embedding_matters_as_much_as_its_scale_says(folder: Path) -> None:
    half, none = (load_ip_adapter_sdxl(folder, config(scale=scale)) for scale in (0.5, 0.0))
    pictures = [d.decode(e, seed=0, indices=range(3)) for d in (half, none) for e in (embeddings(), -embeddings())]
    assert not torch.equal(pictures[0], pictures[1])
    assert torch.equal(pictures[2], pictures[3])


def test_batches_do_not_matter(folder: Path) -> None:
    start = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(3))
    for begin in (None, start):
        whole, one = (
            load_ip_adapter_sdxl(folder, config(batch=b)).decode(embeddings(), start=begin, seed=1, indices=[7, 8, 9])
            for b in (3, 1)
        )
        assert (whole.int() - one.int()).abs().max() <= 1


def test_published_targets() -> None:
    assert IpAdapterConfig().length == 1280
    assert IpAdapterConfig(target="clip-vit-h14-global").length == 1024
    with pytest.raises(ValueError, match="target"):
        IpAdapterConfig(target="clip-vit-l14-vd")


def test_adapters_that_do_not_fit(folder: Path, tmp_path: Path) -> None:
    def code(path: Path, **changes: object) -> str:
        with pytest.raises(WeightsError) as caught:
            load_ip_adapter_sdxl(path, config(**changes))
        return caught.value.code

    assert code(folder, width=1280) == "CHI-WT-080"
    assert code(folder, target="clip-vit-h14-global") == "CHI-WT-082"  # has a file of its own
    copy = shutil.copytree(folder, tmp_path / "copy")
    file = copy / "ip_adapter" / FILE
    tensors = load_file(file)
    save_file({k: v for k, v in tensors.items() if "ip_adapter.1." not in k}, file)
    assert code(copy) == "CHI-WT-082"
    save_file({k.replace("proj.weight", "perceiver.weight"): v for k, v in tensors.items()}, file)
    assert code(copy) == "CHI-WT-082"
    file.write_bytes(b"no tensors")
    assert code(copy) == "CHI-WT-082"
