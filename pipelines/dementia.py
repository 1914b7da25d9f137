"""Interviews in, calibrated and explained answers out: names the stages of dementia from speech, nothing else."""

from __future__ import annotations

from .engine.options import RunOptions
from .engine.stage import Pipeline
from .speech_recipe import SpeechRecipe


def build(recipe: SpeechRecipe, options: RunOptions) -> Pipeline:
    """Return the pipeline of a dementia recipe; nothing is loaded yet."""
    from .stages.speech.stages import Classify, Listen, SpeechReport, WriteAnswer

    return Pipeline(
        "dementia",
        [Listen(recipe), Classify(recipe), WriteAnswer(recipe), SpeechReport(recipe, single_file=options.single_file)],
    )
