"""A brain network with its prior: built from a recipe, filled from a weights folder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, cast

from torch import Tensor, nn

from ....data.errors import RecipeError
from ....encoders.brain_tokens import BrainTokens
from ....encoders.target_spaces import TargetSpace, target_space
from ....heads.diffusion_prior import DiffusionPrior
from ...engine.brain_weights import build_prior
from ...engine.components import configure
from ...fmri_recipe import FmriRecipe

CODES: dict[str, str] = {
    "CHI-RC-151": "A brain network of one subject is given several, or a part that its kind does not have.",
}


class BrainNetwork(Protocol):
    """What every brain network can do."""

    n_voxels: dict[str, int]

    def __call__(self, voxels: Tensor, subject: str) -> BrainTokens:
        """Map (B, V) to tokens."""

    def add_subject(self, label: str, n_voxels: int) -> None:
        """Give a newcomer parameters of its own."""

    def subject_parameters(self, subject: str) -> list[nn.Parameter]:
        """Return what belongs to one subject."""


class BrainModel(nn.Module):
    """A brain network and, where the recipe has one, its diffusion prior.

    Parameters
    ----------
    kind : str
        Of the network: ``mindeye``, ``mindeye2``, ``mindbridge`` or ``ridge``.
    network : nn.Module
    prior : DiffusionPrior, optional
    """

    def __init__(self, kind: str, network: nn.Module, prior: DiffusionPrior | None) -> None:
        super().__init__()
        self.kind, self.network, self.prior = kind, network, prior

    @property
    def n_voxels(self) -> dict[str, int]:
        """Subject -> voxels."""
        return self.brain.n_voxels

    @property
    def brain(self) -> BrainNetwork:
        """The network as what every brain network is."""
        return cast(BrainNetwork, self.network)


def network_parameters(recipe: FmriRecipe) -> dict[str, Any]:
    """Return the network's parameters: what the recipe says, and the shapes that follow from its target."""
    space = target_space(recipe.target)
    given = dict(recipe.components["network"].parameters)
    shape: dict[str, Any] = {"tokens": space.tokens, "width": space.width}
    if recipe.network_kind == "mindbridge" and recipe.text_target is not None:
        text = target_space(recipe.text_target)
        shape |= {"text_tokens": text.tokens, "text_width": text.width}
    if recipe.low_level is not None and "low_level" not in given and recipe.network_kind == "mindeye2":
        given["low_level"] = low_level_parameters(target_space(recipe.low_level))
    return {**shape, **given}


def low_level_parameters(space: TargetSpace) -> dict[str, Any]:
    """Return a low-level head for a space of latents: that of MindEye2 for 28 x 28 latents, one convolution for thumbnails."""
    if space.latent is None:
        raise RecipeError(
            "CHI-RC-151", f"low_level: '{space.name}' is no space of latents.", "Name sd-vae-224 or thumbnail-8."
        )
    channels, side, _ = space.latent
    if side <= 16:
        return {"channels": 16, "side": side, "widths": [], "latent_channels": channels, "auxiliary": 0}
    return {"latent_channels": channels, "side": side // 4}


def build_model(recipe: FmriRecipe, n_voxels: Mapping[str, int]) -> BrainModel:
    """Build a model with fresh weights for some subjects.

    Raises
    ------
    RecipeError
        ``CHI-RC-061`` wrong parameters, ``CHI-RC-151``.
    """
    kind = recipe.network_kind
    network = build_network(kind, network_parameters(recipe), n_voxels)
    return BrainModel(kind, network, fresh_prior(recipe))


def build_network(kind: str, parameters: Mapping[str, Any], n_voxels: Mapping[str, int]) -> nn.Module:
    """Build a brain network of a kind."""
    if kind == "mindeye2":
        from ....encoders.mindeye2 import LowLevelHeadConfig, MindEye2Config, MindEye2Network

        given = dict(parameters)
        if given.get("low_level") is not None:
            given["low_level"] = configure(LowLevelHeadConfig, given["low_level"], "mindeye2, low_level")
        return MindEye2Network(configure(MindEye2Config, given, kind), n_voxels)
    if kind == "mindeye":
        from ....encoders.mindeye import MindEyeConfig, MindEyeNetwork

        if len(n_voxels) != 1:
            raise RecipeError(
                "CHI-RC-151",
                f"MindEye has one subject, and {len(n_voxels)} are given.",
                "Name one with --subjects, or take a MindEye2 or MindBridge recipe.",
            )
        return MindEyeNetwork(configure(MindEyeConfig, parameters, kind), n_voxels)
    if kind == "mindbridge":
        from ....encoders.mindbridge import MindBridgeConfig, MindBridgeNetwork

        return MindBridgeNetwork(configure(MindBridgeConfig, parameters, kind), n_voxels)
    if kind == "ridge":
        from ....encoders.ridge import RidgeNetwork, RidgeNetworkConfig

        return RidgeNetwork(configure(RidgeNetworkConfig, parameters, kind), n_voxels)
    raise ValueError(f"no brain network is called '{kind}'")


def prior_parameters(recipe: FmriRecipe) -> dict[str, Any] | None:
    """Return the prior's parameters: what the recipe says, and the shapes that follow from its target; None without a prior."""
    spec = recipe.components.get("prior")
    if spec is None:
        return None
    space = target_space(recipe.target)
    return {"dim": space.width, "num_tokens": space.tokens, **spec.parameters}


def fresh_prior(recipe: FmriRecipe) -> DiffusionPrior | None:
    """Build the recipe's prior with fresh weights, or None."""
    parameters = prior_parameters(recipe)
    return None if parameters is None else build_prior(parameters)


def count_parameters(model: nn.Module) -> int:
    """Return how many numbers are trained."""
    return sum(parameter.numel() for parameter in model.parameters())
