"""Which module builds the pipeline of a recipe."""

from __future__ import annotations

from importlib import import_module

from ..recipes import BaseRecipe, Recipe
from .options import RunOptions
from .plan import Plan
from .stage import Pipeline

BUILDERS = {
    "segmentation": "chiasm.pipelines.segmentation",
    "dementia": "chiasm.pipelines.dementia",
    "fmri-images": "chiasm.pipelines.fmri_images",
}
"""Recipe field ``pipeline`` -> module with ``build(recipe, options) -> Pipeline``: an allow-list, never a user's path."""


ACTIVATIONS = {"dementia": 700 * 1024**2, "fmri-images": 600 * 1024**2}
"""Task -> bytes of one interview through text and audio encoder with their attention kept, or of one batch through brain network and
small decoder (measured: docs/dementia.md, docs/fmri-images.md)."""


def build_pipeline(recipe: BaseRecipe, options: RunOptions) -> Pipeline:
    """Return the pipeline of a recipe; nothing is loaded yet."""
    module = import_module(BUILDERS[recipe.pipeline])
    pipeline: Pipeline = module.build(recipe, options)
    return pipeline


def activation_bytes(recipe: BaseRecipe, plan: Plan) -> int:
    """Return what a recipe's networks hold in main memory during a forward pass of the plan's batch."""
    if plan.device != "cpu":
        return 0
    if not isinstance(recipe, Recipe):
        return ACTIVATIONS[recipe.pipeline]
    from .footprint import plan_bytes

    return plan_bytes(recipe, plan)
