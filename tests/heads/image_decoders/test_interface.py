"""Noise that belongs to a picture, bytes, starts, and what no decoder can mean."""

import pytest
import torch

from chiasm.heads.image_decoders.interface import check_request, fitted_start, image_noise, to_pixels


def test_noise_depends_on_seed_number_and_purpose_only() -> None:
    noise = image_noise((4, 8, 8), seed=3, indices=[5, 9, 5])
    assert torch.equal(noise[0], noise[2])
    assert torch.equal(noise[1:2], image_noise((4, 8, 8), seed=3, indices=[9]))
    rows = [
        noise[0], noise[1], image_noise((4, 8, 8), seed=4, indices=[5])[0],
        image_noise((4, 8, 8), seed=3, indices=[5], purpose="posterior")[0],
        image_noise((4, 8, 8), seed=5, indices=[3])[0],
    ]  # fmt: skip
    correlations = torch.corrcoef(torch.stack([row.flatten() for row in rows])) - torch.eye(5)
    assert correlations.abs().max() < 0.25
    assert image_noise((2,), seed=0, indices=[]).shape == (0, 2)


def test_noise_does_not_touch_the_global_generator() -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    image_noise((4,), seed=1, indices=[1])
    assert torch.equal(torch.rand(3), expected)


def test_noise_is_normal() -> None:
    noise = image_noise((100,), seed=0, indices=range(500))
    assert abs(noise.mean()) < 0.02
    assert abs(noise.std() - 1) < 0.02


def test_bytes_are_rounded_and_cut() -> None:
    images = torch.tensor([-1.0, 0.0, 0.4 / 255, 0.6 / 255, 1.0, 2.0]).view(1, 1, 1, 6).expand(1, 3, 1, 6)
    assert to_pixels(images)[0, 0, :, 1].tolist() == [0, 0, 0, 1, 255, 255]


def test_starts_are_resized_and_stay_in_range() -> None:
    start = torch.zeros(1, 3, 4, 4)
    start[..., 2:] = 1
    fitted = fitted_start(start, 16)
    assert fitted.shape == (1, 3, 16, 16)
    assert (fitted.min(), fitted.max()) == (0, 1)  # bicubic would overshoot
    assert torch.equal(fitted_start(start, 4), start)


def test_every_mistake_is_named_at_once() -> None:
    with pytest.raises(ValueError, match=r"tokens must be .* 2 pictures and 1 indices; start must .* start_strength"):
        check_request(torch.zeros(2, 3, 4), (3, 5), start=torch.zeros(1, 3, 8, 8), start_strength=-0.1, indices=[0])
    check_request(torch.zeros(2, 3, 5), (3, 5), start=None, start_strength=0.5, indices=[0, 1])
