"""MindEye2's files: betas and images in HDF5, the trials of each session in a tar of behaviour.

``betas_all_subj0S_fp32_renorm.hdf5`` (``betas``: trials x voxels), ``coco_images_224_float16.hdf5`` (``images``) and
``wds/subj0S/{train/N.tar,new_test/0.tar}`` with ``KEY.behav.npy`` (1 x 17): column 0 image (from 0, a row of ``images``), 1 subject,
2 session, 5 trial over all sessions (a row of ``betas``).

Source: Scotti, Tripathy et al.: MindEye2, ICML 2024, and its data set.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...containment import contained, entries
from ...errors import ChiasmError, InputError, SeveralErrors
from ...fmri.betas import check_rows
from ...fmri.decoding_set import BrainSubject, DecodingSet
from ...fmri.events import repeat_numbers
from ...fmri.npy import array_error, npy_array
from ...fmri.scattered_betas import TableBetas
from ...fmri.stimuli import Hdf5Stimuli, check_images
from ...fmri.tar_index import tar_samples
from ...fmri.trials import TEST, TRAIN, Trials
from ..case import raise_all
from .mindeye_tars import chosen_subjects, require_nsdgeneral

CODES = {"CHI-IN-293": "A trial is listed twice."}

IMAGES = "coco_images_224_float16.hdf5"
_BETAS = re.compile(r"betas_all_subj(\d{1,2})(_[A-Za-z0-9]+)*\.(hdf5|h5)")
_ENDING = "behav.npy"
_N_COLUMNS = 17
_IMAGE, _SUBJECT, _SESSION, _ROW = 0, 1, 2, 5
_LEAK = (
    "Betas come z-scored ('renorm'). The notebook published with them fits means and deviations on all trials of a session, those of "
    "the shared test images among them; whether these files were made so cannot be seen in them."
)


def matches(root: Path) -> bool:
    """Whether `root` has the HDF5 betas and the tars of behaviour."""
    return bool(subject_names(root)) and (root / "wds").is_dir()


def subject_names(root: Path) -> list[str]:
    """Return the labels of subjects that have betas, two digits each."""
    return sorted(_betas_files(root))


def open_set(
    root: Path, *, subjects: Sequence[str] = (), roi: str = "nsdgeneral", cache: Path | None = None
) -> DecodingSet:
    """Open the data set; betas and images are read from the HDF5 files row by row.

    Parameters
    ----------
    root : Path
    subjects : sequence of str
        Labels; all where none is given.
    roi : str
        Only ``nsdgeneral`` is in these files.
    cache : Path, optional
        Not needed.

    Raises
    ------
    InputError, SeveralErrors
        ``CHI-IN-261``, ``CHI-IN-262``, ``CHI-IN-264``, ``CHI-IN-280`` to ``CHI-IN-293``.
    """
    root = root.resolve()
    require_nsdgeneral(roi)
    files = _betas_files(root)
    labels = chosen_subjects(subjects, sorted(files))
    errors: list[ChiasmError] = []
    read: list[BrainSubject] = []
    notes = [_LEAK, "There is no validation side; train and test are the published ones."]
    stimuli: Hdf5Stimuli | None = None
    if (root / IMAGES).is_file():
        try:
            stimuli = Hdf5Stimuli(root / IMAGES, "images", relative=IMAGES)
        except ChiasmError as error:
            errors.append(error)
    else:
        notes.append(f"{IMAGES} is not there: nothing can be scored.")
    for label in labels:
        try:
            subject, more = _subject(root, label, files[label], stimuli)
        except SeveralErrors as error:
            errors += error.errors
        except ChiasmError as error:
            errors.append(error)
        else:
            read.append(subject)
            notes += more
    raise_all(errors)
    return DecodingSet(layout="mindeye2", root=root, subjects=tuple(read), stimuli=stimuli, notes=tuple(notes))


def _betas_files(root: Path) -> dict[str, Path]:
    return {match[1].zfill(2): Path(entry.path) for entry in entries(root) if (match := _BETAS.fullmatch(entry.name))}


def _subject(root: Path, label: str, path: Path, stimuli: Hdf5Stimuli | None) -> tuple[BrainSubject, list[str]]:
    trouble = contained(path, root)
    if trouble is not None:
        raise trouble
    folder = root / "wds" / f"subj{label}"
    train = sorted(_tars(folder / "train", root), key=lambda tar: int(tar.stem))
    test, notes = _tars(folder / "new_test", root), list[str]()
    if not test:
        test = _tars(folder / "test", root)
        notes += (
            [f"Subject {label}: new_test is not there; test, the images of the first 37 sessions, is used."]
            if test
            else []
        )
    missing = [name for name, tars in (("train", train), ("new_test", test)) if not tars]
    if missing:
        raise InputError(
            "CHI-IN-288",
            f"wds/subj{label} has no tars in {' and '.join(missing)}.",
            "Fetch the folders train and new_test of the subject.",
        )
    errors: list[ChiasmError] = []
    tables: list[NDArray[np.int64]] = []
    for tar in (*train, *test):
        try:
            tables.append(_behaviour(tar, root, label))
        except ChiasmError as error:
            errors.append(error)
    betas = TableBetas(path, relative=path.name)
    raise_all(errors)
    side = np.repeat([TRAIN] * len(train) + [TEST] * len(test), [len(table) for table in tables])
    trials = _trials(np.concatenate(tables), side, label)
    check_rows(trials.row, betas.shape[0])
    if stimuli is not None:
        check_images(trials.image, stimuli.n, file=f"wds/subj{label}")
    subject = BrainSubject(name=label, betas=betas, trials=trials, normalised=True, files=(path, *train, *test))
    return subject, notes


def _tars(folder: Path, root: Path) -> list[Path]:
    found = [Path(entry.path) for entry in entries(folder) if re.fullmatch(r"\d{1,4}\.tar", entry.name)]
    for path in found:
        trouble = contained(path, root)
        if trouble is not None:
            raise trouble
    return found


def _behaviour(tar: Path, root: Path, label: str) -> NDArray[np.int64]:
    """Return image, session and row of each trial of one tar, (n, 3)."""
    relative = tar.relative_to(root).as_posix()
    found: list[NDArray[np.int64]] = []
    for key, sample in tar_samples(tar, {_ENDING}, relative=relative).items():
        values: NDArray[Any] = npy_array(sample[_ENDING].read(1 << 16), relative=relative).reshape(-1)
        wanted = values[[_IMAGE, _SUBJECT, _SESSION, _ROW]].astype(np.float64) if values.size == _N_COLUMNS else None
        if wanted is None or not _whole(wanted) or wanted[2] < 1:
            raise array_error(f"the behaviour of {key} is no row of {_N_COLUMNS} columns as published", relative)
        if int(wanted[1]) != int(label):
            raise InputError(
                "CHI-IN-292",
                f"a trial is of subject {int(wanted[1])}, in a tar of subject {label}.",
                "Fetch the subject's tars again.",
                file=relative,
            )
        found.append(wanted[[0, 2, 3]].astype(np.int64))
    if not found:
        raise InputError("CHI-IN-288", f"the tar has no .{_ENDING}.", "Fetch it again.", file=relative)
    return np.stack(found)


def _whole(values: NDArray[np.float64]) -> bool:
    """Whether all are whole numbers from 0 to 10^9."""
    return bool((values == np.rint(values)).all() and values.min() >= 0 and values.max() <= 1e9)


def _trials(table: NDArray[np.int64], side: NDArray[np.int64], label: str) -> Trials:
    order = np.argsort(table[:, 2], kind="stable")
    image, session, row = table[order].T
    if (np.diff(row) == 0).any():
        n = int((np.diff(row) == 0).sum())
        raise InputError(
            "CHI-IN-293",
            f"{n} trials of subject {label} are listed twice.",
            "A session may be in train and in test, or one tar under two names: fetch them again.",
        )
    return Trials(
        row=row, image=image, session=session, repeat=repeat_numbers(image), split=side[order].astype(np.int8)
    )
