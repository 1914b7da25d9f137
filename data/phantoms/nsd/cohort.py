"""Cohorts of phantom brains in the layout of the Natural Scenes Dataset: `chiasm phantom nsd`."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...atomic import write_json, write_text, write_tsv
from ...errors import RecipeError
from ..heads import centred_affine, write_nifti
from ..marker import FIELD
from .bold import write_bold, write_stimuli
from .brain import PhantomBrain, grow_brain, sessions
from .cortex import AREAS, SPACING_MM
from .forward_model import ForwardModel, channels
from .nsd_files import (
    PRF_LABELS,
    STREAM_LABELS,
    STREAM_OF,
    h5py_module,
    stored_betas,
    write_csv,
    write_hdf5,
    write_labels,
    write_mat,
)
from .stimulus_sources import StimulusImages, load_stimuli

CODES: dict[str, str] = {
    "CHI-RC-130": "a setting of a cohort of phantom brains is outside what is allowed",
    "CHI-RC-131": "the output folder of a cohort of phantom brains is not empty",
    "CHI-RC-132": "a source has too few images for a cohort of phantom brains",
}

NOTE = "Synthetic: no person was measured."
VERSION = 1
"""Of the generator: `phantom.json` of another version cannot be rebuilt."""

BETAS_FOLDER = "betas_fithrf_GLMdenoise_RR"
DEFAULT_IMAGES = 1500


@dataclass(frozen=True, kw_only=True)
class NsdCohort:
    """Size and seed of a cohort; subject i's brain depends on the seed and on i only.

    Parameters
    ----------
    subjects : int
        1 to 8.
    images : int, optional
        A subject's own images, for training; default 1,500, or fewer where the source would not give each subject its own.
    shared : int
        Images that all subjects see, for testing.
    repeats : int
        How often each image is shown.
    seed : int
    strength : float
        0 to 2: what the signal is multiplied with; 0 is pure noise.
    stimuli : str
        As `load_stimuli`.
    stimuli_folder : Path, optional
    bold : bool
        Write the first session's BOLD, too, as ``derivatives/fmriprep``.
    model : ForwardModel

    Raises
    ------
    RecipeError
        CHI-RC-130, every wrong setting at once.
    """

    subjects: int = 3
    images: int | None = None
    shared: int = 200
    repeats: int = 3
    seed: int = 0
    strength: float = 1.0
    stimuli: str = "fashion-mnist"
    stimuli_folder: Path | None = None
    bold: bool = False
    model: ForwardModel = field(default_factory=ForwardModel)

    def __post_init__(self) -> None:
        ranges = {
            "subjects": (self.subjects, 1, 8),
            "images": (DEFAULT_IMAGES if self.images is None else self.images, 2, 20_000),
            "shared": (self.shared, 2, 2_000),
            "repeats": (self.repeats, 1, 10),
            "seed": (self.seed, 0, 2**63),
            "strength": (self.strength, 0, 2),
            "noise ceiling": (self.model.noise_ceiling, 10, 70),
        }
        wrong = [
            f"{name} must be {low} to {high}, got {v}"
            for name, (v, low, high) in ranges.items()
            if not low <= v <= high
        ]
        if wrong:
            raise RecipeError("CHI-RC-130", "; ".join(wrong) + ".", "Give values inside these ranges.")

    def plan(self, n_available: int) -> Plan:
        """Choose the images and their order.

        Raises
        ------
        RecipeError
            CHI-RC-132.
        """
        rng = np.random.default_rng([self.seed, 4, 0])
        left = n_available - self.shared
        own = min(DEFAULT_IMAGES, left // self.subjects) if self.images is None else self.images
        if own < 2 or own > left:
            raise RecipeError(
                "CHI-RC-132",
                f"the source has {n_available} images: {self.shared} shared ones leave {max(left, 0)} for training.",
                "Ask for fewer with --shared or --images, or take a larger source.",
            )
        used = np.sort(rng.permutation(n_available)[: self.shared + min(left, own * self.subjects)])
        order = rng.permutation(len(used))
        shared, rest = np.sort(order[: self.shared]), order[self.shared :]
        disjoint = own * self.subjects <= len(rest)
        mine = [
            rest[i * own : (i + 1) * own] if disjoint else rng.permutation(rest)[:own] for i in range(self.subjects)
        ]
        return Plan(
            used=used,
            shared=shared,
            subject_images=np.stack([np.concatenate([shared, images]) for images in mine]),
            ordering=_ordering(self.shared + own, self.repeats, rng),
            disjoint=disjoint,
        )


@dataclass(frozen=True, eq=False, kw_only=True)
class Plan:
    """Which image is shown when; everything counts from 0.

    Parameters
    ----------
    used : ndarray of int64
        Images of the source that are stimuli: number of the stimulus -> number in the source.
    shared : ndarray of int64
        Stimuli that all see.
    subject_images : ndarray of int64, shape (subjects, n)
        Stimuli of each subject, the shared ones first.
    ordering : ndarray of int64, shape (trials,)
        Index into a row of `subject_images`; the same for all subjects, as in NSD.
    disjoint : bool
        No subject's own image is another's.
    """

    used: NDArray[np.int64]
    shared: NDArray[np.int64]
    subject_images: NDArray[np.int64]
    ordering: NDArray[np.int64]
    disjoint: bool


def _ordering(n: int, repeats: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Shuffle the trials so that no image follows itself."""
    order = rng.permutation(np.repeat(np.arange(n), repeats))
    for _ in range(100):
        same = np.flatnonzero(order[1:] == order[:-1]) + 1
        if not len(same):
            break
        other = rng.integers(0, len(order), len(same))
        for a, b in zip(same, other, strict=True):
            order[a], order[b] = order[b], order[a]
    return order.astype(np.int64)


