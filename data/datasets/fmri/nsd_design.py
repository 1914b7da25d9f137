"""Which image was shown when: ``nsd_expdesign.mat``, whose numbers count from 1, and NSD's table of stimuli."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import InputError, ResourceError
from ...fmri.trials import TEST, TRAIN, Trials

CODES: dict[str, str] = {
    "CHI-IN-274": "NSD's table of the design is missing, unreadable, or does not fit the betas.",
}
NAME = "nsd_expdesign.mat"
_MAX_BYTES = 256 << 20
_TABLES = ("masterordering", "subjectim", "sharedix")


@dataclass(frozen=True, eq=False, kw_only=True)
class NsdDesign:
    """The design, in numbers that count from 0.

    Parameters
    ----------
    ordering : ndarray of int64, shape (trials,)
        Trial -> column of `images`; the same for all subjects.
    images : ndarray of int64, shape (subjects, n)
        Column -> stimulus.
    shared : ndarray of int64
        Stimuli that every subject saw: the test side.
    """

    ordering: NDArray[np.int64]
    images: NDArray[np.int64]
    shared: NDArray[np.int64]

    def trials(self, subject: int, n_trials: Mapping[int, int]) -> Trials:
        """Return the trials of a subject.

        Parameters
        ----------
        subject : int
            From 1.
        n_trials : mapping of int to int
            Session (from 1) -> trials in its file. Sessions may be missing where all but the last have one length.

        Raises
        ------
        InputError
            ``CHI-IN-274``, ``CHI-IN-264``.
        """
        if subject > len(self.images):
            raise _refused(f"it has {len(self.images)} subjects, and the betas are of subject {subject}")
        missing = np.setdiff1d(self.shared, self.images[subject - 1])
        if len(missing):
            raise _off_by_one(
                f"{len(missing)} shared image(s) are not among those of subject {subject}, such as number {missing[0] + 1}"
            )
        places, session = _places(n_trials)
        if len(places) and places[-1] >= len(self.ordering):
            raise _refused(f"it has {len(self.ordering)} trials, and the betas of subject {subject} {places[-1] + 1}")
        # Repeats are counted over the whole design: a missing session was seen all the same.
        image = self.images[subject - 1][self.ordering[places]]
        return Trials(
            row=np.arange(len(places), dtype=np.int64),
            image=image,
            session=session,
            repeat=_seen_before(self.ordering)[places],
            split=np.where(np.isin(image, self.shared), TEST, TRAIN).astype(np.int8),
        )


def read_design(path: Path, *, n_stimuli: int | None = None) -> NsdDesign:
    """Read the design and shift its numbers, which count from 1.

    Parameters
    ----------
    path : Path
    n_stimuli : int, optional
        How many there are, where that is known.

    Raises
    ------
    InputError
        ``CHI-IN-274``; ``CHI-IN-264`` where a table counts from 0, or beyond the stimuli.
    """
    tables = _tables(path)
    ordering, images, shared = tables["masterordering"].ravel(), tables["subjectim"], tables["sharedix"].ravel()
    limits = {"masterordering": images.shape[1], "subjectim": n_stimuli, "sharedix": n_stimuli}
    for name, limit in limits.items():
        low, high = int(tables[name].min()), int(tables[name].max())
        if low < 1:
            raise _off_by_one(f"{name} holds {low}, and its numbers count from 1")
        if limit is not None and high > limit:
            raise _off_by_one(
                f"{name} holds {high}, and there are {limit} {'images' if limit == n_stimuli else 'columns'}"
            )
    return NsdDesign(ordering=ordering - 1, images=images - 1, shared=np.unique(shared - 1))


def stimulus_table(path: Path, n_stimuli: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return a name (NSD's number, from 1, where there is no column ``name``) and a category (or none) for each stimulus.

    Parameters
    ----------
    path : Path
        ``nsd_stim_info_merged.csv``; may be missing.
    n_stimuli : int
    """
    numbers = tuple(str(i + 1) for i in range(n_stimuli))
    if not path.is_file() or path.stat().st_size > _MAX_BYTES:
        return numbers, ()
    found: dict[str, dict[int, str]] = {"name": {}, "category": {}}
    try:
        with path.open(encoding="utf-8", errors="replace", newline="") as stream:
            for row in csv.DictReader(stream):
                place = str(row.get("nsdId") or "")
                for column, values in found.items():
                    text = row.get(column)
                    if text and place.isdecimal():
                        values[int(place)] = text[:200]
    except (csv.Error, ValueError):
        return numbers, ()
    names, categories = (_whole(values, n_stimuli) for values in found.values())
    return names if len(set(names)) == n_stimuli else numbers, categories


