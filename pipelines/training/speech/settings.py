"""The `training:` block of a dementia recipe."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ....data.errors import RecipeError, SeveralErrors, did_you_mean

CODES: dict[str, str] = {"CHI-RC-120": "A field of a dementia recipe's training block is unknown or out of range."}

Protocol = Literal["auto", "challenge", "k-fold", "leave-one-person-out"]


class SpeechTraining(BaseModel):
    """How a classifier is trained and tested.

    Parameters
    ----------
    encoders : {'frozen', 'finetune'}
        Frozen: tokens are made once and cached. Finetune: everything is trained from end to end.
    protocol : {'auto', 'challenge', 'k-fold', 'leave-one-person-out'}
        Auto takes the data set's own test set where it has one, else folds.
    folds, seeds
        Of k-fold; every protocol is repeated for every seed.
    validation_share : float
        Of the training persons; decides when to stop and fits the temperature. The published siblings take 0.35.
    learning_rate, encoder_learning_rate : float
        Of classifier and encoders.
    warm_up : float
        Share of all steps in which the learning rate rises.
    patience : int
        Epochs without a better validation loss before stopping.
    label_smoothing : float
    mmse_weight, severity_weight, alignment_weight : float
        Of the squared error of MMSE / 30, the cross-entropy of the severity classes and the Sinkhorn divergence, where the classifier
        has them (`mmse`, `severity_classes`, `alignment`). Persons without MMSE take no part in the first two.
    severity_bands : tuple of int
        MMSE scores at which a severity class ends: below 10 severe, 10 to 20 moderate, 21 to 26 mild, 27 and above none.
    precision : {'auto', 'float32', 'bfloat16'}
        Of the encoders in 'finetune'; auto: bfloat16 where the device computes it. Transport is always float32.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    encoders: Literal["frozen", "finetune"] = "frozen"
    protocol: Protocol = "auto"
    folds: Annotated[int, Field(ge=2, le=100)] = 10
    seeds: Annotated[tuple[int, ...], Field(min_length=1, max_length=100)] = (0, 1, 2, 3, 4)
    validation_share: Annotated[float, Field(gt=0, lt=0.6)] = 0.2
    epochs: Annotated[int, Field(ge=1, le=10_000)] = 30
    patience: Annotated[int, Field(ge=1)] = 8
    batch_size: Annotated[int, Field(ge=1, le=1024)] = 16
    accumulate: Annotated[int, Field(ge=1, le=256)] = 1
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 1e-3
    encoder_learning_rate: Annotated[float, Field(ge=0, le=1)] = 1e-5
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 0.01
    warm_up: Annotated[float, Field(ge=0, lt=1)] = 0.1
    clip: Annotated[float, Field(gt=0)] = 1.0
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.1
    mmse_weight: Annotated[float, Field(ge=0)] = 0.0
    severity_weight: Annotated[float, Field(ge=0)] = 0.0
    severity_bands: tuple[Annotated[int, Field(ge=1, le=30)], ...] = (10, 21, 27)
    alignment_weight: Annotated[float, Field(ge=0)] = 0.0
    precision: Literal["auto", "float32", "bfloat16"] = "auto"


def read_speech_training(block: Mapping[str, Any] | None, *, name: str) -> SpeechTraining:
    """Check a recipe's training block.

    Raises
    ------
    RecipeError, SeveralErrors
        ``CHI-RC-120``, every field that is wrong.
    """
    try:
        return SpeechTraining.model_validate(dict(block or {}))
    except ValidationError as error:
        wrong = []
        for item in error.errors(include_url=False):
            field = ".".join(str(part) for part in item["loc"])
            near = did_you_mean(field, list(SpeechTraining.model_fields)) if item["type"] == "extra_forbidden" else ""
            message = item["msg"][0].lower() + item["msg"][1:]
            wrong.append(RecipeError("CHI-RC-120", f"recipe '{name}', training.{field}: {message}.{near}"))
        raise (wrong[0] if len(wrong) == 1 else SeveralErrors(wrong)) from None
