"""`--prepare`: raw channels to one grid: rigid registration to the reference channel, then 1 mm."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ...data.errors import InputError, RecipeError
from ...data.geometry import Canonical, Resampling
from ...data.volumes import Volume
from ..engine.stage import Context, Stage
from ..recipes import Recipe
from .items import BoolArray, Case
from .prepare import model_spacing, resampling_of
from .registration import Registration, register, resample

CODES: dict[str, str] = {"CHI-RC-090": "--prepare was asked for with a recipe that has no mask network."}
REFERENCE_WORDS = ("t1c", "t1ce", "t1gd", "t1post", "ce-t1w", "t1wce")
"""Names of the channel that the others are moved to: T1-weighted with contrast agent, in which a tumour is seen best."""
MAX_MOVE_MM, MAX_TURN_DEGREES = 60.0, 45.0


class PrepareChannels(Stage):
    """Move every channel onto the reference channel's field of view at the model's spacing.

    The reference is not rotated, so that labels go back to its grid by its spacing alone; each moved channel is interpolated
    once, from its own grid.

    Parameters
    ----------
    recipe : Recipe

    Raises
    ------
    RecipeError
        ``CHI-RC-090`` where it has no mask network.
    """

    name = "prepare-channels"
    consumes = Case
    produces = Case

    def __init__(self, recipe: Recipe) -> None:
        if "mask" not in recipe.components:
            raise RecipeError(
                "CHI-RC-090",
                "--prepare strips the skull, for which this recipe names no network.",
                "Add a component 'mask' of kind brain-mask to the recipe, or give prepared volumes.",
            )
        self.recipe = recipe

    def run(self, item: Case, context: Context) -> Case:
        """Register and resample one patient's channels; every step is left in the notes.

        Raises
        ------
        ToolError
            ``CHI-TL-060`` where SimpleITK is not installed.
        InputError
            ``CHI-IN-098`` where a channel cannot be registered.
        """
        name = reference_channel(list(item.channels))
        reference = item.channels[name]
        canonical = Canonical.from_affine(reference.grid.affine)
        resampling = resampling_of(canonical.grid(reference.grid), model_spacing(self.recipe, prepared=True))
        steps: list[dict[str, object]] = []
        moved: dict[str, Volume] = {}
        for channel, volume in item.channels.items():
            if channel == name:
                moved[channel] = Volume(resampling.to_target(canonical.forward(volume.values)), resampling.target)
                steps.append(
                    {
                        "channel": channel,
                        "step": "reference, resampled",
                        "spacing_mm": _rounded(resampling.target.spacing_mm),
                    }
                )
                continue
            recording = item.session.channel(channel)
            relative = recording.relative if recording else ""
            found = register(reference, volume, seed=context.plan.seed, relative=relative)
            _check(found, channel, relative)
            moved[channel] = resample(volume, resampling.target, found)
            steps.append({"channel": channel, "step": "rigid registration, resampled", **found.as_json()})
        context.notes["preparation"] = steps
        context.flags.append(
            "the channels were registered and resampled by --prepare: look at the overlay before using the volumes"
        )
        mask = None if item.mask is None else _turn_mask(item.mask, canonical, resampling)
        return replace(item, channels=moved, mask=mask, target=reference)

    def predict_bytes(self, n_voxels: int) -> int:
        """Channels as read and as moved (at 1 mm up to eight times the voxels of 2 mm), and the registration's pyramid."""
        return n_voxels * 4 * (9 * len(self.recipe.channels) + 4)


def reference_channel(names: list[str]) -> str:
    """Return the contrast-enhanced T1 channel, or the first one where none has such a name."""
    return next((name for name in names if name.lower() in REFERENCE_WORDS), names[0])


def _turn_mask(mask: BoolArray, canonical: Canonical, resampling: Resampling) -> BoolArray:
    if resampling.is_identity:
        turned: BoolArray = canonical.forward(mask)
        return turned
    inside: BoolArray = resampling.to_target(canonical.forward(mask)) > 0.5
    return inside


def _check(found: Registration, channel: str, relative: str) -> None:
    if found.turn_degrees <= MAX_TURN_DEGREES and found.move_mm <= MAX_MOVE_MM:
        return
    raise InputError(
        "CHI-IN-098",
        f"channel '{channel}' could not be registered: the best fit turns it by {found.turn_degrees:.0f} degrees and "
        f"moves it by {found.move_mm:.0f} mm.",
        "Check that it shows the same head and covers the same region.",
        file=relative,
    )


def _rounded(values: tuple[float, float, float]) -> list[float]:
    return [round(float(np.float64(v)), 4) for v in values]
