"""An fMRIPrep derivative and the raw data set's events: single-trial betas are made here, run by run, with saved settings.

Read: ``sub-X[/ses-Y]/func/*[_space-S]_desc-preproc_bold.nii.gz`` with its JSON (``RepetitionTime``, ``StartTime``),
``*_desc-brain_mask.nii.gz`` and ``*_desc-confounds_timeseries.tsv``; ``*_events.tsv`` of the same run with onset, duration and
``stim_file`` or ``image``, in the derivative or in the raw data set two folders above (``derivatives/fmriprep``); ``stimuli/``. `root`
is the derivative, or the raw data set.

Source: fMRIPrep's documentation of its outputs (24); the BIDS specification 1.10.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...errors import ChiasmError, InputError
from ...fmri.beta_files import mask_hash, open_volumes
from ...fmri.betas import Betas
from ...fmri.decoding_set import BrainSubject, DecodingSet
from ...fmri.events import Events, read_confounds, read_events
from ...fmri.masked_runs import Mask, repetition_time_s, require_same_grid
from ...fmri.single_trials import SingleTrialSettings, glmsingle_betas, lss_betas
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
    "CHI-IN-300": "The repetition time of a run is not known.",
    "CHI-IN-301": "The confounds of a run are missing, or have another number of scans than the run.",
    "CHI-IN-304": "A run is too short, or is no series of volumes.",
}

_PART = "desc-preproc_bold.nii"
_LEAST_SCANS = 20
_MAX_SIDECAR = 1 << 20


@dataclass(frozen=True, eq=False)
class _Run:
    """What is known of a run before its volumes are read."""

    bold: FuncFile
    events: Events
    confounds: NDArray[np.float64]
    frame_times_s: NDArray[np.float64]
    repetition_time_s: float
    sources: tuple[FuncFile, ...]


def matches(root: Path) -> bool:
    """Whether a subject has a preprocessed run."""
    return probably_has(derivative_with(root, _PART), _PART)


def subject_names(root: Path) -> list[str]:
    """Return the labels of subjects that have a preprocessed run."""
    return subjects_with(derivative_with(root, _PART), _PART)


def open_set(
    root: Path,
    *,
    subjects: Sequence[str] = (),
    roi: str = "nsdgeneral",
    cache: Path | None = None,
    settings: SingleTrialSettings | None = None,
) -> DecodingSet:
    """Open the data set; betas are estimated where the cache does not hold them already.

    Parameters
    ----------
    root : Path
    subjects : sequence of str
        Labels; all where none is given.
    roi : str
        A region with a mask of its own; the brain where it is ``nsdgeneral`` and there is no such mask.
    cache : Path, optional
        Where betas are kept, with the settings as JSON beside them; without it, in memory.
    settings : SingleTrialSettings, optional

    Raises
    ------
    InputError, ToolError, ResourceError, SeveralErrors
        ``CHI-IN-260`` to ``CHI-IN-269``, ``CHI-IN-285`` to ``CHI-IN-305``, ``CHI-TL-070``, those of NIfTI.
    """
    chosen = settings or SingleTrialSettings()
    place = derivative_with(root.resolve(), _PART)
    raw = raw_root(place)
    labels = chosen_subjects(subjects, subjects_with(place, _PART))
    return assembled(
        "fmriprep",
        place,
        labels,
        lambda label: _Draft(place, raw, label, roi=roi, cache=cache, settings=chosen),
        stimuli_in=[raw, place] if raw else [place],
    )


class _Draft:
    """One subject's runs; everything that needs no volumes is checked before a volume is read."""

    def __init__(
        self,
        place: Path,
        raw: Path | None,
        label: str,
        *,
        roi: str,
        cache: Path | None,
        settings: SingleTrialSettings,
    ) -> None:
        self.label, self.cache, self.settings = label, cache, settings
        files = func_files(place, label)
        elsewhere = func_files(raw, label) if raw else []
        bold = [f for f in files if f.path.name.endswith((f"{_PART}.gz", _PART))]
        kept, self.notes = one_space(bold, label)
        self.runs: list[_Run] = []
        errors: list[ChiasmError] = []
        for file in kept:
            try:
                self.runs.append(_described(file, files, elsewhere, settings))
            except ChiasmError as error:
                errors.append(error)
        raise_all(errors)
        mask, self.regions, more = mask_of(kept, files, roi)
        if mask is None:
            raise InputError(
                "CHI-IN-298",
                "there is no mask of the brain in the space of the runs.",
                "Keep fMRIPrep's *_desc-brain_mask.nii.gz.",
                file=kept[0].relative,
            )
        self.mask: Mask = mask
        self.notes += more

    def shown(self) -> Iterator[str]:
        """Names of the stimuli of the trials."""
        return (name for run in self.runs for name in run.events.stimulus if name)

    def finished(self, numbers: Mapping[str, int]) -> tuple[BrainSubject, list[str]]:
        """Return the subject, with what was decided."""
        errors: list[ChiasmError] = []
        images: list[NDArray[np.int64]] = []
        for run in self.runs:
            try:
                names = [run.events.stimulus[trial] for trial in run.events.shown]
                images.append(image_numbers(names, numbers, relative=run.sources[0].relative))
                header = read_header(run.bold.path, relative=run.bold.relative)
                require_same_grid(self.mask.grid, header.grid, run.bold.relative)
            except ChiasmError as error:
                errors.append(error)
        raise_all(errors)
        trials, said = joined_trials([r.bold for r in self.runs], [r.events for r in self.runs], images)
        sources = [file for run in self.runs for file in (run.bold, *run.sources)]
        subject = BrainSubject(
            name=self.label,
            betas=self._betas(len(trials), sources),
            trials=trials,
            mask=self.mask.voxels,
            rois=self.regions,
            files=tuple(file.path for file in sources),
        )
        return subject, self.notes + ([] if said else [NO_SPLIT])

    def _betas(self, n_trials: int, sources: Sequence[FuncFile]) -> Betas:
        settings = {**asdict(self.settings), "mask": mask_hash(self.mask.inside)}
        return kept_betas(
            self._estimated(),
            (n_trials, self.mask.n_voxels),
            name=f"sub-{self.label}_desc-{self.settings.method}",
            files=[file.path for file in sources],
            root=sources[0].root,
            settings=settings,
            cache=self.cache,
        )

    def _estimated(self) -> Iterator[NDArray[np.float32]]:
        if self.settings.method == "glmsingle":
            series = [self._volumes(run) for run in self.runs]
            yield from glmsingle_betas(
                series,
                [run.events for run in self.runs],
                [run.confounds for run in self.runs],
                repetition_time_s=self.runs[0].repetition_time_s,
            )
            return
        for run in self.runs:
            yield lss_betas(
                self._volumes(run),
                run.events,
                run.confounds,
                frame_times_s=run.frame_times_s,
                settings=self.settings,
                relative=run.bold.relative,
            )

    def _volumes(self, run: _Run) -> NDArray[np.float32]:
        volumes = open_volumes(run.bold.path, self.mask.inside.shape, relative=run.bold.relative)
        return np.concatenate(list(volumes.chunks(self.mask.inside)))


