from __future__ import annotations

import argparse
import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch

from chiasm.data.errors import ChiasmError, RecipeError
from chiasm.data.phantoms.label_maps import maps_from_arrays
from chiasm.pipelines.cli import train as cli
from chiasm.pipelines.engine.components import load_component
from chiasm.pipelines.engine.weights import open_folder
from chiasm.pipelines.recipes import load_recipe
from chiasm.pipelines.training import command
from chiasm.pipelines.training.command import train

NETWORK = "kind: unet3d, parameters: {in_channels: 1, out_channels: 2, channels: [4, 6], convolutions: [1, 1]}"
REAL = f"""
recipe: 1
pipeline: segmentation
title: Bright cubes
channels: {{T1w: {{keywords: [t1]}}}}
components: {{network: {{{NETWORK}}}}}
windows: {{size: [16, 16, 16], overlap: 0.25}}
labels: {{1: cube}}
training:
  phases: [{{steps: 8, patch: [16, 16, 16]}}]
  learning_rate: 0.02
  warm_up_steps: 2
  ema: 0.5
  checkpoint_every: 4
  folds: 2
"""
SYNTHETIC = f"""
recipe: 1
pipeline: segmentation
title: Balls
channels: {{T1w: {{}}}}
components: {{network: {{{NETWORK.replace("out_channels: 2", "out_channels: 4")}}}}}
windows: {{size: [16, 16, 16]}}
labels: {{1: CSF, 2: grey matter, 3: white matter}}
training:
  phases: [{{steps: 4, patch: [12, 12, 12], spacing_mm: [2.0, 3.0]}}]
  validate_every: 2
  generator: {{validation: {{seed: 9, volumes: 1, shape: [16, 16, 16], spacing_mm: 3.0}}}}
"""


