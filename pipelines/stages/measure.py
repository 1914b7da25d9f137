"""Volumes in millilitres and quality flags in words."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ...data.volumes import Grid
from ..engine.stage import Context, Stage
from ..recipes import Recipe
from .items import LabelArray, Labelled, LabelMeasure, Measured
from .training_data import training_notices

MASK_NAME = "brain"


class Measure(Stage):
    """Count each label and region, and flag what looks wrong.

    Parameters
    ----------
    recipe : Recipe
        Names of the labels, regions and plausible volumes.
    """

    name = "measure"
    consumes = Labelled
    produces = Measured

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe

    def run(self, item: Labelled, context: Context) -> Measured:
        """Measure one patient."""
        grid, labels = item.case.output_grid, item.labels
        counts, sums = count_and_sum(labels, max([*self.recipe.label_names, *(r.write for r in self.recipe.regions)]))
        parts: list[tuple[str, tuple[int, ...], bool]] = [
            (name, (value,), True) for value, name in self.recipe.labels.items()
        ]
        parts += [(name, members, False) for name, members in region_members(self.recipe).items()]
        measures = [
            _measure(name, values, counts[list(values)], sums[list(values)], grid, exclusive=one)
            for name, values, one in parts
        ]
        if item.mask is not None:
            mask_counts, mask_sums = count_and_sum(item.mask.view(np.uint8), 1)
            measures.insert(0, _measure(MASK_NAME, (), mask_counts[[1]], mask_sums[[1]], grid, exclusive=False))
        context.flags[:0] = training_notices(self.recipe, context.notes.get("inputs", {}))
        context.flags.extend(self._flags(measures, labels))
        row = {f"{m.name.replace(' ', '_')}_ml": round(m.volume_ml, 3) for m in measures}
        return Measured(labelled=item, measures=tuple(measures), row=row)

    def _flags(self, measures: list[LabelMeasure], labels: LabelArray) -> list[str]:
        flags = []
        at_border = border_values(labels)
        for m in measures:
            if m.n_voxels == 0:
                flags.append(f"{m.name}: empty, not one voxel was found")
            elif at_border.intersection(m.values):
                flags.append(f"{m.name}: touches the border of the volume, part of it may be missing")
            low, high = self.recipe.plausible_ml.get(m.name, (0.0, np.inf))
            if m.n_voxels > 0 and not low <= m.volume_ml <= high:
                flags.append(
                    f"{m.name}: {m.volume_ml:.1f} ml lies outside the plausible range of {low:g} to {high:g} ml"
                )
        return flags

    def predict_bytes(self, n_voxels: int) -> int:
        """One slab of 64-bit counts: negligible."""
        return 0


def region_members(recipe: Recipe) -> dict[str, tuple[int, ...]]:
    """Return which label values of the output each nested region holds.

    Regions are written in order and later ones overwrite: a region holds its own value and those of the regions inside it (the labels
    of which are a subset of its own).
    """
    return {
        region.name: tuple(sorted({other.write for other in recipe.regions if set(other.labels) <= set(region.labels)}))
        for region in recipe.regions
    }


def count_and_sum(labels: LabelArray, largest: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Count every label value and sum its voxel indices, one slab at a time.

    Returns
    -------
    counts : ndarray, shape (largest + 1,)
    sums : ndarray, shape (largest + 1, 3)
        Sum of (i, j, k) over the voxels of each value.
    """
    counts = np.zeros(largest + 1, np.int64)
    sums = np.zeros((largest + 1, 3))
    # Along each axis a histogram of (value, index) gives both; slabs follow the memory order of the array.
    slow = int(np.argmax(np.abs(labels.strides)))
    moved = np.moveaxis(labels, slow, 0)
    others = [axis for axis in range(3) if axis != slow]
    for index, slab in enumerate(moved):
        if not slab.any():
            continue
        for position, axis in enumerate(others):
            n = slab.shape[position]
            rows = np.moveaxis(slab, position, 0).astype(np.intp, copy=False)
            flat = rows + (np.arange(n, dtype=np.intp) * (largest + 1))[:, None]
            histogram = np.bincount(flat.ravel(), minlength=n * (largest + 1)).reshape(n, largest + 1)
            sums[:, axis] += np.arange(n) @ histogram
        found = histogram.sum(axis=0)
        counts += found
        sums[:, slow] += index * found
    counts[0] = labels.size - counts[1:].sum()
    return counts, sums


def border_values(labels: LabelArray) -> set[int]:
    """Return the label values on the six faces of the volume, without 0."""
    values: set[int] = set()
    for axis in range(3):
        for index in (0, -1):
            values.update(int(v) for v in np.unique(labels.take(index, axis=axis)))
    return values - {0}


def _measure(
    name: str,
    values: tuple[int, ...],
    counts: NDArray[np.int64],
    sums: NDArray[np.float64],
    grid: Grid,
    *,
    exclusive: bool,
) -> LabelMeasure:
    n = int(counts.sum())
    centre = None
    if n:
        world = grid.affine @ np.append(sums.sum(axis=0) / n, 1.0)
        centre = (round(float(world[0]), 2), round(float(world[1]), 2), round(float(world[2]), 2))
    return LabelMeasure(
        name=name, values=values, exclusive=exclusive, n_voxels=n, volume_ml=n * grid.voxel_ml, centre_mm=centre
    )
