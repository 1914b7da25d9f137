"""The closed-form baseline: ridge from the mean over repeats to tokens, one penalty a target, chosen by leaving images out."""

from __future__ import annotations

import numpy as np
import torch

from ....encoders.ridge import RidgeNetwork, RidgeNetworkConfig
from ....encoders.ridge_solver import fit_ridge
from ..fmri.model import BrainModel
from .prepare import Prepared, PreparedSubject, TargetTable
from .settings import FmriTraining


def fit_ridge_model(model: BrainModel, prepared: Prepared, targets: TargetTable, settings: FmriTraining) -> BrainModel:
    """Fill a ridge model: a regression a subject."""
    if not isinstance(model.network, RidgeNetwork):
        raise TypeError("a ridge network is needed")
    for name, one in prepared.subjects.items():
        x, y = ridge_rows(one, targets)
        model.network.set_solution(name, fit_ridge(x, y, alphas=settings.alphas))
    return model


def ridge_model(prepared: Prepared, targets: TargetTable, settings: FmriTraining) -> BrainModel:
    """Fit ridge for all subjects, as a model of its own."""
    tokens, width = targets(prepared.subjects[next(iter(prepared.subjects))].train.image[:1]).shape[1:]
    network = RidgeNetwork(RidgeNetworkConfig(tokens=tokens, width=width), prepared.n_voxels)
    return fit_ridge_model(BrainModel("ridge", network, None), prepared, targets, settings)


def ridge_rows(one: PreparedSubject, targets: TargetTable) -> tuple[torch.Tensor, torch.Tensor]:
    """Return voxels (n, V), mean over repeats, and flattened tokens (n, N d), of training and validation images."""
    parts = []
    for side in (one.train, one.validation):
        if len(side):
            source = one.source.__class__(subject=one.subject, images=side, scaler=one.scaler)
            parts.append((source.voxels(np.arange(len(side)), None), side.image))
    x = np.concatenate([values for values, _ in parts])
    y = torch.cat([targets(images).flatten(1) for _, images in parts])
    return torch.from_numpy(x), y
