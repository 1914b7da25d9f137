"""Judges from local weights: what is there is read exactly, what is not there is named with its place."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from chiasm.data.errors import WeightsError
from chiasm.encoders import efficientnet_lite
from chiasm.pipelines.evaluation.images import feature_networks
from chiasm.pipelines.evaluation.images.feature_networks import (
    NETWORKS,
    FeatureNetwork,
    NetworkSpec,
    load_network,
    load_networks,
)
from chiasm.pipelines.evaluation.images.pixel_metrics import resized


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CHIASM_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path


def put(store: Path, name: str, tensors: dict[str, torch.Tensor], config: dict[str, object] | None = None) -> None:
    (store / name).mkdir(parents=True)
    (store / name / "config.json").write_text(json.dumps(config or {"kind": "image-network", "parameters": {}}))
    save_file({key: value.contiguous() for key, value in tensors.items()}, store / name / "model.safetensors")


def architectures(monkeypatch: pytest.MonkeyPatch, **builders: object) -> None:
    """A stand-in for torchvision.models with small networks that have the layers' names."""
    package, models = ModuleType("torchvision"), ModuleType("torchvision.models")
    for name, builder in builders.items():
        setattr(models, name, builder)
    monkeypatch.setitem(sys.modules, "torchvision", package)
    monkeypatch.setitem(sys.modules, "torchvision.models", models)


def small_alexnet(weights: None = None) -> nn.Module:
    assert weights is None
    features = nn.Sequential(*(nn.Conv2d(3, 3, 1) if i % 3 == 0 else nn.ReLU() for i in range(12)))
    return _Chain(features)


class _Chain(nn.Module):
    def __init__(self, features: nn.Sequential) -> None:
        super().__init__()
        self.features = features

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.features(x)


