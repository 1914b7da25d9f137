"""One form for every data set of responses to images: subjects with betas and trials, and the stimuli that they share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from .betas import Betas
from .trials import Trials


class Stimuli(Protocol):
    """The images of a data set, by number from 0."""

    @property
    def n(self) -> int:
        """How many there are."""

    @property
    def names(self) -> tuple[str, ...]:
        """A name each: a file stem, or a number in the data set's own counting."""

    @property
    def categories(self) -> tuple[str, ...]:
        """A category each, or an empty tuple where the data set has none."""

    def read(self, images: NDArray[np.int64], *, size: int) -> NDArray[np.uint8]:
        """Return some images, (k, size, size, 3): shorter side resized (bicubic, antialiased), centre cropped, transparency on white."""


@dataclass(frozen=True, eq=False, kw_only=True)
class VoxelMask:
    """Where a subject's voxels lie.

    Parameters
    ----------
    inside : ndarray of bool, shape (X, Y, Z)
        The voxels of the betas are those that are True, in C order.
    affine : ndarray, shape (4, 4)
        Voxel index to mm.
    """

    inside: NDArray[np.bool_]
    affine: NDArray[np.float64]


@dataclass(frozen=True, eq=False, kw_only=True)
class BrainSubject:
    """One subject's responses.

    Parameters
    ----------
    name : str
        Label, 1 to 64 letters and digits: ``01``.
    betas : Betas
    trials : Trials
    mask : VoxelMask, optional
        None where the layout does not say where voxels are.
    rois : mapping of str to ndarray of bool, shape (V,)
        Named parts of the voxels.
    normalised : bool
        The data set says that its betas are z-scored already.
    ncsnr : ndarray of float32, shape (V,), optional
        Ratio of the standard deviations of signal and noise of each voxel, where the data set has it (NSD).
    files : tuple of Path
        What was read, for hashes.
    """

    name: str
    betas: Betas
    trials: Trials
    mask: VoxelMask | None = None
    rois: Mapping[str, NDArray[np.bool_]] = field(default_factory=dict)
    normalised: bool = False
    ncsnr: NDArray[np.float32] | None = None
    files: tuple[Path, ...] = ()

    @property
    def n_voxels(self) -> int:
        """How many voxels a trial has."""
        return self.betas.shape[1]


@dataclass(frozen=True, eq=False, kw_only=True)
class DecodingSet:
    """A data set.

    Parameters
    ----------
    layout : str
        ``nsd``, ``mindeye``, ``mindeye2``, ``bids-betas``, ``fmriprep`` or ``plain``.
    root : Path
    subjects : tuple of BrainSubject
        In the order of their names.
    stimuli : Stimuli, optional
        None where nobody kept the images: betas can then be decoded, not scored.
    captions : mapping of int to tuple of str
        Image -> captions.
    notes : tuple of str
        What a reader decided, for reports.
    """

    layout: str
    root: Path
    subjects: tuple[BrainSubject, ...]
    stimuli: Stimuli | None
    captions: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def subject(self, name: str) -> BrainSubject:
        """Return a subject by its label (``KeyError`` where there is none)."""
        return {subject.name: subject for subject in self.subjects}[name]
