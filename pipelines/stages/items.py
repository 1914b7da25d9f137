"""What travels between the stages of the segmentation pipeline: one frozen item a step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from ...data.patients import Session
from ...data.volumes import Grid, Volume

if TYPE_CHECKING:
    from torch import Tensor

    from ...data.geometry import Canonical, Crop, Resampling

BoolArray = NDArray[np.bool_]
LabelArray = NDArray[np.unsignedinteger[Any]]
MaskSource = Literal["none", "input", "network", "skull-stripped"]


@dataclass(frozen=True, eq=False, kw_only=True)
class Case:
    """One session as read, all channels on one grid.

    Parameters
    ----------
    session : Session
    channels : mapping of str to Volume
        In the order of the network.
    mask : ndarray of bool, optional
        The brain on the channels' grid.
    mask_source : {'none', 'input', 'network', 'skull-stripped'}
        Where the mask comes from.
    target : Volume, optional
        Where `--prepare` moved the channels to a grid of its own: the recording that outputs lie on (unchanged).
        None: the channels' own grid.
    """

    session: Session
    channels: Mapping[str, Volume]
    mask: BoolArray | None = None
    mask_source: MaskSource = "none"
    target: Volume | None = None

    @property
    def first(self) -> Volume:
        """The first channel."""
        return next(iter(self.channels.values()))

    @property
    def grid(self) -> Grid:
        """The grid that all channels share."""
        return self.first.grid

    @property
    def output_grid(self) -> Grid:
        """The grid of every output: that of a file as it came in."""
        return (self.target or self.first).grid


@dataclass(frozen=True, eq=False, kw_only=True)
class Space:
    """How the model's space lies in the output grid: everything that is needed to go back exactly.

    Parameters
    ----------
    grid : Grid
        Of the output, that is, of a file as it came in.
    canonical : Canonical
        Axis flips and permutation to RAS+.
    resampling : Resampling
        From the canonical spacing to the model's; may be the identity.
    crop : Crop
        The box of the network's input within the resampling's target.
    """

    grid: Grid
    canonical: Canonical
    resampling: Resampling
    crop: Crop


@dataclass(frozen=True, eq=False, kw_only=True)
class Prepared:
    """The network's input.

    Parameters
    ----------
    image : Tensor, shape (C, X, Y, Z), float32
        Canonical, resampled, cropped, normalised.
    case : Case
        With its first channel only: the others are no longer needed.
    """

    image: Tensor
    case: Case
    space: Space


@dataclass(frozen=True, eq=False, kw_only=True)
class Logits:
    """The network's answer in the model's space.

    Parameters
    ----------
    values : Tensor, shape (K, X, Y, Z), float32
        Blended over the windows, on the shape of `Prepared.image`.
    """

    values: Tensor
    case: Case
    space: Space


@dataclass(frozen=True, eq=False, kw_only=True)
class Labelled:
    """Labels on the native grid.

    Parameters
    ----------
    labels : ndarray of unsigned integers, shape of the output grid
    mask : ndarray of bool, optional
        The brain on the output grid.
    probabilities : mapping of str to ndarray of uint8
        Name of the label or region -> probability x 255, where asked for.
    """

    labels: LabelArray
    case: Case
    mask: BoolArray | None = None
    probabilities: Mapping[str, NDArray[np.uint8]] = field(default_factory=dict)


@dataclass(frozen=True, eq=False, kw_only=True)
class LabelMeasure:
    """One label or region in numbers.

    Parameters
    ----------
    name : str
    values : tuple of int
        Values in the label map that it consists of: several for a nested region, none for the brain mask.
    exclusive : bool
        Whether it is one label of the map, rather than a region.
    n_voxels : int
    volume_ml : float
    centre_mm : tuple of float, optional
        Centre of mass in the input's world space, RAS+; None where it is empty.
    """

    name: str
    values: tuple[int, ...]
    exclusive: bool
    n_voxels: int
    volume_ml: float
    centre_mm: tuple[float, float, float] | None


@dataclass(frozen=True, eq=False, kw_only=True)
class Measured:
    """Labels with their volumes and the values for ``participants.tsv``."""

    labelled: Labelled
    measures: tuple[LabelMeasure, ...]
    row: Mapping[str, float | str]


@dataclass(frozen=True, eq=False, kw_only=True)
class Written:
    """What was written.

    Parameters
    ----------
    outputs : mapping of str to str
        File relative to OUT -> sha256.
    row : mapping
        For ``participants.tsv``.
    """

    measured: Measured
    outputs: Mapping[str, str]
    row: Mapping[str, float | str]
