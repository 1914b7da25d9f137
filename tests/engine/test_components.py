"""Components: allow-listed kinds, weights that agree with the recipe, folds averaged as probabilities."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from chiasm.data.errors import ChiasmError, RecipeError, WeightsError
from chiasm.heads.brain_mask import BrainMasker
from chiasm.pipelines.engine import weights
from chiasm.pipelines.engine.components import FoldMean, build_network, load_components, load_encoder, verify
from chiasm.pipelines.engine.tensors import write_folder
from chiasm.pipelines.engine.weights import component_hashes, find, open_folder
from chiasm.pipelines.recipes import Recipe

TINY = {"in_channels": 1, "out_channels": 2, "channels": [4, 8], "convolutions": [1, 1]}
SWIN = {"in_channels": 1, "out_channels": 1, "feature_size": 12, "num_heads": [1, 1, 1, 1], "depths": [1, 1, 1, 1]}


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CHIASM_WEIGHTS", str(tmp_path))
    monkeypatch.setattr(weights, "user_folder", lambda: tmp_path / "user")
    return tmp_path


def put(store: Path, name: str, *, kind: str = "unet3d", parameters: dict[str, Any] = TINY, **config: Any) -> nn.Module:
    network = build_network(kind, parameters)
    write_folder(store / name, {"model": network.state_dict()}, {"kind": kind, "parameters": parameters, **config}, "")
    return network


def recipe(network: dict[str, Any], **more: Any) -> Recipe:
    base = {
        "recipe": 1,
        "pipeline": "segmentation",
        "title": "t",
        "channels": {"T1w": {"suffixes": ["T1w"]}},
        "components": {"network": network},
        "labels": {1: "one"},
    }
    return Recipe(**{**base, **more})


def code_of(wanted: Recipe) -> str:
    with pytest.raises(ChiasmError) as error:
        load_components(wanted, "cpu")
    return error.value.code


def test_a_network_comes_filled_frozen_and_in_evaluation_mode(store: Path) -> None:
    written = put(store, "net")
    loaded = load_components(recipe({"kind": "unet3d", "weights": "net"}), "cpu")["network"]
    assert isinstance(loaded, nn.Module)
    assert not loaded.training
    assert not any(p.requires_grad for p in loaded.parameters())
    assert all(torch.equal(value, written.state_dict()[key]) for key, value in loaded.state_dict().items())


def test_a_brain_mask_component_is_a_masker() -> None:
    wanted = recipe({"kind": "brain-mask", "weights": "chiasm/brain-mask"})
    assert isinstance(load_components(wanted, "cpu")["network"], BrainMasker)
    assert component_hashes(wanted) == {"network": find("chiasm/brain-mask").sha256}


def test_a_monai_network_is_built_by_name(store: Path) -> None:
    parameters = {"network": "BasicUNet", "spatial_dims": 3, "in_channels": 1, "out_channels": 2, "features": [4] * 6}
    put(store, "net", kind="monai", parameters=parameters)
    assert type(load_components(recipe({"kind": "monai", "weights": "net"}), "cpu")["network"]).__name__ == "BasicUNet"


def test_parameters_in_the_recipe_may_repeat_those_of_the_weights(store: Path) -> None:
    put(store, "net")
    load_components(recipe({"kind": "unet3d", "weights": "net", "parameters": {"channels": [4, 8]}}), "cpu")


def test_parameters_that_contradict_the_weights_are_refused_even_where_shapes_agree(store: Path) -> None:
    put(store, "net", kind="swin-unetr", parameters={**SWIN, "merging": "legacy"})
    wanted = recipe({"kind": "swin-unetr", "weights": "net", "parameters": {"merging": "current"}})
    assert code_of(wanted) == "CHI-WT-009"


def test_another_kind_than_the_weights_is_refused(store: Path) -> None:
    put(store, "net")
    assert code_of(recipe({"kind": "swin-unetr", "weights": "net"})) == "CHI-WT-009"


def test_channels_in_another_order_are_refused(store: Path) -> None:
    put(store, "net", parameters={**TINY, "in_channels": 2}, channels=["flair", "t1"])
    channels = {"T1": {}, "FLAIR": {}}
    assert code_of(recipe({"kind": "unet3d", "weights": "net"}, channels=channels)) == "CHI-WT-008"
    load_components(recipe({"kind": "unet3d", "weights": "net"}, channels={"FLAIR": {}, "T1": {}, "mask": {}}), "cpu")


def test_weights_that_do_not_fit_are_refused(store: Path) -> None:
    put(store, "net")
    (store / "net" / "config.json").write_text(
        '{"kind": "unet3d", "parameters": {"channels": [4, 16], "convolutions": [1, 1]}}'
    )
    assert code_of(recipe({"kind": "unet3d", "weights": "net"})) == "CHI-WT-005"


def test_a_component_without_weights_is_refused() -> None:
    assert code_of(recipe({"kind": "unet3d"})) == "CHI-WT-001"


def test_every_missing_fold_is_listed(store: Path) -> None:
    put(store, "fold0")
    with pytest.raises(ChiasmError) as error:
        load_components(recipe({"kind": "unet3d", "weights": ["fold0", "fold1", "fold2"]}), "cpu")
    assert "'fold1'" in str(error.value)
    assert "'fold2'" in str(error.value)


@pytest.mark.parametrize("exclusive", [True, False])
def test_folds_are_averaged_as_probabilities(exclusive: bool) -> None:
    def squash(x: torch.Tensor) -> torch.Tensor:
        return x.softmax(1) if exclusive else x.sigmoid()

    folds = [nn.Conv3d(1, 3, 1) for _ in range(3)]
    x = 20 * torch.randn(2, 1, 4, 4, 4)
    with torch.no_grad():
        mean = torch.stack([squash(fold(x)) for fold in folds]).mean(0)
        torch.testing.assert_close(squash(FoldMean(folds, exclusive=exclusive)(x)), mean, atol=1e-6, rtol=1e-4)


def test_several_weights_make_a_mean_of_folds_and_regions_make_it_sigmoid(store: Path) -> None:
    put(store, "fold0")
    put(store, "fold1")
    network = {"kind": "unet3d", "weights": ["fold0", "fold1"]}
    loaded = load_components(recipe(network), "cpu")["network"]
    assert isinstance(loaded, FoldMean)
    assert loaded.exclusive
    regions = [{"name": "WT", "labels": [1], "write": 1}]
    assert not load_components(recipe(network, regions=regions, labels={}), "cpu")["network"].exclusive


def test_unknown_kinds_and_parameters_get_a_proposal() -> None:
    with pytest.raises(RecipeError, match="Did you mean 'unet3d'"):
        build_network("unet-3d", {})
    with pytest.raises(RecipeError, match=r"'chanels' is no parameter of it\. Did you mean 'channels'"):
        build_network("unet3d", {"chanels": [4, 8]})
    with pytest.raises(RecipeError, match="merging must be one of"):
        build_network("swin-unetr", {"merging": "old"})


def test_an_encoder_starts_a_network_with_more_channels_and_says_what_stays_fresh(store: Path) -> None:
    source = build_network("swin-unetr", SWIN)
    encoder = {key: value for key, value in source.state_dict().items() if key.startswith("swinViT.")}
    config = {"kind": "swin-unetr-encoder", "parameters": SWIN}
    folder = open_folder(write_folder(store / "ssl", {"model": encoder}, config, ""))
    target = build_network("swin-unetr", {**SWIN, "in_channels": 4})
    (kept,) = load_encoder(target, folder)
    assert kept == "swinViT.patch_embed.proj.weight: 1 channels there, 4 here"
    same = {key for key, value in target.state_dict().items() if key in encoder and torch.equal(value, encoder[key])}
    assert same >= set(encoder) - {"swinViT.patch_embed.proj.weight"}
    assert "swin-unetr-encoder" in verify(folder)


def test_an_encoder_of_another_size_is_refused(store: Path) -> None:
    folder = open_folder(write_folder(store / "ssl", {"model": {"swinViT.layers1.0.x": torch.zeros(1)}}, {}, ""))
    with pytest.raises(WeightsError) as error:
        load_encoder(build_network("swin-unetr", SWIN), folder)
    assert error.value.code == "CHI-WT-005"
