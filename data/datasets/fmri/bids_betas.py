"""A BIDS derivative with one beta a trial, GLMsingle's for example.

Accepted, in ``sub-X[/ses-Y]/func/``: ``*_betas.nii.gz`` or ``.nii`` (4-D, a volume a trial); ``*_betas.npy`` (trials x voxels, the
voxels in the mask's C order); ``*_betas.h5`` or ``.hdf5`` with the table ``betas`` (trials x voxels) or GLMsingle's ``betasmd`` (trials on
the last axis, before it X, Y, Z, or the voxels and ones). A file is of a run, or, without ``run-``, of a session. Beside it, or in
the raw data set two folders above (``derivatives/NAME``): ``*_trials.tsv`` or else ``*_events.tsv`` with ``stim_file`` or ``image``
(``n/a``: no trial), a row a beta in the order of the betas, and ``split`` (train, val, test) where the data set has one;
``*_mask.nii.gz`` (``label-NAME`` for regions); ``stimuli/`` in the derivative or the raw data set. Where betas are trials x voxels,
`roi` names the mask that they were made with, and parts of it are `BrainSubject.rois`.

Sources: the BIDS specification 1.10; Prince et al.: GLMsingle, eLife 11 (2022), and its output files.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...errors import ChiasmError, InputError
from ...fmri.beta_files import mask_hash, open_volumes
from ...fmri.betas import Betas, StoredBetas, check_finite
from ...fmri.decoding_set import BrainSubject, DecodingSet
from ...fmri.events import Events, read_events
from ...fmri.hdf5 import open_table
from ...fmri.masked_runs import Mask, require_same_grid
from ...fmri.scattered_betas import StackedBetas, TableBetas
from ...nifti import read_header
from ..case import raise_all
from .bids_files import (
    FuncFile,
    derivative_with,
    func_files,
    joined_trials,
    mask_of,
    one_space,
    probably_has,
    raw_root,
    subjects_with,
    tables_of,
)
from .bids_set import NO_SPLIT, assembled, image_numbers, kept_betas
from .mindeye_tars import chosen_subjects

CODES = {
    "CHI-IN-299": "A file of betas has another number of rows than its table has trials.",
    "CHI-IN-303": "HDF5 betas have an unknown form.",
}

_PART = "_betas."
_NIFTI, _NPY, _HDF5 = (".nii", ".nii.gz"), (".npy",), (".h5", ".hdf5")
_CHUNK = 16


def matches(root: Path) -> bool:
    """Whether a subject has a file of betas."""
    return probably_has(derivative_with(root, _PART), _PART)


def subject_names(root: Path) -> list[str]:
    """Return the labels of subjects that have betas."""
    return subjects_with(derivative_with(root, _PART), _PART)


def open_set(
    root: Path, *, subjects: Sequence[str] = (), roi: str = "nsdgeneral", cache: Path | None = None
) -> DecodingSet:
    """Open the data set.

    Parameters
    ----------
    root : Path
        The derivative, or a raw data set with one below ``derivatives/``.
    subjects : sequence of str
        Labels; all where none is given.
    roi : str
        A region with a mask of its own; the brain where it is ``nsdgeneral`` and there is no such mask.
    cache : Path, optional
        Betas that lie volume by volume (NIfTI, ``betasmd``) are turned into trials x voxels here, once; without it, in memory.

    Raises
    ------
    InputError, ResourceError, SeveralErrors
        ``CHI-IN-260`` to ``CHI-IN-269``, ``CHI-IN-285`` to ``CHI-IN-305``, those of NIfTI and of HDF5.
    """
    place = derivative_with(root.resolve(), _PART)
    raw = raw_root(place)
    labels = chosen_subjects(subjects, subjects_with(place, _PART))
    return assembled(
        "bids-betas",
        place,
        labels,
        lambda label: _Draft(place, raw, label, roi=roi, cache=cache),
        stimuli_in=[place, raw] if raw else [place],
    )


class _Draft:
    """One subject's files and tables; images get their numbers once all subjects' tables are read."""

    def __init__(self, place: Path, raw: Path | None, label: str, *, roi: str, cache: Path | None) -> None:
        self.label, self.cache = label, cache
        self.files = func_files(place, label)
        elsewhere = func_files(raw, label) if raw else []
        betas = [f for f in self.files if f.suffix == "betas" and f.extension in (*_NIFTI, *_NPY, *_HDF5)]
        if not betas:
            raise InputError(
                "CHI-IN-303",
                "the files called betas are neither NIfTI nor .npy nor HDF5.",
                "Write them as the documentation of the layout says.",
                file=f"sub-{label}",
            )
        self.runs, self.notes = one_space(betas, label)
        errors: list[ChiasmError] = []
        self.sources: list[Path] = []
        self.tables: list[Events] = []
        self.owners: list[FuncFile] = []
        for run in self.runs:
            try:
                found = tables_of(run, self.files, elsewhere)
                parts = [read_events(table.path, timed=False, relative=table.relative) for table in found]
            except ChiasmError as error:
                errors.append(error)
                continue
            self.tables.append(_joined(parts))
            self.owners.append(found[0])
            self.sources += [table.path for table in found]
        raise_all(errors)
        self.mask, self.regions, more = mask_of(self.runs, self.files, roi)
        self.notes += more

    def shown(self) -> Iterator[str]:
        """Names of the stimuli of the trials."""
        return (name for table in self.tables for name in table.stimulus if name)

    def finished(self, numbers: Mapping[str, int]) -> tuple[BrainSubject, list[str]]:
        """Return the subject, with what was decided."""
        errors: list[ChiasmError] = []
        images: list[NDArray[np.int64]] = []
        parts: list[Betas] = []
        for run, table, owner in zip(self.runs, self.tables, self.owners, strict=True):
            try:
                names = [table.stimulus[trial] for trial in table.shown]
                images.append(image_numbers(names, numbers, relative=owner.relative))
                parts.append(_opened(run, len(names), self.mask, self.cache))
            except ChiasmError as error:
                errors.append(error)
        raise_all(errors)
        betas = StackedBetas(parts, relative=f"sub-{self.label}")
        if self.mask is not None and self.mask.n_voxels != betas.shape[1]:
            raise InputError(
                "CHI-IN-298",
                f"the mask has {self.mask.n_voxels} voxels and the betas have {betas.shape[1]}.",
                "Give the mask that the betas were made with.",
                file=self.runs[0].relative,
            )
        trials, said = joined_trials(self.runs, self.tables, images)
        subject = BrainSubject(
            name=self.label,
            betas=betas,
            trials=trials,
            mask=self.mask.voxels if self.mask is not None else None,
            rois=self.regions,
            files=tuple([run.path for run in self.runs] + self.sources),
        )
        return subject, self.notes + ([] if said else [NO_SPLIT])


def _joined(parts: Sequence[Events]) -> Events:
    return Events(
        onset_s=np.concatenate([part.onset_s for part in parts]),
        duration_s=np.concatenate([part.duration_s for part in parts]),
        stimulus=tuple(name for part in parts for name in part.stimulus),
        condition=tuple(name for part in parts for name in part.condition),
        side=np.concatenate([part.side for part in parts]),
    )


def _opened(run: FuncFile, n_trials: int, mask: Mask | None, cache: Path | None) -> Betas:
    """Open one file of betas; what does not lie row by row is turned first."""
    if run.extension in _NPY:
        betas: Betas = StoredBetas(run.path, relative=run.relative)
        _require_rows(betas.shape[0], n_trials, run)
        return betas
    if run.extension in _HDF5 and not _is_glmsingle(run):
        betas = TableBetas(run.path, relative=run.relative)
        _require_rows(betas.shape[0], n_trials, run)
        return betas
    if run.extension in _NIFTI:
        mask = _needed(mask, run)
        header = read_header(run.path, relative=run.relative)
        require_same_grid(mask.grid, header.grid, run.relative)
        _require_rows(header.n_volumes, n_trials, run)
        shape = (n_trials, mask.n_voxels)
        rows = open_volumes(run.path, mask.inside.shape, relative=run.relative).chunks(mask.inside)
    else:
        shape, rows = _glmsingle(run, n_trials, mask)
    settings = {"kind": "copied", "mask": mask_hash(mask.inside) if mask is not None else ""}
    name = run.path.name.partition(".")[0]
    return kept_betas(rows, shape, name=name, files=[run.path], root=run.root, settings=settings, cache=cache)


def _is_glmsingle(run: FuncFile) -> bool:
    try:
        with open_table(run.path, "betasmd", relative=run.relative):
            return True
    except InputError:
        return False  # opening it as `betas` says what is wrong


def _glmsingle(
    run: FuncFile, n_trials: int, mask: Mask | None
) -> tuple[tuple[int, int], Iterator[NDArray[np.float32]]]:
    """Return how many trials and voxels there are, and the rows."""
    with open_table(run.path, "betasmd", relative=run.relative) as table:
        shape = table.shape
    volume = len(shape) == 4 and min(shape[:3]) > 1
    flat = len(shape) in (2, 4) and not volume and (len(shape) == 2 or shape[1:3] == (1, 1))
    if volume:
        mask = _needed(mask, run)
        if shape[:3] != mask.inside.shape:
            raise InputError(
                "CHI-IN-296",
                f"the betas are {shape[:3]} voxels and their mask {mask.inside.shape}.",
                "Give the mask of the same space.",
                file=run.relative,
            )
    if not (volume or flat):
        raise InputError(
            "CHI-IN-303",
            f"betasmd has the shape {shape}.",
            "Trials are on the last axis; before it X, Y, Z, or the voxels and ones.",
            file=run.relative,
        )
    _require_rows(shape[-1], n_trials, run)
    inside = mask.inside if volume and mask is not None else None
    n_voxels = mask.n_voxels if volume and mask is not None else shape[0]
    return (n_trials, int(n_voxels)), _columns(run, inside, n_trials)


def _columns(run: FuncFile, inside: NDArray[np.bool_] | None, n_trials: int) -> Iterator[NDArray[np.float32]]:
    """Yield some trials at a time, (k, V), of a table with the trials on the last axis."""
    for start in range(0, n_trials, _CHUNK):
        with open_table(run.path, "betasmd", relative=run.relative) as table:
            part = np.asarray(table[..., start : start + _CHUNK], dtype=np.float32)
        rows = part[inside].T if inside is not None else part.reshape(part.shape[0], -1).T
        check_finite(rows, file=run.relative)
        yield rows


def _needed(mask: Mask | None, run: FuncFile) -> Mask:
    if mask is None:
        raise InputError(
            "CHI-IN-298",
            "betas on a grid need a mask, and there is none.",
            "Put *_desc-brain_mask.nii.gz of the same space beside them.",
            file=run.relative,
        )
    return mask


def _require_rows(n_rows: int, n_trials: int, run: FuncFile) -> None:
    if n_rows != n_trials:
        raise InputError(
            "CHI-IN-299",
            f"there are {n_rows} betas and the table has {n_trials} trials with a stimulus.",
            "Give a row for every beta, in their order; n/a in the column of the stimulus means no trial.",
            file=run.relative,
        )