def _described(
    bold: FuncFile, files: Sequence[FuncFile], elsewhere: Sequence[FuncFile], settings: SingleTrialSettings
) -> _Run:
    """Read what belongs to a run: events, confounds, timing.

    Raises
    ------
    InputError, SeveralErrors
        ``CHI-IN-294``, ``CHI-IN-295``, ``CHI-IN-297``, ``CHI-IN-300``, ``CHI-IN-301``, ``CHI-IN-304``.
    """
    header = read_header(bold.path, relative=bold.relative)
    if header.n_volumes < _LEAST_SCANS:
        raise InputError(
            "CHI-IN-304",
            f"the run has {header.n_volumes} volumes; {_LEAST_SCANS} or more are needed.",
            "Leave it out, or give the whole run.",
            file=bold.relative,
        )
    places = ([file for file in group if file.suffix == "events" and file.of_run(bold)] for group in (files, elsewhere))
    tables = tables_of(bold, *places)
    if len(tables) != 1:
        raise InputError(
            "CHI-IN-297",
            f"{len(tables)} tables of events fit the run; one is needed.",
            "Name events and run with the same session, task and run.",
            file=bold.relative,
        )
    events = read_events(tables[0].path, timed=True, relative=tables[0].relative)
    if not len(events.shown):
        raise InputError(
            "CHI-IN-297", "the events of the run show no stimulus.", "Leave the run out.", file=tables[0].relative
        )
    timing = _sidecar(bold)
    repetition = _positive(timing.get("RepetitionTime")) or repetition_time_s(header)
    if not repetition:
        raise InputError(
            "CHI-IN-300",
            "neither the JSON beside the run nor its header says how long a volume takes.",
            "Keep fMRIPrep's JSON, with RepetitionTime in seconds.",
            file=bold.relative,
        )
    confounds, sources = _confounds(bold, files, settings, header.n_volumes)
    # fMRIPrep corrects slices to the middle of the volume and says so.
    times = _positive(timing.get("StartTime")) + repetition * np.arange(header.n_volumes, dtype=np.float64)
    return _Run(bold, events, confounds, times, repetition, (tables[0], *sources))


def _confounds(
    bold: FuncFile, files: Sequence[FuncFile], settings: SingleTrialSettings, n_scans: int
) -> tuple[NDArray[np.float64], list[FuncFile]]:
    if not settings.confounds:
        return np.empty((n_scans, 0)), []
    tables = [f for f in files if f.suffix in ("timeseries", "regressors") and f.extension == ".tsv" and f.of_run(bold)]
    tables = [f for f in tables if f.entities.get("desc") == "confounds"]
    if len(tables) != 1:
        raise InputError(
            "CHI-IN-301",
            f"{len(tables)} tables of confounds fit the run; one is needed.",
            "Keep fMRIPrep's *_desc-confounds_timeseries.tsv, or ask for no confounds.",
            file=bold.relative,
        )
    values, _ = read_confounds(tables[0].path, settings.confounds, relative=tables[0].relative)
    if len(values) != n_scans:
        raise InputError(
            "CHI-IN-301",
            f"the confounds have {len(values)} rows and the run has {n_scans} volumes.",
            "Give the confounds of this run.",
            file=tables[0].relative,
        )
    return values, tables


def _sidecar(bold: FuncFile) -> Mapping[str, object]:
    path = bold.path.with_name(f"{bold.path.name.partition('.')[0]}.json")
    try:
        values = json.loads(path.read_bytes()[:_MAX_SIDECAR]) if path.is_file() else {}
    except (OSError, ValueError, RecursionError):
        return {}
    return values if isinstance(values, dict) else {}


def _positive(value: object) -> float:
    """Return a finite number above 0, else 0."""
    usable = isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1e6
    return float(value) if usable and isinstance(value, int | float) else 0.0
