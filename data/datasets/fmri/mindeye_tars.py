"""MindEye1's webdataset of averaged splits, as tars or unpacked: three repeats of one image a sample, betas of ``nsdgeneral``.

Tars: ``[webdataset_avg_split/]{train,val,test}/*_subj0S_*.tar``; unpacked (MindBridge): ``subj0S/{train,val,test}/KEY.ENDING``.
A sample has ``.jpg``, ``.nsdgeneral.npy`` (repeats, voxels), ``.coco73k.npy`` (NSD's image, from 0) and mostly ``.num_uniques.npy``: how
many repeats are real; the others are copies that fill up to three, and no trials.

Source: Scotti et al.: Reconstructing the Mind's Eye, NeurIPS 2023, and its data set; Wang et al.: MindBridge, CVPR 2024.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...containment import contained, entries
from ...errors import ChiasmError, InputError, SeveralErrors
from ...fmri.decoding_set import BrainSubject, DecodingSet
from ...fmri.npy import HEADER_BYTES, NpyHeader, array_error, npy_array, npy_header
from ...fmri.packed_stimuli import PackedStimuli
from ...fmri.scattered_betas import ScatteredBetas
from ...fmri.tar_index import Part, Samples, folder_samples, tar_samples
from ...fmri.trials import SPLITS, Trials
from ..case import raise_all

CODES = {
    "CHI-IN-288": "A folder of the split is missing or empty.",
    "CHI-IN-289": "A trial has no stimulus.",
    "CHI-IN-290": "A subject that was asked for is not in the data set, or there is none.",
    "CHI-IN-291": "The region that was asked for is not in the data set.",
    "CHI-IN-292": "Files of several subjects are mixed.",
}

BETAS, IMAGE, NUMBER, REAL = "nsdgeneral.npy", "jpg", "coco73k.npy", "num_uniques.npy"
_ENDINGS = frozenset((BETAS, IMAGE, NUMBER, REAL))
_TAR = re.compile(r".*_subj(\d{1,2})_(\d{1,4})\.tar")
_FOLDER = re.compile(r"subj(\d{1,2})")
_MAX_SMALL = 1 << 16
_NOTES = (
    "The tars do not say in which session a repeat was shown: all are called session 1.",
    "Betas come z-scored; by which trials, the data set does not say.",
    "Repeats that only fill up to the number of the others are left out.",
)


@dataclass(frozen=True)
class _Found:
    """The samples of one subject by split, and what they came from."""

    samples: Mapping[str, Samples]
    files: tuple[Path, ...]


def matches(root: Path) -> bool:
    """Whether `root`, or its ``webdataset_avg_split``, has tars or folders of this layout."""
    return bool(subject_names(root))


def subject_names(root: Path) -> list[str]:
    """Return the labels of subjects, two digits each."""
    labels = {label for split in SPLITS for label, _, _ in _tars(_base(root), split)}
    for label, folder in _folders(_base(root)):
        if any(_has_samples(folder / split) for split in SPLITS):
            labels.add(label)
    return sorted(labels)


def open_set(
    root: Path, *, subjects: Sequence[str] = (), roi: str = "nsdgeneral", cache: Path | None = None
) -> DecodingSet:
    """Open the data set; nothing is copied, betas and images are read by position.

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
        ``CHI-IN-280`` to ``CHI-IN-292``.
    """
    root = root.resolve()
    require_nsdgeneral(roi)
    labels = chosen_subjects(subjects, subject_names(root))
    errors: list[ChiasmError] = []
    stimuli: dict[int, Part] = {}
    drafts: dict[str, tuple[ScatteredBetas, dict[str, list[int]], tuple[Path, ...]]] = {}
    for label in labels:
        try:
            found = _samples_of(_base(root), label, root)
            drafts[label] = (*_indexed(found, stimuli, root, label), found.files)
        except SeveralErrors as error:
            errors += error.errors
        except ChiasmError as error:
            errors.append(error)
    raise_all(errors)
    numbers = sorted(stimuli)
    place = {number: position for position, number in enumerate(numbers)}
    read = tuple(
        BrainSubject(name=label, betas=betas, trials=_trials(columns, place), normalised=True, files=files)
        for label, (betas, columns, files) in drafts.items()
    )
    images = PackedStimuli([stimuli[number] for number in numbers], [str(number) for number in numbers], root=root)
    return DecodingSet(layout="mindeye", root=root, subjects=read, stimuli=images, notes=_NOTES)


def require_nsdgeneral(roi: str) -> None:
    """Refuse other regions where a layout holds this one only.

    Raises
    ------
    InputError
        ``CHI-IN-291``.
    """
    if roi not in ("", "nsdgeneral"):
        raise InputError(
            "CHI-IN-291",
            f"the region '{roi[:40]}' is not in this data set: it holds the voxels of nsdgeneral, without their places.",
            "Use nsdgeneral, or NSD as it was published.",
        )


def chosen_subjects(asked: Sequence[str], there: Sequence[str]) -> list[str]:
    """Return the labels to open: those asked for (``1`` is ``01``), or all.

    Raises
    ------
    InputError
        ``CHI-IN-290``.
    """
    by_spelling = {
        spelling: label for label in there for spelling in (label, label.lstrip("0"), f"subj{label}", f"sub-{label}")
    }
    missing = [label for label in asked if label not in by_spelling]
    if missing or not there:
        raise InputError(
            "CHI-IN-290",
            f"{', '.join(missing)[:80] or 'no subject'} is not among the subjects; there are {', '.join(there)[:200] or 'none'}.",
            "Name subjects that are there.",
        )
    return sorted({by_spelling[label] for label in asked} or there)


def _base(root: Path) -> Path:
    inner = root / "webdataset_avg_split"
    return inner if inner.is_dir() else root


def _tars(base: Path, split: str) -> list[tuple[str, int, Path]]:
    """Return label, number and path of the tars of one split, in order."""
    found = []
    for entry in entries(base / split):
        match = _TAR.fullmatch(entry.name)
        if match:
            found.append((match[1].zfill(2), int(match[2]), Path(entry.path)))
    return sorted(found)


def _folders(base: Path) -> list[tuple[str, Path]]:
    return [
        (match[1].zfill(2), Path(entry.path))
        for entry in entries(base)
        if (match := _FOLDER.fullmatch(entry.name)) and entry.is_dir()
    ]


def _has_samples(folder: Path) -> bool:
    """Whether a folder has betas; it may have 50,000 files, and the first few say it."""
    try:
        with os.scandir(folder) as scan:
            return any(entry.name.endswith(BETAS) for _, entry in zip(range(64), scan, strict=False))
    except OSError:
        return False


def _samples_of(base: Path, label: str, root: Path) -> _Found:
    samples: dict[str, Samples] = {}
    files: list[Path] = []
    folder = dict(_folders(base)).get(label)
    for split in SPLITS:
        together: Samples = {}
        for owner, number, path in _tars(base, split):
            if owner != label:
                continue
            trouble = contained(path, root)
            if trouble is not None:
                raise trouble
            files.append(path)
            for key, sample in tar_samples(path, _ENDINGS, relative=path.relative_to(root).as_posix()).items():
                together[f"{number}/{key}"] = sample
        if not together and folder is not None:
            together = dict(sorted(folder_samples(folder / split, _ENDINGS, root).items()))
            files += [sample[BETAS].path for sample in together.values() if BETAS in sample]
        samples[split] = together
    missing = [split for split in ("train", "test") if not samples[split]]
    if missing:
        raise InputError(
            "CHI-IN-288",
            f"subject {label} has no samples in {' and '.join(missing)}.",
            "Fetch the folders train, val and test of the subject.",
        )
    return _Found(samples, tuple(files))


def _indexed(
    found: _Found, stimuli: dict[int, Part], root: Path, label: str
) -> tuple[ScatteredBetas, dict[str, list[int]]]:
    """Return where each real repeat lies, and the columns of the trials; stimuli are added to `stimuli`."""
    paths: dict[Path, int] = {}
    columns: dict[str, list[int]] = {name: [] for name in ("file", "offset", "image", "repeat", "split")}
    form: NpyHeader | None = None
    errors: list[ChiasmError] = []
    for code, split in enumerate(SPLITS):
        for key, sample in found.samples[split].items():
            try:
                number, header, real = _sample(sample, root, f"{split}/{key}")
                form = form or header
                _same_form(form, header, sample[BETAS], root, label)
            except ChiasmError as error:
                errors.append(error)
                continue
            part = sample[BETAS]
            stimuli.setdefault(number, sample[IMAGE])
            for count, repeat in enumerate(real):
                columns["file"].append(paths.setdefault(part.path, len(paths)))
                columns["offset"].append(part.offset + header.offset + repeat * header.shape[1] * header.dtype.itemsize)
                columns["image"].append(number)
                columns["repeat"].append(count)
                columns["split"].append(code)
    raise_all(errors)
    if form is None:
        raise ValueError("no samples, although the split has some")
    betas = ScatteredBetas(
        list(paths),
        np.array(columns.pop("file"), dtype=np.int64),
        np.array(columns.pop("offset"), dtype=np.int64),
        n_voxels=form.shape[1],
        dtype=form.dtype,
        root=root,
    )
    return betas, columns


def _sample(sample: Mapping[str, Part], root: Path, where: str) -> tuple[int, NpyHeader, Sequence[int]]:
    """Return the image's number, the form of the betas, and which repeats are real."""
    some = next(iter(sample.values()))
    relative = some.path.relative_to(root).as_posix()
    if IMAGE not in sample:
        raise InputError(
            "CHI-IN-289", f"the sample {where} has betas and no image.", "Fetch the file again.", file=relative
        )
    lacking = [ending for ending in (BETAS, NUMBER) if ending not in sample]
    if lacking:
        raise InputError(
            "CHI-IN-282",
            f"the sample {where} lacks {' and '.join(lacking)}.",
            "Fetch the file again.",
            file=relative,
        )
    part = sample[BETAS]
    header = npy_header(part.read(HEADER_BYTES), size=part.size, relative=relative)
    if len(header.shape) != 2 or 0 in header.shape or header.fortran or header.dtype.kind != "f":
        raise array_error(f"betas of repeats x voxels are needed, not {header.dtype} {header.shape}", relative)
    number = _whole_number(sample[NUMBER], relative, most=10_000_000)
    n_repeats = header.shape[0]
    n_real = _whole_number(sample[REAL], relative, most=n_repeats) if REAL in sample else None
    if n_real == n_repeats:
        return number, header, range(n_repeats)
    distinct = _distinct(npy_array(part.read(), relative=relative))
    if n_real is None:
        return number, header, distinct
    if n_real < 1:
        raise array_error(f"the sample {where} says that none of its repeats is real", relative)
    # Which ones are copies is not documented: those equal to an earlier one, and where that does not add up, the last.
    return number, header, distinct if len(distinct) == n_real else range(n_real)


