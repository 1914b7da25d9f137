"""Swin UNETR: the published size, and merging that is the old one where the weights are old."""

from __future__ import annotations

import pytest
import torch

from chiasm.encoders.swin_unetr import LegacyPatchMerging, SwinUnetrConfig, swin_unetr

TINY = {"feature_size": 12, "in_channels": 2, "out_channels": 3, "num_heads": (1, 2, 2, 4)}


def identity_merging() -> LegacyPatchMerging:
    layer = LegacyPatchMerging(1, norm_layer=_NoNorm)
    layer.reduction = torch.nn.Identity()
    return layer


class _NoNorm(torch.nn.Module):
    def __init__(self, _: int) -> None:
        super().__init__()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def test_legacy_merging_doubles_two_corners_and_never_sees_two_others() -> None:
    corners = torch.arange(8.0).reshape(1, 2, 2, 2, 1)  # value = 4 d + 2 h + w
    assert identity_merging()(corners).flatten().tolist() == [0, 4, 2, 1, 5, 2, 1, 7]


def test_odd_sides_get_a_plane_of_zeros_at_the_high_end() -> None:
    merged = identity_merging()(torch.ones(1, 1, 2, 2, 1))
    assert merged.flatten().tolist() == [1, 0, 1, 1, 0, 1, 1, 0]


def test_two_dimensions_use_all_four_corners() -> None:
    layer = LegacyPatchMerging(1, norm_layer=_NoNorm, spatial_dims=2)
    layer.reduction = torch.nn.Identity()
    assert layer(torch.arange(4.0).reshape(1, 2, 2, 1)).flatten().tolist() == [0, 2, 1, 3]


@pytest.mark.slow
def test_the_default_is_the_published_network() -> None:
    network = swin_unetr(SwinUnetrConfig())
    assert sum(p.numel() for p in network.parameters()) == 62_191_941
    assert len(network.state_dict()) == 159


def test_legacy_and_current_merging_share_names_and_shapes_and_differ_in_what_they_compute() -> None:
    torch.manual_seed(0)
    old = swin_unetr(SwinUnetrConfig(**TINY)).eval()
    new = swin_unetr(SwinUnetrConfig(**TINY, merging="current")).eval()
    new.load_state_dict(old.state_dict())  # without a word: hence `merging` is pinned in config.json
    x = torch.randn(1, 2, 32, 32, 64)
    with torch.no_grad():
        assert (old(x) - new(x)).abs().max() > 1e-3


def test_fused_attention_without_gradients_equals_the_plain_one_with_them() -> None:
    torch.manual_seed(0)
    network = swin_unetr(SwinUnetrConfig(**TINY)).eval()
    x = torch.randn(1, 2, 32, 32, 64)
    plain = network(x).detach()
    with torch.no_grad():
        torch.testing.assert_close(network(x), plain, atol=2e-5, rtol=1e-4)


def test_every_wrong_size_is_named_at_once() -> None:
    with pytest.raises(ValueError, match=r"feature_size.*merging must be one of legacy, current, v2"):
        SwinUnetrConfig(feature_size=20, merging="old")
