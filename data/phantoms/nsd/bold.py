"""The first session's BOLD from which its betas come, as an fMRIPrep-like derivative with events."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...atomic import atomic_path, write_json, write_tsv
from ..heads import centred_affine, write_nifti
from ..marker import FIELD
from .brain import SCANNER, PhantomBrain, runs
from .cortex import SPACING_MM
from .forward_model import Values
from .stimulus_sources import Images
from .trial_noise import RunDesign, run_design

BASELINE = 8000.0
"""Raw signal without response: rounding to integers adds 0.004 percent."""

_MOTION = ("trans_x", "trans_y", "trans_z", "rot_x", "rot_y", "rot_z")


def run_bold(brain: PhantomBrain, shown: Values, *, session: int, run: int) -> tuple[RunDesign, NDArray[np.float64]]:
    """Return a run's design and its BOLD in percent change, whose least-squares betas are those of `session_betas`.

    Parameters
    ----------
    brain : PhantomBrain
    shown : ndarray of float32, shape (n, V)
        `PhantomBrain.signal` of the images of this run's trials.
    session : int
        From 1.
    run : int
        From 0.
    """
    plan = run_design(len(shown), brain.model)
    gain, shift = brain.session_terms(session)
    noise = plan.scale * brain.run_noise(session, run, len(plan.design))
    response = plan.design[:, : len(shown)] @ (gain * brain.amplitude * shown + brain.mean + shift)
    return plan, response + gain * brain.amplitude * noise


def write_bold(
    place: Path, brain: PhantomBrain, shown: Values, stimuli: Sequence[int], *, sides: Sequence[str], session: int = 1
) -> None:
    """Write a session's runs.

    Parameters
    ----------
    place : Path
        The derivative.
    brain : PhantomBrain
    shown : ndarray of float32, shape (n, V)
    stimuli : sequence of int
        Number of the image of each trial, from 0.
    sides : sequence of str
        ``train`` or ``test``.
    session : int
    """
    label = f"{brain.subject:02d}"
    folder = place / f"sub-{label}" / f"ses-{session:02d}" / "func"
    affine = centred_affine(brain.cortex.shape, SPACING_MM)
    inside = brain.cortex.painted(np.ones(len(brain.mean), dtype=np.uint8))
    visual = brain.cortex.painted(brain.cortex.visual.astype(np.uint8))
    for run, trials in enumerate(runs(len(shown))):
        plan, percent = run_bold(brain, shown[trials], session=session, run=run)
        base = f"sub-{label}_ses-{session:02d}_task-images_run-{run + 1:02d}"
        raw = np.clip(np.rint(BASELINE * (1 + percent / 100)), 1, 32767).astype(np.int16)
        volumes = np.zeros((*brain.cortex.shape, len(raw)), dtype=np.int16)
        volumes[tuple(brain.cortex.voxel.T)] = raw.T
        write_nifti(folder / f"{base}_space-T1w_desc-preproc_bold.nii.gz", volumes, affine)
        timing = {"RepetitionTime": brain.model.repetition_s, "StartTime": 0.0, "TaskName": "images"}
        write_json(folder / f"{base}_space-T1w_desc-preproc_bold.json", timing)
        write_nifti(folder / f"{base}_space-T1w_desc-brain_mask.nii.gz", inside, affine)
        write_nifti(folder / f"{base}_space-T1w_label-nsdgeneral_mask.nii.gz", visual, affine)
        walk = 0.002 * brain.rng(SCANNER, session, run, 1).standard_normal((len(raw), len(_MOTION))).cumsum(axis=0)
        motion = [dict(zip(_MOTION, row, strict=True)) for row in walk.round(6).tolist()]
        write_tsv(folder / f"{base}_desc-confounds_timeseries.tsv", motion, _MOTION)
        rows = [
            {"onset": round(onset, 3), "duration": brain.model.stimulus_s, "trial_type": "image"}
            | {"stim_file": stimulus_file(stimuli[trial]), "split": sides[trial]}
            for onset, trial in zip(plan.onsets_s.tolist(), trials, strict=True)
        ]
        write_tsv(folder / f"{base}_events.tsv", rows, list(rows[0]))


def stimulus_file(number: int) -> str:
    """Name of a stimulus in the derivative's ``stimuli``, from 0."""
    return f"stimulus-{number:05d}.png"


def write_stimuli(place: Path, images: Images, numbers: Sequence[int], note: str) -> None:
    """Write the images that were shown, and the mark that the derivative is synthetic."""
    from PIL import Image

    description = {
        "Name": "Phantom brains: preprocessed BOLD",
        "BIDSVersion": "1.10.0",
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": "chiasm phantom", "Description": note}],
        FIELD: True,
    }
    write_json(place / "dataset_description.json", description)
    for number in numbers:
        with atomic_path(place / "stimuli" / stimulus_file(number)) as temporary:
            Image.fromarray(images[number]).save(temporary, format="PNG")
