"""From logits in the model's space to labels on the input's own grid."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...data.geometry import slab_argmax, slab_regions
from ...heads.regions import RegionTable
from ..engine.stage import Context, Stage
from ..recipes import Recipe
from .items import BoolArray, Case, Labelled, Logits, Space


def n_outputs(recipe: Recipe) -> int:
    """Return how many channels the network must answer with: regions, or the background and every label."""
    return len(recipe.regions) if recipe.regions else max(recipe.labels) + 1


class Restore(Stage):
    """Decide the labels, slab by slab, on the grid of the input.

    Parameters
    ----------
    recipe : Recipe
        Exclusive labels (largest logit) or nested regions (logit > 0, inner ones overwrite outer ones).
    probabilities : bool
        Whether to make probability maps too.
    """

    name = "restore"
    consumes = Logits
    produces = Labelled

    def __init__(self, recipe: Recipe, *, probabilities: bool = False) -> None:
        self.recipe, self.probabilities = recipe, probabilities

    def run(self, item: Logits, context: Context) -> Labelled:
        """Restore one patient."""
        space = item.space
        resampling = None if space.resampling.is_identity else space.resampling
        if self.recipe.regions:
            writes = [(k, self.recipe.regions[k].write) for k in RegionTable(self.recipe.regions).writing_order]
            turned = slab_regions(item.values, writes, resampling, crop=space.crop)
        else:
            turned = slab_argmax(item.values, resampling, crop=space.crop)
        labels = space.canonical.inverse(turned)
        mask = _native_mask(item.case, space)
        if mask is not None:
            labels *= mask
        maps = self._probabilities(item, mask) if self.probabilities else {}
        return Labelled(labels=labels, case=item.case, mask=mask, probabilities=maps)

    def _probabilities(self, item: Logits, mask: BoolArray | None) -> dict[str, NDArray[np.uint8]]:
        if self.recipe.regions:
            named = {region.name: channel for channel, region in enumerate(self.recipe.regions)}
            total = None
        else:
            named = {name: value for value, name in self.recipe.labels.items()}
            total = torch.logsumexp(item.values, dim=0)
        return {name: _restored(_probability(item.values[k], total), item.space, mask) for name, k in named.items()}

    def predict_bytes(self, n_voxels: int) -> int:
        """Logits, labels, mask, one channel of probabilities and, where they are asked for, all maps."""
        k = n_outputs(self.recipe)
        return n_voxels * (4 * k + 4 + 3 + ((12 + k) if self.probabilities else 0))


def _native_mask(case: Case, space: Space) -> BoolArray | None:
    if case.mask is None or case.target is None:
        return case.mask
    # `--prepare` made the mask on the model's grid.
    inside: BoolArray = space.canonical.inverse(space.resampling.to_source(case.mask.astype(np.float32)) > 0.5)
    return inside


def _probability(logits: Tensor, total: Tensor | None) -> NDArray[np.float32]:
    values = torch.sigmoid(logits) if total is None else torch.exp(logits - total)
    result: NDArray[np.float32] = values.float().cpu().numpy()
    return result


def _restored(values: NDArray[np.float32], space: Space, mask: BoolArray | None) -> NDArray[np.uint8]:
    """Return one probability map on the output grid as steps of 1/255; 0 outside crop and mask."""
    whole = space.crop.paste(values)
    turned: NDArray[Any] = whole if space.resampling.is_identity else space.resampling.to_source(whole)
    steps: NDArray[np.uint8] = np.rint(np.clip(turned, 0, 1) * 255).astype(np.uint8)
    native = space.canonical.inverse(steps)
    return native if mask is None else native * mask
