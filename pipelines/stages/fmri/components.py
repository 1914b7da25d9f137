"""Load what images from fMRI need: brain model, scalers, target encoder, decoder, all checked against each other."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ....data.errors import WeightsError
from ....data.fmri.scaling import VoxelScaler
from ....encoders.target_spaces import TargetEncoder, load_target
from ...engine.brain_weights import load_brain
from ...engine.tensors import read_tensors
from ...engine.weights import WeightsFolder, check_synthetic, find, find_all
from ...fmri_recipe import FmriRecipe
from ...training.fmri.model import BrainModel
from .predictor import ImageMaker, LatentSpace

CODES: dict[str, str] = {
    "CHI-WT-090": "A recipe of images from fMRI names no trained network.",
    "CHI-WT-091": "A brain network was trained for another target space, encoder, region or scaling than the recipe has.",
}


@dataclass(frozen=True, eq=False, kw_only=True)
class TrainedModel:
    """A brain model as trained, with what it needs to see betas as in training.

    Parameters
    ----------
    model : BrainModel
    scalers : dict of str to VoxelScaler
        Subject -> statistics; empty for the authors' checkpoints, whose betas are scaled already.
    folder : WeightsFolder
    """

    model: BrainModel
    scalers: dict[str, VoxelScaler]
    folder: WeightsFolder


def load_trained(recipe: FmriRecipe, folder: WeightsFolder, device: str | torch.device = "cpu") -> TrainedModel:
    """Load network, prior and scalers from a weights folder.

    Raises
    ------
    WeightsError
        ``CHI-WT-005`` tensors that do not fit, ``CHI-WT-091`` other settings.
    """
    config = folder.config
    _check_settings(recipe, config, folder.name)
    network, prior = load_brain(folder)
    model = BrainModel(config["kind"], network, prior if "prior" in recipe.components else None)
    states: dict[str, dict[str, Any]] = {}
    if "scalers" in folder.files:
        for key, value in read_tensors(folder.files["scalers"]).items():
            name, part = key.split("/", 1)
            states.setdefault(name, {})[part] = value.numpy()
    scalers = {name: VoxelScaler.from_state(state) for name, state in states.items()}
    return TrainedModel(model=model.eval().to(device), scalers=scalers, folder=folder)


def _check_settings(recipe: FmriRecipe, config: dict[str, Any], name: str) -> None:
    pairs = {
        "kind": (config.get("kind"), recipe.network_kind),
        "target": ((config.get("target") or {}).get("name", recipe.target), recipe.target),
        "region": (config.get("roi", recipe.betas.roi), recipe.betas.roi),
        "scaling": (config.get("scaling", recipe.betas.scaling), recipe.betas.scaling),
        "low_level": (config.get("low_level", recipe.low_level), recipe.low_level),
    }
    wrong = [
        f"{what} '{trained}' there, '{wanted}' in the recipe"
        for what, (trained, wanted) in pairs.items()
        if trained != wanted
    ]
    if "prior" in recipe.components and not config.get("prior"):
        wrong.append("the recipe has a prior and the weights have none")
    if wrong:
        raise WeightsError(
            "CHI-WT-091",
            f"the network was trained with other settings: {'; '.join(wrong)}.",
            "Use the recipe that it was trained with, or train again.",
            file=name,
        )


def weights_path(recipe: FmriRecipe, component: str) -> Path | None:
    """Return the folder of a component's weights, or None where it names none."""
    spec = recipe.components.get(component)
    if spec is None or not spec.weight_names:
        return None
    return find(spec.weight_names[0]).path


def load_encoder(recipe: FmriRecipe, device: str | torch.device = "cpu") -> TargetEncoder:
    """Load the encoder of the recipe's target space."""
    return load_target(recipe.target, weights_path(recipe, "target"), device)


def load_latents(recipe: FmriRecipe, device: str | torch.device = "cpu") -> Any:
    """Load the low-level space (encoder with `images`), or None."""
    return None if recipe.low_level is None else load_target(recipe.low_level, weights_path(recipe, "latents"), device)


def load_maker(recipe: FmriRecipe, encoder: TargetEncoder, device: str | torch.device = "cpu") -> ImageMaker:
    """Load decoder and low-level space and put them together with the target's encoder."""
    from ....heads.image_decoders.build import load_decoder

    spec = recipe.components.get("decoder")
    decoder = None
    if spec is not None:
        folder = weights_path(recipe, "decoder")
        if folder is None:
            raise WeightsError("CHI-WT-001", "components.decoder names no weights.", "Name them in the recipe.")
        decoder = load_decoder(spec.kind, folder, parameters=spec.parameters, device=str(device))
    latents: LatentSpace | None = load_latents(recipe, device)
    return ImageMaker(recipe, encoder, decoder, latents)


def load_fmri_components(
    recipe: FmriRecipe, device: str | torch.device, *, input_is_phantom: bool
) -> dict[str, object]:
    """Load what the stages of ``chiasm run`` need.

    Raises
    ------
    WeightsError, SeveralErrors
        Missing weights (all at once), phantom-trained ones for a real subject (``CHI-WT-007``), unfit ones.
    """
    names = recipe.components["network"].weight_names
    if not names:
        raise WeightsError(
            "CHI-WT-090",
            f"recipe '{recipe.name}' names no trained network.",
            f"Train one, `chiasm train {recipe.name} DATA OUT`, and run with --weights OUT/weights.",
        )
    folders = find_all(name for spec in recipe.components.values() for name in spec.weight_names)
    folder = folders[names[0]]
    check_synthetic(folder.config, recipe.pipeline, input_is_phantom)
    encoder = load_encoder(recipe, device)
    trained_on = (folder.config.get("target") or {}).get("sha256")
    if trained_on and trained_on != encoder.sha256:
        raise WeightsError(
            "CHI-WT-091",
            "the network was trained on tokens of another encoder (its weights differ).",
            "Give the encoder's weights that it was trained with.",
            file=folder.name,
        )
    return {
        "trained": load_trained(recipe, folder, device),
        "encoder": encoder,
        "maker": load_maker(recipe, encoder, device),
    }
