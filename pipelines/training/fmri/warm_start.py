"""A closed-form beginning: every subject's linear layer predicts principal components of the targets, so that subjects start aligned."""

from __future__ import annotations

from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from ....encoders.ridge_solver import fit_ridge
from .model import BrainModel
from .prepare import Prepared, TargetTable
from .ridge_fit import ridge_rows
from .settings import FmriTraining


@torch.no_grad()
def warm_start(model: BrainModel, prepared: Prepared, targets: TargetTable, settings: FmriTraining) -> int:
    """Set the subjects' linear layers of a MindEye2 network from ridge regressions; return how many components they predict.

    The components are those of the training images' tokens, the same for all subjects, each scaled to unit variance: what a subject's
    voxels do not tell about a component stays small. Hidden units beyond the components keep their random weights.

    Parameters
    ----------
    model : BrainModel
        Of kind ``mindeye2``.
    prepared : Prepared
    targets : TargetTable
    settings : FmriTraining
        `alphas` are those of the ridge baseline.
    """
    images = np.unique(np.concatenate([one.train.image for one in prepared.subjects.values()]))
    tokens = targets(images).flatten(1).double()
    mean = tokens.mean(0)
    hidden = int(model.brain.subject_parameters(next(iter(prepared.subjects)))[0].shape[0])
    k = min(hidden, len(images) - 1, tokens.shape[1])
    values, vectors = torch.linalg.eigh((tokens - mean).T @ (tokens - mean) / len(images))
    axes = (vectors[:, -k:] / values[-k:].clamp_min(1e-12).sqrt()).flip(1)
    for name, one in prepared.subjects.items():
        x, y = ridge_rows(one, targets)
        scores = ((y.double() - mean) @ axes).float()
        solution = fit_ridge(x, scores, alphas=settings.alphas)
        weight, bias = cast("tuple[nn.Parameter, nn.Parameter]", tuple(model.brain.subject_parameters(name)))
        _fill(weight, bias, solution.weights.T, solution.intercept)
    return k


def _fill(weight: Tensor, bias: Tensor, found: Tensor, intercept: Tensor) -> None:
    k = len(intercept)
    weight[:k].copy_(found)
    bias[:k].copy_(intercept)
