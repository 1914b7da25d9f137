"""What the interactive viewer shows: two small volumes that travel inside the page.

A report is opened by ``file://``, where a page may not fetch anything: the volumes are cropped, scaled to eight bits,
compressed and written into the page as base64.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import numpy as np
from isal import igzip
from numpy.typing import NDArray

from .figures import display_window, foreground_box, to_grey

VIEWER_BYTES = 8_000_000
"""Most base64 characters that the two volumes of one patient may take."""

ASSET_NAME = "niivue.min.js"
LICENCE_NAME = "niivue.LICENSE.txt"
_COARSEST = 8


@dataclass(frozen=True)
class ViewerVolumes:
    """Two gzipped NIfTI-1 images in base64, on one grid.

    Parameters
    ----------
    background, labels : str
        `labels` is empty where there are none.
    coarsening : int
        1: every voxel; n: one of n along each axis, to stay within the limit.
    start : tuple of float
        Where the cross starts: amid the labels, as parts of each axis, 0 to 1.
    """

    background: str
    labels: str
    coarsening: int
    start: tuple[float, float, float] = (0.5, 0.5, 0.5)

    @property
    def n_bytes(self) -> int:
        """Characters that both take in the page."""
        return len(self.background) + len(self.labels)


def viewer_volumes(
    background: NDArray[Any],
    labels: NDArray[Any] | None,
    spacing_mm: tuple[float, float, float],
    *,
    limit_bytes: int = VIEWER_BYTES,
) -> ViewerVolumes | None:
    """Crop to the head, scale to eight bits and pack; None where even an eighth of the resolution is too much.

    Parameters
    ----------
    background, labels : ndarray, shape (X, Y, Z)
        Canonical orientation.
    spacing_mm : tuple of float
    limit_bytes : int
        Most base64 characters for both.
    """
    window = display_window(background)
    box = tuple(slice(start, stop) for start, stop in foreground_box(background, labels, window))
    grey = to_grey(background[box], window)
    marks = None if labels is None else np.ascontiguousarray(labels[box], dtype=np.uint8)
    start = _middle(marks)
    for step in range(1, _COARSEST + 1):
        packed_labels = "" if marks is None else _pack(_block_middle(marks, step), spacing_mm, step)
        volumes = ViewerVolumes(_pack(_block_mean(grey, step), spacing_mm, step), packed_labels, step, start)
        if volumes.n_bytes <= limit_bytes:
            return volumes
    return None


def viewer_script() -> bytes:
    """Return NiiVue as vendored (``vendor/niivue``)."""
    return (files(__package__) / "vendor" / "niivue" / ASSET_NAME).read_bytes()


def viewer_licence() -> bytes:
    """Return the licences of NiiVue and of what is bundled in it."""
    return (files(__package__) / "vendor" / "niivue" / "LICENSE").read_bytes()


def _middle(labels: NDArray[np.uint8] | None) -> tuple[float, float, float]:
    """Return the median place of the labelled voxels, as parts of each axis: a small lesion is in view at once."""
    if labels is None or not labels.any():
        return 0.5, 0.5, 0.5
    middle = []
    for axis, n in enumerate(labels.shape):
        below = np.cumsum(np.count_nonzero(labels, axis=tuple(a for a in range(3) if a != axis)))
        middle.append((int(np.searchsorted(below, below[-1] / 2)) + 0.5) / n)
    return middle[0], middle[1], middle[2]


def _block_mean(values: NDArray[np.uint8], step: int) -> NDArray[np.uint8]:
    """Average blocks of step x step x step voxels; blocks at the far ends may be cut short."""
    if step == 1:
        return values
    padded = np.pad(values, [(0, -n % step) for n in values.shape], mode="edge")
    x, y, z = (n // step for n in padded.shape)
    blocks = padded.reshape(x, step, y, step, z, step)
    return np.asarray(blocks.mean(axis=(1, 3, 5), dtype=np.float32) + 0.5).astype(np.uint8)


def _block_middle(labels: NDArray[np.uint8], step: int) -> NDArray[np.uint8]:
    """Take the label in the middle of each block of `_block_mean`: an average of labels means nothing."""
    return labels[np.ix_(*(np.minimum(np.arange(0, n, step) + step // 2, n - 1) for n in labels.shape))]


def _pack(values: NDArray[np.uint8], spacing_mm: tuple[float, float, float], step: int) -> str:
    import nibabel as nib

    spacing = np.array(spacing_mm, np.float64) * step
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = -spacing * (np.array(values.shape) - 1) / 2.0  # the crosshair starts in the middle
    image = nib.Nifti1Image(values, affine)
    image.header["cal_max"] = 255
    return base64.b64encode(igzip.compress(image.to_bytes(), 1, mtime=0)).decode("ascii")
