"""Scores of pixels: PixCorr and SSIM as the reconstruction papers compute them.

Both are taken at 425 pixels (Ozcelik and VanRullen 2023; Scotti et al. 2023). SSIM: Wang et al., IEEE TIP 2004, on grey images.
"""

from __future__ import annotations

import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate

BASE_SIZE = 256
"""Side to which all images are brought first."""
PIXEL_SIZE = 425
"""Side at which PixCorr and SSIM are taken."""
GREY = (0.2125, 0.7154, 0.0721)
"""Weights of red, green and blue (scikit-image's ``rgb2gray``)."""
SIGMA, RADIUS = 1.5, 5
"""Of the Gaussian window: truncated at 3.5 sigma, 11 x 11 pixels."""
K1, K2 = 0.01, 0.03


def as_images(pixels: NDArray | Tensor) -> Tensor:
    """Turn uint8 (n, S, S, 3) into float32 (n, 3, S, S) from 0 to 1.

    Raises
    ------
    ValueError
        For another type or shape.
    """
    values = torch.as_tensor(pixels)
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
    return interpolate(images, size=(size, size), mode="bilinear", align_corners=False, antialias=antialias)


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
    return torch.cat(
        [
            row_correlation(*(resized(images, size, antialias=antialias).flatten(1) for images in pair))
            for pair in zip(true.split(16), reconstructed.split(16), strict=True)
        ]
    )


def row_correlation(a: Tensor, b: Tensor) -> Tensor:
    """Pearson's correlation of each row of `a` (n, f) with that of `b`, float64; 0 where one is a constant."""
    a, b = ((x := rows.double()) - x.mean(1, keepdim=True) for rows in (a, b))
    size = a.norm(dim=1) * b.norm(dim=1)
    # Rounding of the mean leaves a constant row with a length of its own: far below any image's.
    flat = (a.abs().amax(1) < 1e-9) | (b.abs().amax(1) < 1e-9)
    return torch.where(flat, 0.0, (a * b).sum(1) / size.clamp_min(1e-300))


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
    return torch.cat(
        [
            _grey_similarity(*(_grey(resized(images, size, antialias=antialias)) for images in pair))
            for pair in zip(true.split(16), reconstructed.split(16), strict=True)
        ]
    )


def _grey(images: Tensor) -> Tensor:
    return torch.einsum("nchw,c->nhw", images.double(), torch.tensor(GREY, dtype=torch.float64, device=images.device))


def _grey_similarity(a: Tensor, b: Tensor) -> Tensor:
    offsets = torch.arange(-RADIUS, RADIUS + 1, dtype=a.dtype, device=a.device)
    window = torch.exp(-offsets.square() / (2 * SIGMA**2))
    # Only positions whose window lies inside the image count, so that no rule for borders is needed. Two products with a banded matrix
    # are several times as fast as convolutions of single planes in float64.
    size = a.shape[-1]
    band = a.new_zeros(size - 2 * RADIUS, size)
    for row in range(len(band)):
        band[row, row : row + len(window)] = window / window.sum()
    planes = band @ torch.stack((a, b, a * a, b * b, a * b), dim=1) @ band.T
    mean_a, mean_b, aa, bb, ab = planes.unbind(1)
    c1, c2 = K1**2, K2**2
    luminance = (2 * mean_a * mean_b + c1) / (mean_a.square() + mean_b.square() + c1)
    structure = (2 * (ab - mean_a * mean_b) + c2) / (aa - mean_a.square() + bb - mean_b.square() + c2)
    return (luminance * structure).mean((1, 2))
