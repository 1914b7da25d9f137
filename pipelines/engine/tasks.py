"""Which module builds the pipeline of a recipe."""

from __future__ import annotations

from importlib import import_module

from ..recipes import BaseRecipe, Recipe
from .options import RunOptions
from .plan import Plan
from .stage import Pipeline

BUILDERS = {"segmentation": "chiasm.pipelines.segmentation", "dementia": "chiasm.pipelines.dementia"}
"""Recipe field ``pipeline`` -> module with ``build(recipe, options) -> Pipeline``: an allow-list, never a user's path."""


SPEECH_ACTIVATIONS = 700 * 1024**2
"""Of one interview through text and audio encoder with their attention kept (measured: docs/dementia.md)."""


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
        return SPEECH_ACTIVATIONS
    from .footprint import plan_bytes

    return plan_bytes(recipe, plan)
