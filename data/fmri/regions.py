"""Regions of interest by name: masks and label maps on the betas' grid, and any other label image brought onto it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..containment import entries
from ..errors import InputError, did_you_mean
from ..nifti import read_volume
from ..volumes import Grid, Volume
from .decoding_set import VoxelMask

CODES: dict[str, str] = {
    "CHI-IN-266": "A mask and the betas, or two masks, do not lie on one grid, or a mask has another number of voxels than the betas.",
    "CHI-IN-268": "A region of interest is not there, has no such label, or holds no voxel.",
}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_SUFFIXES = (".nii.gz", ".nii")
_MAX_TABLE_BYTES = 1 << 20


@dataclass(frozen=True, eq=False, kw_only=True)
class Region:
    """A region on a grid.

    Parameters
    ----------
    inside : ndarray of bool, shape (X, Y, Z)
    grid : Grid
    files : tuple of Path
        What was read.
    """

    inside: NDArray[np.bool_]
    grid: Grid
    files: tuple[Path, ...]

    @property
    def mask(self) -> VoxelMask:
        """The region as the voxels of betas."""
        return VoxelMask(inside=self.inside, affine=self.grid.affine)


def read_region(roi: str, folders: Sequence[Path], *, tables: Sequence[Path] = ()) -> Region:
    """Find a region by its name.

    ``nsdgeneral`` is ``nsdgeneral.nii.gz``, or ``lh.`` and ``rh.nsdgeneral.nii.gz`` together, in the first folder that has it,
    and all that is above 0 in it. ``atlas:V1v`` is one label of it and ``atlas:V1v+V1d`` are two, by the names of
    ``atlas.mgz.ctab`` or ``atlas.ctab`` (lines of number and name) or by numbers.

    Parameters
    ----------
    roi : str
    folders : sequence of Path
        With masks.
    tables : sequence of Path
        Folders with tables of labels; `folders` are looked through too.

    Raises
    ------
    InputError
        ``CHI-IN-266``, ``CHI-IN-268``, or what is wrong with a NIfTI file.
    """
    name, _, wanted = roi.partition(":")
    files = _files_of(name, folders)
    volume = _joined(files)
    values = np.asarray(volume.values)
    if ":" in roi:
        known = label_names(name, [*tables, *folders])
        numbers = [_number(label, name, known) for label in wanted.split("+")]
        inside = np.isin(values, numbers)
    else:
        inside = values > 0
    if not inside.any():
        raise InputError("CHI-IN-268", f"the region '{roi}' holds no voxel.", "Choose another.", file=files[0].name)
    return Region(inside=np.ascontiguousarray(inside), grid=volume.grid, files=tuple(files))


def regions_within(
    mask: VoxelMask, folder: Path, *, tables: Sequence[Path] = ()
) -> tuple[dict[str, NDArray[np.bool_]], tuple[str, ...]]:
    """Return every region of a folder as parts of the voxels, and notes on those that cannot be used.

    A label map gives a region a label, ``atlas:V1v``; a mask gives one of its own name. Files of one hemisphere are left
    alone, as are regions without a voxel in the mask.
    """
    found: dict[str, NDArray[np.bool_]] = {}
    notes: list[str] = []
    for entry in entries(folder):
        name = _stem(entry.name)
        if name is None or name.startswith(("lh.", "rh.")) or not _NAME.fullmatch(name):
            continue
        try:
            volume = read_volume(Path(entry.path), relative=entry.name)
        except InputError as error:
            notes.append(f"The region {name} is left out ({error.code}).")
            continue
        values = np.asarray(volume.values)
        if values.shape != mask.inside.shape:
            notes.append(f"The region {name} is left out: it lies on another grid.")
            continue
        found.update(_parts(name, np.rint(values[mask.inside]), label_names(name, [*tables, folder])))
    return found, tuple(notes)


def region_from_image(mask: VoxelMask, path: Path, labels: Sequence[int] = ()) -> NDArray[np.bool_]:
    """Return which voxels lie in a mask or in some labels of a label image, whatever its grid (nearest neighbour, by nilearn).

    Parameters
    ----------
    mask : VoxelMask
        Of the betas.
    path : Path
        NIfTI, in the same space.
    labels : sequence of int
        None: all above 0.

    Returns
    -------
    ndarray of bool, shape (V,)

    Raises
    ------
    InputError
        ``CHI-IN-268`` where no voxel is left, or what is wrong with the NIfTI file.
    """
    volume = read_volume(path, relative=path.name)
    grid = Grid(_three(mask.inside.shape), mask.affine)
    values = np.asarray(volume.values) if grid.same_as(volume.grid) else _resampled(volume, grid)
    own = values[mask.inside]
    inside = np.isin(np.rint(own), list(labels)) if labels else own > 0
    if not inside.any():
        raise InputError(
            "CHI-IN-268",
            "the region holds none of the voxels of the betas.",
            "Check that both images lie in the same space.",
            file=path.name,
        )
    return inside


def label_names(name: str, folders: Sequence[Path]) -> dict[str, int]:
    """Return the labels of an atlas by name, from the first table that is found; empty where there is none."""
    for folder in folders:
        for suffix in (".mgz.ctab", ".ctab"):
            path = folder / (name + suffix)
            if path.is_file() and path.stat().st_size <= _MAX_TABLE_BYTES:
                lines = (line.split() for line in path.read_text("utf-8", errors="replace").splitlines())
                return {words[1]: int(words[0]) for words in lines if len(words) > 1 and words[0].isdecimal()}
    return {}


def _files_of(name: str, folders: Sequence[Path]) -> list[Path]:
    for folder in folders if _NAME.fullmatch(name) else ():
        for names in ((name,), (f"lh.{name}", f"rh.{name}")):
            for suffix in _SUFFIXES:
                files = [folder / (part + suffix) for part in names]
                if all(file.is_file() for file in files):
                    return files
    stems = {_stem(entry.name) for folder in folders for entry in entries(folder)} - {None}
    known = sorted({re.sub(r"^[lr]h\.", "", str(stem)) for stem in stems})
    raise InputError(
        "CHI-IN-268",
        f"there is no region '{name[:60]}'.{did_you_mean(name, known)}",
        f"There are: {', '.join(known[:30])}." if known else "No folder with masks was found.",
    )


def _joined(files: Sequence[Path]) -> Volume:
    """Return one volume of one or two hemispheres."""
    volumes = [read_volume(file, relative=file.name) for file in files]
    if len(volumes) == 1:
        return volumes[0]
    left, right = volumes
    if not left.grid.same_as(right.grid):
        raise InputError(
            "CHI-IN-266", "the two hemispheres lie on different grids.", "Make both on one.", file=files[1].name
        )
    first, second = np.asarray(left.values), np.asarray(right.values)
    return Volume(np.where(first > 0, first, second), left.grid)


def _number(label: str, name: str, known: Mapping[str, int]) -> int:
    if label in known:
        return known[label]
    if label.isdecimal() and len(label) < 7:
        return int(label)
    raise InputError(
        "CHI-IN-268",
        f"'{name}' has no label '{label[:60]}'.{did_you_mean(label, list(known))}",
        f"It has: {', '.join(list(known)[:40])}."
        if known
        else f"It has no table of labels ({name}.ctab): use numbers.",
    )


def _parts(name: str, values: NDArray[Any], known: Mapping[str, int]) -> dict[str, NDArray[np.bool_]]:
    numbers = [int(value) for value in np.unique(values[np.isfinite(values)]) if value > 0]
    names = {number: label for label, number in known.items() if number > 0}
    if len(names) < 2 and numbers in ([], [1]):
        return {name: values > 0} if numbers else {}
    return {f"{name}:{names.get(number, number)}": values == number for number in numbers[:1000]}


def _stem(name: str) -> str | None:
    return next((name[: -len(suffix)] for suffix in _SUFFIXES if name.endswith(suffix)), None)


def _three(shape: tuple[int, ...]) -> tuple[int, int, int]:
    return shape[0], shape[1], shape[2]


def _resampled(volume: Volume, grid: Grid) -> NDArray[Any]:
    import nibabel
    from nilearn.image import resample_img

    image = nibabel.Nifti1Image(np.asarray(volume.values, np.float32), volume.grid.affine)
    moved = resample_img(
        image,
        target_affine=grid.affine,
        target_shape=grid.shape,
        interpolation="nearest",
        force_resample=True,
        copy_header=True,
    )
    return np.asarray(moved.dataobj)
