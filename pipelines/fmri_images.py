"""Betas in, images out: names the stages of images from fMRI, nothing else."""

from __future__ import annotations

from .engine.options import RunOptions
from .engine.stage import Pipeline
from .fmri_recipe import FmriRecipe


def build(recipe: FmriRecipe, options: RunOptions) -> Pipeline:
    """Return the pipeline of a recipe of images from fMRI; nothing is loaded yet."""
    from .stages.fmri.stages import DecodeImages, ImagesReport, OpenBetas, WriteImages

    return Pipeline(
        "fmri-images",
        [
            OpenBetas(recipe),
            DecodeImages(recipe),
            WriteImages(recipe),
            ImagesReport(recipe, single_file=options.single_file),
        ],
    )
