"""The first answer of a region network is 'rarely'."""

from __future__ import annotations

import pytest
import torch

from chiasm.pipelines.recipes import load_recipe
from chiasm.pipelines.training.command import initial_network
from chiasm.pipelines.training.prior import expect_rarely
from chiasm.pipelines.training.settings import read_settings


def test_an_untrained_region_network_says_rarely() -> None:
    head = torch.nn.Sequential(torch.nn.Conv3d(4, 3, 3), torch.nn.Conv3d(3, 3, 1))
    expect_rarely(head, 3, share=0.02)
    with torch.no_grad():
        head[1].weight.zero_()
        probability = torch.sigmoid(head(torch.randn(1, 4, 5, 5, 5)))
    torch.testing.assert_close(probability, torch.full_like(probability, 0.02))


def test_only_the_output_is_changed() -> None:
    torch.manual_seed(0)
    head = torch.nn.Sequential(torch.nn.Conv3d(4, 3, 3), torch.nn.Conv3d(3, 3, 1))
    before = head[0].bias.clone()
    expect_rarely(head, 3)
    assert torch.equal(head[0].bias, before)
    expect_rarely(head, 7)  # no such output: nothing to do, nothing breaks
    assert torch.equal(head[0].bias, before)


def test_the_tumour_network_starts_so() -> None:
    recipe = load_recipe("brain-tumour-phantom")
    network = initial_network(recipe, read_settings(recipe.training, name=recipe.name))
    assert dict(network.named_parameters())["out.conv.conv.bias"].tolist() == pytest.approx([-2.9444] * 3, abs=1e-3)
