"""Which module builds the pipeline of a recipe."""

from __future__ import annotations

from importlib import import_module

from ..recipes import BaseRecipe
from .options import RunOptions
from .stage import Pipeline

BUILDERS = {"segmentation": "chiasm.pipelines.segmentation"}
"""Recipe field ``pipeline`` -> module with ``build(recipe, options) -> Pipeline``: an allow-list, never a user's path."""


def build_pipeline(recipe: BaseRecipe, options: RunOptions) -> Pipeline:
    """Return the pipeline of a recipe; nothing is loaded yet."""
    module = import_module(BUILDERS[recipe.pipeline])
    pipeline: Pipeline = module.build(recipe, options)
    return pipeline
