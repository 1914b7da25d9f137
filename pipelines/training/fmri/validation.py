"""What is looked at after every epoch: retrieval and token error on held-out training images, never on test images."""

from __future__ import annotations

from collections.abc import Callable

import torch

from ....fusion.contrastive import flattened
from ...fmri_recipe import FmriRecipe
from ...stages.fmri.predictor import predict
from .model import BrainModel
from .prepare import Prepared, TargetTable


def validator(
    prepared: Prepared, targets: TargetTable, recipe: FmriRecipe
) -> Callable[[BrainModel], dict[str, float]] | None:
    """Return a function that measures a model on the validation images, or None where none were held out."""
    subjects = [one for one in prepared.subjects.values() if len(one.validation) > 1]
    if not subjects:
        return None

    def validate(model: BrainModel) -> dict[str, float]:
        top1, cosine = [], []
        for one in subjects:
            predicted = predict(model, one.subject, one.validation, one.scaler, repeats=recipe.betas.test_repeats)
            t = flattened(targets(one.validation.image))
            right = torch.arange(len(t))
            top1.append(((flattened(predicted.projected) @ t.T).argmax(1) == right).float().mean())
            cosine.append((flattened(predicted.tokens) * t).sum(1).mean())
        return {
            "validation_top1": float(torch.stack(top1).mean()),
            "validation_cosine": float(torch.stack(cosine).mean()),
        }

    return validate
