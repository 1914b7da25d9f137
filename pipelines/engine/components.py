"""Build a recipe's networks from an allow-list of kinds and fill them with weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import nn

from ...data.errors import RecipeError, WeightsError, did_you_mean
from .tensors import check_fit, fill, read_tensors
from .weights import WeightsFolder, check_synthetic, find_all

if TYPE_CHECKING:
    from ..recipes import BaseRecipe, ComponentSpec

CODES = {
    "CHI-RC-060": "A component's kind is not on the list of kinds.",
    "CHI-RC-061": "A component's parameter is unknown or has a value that the network does not take.",
}

SPEECH_KINDS = frozenset({"image-transformer", "silero-vad", "text-transformer", "two-stream", "whisper-encoder"})
"""Kinds of the dementia pipeline, which loads them itself (`stages.speech`)."""
FMRI_KINDS = frozenset(
    {"mindeye", "mindeye-low-level", "mindeye2", "mindbridge", "ridge", "small-image-decoder", "small-image-tokens"}
)
"""Kinds of images from fMRI, which `brain_weights` builds: brain networks are made for subjects, and may bring a diffusion prior."""


Config = TypeVar("Config")


def load_components(
    recipe: BaseRecipe, device: str | torch.device, *, input_is_phantom: bool = False
) -> dict[str, object]:
    """Build every component of a recipe, filled, in evaluation mode, in float32, on the device.

    Parameters
    ----------
    recipe : Recipe
    device : str or torch.device
    input_is_phantom : bool
        Whether the input says of itself that it is synthetic (see `weights.check_synthetic`).

    Returns
    -------
    dict of str to object
        Component name -> module (several weights of one component: a `FoldMean`), or a `BrainMasker`.

    Raises
    ------
    WeightsError, RecipeError, SeveralErrors
        Missing (all are listed) or unfit weights, ``CHI-WT-...``; unknown kinds and parameters, ``CHI-RC-06x``.
    """
    if recipe.pipeline == "dementia":
        from ..stages.speech.predictor import load_speech_components

        return load_speech_components(recipe, device, input_is_phantom=input_is_phantom)
    if recipe.pipeline == "fmri-images":
        from ..fmri_recipe import FmriRecipe
        from ..stages.fmri.components import load_fmri_components

        if not isinstance(recipe, FmriRecipe):
            raise TypeError("a recipe of images from fMRI")
        return load_fmri_components(recipe, device, input_is_phantom=input_is_phantom)
    folders = find_all(name for spec in recipe.components.values() for name in spec.weight_names)
    components: dict[str, object] = {}
    for name, spec in recipe.components.items():
        own = [folders[weights] for weights in spec.weight_names]
        for folder in own:
            check_synthetic(folder.config, recipe.pipeline, input_is_phantom)
            if spec.kind != "brain-mask":
                check_channels(folder, [channel for channel in recipe.channels if channel != "mask"])
        components[name] = load_component(spec, own, device, exclusive=not getattr(recipe, "regions", ()))
    return components


def load_component(
    spec: ComponentSpec, folders: Sequence[WeightsFolder], device: str | torch.device, *, exclusive: bool = True
) -> object:
    """Build one component; `exclusive` says whether its channels are classes (softmax) or regions (sigmoid)."""
    kind = _kind(spec.kind)
    if not folders:
        raise WeightsError(
            "CHI-WT-001",
            f"a component of kind '{spec.kind}' has no weights.",
            "Name them in the recipe (components.NAME.weights); `chiasm weights list` shows what there is.",
        )
    for folder in folders:
        _check_agreement(spec, folder)
    if spec.kind == "brain-mask":
        return _brain_masker(folders[0], device)
    loaded = []
    for folder in folders:
        network = kind({**folder.config.get("parameters", {}), **spec.parameters})
        fill(network, read_tensors(folder.files["model"]), folder.name)
        loaded.append(network.eval().requires_grad_(False).to(device))
    return loaded[0] if len(loaded) == 1 else FoldMean(loaded, exclusive=exclusive)


def build_network(kind: str, parameters: Mapping[str, Any]) -> nn.Module:
    """Build a network of a kind with fresh weights, as training does.

    Raises
    ------
    RecipeError
        ``CHI-RC-060`` unknown kind, ``CHI-RC-061`` wrong parameters.
    """
    return _kind(kind)(parameters)


def verify(folder: WeightsFolder) -> str:
    """Load a weights folder into the network that its config names and say what it is, in words.

    Raises
    ------
    WeightsError, RecipeError
        As `load_component`.
    """
    kind, parameters = folder.config.get("kind", ""), folder.config.get("parameters", {})
    if kind == "swin-unetr-encoder":
        network = build_network("swin-unetr", parameters)
        load_encoder(network, folder)
    elif kind in SPEECH_KINDS or (not kind and "model_type" in folder.config):
        from ..stages.speech.verification import speech_network

        kind, network = speech_network(folder)
    elif kind in FMRI_KINDS:
        from .brain_weights import load_modules

        network = load_modules(folder)
    elif kind == "image-judge" or not folder.config:
        # The architecture is another library's: what can be checked here is that every tensor is there and whole.
        count = sum(tensor.numel() for file in folder.files.values() for tensor in read_tensors(file).values())
        return f"{kind or 'pipeline'}, {count:,} numbers, sha256 {folder.sha256[:12]}"
    else:
        for file in folder.files.values():
            network = build_network(kind, parameters)
            fill(network, read_tensors(file), folder.name)
    count = sum(parameter.numel() for parameter in network.parameters())
    return f"{kind}, {count:,} parameters, sha256 {folder.sha256[:12]}"


def load_encoder(network: nn.Module, folder: WeightsFolder) -> list[str]:
    """Start a Swin UNETR from a pretrained encoder; return the tensors that keep their fresh values, in words.

    Only the patch embedding may have another shape (self-supervision had one channel, MRI has four).

    Raises
    ------
    WeightsError
        ``CHI-WT-005`` where anything else does not fit.
    """
    own = {key: value for key, value in network.state_dict().items() if key.startswith("swinViT.")}
    tensors = read_tensors(folder.files["model"])
    embedding = "swinViT.patch_embed.proj.weight"
    kept = []
    if embedding in own and embedding in tensors and own[embedding].shape[1] != tensors[embedding].shape[1]:
        kept = [f"{embedding}: {tensors[embedding].shape[1]} channels there, {own[embedding].shape[1]} here"]
        del tensors[embedding], own[embedding]
    check_fit(own, tensors, folder.name)
    network.load_state_dict(tensors, strict=False)
    return kept


class FoldMean(nn.Module):
    """Average the probabilities of networks trained on different folds; in and out as one of them (logits).

    Parameters
    ----------
    networks : sequence of nn.Module
    exclusive : bool
        Channels are classes of which one holds (softmax) or regions that may overlap (sigmoid).
    """

    def __init__(self, networks: Sequence[nn.Module], *, exclusive: bool) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)
        self.exclusive = exclusive

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (B, C, ...) to logits (B, K, ...) whose sigmoid or softmax is the mean of the folds' own."""
        logits = [network(x).float() for network in self.networks]
        if self.exclusive:
            return torch.stack([one.log_softmax(1) for one in logits]).logsumexp(0)
        inside = torch.stack([nn.functional.logsigmoid(one) for one in logits]).logsumexp(0)
        outside = torch.stack([nn.functional.logsigmoid(-one) for one in logits]).logsumexp(0)
        return inside - outside


