"""Swin UNETR: MONAI's network, with the patch merging that the published weights were trained with.

Hatamizadeh et al. 2022, "Swin UNETR: Swin Transformers for Semantic Segmentation of Brain Tumors in MRI Images".
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# Which of the two voxels along (depth, height, width) each eighth of the channels comes from, as MONAI up to 1.4 had
# it: (0, 1, 0) and (0, 0, 1) come twice, (1, 1, 0) and (0, 1, 1) never. From 1.5 on the same name means all eight, with
# the same shapes and keys, so that older weights load into it without a word and compute something else.
LEGACY_CORNERS: tuple[tuple[int, int, int], ...] = (
    (0, 0, 0),
    (1, 0, 0),
    (0, 1, 0),
    (0, 0, 1),
    (1, 0, 1),
    (0, 1, 0),
    (0, 0, 1),
    (1, 1, 1),
)


class LegacyPatchMerging(nn.Module):
    """Halve the resolution and double the channels as MONAI up to 1.4 did.

    Parameters
    ----------
    dim : int
        Channels in; twice as many come out.
    norm_layer : type of nn.Module
    spatial_dims : int
        3, or 2, where nothing changed between the versions.
    """

    def __init__(self, dim: int, norm_layer: type[nn.Module] = nn.LayerNorm, spatial_dims: int = 3) -> None:
        super().__init__()
        if spatial_dims not in {2, 3}:
            raise ValueError(f"spatial_dims must be 2 or 3, got {spatial_dims}")
        n_corners = 2**spatial_dims
        self.reduction = nn.Linear(n_corners * dim, 2 * dim, bias=False)
        self.norm = norm_layer(n_corners * dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, D, H, W, C) to (B, D/2, H/2, W/2, 2C); odd sides get a plane of zeros at the end first."""
        odd = [side % 2 for side in x.shape[1:-1]]
        if any(odd):
            x = F.pad(x, [0, 0, *(width for side in reversed(odd) for width in (0, side))])
        if len(odd) == 3:
            corners = [x[:, i::2, j::2, k::2] for i, j, k in LEGACY_CORNERS]
        else:
            corners = [x[:, j::2, i::2] for i, j in itertools.product(range(2), repeat=2)]
        merged: Tensor = self.reduction(self.norm(torch.cat(corners, -1)))
        return merged


@dataclass(frozen=True, kw_only=True)
class SwinUnetrConfig:
    """Sizes of a Swin UNETR; the defaults are those of the published BraTS 2021 weights.

    Parameters
    ----------
    in_channels, out_channels : int
        MRI contrasts; regions (TC, WT, ET in the published weights).
    feature_size : int
        Channels at full resolution, a multiple of 12.
    depths, num_heads : tuple of int
        Blocks and attention heads of the four stages.
    window_size : int
        Side of an attention window, in tokens.
    merging : {'legacy', 'current', 'v2'}
        Patch merging. Weights trained with MONAI up to 1.4 (BraTS 2021, BTCV, self-supervised encoder) need ``legacy``.
    residual_stages : bool
        MONAI's ``use_v2``: a residual convolution block before each stage.
    drop_rate, attn_drop_rate, dropout_path_rate : float
        Dropout while training.
    use_checkpoint : bool
        Recompute activations while training: less memory, more time.
    """

    in_channels: int = 4
    out_channels: int = 3
    feature_size: int = 48
    depths: tuple[int, ...] = (2, 2, 2, 2)
    num_heads: tuple[int, ...] = (3, 6, 12, 24)
    window_size: int = 7
    merging: Literal["legacy", "current", "v2"] = "legacy"
    residual_stages: bool = False
    drop_rate: float = 0.0
    attn_drop_rate: float = 0.0
    dropout_path_rate: float = 0.0
    use_checkpoint: bool = False

    def __post_init__(self) -> None:
        wrong = []
        if self.feature_size < 12 or self.feature_size % 12:
            wrong.append(f"feature_size must be a multiple of 12, got {self.feature_size}")
        if min(self.in_channels, self.out_channels) < 1:
            wrong.append(f"in_channels and out_channels must be >= 1, got {self.in_channels} and {self.out_channels}")
        if len(self.depths) != 4 or len(self.num_heads) != 4:
            wrong.append(f"depths and num_heads have four entries, got {self.depths} and {self.num_heads}")
        elif any(self.feature_size * 2**stage % heads for stage, heads in enumerate(self.num_heads)):
            wrong.append(
                f"num_heads must divide the channels of each stage ({self.feature_size} and up), got {self.num_heads}"
            )
        if self.merging not in MERGING:
            wrong.append(f"merging must be one of {', '.join(MERGING)}, got '{self.merging}'")
        if wrong:
            raise ValueError("; ".join(wrong))

    divisor = 32
    """Every side of an input is a multiple of this."""


MERGING: dict[str, Any] = {"legacy": LegacyPatchMerging, "current": "merging", "v2": "mergingv2"}


def swin_unetr(config: SwinUnetrConfig) -> nn.Module:
    """Build the network, (B, in_channels, X, Y, Z) to logits (B, out_channels, X, Y, Z).

    Attention runs through torch's fused kernel whenever no gradient is wanted (2e-6 from the plain one, half the memory
    traffic). Sides must be multiples of 32, and not all 32 (the deepest level would be one
    voxel, which has no instance norm): a ValueError otherwise.
    """
    from monai.networks.nets.swin_unetr import SwinUNETR

    network: nn.Module = SwinUNETR(
        in_channels=config.in_channels,
        out_channels=config.out_channels,
        feature_size=config.feature_size,
        depths=config.depths,
        num_heads=config.num_heads,
        window_size=config.window_size,
        drop_rate=config.drop_rate,
        attn_drop_rate=config.attn_drop_rate,
        dropout_path_rate=config.dropout_path_rate,
        use_checkpoint=config.use_checkpoint,
        downsample=MERGING[config.merging],
        use_v2=config.residual_stages,
        use_flash_attention=True,
    )
    return network
