"""Scores of pixels: PixCorr and SSIM as the reconstruction papers compute them.

Both are taken at 425 pixels (Ozcelik and VanRullen 2023; Scotti et al. 2023). SSIM: Wang et al., IEEE TIP 2004, on grey images.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate

from .identification import correlations

BASE_SIZE = 256
"""Side to which all images are brought first."""
PIXEL_SIZE = 425
"""Side at which PixCorr and SSIM are taken."""
GREY = (0.2125, 0.7154, 0.0721)
"""Weights of red, green and blue (scikit-image's ``rgb2gray``)."""
SIGMA, RADIUS = 1.5, 5
"""Of the Gaussian window: truncated at 3.5 sigma, 11 x 11 pixels."""
K1, K2 = 0.01, 0.03
PIXEL_METRICS = ("PixCorr", "SSIM")
BLOCK = 16
"""Most images that are compared at a time; permuted pairs stay inside a block."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Pairing:
    """Which true image each reconstruction is compared with.

    Parameters
    ----------
    blocks : tuple of ndarray of int64
        Every image is in one block.
    partners : tuple of ndarray of int64, shape (n,)
        Reconstruction j is taken for image partners[k][j], of its own block. The first leaves all pairs as they are.
    """

    blocks: tuple[NDArray[np.int64], ...]
    partners: tuple[NDArray[np.int64], ...]


def permuted_pairs(n: int, count: int, seed: int = 0) -> Pairing:
    """Draw permutations of n pairs that leave no pair as it is (none where n < 2).

    Each is a random cycle (Sattolo 1986) through every block of randomly chosen images, so that the pixels that meet are in memory
    together and resized and filtered once.
    """
    rng = np.random.default_rng(seed)
    blocks = np.array_split(rng.permutation(n), max(1, -(-n // BLOCK)))
    partners = [np.arange(n)]
    for _ in range(count if n > 1 else 0):
        partner = np.arange(n)
        for block in blocks:
            cycle = block.copy()
            for i in range(len(cycle) - 1, 0, -1):
                j = int(rng.integers(i))
                cycle[i], cycle[j] = cycle[j], cycle[i]
            partner[block] = cycle
        partners.append(partner)
    return Pairing(blocks=tuple(blocks), partners=tuple(partners))


def as_images(pixels: NDArray[np.uint8] | Tensor) -> Tensor:
    """Turn uint8 (n, S, S, 3) into float32 (n, 3, S, S) from 0 to 1.

    Raises
    ------
    ValueError
        For another type or shape.
    """
    values = pixels if isinstance(pixels, Tensor) else torch.from_numpy(np.ascontiguousarray(pixels))
    if values.dtype != torch.uint8 or values.ndim != 4 or values.shape[3] != 3 or values.shape[1] != values.shape[2]:
        raise ValueError(f"images must be uint8 (n, S, S, 3), not {values.dtype} {tuple(values.shape)}")
    return values.permute(0, 3, 1, 2).float() / 255


def resized(images: Tensor, size: int, *, antialias: bool = True) -> Tensor:
    """Resize (n, c, S, S) to a square of `size`, bilinear, pixel centres at halves.

    Parameters
    ----------
    images : Tensor, float
    size : int
    antialias : bool
        Matters where images get smaller only. torchvision blurs tensors by default since 0.17 (MindEye2's environment), and did not
        before (MindEye's, 0.14).
    """
    if tuple(images.shape[2:]) == (size, size):
        return images
    smaller = size < max(images.shape[2:])  # the blurring filter is the plain one, only slower, where images get larger
    return interpolate(images, size=(size, size), mode="bilinear", align_corners=False, antialias=antialias and smaller)


def pixel_correlation(true: Tensor, reconstructed: Tensor, *, size: int = PIXEL_SIZE, antialias: bool = True) -> Tensor:
    """PixCorr of each pair: Pearson's correlation over all pixels and channels.

    Parameters
    ----------
    true, reconstructed : Tensor, shape (n, 3, S, S)
        From 0 to 1.
    size : int
    antialias : bool

    Returns
    -------
    Tensor, shape (n,), float64
        0 where one of the two is a constant.
    """
    found = permuted_pixel_scores(
        true, reconstructed, permuted_pairs(len(true), 0), size=size, antialias=antialias, metrics=("PixCorr",)
    )
    return found["PixCorr"][0]


def structural_similarity(
    true: Tensor, reconstructed: Tensor, *, size: int = PIXEL_SIZE, antialias: bool = True
) -> Tensor:
    """SSIM of each pair of grey images: Gaussian window, population covariance, data range 1, borders left out.

    Parameters
    ----------
    true, reconstructed : Tensor, shape (n, 3, S, S)
        From 0 to 1.
    size : int
        At least 11.
    antialias : bool

    Returns
    -------
    Tensor, shape (n,), float64
    """
    found = permuted_pixel_scores(
        true, reconstructed, permuted_pairs(len(true), 0), size=size, antialias=antialias, metrics=("SSIM",)
    )
    return found["SSIM"][0]


def permuted_pixel_scores(
    true: Tensor,
    reconstructed: Tensor,
    pairing: Pairing,
    *,
    size: int = PIXEL_SIZE,
    antialias: bool = True,
    metrics: tuple[str, ...] = PIXEL_METRICS,
) -> dict[str, Tensor]:
    """Score pairs, and the same images under other pairings, for chance.

    Images are resized and filtered once for all pairings, a block at a time.

    Parameters
    ----------
    true, reconstructed : Tensor, shape (n, 3, S, S)
    pairing : Pairing
    size : int
    antialias : bool
    metrics : tuple of str

    Returns
    -------
    dict of str to Tensor, shape (len(pairing.partners), n), float64
    """
    if true.shape[:2] != reconstructed.shape[:2]:
        raise ValueError(f"pairs are needed, got {tuple(true.shape)} and {tuple(reconstructed.shape)}")
    found = {name: torch.empty(len(pairing.partners), len(true), dtype=torch.float64) for name in metrics}
    place = np.empty(len(true), dtype=np.int64)
    for block in pairing.blocks:
        place[block] = np.arange(len(block))
        partners = [torch.from_numpy(place[partner[block]]) for partner in pairing.partners]
        for name in metrics:
            score = _correlations if name == "PixCorr" else _similarities
            first, second = (
                resized(images[block] if name == "PixCorr" else _grey(images[block]), size, antialias=antialias)
                for images in (true, reconstructed)
            )
            found[name][:, block] = score(first, second, partners).cpu()
    return found


def _correlations(true: Tensor, made: Tensor, partners: list[Tensor]) -> Tensor:
    table = torch.from_numpy(correlations(true.flatten(1), made.flatten(1)))
    return torch.stack([table[partner, torch.arange(len(table))] for partner in partners])


def _grey(images: Tensor) -> Tensor:
    return torch.einsum("nchw,c->nhw", images, torch.tensor(GREY, device=images.device))[:, None]


def _similarities(true: Tensor, made: Tensor, partners: list[Tensor]) -> Tensor:
    """SSIM of blocks (n, 1, S, S): local means and variances once, the local covariance for each pairing."""
    # Variances do not know a shift, and around 0 fewer digits cancel.
    true, made = true[:, 0] - 0.5, made[:, 0] - 0.5
    band = _band(true)
    a, b, aa, bb = (band @ planes @ band.T for planes in (true, made, true.square(), made.square()))
    variance_a, variance_b = aa - a.square(), bb - b.square()
    c1, c2 = K1**2, K2**2
    found = []
    for partner in partners:
        mean = a[partner]
        covariance = band @ (true[partner] * made) @ band.T - mean * b
        first, second = mean + 0.5, b + 0.5
        luminance = (2 * first * second + c1) / (first.square() + second.square() + c1)
        structure = (2 * covariance + c2) / (variance_a[partner] + variance_b + c2)
        found.append((luminance * structure).double().mean((1, 2)))
    return torch.stack(found)


def _band(like: Tensor) -> Tensor:
    """Build the Gaussian window as a banded matrix (S - 10, S): only positions whose window lies inside the image count.

    Two products with it are several times as fast as convolutions of single planes.
    """
    size = like.shape[-1]
    offsets = torch.arange(-RADIUS, RADIUS + 1, dtype=torch.float64)
    window = torch.exp(-offsets.square() / (2 * SIGMA**2))
    band = torch.zeros(size - 2 * RADIUS, size, dtype=torch.float64)
    for row in range(len(band)):
        band[row, row : row + len(window)] = window / window.sum()
    return band.to(like)
