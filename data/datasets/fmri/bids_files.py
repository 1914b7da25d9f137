"""Functional files of a BIDS data set or derivative, and what belongs to a run."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...bids import entities_of
from ...containment import contained, entries, inside
from ...errors import InputError
from ...fmri.events import Events, repeat_numbers
from ...fmri.masked_runs import Mask, common_mask
from ...fmri.trials import TRAIN, Trials
from ...recognition import clean_label

CODES = {
    "CHI-IN-297": "A run has no table of events or trials that fits, or several, or one without a stimulus.",
    "CHI-IN-305": "One run has several files that could be meant.",
}

DATATYPES = ("func", "anat")
_RUN = ("ses", "task", "acq", "dir", "run")
_SPACES = ("T1w", "func", "", "MNI152NLin2009cAsym", "MNI152NLin6Asym")
_PROBED = 20
_DEFAULT_ROIS = ("", "brain", "nsdgeneral")


@dataclass(frozen=True)
class FuncFile:
    """A file with its entities.

    Parameters
    ----------
    path : Path
    root : Path
        Of the data set or derivative that it belongs to.
    entities : mapping of str to str
        ``sub``, ``ses``, ``task``, ``run``, ``space``, ``desc``, ``label``.
    suffix : str
        ``bold``, ``events``, ``mask``.
    extension : str
        ``.nii.gz``, ``.tsv``.
    """

    path: Path
    root: Path
    entities: Mapping[str, str]
    suffix: str
    extension: str

    @property
    def relative(self) -> str:
        """Name for messages."""
        return self.path.relative_to(self.root).as_posix()

    def of_run(self, run: FuncFile) -> bool:
        """Whether this file says nothing that contradicts the run: an entity that one of the two lacks is no contradiction."""
        return all(self.entities.get(key) in (None, run.entities.get(key)) for key in _RUN)

    @property
    def order(self) -> tuple[object, ...]:
        """Sessions, tasks and runs in order, numbers as numbers."""
        return tuple(_natural(self.entities.get(key, "")) for key in _RUN)


def subject_folders(root: Path) -> dict[str, Path]:
    """Return the folder of each ``sub-*``, by its label."""
    return {
        clean_label(entry.name): Path(entry.path)
        for entry in entries(root)
        if entry.name.startswith("sub-") and entry.is_dir()
    }


def subjects_with(root: Path, part: str) -> list[str]:
    """Return the labels of subjects that have a functional file with `part` in its name; names only, nothing is opened."""
    return sorted(label for label, folder in subject_folders(root).items() if has_file(folder, part))


def has_file(folder: Path, part: str) -> bool:
    """Whether a subject's functional folders have a file with `part` in its name."""
    return any(part in entry.name for _, entry in _walk(folder))


def probably_has(root: Path, part: str) -> bool:
    """As `subjects_with`, for the first subjects only."""
    return any(has_file(folder, part) for folder in list(subject_folders(root).values())[:_PROBED])


def func_files(root: Path, label: str) -> list[FuncFile]:
    """Return the functional and anatomical files of a subject, in the order of session, task and run.

    Raises
    ------
    InputError
        ``CHI-IN-067``, ``CHI-IN-068``: a link leads out of `root` or nowhere.
    """
    folder = subject_folders(root).get(label)
    found: list[FuncFile] = []
    for _, entry in _walk(folder) if folder else ():
        base, dot, extension = entry.name.partition(".")
        if not dot or "_" not in base:
            continue
        trouble = inside(entry, root)
        if trouble is not None:
            raise trouble
        entities, suffix = entities_of(base)
        found.append(FuncFile(Path(entry.path), root, entities, suffix, f".{extension}"))
    for parent in {file.path.parent for file in found}:
        trouble = contained(parent, root)
        if trouble is not None:
            raise trouble
    return sorted(found, key=lambda file: (file.order, file.path.name))


def derivative_with(root: Path, part: str) -> Path:
    """Return `root`, or the first folder below its ``derivatives``, that has functional files with `part` in their names."""
    return next((place for place in _places(root) if probably_has(place, part)), root)


def _places(root: Path) -> list[Path]:
    below = root / "derivatives"
    return [root, *(Path(entry.path) for entry in entries(below) if entry.is_dir(follow_symlinks=False))]


def raw_root(derivative: Path) -> Path | None:
    """Return the data set that a folder below ``derivatives/`` was made from."""
    return derivative.parent.parent if derivative.parent.name == "derivatives" else None


def one_space(files: Sequence[FuncFile], label: str) -> tuple[list[FuncFile], list[str]]:
    """Keep the files of one space and resolution, the subject's own where it is there, and say which.

    Returns
    -------
    files : list of FuncFile
    notes : list of str

    Raises
    ------
    InputError
        ``CHI-IN-305``.
    """

    def form(file: FuncFile) -> tuple[str, str, str]:
        return file.entities.get("space", ""), file.entities.get("res", ""), file.entities.get("desc", "")

    forms = sorted({form(file) for file in files}, key=lambda key: (_place(key[0]), key))
    kept = [file for file in files if form(file) == forms[0]] if forms else []
    twice = next((a for a, b in pairwise(kept) if a.order == b.order), None)
    if twice is not None:
        raise InputError(
            "CHI-IN-305",
            "one run has several such files.",
            "Keep one (the optimal combination of echoes, one format).",
            file=twice.relative,
        )
    said = [f"Subject {label}: of {len(forms)} spaces, {forms[0][0] or 'native'} is used."] if len(forms) > 1 else []
    return kept, said