def write_nsd(out: Path, cohort: NsdCohort) -> list[str]:
    """Write a cohort in NSD's layout; the truth behind every voxel goes to ``derivatives/truth``.

    Returns
    -------
    list of str
        ``subj01`` and so on.

    Raises
    ------
    RecipeError
        CHI-RC-131 where `out` holds something already, CHI-RC-132.
    ToolError
        CHI-TL-020 to 022.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RecipeError("CHI-RC-131", "the output folder is not empty.", "Give a new folder for the phantom cohort.")
    h5py_module()
    source = load_stimuli(cohort.stimuli, folder=cohort.stimuli_folder)
    plan = cohort.plan(len(source))
    source = _taken(source, plan.used)
    # First of all the mark: a tree that was left half-way must not pass for a real one.
    write_json(out / "dataset_description.json", _description(cohort))
    write_text(out / "README", _README)
    _write_experiment(out, source, plan, cohort)
    driven = channels(source.images, cohort.model)
    brains = [
        grow_brain(i, seed=cohort.seed, strength=cohort.strength, model=cohort.model)
        for i in range(1, cohort.subjects + 1)
    ]
    bold_images: set[int] = set()
    for brain, images in zip(brains, plan.subject_images, strict=True):
        _write_anatomy(out, brain)
        signal = brain.signal(driven, source.categories)
        folder = out / "nsddata_betas" / "ppdata" / _name(brain) / "func1pt8mm" / BETAS_FOLDER
        for session, trials in enumerate(sessions(len(plan.ordering)), 1):
            betas = brain.session_betas(signal[images[plan.ordering[trials]]], session)
            volumes = stored_betas(betas, brain.cortex.voxel, brain.cortex.shape)
            write_hdf5(folder / f"betas_session{session:02d}.hdf5", "betas", volumes)
        if cohort.bold:
            first = images[plan.ordering[next(iter(sessions(len(plan.ordering))))]]
            sides = np.where(np.isin(first, plan.shared), "test", "train").tolist()
            write_bold(out / "derivatives" / "fmriprep", brain, signal[first], first.tolist(), sides=sides)
            bold_images.update(first.tolist())
        write_nifti(folder / "ncsnr.nii.gz", brain.cortex.painted(brain.ncsnr.astype(np.float32)), _affine(brain))
    if cohort.bold:
        write_stimuli(out / "derivatives" / "fmriprep", source.images, sorted(bold_images), NOTE)
    write_json(out / "phantom.json", _recipe(cohort, source, plan, brains))
    return [_name(brain) for brain in brains]


def _name(brain: PhantomBrain) -> str:
    return f"subj{brain.subject:02d}"


def _affine(brain: PhantomBrain) -> NDArray[np.float64]:
    return centred_affine(brain.cortex.shape, SPACING_MM)


def _taken(source: StimulusImages, used: NDArray[np.int64]) -> StimulusImages:
    chosen = used.tolist()
    return replace(
        source,
        images=source.images[used],
        names=tuple(source.names[i] for i in chosen),
        categories=tuple(source.categories[i] for i in chosen),
    )


def _write_experiment(out: Path, source: StimulusImages, plan: Plan, cohort: NsdCohort) -> None:
    """Write images, design and the table of stimuli; the design's numbers count from 1, as NSD's do."""
    write_hdf5(out / "nsddata_stimuli" / "stimuli" / "nsd" / "nsd_stimuli.hdf5", "imgBrick", source.images)
    experiment = out / "nsddata" / "experiments" / "nsd"
    tables = {
        "masterordering": plan.ordering[None] + 1,
        "subjectim": plan.subject_images + 1,
        "sharedix": plan.shared[None] + 1,
    }
    write_mat(experiment / "nsd_expdesign.mat", tables)
    shared = set(plan.shared.tolist())
    trial_of = [_trials_of(row, plan.ordering, cohort.repeats) for row in plan.subject_images]
    rows: list[dict[str, Any]] = []
    for i, (name, category) in enumerate(zip(source.names, source.categories, strict=True)):
        row: dict[str, Any] = {"nsdId": i, "shared1000": i in shared, "name": name, "category": category}
        for number, trials in enumerate(trial_of, 1):
            row[f"subject{number}"] = int(i in trials)
            row |= {f"subject{number}_rep{k}": trials[i][k] if i in trials else 0 for k in range(cohort.repeats)}
        rows.append(row)
    write_csv(experiment / "nsd_stim_info_merged.csv", rows)


def _trials_of(images: NDArray[np.int64], ordering: NDArray[np.int64], repeats: int) -> dict[int, list[int]]:
    """Trials (from 1) at which each image of a subject was shown."""
    when = (np.argsort(ordering, kind="stable") + 1).reshape(-1, repeats)
    return dict(zip(images.tolist(), when.tolist(), strict=True))


def _write_anatomy(out: Path, brain: PhantomBrain) -> None:
    """Write masks and, apart from what a reader of NSD looks at, the truth behind every voxel."""
    cortex, affine = brain.cortex, _affine(brain)
    roi = out / "nsddata" / "ppdata" / _name(brain) / "func1pt8mm" / "roi"
    names = np.array(["", *AREAS])[cortex.area + 1]
    prf = np.array([PRF_LABELS.index(name) if name in PRF_LABELS else 0 for name in names])
    stream = np.array([STREAM_OF.get(name, 1) if name else 0 for name in names])
    # As in NSD: 0 is other cortex, -1 is no cortex.
    for name, values in (("nsdgeneral", cortex.visual), ("prf-visualrois", prf), ("streams", stream)):
        write_nifti(roi / f"{name}.nii.gz", cortex.painted(values.astype(np.int16), fill=-1), affine)
    labels = out / "nsddata" / "freesurfer" / _name(brain) / "label"
    write_labels(labels / "nsdgeneral.mgz.ctab", ("Unknown", "nsdgeneral"))
    write_labels(labels / "prf-visualrois.mgz.ctab", PRF_LABELS)
    write_labels(labels / "streams.mgz.ctab", STREAM_LABELS)
    visual, tuning = np.flatnonzero(cortex.visual), brain.tuning
    rows = [
        {"i": i, "j": j, "k": k, "area": names[v], "hemisphere": "L" if cortex.left[v] else "R"}
        | {"x_deg": round(x, 4), "y_deg": round(y, 4), "size_deg": round(size, 4)}
        | {"category_share": round(float(share), 4), "noise_ceiling": round(100 * float(brain.ceiling[v]), 3)}
        for v, (i, j, k), (x, y), size, share in zip(
            visual,
            cortex.voxel[visual].tolist(),
            tuning.centre_deg.tolist(),
            tuning.size_deg.tolist(),
            tuning.category_share,
            strict=True,
        )
    ]
    write_tsv(out / "derivatives" / "truth" / _name(brain) / "voxels.tsv", rows, list(rows[0]))


def _description(cohort: NsdCohort) -> dict[str, Any]:
    return {
        "Name": "Phantom brains in the layout of the Natural Scenes Dataset",
        "BIDSVersion": "1.10.0",
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": "chiasm phantom", "Description": NOTE}],
        FIELD: True,
        "seed": cohort.seed,
        "strength": cohort.strength,
    }


def _recipe(cohort: NsdCohort, source: StimulusImages, plan: Plan, brains: list[PhantomBrain]) -> dict[str, Any]:
    """Everything from which the cohort's signal and noise can be rebuilt."""
    return {
        "kind": "nsd",
        "version": VERSION,
        "seed": cohort.seed,
        "strength": cohort.strength,
        "repeats": cohort.repeats,
        "images": plan.subject_images.shape[1] - len(plan.shared),
        "shared": len(plan.shared),
        "own_images_disjoint": plan.disjoint,
        "stimuli": {
            "source": source.source,
            "licence": source.licence,
            "n": len(source),
            "categories": sorted(set(source.categories)),
            "sha256": hashlib.sha256(source.images.tobytes()).hexdigest(),
        },
        "subjects": {
            _name(brain): {
                "shape": list(brain.cortex.shape),
                "n_voxels": int(brain.cortex.visual.sum()),
                "median_noise_ceiling_percent": round(100 * float(np.median(_written_ceiling(brain))), 3),
            }
            for brain in brains
        },
        "forward_model": asdict(cohort.model),
    }


def _written_ceiling(brain: PhantomBrain) -> NDArray[np.float64]:
    """Noise ceiling of three-repeat means at the cohort's strength, of the visual voxels."""
    ratio = brain.ncsnr[brain.cortex.visual] ** 2
    return ratio / (ratio + 1 / 3)


_README = f"""Phantom brains
==============

{NOTE}
Made by `chiasm phantom nsd` in the layout of the Natural Scenes Dataset. The images are real; brains, betas and noise are
drawn by a program whose constants stand in phantom.json. What each voxel answers to stands in derivatives/truth; never
train on it.
"""