@pytest.fixture
def recipe_file(tmp_path: Path) -> Path:
    path = tmp_path / "cubes.yaml"
    path.write_text(REAL)
    return path


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """nnU-Net raw, six cases: a bright cube in noise."""
    root = tmp_path / "Dataset001_Cubes"
    for folder in ("imagesTr", "labelsTr"):
        (root / folder).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in range(6):
        labels = np.zeros((20, 20, 20), np.uint8)
        x = int(rng.integers(2, 10))
        labels[x : x + 8, 4:12, 5:13] = 1
        image = (10 + 5 * labels + rng.normal(0, 1, labels.shape)).astype(np.float32)
        nibabel.save(nibabel.Nifti1Image(image, np.eye(4)), root / "imagesTr" / f"cube_{i:03d}_0000.nii.gz")
        nibabel.save(nibabel.Nifti1Image(labels, np.eye(4)), root / "labelsTr" / f"cube_{i:03d}.nii.gz")
    about = {
        "channel_names": {"0": "T1"},
        "labels": {"background": 0, "cube": 1},
        "numTraining": 6,
        "file_ending": ".nii.gz",
    }
    (root / "dataset.json").write_text(json.dumps(about))
    return root


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_one_fold_leaves_weights_that_a_recipe_can_use(recipe_file: Path, dataset: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert train(recipe_file, dataset, out, device="cpu", fold="0") == 0
    assert {name for name in files(out) if not name.startswith("prepared")} == {
        "checkpoint-0000008.safetensors",
        "checkpoint.json",
        "loss.png",
        "split.json",
        "training.jsonl",
        "validation.json",
        "weights/README.md",
        "weights/config.json",
        "weights/model.safetensors",
    }
    split = json.loads((out / "split.json").read_text())
    assert sorted(split["training"] + split["validation"]) == [f"cube_{i:03d}" for i in range(6)]
    assert len(split["validation"]) == 3
    scores = json.loads((out / "validation.json").read_text())
    assert scores.keys() == {"dice", "dice_cube", "hd95_mm_cube"}
    folder = open_folder(out / "weights")
    assert folder.config["training_data"] == "real"
    assert folder.config["output"] == ["background", "cube"]
    network = load_component(load_recipe(recipe_file).components["network"], [folder], "cpu")
    with torch.inference_mode():
        assert network(torch.zeros(1, 1, 16, 16, 16)).shape == (1, 2, 16, 16, 16)  # type: ignore[operator]


def test_without_a_fold_each_is_trained_in_turn(recipe_file: Path, dataset: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert train(recipe_file, dataset, out, device="cpu", steps=2) == 0
    splits = [set(json.loads((out / f"fold-{k}" / "split.json").read_text())["validation"]) for k in (0, 1)]
    assert splits[0] | splits[1] == {f"cube_{i:03d}" for i in range(6)}
    assert not splits[0] & splits[1]


def test_all_cases_train_where_asked(recipe_file: Path, dataset: Path, tmp_path: Path) -> None:
    assert train(recipe_file, dataset, tmp_path / "out", device="cpu", steps=1, fold="all") == 0
    assert json.loads((tmp_path / "out" / "split.json").read_text())["validation"] == []


def test_two_halves_are_one_whole_and_restart_starts_over(recipe_file: Path, dataset: Path, tmp_path: Path) -> None:
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    assert train(recipe_file, dataset, whole, device="cpu", fold="1") == 0
    assert train(recipe_file, dataset, halves, device="cpu", fold="1", steps=3) == 0
    assert train(recipe_file, dataset, halves, device="cpu", fold="1") == 0

    def losses(folder: Path) -> list[float]:
        return [json.loads(line)["loss"] for line in (folder / "training.jsonl").read_text().splitlines()]

    assert losses(halves) == losses(whole)
    same = [(folder / "weights" / "model.safetensors").read_bytes() for folder in (whole, halves)]
    assert same[0] == same[1]
    assert train(recipe_file, dataset, halves, device="cpu", fold="1", steps=2, resume=False) == 0
    assert losses(halves) == losses(whole)[:2]


def test_a_generated_recipe_needs_no_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    axes = np.meshgrid(*[np.arange(50) - 24.5] * 3, indexing="ij")
    radius = np.sqrt(sum(a**2 for a in axes))
    maps = maps_from_arrays(
        (radius >= 9).astype(np.float32) * (radius < 15), (radius < 9).astype(np.float32), radius < 18
    )
    monkeypatch.setattr(command, "template_maps", lambda: maps)
    path = tmp_path / "balls.yaml"
    path.write_text(SYNTHETIC)
    assert train(path, None, tmp_path / "out", device="cpu") == 0
    config = json.loads((tmp_path / "out" / "weights" / "config.json").read_text())
    assert config["training_data"] == "synthetic"
    lines = [json.loads(line) for line in (tmp_path / "out" / "training.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "dice_CSF" in line] == [2, 4]


def test_the_wrong_things_are_coded_errors(recipe_file: Path, dataset: Path, tmp_path: Path) -> None:
    cases: list[tuple[dict[str, object], str]] = [
        ({"data": None}, "CHI-RC-082"),
        ({"fold": "first"}, "CHI-RC-083"),
        ({"fold": "2"}, "CHI-IN-133"),
        ({"device": "cuda:99"}, "CHI-RES-040"),
        ({"device": "abacus"}, "CHI-RES-040"),
        ({"data": tmp_path / "nothing"}, "CHI-IN-149"),
    ]
    (tmp_path / "nothing").mkdir()
    for change, code in cases:
        options: dict[str, object] = {"data": dataset, "out": tmp_path / "out", "device": "cpu", "fold": "0", **change}
        data, out = options.pop("data"), options.pop("out")
        with pytest.raises(ChiasmError) as caught:
            train(recipe_file, data, out, **options)  # type: ignore[arg-type]
        assert caught.value.code == code


def test_a_recipe_for_use_only_says_so(tmp_path: Path) -> None:
    path = tmp_path / "use.yaml"
    path.write_text(REAL[: REAL.index("training:")])
    with pytest.raises(RecipeError, match="no training block"):
        train(path, None, tmp_path / "out")


def test_the_seed_on_the_command_line_wins(recipe_file: Path, dataset: Path, tmp_path: Path) -> None:
    for seed in (1, 2):
        train(recipe_file, dataset, tmp_path / f"{seed}", device="cpu", fold="all", steps=1, seed=seed)
    losses = [(tmp_path / f"{seed}" / "training.jsonl").read_text().split('"rate"')[0] for seed in (1, 2)]
    assert losses[0] != losses[1]


def test_arguments_reach_the_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen: dict[str, object] = {}

    def fake(recipe: str, data: Path | None, out: Path, **options: object) -> int:
        seen.update(options, recipe=recipe, data=data, out=out)
        return 75

    monkeypatch.setattr(command, "train", fake)
    parser = argparse.ArgumentParser()
    cli.register(parser.add_subparsers())
    arguments = parser.parse_args(
        ["train", "brain-tissue", "-", str(tmp_path), "--steps", "7", "--restart", "--fold", "all"]
    )
    assert arguments.handler(arguments) == 75
    assert seen == {
        "recipe": "brain-tissue", "data": None, "out": tmp_path, "device": "auto", "seed": None,
        "resume": False, "steps": 7, "fold": "all",
    }  # fmt: skip
    for wrong in (["train", "r", "/no/such/folder", "o"], ["train", "r", "-", "o", "--steps", "0"]):
        with pytest.raises(SystemExit):
            parser.parse_args(wrong)


def test_regions_focal_loss_and_deep_supervision_train_and_export_the_plain_network(
    dataset: Path, tmp_path: Path
) -> None:
    text = REAL.replace(
        "labels: {1: cube}", "regions: [{name: all, labels: [1], write: 1}, {name: same, labels: [1], write: 2}]"
    )
    text = text.replace("channels: [4, 6], convolutions: [1, 1]", "channels: [4, 4, 6], convolutions: [1, 1, 1]")
    path = tmp_path / "regions.yaml"
    path.write_text(text + "  loss: dice-focal\n  deep_supervision: true\n  precision: float32\n")
    assert train(path, dataset, tmp_path / "out", device="cpu", fold="0") == 0
    assert json.loads((tmp_path / "out" / "validation.json").read_text()).keys() >= {"dice_all", "dice_same"}
    folder = open_folder(tmp_path / "out" / "weights")
    assert not any("extra" in name for name in folder.entries())
    load_component(load_recipe(path).components["network"], [folder], "cpu", exclusive=False)
