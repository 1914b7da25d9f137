"""The upsampler against diffusers' own decoder, with the same names and weights."""

from __future__ import annotations

import pytest
import torch

from chiasm.encoders.low_level_upsampler import LowLevelUpsampler, LowLevelUpsamplerConfig

CONFIGS = [
    LowLevelUpsamplerConfig(in_channels=8, widths=(32, 64, 64)),
    LowLevelUpsamplerConfig(in_channels=3, out_channels=5, widths=(8, 16), layers=2, norm_groups=4),
    LowLevelUpsamplerConfig(in_channels=6, out_channels=3, widths=(16,), norm_groups=8),
]


def upsampler(config: LowLevelUpsamplerConfig) -> LowLevelUpsampler:
    torch.manual_seed(0)
    net = LowLevelUpsampler(config).eval()
    with torch.no_grad():
        for value in net.parameters():  # norms start at 1 and 0, which would hide a wrong order
            value.add_(0.1 * torch.randn_like(value))
    return net


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: str(config.widths))
def test_the_decoder_of_diffusers_gives_the_same_latents_from_the_same_state(config: LowLevelUpsamplerConfig) -> None:
    vae = pytest.importorskip("diffusers.models.autoencoders.vae")
    theirs = vae.Decoder(
        in_channels=config.in_channels,
        out_channels=config.out_channels,
        up_block_types=("UpDecoderBlock2D",) * len(config.widths),
        block_out_channels=config.widths,
        layers_per_block=config.layers,
        norm_num_groups=config.norm_groups,
    ).eval()
    ours = upsampler(config)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, config.in_channels, 3, 5, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.allclose(ours(x), theirs(x), atol=1e-5)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: str(config.widths))
def test_the_side_grows_by_the_factor(config: LowLevelUpsamplerConfig) -> None:
    with torch.no_grad():
        latents = upsampler(config)(torch.zeros(1, config.in_channels, 3, 5))
    assert tuple(latents.shape[1:]) == (config.out_channels, 3 * config.factor, 5 * config.factor)


@pytest.mark.parametrize("widths", [(), (32, 48), (0,)])
def test_widths_that_the_norms_cannot_divide_are_refused(widths: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="multiples of 32"):
        LowLevelUpsamplerConfig(widths=widths)