def tables_of(run: FuncFile, *places: Sequence[FuncFile]) -> list[FuncFile]:
    """Return the tables of a run (or of all runs of a session, where the file is of the session).

    Parameters
    ----------
    run : FuncFile
    *places : sequence of FuncFile
        The first with a table counts: a derivative before the raw data set. There, ``trials`` come before ``events``.

    Raises
    ------
    InputError
        ``CHI-IN-297``.
    """
    for files in places:
        tables = [file for file in files if file.extension == ".tsv" and file.suffix in ("trials", "events")]
        fitting = [table for table in tables if table.of_run(run) or run.of_run(table)]
        chosen = [table for table in fitting if table.suffix == "trials"] or fitting
        if chosen:
            return chosen
    raise InputError(
        "CHI-IN-297",
        "the run has no table of events.",
        "Put *_events.tsv (or *_trials.tsv) of the same session, task and run beside it, or into the raw data set.",
        file=run.relative,
    )


def mask_of(
    runs: Sequence[FuncFile], files: Sequence[FuncFile], roi: str
) -> tuple[Mask | None, dict[str, NDArray[np.bool_]], list[str]]:
    """Return the mask of a subject's runs, its named regions as parts of the voxels, and what was decided.

    Masks are ``*_mask.nii.gz`` in the space of the runs; ``label-`` or ``desc-`` names a region. Of masks of single runs, the voxels
    that are in all are used.

    Parameters
    ----------
    runs : sequence of FuncFile
        Of one space.
    files : sequence of FuncFile
        All of the subject.
    roi : str
        A region; the brain where it is empty, ``brain``, or ``nsdgeneral`` and there is no such region.

    Raises
    ------
    InputError
        ``CHI-IN-291``, ``CHI-IN-296``, ``CHI-IN-298``.
    """
    root = runs[0].root
    space = runs[0].entities.get("space")
    masks = [
        f
        for f in files
        if f.suffix == "mask" and f.extension in (".nii", ".nii.gz") and f.entities.get("space") == space
    ]
    named: dict[str, list[FuncFile]] = {}
    for file in masks:
        named.setdefault((file.entities.get("label") or file.entities.get("desc") or "brain").lower(), []).append(file)
    brain = named.get("brain", [])
    chosen = named.get(roi.lower()) or (brain if roi in _DEFAULT_ROIS else [])
    if not chosen and roi not in _DEFAULT_ROIS:
        raise InputError(
            "CHI-IN-291",
            f"there is no mask of the region '{roi[:40]}'; there are {', '.join(sorted(named))[:200] or 'none'}.",
            "Write it as *_label-NAME_mask.nii.gz in the space of the runs.",
            file=runs[0].relative,
        )
    if not chosen:
        return None, {}, []
    mask = common_mask([file.path for file in chosen], root=root)
    regions = {
        name: common_mask([file.path for file in group], root=root).inside[mask.inside]
        for name, group in named.items()
        if name != "brain" and group is not chosen
    }
    used = "the brain" if chosen is brain else f"the region {roi}"
    return mask, regions, [f"Subject {runs[0].entities.get('sub', '')}: voxels are those of {used} ({mask.n_voxels})."]


def joined_trials(
    runs: Sequence[FuncFile], tables: Sequence[Events], images: Sequence[NDArray[np.int64]]
) -> tuple[Trials, bool]:
    """Return the trials of runs one after the other, and whether tables said on which side of the split each is.

    Without a column ``split`` all are training trials, to be divided by stimulus.
    """
    labels = sorted({run.entities.get("ses", "") for run in runs}, key=_natural)
    session = [labels.index(run.entities.get("ses", "")) + 1 for run in runs]
    side = np.concatenate([table.side[table.shown] for table in tables])
    image = np.concatenate(images)
    said = bool((side >= 0).all())
    trials = Trials(
        row=np.arange(len(image), dtype=np.int64),
        image=image,
        session=np.repeat(np.array(session, dtype=np.int64), [len(part) for part in images]),
        repeat=repeat_numbers(image),
        split=side if said else np.where(side >= 0, side, TRAIN).astype(np.int8),
    )
    return trials, said


def _walk(folder: Path) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Yield the data type and the entry of each file in ``[ses-*/]{func,anat}``."""
    for child in entries(folder):
        if child.name in DATATYPES:
            yield from ((child.name, entry) for entry in entries(Path(child.path)))
        elif child.name.startswith("ses-"):
            for name in DATATYPES:
                yield from ((name, entry) for entry in entries(Path(child.path) / name))


def _natural(label: str) -> tuple[int, int, str]:
    return (1, int(label), "") if label.isdigit() else (0, 0, label)


def _place(space: str) -> int:
    return _SPACES.index(space) if space in _SPACES else len(_SPACES)
