"""Which voxels carried the decoding: gradient times input of the agreement between a prediction and itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

if TYPE_CHECKING:
    from ....data.fmri.decoding_set import BrainSubject
    from ....data.fmri.scaling import VoxelScaler
    from ....data.fmri.trials import ImageTrials
    from ...training.fmri.model import BrainModel

MOST = 64
"""Images that are looked at: the map is a mean, and settles early."""


def voxel_importance(
    model: BrainModel, subject: BrainSubject, trials: ImageTrials, scaler: VoxelScaler
) -> NDArray[np.float32]:
    """Return each voxel's mean share, over images, of how the projected tokens differ from their mean over images.

    For every image the score is the inner product of its projected tokens, centred over the images and normalised, with themselves
    held fixed; a voxel's part is |value x gradient| (Simonyan et al. 2014; Shrikumar et al. 2016). The true image has no part in it.

    Parameters
    ----------
    model : BrainModel
    subject : BrainSubject
    trials : ImageTrials
    scaler : VoxelScaler

    Returns
    -------
    ndarray of float32, shape (V,)
        Sums to 1.
    """
    chosen = np.unique(np.linspace(0, len(trials) - 1, min(MOST, len(trials))).astype(np.int64))
    values = scaler.apply(subject.betas.read(trials.rows[chosen, 0]), trials.session[chosen, 0])
    device = next(model.parameters()).device
    with torch.enable_grad():
        voxels = torch.from_numpy(values).to(device).requires_grad_(True)
        projected = model.network(voxels, subject.name).projected.flatten(1)
        fixed = functional.normalize((projected - projected.mean(0)).detach(), dim=1)
        (slope,) = torch.autograd.grad((projected * fixed).sum(), voxels)
    share = (slope * voxels).abs().detach().double()
    share = (share / share.sum(1, keepdim=True).clamp_min(1e-300)).mean(0)
    return np.asarray(share.float().cpu().numpy())
