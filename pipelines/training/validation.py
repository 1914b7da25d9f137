"""Validation while training: whole volumes through sliding windows, Dice and HD95 a region."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ...heads.segmenter import sliding_windows
from ..evaluation.segmentation import brats_scores
from ..recipes import Recipe
from .cases import PreparedCase, region_masks

Regions = dict[str, NDArray[np.bool_]]


@torch.no_grad()
def predict(
    network: nn.Module, image: Tensor, recipe: Recipe, *, device: str = "cpu", bfloat16: bool = False
) -> Tensor:
    """Return the blended logits of a volume (C, X, Y, Z) on the network's grid: (K, X, Y, Z) on the CPU."""
    with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=bfloat16):
        logits = sliding_windows(
            image.to(device),
            lambda batch: network(batch).float(),
            size=recipe.windows.size,
            overlap=recipe.windows.overlap,
            blend=recipe.windows.blend,
        )
    return logits.cpu()


def predicted_regions(logits: Tensor, recipe: Recipe) -> Regions:
    """Return a mask a region (sigmoid > 0.5) or a label (largest logit)."""
    if recipe.regions:
        return {region.name: (one > 0).numpy() for region, one in zip(recipe.regions, logits, strict=True)}
    best = logits.numpy().argmax(axis=0)
    return {name: best == label for label, name in recipe.labels.items()}


def true_regions(labels: NDArray[np.uint8], recipe: Recipe) -> Regions:
    """Return the reference masks, named as in `predicted_regions`."""
    if recipe.regions:
        masks = region_masks(labels, recipe).astype(bool)
        return {region.name: mask for region, mask in zip(recipe.regions, masks, strict=True)}
    return {name: labels == label for label, name in recipe.labels.items()}


def score_volumes(
    network: nn.Module,
    volumes: Iterable[tuple[Tensor, NDArray[np.uint8], Sequence[float]]],
    recipe: Recipe,
    *,
    device: str = "cpu",
    bfloat16: bool = False,
) -> dict[str, float]:
    """Average Dice and HD95 (mm) over volumes.

    Parameters
    ----------
    network : Module
        In evaluation mode.
    volumes : iterable of (image, labels, spacing in mm)
        On the network's grid: (C, X, Y, Z) and (X, Y, Z).
    recipe : Recipe
    device : str
    bfloat16 : bool

    Returns
    -------
    dict
        ``dice`` (mean over regions), ``dice_<region>`` and ``hd95_mm_<region>``; an empty region follows the BraTS rules
        (1 and 0 where it is empty in both, 0 and 373.13 where in one).
    """
    found: dict[str, list[tuple[float, float]]] = {}
    for image, labels, spacing in volumes:
        predicted = predicted_regions(predict(network, image, recipe, device=device, bfloat16=bfloat16), recipe)
        for name, truth in true_regions(labels, recipe).items():
            found.setdefault(name, []).append(brats_scores(predicted[name], truth, spacing))
    scores: dict[str, float] = {}
    for name, pairs in found.items():
        dice, hd95 = np.array(pairs).mean(axis=0)
        scores[f"dice_{name}"], scores[f"hd95_mm_{name}"] = round(float(dice), 4), round(float(hd95), 3)
    dices = [value for key, value in scores.items() if key.startswith("dice_")]
    return {"dice": round(float(np.mean(dices)), 4), **scores} if dices else {}


def case_volumes(cases: Iterable[PreparedCase]) -> Iterable[tuple[Tensor, NDArray[np.uint8], Sequence[float]]]:
    """Yield prepared cases as `score_volumes` wants them."""
    for case in cases:
        image = np.load(case.image, allow_pickle=False).astype(np.float32)
        yield torch.from_numpy(image), np.load(case.labels, allow_pickle=False), case.spacing_mm
