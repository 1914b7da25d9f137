"""The Natural Scenes Dataset as it is published: betas a session, masks, design and stimuli in folders of its own.

Source: Allen et al., Nature Neuroscience 2022, and the data manual of the data set.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...containment import entries
from ...errors import ChiasmError, InputError, SeveralErrors
from ...fmri.beta_files import INT16_SCALE, BetaVolumes, gathered, identity_of, mask_hash, open_volumes
from ...fmri.decoding_set import BrainSubject, DecodingSet
from ...fmri.regions import Region, read_region, regions_within
from ...fmri.stimuli import Hdf5Stimuli
from ...nifti import read_volume
from ..case import raise_all
from .mindeye_tars import chosen_subjects
from .nsd_design import NAME as DESIGN
from .nsd_design import NsdDesign, read_design, stimulus_table

BETAS = "betas_fithrf_GLMdenoise_RR"
_SPACES = ("func1pt8mm", "func1mm")
_SUBJECT = re.compile(r"subj(\d\d)")
_SESSION = re.compile(r"betas_session(\d\d)\.(hdf5|nii\.gz|nii)")
_STIMULI = Path("nsddata_stimuli/stimuli/nsd/nsd_stimuli.hdf5")
_EXPERIMENT = Path("nsddata/experiments/nsd")


@dataclass(frozen=True, kw_only=True)
class _Place:
    """Where the files of one subject lie."""

    label: str
    betas: Path
    space: Path
    labels: Path

    @property
    def masks(self) -> tuple[Path, ...]:
        return self.space / "roi", self.space


def matches(root: Path) -> bool:
    """Whether `root` has NSD's folder of betas."""
    return (root / "nsddata_betas" / "ppdata").is_dir()


def subject_names(root: Path) -> list[str]:
    """Return the labels of subjects that have betas, two digits each."""
    found = (_SUBJECT.fullmatch(entry.name) for entry in entries(root / "nsddata_betas" / "ppdata") if entry.is_dir())
    return sorted(match[1] for match in found if match)


def open_set(
    root: Path, *, subjects: Sequence[str] = (), roi: str = "nsdgeneral", cache: Path | None = None
) -> DecodingSet:
    """Open the data set; the betas of the region are gathered once.

    Parameters
    ----------
    root : Path
        Holds ``nsddata`` and ``nsddata_betas``, and ``nsddata_stimuli`` where images are to be read.
    subjects : sequence of str
        Labels; all where none is given.
    roi : str
        As `read_region`: ``nsdgeneral``, ``prf-visualrois:V1v+V1d``, ``brainmask``.
    cache : Path, optional
        Folder for the gathered betas; without one they are kept in memory, up to 1 GiB a subject.

    Raises
    ------
    InputError, SeveralErrors
        ``CHI-IN-262`` to ``CHI-IN-269``, ``CHI-IN-274``, ``CHI-IN-290``.
    ResourceError
        Where the cache cannot be written.
    """
    root = root.resolve()
    labels = chosen_subjects(subjects, subject_names(root))
    notes: list[str] = []
    stimuli = _stimuli(root, notes)
    design = read_design(root / _EXPERIMENT / DESIGN, n_stimuli=stimuli.n if stimuli else None)
    errors: list[ChiasmError] = []
    read: list[BrainSubject] = []
    for label in labels:
        try:
            read.append(_subject(root, label, design, roi=roi, cache=cache, notes=notes))
        except SeveralErrors as error:
            errors += error.errors
        except ChiasmError as error:
            errors.append(error)
    raise_all(errors)
    notes.append("Test side: the images that all subjects saw; all else is for training.")
    return DecodingSet(layout="nsd", root=root, subjects=tuple(read), stimuli=stimuli, notes=tuple(notes))


def _stimuli(root: Path, notes: list[str]) -> Hdf5Stimuli | None:
    path = root / _STIMULI
    if not path.is_file():
        notes.append(f"{_STIMULI} is not there: betas can be decoded, not scored.")
        return None
    n = Hdf5Stimuli(path, relative=_STIMULI.as_posix()).n
    names, categories = stimulus_table(root / _EXPERIMENT / "nsd_stim_info_merged.csv", n)
    return Hdf5Stimuli(path, names=names, categories=categories, relative=_STIMULI.as_posix())