def _whole(values: Mapping[int, str], n: int) -> tuple[str, ...]:
    return tuple(values[i] for i in range(n)) if all(i in values for i in range(n)) else ()


def read_tables(path: str) -> tuple[dict[str, Any], dict[str, NDArray[np.int64]]]:
    """Read the three tables with scipy, as a job of the guard: damaged files have crashed its reader.

    Raises
    ------
    InputError
        ``CHI-IN-274``; the guard turns what scipy raises into an error of its own.
    """
    from scipy.io import loadmat

    stored = loadmat(path, variable_names=list(_TABLES), appendmat=False)
    missing = [name for name in _TABLES if name not in stored]
    if missing:
        raise _refused(f"it has no {', '.join(missing)}")
    tables: dict[str, NDArray[np.int64]] = {}
    for name in _TABLES:
        values = np.asarray(stored[name])
        fits = values.ndim == 2 and values.size > 0 and values.dtype.kind in "iuf" and np.isfinite(values).all()
        if not fits or (np.abs(values.astype(np.float64)) > 2**31).any() or (values != np.rint(values)).any():
            raise _refused(f"{name} is not a table of whole numbers")
        tables[name] = values.astype(np.int64)
    return {}, tables


def _tables(path: Path) -> dict[str, NDArray[Any]]:
    if not path.is_file() or path.stat().st_size > _MAX_BYTES:
        raise _refused("it is missing, or not the file that NSD has")
    from ...guard import GuardedReader, Limits

    with GuardedReader({"tables": f"{__name__}:read_tables"}, Limits(cpu_s=30.0, wall_s=60.0)) as guard:
        try:
            return guard.run("tables", {"path": str(path)}, file=NAME)[1]
        except ResourceError as error:
            if error.code == "CHI-RES-033":  # no child could be started: not the file's fault
                raise
            raise _refused("it is damaged") from error
        except InputError as error:
            raise (
                error if error.code in CODES else _refused("it is no MATLAB file of version 5 to 7, or damaged")
            ) from error


def _places(n_trials: Mapping[int, int]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the place of each trial in the design, and its session."""
    sessions = sorted(n_trials)
    gaps = sessions != list(range(1, len(sessions) + 1))
    lengths = {n_trials[session] for session in sessions[:-1]}
    if gaps and (len(lengths) > 1 or (len(lengths) == 1 and n_trials[sessions[-1]] > max(lengths))):
        raise _refused("sessions are missing and the others differ in length, so trials cannot be placed")
    # Alone, a session from the middle can only be placed by its own length.
    common = max(lengths, default=n_trials[sessions[-1]] if sessions else 0)
    starts = {s: (s - 1) * common for s in sessions} if gaps else _summed(sessions, n_trials)
    places = [np.arange(starts[s], starts[s] + n_trials[s], dtype=np.int64) for s in sessions]
    number = [np.full(n_trials[s], s, dtype=np.int64) for s in sessions]
    return np.concatenate(places), np.concatenate(number)


def _summed(sessions: Sequence[int], n_trials: Mapping[int, int]) -> dict[int, int]:
    return {session: sum(n_trials[earlier] for earlier in sessions[:i]) for i, session in enumerate(sessions)}


def _seen_before(columns: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return how often each value stood earlier in the list."""
    order = np.argsort(columns, kind="stable")
    _, starts, counts = np.unique(columns[order], return_index=True, return_counts=True)
    before = np.empty(len(columns), dtype=np.int64)
    before[order] = np.arange(len(columns)) - np.repeat(starts, counts)
    return before


def _refused(problem: str) -> InputError:
    return InputError(
        "CHI-IN-274",
        f"the design cannot be used: {problem}.",
        "Fetch nsddata/experiments/nsd/nsd_expdesign.mat and the betas again.",
        file=NAME,
    )


def _off_by_one(problem: str) -> InputError:
    return InputError(
        "CHI-IN-264",
        f"the design does not fit the stimuli: {problem}.",
        "NSD's numbers of images count from 1; a table that was written from Python may count from 0.",
        file=NAME,
    )
