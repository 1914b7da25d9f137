"""``chiasm.load("dementia")``: one person's folder in, a calibrated and explained answer out."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..data.errors import InputError
from ..data.phantoms.marker import is_phantom
from ..data.speech_discovery import speech_sessions
from .engine.components import load_components
from .engine.options import RunOptions
from .engine.plan import Plan
from .engine.stage import Context
from .engine.tasks import build_pipeline
from .engine.weights import check_synthetic, find
from .speech_recipe import SpeechRecipe
from .stages.speech.items import AnsweredCase


@dataclass(frozen=True, eq=False, kw_only=True)
class SpeechResult:
    """What is said about one interview.

    Parameters
    ----------
    probability : dict of str to float
        Class -> calibrated probability.
    prediction_set : tuple of str
        Classes that cannot be ruled out at the recipe's error rate; more than one: not certain.
    modality_share : dict of str to float
        Of the explanation: ``text`` and ``audio``.
    words : tuple of (str, float)
        The participant's words with their relevance for the likelier class (NaN: not read).
    mmse : float, optional
    warnings : tuple of str
    """

    probability: dict[str, float]
    prediction_set: tuple[str, ...]
    modality_share: dict[str, float]
    words: tuple[tuple[str, float], ...]
    mmse: float | None
    warnings: tuple[str, ...]


class SpeechAnswerer:
    """A loaded pipeline; components stay in memory between calls. Use `chiasm.load`."""

    def __init__(self, recipe: SpeechRecipe, plan: Plan) -> None:
        self.recipe, self.plan = recipe, plan
        # Whose recordings will come is not known yet: whether synthetic weights are allowed is asked at every call.
        self._components = load_components(recipe, plan.device, input_is_phantom=True)
        self._pipeline = build_pipeline(recipe, RunOptions())

    def __call__(self, patient: str | Path) -> SpeechResult:
        """Answer for one patient's folder, or one file.

        Raises
        ------
        ChiasmError
            As ``chiasm run`` would report it for the patient; ``CHI-WT-007`` for synthetic weights on a real person.
        """
        root = Path(patient)
        for name in self.recipe.components["classifier"].weight_names:
            check_synthetic(find(name).config, self.recipe.pipeline, is_phantom(root))
        sessions = speech_sessions(root)
        if len(sessions) != 1:
            raise InputError(
                "CHI-IN-084",
                f"chiasm.load takes one patient at a time, and {len(sessions)} were found.",
                "Use chiasm run for a cohort.",
            )
        with tempfile.TemporaryDirectory(prefix="chiasm-") as scratch:
            context = Context(components=self._components, plan=self.plan, out=Path(scratch))
            item: Any = sessions[0]
            for stage in self._pipeline.stages:
                item = stage.run(item, context)
                if isinstance(item, AnsweredCase):
                    break
        return _result(item, context.flags)

    def close(self) -> None:
        """End the decoder's process."""
        listener: Any = self._components["listener"]
        listener.close()


def _result(item: AnsweredCase, flags: list[str]) -> SpeechResult:
    answer, explanation = item.answer, item.answer.explanation
    relevance = explanation.words.tolist() if explanation is not None else []
    return SpeechResult(
        probability=dict(zip(answer.classes, answer.probability, strict=True)),
        prediction_set=answer.prediction_set,
        modality_share={} if explanation is None else dict(zip(("text", "audio"), explanation.shares, strict=True)),
        words=tuple(zip(item.features.words, relevance, strict=False)),
        mmse=answer.mmse,
        warnings=tuple(flags),
    )