def configure(config_class: type[Config], parameters: Mapping[str, Any], kind: str) -> Config:
    """Make a config dataclass from a recipe's parameters (lists become tuples).

    Raises
    ------
    RecipeError
        ``CHI-RC-061``, with every unknown name, or with the reason that the config itself gives.
    """
    allowed = [field.name for field in dataclasses.fields(config_class)]  # type: ignore[arg-type]
    unknown = [
        f"'{name}' is no parameter of it.{did_you_mean(name, allowed)}" for name in parameters if name not in allowed
    ]
    if unknown:
        raise RecipeError("CHI-RC-061", f"{kind}: {' '.join(unknown)}", f"Allowed: {', '.join(allowed)}.")
    try:
        return config_class(**{name: as_tuples(value) for name, value in parameters.items()})
    except (TypeError, ValueError) as error:
        raise RecipeError("CHI-RC-061", f"{kind}: {error}.", "Mend components.NAME.parameters in the recipe.") from None


def as_tuples(value: Any) -> Any:
    """Return lists, at any depth, as tuples."""
    return tuple(as_tuples(item) for item in value) if isinstance(value, list | tuple) else value


def check_channels(folder: WeightsFolder, channels: Sequence[str]) -> None:
    """Compare a recipe's channels with those that the weights were trained with, where their config names them.

    Raises
    ------
    WeightsError
        ``CHI-WT-008``: other channels, or another order. The tensors do not show the order, and a wrong one gives a
        wrong result without any other sign.
    """
    pinned = folder.config.get("channels")
    if pinned and [str(name).casefold() for name in pinned] != [name.casefold() for name in channels]:
        raise WeightsError(
            "CHI-WT-008",
            f"'{folder.name}' was trained with the channels {', '.join(map(str, pinned))}; "
            f"the recipe gives {', '.join(channels)}.",
            "Write the recipe's channels in the order of the weights.",
        )


