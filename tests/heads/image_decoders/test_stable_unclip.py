"""Stable unCLIP: the published pipeline's pictures for embeddings handed in, noise levels, batches, folders."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from chiasm.data.errors import WeightsError
from chiasm.heads.image_decoders.interface import image_noise
from chiasm.heads.image_decoders.latent_sampling import Noise
from chiasm.heads.image_decoders.stable_unclip import StableUnclipConfig, load_stable_unclip

D = 20


def config(**changes: object) -> StableUnclipConfig:
    return StableUnclipConfig(**{"width": D, "steps": 4, "batch": 3, **changes})


@pytest.fixture(scope="module")
def folder(
    tmp_path_factory: pytest.TempPathFactory,
    write_tokenizer: Callable[[Path], None],
    write_text_encoder: Callable[..., None],
    write_vae: Callable[..., None],
) -> Path:
    from diffusers import DDPMScheduler, PNDMScheduler, UNet2DConditionModel
    from diffusers.pipelines.stable_diffusion.stable_unclip_image_normalizer import StableUnCLIPImageNormalizer

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("unclip") / "unclip"
    write_tokenizer(path / "tokenizer")
    write_text_encoder(path / "text_encoder", 16)
    write_vae(path / "vae")
    UNet2DConditionModel(
        sample_size=8, in_channels=4, out_channels=4, block_out_channels=(16, 16), layers_per_block=1, norm_num_groups=8,
        cross_attention_dim=16, attention_head_dim=2, down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), use_linear_projection=True, class_embed_type="projection",
        projection_class_embeddings_input_dim=2 * D,
    ).save_pretrained(path / "unet")  # fmt: skip
    normalizer = StableUnCLIPImageNormalizer(D)
    normalizer.mean.data.normal_()
    normalizer.std.data.uniform_(0.5, 2)
    normalizer.save_pretrained(path / "image_normalizer")
    DDPMScheduler(beta_schedule="squaredcos_cap_v2").save_pretrained(path / "image_noising_scheduler")
    PNDMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        skip_prk_steps=True,
    ).save_pretrained(path / "scheduler")
    return path


def embeddings(n: int = 3) -> torch.Tensor:
    return 2 * torch.randn(n, 1, D, generator=torch.Generator().manual_seed(1))


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # diffusers, in its own loop
@pytest.mark.parametrize("level", [0, 300])
def test_pictures_are_those_of_the_published_pipeline(folder: Path, level: int) -> None:
    from diffusers import StableUnCLIPImg2ImgPipeline
    from transformers import CLIPTextModel

    from chiasm.heads.image_decoders.diffusers_folder import load_component, load_tokenizer

    decoder = load_stable_unclip(folder, config(noise_level=level, prompt="a car"))
    made = decoder.decode(embeddings(), seed=3, indices=[5, 6, 7])
    parts = dict(decoder.parts)
    drawn = image_noise((D,), seed=3, indices=[5, 6, 7], purpose="embedding")

    class Pipeline(StableUnCLIPImg2ImgPipeline):
        def noise_image_embeddings(self, image_embeds: torch.Tensor, noise_level: int, **_: object) -> torch.Tensor:
            return super().noise_image_embeddings(image_embeds, int(noise_level), noise=drawn)

    pipeline = Pipeline(
        feature_extractor=None, image_encoder=decoder.parts["vae"], tokenizer=load_tokenizer(folder, "tokenizer"),
        text_encoder=load_component(folder, "text_encoder", CLIPTextModel), **parts,
    )  # fmt: skip
    pipeline.set_progress_bar_config(disable=True)
    noise = image_noise((4, 8, 8), seed=3, indices=[5, 6, 7])
    expected = pipeline(
        prompt=["a car"] * 3, image_embeds=embeddings()[:, 0], latents=noise, num_inference_steps=4, guidance_scale=10.0,
        noise_level=level, output_type="pt",
    ).images  # fmt: skip
    expected = (expected * 255).round().to(torch.uint8).permute(0, 2, 3, 1)
    assert (made.int() - expected.int()).abs().max() <= 1
    assert made.float().std() > 5


def test_noise_levels_are_told(folder: Path) -> None:
    noise = Noise(seed=0, indices=[1, 2, 3])
    clean, noisy = (
        load_stable_unclip(folder, config(noise_level=n)).noised(embeddings()[:, 0], noise) for n in (0, 900)
    )
    distance = [(x[:, :D] - embeddings()[:, 0]).abs().mean() for x in (clean, noisy)]
    assert distance[0] < 0.1 * distance[1]
    assert clean[0, D:].tolist() == pytest.approx([1.0] * (D // 2) + [0.0] * (D // 2))  # cosines and sines of 0


def test_batches_do_not_matter(folder: Path) -> None:
    start = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(3))
    for begin in (None, start):
        for level in (0, 200):
            whole, one = (
                load_stable_unclip(folder, config(batch=b, noise_level=level)).decode(
                    embeddings(), start=begin, seed=1, indices=[7, 8, 9]
                )
                for b in (3, 1)
            )
            assert (whole.int() - one.int()).abs().max() <= 1


def test_no_guidance(folder: Path) -> None:
    free = load_stable_unclip(folder, config(guidance=1.0)).decode(embeddings(), seed=1, indices=range(3))
    assert not torch.equal(free, load_stable_unclip(folder, config()).decode(embeddings(), seed=1, indices=range(3)))


def test_folders_that_do_not_fit(folder: Path, tmp_path: Path) -> None:
    def code(path: Path, **changes: object) -> str:
        with pytest.raises(WeightsError) as caught:
            load_stable_unclip(path, config(**changes))
        return caught.value.code

    assert code(folder, width=1024) == "CHI-WT-080"
    copy = shutil.copytree(folder, tmp_path / "copy")
    shutil.rmtree(copy / "image_noising_scheduler")
    assert code(copy) == "CHI-WT-077"
    shutil.rmtree(copy / "image_normalizer")
    assert code(copy) == "CHI-WT-077"
    with pytest.raises(ValueError, match="noise_level"):
        config(noise_level=-1)
