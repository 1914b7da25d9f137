"""MONAI bundles are read as data; one that needs to be run is refused, and nothing in it ever runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from chiasm.data.errors import RecipeError
from chiasm.encoders.bundles import read_bundle
from chiasm.encoders.monai_networks import build

NETWORK = {
    "_target_": "SegResNet", "blocks_down": [1, 2], "blocks_up": [1], "init_filters": 8, "in_channels": "@channels", "out_channels": 3,
}  # fmt: skip
METADATA = {
    "network_data_format": {
        "inputs": {"image": {"channel_def": {"0": "T1c", "1": "T1", "2": "T2", "3": "FLAIR"}}},
        "outputs": {"pred": {"channel_def": {"1": "WT", "0": "TC", "2": "ET"}}},
    }
}


def bundle(folder: Path, network: object, *, name: str = "inference.json", metadata: object = METADATA) -> Path:
    (folder / "configs").mkdir(parents=True)
    config = {
        "imports": ["$import os; os.system('touch ran')"],
        "channels": 4,
        "network_def": network,
        "network": "$@network_def.to('cpu')",
    }
    (folder / "configs" / name).write_text(json.dumps(config))
    (folder / "configs" / "metadata.json").write_text(json.dumps(metadata))
    return folder


def test_a_plain_network_block_becomes_parameters_and_channels(tmp_path: Path) -> None:
    read = read_bundle(bundle(tmp_path, NETWORK))
    assert read.parameters["network"] == "SegResNet"
    assert read.parameters["in_channels"] == 4
    assert read.channels == ("T1c", "T1", "T2", "FLAIR")
    assert read.output == ("TC", "WT", "ET")
    assert sum(p.numel() for p in build(read.parameters).parameters()) > 0


def test_train_json_serves_where_there_is_no_inference_json(tmp_path: Path) -> None:
    target = {**NETWORK, "_target_": "monai.networks.nets.SegResNet"}
    assert read_bundle(bundle(tmp_path, target, name="train.json")).parameters["network"] == "SegResNet"


def test_every_expression_is_named_and_none_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    evil = {
        **NETWORK,
        "init_filters": "$__import__('os').system('touch ran')",
        "act": {"_target_": "os.system"},
        "norm": "@missing",
    }
    with pytest.raises(RecipeError) as error:
        read_bundle(bundle(tmp_path / "b", evil))
    assert error.value.code == "CHI-RC-066"
    for name in ("init_filters", "act._target_", "norm"):
        assert name in str(error.value)
    assert "touch" not in str(error.value)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("target", ["os.system", "monai.networks.nets.Generator", "my.package.SegResNet", None, ["x"]])
def test_a_network_outside_the_list_is_refused(tmp_path: Path, target: object) -> None:
    with pytest.raises(RecipeError) as error:
        read_bundle(bundle(tmp_path, {**NETWORK, "_target_": target}))
    assert error.value.code == "CHI-RC-067"


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 100_000, '{"network_def": 3}'])
def test_unreadable_configuration_is_a_coded_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "inference.json").write_text(text)
    with pytest.raises(RecipeError) as error:
        read_bundle(tmp_path)
    assert error.value.code == "CHI-RC-065"


def test_a_folder_without_configuration_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"inference\.json"):
        read_bundle(tmp_path)


@pytest.mark.parametrize(
    "metadata",
    [{}, {"network_data_format": 3}, {"network_data_format": {"inputs": {"a": {"channel_def": {"x": "y"}}}}}],
)
def test_metadata_without_channels_gives_none(tmp_path: Path, metadata: object) -> None:
    assert read_bundle(bundle(tmp_path, NETWORK, metadata=metadata)).channels == ()
