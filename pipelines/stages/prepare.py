"""From the channels' grid to the network's: canonical axes, model spacing, crop, normalised intensities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ...data.errors import InputError
from ...data.geometry import Canonical, Crop, Resampling
from ...data.volumes import Grid
from ..engine.plan import Plan
from ..engine.stage import Context, Stage
from ..engine.weights import find
from ..recipes import Recipe
from .items import BoolArray, Case, Prepared, Space
from .normalise import normalise

CODES: dict[str, str] = {"CHI-IN-097": "The recipe needs a brain mask and there is none."}
PREPARED_SPACING_MM = 1.0
"""What `--prepare` resamples to where the recipe leaves the spacing to the input."""


class Prepare(Stage):
    """Make the network's input, keeping all that is needed to go back exactly.

    Parameters
    ----------
    recipe : Recipe
        Its space and intensity blocks are read.
    """

    name = "prepare"
    consumes = Case
    produces = Prepared

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe

    def run(self, item: Case, context: Context) -> Prepared:
        """Prepare one patient.

        Raises
        ------
        InputError
            ``CHI-IN-097`` where the crop needs a mask and there is none.
        """
        canonical = Canonical.from_affine(item.output_grid.affine)
        resampling = resampling_of(
            canonical.grid(item.output_grid), model_spacing(self.recipe, prepared=item.target is not None)
        )
        views = [_to_model(v.values, item, canonical, resampling) for v in item.channels.values()]
        mask = None if item.mask is None else _mask_to_model(item.mask, item, canonical, resampling)
        crop = self._crop(views, mask, context.plan, resampling.target)
        image = torch.empty((len(views), *crop.size), dtype=torch.float32)
        inside = None if mask is None else np.ascontiguousarray(crop.cut(mask))
        for channel, view in enumerate(views):
            target = image[channel].numpy()
            np.copyto(target, crop.cut(view), casting="same_kind")  # axis flips, crop, order and type in one pass
            normalise(target, self.recipe.intensity, inside)
        space = Space(grid=item.output_grid, canonical=canonical, resampling=resampling, crop=crop)
        # The other channels are not needed any more; the first one is the report's background.
        kept = dict(list(item.channels.items())[:1])
        return Prepared(image=image, case=replace(item, channels=kept), space=space)

    def _crop(self, views: Sequence[NDArray[Any]], mask: BoolArray | None, plan: Plan, grid: Grid) -> Crop:
        how, margin_mm = self.recipe.space.crop, self.recipe.space.margin_mm
        if how == "mask":
            if mask is None:
                raise InputError(
                    "CHI-IN-097",
                    "this recipe needs a brain mask, and there is neither a network for it nor a mask.",
                    "Give one with --mask.",
                )
            return Crop.around(mask, grid, margin_mm=margin_mm)
        if how == "foreground" and plan.mode == "fast" and crop_is_validated(self.recipe):
            boxes = [Crop.around(view, grid, margin_mm=margin_mm) for view in views]
            x, y, z = (min(b.start[axis] for b in boxes) for axis in range(3))
            u, v, w = (max(b.stop[axis] for b in boxes) for axis in range(3))
            return Crop((x, y, z), (u, v, w), grid.shape)
        return Crop.whole(grid.shape)

    def predict_bytes(self, n_voxels: int) -> int:
        """The channels as read, the network's input and one resampled channel."""
        return n_voxels * (8 * len(self.recipe.channels) + 8)


def model_spacing(recipe: Recipe, *, prepared: bool) -> float | None:
    """Return the spacing that the network sees, mm; None: the input's own."""
    return PREPARED_SPACING_MM if recipe.space.spacing_mm is None and prepared else recipe.space.spacing_mm


def resampling_of(grid: Grid, spacing_mm: float | None) -> Resampling:
    """Return the resampling of a canonical grid to a spacing: the identity where it has that spacing already (within 0.1 %)."""
    same = spacing_mm is None or np.allclose(grid.spacing_mm, spacing_mm, rtol=1e-3, atol=0)
    return Resampling.to_spacing(grid, None if same else spacing_mm)


def crop_is_validated(recipe: Recipe) -> bool:
    """Whether every model card of the network says that the foreground crop was validated."""
    names = recipe.components["network"].weight_names
    return bool(names) and all(find(name).config.get("foreground_crop") == "validated" for name in names)


def _to_model(values: NDArray[Any], case: Case, canonical: Canonical, resampling: Resampling) -> NDArray[Any]:
    if case.target is not None:
        return values  # `--prepare` made them on the model's grid
    turned = canonical.forward(values)
    return turned if resampling.is_identity else resampling.to_target(turned)


def _mask_to_model(mask: BoolArray, case: Case, canonical: Canonical, resampling: Resampling) -> BoolArray:
    if case.target is not None or resampling.is_identity:
        return _to_model(mask, case, canonical, resampling)
    inside: BoolArray = resampling.to_target(canonical.forward(mask)) > 0.5
    return inside
