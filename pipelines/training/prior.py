"""Start a region network at the share of voxels that regions have, not at one half."""

from __future__ import annotations

import math

import torch
from torch import nn


@torch.no_grad()
def expect_rarely(network: nn.Module, n_regions: int, share: float = 0.05) -> None:
    """Set the output's bias so that every sigmoid starts at `share` (Lin et al. 2017, "Focal Loss", section 4.1).

    Tumours take one voxel in a hundred: from one half, a small network spends its first hundreds of steps on saying no.
    The output is taken to be the last bias with one entry a region; a network without one is left alone.
    """
    biases = [p for name, p in network.named_parameters() if name.endswith("bias") and p.shape == (n_regions,)]
    if biases:
        biases[-1].fill_(math.log(share / (1 - share)))
