"""The shipped weights: what the package, the card and the benchmark say of them agrees, and they do what they are for."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from chiasm.data.phantoms.label_maps import Draw, Ranges, generate, template_maps
from chiasm.pipelines.engine.components import load_component
from chiasm.pipelines.engine.weights import WeightsFolder, find
from chiasm.pipelines.evaluation.segmentation import dice
from chiasm.pipelines.recipes import Recipe, load_recipe
from chiasm.pipelines.training.picture import read_log
from chiasm.pipelines.training.settings import read_settings


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    return load_recipe("brain-tissue")


@pytest.fixture(scope="module")
def weights() -> WeightsFolder:
    return find("chiasm/brain-tissue")


def test_they_fit_the_package(weights: WeightsFolder) -> None:
    assert weights.files["model"].stat().st_size <= 8 * 1024**2
    assert {entry.dtype for entry in weights.entries().values()} == {"F16"}


def test_config_recipe_card_and_log_tell_the_same_story(weights: WeightsFolder, recipe: Recipe) -> None:
    settings = read_settings(recipe.training, name=recipe.name)
    training = weights.config["training"]
    assert (training["steps"], training["seed"]) == (settings.steps, settings.seed)
    assert weights.config["channels"] == list(recipe.channels)
    assert weights.config["output"] == ["background", *recipe.labels.values()]
    assert weights.config["training_data"] == "synthetic"
    assert f"{settings.steps:,}" in weights.card
    log = weights.path / "training.jsonl"
    assert log.stat().st_size <= 200_000
    records = read_log(log)
    assert records[-1]["step"] == settings.steps
    losses = [record["loss"] for record in records]
    assert np.mean(losses[-20:]) < 0.5 * np.mean(losses[:20])


def test_the_benchmark_measured_these_weights(weights: WeightsFolder, repository: Path) -> None:
    report = json.loads((repository / "benchmarks" / "results" / "brain_tissue.json").read_text())
    assert report["weights_sha256"] == weights.sha256
    assert len(report["test_set"]["volumes"]) == 40
    for tissue in ("grey matter", "white matter"):
        assert f"{report['test_set']['all'][tissue]:.3f}" in weights.card


@pytest.mark.skipif(importlib.util.find_spec("nilearn") is None, reason="nilearn is not installed")
def test_the_template_is_known_as_what_they_were_trained_from(weights: WeightsFolder) -> None:
    spec = importlib.util.find_spec("nilearn")
    assert spec is not None
    assert spec.submodule_search_locations
    folder = Path(spec.submodule_search_locations[0]) / "datasets" / "data"
    head = folder / "mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"
    assert hashlib.sha256(head.read_bytes()).hexdigest() in weights.config["trained_from"]


@pytest.mark.parametrize("contrast", ["t1", "inverted"])
def test_they_segment_a_brain_in_either_contrast(weights: WeightsFolder, recipe: Recipe, contrast: str) -> None:
    ranges = Ranges(mask_error=0.0, low_resolution=0.0, separation=(8.0, 8.0))
    sample = generate(
        template_maps(), Draw(99, 0), shape=(80, 96, 64), spacing_mm=1.0, ranges=ranges, whole=True, contrast=contrast
    )
    network = load_component(recipe.components["network"], [weights], "cpu")
    with torch.inference_mode():
        labels = network(sample.image[None])[0].argmax(0).numpy()  # type: ignore[operator]
    truth = sample.labels.numpy()
    assert min(dice(labels == k, truth == k) for k in (2, 3)) > 0.8
