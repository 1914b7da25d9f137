"""The ``training`` block of a recipe of images from fMRI."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from ....data.errors import RecipeError, SeveralErrors
from ...recipes import Fields

CODES: dict[str, str] = {
    "CHI-RC-150": "A field of a recipe's training block (images from fMRI) is unknown or outside what is allowed."
}

Positive = Annotated[float, Field(gt=0)]
Weight = Annotated[float, Field(ge=0)]


class FmriTraining(Fields):
    """How a brain network is trained.

    `mixup_share` is the share of epochs with BiMixCo (0: none), after which SoftCLIP runs with a temperature from `soft_from` to
    `soft_to`. Weights of the losses are those of the authors' code (30 prior, 1 contrastive, .5 low level), not of the MindEye2
    paper. MindBridge has losses of its own: `feature_weight` of the normalised MSE, `rebuild_weight` and `cycle_weight`.
    `token_weight` adds the squared error of the tokens themselves, and `warm_start` begins with ridge in the subjects' linear
    layers (MindEye2): neither is published, both are for little data. `hours` keeps the first sessions (one an hour) of every
    subject, `length` so many of the training images, first seen first.
    """

    epochs: Annotated[int, Field(ge=1, le=10_000)] = 40
    batch_size: Annotated[int, Field(ge=2, le=4096)] = 96
    learning_rate: Positive = 3e-4
    final_divisor: Positive = 1000.0
    weight_decay: Weight = 1e-2
    warm_up_epochs: Weight = 2.0
    clip_norm: Positive = 1.0
    validation_share: Annotated[float, Field(ge=0, lt=0.5)] = 0.05
    contrastive_weight: Weight = 1.0
    prior_weight: Weight = 30.0
    token_weight: Weight = 0.0
    low_level_weight: Weight = 0.5
    auxiliary_weight: Weight = 0.1
    mixup_share: Annotated[float, Field(ge=0, le=1)] = 0.33
    mixco_tau: Positive = 0.006
    mixco_alpha: Positive = 0.15
    soft_from: Positive = 0.004
    soft_to: Positive = 0.0075
    feature_weight: Weight = 1e4
    rebuild_weight: Weight = 1.0
    cycle_weight: Weight = 1.0
    bridge_tau: Positive = 0.005
    noise: Weight = 0.0
    warm_start: bool = False
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.995
    precision: Literal["float32", "bfloat16"] = "float32"
    seed: int = 42
    alphas: tuple[Positive, ...] = (1.0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6)
    hours: Annotated[float, Field(gt=0)] | None = None
    length: Annotated[int, Field(ge=4)] | None = None


def read_training(block: Mapping[str, Any] | None, *, name: str) -> FmriTraining:
    """Check a recipe's block.

    Raises
    ------
    SeveralErrors
        ``CHI-RC-150``, one a wrong field.
    """
    try:
        return FmriTraining.model_validate(dict(block or {}))
    except ValidationError as error:
        raise SeveralErrors(
            [
                RecipeError(
                    "CHI-RC-150", f"recipe '{name}', training.{'.'.join(map(str, item['loc']))}: {item['msg']}."
                )
                for item in error.errors(include_url=False)
            ]
        ) from None