def _kind(name: str) -> Callable[[Mapping[str, Any]], nn.Module]:
    if name not in KINDS:
        raise RecipeError(
            "CHI-RC-060",
            f"no component kind '{name}'.{did_you_mean(name, list(KINDS))}",
            f"Allowed: {', '.join(KINDS)}.",
        )
    return KINDS[name]


def _check_agreement(spec: ComponentSpec, folder: WeightsFolder) -> None:
    """Shapes cannot show every disagreement (patch merging, norms without weights), so names are compared too."""
    theirs, wrong = folder.config.get("parameters", {}), []
    if folder.config.get("kind", spec.kind) != spec.kind:
        wrong.append(f"kind is '{folder.config['kind']}' in config.json and '{spec.kind}' in the recipe")
    wrong += [
        f"{name} is {theirs[name]} in config.json and {spec.parameters[name]} in the recipe"
        for name in sorted(set(theirs) & set(spec.parameters))
        if as_tuples(theirs[name]) != as_tuples(spec.parameters[name])
    ]
    if wrong:
        raise WeightsError(
            "CHI-WT-009",
            f"'{folder.name}': {'; '.join(wrong)}.",
            "Leave the parameters out of the recipe: the weights bring them.",
        )


def _linknet3d(parameters: Mapping[str, Any]) -> nn.Module:
    from ...encoders.linknet3d import LinkNet3d, LinkNet3dConfig

    return LinkNet3d(configure(LinkNet3dConfig, parameters, "brain-mask"))


def _unet3d(parameters: Mapping[str, Any]) -> nn.Module:
    from ...encoders.unet3d import UNet3d, UNet3dConfig

    return UNet3d(configure(UNet3dConfig, parameters, "unet3d"))


def _swin_unetr(parameters: Mapping[str, Any]) -> nn.Module:
    from ...encoders.swin_unetr import SwinUnetrConfig, swin_unetr

    return swin_unetr(configure(SwinUnetrConfig, parameters, "swin-unetr"))


def _monai(parameters: Mapping[str, Any]) -> nn.Module:
    from ...encoders.monai_networks import build

    return build(parameters)


def _brain_masker(folder: WeightsFolder, device: str | torch.device) -> object:
    from ...heads.brain_mask import BrainMasker

    if set(folder.files) != {"coarse", "fine"}:
        raise WeightsError(
            "CHI-WT-002",
            "brain-mask weights have two parts, coarse and fine.",
            "Name both in config.json under 'files'.",
        )
    networks = []
    for part in ("coarse", "fine"):
        network = _linknet3d(folder.config.get("parameters", {}))
        fill(network, read_tensors(folder.files[part]), f"{folder.name}, {part}")
        networks.append(network.requires_grad_(False).to(device))
    return BrainMasker(*networks)


KINDS: dict[str, Callable[[Mapping[str, Any]], nn.Module]] = {
    "brain-mask": _linknet3d,
    "unet3d": _unet3d,
    "swin-unetr": _swin_unetr,
    "monai": _monai,
}
"""Kind in a recipe -> builder from parameters to a network with fresh weights."""
