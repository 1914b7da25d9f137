"""The brain, where nobody gave it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ...data.geometry import Canonical
from ...data.volumes import Volume
from ..engine.stage import Context, Stage
from .items import BoolArray, Case
from .skull_stripped import stripped_mask

BRAIN_RANGE_ML = (600.0, 2200.0)
"""Intracranial volumes of children and adults; a mask outside is flagged, not refused."""


class BrainMask(Stage):
    """Find the brain: from the input's mask, from zeros around it, or with the network (in this order).

    Parameters
    ----------
    component : str
        Name of the mask network among the components.
    """

    name = "brain-mask"
    consumes = Case
    produces = Case
    device = "accelerator"

    def __init__(self, component: str = "mask") -> None:
        self.component = component
        self.needs = (component,)

    def run(self, item: Case, context: Context) -> Case:
        """Return the case with a mask."""
        found = item if item.mask is not None else self._find(item, context)
        if found.mask is not None:
            flag_mask(found.mask, found.grid.voxel_ml, context)
        context.notes["brain_mask"] = found.mask_source
        return found

    def _find(self, item: Case, context: Context) -> Case:
        shown = t1_like(item)
        stripped = stripped_mask(shown)
        if stripped is not None:
            return replace(item, mask=stripped, mask_source="skull-stripped")
        canonical = Canonical.from_affine(item.grid.affine)
        values = np.ascontiguousarray(canonical.forward(shown.values), dtype=np.float32)
        mask = canonical.inverse(context.components[self.component](values))
        return replace(item, mask=mask, mask_source="network")

    def predict_bytes(self, n_voxels: int) -> int:
        """The channel as read, canonical and in the masker, and the activations of a window of 256 cubed (measured)."""
        return n_voxels * 16 + 256**3 * 4 * 10


def t1_like(case: Case) -> Volume:
    """Return the channel that mask networks know best: T1-weighted without contrast agent, then with, then the first."""
    names = sorted(case.channels, key=lambda name: (not name.lower().startswith("t1"), len(name)))
    t1 = [name for name in names if name.lower().startswith("t1")]
    return case.channels[t1[0]] if t1 else case.first


def flag_mask(mask: BoolArray, voxel_ml: float, context: Context) -> None:
    """Flag a mask that touches the border of the volume or has no brain's size."""
    faces = [mask.take(index, axis=axis) for axis in range(3) for index in (0, -1)]
    if any(face.any() for face in faces):
        context.flags.append("brain mask: touches the border of the volume, part of the brain may be missing")
    volume_ml = float(np.count_nonzero(mask)) * voxel_ml
    low, high = BRAIN_RANGE_ML
    if not low <= volume_ml <= high:
        context.flags.append(f"brain mask: {volume_ml:.0f} ml lies outside the usual range of {low:g} to {high:g} ml")
