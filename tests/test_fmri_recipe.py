"""Recipes of images from fMRI: what ships is whole, and every mistake is listed at once."""

from __future__ import annotations

import pytest

from chiasm.data.errors import ChiasmError, SeveralErrors
from chiasm.encoders.target_spaces import target_space
from chiasm.pipelines.fmri_recipe import FmriRecipe
from chiasm.pipelines.recipes import load_recipe, parse_recipe, recipe_names
from chiasm.pipelines.training.fmri.model import build_model
from chiasm.pipelines.training.fmri.settings import read_training

SHIPPED = [name for name in recipe_names() if name.startswith("fmri-")]


def messages(text: str) -> list[str]:
    with pytest.raises(ChiasmError) as caught:
        parse_recipe(text, name="mine")
    error = caught.value
    return [str(one) for one in (error.errors if isinstance(error, SeveralErrors) else [error])]


@pytest.mark.parametrize("name", SHIPPED)
def test_what_ships_names_known_targets_and_trainable_settings(name) -> None:
    recipe = load_recipe(name)
    assert isinstance(recipe, FmriRecipe)
    assert target_space(recipe.target).tokens > 0
    for other in (recipe.text_target, recipe.low_level):
        assert other is None or target_space(other).name == other
    assert read_training(recipe.training, name=name).epochs >= 1
    assert recipe.citations
    assert recipe.methods
    assert any("Research use only" in text for text in recipe.notices)


@pytest.mark.parametrize("name", [name for name in SHIPPED if name.startswith(("fmri-images", "fmri-ridge"))])
def test_the_small_recipes_build_for_the_subjects_they_can_have(name) -> None:
    recipe = load_recipe(name)
    voxels = {"01": 30} if recipe.network_kind == "mindeye" else {"01": 30, "02": 20}
    model = build_model(recipe, voxels)
    assert dict(model.n_voxels) == voxels
    assert (model.prior is not None) == ("prior" in recipe.components)


def test_variants_keep_the_target_and_the_decoder_of_the_recipe_that_they_change() -> None:
    base = load_recipe("fmri-images")
    for name in ("fmri-images-mindbridge", "fmri-images-mindeye", "fmri-ridge"):
        variant = load_recipe(name)
        assert variant.target == base.target
        assert variant.components["decoder"] == base.components["decoder"]
        assert variant.sha256() != base.sha256()


def test_training_settings_and_titles_do_not_change_the_identity() -> None:
    base = load_recipe("fmri-images")
    same = parse_recipe("base: fmri-images\ntitle: Other\ntraining: {epochs: 3}", name=base.name)
    assert same.sha256() == base.sha256()
    assert parse_recipe("base: fmri-images\nbetas: {roi: V1}", name=base.name).sha256() != base.sha256()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("components: {target: null}", "components.target: missing"),
        ("components: {network: null}", "components.network: missing"),
        ("components: {classifier: {kind: two-stream}}", "components.classifier: not a part of this task"),
        ("components: {decoder: {kind: mindeye}}", "components.decoder.kind: one of small-diffusion"),
        ("components: {latents: null}", "low_level: needs components.latents"),
        ("components: {network: {kind: mindbridge}}", "components.prior: mindbridge has none"),
        ("components: {network: {kind: ridge}}", "reconstruction.select: ridge gives one candidate"),
        ("reconstruction: {start_strength: 2}", "reconstruction.start_strength"),
        ("reconstruction: {select: truth}", "reconstruction.select"),
        ("betas: {scaling: all}", "betas.scaling"),
        ("retrieval: {pool: 1}", "retrieval.pool"),
    ],
)
def test_each_mistake_is_named(change, said) -> None:
    assert any(said in text for text in messages(f"base: fmri-images\n{change}"))


def test_all_mistakes_come_at_once() -> None:
    text = "base: fmri-images\nreconstruction: {samples: 0, steps: 0}\nbetas: {test_repeats: last}"
    together = " ".join(messages(text))
    assert "samples" in together
    assert "steps" in together
    assert "test_repeats" in together


def test_every_wrong_training_field_is_said() -> None:
    with pytest.raises(SeveralErrors) as caught:
        read_training({"epochs": 0, "batch_size": 1, "learning_rat": 1}, name="mine")
    assert [error.code for error in caught.value.errors] == ["CHI-RC-150"] * 3
    assert "training.learning_rat" in str(caught.value)