def _whole_number(part: Part, relative: str, *, most: int) -> int:
    values = npy_array(part.read(_MAX_SMALL), relative=relative).reshape(-1)
    number = float(values[0]) if values.size == 1 else -1.0
    if not (number.is_integer() and 0 <= number <= most):
        raise array_error(f"one whole number from 0 to {most} is needed", relative)
    return int(number)


def _distinct(values: np.ndarray[Any, Any]) -> list[int]:
    """Return the repeats that equal no earlier one."""
    return [i for i in range(len(values)) if not any(np.array_equal(values[i], values[j]) for j in range(i))]


def _same_form(form: NpyHeader, header: NpyHeader, part: Part, root: Path, label: str) -> None:
    if (header.shape[1], header.dtype) != (form.shape[1], form.dtype):
        raise InputError(
            "CHI-IN-292",
            f"samples of subject {label} have {form.shape[1]} and {header.shape[1]} voxels ({form.dtype}, {header.dtype}): files of "
            "several subjects are mixed.",
            "Fetch the subject's files again, under their own names.",
            file=part.path.relative_to(root).as_posix(),
        )


def _trials(columns: Mapping[str, list[int]], place: Mapping[int, int]) -> Trials:
    n = len(columns["image"])
    return Trials(
        row=np.arange(n, dtype=np.int64),
        image=np.array([place[number] for number in columns["image"]], dtype=np.int64),
        session=np.ones(n, dtype=np.int64),
        repeat=np.array(columns["repeat"], dtype=np.int64),
        split=np.array(columns["split"], dtype=np.int8),
    )