def _subject(
    root: Path, label: str, design: NsdDesign, *, roi: str, cache: Path | None, notes: list[str]
) -> BrainSubject:
    place = _place(root, label, notes)
    region = read_region(roi, place.masks, tables=[place.labels])
    sessions = _sessions(root, place.betas, region)
    trials = design.trials(int(label), {number: volumes.n_trials for number, volumes in sessions.items()})
    files = [volumes.path for volumes in sessions.values()]
    identity = identity_of(files, root, {"mask": mask_hash(region.inside), "layout": "nsd"})
    slug = re.sub(r"[^A-Za-z0-9.-]+", "-", roi)[:60]
    where = hashlib.sha256(f"{place.betas}\n{roi}".encode()).hexdigest()[:8]
    betas = gathered(
        _chunks(sessions, region.inside),
        (len(trials), int(region.inside.sum())),
        name=f"nsd-{label}-{slug}-{where}",
        identity=identity,
        cache=cache,
    )
    rois, more = regions_within(region.mask, place.masks[0], tables=[place.labels])
    notes += [f"Subject {label}: {note}" for note in more]
    return BrainSubject(
        name=label,
        betas=betas,
        trials=trials,
        mask=region.mask,
        rois=rois,
        ncsnr=_ncsnr(place.betas / "ncsnr.nii.gz", region),
        files=(root / _EXPERIMENT / DESIGN, *region.files, *files),
    )


def _chunks(sessions: dict[int, BetaVolumes], inside: NDArray[np.bool_]) -> Iterator[NDArray[np.float32]]:
    for volumes in sessions.values():
        yield from volumes.chunks(inside)


def _place(root: Path, label: str, notes: list[str]) -> _Place:
    """Find the betas: NSD's best version at 1.8 mm, else the only version that is there."""
    subject = f"subj{label}"
    for space in _SPACES:
        folder = root / "nsddata_betas" / "ppdata" / subject / space
        versions = [entry.name for entry in entries(folder) if entry.is_dir() and _session_files(Path(entry.path))]
        if not versions:
            continue
        if BETAS not in versions and len(versions) > 1:
            raise InputError(
                "CHI-IN-265",
                f"subject {label} has betas of several versions ({', '.join(versions)[:200]}), and not {BETAS}.",
                "Leave the one that is meant.",
                file=f"{subject}/{space}",
            )
        version = BETAS if BETAS in versions else versions[0]
        if version != BETAS or space != _SPACES[0]:
            notes.append(f"Subject {label}: betas are {space}/{version}.")
        return _Place(
            label=label,
            betas=folder / version,
            space=root / "nsddata" / "ppdata" / subject / space,
            labels=root / "nsddata" / "freesurfer" / subject / "label",
        )
    raise InputError(
        "CHI-IN-265",
        f"subject {label} has no betas_sessionNN.hdf5 or .nii.gz.",
        f"They belong to nsddata_betas/ppdata/{subject}/func1pt8mm/{BETAS}.",
        file=subject,
    )


def _session_files(folder: Path) -> dict[int, Path]:
    """Return a file a session; HDF5 where both forms are there, which is read faster."""
    found: dict[int, Path] = {}
    for entry in reversed(entries(folder)):  # "nii" before "hdf5", which so replaces it
        match = _SESSION.fullmatch(entry.name)
        if match and int(match[1]) > 0:
            found[int(match[1])] = Path(entry.path)
    return dict(sorted(found.items()))


def _sessions(root: Path, folder: Path, region: Region) -> dict[int, BetaVolumes]:
    return {
        number: open_volumes(
            path, region.grid.shape, whole_scale=INT16_SCALE, relative=path.relative_to(root).as_posix()
        )
        for number, path in _session_files(folder).items()
    }


def _ncsnr(path: Path, region: Region) -> NDArray[np.float32] | None:
    if not path.is_file():
        return None
    values = np.asarray(read_volume(path, relative=path.name).values)
    if values.shape != region.grid.shape:
        return None
    return np.nan_to_num(values[region.inside], nan=0.0, posinf=0.0, neginf=0.0).astype(np.float32)