def test_features_are_of_resized_and_normalised_images() -> None:
    spec = NetworkSpec(name="x", weights="", size=8, layers=("all",), mean=(0.1, 0.2, 0.3), deviation=(1.0, 2.0, 4.0))
    network = FeatureNetwork(spec=spec, sha256="", run=lambda x: {"all": x}, device=torch.device("cpu"))
    images = torch.rand(5, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    for antialias in (True, False):
        small = resized(images, 8, antialias=antialias).numpy()
        expected = (small - np.reshape([0.1, 0.2, 0.3], (3, 1, 1))) / np.reshape([1.0, 2.0, 4.0], (3, 1, 1))
        found = network.features(images, antialias=antialias, batch=2)["all"]
        assert found.numpy() == pytest.approx(expected.reshape(5, -1), abs=1e-6)


def test_the_published_sizes_and_layers() -> None:
    assert {spec.name: (spec.size, spec.layers) for spec in NETWORKS.values()} == {
        "alexnet": (256, ("features.4", "features.11")),
        "inception-v3": (342, ("avgpool",)),
        "clip-vit-l14": (224, ("embedding",)),
        "efficientnet-b1": (255, ("avgpool",)),
        "swav-resnet50": (224, ("avgpool",)),
        "efficientnet-lite0": (224, ("early", "pooled")),
    }


def test_the_offline_judge_reads_the_packages_weights() -> None:
    network = load_network("efficientnet-lite0")
    assert network.sha256 == efficientnet_lite.SHA256
    flat = torch.full((1, 3, 64, 64), 0.5)
    noise = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    features = network.features(torch.cat((flat, flat, noise)))["pooled"]
    assert features.shape == (3, 1280)
    assert torch.allclose(features[0], features[1], atol=1e-5)
    assert (features[0] - features[2]).abs().max() > 0.1


def test_a_changed_package_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(efficientnet_lite, "SHA256", "0" * 64)
    judges = load_networks(["efficientnet-lite0"])
    assert not judges.networks
    assert "CHI-WT-067" in judges.missing["efficientnet-lite0"]


def test_missing_weights_say_where_they_belong(store: Path) -> None:
    judges = load_networks([name for name in NETWORKS if name != "efficientnet-lite0"])
    assert not judges.networks
    for name, reason in judges.missing.items():
        assert "CHI-WT-001" in reason
        assert f"Put a folder '{NETWORKS[name].weights}'" in reason
    with pytest.raises(ValueError, match="no network 'vgg'"):
        load_networks(["vgg"])


def test_without_torchvision_its_networks_are_missing_by_name(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(store, "torchvision/alexnet", {"a": torch.zeros(1)})
    monkeypatch.setitem(sys.modules, "torchvision", None)
    monkeypatch.delitem(sys.modules, "torchvision.models", raising=False)
    with pytest.raises(WeightsError, match="torchvision") as error:
        load_network("alexnet")
    assert error.value.code == "CHI-WT-066"


def test_layers_are_taken_from_the_local_tensors(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    true = small_alexnet()
    put(store, "torchvision/alexnet", true.state_dict())
    architectures(monkeypatch, alexnet=small_alexnet)
    network = load_network("alexnet")
    x = torch.rand(2, 3, 256, 256)
    spec = NETWORKS["alexnet"]
    mean, deviation = (torch.tensor(row)[:, None, None] for row in (spec.mean, spec.deviation))
    with torch.no_grad():
        fourth = true.features[:5]((x - mean) / deviation)
        found = network.features(x)
        assert torch.equal(found["features.4"], fourth.flatten(1))
        assert torch.equal(found["features.11"], true.features((x - mean) / deviation).flatten(1))
    put(store, "torchvision/efficientnet-b1", {"other": torch.zeros(1)})
    architectures(monkeypatch, efficientnet_b1=small_alexnet)
    assert "CHI-WT-005" in load_networks(["efficientnet-b1"]).missing["efficientnet-b1"]


def test_swavs_heads_and_prefix_are_left_aside(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def small_resnet(weights: None = None) -> nn.Module:
        network = nn.Sequential()
        network.add_module("conv1", nn.Conv2d(3, 4, 1))
        network.add_module("avgpool", nn.AdaptiveAvgPool2d(1))
        network.add_module("fc", nn.Linear(4, 1000))
        return network

    true = small_resnet()
    tensors = {f"module.{key}": value for key, value in true.state_dict().items() if not key.startswith("fc")}
    tensors |= {"module.projection_head.0.weight": torch.zeros(2), "module.prototypes.weight": torch.zeros(3)}
    put(store, "facebook/swav-resnet50", tensors)
    architectures(monkeypatch, resnet50=small_resnet)
    # A linear layer would not take (B, 4, 1, 1): what follows avgpool must be gone.
    features = load_network("swav-resnet50").features(torch.rand(2, 3, 224, 224))
    assert features["avgpool"].shape == (2, 4)


def test_clip_gives_its_image_embedding(store: Path) -> None:
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    torch.manual_seed(0)
    config = CLIPVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, patch_size=56,
        image_size=224, projection_dim=768,
    )  # fmt: skip
    true = CLIPVisionModelWithProjection(config).eval()
    folder = store / "openai" / "clip-vit-large-patch14"
    true.save_pretrained(folder)
    network = load_network("clip-vit-l14")
    images = torch.rand(3, 3, 256, 256, generator=torch.Generator().manual_seed(0))
    spec = NETWORKS["clip-vit-l14"]
    mean, deviation = (torch.tensor(row)[:, None, None] for row in (spec.mean, spec.deviation))
    assert spec.mean[0] == pytest.approx(0.48145466)
    with torch.no_grad():
        expected = true((resized(images, 224) - mean) / deviation).image_embeds
    assert torch.allclose(network.features(images)["embedding"], expected, atol=1e-5)
    assert len(network.sha256) == 64


@pytest.mark.filterwarnings("ignore:NOTE. The nodes obtained by tracing:UserWarning")
@pytest.mark.parametrize("name", ["alexnet", "inception-v3", "efficientnet-b1", "swav-resnet50"])
def test_torchvisions_own_networks_have_these_layers(store: Path, name: str) -> None:
    models = pytest.importorskip("torchvision.models", exc_type=ImportError)
    extraction = pytest.importorskip("torchvision.models.feature_extraction")
    build = {
        "alexnet": models.alexnet,
        "inception-v3": models.inception_v3,
        "efficientnet-b1": models.efficientnet_b1,
        "swav-resnet50": models.resnet50,
    }[name]
    torch.manual_seed(0)
    true = build(
        weights=None, **({"init_weights": False, "transform_input": True} if name == "inception-v3" else {})
    ).eval()
    spec = NETWORKS[name]
    put(store, spec.weights, true.state_dict())
    images = torch.rand(2, 3, 256, 256, generator=torch.Generator().manual_seed(0))
    mean, deviation = (torch.tensor(row)[:, None, None] for row in (spec.mean, spec.deviation))
    tapped = extraction.create_feature_extractor(true, return_nodes=list(spec.layers))
    with torch.no_grad():
        expected = tapped((resized(images, spec.size) - mean) / deviation)
    found = feature_networks.load_network(name).features(images)
    for layer in spec.layers:
        assert torch.allclose(found[layer], expected[layer].flatten(1), atol=1e-5)
