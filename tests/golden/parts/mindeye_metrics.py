"""The `metrics` golden files of MindEye through `chiasm.pipelines.evaluation.images`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from chiasm.pipelines.evaluation.images.identification import correlations, two_way
from chiasm.pipelines.evaluation.images.pixel_metrics import pixel_correlation, structural_similarity

Arrays = Mapping[str, np.ndarray]


def metrics(hyperparameters: Mapping[str, Any], _state: Arrays, inputs: Arrays) -> dict[str, Any]:
    """Two-way identification of given features, PixCorr and SSIM of given images."""
    true, made, real, predicted = (
        torch.from_numpy(inputs[key]) for key in ("images", "recons", "feat_real", "feat_pred")
    )
    found = two_way(correlations(real.flatten(1), predicted.flatten(1)))
    size = hyperparameters["resize_to"]
    similar = structural_similarity(true, made, size=size)
    return {
        "two_way": np.float64(found.score),
        "two_way_counts": found.wins,
        "pixcorr": pixel_correlation(true, made, size=size).mean().numpy(),
        "ssim": similar.mean().numpy(),
        "ssim_per_image": similar.numpy(),
    }


MODULES: dict[str, Callable[[Mapping[str, Any], Arrays, Arrays], dict[str, Any]]] = {"metrics": metrics}
