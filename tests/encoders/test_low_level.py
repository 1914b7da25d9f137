"""MindEye's low-level network: what it gives and refuses. The published numbers are in tests/golden."""

from __future__ import annotations

import pytest
import torch

from chiasm.data.errors import WeightsError
from chiasm.encoders.low_level import LowLevelConfig, LowLevelNetwork

SMALL = LowLevelConfig(hidden=12, n_blocks=2, channels=4, side=3, widths=(8, 16), auxiliary=5, norm_groups=8)


def network(config: LowLevelConfig = SMALL) -> LowLevelNetwork:
    torch.manual_seed(0)
    return LowLevelNetwork(config, {"subj01": 20}).eval()


def voxels() -> torch.Tensor:
    return torch.randn(2, 20, generator=torch.Generator().manual_seed(1))


def test_tokens_are_the_latents_position_by_position() -> None:
    answer = network()(voxels(), "subj01")
    assert tuple(answer.latents.shape[1:]) == SMALL.latents == (4, 6, 6)
    assert torch.equal(answer.tokens[1, 6 * 2 + 3], answer.latents[1, :, 2, 3])


def test_without_a_projector_the_features_are_the_normalised_map() -> None:
    net = network(LowLevelConfig(hidden=12, n_blocks=0, channels=4, side=3, widths=(8,), auxiliary=0, norm_groups=8))
    features = net(voxels(), "subj01").auxiliary
    assert tuple(features.shape) == (2, 9, 4)
    # one group over channels and positions: zero mean, unit variance an item
    assert torch.allclose(features.mean((1, 2)), torch.zeros(2), atol=1e-6)
    assert torch.allclose(features.var((1, 2), correction=0), torch.ones(2), atol=1e-3)


def test_linear_layers_have_no_bias_and_blocks_add_their_input() -> None:
    net = network()
    assert not any(name.endswith("0.bias") for name, _ in [*net.lin0.named_parameters(), *net.mlp.named_parameters()])
    assert net.lin1.bias is None
    with torch.no_grad():
        for block in net.mlp:
            block[1].weight.zero_()
            block[1].bias.zero_()
        alone = LowLevelNetwork(LowLevelConfig(**{**vars(SMALL), "n_blocks": 0}), {"subj01": 20}).eval()
        alone.load_state_dict({k: v for k, v in net.state_dict().items() if not k.startswith("mlp.")})
        assert torch.equal(net(voxels(), "subj01").latents, alone(voxels(), "subj01").latents)


def test_one_subject_only() -> None:
    with pytest.raises(ValueError, match="one subject"):
        LowLevelNetwork(SMALL, {"a": 3, "b": 4})
    with pytest.raises(ValueError, match="subj02"):
        network().add_subject("subj02", 3)
    with pytest.raises(WeightsError) as caught:
        network()(torch.zeros(1, 21), "subj01")
    assert caught.value.code == "CHI-WT-050"


def test_the_published_network_counts_about_two_hundred_millions_before_its_upsampler() -> None:
    with torch.device("meta"):
        net = LowLevelNetwork(LowLevelConfig(), {"subj01": 15724})
    trunk = sum(v.numel() for part in (net.lin0, net.mlp, net.lin1) for v in part.parameters())
    assert trunk == 15724 * 4096 + 4 * 4096**2 + 4096 * 16384 + 5 * 2 * 4096
    assert LowLevelConfig().latents == (4, 64, 64)
