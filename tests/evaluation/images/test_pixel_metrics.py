"""PixCorr and SSIM against definitions written out, and against scikit-image and torchvision where they are installed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from chiasm.pipelines.evaluation.images.pixel_metrics import (
    BLOCK,
    GREY,
    as_images,
    permuted_pairs,
    permuted_pixel_scores,
    pixel_correlation,
    resized,
    structural_similarity,
)


def pictures(n: int = 5, size: int = 40, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Smooth pictures and noisy copies."""
    rng = np.random.default_rng(seed)
    smooth = gaussian_filter(rng.random((n, 3, size, size)), (0, 0, 3, 3))
    smooth = (smooth - smooth.min()) / (smooth.max() - smooth.min())
    noisy = np.clip(smooth + 0.1 * rng.standard_normal(smooth.shape), 0, 1)
    return torch.tensor(smooth, dtype=torch.float32), torch.tensor(noisy, dtype=torch.float32)


def test_pixel_correlation_is_pearsons_of_resized_images() -> None:
    a, b = pictures(20)
    expected = [np.corrcoef(*(resized(x[i : i + 1], 61).numpy().ravel() for x in (a, b)))[0, 1] for i in range(len(a))]
    assert pixel_correlation(a, b, size=61).numpy() == pytest.approx(np.array(expected), abs=1e-6)
    assert pixel_correlation(a, 0.5 - 0.3 * a, size=61).numpy() == pytest.approx(-1.0)


def test_a_constant_image_correlates_with_nothing() -> None:
    a, _ = pictures(2)
    grey = torch.full_like(a, 0.3)
    assert pixel_correlation(a, grey).tolist() == [0.0, 0.0]


def test_ssim_is_wangs_with_the_published_settings() -> None:
    """Borders of 5 pixels left out; the window truncated at 3.5 sigma; variances of the population."""
    a, b = pictures()
    found = structural_similarity(a, b, size=40).numpy()
    for i in range(len(a)):
        x, y = (np.tensordot(GREY, images[i].numpy().astype(float), 1) for images in (a, b))
        blur = lambda z: gaussian_filter(z, 1.5, truncate=3.5)  # noqa: E731
        mx, my = blur(x), blur(y)
        vx, vy, cov = blur(x * x) - mx**2, blur(y * y) - my**2, blur(x * y) - mx * my
        whole = (2 * mx * my + 1e-4) * (2 * cov + 9e-4) / ((mx**2 + my**2 + 1e-4) * (vx + vy + 9e-4))
        assert found[i] == pytest.approx(whole[5:-5, 5:-5].mean(), abs=1e-6)
    assert structural_similarity(a, a).numpy() == pytest.approx(1.0)


def test_permuted_pairs_score_like_pairs_that_were_permuted_before() -> None:
    a, b = pictures(2 * BLOCK + 5)
    pairing = permuted_pairs(len(a), 2, seed=3)
    found = permuted_pixel_scores(a, b, pairing, size=32)
    for k, partner in enumerate(pairing.partners):
        for name, score in (("PixCorr", pixel_correlation), ("SSIM", structural_similarity)):
            direct = score(a[torch.from_numpy(partner)], b, size=32)
            assert found[name][k].numpy() == pytest.approx(direct.numpy(), abs=1e-6)


def test_permuted_pairs_move_every_image() -> None:
    for n in (2, 3, BLOCK + 1, 50):
        own, *others = permuted_pairs(n, 20, seed=1).partners
        assert own.tolist() == list(range(n))
        for partner in others:
            assert sorted(partner) == list(range(n))
            assert not (partner == own).any()
    assert len(permuted_pairs(1, 4).partners) == 1
    first, second = permuted_pairs(50, 2).partners[1:]
    assert not np.array_equal(first, second)
    assert max(abs(first - np.arange(50))) > BLOCK  # blocks are of images from anywhere


def test_downsizing_blurs_or_does_not() -> None:
    stripes = torch.zeros(1, 1, 8, 8)
    stripes[..., ::2] = 1
    assert resized(stripes, 4, antialias=True).std() < 0.2
    lines = torch.zeros(1, 1, 9, 9)
    lines[..., 1::3] = 1  # each third column, where every third pixel's centre lies
    assert resized(lines, 3, antialias=False).numpy() == pytest.approx(1.0)
    assert resized(lines, 3, antialias=True).max() < 0.6
    a, _ = pictures()
    assert torch.allclose(resized(a, 64, antialias=True), resized(a, 64, antialias=False), atol=1e-6)


def test_only_eight_bit_square_colours_are_images() -> None:
    assert as_images(np.full((1, 2, 2, 3), 255, np.uint8)).tolist() == torch.ones(1, 3, 2, 2).tolist()
    for wrong in (np.zeros((1, 2, 2, 3)), np.zeros((1, 2, 3, 3), np.uint8), np.zeros((1, 2, 2), np.uint8)):
        with pytest.raises(ValueError, match="must be uint8"):
            as_images(wrong)


@pytest.mark.parametrize("antialias", [True, False])
def test_agreement_with_skimage_and_torchvision(antialias: bool) -> None:
    transforms = pytest.importorskip("torchvision.transforms", exc_type=ImportError)
    color = pytest.importorskip("skimage.color")
    metrics = pytest.importorskip("skimage.metrics")
    a, b = pictures(3, 300)
    for size in (256, 425):
        a, b = (transforms.Resize((size, size), antialias=antialias)(x) for x in (a, b))
    x, y = (color.rgb2gray(images.permute(0, 2, 3, 1).numpy()) for images in (a, b))
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1.0}
    expected = [metrics.structural_similarity(p, q, **options) for p, q in zip(y, x, strict=True)]
    ours = [resized(images, 256, antialias=antialias) for images in pictures(3, 300)]
    assert structural_similarity(*ours, antialias=antialias).numpy() == pytest.approx(np.array(expected), abs=1e-6)
