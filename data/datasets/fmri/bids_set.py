"""A data set from BIDS folders: each subject opened by itself, stimuli numbered once for all."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from ...atomic import write_json
from ...containment import entries, inside
from ...errors import ChiasmError, InputError, SeveralErrors
from ...fmri.beta_files import gathered, identity_of
from ...fmri.betas import Betas
from ...fmri.decoding_set import BrainSubject, DecodingSet
from ...fmri.stimuli import SUFFIXES, FolderStimuli
from ..case import raise_all

S = TypeVar("S")
T = TypeVar("T")

NO_SPLIT = "The tables have no column 'split': all trials are training trials until they are divided by stimulus."
NO_STIMULI = "There is no folder stimuli/: nothing can be scored."


class Draft(Protocol):
    """A subject whose tables are read, and whose betas are not."""

    def shown(self) -> Iterable[str]:
        """Names of the stimuli of its trials."""

    def finished(self, numbers: Mapping[str, int]) -> tuple[BrainSubject, list[str]]:
        """Return the subject, and what was decided, from the number of each stimulus."""


def assembled(
    layout: str, root: Path, labels: Sequence[str], draft: Callable[[str], Draft], *, stimuli_in: Sequence[Path]
) -> DecodingSet:
    """Open every subject; what is wrong with any of them is said at once.

    Parameters
    ----------
    layout : str
    root : Path
    labels : sequence of str
    draft : callable
        Label -> draft.
    stimuli_in : sequence of Path
        The first that has a folder ``stimuli`` counts.

    Raises
    ------
    ChiasmError, SeveralErrors
    """
    errors: list[ChiasmError] = []
    stimuli, numbers = open_stimuli(stimuli_in)
    drafts = [made for label in labels if (made := _tried(draft, label, errors)) is not None]
    if stimuli is None:
        numbers = {name: number for number, name in enumerate(sorted({n for one in drafts for n in one.shown()}))}
    known = numbers
    finished = [
        done for one in drafts if (done := _tried(lambda draft: draft.finished(known), one, errors)) is not None
    ]
    raise_all(errors)
    notes = [note for _, said in finished for note in said] + ([] if stimuli is not None else [NO_STIMULI])
    return DecodingSet(
        layout=layout,
        root=root,
        subjects=tuple(subject for subject, _ in finished),
        stimuli=stimuli,
        notes=tuple(dict.fromkeys(notes)),
    )


def kept_betas(
    parts: Iterable[NDArray[np.float32]],
    shape: tuple[int, int],
    *,
    name: str,
    files: Sequence[Path],
    root: Path,
    settings: Mapping[str, object],
    cache: Path | None,
) -> Betas:
    """Gather betas, in the cache under a name of their own for every state of the files and settings.

    Parameters
    ----------
    parts : iterable of ndarray, shape (k, V)
        Not touched where the cache has them.
    shape : tuple of int
        Trials and voxels.
    name : str
        Start of the name.
    files : sequence of Path
        What the betas are made from.
    root : Path
    settings : mapping
        How they are made; written beside them as ``*_settings.json``.
    cache : Path, optional

    Raises
    ------
    InputError, ResourceError
        As `beta_files.gathered`.
    """
    identity = identity_of(files, root, settings)
    full = f"{name}_{identity[:12]}"
    betas = gathered(parts, shape, name=full, identity=identity, cache=cache)
    if cache is not None:
        sources = [file.relative_to(root).as_posix() if file.is_relative_to(root) else file.name for file in files]
        write_json(cache / f"{full}_settings.json", {"settings": dict(settings), "sources": sources})
    return betas


def _tried(make: Callable[[S], T], of: S, errors: list[ChiasmError]) -> T | None:
    try:
        return make(of)
    except SeveralErrors as error:
        errors += error.errors
    except ChiasmError as error:
        errors.append(error)
    return None


def open_stimuli(roots: Sequence[Path]) -> tuple[FolderStimuli | None, dict[str, int]]:
    """Return the images under ``stimuli/`` of the first root that has them, and the number of each by its name.

    Names are paths below ``stimuli/``, and without the ending, so that a table may leave it out.

    Raises
    ------
    InputError
        ``CHI-IN-067``, ``CHI-IN-068``, ``CHI-IN-263``.
    """
    for root in roots:
        folder = root / "stimuli"
        if not folder.is_dir():
            continue
        files = sorted(_images(folder, root))
        if not files:
            break
        numbers: dict[str, int] = {}
        for number, path in enumerate(files):
            name = path.relative_to(folder).as_posix()
            numbers[name] = number
            numbers.setdefault(name.rsplit(".", 1)[0], number)
        return FolderStimuli(files, root=root), numbers
    return None, {}


def image_numbers(names: Sequence[str], numbers: Mapping[str, int], *, relative: str) -> NDArray[np.int64]:
    """Return the number of each stimulus that a table names.

    Raises
    ------
    InputError
        ``CHI-IN-289``: some are not under ``stimuli/``.
    """
    plain = [name.replace("\\", "/").removeprefix("./").removeprefix("stimuli/") for name in names]
    missing = sorted({name for name in plain if name not in numbers})
    if missing:
        raise InputError(
            "CHI-IN-289",
            f"{len(missing)} stimuli of the table are not under stimuli/.",
            "Put the images there, under the names of the table.",
            file=relative,
        )
    return np.array([numbers[name] for name in plain], dtype=np.int64)


def _images(folder: Path, root: Path, depth: int = 4) -> Iterator[Path]:
    for entry in entries(folder):
        if entry.is_dir(follow_symlinks=False) and depth:
            yield from _images(Path(entry.path), root, depth - 1)
        elif Path(entry.name).suffix.lower() in SUFFIXES:
            trouble = inside(entry, root)
            if trouble is not None:
                raise trouble
            yield Path(entry.path)
