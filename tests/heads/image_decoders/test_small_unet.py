"""The small U-Net: what conditions it, and its refusals."""

from __future__ import annotations

import math

import pytest
import torch

from chiasm.heads.image_decoders.small_unet import SmallUNet, SmallUNetConfig, waves

TINY = SmallUNetConfig(widths=(8, 8, 16), token_width=8, embedding=16)


def network() -> SmallUNet:
    torch.manual_seed(0)
    made = SmallUNet(TINY).requires_grad_(False)
    made.image_out.weight.normal_(std=0.1)
    made.no_tokens.normal_()
    return made


def test_it_begins_with_no_velocity() -> None:
    made = SmallUNet(TINY).requires_grad_(False)
    made.image_out.bias.zero_()
    x, times = torch.randn(2, 3, 32, 32), torch.tensor([0.2, 0.9])
    assert torch.equal(made(x, times, torch.randn(2, 16, 8), times), torch.zeros(2, 3, 32, 32))


def test_pictures_of_a_batch_do_not_mix_and_every_condition_counts() -> None:
    made = network()
    x, tokens = torch.randn(3, 3, 32, 32), torch.randn(3, 16, 8)
    times, level = torch.tensor([0.1, 0.5, 0.9]), torch.tensor([0.0, 0.5, 1.0])
    whole = made(x, times, tokens, level)
    for i in range(3):
        one = slice(i, i + 1)
        assert torch.allclose(made(x[one], times[one], tokens[one], level[one]), whole[one], atol=1e-5)
    for other in (
        made(x, times + 0.05, tokens, level),
        made(x, times, tokens + 0.3 * torch.randn_like(tokens), level),
        made(x, times, tokens, level + 0.3),
        made(x, times, tokens.flip(1), level),
    ):
        assert ((other - whole).abs().amax((1, 2, 3)) > 1e-3).all()


def test_no_tokens_are_the_learned_ones() -> None:
    made = network()
    x, times = torch.randn(2, 3, 32, 32), torch.tensor([0.3, 0.6])
    assert torch.equal(made(x, times, None, times), made(x, times, made.no_tokens.expand(2, -1, -1), times))


def test_waves_reach_from_1_to_the_fastest() -> None:
    found = waves(torch.tensor([0.5]), 4, 20.0)[0]
    assert found.tolist() == pytest.approx([math.sin(0.5), math.sin(10), math.cos(0.5), math.cos(10)], abs=1e-5)


@pytest.mark.parametrize("wrong", [{"size": 20}, {"widths": (8, 9, 16)}, {"widths": (8, 16)}, {"heads": 3}])
def test_sizes_that_do_not_divide_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="multiple"):
        SmallUNetConfig(**wrong)
