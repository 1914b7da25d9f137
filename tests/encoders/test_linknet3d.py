"""The LinkNet: equal to the published TorchScript, whole weights, sizes refused that it cannot take."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from chiasm.encoders.linknet3d import LinkNet3d, LinkNet3dConfig
from chiasm.pipelines.engine.tensors import fill, read_tensors
from chiasm.pipelines.engine.weights import find

OUTPUTS = Path(__file__).parent / "linknet3d_outputs.safetensors"
"""Brain probability of the published TorchScript networks on `volume`, at every eighth voxel from the fourth."""


def volume() -> torch.Tensor:
    i, j, k = np.meshgrid(*[np.arange(64.0)] * 3, indexing="ij")
    waves = np.sin(0.31 * i) * np.cos(0.23 * j) + np.sin(0.011 * i * k + 0.1 * j)
    return torch.from_numpy((0.449 + 0.226 * waves).astype(np.float32))[None, None]


def shipped(part: str) -> LinkNet3d:
    network = LinkNet3d(LinkNet3dConfig())
    fill(network, read_tensors(find("chiasm/brain-mask").files[part]), part)
    return network.eval()


@pytest.mark.parametrize("part", ["coarse", "fine"])
def test_the_shipped_networks_give_what_the_published_torchscript_gives(part: str) -> None:
    with torch.no_grad():
        ours = shipped(part)(volume()).softmax(1)[0, 1, 4::8, 4::8, 4::8].numpy()
    theirs = load_file(OUTPUTS)[part]
    assert theirs.std() > 0.01
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_the_two_shipped_networks_are_not_the_same() -> None:
    assert not torch.equal(shipped("coarse").init[0].weight, shipped("fine").init[0].weight)


def test_the_published_sizes_have_the_published_number_of_parameters() -> None:
    assert sum(p.numel() for p in LinkNet3d(LinkNet3dConfig()).parameters()) == 2_126_258


def test_logits_stand_on_the_input_grid_for_other_sizes_too() -> None:
    network = LinkNet3d(LinkNet3dConfig(in_channels=2, out_channels=3, widths=(8, 16)))
    assert network(torch.zeros(1, 2, 16, 24, 32)).shape == (1, 3, 16, 24, 32)


def test_it_can_be_trained() -> None:
    network = LinkNet3d(LinkNet3dConfig(widths=(4, 8)))
    network(torch.randn(1, 1, 16, 16, 16)).square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


def test_a_side_that_does_not_divide_is_refused_with_both_numbers() -> None:
    with pytest.raises(ValueError, match=r"multiples of 32, got \(64, 64, 60\)"):
        LinkNet3d(LinkNet3dConfig())(torch.zeros(1, 1, 64, 64, 60))


@pytest.mark.parametrize("sizes", [{"widths": ()}, {"widths": (16, 30)}, {"in_channels": 0}])
def test_sizes_without_a_network_are_refused(sizes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="must be"):
        LinkNet3dConfig(**sizes)
