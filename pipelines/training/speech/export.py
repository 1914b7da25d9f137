"""The weights folder of a study: what `chiasm run` loads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import load_file

from ....data.interviews import Interview
from ...engine.tensors import write_folder
from ...engine.weights import find
from ...evaluation.conformal import fit_conformal
from ...speech_recipe import SpeechRecipe
from .fits import MODEL, FitResult, FitSpec
from .results import Answered
from .settings import SpeechTraining


def chosen_fit(results: Sequence[tuple[FitSpec, FitResult]]) -> tuple[FitSpec, FitResult]:
    """Return the fit with the least validation loss: the test set has no say."""
    return min(results, key=lambda one: min((entry["validation_loss"] for entry in one[1].history), default=np.inf))


def export(
    main: Answered,
    who: Mapping[str, Interview],
    recipe: SpeechRecipe,
    settings: SpeechTraining,
    study: Path,
    *,
    phantom: bool,
    summary: Mapping[str, Any],
) -> Path:
    """Write ``STUDY/weights``: tensors, config with temperature and prediction sets, model card.

    Parameters
    ----------
    main : Answered
        The model's fits.
    who : mapping of str to Interview
    recipe : SpeechRecipe
    settings : SpeechTraining
    study : Path
    phantom : bool
        Whether the training data say of themselves that they are synthetic.
    summary : mapping
        Scores for the card.
    """
    spec, result = chosen_fit(main.results)
    sets = fit_conformal(
        Answered(row=main.row, results=((spec, result),)).predictions(who, recipe.classes, side="validation"),
        error_rate=recipe.answer.error_rate,
    )
    labels = [who[name].label for name in (*spec.train, *spec.validation)]
    parameters = {**spec.classifier, "classes": len(recipe.classes)}
    encoders = {name: find(recipe.components[name].weight_names[0]) for name in ("text", "audio")}
    tensors = load_file(study / spec.folder / MODEL)
    parameters["text_width"], parameters["audio_width"] = _widths(tensors, parameters)
    config = {
        "kind": "two-stream",
        "parameters": parameters,
        "channels": ["audio", "transcript"],
        "output": list(recipe.classes),
        "encoders": {name: {"weights": folder.name, "sha256": folder.sha256} for name, folder in encoders.items()},
        "encoders_trained": settings.encoders == "finetune",
        "audio": recipe.audio.model_dump(mode="json"),
        "transcript": recipe.transcript.model_dump(mode="json"),
        "temperature": round(result.temperature, 6),
        "prediction_sets": {
            "error_rate": sets.error_rate,
            "thresholds": [round(float(t), 6) for t in sets.thresholds],
            "n": list(sets.n),
        },
        "trained_share": [round(labels.count(label) / len(labels), 6) for label in recipe.classes],
        "training": {
            "seed": spec.seed,
            "part": spec.part,
            "persons": len({who[n].person for n in spec.train}),
            "epochs": result.best_epoch,
        },
        "training_data": "synthetic" if phantom else "real",
        "statement": "person",
        "licence": "that of the training data",
        "source": f"chiasm train {recipe.name}",
    }
    write_folder(study / "weights", {"model": tensors}, config, _card(recipe, config, summary))
    return study / "weights"


def _widths(tensors: Mapping[str, Any], parameters: Mapping[str, Any]) -> tuple[int, int]:
    width = {}
    for stream in ("text", "audio"):
        weight = tensors.get(f"classifier.{stream}.project.weight")
        width[stream] = int(weight.shape[1]) if weight is not None else 1
    return width["text"], width["audio"]


def _card(recipe: SpeechRecipe, config: Mapping[str, Any], summary: Mapping[str, Any]) -> str:
    synthetic = config["training_data"] == "synthetic"
    warning = (
        "Trained on **synthetic interviews**. It says nothing about any person, and Chiasm refuses it on real input.\n"
        if synthetic
        else "Research use only; not a medical device, and no diagnosis.\n"
    )
    scores = "\n".join(f"- {name}: {text}" for name, text in summary.items())
    return (
        f"# {recipe.title}\n\n{warning}\nMade by `{config['source']}`; seed {config['training']['seed']}, "
        f"{config['training']['persons']} training persons, epoch {config['training']['epochs']}. The fit with the least validation loss "
        f"among the study's seeds; temperature {config['temperature']:.3f} fitted on the same validation persons.\n\n"
        f"## Scores on the test persons of the study (all seeds)\n\n{scores}\n\n"
        "The result table with baselines and controls stands in the study's report; without it these scores mean little.\n"
    )
