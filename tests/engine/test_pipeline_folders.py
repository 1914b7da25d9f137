"""Weights folders in diffusers' form, and networks whose architecture is another library's."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file

from chiasm.data.errors import WeightsError
from chiasm.pipelines.cli.main import main
from chiasm.pipelines.engine.components import verify
from chiasm.pipelines.engine.weights import find, open_folder


def pipeline(folder):
    """Write a folder as diffusers saves a pipeline: no config.json, weights below."""
    (folder / "unet").mkdir(parents=True)
    (folder / "model_index.json").write_text('{"_class_name": "Any"}')
    save_file({"w": torch.arange(6.0)}, folder / "unet" / "diffusion_pytorch_model.safetensors")
    return folder


def test_a_pipeline_s_folder_is_found_and_hashed_by_all_its_weights(tmp_path, monkeypatch) -> None:
    folder = pipeline(tmp_path / "store" / "owner" / "pipeline")
    monkeypatch.setenv("CHIASM_WEIGHTS", str(tmp_path / "store"))
    before = find("owner/pipeline")
    assert set(before.files) == {"unet/diffusion_pytorch_model.safetensors"}
    save_file({"w": torch.ones(6)}, folder / "unet" / "other.safetensors")
    assert find("owner/pipeline").sha256 != before.sha256
    assert "6 numbers" in verify(before)


def test_a_pipeline_without_safetensors_is_said(tmp_path) -> None:
    folder = pipeline(tmp_path / "pickled")
    (folder / "unet" / "diffusion_pytorch_model.safetensors").rename(folder / "unet" / "model.bin")
    with pytest.raises(WeightsError, match="safetensors") as caught:
        open_folder(folder)
    assert caught.value.code == "CHI-WT-002"


def test_one_model_of_diffusers_has_its_own_file_name(tmp_path) -> None:
    (tmp_path / "config.json").write_text("{}")
    save_file({"w": torch.ones(2)}, tmp_path / "diffusion_pytorch_model.safetensors")
    assert open_folder(tmp_path).files["model"].name == "diffusion_pytorch_model.safetensors"


def test_a_judge_s_state_dict_becomes_a_folder_that_scoring_finds(tmp_path, monkeypatch, capsys) -> None:
    state = {"features.0.weight": torch.randn(2, 3, 3, 3), "features.0.bias": torch.zeros(2)}
    torch.save(state, tmp_path / "alexnet-owt-7be5be79.pth")
    out = tmp_path / "store" / "torchvision" / "alexnet"
    code = main(["weights", "convert", "torchvision/alexnet", str(tmp_path / "alexnet-owt-7be5be79.pth"), str(out)])
    assert code == 0, capsys.readouterr().err
    monkeypatch.setenv("CHIASM_WEIGHTS", str(tmp_path / "store"))
    assert json.loads((out / "config.json").read_text())["kind"] == "image-judge"
    assert find("torchvision/alexnet").entries()["features.0.weight"].shape == (2, 3, 3, 3)
