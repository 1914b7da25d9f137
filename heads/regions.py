"""Nested regions and the label maps that they are stored in: an explicit table, both ways.

Tumour networks have one sigmoid channel a region (TC, WT, ET: ET in TC in WT), while a data set stores one label a
voxel. The table says which labels make a region and which value a region writes. Two traps of the usual tools are
closed here: a label that the table does not know is an error (MONAI's BraTS transform drops label 3, the enhancing
tumour of BraTS 2023, without a word), and probabilities are cut here, by `RegionTable.masks` (MONAI's
``AsDiscrete(logit_thresh=...)`` accepts the argument and does nothing).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..data.errors import InputError, RecipeError

CODES: dict[str, str] = {
    "CHI-IN-125": "a label map holds a label that no region of the recipe knows",
    "CHI-IN-126": "the number of channels is not the number of regions",
    "CHI-RC-050": "the region table of a recipe contradicts itself",
}


class RegionLike(Protocol):
    """What a row of the table must have; a recipe's `RegionSpec` has it."""

    @property
    def name(self) -> str:
        """Name of the region."""

    @property
    def labels(self) -> tuple[int, ...]:
        """Labels that belong to it."""

    @property
    def write(self) -> int:
        """Value in the output's label map."""


@dataclass(frozen=True, kw_only=True)
class Region:
    """One row of the table.

    Parameters
    ----------
    name : str
    labels : tuple of int
        Labels of a reference label map that belong to the region.
    write : int
        Value that the region writes into an output label map.
    """

    name: str
    labels: tuple[int, ...]
    write: int


@dataclass(frozen=True)
class RegionTable:
    """Rows in the order of the network's channels.

    A region is written after every region that contains it, and otherwise in the order of the table; what is written
    later wins. For BraTS that gives the published precedence (WT, then TC, then ET) whatever the order of the
    channels.

    Parameters
    ----------
    regions : sequence of Region
        One a channel.

    Raises
    ------
    RecipeError
        CHI-RC-050: no region, a name, a label list or a written value that is there twice, a region without labels.
    """

    regions: tuple[RegionLike, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "regions", tuple(self.regions))
        wrong = [] if self.regions else ["there is no region"]
        for what in ("name", "write"):
            values = [getattr(region, what) for region in self.regions]
            wrong += [f"'{what}' {v} stands more than once" for v in sorted({v for v in values if values.count(v) > 1})]
        sets = [frozenset(region.labels) for region in self.regions]
        wrong += [
            f"region {r.name} has the labels of another" for i, r in enumerate(self.regions) if sets[i] in sets[:i]
        ]
        wrong += [f"region {r.name} has no label" for r in self.regions if not r.labels]
        wrong += [f"region {r.name} names label 0, the background" for r in self.regions if 0 in r.labels]
        if wrong:
            raise RecipeError("CHI-RC-050", "; ".join(wrong) + ".", "Correct `regions` in the recipe.")

    @property
    def names(self) -> tuple[str, ...]:
        """Names in the order of the channels."""
        return tuple(region.name for region in self.regions)

    @property
    def writing_order(self) -> tuple[int, ...]:
        """Channel indices in the order of writing."""
        left, order = list(range(len(self.regions))), list[int]()
        sets = [frozenset(region.labels) for region in self.regions]
        while left:
            first = next(i for i in left if not any(sets[i] < sets[j] for j in left))
            order.append(first)
            left.remove(first)
        return tuple(order)

    def channels(self, labels: NDArray[Any], *, file: str = "") -> NDArray[np.bool_]:
        """Split a label map into regions.

        Parameters
        ----------
        labels : ndarray of integers, shape (X, Y, Z)
        file : str
            Name for the message.

        Returns
        -------
        ndarray of bool, shape (R, X, Y, Z)

        Raises
        ------
        InputError
            CHI-IN-125 where a label other than 0 belongs to no region.
        """
        known = {0}.union(*(region.labels for region in self.regions))
        unknown = sorted({int(value) for value in np.unique(labels)} - known)
        if unknown:
            raise InputError(
                "CHI-IN-125",
                f"the label map holds {_words(unknown)}, which no region names (known: {_words(sorted(known))}).",
                "Add it to `regions` in the recipe: BraTS 2023 and later write 3 for enhancing tumour, 2021 writes 4.",
                file=file,
            )
        return np.stack([np.isin(labels, region.labels) for region in self.regions])

    def labels(self, masks: NDArray[np.bool_]) -> NDArray[np.uint8] | NDArray[np.uint16]:
        """Join regions into one label map; `masks` has shape (R, X, Y, Z).

        Raises
        ------
        InputError
            CHI-IN-126 where there is not one channel a region.
        """
        self._check_count(masks.shape[0])
        dtype = np.uint8 if max(region.write for region in self.regions) < 256 else np.uint16
        out: NDArray[Any] = np.zeros(masks.shape[1:], dtype=dtype)
        for channel in self.writing_order:
            out[masks[channel]] = self.regions[channel].write
        return out

    def written(self, labels: NDArray[Any]) -> NDArray[np.bool_]:
        """Split a label map that was written by this table into regions again, shape (R, X, Y, Z).

        What an inner region wrote is in the outer one too.
        """
        sets = [frozenset(region.labels) for region in self.regions]
        inner = [[o.write for o, own in zip(self.regions, sets, strict=True) if own <= outer] for outer in sets]
        return np.stack([np.isin(labels, values) for values in inner])

    def masks(self, logits: NDArray[np.floating], *, threshold: float = 0.5) -> NDArray[np.bool_]:
        """Cut each channel's sigmoid probability at `threshold` (strictly above counts).

        Parameters
        ----------
        logits : ndarray, shape (R, X, Y, Z)
            Before the sigmoid: it is monotonic, so the cut is made on the logits and no probability is computed.
        threshold : float
            In (0, 1).

        Raises
        ------
        InputError
            CHI-IN-126 where there is not one channel a region.
        """
        self._check_count(logits.shape[0])
        return np.asarray(logits > math.log(threshold / (1 - threshold)), dtype=bool)

    def _check_count(self, got: int) -> None:
        if got != len(self.regions):
            raise InputError(
                "CHI-IN-126",
                f"there are {got} channels for {len(self.regions)} regions ({', '.join(self.names)}).",
                "Use weights that were trained with the recipe's regions.",
            )


BRATS = RegionTable(
    (
        Region(name="TC", labels=(1, 3, 4), write=1),
        Region(name="WT", labels=(1, 2, 3, 4), write=2),
        Region(name="ET", labels=(3, 4), write=4),
    )
)
"""BraTS since 2017, in the channel order of the published Swin UNETR; enhancing tumour is 4, since 2023 3."""


def _words(values: Sequence[int]) -> str:
    return ", ".join(map(str, values))
