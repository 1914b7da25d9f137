"""Heads that only losses and retrieval see, the same in MindEye and MindEye2; attribute names follow the authors' checkpoints."""

from __future__ import annotations

from itertools import pairwise

from torch import nn


def token_projector(width: int, hidden: int) -> nn.Sequential:
    """Three times LayerNorm, GELU, Linear, on each token: ``width -> hidden -> hidden -> width``."""
    sizes = (width, hidden, hidden, width)
    layers: list[nn.Module] = []
    for n_in, n_out in pairwise(sizes):
        layers += [nn.LayerNorm(n_in), nn.GELU(), nn.Linear(n_in, n_out)]
    return nn.Sequential(*layers)


def maps_projector(channels: int, width: int) -> nn.Sequential:
    """Features for a convolutional teacher from a map: three 1x1 convolutions with GroupNorm (one group) and ReLU between."""
    return nn.Sequential(
        nn.Conv2d(channels, width, 1, bias=False),
        nn.GroupNorm(1, width),
        nn.ReLU(),
        nn.Conv2d(width, width, 1, bias=False),
        nn.GroupNorm(1, width),
        nn.ReLU(),
        nn.Conv2d(width, width, 1),
    )
