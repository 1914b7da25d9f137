"""Samplers held against a mixture whose exact denoiser is known; noise that belongs to an image."""

from __future__ import annotations

import math

import pytest
import torch

from chiasm.heads.noise_schedule import NoiseSchedule
from chiasm.heads.prior_samplers import (
    ItemNoise,
    batch_noise,
    noise_for,
    published_times,
    sample_ddim,
    sample_ddpm,
    sample_dpm_solver,
    visited_times,
)

SCHEDULE = NoiseSchedule("cosine", 100)
SPREAD, WIDTH, N_DRAWN = 0.15, 16, 1500
CENTRES = torch.eye(4, WIDTH) * math.sqrt(WIDTH)
SHARES = torch.tensor([0.1, 0.2, 0.3, 0.4])


class Mixture:
    """The exact posterior mean of four narrow Gaussians; counts its calls."""

    def __init__(self) -> None:
        self.times: list[int] = []

    def __call__(self, x: torch.Tensor, time: int) -> torch.Tensor:
        self.times.append(time)
        left = SCHEDULE.alphas_cumprod[time].item()
        variance = left * SPREAD**2 + 1 - left
        offset = x - math.sqrt(left) * CENTRES
        weights = (SHARES.log() - offset.square().sum(-1) / (2 * variance)).softmax(-1)
        means = CENTRES + math.sqrt(left) * SPREAD**2 / variance * offset
        return (weights[..., None] * means).sum(1, keepdim=True)


def _spread_and_shares(samples: torch.Tensor) -> tuple[float, float]:
    nearest = (samples - CENTRES).square().sum(-1).argmin(1)
    found = torch.bincount(nearest, minlength=4) / N_DRAWN
    return (samples[:, 0] - CENTRES[nearest]).std().item(), (found - SHARES).abs().sum().item() / 2


def _sample(name: str, **settings: object) -> tuple[torch.Tensor, Mixture]:
    draw = batch_noise(torch.Generator().manual_seed(2), torch.empty(N_DRAWN, 1, WIDTH))
    denoise = Mixture()
    if name == "ddpm":
        return sample_ddpm(denoise, SCHEDULE, draw(), draw), denoise
    if name == "ddim":
        return sample_ddim(denoise, SCHEDULE, draw(), draw, **settings), denoise
    return sample_dpm_solver(denoise, SCHEDULE, draw(), draw, **settings), denoise


@pytest.mark.parametrize(
    ("name", "settings", "calls", "low", "high"),
    [
        ("ddpm", {}, 100, 0.125, 0.15),
        ("ddim", {"steps": 20}, 20, 0.13, 0.15),
        ("ddim", {"steps": 20, "eta": 1.0}, 20, 0.11, 0.15),
        ("dpm", {"steps": 20}, 20, 0.143, 0.157),
        ("dpm", {"steps": 10}, 10, 0.135, 0.165),
        ("dpm", {"steps": 20, "eta": 1.0}, 20, 0.143, 0.16),
    ],
)
def test_samples_have_the_modes_and_the_spread_of_the_data(
    name: str, settings: dict[str, object], calls: int, low: float, high: float
) -> None:
    samples, denoise = _sample(name, **settings)
    spread, wrong_share = _spread_and_shares(samples)
    assert len(denoise.times) == calls
    assert wrong_share < 0.05
    assert low < spread < high


def test_dpm_solver_is_closer_to_the_finest_solution_than_ddim_at_equal_work() -> None:
    finest, _ = _sample("dpm", steps=100)
    errors = {name: (_sample(name, steps=20)[0] - finest).abs().mean().item() for name in ("ddim", "dpm")}
    assert errors["dpm"] < 0.5 * errors["ddim"]


@pytest.mark.parametrize("published", [False, True])
def test_only_the_public_steps_believe_tokens_cleaner_than_they_are(published: bool) -> None:
    clean, noise = torch.randn(2, 3, 2, 4, generator=torch.Generator().manual_seed(0))
    worst = 0.0

    def oracle(x: torch.Tensor, time: int) -> torch.Tensor:
        nonlocal worst
        expected = SCHEDULE.noised(clean, torch.full((3,), time), noise)
        worst = max(worst, (x - expected).abs().max().item())
        return clean

    first = (published_times if published else visited_times)(100, 20)[0]
    start = SCHEDULE.noised(clean, torch.full((3,), first), noise)
    out = sample_ddim(oracle, SCHEDULE, start, lambda: noise, steps=20, eta=0.0, published=published)
    assert torch.equal(out, clean)
    assert (worst > 0.01) == published  # told the truth, right steps stay on the line between clean tokens and noise


def test_grids() -> None:
    published = published_times(100, 20)
    assert (published[:2], published[-2:], len(published)) == ([94, 89], [4, -1], 20)  # 94, 89, ... 4: 19 calls
    for steps in (2, 7, 20, 85, 99, 100):
        times = visited_times(100, steps)
        assert len(set(times)) == steps
        assert (times[0], times[-1]) == (99, 0)
        assert times == sorted(times, reverse=True)
    assert visited_times(100, 100) == list(range(99, -1, -1))
    assert visited_times(100, 1) == [99]
    with pytest.raises(ValueError, match=r"1\.\.100"):
        visited_times(100, 101)


def test_an_image_has_the_same_noise_in_every_batch_and_every_draw_is_new() -> None:
    shape = (3, 8)
    alone = noise_for([7], seed=5).stream(shape, torch.device("cpu"), torch.float32)
    among = noise_for([2, 7, 9], seed=5).stream(shape, torch.device("cpu"), torch.float32)
    first, second = alone(), alone()
    assert torch.equal(first[0], among()[1])
    assert torch.equal(second[0], among()[1])
    assert not torch.equal(first, second)
    more = noise_for([2, 7], seed=5, n_samples=3)
    assert more.seeds[3] == noise_for([7], seed=5).seeds[0]  # row of image 7, sample 0
    assert len(set(more.seeds)) == 6
    assert not set(more.seeds) & set(noise_for([2, 7], seed=6, n_samples=3).seeds)


def test_noise_of_another_shape_or_too_few_draws_is_refused() -> None:
    like = torch.empty(2, 3, 4)
    with pytest.raises(ValueError, match="1 rows"):
        batch_noise(ItemNoise(seeds=(1,)), like)
    with pytest.raises(ValueError, match="given noise must be"):
        batch_noise(torch.zeros(5, 2, 3, 3), like)
    draw = batch_noise(torch.zeros(1, 2, 3, 4), like)
    draw()
    with pytest.raises(ValueError, match="more than the 1 draws"):
        draw()
