"""From a data folder to what a fit reads: subjects, split, scalers, targets."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ....data.datasets.fmri import open_decoding_set, subject_names
from ....data.errors import InputError, did_you_mean
from ....data.fmri.decoding_set import BrainSubject, DecodingSet, Stimuli
from ....data.fmri.feature_files import FeatureAbout, extract_features, feature_path, stimuli_sha256
from ....data.fmri.scaling import VoxelScaler, own_scaler
from ....data.fmri.stimulus_splits import check_disjoint, hold_out
from ....data.fmri.trials import TRAIN, ImageTrials, Trials, by_image
from ....encoders.target_spaces import TargetEncoder
from ...fmri_recipe import FmriRecipe
from .settings import FmriTraining
from .streams import SubjectSource

CODES: dict[str, str] = {
    "CHI-IN-340": "A subject that was asked for is not in the data.",
    "CHI-IN-341": "Images cannot be trained on: the data set has no stimuli, or no trials to train or test with.",
}
PIXEL_BATCH = 256
IN_MEMORY_BYTES = 1 << 30
"""Of targets: CLIP's 257 x 768 tokens of NSD's images are 58 GB."""


@dataclass(frozen=True, eq=False, kw_only=True)
class PreparedSubject:
    """One subject, ready to be trained on.

    Parameters
    ----------
    subject : BrainSubject
        With the validation side held out.
    scaler : VoxelScaler
    train, validation, test : ImageTrials
    """

    subject: BrainSubject
    scaler: VoxelScaler
    train: ImageTrials
    validation: ImageTrials
    test: ImageTrials

    @property
    def source(self) -> SubjectSource:
        """What training batches are drawn from."""
        return SubjectSource(subject=self.subject, images=self.train, scaler=self.scaler)


@dataclass(frozen=True, eq=False, kw_only=True)
class Prepared:
    """A data set, ready to be trained on."""

    data: DecodingSet
    stimuli: Stimuli
    subjects: Mapping[str, PreparedSubject]

    @property
    def n_voxels(self) -> dict[str, int]:
        """Subject -> voxels."""
        return {name: one.subject.n_voxels for name, one in self.subjects.items()}

    def sha256(self) -> str:
        """Hash of who is trained on what: trials, split, and the statistics of the training betas, which tell betas apart."""
        digest = hashlib.sha256()
        for name, one in self.subjects.items():
            digest.update(name.encode())
            parts = (one.train.rows[:1, 0], one.validation.image, one.train.image, one.train.rows, one.test.image)
            for values in (*parts, *one.scaler.state().values(), one.subject.betas.read(parts[0])):
                digest.update(f"{values.dtype}{values.shape}".encode() + values.tobytes())
        return digest.hexdigest()


def chosen_subjects(root: Path, wanted: Sequence[str]) -> list[str]:
    """Return the labels in the data for what was written: ``1``, ``01`` and ``sub-01`` are the same.

    Raises
    ------
    InputError
        ``CHI-IN-340``.
    """
    names = subject_names(root)
    if not wanted:
        return names
    short = {_short(name): name for name in names}
    absent = [one for one in wanted if _short(one) not in short]
    if absent:
        raise InputError(
            "CHI-IN-340",
            f"not in the data: subject {', '.join(absent[:8])}.{did_you_mean(absent[0], names)}",
            f"There are: {', '.join(names)}.",
        )
    return [short[_short(one)] for one in wanted]


def prepare(
    root: Path, subjects: Sequence[str], recipe: FmriRecipe, settings: FmriTraining, *, cache: Path
) -> Prepared:
    """Open the data, check and complete the split, fit the scalers.

    Raises
    ------
    InputError, SeveralErrors
        What the readers say, ``CHI-IN-270`` a stimulus on two sides, ``CHI-IN-341``.
    """
    data = open_decoding_set(root, subjects=tuple(subjects), roi=recipe.betas.roi, cache=cache)
    if data.stimuli is None:
        raise InputError("CHI-IN-341", "the data set has no stimuli.", "Add the images that were shown.")
    check_disjoint(data.subjects)
    found = {}
    for subject in data.subjects:
        trials = subject.trials
        if settings.hours is not None:
            # A session is an hour of scanning; a test image stays whenever it was shown.
            first = np.unique(trials.session)[: max(1, round(settings.hours))]
            trials = trials.where((trials.split != TRAIN) | np.isin(trials.session, first))
        if settings.length is not None:
            trials = _first_images(trials, settings.length)
        if not len(trials.of("val")) and settings.validation_share:
            trials = _held_out(trials, settings)
        subject = replace(subject, trials=trials)
        sides = {side: by_image(trials.of(side)) for side in ("train", "val", "test")}
        if len(sides["train"]) < 4 or not len(sides["test"]):
            raise InputError(
                "CHI-IN-341",
                f"subject {subject.name} has {len(sides['train'])} training and {len(sides['test'])} test images.",
                "Both sides are needed: write a split column, or give all sessions.",
            )
        found[subject.name] = PreparedSubject(
            subject=subject,
            scaler=own_scaler(subject, recipe.betas.scaling),
            train=sides["train"],
            validation=sides["val"],
            test=sides["test"],
        )
    return Prepared(data=data, stimuli=data.stimuli, subjects=found)


class TargetTable:
    """Targets of stimuli, by their numbers.

    Parameters
    ----------
    images : ndarray of int64, shape (n,)
    read : callable
        Positions in `images` -> targets (k, ...), float32.
    """

    def __init__(self, images: NDArray[np.int64], read: Callable[[NDArray[np.int64]], Tensor]) -> None:
        self.images, self._read = images, read
        self._place = {int(image): place for place, image in enumerate(images)}

    def __call__(self, images: NDArray[np.int64]) -> Tensor:
        """Return the targets of some stimuli."""
        return self._read(np.array([self._place[int(image)] for image in images], dtype=np.int64))


def target_table(encoder: TargetEncoder, stimuli: Stimuli, images: NDArray[np.int64], *, folder: Path) -> TargetTable:
    """Return the targets of stimuli: in memory where they are few, else from a file that is made once.

    Parameters
    ----------
    encoder : TargetEncoder
    stimuli : Stimuli
    images : ndarray of int64, shape (n,)
    folder : Path
        For the file; it names what it was made of and is refused where anything differs (``CHI-IN-320``).

    Raises
    ------
    InputError, ResourceError
        As `data.fmri.feature_files.extract_features`.
    """
    space = encoder.space
    if 4 * len(images) * space.tokens * space.width <= IN_MEMORY_BYTES:
        table = encode(encoder, stimuli, images, size=space.pixels)
        return TargetTable(images, lambda places: table[torch.from_numpy(places)])
    about = FeatureAbout(
        target=space.name,
        encoder=encoder.sha256,
        preprocessing=space.normalisation,
        stimuli=stimuli_sha256(stimuli),
        rows=stimuli.n,
        tokens=space.tokens,
        width=space.width,
    )
    folder.mkdir(parents=True, exist_ok=True)
    file = extract_features(
        feature_path(folder, about),
        about,
        lambda numbers: encode(encoder, stimuli, numbers, size=space.pixels).numpy(),
    )
    return TargetTable(images, lambda places: torch.from_numpy(file.read(images[places])))


def needed_images(prepared: Prepared, *, sides: Sequence[str] = ("train", "validation", "test")) -> NDArray[np.int64]:
    """Return the numbers of all stimuli that a fit and its evaluation look at, ascending."""
    numbers = [getattr(one, side).image for one in prepared.subjects.values() for side in sides]
    return np.unique(np.concatenate(numbers))


def encode(encoder: TargetEncoder, stimuli: Stimuli, images: NDArray[np.int64], *, size: int) -> Tensor:
    """Return the targets of stimuli, in memory, float32."""
    parts = []
    for start in range(0, len(images), PIXEL_BATCH):
        pixels = torch.from_numpy(stimuli.read(images[start : start + PIXEL_BATCH], size=size))
        with torch.no_grad():
            parts.append(encoder(pixels).float().cpu())
    return torch.cat(parts)


def _held_out(trials: Trials, settings: FmriTraining) -> Trials:
    """Hold out the validation share; nothing of images so few that a side would be empty (a new subject's first ones)."""
    try:
        return hold_out(trials, settings.validation_share, settings.seed)
    except InputError as error:
        if error.code != "CHI-IN-279":
            raise
        return trials


def _first_images(trials: Trials, length: int) -> Trials:
    """Keep the training trials of the images that were seen first."""
    train = trials.of("train")
    images, first = np.unique(train.image, return_index=True)
    kept = images[np.argsort(first)][:length]
    return trials.where((trials.split != TRAIN) | np.isin(trials.image, kept))


def _short(name: str) -> str:
    return name.removeprefix("sub-").removeprefix("subj").lstrip("0") or "0"
