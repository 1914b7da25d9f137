"""A plain folder of one's own: betas, a table of trials and the images.

``betas.npy`` (trials x voxels) or ``betas.nii.gz`` (X, Y, Z, trials) with ``mask.nii.gz``; ``trials.tsv`` (`read_table`); and
``stimuli/``, ``stimuli.hdf5`` or ``stimuli.npy``: all in one folder, or betas, mask and trials in ``sub-XX/`` with stimuli that all share.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...containment import entries, inside
from ...errors import ChiasmError, InputError, SeveralErrors
from ...fmri.beta_files import gathered, identity_of, mask_hash, open_volumes
from ...fmri.betas import Betas, StoredBetas
from ...fmri.decoding_set import BrainSubject, DecodingSet, Stimuli, VoxelMask
from ...fmri.hdf5 import open_table
from ...fmri.regions import Region, read_region
from ...fmri.stimuli import ArrayStimuli, FolderStimuli, Hdf5Stimuli
from ..case import raise_all
from .mindeye_tars import chosen_subjects
from .trial_table import NAME, TrialTable, image_numbers, read_table

CODES: dict[str, str] = {"CHI-IN-275": "A part of a plain folder is missing, or has a form that cannot be read."}
_BETAS = ("betas.npy", "betas.nii.gz", "betas.nii")
_MASKS = ("mask.nii.gz", "mask.nii")
_SUBJECT = re.compile(r"sub-([A-Za-z0-9]{1,64})")
_KEYS = ("imgBrick", "images", "stimuli")
_NO_SPLIT = "trials.tsv has no split: all trials are for training until some are held out."


@dataclass(frozen=True, eq=False, kw_only=True)
class _Draft:
    """A subject before its images have numbers."""

    betas: Betas
    mask: VoxelMask | None
    table: TrialTable
    files: tuple[Path, ...]


def matches(root: Path) -> bool:
    """Whether `root` or a folder ``sub-XX`` in it has betas of this layout."""
    return bool(_folders(root))


def subject_names(root: Path) -> list[str]:
    """Return the labels of subjects; ``01`` where there is one folder only."""
    return sorted(_folders(root))


def open_set(
    root: Path, *, subjects: Sequence[str] = (), roi: str = "nsdgeneral", cache: Path | None = None
) -> DecodingSet:
    """Open the folder.

    Parameters
    ----------
    root : Path
    subjects : sequence of str
        Labels; all where none is given.
    roi : str
        Of another name than ``nsdgeneral``: a mask of that name beside ``betas.nii.gz`` or in ``roi/``, in place of ``mask.nii.gz``.
    cache : Path, optional
        Folder for betas gathered from NIfTI; a .npy file is read where it lies.

    Raises
    ------
    InputError, SeveralErrors
        ``CHI-IN-260`` to ``CHI-IN-269``, ``CHI-IN-272``, ``CHI-IN-275``, ``CHI-IN-290``.
    ResourceError
        Where the cache cannot be written.
    """
    root = root.resolve()
    folders = _folders(root)
    labels = chosen_subjects(subjects, sorted(folders))
    errors: list[ChiasmError] = []
    drafts: dict[str, _Draft] = {}
    for label in labels:
        try:
            drafts[label] = _draft(root, folders[label], label, roi=roi, cache=cache)
        except SeveralErrors as error:
            errors += error.errors
        except ChiasmError as error:
            errors.append(error)
    raise_all(errors)
    notes: list[str] = []
    if any(None in draft.table.splits for draft in drafts.values()):
        notes.append(_NO_SPLIT)
    stimuli = _stimuli(root)
    if stimuli is None:
        notes.append("There are no stimuli: betas can be decoded, not scored.")
    numbers = _numbers(drafts, stimuli)
    return DecodingSet(
        layout="plain",
        root=root,
        subjects=tuple(_subject(label, draft, numbers[label]) for label, draft in drafts.items()),
        stimuli=_with_categories(stimuli, drafts, numbers) if stimuli is not None else None,
        notes=tuple(notes),
    )


def _folders(root: Path) -> dict[str, Path]:
    if any((root / name).is_file() for name in _BETAS):
        return {"01": root}
    found = ((_SUBJECT.fullmatch(entry.name), Path(entry.path)) for entry in entries(root) if entry.is_dir())
    return {match[1]: path for match, path in found if match and any((path / name).is_file() for name in _BETAS)}


def _draft(root: Path, folder: Path, label: str, *, roi: str, cache: Path | None) -> _Draft:
    for entry in entries(folder):
        if trouble := inside(entry, root):
            raise trouble
    path = next(folder / name for name in _BETAS if (folder / name).is_file())
    relative = path.relative_to(root).as_posix()
    region = _region(root, folder, roi, is_table=path.suffix == ".npy")
    if region is None:
        betas: Betas = StoredBetas(path, relative=relative)
    elif path.suffix == ".npy":
        betas = StoredBetas(path, relative=relative)
        if betas.shape[1] != int(region.inside.sum()):
            raise InputError(
                "CHI-IN-266",
                f"the betas have {betas.shape[1]} voxels, and the mask {int(region.inside.sum())}.",
                "Take the mask with which the betas were made.",
                file=relative,
            )
    else:
        volumes = open_volumes(path, region.grid.shape, relative=relative)
        where = hashlib.sha256(f"{path} {roi}".encode()).hexdigest()[:8]
        betas = gathered(
            volumes.chunks(region.inside),
            (volumes.n_trials, int(region.inside.sum())),
            name=f"plain-{label}-{where}",
            identity=identity_of([path], root, {"mask": mask_hash(region.inside), "layout": "plain"}),
            cache=cache,
        )
    table = read_table(folder / NAME, label, betas.shape[0], (folder / NAME).relative_to(root).as_posix())
    files = (path, folder / NAME, *(region.files if region else ()))
    return _Draft(betas=betas, mask=region.mask if region else None, table=table, files=files)


def _region(root: Path, folder: Path, roi: str, *, is_table: bool) -> Region | None:
    """Return the mask; None for a table without one."""
    if roi not in ("", "nsdgeneral"):
        if is_table:
            raise InputError(
                "CHI-IN-268",
                f"the region '{roi[:60]}' cannot be taken from betas.npy, whose voxels were chosen already.",
                "Give betas.nii.gz, or leave the region out.",
                file=folder.name,
            )
        return read_region(roi, [folder, folder / "roi", root / "roi"])
    if any((folder / name).is_file() for name in _MASKS):
        return read_region("mask", [folder])
    if is_table:
        return None
    raise InputError(
        "CHI-IN-275",
        "betas.nii.gz has no mask.nii.gz beside it, so its voxels are not known.",
        "Add a mask on the same grid: all above 0 is taken.",
        file=folder.relative_to(root).as_posix(),
    )


def _stimuli(root: Path) -> FolderStimuli | Hdf5Stimuli | ArrayStimuli | None:
    if (root / "stimuli").is_dir():
        return FolderStimuli(root / "stimuli", root=root)
    for name in ("stimuli.hdf5", "stimuli.h5"):
        if (root / name).is_file():
            return _from_hdf5(root / name)
    path = root / "stimuli.npy"
    if not path.is_file():
        return None
    try:
        pixels = np.load(path, mmap_mode="r", allow_pickle=False)
        return ArrayStimuli(pixels)
    except (OSError, ValueError, EOFError, SyntaxError, TypeError, OverflowError, MemoryError) as error:
        raise InputError(
            "CHI-IN-263",
            "stimuli.npy holds no uint8 images (n, H, W, 3).",
            "Save them again with numpy.",
            file=path.name,
        ) from error


def _from_hdf5(path: Path) -> Hdf5Stimuli:
    for key in _KEYS[:-1]:
        try:
            with open_table(path, key):
                return Hdf5Stimuli(path, key)
        except InputError:
            continue
    return Hdf5Stimuli(path, _KEYS[-1])


def _numbers(drafts: Mapping[str, _Draft], stimuli: Stimuli | None) -> dict[str, dict[str, int]]:
    """Return the number of each image for each subject; without stimuli, images count in the order of their names."""
    if stimuli is None:
        names = sorted({image for draft in drafts.values() for image in draft.table.images})
        alone = all(name.isdecimal() for name in names)
        shared = {name: int(name) if alone else number for number, name in enumerate(names)}
        return dict.fromkeys(drafts, shared)
    files = {file.name: file.stem for file in stimuli.files} if isinstance(stimuli, FolderStimuli) else {}
    errors: list[ChiasmError] = []
    found: dict[str, dict[str, int]] = {}
    for label, draft in drafts.items():
        try:
            found[label] = image_numbers(draft.table, stimuli.names, files)
        except SeveralErrors as error:
            errors += error.errors
        except ChiasmError as error:
            errors.append(error)
    raise_all(errors)
    return found


def _with_categories(
    stimuli: FolderStimuli | Hdf5Stimuli | ArrayStimuli,
    drafts: Mapping[str, _Draft],
    numbers: Mapping[str, Mapping[str, int]],
) -> Stimuli:
    """Give the stimuli the categories that the tables name; an image that no trial shows has an empty one."""
    named: dict[int, str] = {}
    for label, draft in drafts.items():
        table = draft.table
        for line, image, category in zip(table.lines, table.images, table.categories, strict=True):
            place = numbers[label][image]
            if category is not None and named.setdefault(place, category) != category:
                raise InputError(
                    "CHI-IN-272",
                    f"line {line}: the image has the category '{category[:30]}', and '{named[place][:30]}' elsewhere.",
                    "Give an image one category.",
                    file=table.relative,
                )
    if not named:
        return stimuli
    categories = [named.get(number, "") for number in range(stimuli.n)]
    if isinstance(stimuli, FolderStimuli):
        return FolderStimuli(stimuli.files, categories=categories)
    if isinstance(stimuli, Hdf5Stimuli):
        return Hdf5Stimuli(stimuli.path, stimuli.key, categories=categories)
    return ArrayStimuli(stimuli.pixels, categories=categories)


def _subject(label: str, draft: _Draft, numbers: Mapping[str, int]) -> BrainSubject:
    return BrainSubject(
        name=label,
        betas=draft.betas,
        trials=draft.table.trials(numbers),
        mask=draft.mask,
        files=draft.files,
    )
