"""The trials of one subject as columns: which image was shown when, and on which side of the split it is."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

SPLITS = ("train", "val", "test")
"""Names of the values of `Trials.split`."""
TRAIN, VALIDATION, TEST = range(3)


@dataclass(frozen=True, eq=False, kw_only=True)
class Trials:
    """Trials of one subject, in the order of acquisition.

    Parameters
    ----------
    row : ndarray of int64, shape (n,)
        Which row of the subject's betas is the trial's.
    image : ndarray of int64, shape (n,)
        Number of the stimulus, from 0, in the data set's `Stimuli` (NSD's own tables count from 1; readers shift them).
    session : ndarray of int64, shape (n,)
        From 1.
    repeat : ndarray of int64, shape (n,)
        How often this subject had seen the image before: 0, 1, 2.
    split : ndarray of int8, shape (n,)
        Index into `SPLITS`.
    """

    row: NDArray[np.int64]
    image: NDArray[np.int64]
    session: NDArray[np.int64]
    repeat: NDArray[np.int64]
    split: NDArray[np.int8]

    def __post_init__(self) -> None:
        lengths = {field.name: getattr(self, field.name).shape for field in fields(self)}
        if len(set(lengths.values())) != 1 or self.row.ndim != 1:
            raise ValueError(f"columns of one length are needed, got {lengths}")

    def __len__(self) -> int:
        return len(self.row)

    def where(self, keep: NDArray[np.bool_] | NDArray[np.int64]) -> Trials:
        """Return the chosen trials (a mask or indices)."""
        return Trials(**{field.name: getattr(self, field.name)[keep] for field in fields(self)})

    def of(self, *splits: str) -> Trials:
        """Return the trials of one or more sides of the split, by name."""
        return self.where(np.isin(self.split, [SPLITS.index(name) for name in splits]))


@dataclass(frozen=True, eq=False, kw_only=True)
class ImageTrials:
    """Trials grouped by image: the unit of a decoder, since repeats of one image must stay together.

    Parameters
    ----------
    image : ndarray of int64, shape (m,)
        Ascending.
    rows : ndarray of int64, shape (m, r)
        Rows of the betas; missing repeats are padded with the ones that are there, in turn.
    n_repeats : ndarray of int64, shape (m,)
        How many are real.
    session : ndarray of int64, shape (m, r)
        Of each row.
    """

    image: NDArray[np.int64]
    rows: NDArray[np.int64]
    n_repeats: NDArray[np.int64]
    session: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.image)


def by_image(trials: Trials) -> ImageTrials:
    """Group trials by image, repeats in the order in which they were shown."""
    order = np.lexsort((trials.row, trials.repeat, trials.image))
    image, starts, counts = np.unique(trials.image[order], return_index=True, return_counts=True)
    most = int(counts.max(initial=1))
    turn = np.arange(most)[None, :] % counts[:, None]
    chosen = order[starts[:, None] + turn] if len(image) else np.zeros((0, most), dtype=np.int64)
    return ImageTrials(
        image=image, rows=trials.row[chosen], n_repeats=counts.astype(np.int64), session=trials.session[chosen]
    )
