"""Labelled cases of a data set as training samples: prepared once, then read in patches."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...data.atomic import atomic_path, write_json
from ...data.datasets import LabelledCase
from ...data.errors import ChiasmError, InputError, SeveralErrors
from ...data.geometry import Canonical, Crop, Resampling
from ...data.nifti import read_volume
from ...data.volumes import Grid, Volume
from ..recipes import Recipe
from ..stages.normalise import normalise
from .augment import augment
from .settings import Phase, TrainingSettings

CODES: dict[str, str] = {
    "CHI-IN-134": "a case lacks a channel that the recipe needs",
    "CHI-IN-135": "a case's channels and label map do not lie on one grid",
    "CHI-IN-136": "a label map holds values that the recipe does not know, or no label at all",
    "CHI-IN-137": "a volume holds NaN or infinite values",
}
FOREGROUND_SAMPLES = 2048
"""Labelled voxels kept a case to centre patches on."""


@dataclass(frozen=True, kw_only=True)
class PreparedCase:
    """A case on the network's grid, on disk.

    Parameters
    ----------
    image : Path
        float16, (C, X, Y, Z), ``.npy``.
    labels : Path
        uint8, (X, Y, Z), ``.npy``.
    centres : ndarray of int, shape (N, 3)
        Labelled voxels, drawn evenly over the labels.
    """

    name: str
    patient: str
    image: Path
    labels: Path
    spacing_mm: tuple[float, float, float]
    centres: NDArray[np.integer[Any]]


def prepare_cases(cases: Sequence[LabelledCase], recipe: Recipe, folder: Path) -> list[PreparedCase]:
    """Bring every case to the network's grid; what was prepared before from the same files is kept.

    Raises
    ------
    SeveralErrors
        Every case that cannot be used (CHI-IN-134 to 137, or what its files raise).
    """
    done: list[PreparedCase] = []
    errors: list[ChiasmError] = []
    for case in sorted(cases, key=lambda one: one.name):
        try:
            done.append(_prepare(case, recipe, folder))
        except ChiasmError as error:
            errors.append(error)
    if errors:
        raise SeveralErrors(errors)
    return done


def _prepare(case: LabelledCase, recipe: Recipe, folder: Path) -> PreparedCase:
    channels = [name for name in recipe.channels if name != "mask"]
    missing = [name for name in channels if name not in case.images]
    if missing:
        message = f"channel {', '.join(missing)} is missing."
        raise InputError("CHI-IN-134", message, "Add the file, or train a recipe without the channel.", file=case.name)
    files = [case.images[name] for name in channels] + [case.label]
    stamp = _stamp(files, recipe)
    stem = hashlib.sha256(case.name.encode()).hexdigest()[:16]
    note_path, image_path, label_path = (folder / f"{stem}{end}" for end in (".json", "_image.npy", "_labels.npy"))
    note = _read_note(note_path)
    if note.get("stamp") != stamp:
        image, labels, grid = _on_network_grid(case, channels, recipe)
        for path, array in ((image_path, image), (label_path, labels)):
            with atomic_path(path) as temporary, temporary.open("wb") as file:
                np.save(file, array, allow_pickle=False)
        note = {"stamp": stamp, "spacing_mm": list(grid.spacing_mm), "centres": _centres(labels).tolist()}
        write_json(note_path, note)
    x, y, z = note["spacing_mm"]
    return PreparedCase(
        name=case.name,
        patient=case.patient,
        image=image_path,
        labels=label_path,
        spacing_mm=(x, y, z),
        centres=np.array(note["centres"], dtype=int).reshape(-1, 3),
    )


def _read_note(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    note: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return note


def _stamp(files: Sequence[Path], recipe: Recipe) -> str:
    facts = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    how = [list(recipe.channels), recipe.space.model_dump(), recipe.intensity, sorted(_known_labels(recipe))]
    return hashlib.sha256(json.dumps([facts, how], default=str).encode()).hexdigest()


def _on_network_grid(
    case: LabelledCase, channels: Sequence[str], recipe: Recipe
) -> tuple[NDArray[np.float16], NDArray[np.uint8], Grid]:
    volumes = [
        read_volume(case.images[name], index=case.volumes.get(name), relative=case.images[name].name)
        for name in channels
    ]
    label = read_volume(case.label, relative=case.label.name)
    _check(case, [*volumes, label], recipe, label)
    canonical = Canonical.from_affine(label.grid.affine)
    turned = canonical.grid(label.grid)
    foreground = np.zeros(turned.shape, dtype=bool)
    for volume in volumes:
        foreground |= canonical.forward(volume.values) != 0
    # Images that are not skull-stripped have no zeros: the crop is then the whole volume.
    crop = Crop.around(foreground, turned, margin_mm=recipe.space.margin_mm)
    resampling = Resampling.to_spacing(crop.grid(turned), recipe.space.spacing_mm)
    planes = []
    for volume in volumes:
        plane = np.ascontiguousarray(resampling.to_target(crop.cut(canonical.forward(volume.values))), dtype=np.float32)
        normalise(plane, recipe.intensity, None)
        planes.append(plane.astype(np.float16))
    labels = nearest(crop.cut(canonical.forward(label.values)), resampling.target.shape)
    return np.stack(planes), np.ascontiguousarray(labels.astype(np.uint8)), resampling.target


def nearest(labels: NDArray[Any], shape: tuple[int, int, int]) -> NDArray[Any]:
    """Resample labels over the same extent (faces of both grids coincide) to the nearest voxel."""
    for axis, n in enumerate(shape):
        if labels.shape[axis] != n:
            index = np.floor((np.arange(n) + 0.5) * labels.shape[axis] / n).astype(int)
            labels = np.take(labels, index, axis=axis)
    return labels


def _known_labels(recipe: Recipe) -> set[int]:
    if recipe.regions:
        return {label for region in recipe.regions for label in region.labels}
    return set(recipe.labels)


def _check(case: LabelledCase, volumes: Sequence[Volume], recipe: Recipe, label: Volume) -> None:
    if any(not volume.grid.same_as(label.grid, tolerance_mm=1e-2) for volume in volumes):
        raise InputError(
            "CHI-IN-135",
            "channels and label map lie on different grids.",
            "Resample them to one grid first.",
            file=case.name,
        )
    if any(not np.isfinite(volume.values).all() for volume in volumes):
        raise InputError(
            "CHI-IN-137", "a volume holds NaN or infinite values.", "Write the file again without them.", file=case.name
        )
    values = {int(value) for value in np.unique(label.values)}
    unknown = values - _known_labels(recipe) - {0}
    if unknown:
        raise InputError(
            "CHI-IN-136",
            f"the label map holds {sorted(unknown)[:5]}, the recipe knows {sorted(_known_labels(recipe))}.",
            "Correct the recipe's labels or regions, or the label map.",
            file=case.name,
        )


def _centres(labels: NDArray[np.uint8]) -> NDArray[np.integer[Any]]:
    rng = np.random.default_rng(0)
    kept = []
    values = [int(value) for value in np.unique(labels) if value]
    for value in values:
        flat = np.flatnonzero(labels == value)
        chosen = rng.choice(flat, size=min(len(flat), FOREGROUND_SAMPLES // len(values)), replace=False)
        kept.append(np.stack(np.unravel_index(np.sort(chosen), labels.shape), axis=1))
    return np.concatenate(kept) if kept else np.zeros((0, 3), dtype=int)


def region_masks(labels: NDArray[np.uint8], recipe: Recipe) -> NDArray[np.float32]:
    """Return a 0/1 map for each region of the recipe, shape (R, X, Y, Z)."""
    return np.stack([np.isin(labels, region.labels) for region in recipe.regions]).astype(np.float32)


class CaseSource:
    """Patches of prepared cases; the i-th depends on (seed, i) only.

    Parameters
    ----------
    cases : sequence of PreparedCase
    recipe : Recipe
    settings : TrainingSettings
        `control: permuted-labels` gives each image the label map of another case, cut to the same place: a network that
        learns anything from that has learnt where labels lie on average, nothing else.
    """

    def __init__(self, cases: Sequence[PreparedCase], recipe: Recipe, settings: TrainingSettings) -> None:
        self.cases, self.recipe, self.settings = list(cases), recipe, settings
        self.label_of = list(range(len(self.cases)))
        if settings.control == "permuted-labels":
            order = np.random.default_rng([settings.seed, 1]).permutation(len(self.cases))
            # A cycle through all cases: no case keeps its own labels.
            self.label_of[:] = [
                int(order[(int(np.flatnonzero(order == i)[0]) + 1) % len(order)]) for i in self.label_of
            ]

    def sample(self, index: int, phase: Phase) -> tuple[Tensor, Tensor]:
        """Return an image patch (C, X, Y, Z) and its labels (X, Y, Z) or regions (R, X, Y, Z)."""
        rng = np.random.default_rng([self.settings.seed, 0, index])
        number = int(rng.integers(len(self.cases)))
        case, labelled = self.cases[number], self.cases[self.label_of[number]]
        image = np.load(case.image, mmap_mode="r", allow_pickle=False)
        labels = np.load(labelled.labels, mmap_mode="r", allow_pickle=False)
        if len(labelled.centres) and rng.random() < self.settings.foreground:
            centre = labelled.centres[int(rng.integers(len(labelled.centres)))]
        else:
            centre = np.array([rng.integers(n) for n in image.shape[1:]])
        start = [int(c) - p // 2 for c, p in zip(centre, phase.patch, strict=True)]
        start = [_inside(a, n, p) for a, n, p in zip(start, image.shape[1:], phase.patch, strict=True)]
        patch = _cut(image, start, phase.patch).astype(np.float32)
        target = _cut(labels[None], start, phase.patch)[0]
        patch, target = augment(patch, target, rng, self.settings.augmentation)
        if self.recipe.regions:
            return torch.from_numpy(patch), torch.from_numpy(region_masks(target, self.recipe))
        return torch.from_numpy(patch), torch.from_numpy(target.astype(np.int64))


def _inside(start: int, length: int, size: int) -> int:
    """Move a patch into the volume; centre the volume in the patch where it is smaller."""
    if length <= size:
        return -((size - length) // 2)
    return min(max(start, 0), length - size)


def _cut(volume: NDArray[Any], start: Sequence[int], size: Sequence[int]) -> NDArray[Any]:
    """Return (C, *size) from `start`, zeros outside the volume."""
    out = np.zeros((volume.shape[0], *size), dtype=volume.dtype)
    source, target = [], []
    for a, n, length in zip(start, size, volume.shape[1:], strict=True):
        low, high = max(a, 0), min(a + n, length)
        source.append(slice(low, max(low, high)))
        target.append(slice(low - a, max(low, high) - a))
    out[(slice(None), *target)] = volume[(slice(None), *source)]
    return out
