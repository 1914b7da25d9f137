"""Weights folders of brain networks: part ``model`` is the network, part ``prior`` its diffusion prior where it has one.

Their ``config.json`` holds ``parameters`` (of the network's config), ``n_voxels`` (subject -> voxels), ``prior`` (fields of
`PriorNetworkConfig` and `DiffusionPriorConfig`) and ``target``; `chiasm train` adds statistics of the voxels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from torch import nn

from .components import configure
from .tensors import fill, read_tensors
from .weights import WeightsFolder

if TYPE_CHECKING:
    from ...heads.diffusion_prior import DiffusionPrior


def build_brain(kind: str, parameters: Mapping[str, Any], n_voxels: Mapping[str, int]) -> nn.Module:
    """Build a brain network of a kind with fresh weights.

    Raises
    ------
    RecipeError
        ``CHI-RC-061`` wrong parameters.
    """
    if kind == "mindeye-low-level":
        from ...encoders.low_level import LowLevelConfig, LowLevelNetwork

        return LowLevelNetwork(configure(LowLevelConfig, parameters, kind), n_voxels)
    from ..training.fmri.model import build_network

    return build_network(kind, parameters, n_voxels)


def build_prior(parameters: Mapping[str, Any]) -> DiffusionPrior:
    """Build a diffusion prior from fields of its two configs, which have no name in common.

    Raises
    ------
    RecipeError
        ``CHI-RC-061`` wrong parameters.
    """
    from ...heads.diffusion_prior import DiffusionPrior, DiffusionPriorConfig
    from ...heads.prior_network import PriorNetworkConfig

    own = {field.name for field in fields(PriorNetworkConfig)}
    network = configure(PriorNetworkConfig, {k: v for k, v in parameters.items() if k in own}, "diffusion-prior")
    config = configure(DiffusionPriorConfig, {k: v for k, v in parameters.items() if k not in own}, "diffusion-prior")
    return DiffusionPrior(network, config)


def load_brain(folder: WeightsFolder) -> tuple[nn.Module, DiffusionPrior | None]:
    """Load a brain network, and its prior where the folder has one, on the CPU, in evaluation mode.

    Raises
    ------
    WeightsError, RecipeError
        ``CHI-WT-004``, ``CHI-WT-005``; ``CHI-RC-061``.
    """
    config = folder.config
    network = build_brain(config["kind"], config.get("parameters", {}), config.get("n_voxels", {}))
    fill(network, read_tensors(folder.files["model"]), folder.name)
    if "prior" not in folder.files:
        return network.eval(), None
    given = config.get("parameters", {})
    # `chiasm train` writes what its recipe says; width and number of tokens are those of the network
    shape = {"dim": given["width"], "num_tokens": given["tokens"]} if {"width", "tokens"} <= set(given) else {}
    prior = build_prior({**shape, **(config.get("prior") or {})})
    fill(prior, read_tensors(folder.files["prior"]), f"{folder.name}, prior")
    return network.eval(), prior.eval()


def load_modules(folder: WeightsFolder) -> nn.Module:
    """Load whatever a folder of images from fMRI holds as one module: a brain network and its prior, or a small picture network.

    Raises
    ------
    WeightsError, RecipeError
        As `load_brain`.
    """
    kind, parameters = folder.config["kind"], folder.config.get("parameters", {})
    network: nn.Module
    if kind == "small-image-tokens":
        from ...encoders.small_image_tokens import SmallImageTokens, SmallImageTokensConfig

        network = SmallImageTokens(configure(SmallImageTokensConfig, parameters, kind))
    elif kind == "small-image-decoder":
        from ...heads.image_decoders.small_unet import SmallUNet, SmallUNetConfig

        network = SmallUNet(configure(SmallUNetConfig, parameters, kind))
    else:
        brain, prior = load_brain(folder)
        return nn.ModuleList([brain] if prior is None else [brain, prior])
    fill(network, read_tensors(folder.files["model"]), folder.name)
    return network.eval()
