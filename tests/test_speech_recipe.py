"""Recipes of dementia from speech, and recipes that are variants of another."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from chiasm.data.errors import RecipeError, SeveralErrors
from chiasm.pipelines.recipes import Recipe, load_recipe, parse_recipe, recipe_base, recipe_names, segmentation_recipe
from chiasm.pipelines.speech_recipe import SpeechRecipe

GOOD = """
recipe: 1
pipeline: dementia
title: A test
channels: {audio: {suffixes: [audio]}, transcript: {suffixes: [transcript]}}
components:
  text: {kind: text-transformer}
  audio: {kind: image-transformer}
  classifier: {kind: two-stream, parameters: {width: 8}}
"""
VARIANTS = [name for name in recipe_names() if recipe_base(name) == "dementia"]


def read(text: str) -> SpeechRecipe:
    found = parse_recipe(text, name="mine")
    assert isinstance(found, SpeechRecipe)
    return found


def test_what_is_not_said_has_a_default() -> None:
    recipe = read(GOOD)
    assert recipe.classes == ("CN", "AD")
    assert recipe.positive == "AD"
    assert recipe.audio.tokens == "time"
    assert recipe.answer.error_rate == 0.1
    assert recipe.training is None
    assert read(GOOD + "classes: [CN, MCI]\n").positive == "MCI"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("audio: {kind: image-transformer}", "", "components.audio: missing"),
        ("text: {kind: text-transformer}", "text: {kind: unet3d}", "components.text: missing"),
        ("two-stream", "brain-mask", "components.classifier: missing, of kind two-stream"),
        ("title: A test", "title: A test\nclasses: [AD, CN]", "in the order CN, MCI, AD"),
        ("title: A test", "title: A test\nclasses: [CN, CN]", "two or more different"),
        ("title: A test", "title: A test\nclasses: [CN]", "two or more different"),
        ("title: A test", "title: A test\ntranscript: {cleaning: {keep_filers: true}}", "cleaning.keep_filers: unknown"),
        ("transcript: {suffixes: [transcript]}", "T1w: {}", "channels: audio and transcript"),
        ("title: A test", "title: A test\naudio: {n_fft: 3}", "audio.n_fft"),
        ("title: A test", "title: A test\nanswer: {error_rate: 0.7}", "answer.error_rate"),
        ("title: A test", "title: A test\naudio: {token: time}", "Did you mean 'tokens'?"),
        ("title: A test", "title: A test\naudio: {tokens: tme}", "Did you mean 'time'?"),
        ("pipeline: dementia", "pipeline: dementa", "Did you mean 'dementia'?"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(old: str, new: str, said: str) -> None:
    assert old in GOOD
    with pytest.raises((RecipeError, SeveralErrors)) as caught:
        parse_recipe(GOOD.replace(old, new), name="mine")
    assert said in str(caught.value)
    errors = getattr(caught.value, "errors", [caught.value])
    assert {error.code for error in errors} == {"CHI-RC-005"}


def test_all_that_is_wrong_is_said_at_once() -> None:
    bad = GOOD.replace("two-stream", "unet3d").replace("title: A test", "title: A test\nclasses: [AD, CN]")
    with pytest.raises(SeveralErrors, match=r"components.classifier.*in the order"):
        parse_recipe(bad, name="mine")


def test_a_speech_recipe_is_no_segmentation() -> None:
    with pytest.raises(RecipeError, match="task 'dementia'") as caught:
        segmentation_recipe("dementia")
    assert caught.value.code == "CHI-RC-006"
    assert isinstance(segmentation_recipe("brain-tissue"), Recipe)


def test_the_hash_follows_the_pictures_and_not_the_training() -> None:
    plain = read(GOOD).sha256()
    assert read(GOOD + "training: {epochs: 3}\n").sha256() == plain
    assert read(GOOD + "audio: {n_mels: 128}\n").sha256() != plain
    assert read(GOOD.replace("width: 8", "width: 9")).sha256() != plain


def test_the_shipped_variants_change_what_their_files_name_and_nothing_else() -> None:
    assert len(VARIANTS) >= 13
    base = load_recipe("dementia").model_dump(mode="json")
    folder = Path(__file__).resolve().parents[1] / "configs"

    def paths(tree: object, at: tuple[str, ...] = ()) -> set[tuple[str, ...]]:
        if not isinstance(tree, dict) or not tree:
            return {at}
        return {path for key, value in tree.items() for path in paths(value, (*at, str(key)))}

    for name in VARIANTS:
        assert recipe_base(name) == "dementia"
        said = yaml.safe_load((folder / f"{name}.yaml").read_text())
        own = load_recipe(name).model_dump(mode="json")
        assert own["name"] == name
        assert own["title"] != base["title"]
        named = paths(said) | {("name",)}
        different = {path for path in paths(own) | paths(base) if _at(own, path) != _at(base, path)}
        assert all(any(path[: len(one)] == one for one in named) for path in different), name
    assert recipe_base("dementia") == ""


def _at(tree: object, path: tuple[str, ...]) -> object:
    for key in path:
        tree = tree.get(key) if isinstance(tree, dict) else None
    return tree


def test_mappings_are_merged_and_all_else_is_replaced() -> None:
    variant = """
base: dementia
title: Mine
classes: [CN, MCI, AD]
components: {classifier: {weights: null, parameters: {width: 12}}}
training: {seeds: [3]}
"""
    mine, base = read(variant), load_recipe("dementia")
    assert isinstance(base, SpeechRecipe)
    assert mine.title == "Mine"
    assert mine.classes == ("CN", "MCI", "AD")
    assert mine.components["text"] == base.components["text"]
    assert mine.components["classifier"].weights is None  # null stands for none, not for the base's
    parameters = {**base.components["classifier"].parameters, "width": 12}
    assert mine.components["classifier"].parameters == parameters
    assert base.training is not None
    assert mine.training == {**base.training, "seeds": [3]}
    assert mine.name == "mine"


def test_a_base_that_is_not_there_is_refused_with_the_nearest() -> None:
    with pytest.raises(RecipeError, match=r"no shipped recipe 'dementa'.*Did you mean 'dementia") as caught:
        parse_recipe("base: dementa\ntitle: Mine\n", name="mine")
    assert caught.value.code == "CHI-RC-003"


@pytest.mark.parametrize("base", ["../dementia", "[dementia]", "3", "null", "{a: b}"])
def test_a_base_is_a_name_and_no_path(base: str) -> None:
    with pytest.raises(RecipeError) as caught:
        parse_recipe(f"base: {base}\ntitle: Mine\n", name="mine")
    assert caught.value.code == "CHI-RC-003"


def test_a_variant_is_no_base() -> None:
    with pytest.raises(RecipeError, match="is a variant itself"):
        parse_recipe("base: dementia-plain-ot-concat\ntitle: Mine\n", name="mine")


def test_a_variants_mistakes_are_found_too() -> None:
    with pytest.raises(SeveralErrors, match=r"titel.*Did you mean 'title'"):
        parse_recipe("base: dementia\ntitel: Mine\n", name="mine")
    with pytest.raises(SeveralErrors, match="audio"):
        parse_recipe("base: dementia\naudio: 3\n", name="mine")


def test_a_variant_in_a_file_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text("base: dementia\ntitle: Own\naudio: {n_mels: 64}\n")
    own = load_recipe(path)
    assert isinstance(own, SpeechRecipe)
    assert (own.name, own.audio.n_mels, own.audio.hop_length) == ("own", 64, 512)
