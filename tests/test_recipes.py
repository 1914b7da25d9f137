"""Recipes: every mistake at once, nothing but plain data, and a hash of what changes an output."""

from __future__ import annotations

from pathlib import Path

import pytest

from chiasm.data.errors import RecipeError, SeveralErrors
from chiasm.pipelines.recipes import load_recipe, parse_recipe, recipe_names

GOOD = """
recipe: 1
pipeline: segmentation
title: A test
channels: {T1w: {suffixes: [T1w]}}
components: {network: {kind: unet3d}}
labels: {1: one}
"""


def test_every_shipped_recipe_loads() -> None:
    assert "brain-tissue" in recipe_names()
    for name in recipe_names():
        assert load_recipe(name).name == name


def test_every_mistake_is_listed_at_once_with_the_nearest_word() -> None:
    text = GOOD.replace("title: A test", "titel: A test").replace("unet3d", "unet3")
    with pytest.raises(SeveralErrors) as caught:
        parse_recipe(text + "windows: {overlap: 1.5}\n", name="bad")
    said = str(caught.value)
    assert "Did you mean 'title'?" in said
    assert "Did you mean 'unet3d'?" in said
    assert "windows.overlap" in said
    assert len(caught.value.errors) == 4  # titel unknown, title missing, kind, overlap
    assert {error.code for error in caught.value.errors} == {"CHI-RC-005"}


def test_a_recipe_without_labels_or_network_says_both() -> None:
    text = GOOD.replace("labels: {1: one}", "").replace("network:", "net:")
    with pytest.raises(SeveralErrors, match=r"labels or regions.*components.network"):
        parse_recipe(text, name="bad")


@pytest.mark.parametrize(
    "text",
    [
        "a: &x [1]\nb: [*x, *x]\n",
        "!!python/object/apply:os.system ['true']\n",
        "recipe: 1\nrecipe: 1\n",
        "- a list\n",
        "a: [1, 2\n",
        "\x00\x01",
    ],
)
def test_what_is_not_plain_yaml_is_refused(text: str) -> None:
    with pytest.raises(RecipeError) as caught:
        parse_recipe(text, name="bad")
    assert caught.value.code == "CHI-RC-004"
    assert caught.value.exit_code == 2


def test_an_unknown_name_proposes_the_nearest() -> None:
    with pytest.raises(RecipeError, match=r"Did you mean 'brain-tissue'\?") as caught:
        load_recipe("brain-tisue")
    assert caught.value.code == "CHI-RC-003"


def test_the_hash_follows_what_changes_an_output_and_nothing_else(tmp_path: Path) -> None:
    plain = parse_recipe(GOOD, name="r").sha256()
    assert parse_recipe(GOOD.replace("A test", "Another title"), name="r").sha256() == plain
    assert parse_recipe(GOOD + "training: {steps: 3}\n", name="r").sha256() == plain
    assert parse_recipe(GOOD + "windows: {overlap: 0.25}\n", name="r").sha256() != plain


def test_a_huge_recipe_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "big.yaml"
    path.write_text("a: " + "x" * 300_000)
    with pytest.raises(RecipeError, match="larger than"):
        load_recipe(path)
