"""The training block of a dementia recipe: every mistake at once, with the nearest word."""

from __future__ import annotations

import pytest

from chiasm.data.errors import RecipeError, SeveralErrors
from chiasm.pipelines.recipes import load_recipe, recipe_base, recipe_names
from chiasm.pipelines.training.speech.settings import CODES, SpeechTraining, read_speech_training


def test_every_shipped_recipe_has_a_block_that_is_read() -> None:
    names = [name for name in recipe_names() if name == "dementia" or recipe_base(name) == "dementia"]
    assert len(names) > 10
    found = {name: read_speech_training(load_recipe(name).training, name=name) for name in names}
    assert found["dementia"].encoders == "frozen"
    assert found["dementia"].seeds == (0, 1, 2, 3, 4)
    published = found["dementia-published"]
    assert (published.encoders, published.validation_share) == ("finetune", 0.35)
    assert published.folds == found["dementia"].folds


def test_nothing_said_is_the_default() -> None:
    assert read_speech_training(None, name="r") == SpeechTraining() == read_speech_training({}, name="r")


def test_every_mistake_is_listed_with_the_nearest_word() -> None:
    block = {"epoch": 3, "learning_rate": 5.0, "encoders": "frozn", "seeds": [], "validation_share": 0.6, "zebra": 1}
    with pytest.raises(SeveralErrors) as caught:
        read_speech_training(block, name="mine")
    said = {str(error.message) for error in caught.value.errors}
    assert len(said) == 6
    assert {error.code for error in caught.value.errors} == {"CHI-RC-120"} == set(CODES)
    assert sum("Did you mean 'epochs'?" in message for message in said) == 1
    for field in ("epoch", "learning_rate", "encoders", "seeds", "validation_share", "zebra"):
        assert sum(f"recipe 'mine', training.{field}:" in message for message in said) == 1
    assert not any("Did you mean" in message for message in said if "zebra" in message)


def test_one_mistake_is_one_error() -> None:
    with pytest.raises(RecipeError, match=r"training.batch_size.*greater than or equal to 1") as caught:
        read_speech_training({"batch_size": 0}, name="r")
    assert caught.value.code == "CHI-RC-120"


def test_settings_do_not_change() -> None:
    with pytest.raises(ValueError, match="frozen"):
        SpeechTraining().epochs = 3  # type: ignore[misc]
