"""How much of a voxel's answer comes back when an image is shown again: noise ceiling and split-half correlation.

Source: Allen et al., Nature Neuroscience 2022, Methods, "Noise ceiling estimation".
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from .betas import Betas
from .scaling import VoxelScaler
from .trials import ImageTrials, Trials, by_image

CODES: dict[str, str] = {"CHI-IN-278": "Too few images were shown more than once to estimate a noise ceiling."}
_CHUNK_BYTES = 64 << 20
_Sums = NDArray[np.float64]


@dataclass(frozen=True, eq=False, kw_only=True)
class Reliability:
    """Variances of single trials, split into signal and noise, and the correlation between halves of the repeats.

    Parameters
    ----------
    signal, noise : ndarray of float64, shape (V,)
        Variance between images (not negative), and of repeats of one image.
    split_half : ndarray of float64, shape (V,)
        Correlation over images of the means of even and odd repeats; 0 for a voxel without variance.
    n_images, n_trials : int
        Images with two repeats or more, and all trials.
    """

    signal: NDArray[np.float64]
    noise: NDArray[np.float64]
    split_half: NDArray[np.float64]
    n_images: int
    n_trials: int

    @property
    def ncsnr(self) -> NDArray[np.float64]:
        """Ratio of the standard deviations of signal and noise; 0 without signal, infinite without noise."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(self.signal > 0, np.sqrt(self.signal / self.noise), 0.0)

    def noise_ceiling(self, n_repeats: int | NDArray[np.int64] = 1) -> NDArray[np.float64]:
        """Return the percentage of variance that a perfect model explains, (V,).

        Parameters
        ----------
        n_repeats : int or ndarray of int
            How many repeats are averaged; of each image, where that differs.
        """
        noise = self.noise * np.mean(1.0 / np.asarray(n_repeats, dtype=np.float64))
        total = self.signal + noise
        return 100.0 * np.divide(self.signal, total, out=np.zeros_like(total), where=total > 0)


def estimate_reliability(betas: Betas, trials: Trials, *, scaler: VoxelScaler | None = None) -> Reliability:
    """Estimate from repeats, in chunks of 64 MiB.

    Parameters
    ----------
    betas : Betas
    trials : Trials
        Those that count: of one side of the split, or all.
    scaler : VoxelScaler, optional
        Applied first. Without scaling by session, drift between sessions counts as noise.

    Raises
    ------
    InputError
        ``CHI-IN-278``; what reading the betas raises.
    """
    images = by_image(trials)
    n_images = int((images.n_repeats > 1).sum())
    if n_images < 3:
        raise InputError(
            "CHI-IN-278",
            f"{n_images} of {len(images)} images were shown more than once, and three or more are needed.",
            "Without repeats, leave the noise ceiling out.",
        )
    n_voxels = betas.shape[1]
    pivot = _read(betas, images, np.zeros(1, np.int64), scaler)[0, 0]
    total, squares, within = np.zeros((3, n_voxels))
    halves = _Correlation(n_voxels)
    for chosen in _blocks(images, n_voxels):
        values = _read(betas, images, chosen, scaler)
        values -= pivot  # near zero: sums of squares keep their digits
        n = values.shape[1]
        sums, block = values.sum(axis=1), np.einsum("inv,inv->v", values, values)
        total, squares = total + sums.sum(axis=0), squares + block
        within += block - np.einsum("iv,iv->v", sums, sums) / n
        if n > 1:
            even = values[:, ::2].sum(axis=1)
            halves.add(even / ((n + 1) // 2), (sums - even) / (n // 2))
    noise = np.maximum(within, 0.0) / int((images.n_repeats - 1).sum())
    variance = np.maximum(squares - total**2 / len(trials), 0.0) / (len(trials) - 1)
    return Reliability(
        signal=np.maximum(variance - noise, 0.0),
        noise=noise,
        split_half=halves.value(),
        n_images=n_images,
        n_trials=len(trials),
    )


def noise_ceiling(
    betas: Betas, trials: Trials, *, n: int = 1, scaler: VoxelScaler | None = None
) -> NDArray[np.float64]:
    """Return the percentage of variance of means of `n` repeats that a perfect model explains, (V,); see `estimate_reliability`.

    Raises
    ------
    InputError
        ``CHI-IN-278``; what reading the betas raises.
    """
    return estimate_reliability(betas, trials, scaler=scaler).noise_ceiling(n)


class _Correlation:
    """Sums from which a correlation over images follows, voxel by voxel."""

    def __init__(self, n_voxels: int) -> None:
        self.n = 0
        self.sums = np.zeros((5, n_voxels))

    def add(self, a: _Sums, b: _Sums) -> None:
        self.n += len(a)
        products = [np.einsum("iv,iv->v", *pair) for pair in ((a, a), (b, b), (a, b))]
        self.sums += [a.sum(axis=0), b.sum(axis=0), *products]

    def value(self) -> _Sums:
        a, b, aa, bb, ab = self.sums / self.n
        scale = np.sqrt(np.maximum(aa - a * a, 0.0) * np.maximum(bb - b * b, 0.0))
        correlation: _Sums = np.divide(ab - a * b, scale, out=np.zeros_like(scale), where=scale > 0)
        return correlation.clip(-1.0, 1.0)


def _blocks(images: ImageTrials, n_voxels: int) -> Iterator[NDArray[np.int64]]:
    """Yield places of images that were shown equally often."""
    for n in np.unique(images.n_repeats):
        places = np.flatnonzero(images.n_repeats == n)
        most = max(1, _CHUNK_BYTES // (8 * n_voxels * int(n)))
        for start in range(0, len(places), most):
            yield places[start : start + most]


def _read(betas: Betas, images: ImageTrials, chosen: NDArray[np.int64], scaler: VoxelScaler | None) -> _Sums:
    """Return the real trials of images that were shown n times each, (images, n, V)."""
    n = int(images.n_repeats[chosen[0]])
    rows = images.rows[chosen, :n]
    values = betas.read(rows.reshape(-1))
    if scaler is not None:
        values = scaler.apply(values, images.session[chosen, :n].reshape(-1))
    return values.reshape(*rows.shape, -1).astype(np.float64)
