"""The `swin_unetr` golden files through our patch merging and the key mapping of `chiasm weights convert`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from monai.networks.nets.swin_unetr import PatchMergingV2, SwinTransformer

from chiasm.encoders.swin_unetr import MERGING, LegacyPatchMerging
from chiasm.pipelines.engine.conversion.keys import swin_encoder
from chiasm.pipelines.engine.tensors import check_fit

Arrays = Mapping[str, np.ndarray]
ENCODER = (
    "in_chans", "embed_dim", "window_size", "patch_size", "depths", "num_heads", "mlp_ratio", "qkv_bias", "patch_norm",
    "spatial_dims", "use_v2",
)  # fmt: skip


def encoder_legacy_merging(hyperparameters: Mapping[str, Any], state: Arrays, inputs: Arrays) -> dict[str, Any]:
    """Five feature maps of the encoder, as the network computes them when no gradient is wanted."""
    sizes = {name: hyperparameters[name] for name in ENCODER if name in hyperparameters}
    encoder = SwinTransformer(**sizes, downsample=MERGING["legacy"], use_flash_attention=True).eval()
    renamed = swin_encoder({name: torch.from_numpy(value) for name, value in state.items()})
    tensors = {name.removeprefix("swinViT."): value for name, value in renamed.items()}
    check_fit(encoder.state_dict(), tensors, "golden")
    encoder.load_state_dict(tensors, strict=False)
    with torch.no_grad():
        maps = encoder(torch.from_numpy(inputs["x"]), hyperparameters.get("normalize", True))
    return {f"hidden_{level}": features.numpy() for level, features in enumerate(maps)}


def patch_merging(hyperparameters: Mapping[str, Any], state: Arrays, inputs: Arrays) -> dict[str, Any]:
    """The legacy merging, which is ours, and MONAI's second version."""
    tensors = {name: torch.from_numpy(value) for name, value in state.items()}
    results = {}
    for name, merging in (("merged_legacy", LegacyPatchMerging), ("merged_v2", PatchMergingV2)):
        layer = merging(hyperparameters["dim"], spatial_dims=hyperparameters.get("spatial_dims", 3))
        layer.load_state_dict(tensors)
        with torch.no_grad():
            results[name] = layer(torch.from_numpy(inputs["x"])).numpy()
    return results


MODULES: dict[str, Callable[[Mapping[str, Any], Arrays, Arrays], dict[str, Any]]] = {
    "encoder_legacy_merging": encoder_legacy_merging,
    "patch_merging": patch_merging,
}
