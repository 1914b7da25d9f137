"""The weights folder of a trained brain model: network, prior, and the statistics of every subject's voxels."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ....encoders.target_spaces import target_space
from ...engine.tensors import write_folder
from ...fmri_recipe import FmriRecipe
from .model import BrainModel, network_parameters, prior_parameters
from .prepare import Prepared
from .settings import FmriTraining


def export(
    model: BrainModel,
    recipe: FmriRecipe,
    settings: FmriTraining,
    prepared: Prepared,
    out: Path,
    *,
    about: Mapping[str, Any],
) -> Path:
    """Write ``OUT/weights``.

    Parameters
    ----------
    model : BrainModel
        Averaged.
    recipe : FmriRecipe
    settings : FmriTraining
    prepared : Prepared
    out : Path
    about : mapping
        ``phantom`` (bool), ``target_sha256``, ``scores`` (name -> text, for the card), ``carried`` (statistics of subjects that are
        in the model but not in the data: those of the weights that training began with).
    """
    scalers = {**about.get("carried", {}), **scaler_tensors(prepared)}
    parts: dict[str, dict[str, Tensor]] = {"model": dict(model.network.state_dict()), "scalers": scalers}
    if model.prior is not None:
        parts["prior"] = dict(model.prior.state_dict())
    space = target_space(recipe.target)
    config = {
        "kind": model.kind,
        "parameters": network_parameters(recipe),
        "n_voxels": dict(model.n_voxels),
        "prior": prior_parameters(recipe) if model.prior is not None else None,
        "target": {"name": space.name, "sha256": about["target_sha256"], "normalisation": space.normalisation},
        "text_target": recipe.text_target,
        "low_level": recipe.low_level,
        "roi": recipe.betas.roi,
        "scaling": recipe.betas.scaling,
        "training": {
            "settings": settings.model_dump(mode="json"),
            "images": {name: len(one.train) for name, one in prepared.subjects.items()},
            "layout": prepared.data.layout,
        },
        "training_data": "synthetic" if about["phantom"] else "real",
        "statement": "person",
        "licence": "that of the training data",
        "source": f"chiasm train {recipe.name}",
    }
    return write_folder(out / "weights", parts, config, _card(recipe, config, about))


def scaler_tensors(prepared: Prepared) -> dict[str, Tensor]:
    """Return the statistics of every subject's voxels as ``SUBJECT/PART`` tensors."""
    return {
        f"{name}/{key}": torch.from_numpy(value.copy())
        for name, one in prepared.subjects.items()
        for key, value in one.scaler.state().items()
    }


def _card(recipe: FmriRecipe, config: Mapping[str, Any], about: Mapping[str, Any]) -> str:
    warning = (
        "Trained on **phantom brains**. It says nothing about any person, and Chiasm refuses it on real input."
        if config["training_data"] == "synthetic"
        else "Research use only. It knows the subjects below and nobody else."
    )
    subjects = "\n".join(
        f"- {name}: {voxels:,} voxels, {config['training']['images'].get(name, 'no')} training images"
        for name, voxels in config["n_voxels"].items()
    )
    scores = "\n".join(f"- {name}: {text}" for name, text in about.get("scores", {}).items())
    return (
        f"# {recipe.title}\n\n{warning}\n\nMade by `{config['source']}`: {config['kind']}, target space `{config['target']['name']}`, "
        f"region `{config['roi']}`, voxels scaled by `{config['scaling']}` of training trials.\n\n## Subjects\n\n{subjects}\n\n"
        f"## Scores on the test images\n\n{scores}\n\nBaselines, chance and intervals stand in the report beside the folder.\n"
    )
