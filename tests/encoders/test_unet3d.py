from __future__ import annotations

import pytest
import torch

from chiasm.encoders.unet3d import UNet3d, UNet3dConfig

TINY = UNet3dConfig(in_channels=2, out_channels=3, channels=(4, 6, 8), convolutions=(1, 2, 1))


@pytest.mark.parametrize("size", [(8, 12, 16), (9, 13, 7), (4, 4, 5)])
def test_logits_have_the_size_of_the_input_whatever_it_divides_by(size: tuple[int, int, int]) -> None:
    with torch.inference_mode():
        assert UNet3d(TINY).eval()(torch.randn(2, 2, *size)).shape == (2, 3, *size)


def test_an_intensity_scale_does_not_change_the_logits() -> None:
    # The first norm removes what the first convolution (without bias) multiplied.
    torch.manual_seed(0)
    network, image = UNet3d(TINY).eval(), torch.randn(1, 2, 16, 16, 16)
    with torch.inference_mode():
        assert torch.allclose(network(image), network(5 * image), atol=1e-3)


def test_every_parameter_gets_a_gradient() -> None:
    network = UNet3d(TINY)
    network(torch.randn(1, 2, 16, 16, 16)).square().mean().backward()
    assert [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


def test_deep_supervision_adds_halved_outputs_in_training_only() -> None:
    config = UNet3dConfig(channels=(4, 4, 4, 4), convolutions=(1, 1, 1, 1), deep_supervision=True)
    network, image = UNet3d(config), torch.randn(1, 1, 16, 16, 16)
    assert [tuple(o.shape[2:]) for o in network(image)] == [(16, 16, 16), (8, 8, 8), (4, 4, 4)]
    assert network.eval()(image).shape == (1, 4, 16, 16, 16)


@pytest.mark.parametrize(
    ("wrong", "word"),
    [({"channels": (4, 8)}, "levels"), ({"channels": (4,), "convolutions": (1,)}, "two levels")],
)
def test_sizes_that_make_no_network_are_refused(wrong: dict[str, tuple[int, ...]], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        UNet3dConfig(**wrong)


def test_the_shipped_size_fits_the_package_in_half_precision() -> None:
    network = UNet3d(UNet3dConfig())
    assert 2 * sum(p.numel() for p in network.parameters()) < 8 * 1024**2
