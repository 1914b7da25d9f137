"""Nested regions through the whole chain: the published channel order, the published precedence."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch

from chiasm.pipelines.engine.options import RunOptions
from chiasm.pipelines.engine.stage import Context
from chiasm.pipelines.recipes import load_recipe
from chiasm.pipelines.segmentation import build


def brats_network(batch: torch.Tensor) -> torch.Tensor:
    """The channels TC, WT, ET of an image whose intensity is the label itself."""
    values = batch.round()
    members = ((1, 4), (1, 2, 4), (4,))
    inside = [sum((values == label).float() for label in labels) for labels in members]
    return torch.cat(inside, dim=1) * 20 - 10


def test_whole_tumour_does_not_overwrite_the_core_inside_it(
    save: Callable[..., Path], recipe_of: Callable[..., Any], session_of: Callable[..., Any], context: Context
) -> None:
    labels = np.zeros((20, 20, 20), dtype=np.int16)
    labels[3:17, 3:17, 3:17] = 2
    labels[6:14, 6:14, 6:14] = 4
    labels[8:12, 8:12, 8:12] = 1
    published = load_recipe("brain-tumour")
    recipe = recipe_of(regions=[region.model_dump() for region in published.regions], labels=published.labels)
    context.components = {"network": brats_network}
    item: Any = session_of(T1w=save(labels))
    for stage in build(recipe, RunOptions()).stages[:5]:
        item = stage.run(item, context)
    np.testing.assert_array_equal(item.labelled.labels, np.asarray(nib.load(save(labels)).dataobj))
    ml = {measure.name: measure.volume_ml for measure in item.measures}
    assert ml["TC"] == (8**3) / 1000
    assert ml["WT"] == (14**3) / 1000
