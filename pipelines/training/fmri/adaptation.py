"""A new subject for a trained model: fine-tuning (MindEye2) or reset-tuning (MindBridge)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from ....encoders.mindbridge import MindBridgeNetwork
from .model import BrainModel
from .prepare import Prepared
from .settings import FmriTraining

Loop = Callable[[BrainModel, Prepared, FmriTraining], BrainModel | None]


def adapt(
    model: BrainModel,
    new: Prepared,
    sources: Prepared | None,
    settings: FmriTraining,
    *,
    run: Loop,
) -> BrainModel | None:
    """Give a newcomer parameters of its own and train; None where it was stopped.

    MindEye2 trains everything on the newcomer's data. MindBridge trains the newcomer's embedder and builder alone, with a source subject
    in every step where the sources' data are there (for the cycle loss).

    Parameters
    ----------
    model : BrainModel
        Trained on others.
    new : Prepared
        The newcomer's data, one subject.
    sources : Prepared, optional
        Of the subjects that the model was trained on.
    settings : FmriTraining
    run : callable
        Trains and returns the averaged model.
    """
    (label,) = new.subjects
    model.requires_grad_(True)
    if label not in model.n_voxels:
        model.brain.add_subject(label, new.subjects[label].subject.n_voxels)
    together = new
    if isinstance(model.network, MindBridgeNetwork):
        model.network.freeze_shared(label)
        if sources is not None and settings.cycle_weight:
            first = next(iter(sources.subjects))
            together = replace(new, subjects={first: sources.subjects[first], label: new.subjects[label]})
    return run(model, together, settings)
