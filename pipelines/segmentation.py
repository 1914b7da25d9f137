"""Patients in, labels out: names the stages of the segmentation pipeline, nothing else."""

from __future__ import annotations

from .engine.options import RunOptions
from .engine.stage import Pipeline, Stage
from .recipes import Recipe


def build(recipe: Recipe, options: RunOptions) -> Pipeline:
    """Return the pipeline of a segmentation recipe; nothing is loaded yet."""
    from .stages.brain_mask import BrainMask
    from .stages.measure import Measure
    from .stages.prepare import Prepare
    from .stages.prepare_channels import PrepareChannels
    from .stages.read_channels import ReadChannels
    from .stages.report import Report
    from .stages.restore import Restore, n_outputs
    from .stages.windows import Windows
    from .stages.write import Write

    stages: list[Stage] = [ReadChannels(recipe, mask_folder=options.mask_folder, prepare=options.prepare)]
    if options.prepare:
        stages.append(PrepareChannels(recipe))
    if "mask" in recipe.components and (options.prepare or recipe.space.crop == "mask"):
        stages.append(BrainMask())
    stages += [
        Prepare(recipe),
        Windows(recipe.windows, n_outputs=n_outputs(recipe), probabilities=options.probabilities),
        Restore(recipe, probabilities=options.probabilities),
        Measure(recipe),
        Write(recipe),
        Report(recipe, single_file=options.single_file),
    ]
    return Pipeline("segmentation", stages)
