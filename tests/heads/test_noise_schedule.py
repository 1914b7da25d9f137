"""Noise schedules: the published curves, and algebra that must be its own inverse."""

from __future__ import annotations

import math

import pytest
import torch

from chiasm.heads.noise_schedule import NoiseSchedule, schedule_betas


def test_cosine_keeps_what_the_paper_says() -> None:
    schedule = NoiseSchedule("cosine", 100)

    def left(step: int) -> float:
        return math.cos((step / 100 + 0.008) / 1.008 * math.pi / 2) ** 2

    for step in (0, 1, 50, 97):
        assert schedule.alphas_cumprod[step].item() == pytest.approx(left(step + 1) / left(0), rel=1e-5)
    assert schedule.betas[99].item() == pytest.approx(0.999)  # 1 without the clip


def test_linear_quadratic_and_sigmoid_run_between_the_stretched_ends() -> None:
    first, last = 1e-4 * 10, 0.02 * 10  # 100 steps instead of 1000
    linear, quadratic, sigmoid = (schedule_betas(name, 100) for name in ("linear", "quadratic", "sigmoid"))
    for betas in (linear, quadratic):
        assert betas[[0, -1]].tolist() == pytest.approx([first, last])
    assert linear[33].item() == pytest.approx(first + (last - first) / 3)
    assert quadratic[33].item() == pytest.approx((first**0.5 + (last**0.5 - first**0.5) / 3) ** 2)
    assert sigmoid[0].item() == pytest.approx(first + (last - first) / (1 + math.exp(6)))


def test_short_linear_schedules_stay_usable() -> None:
    tables = NoiseSchedule("linear", 10).state_dict()  # the published formula asks for a beta of 2
    assert all(torch.isfinite(table).all() for table in tables.values())
    assert tables["betas"].max() <= 0.999


@pytest.mark.parametrize("name", ["cosine", "linear", "quadratic", "sigmoid"])
def test_clean_tokens_noise_and_velocity_imply_each_other(name: str) -> None:
    schedule = NoiseSchedule(name, 50)
    g = torch.Generator().manual_seed(0)
    clean, noise = torch.randn(2, 4, 3, 5, generator=g)
    times = torch.tensor([0, 9, 25, 40])
    noisy = schedule.noised(clean, times, noise)
    velocity = schedule.velocity(clean, times, noise)
    torch.testing.assert_close(schedule.clean_from_noise(noisy, times, noise), clean, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(schedule.clean_from_velocity(noisy, times, velocity), clean, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(schedule.noise_from_clean(noisy, times, clean), noise, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(
        velocity[0], schedule.alphas_cumprod[0].sqrt() * noise[0] - schedule.betas[0].sqrt() * clean[0]
    )


def test_the_posterior_is_bayes_rule() -> None:
    schedule = NoiseSchedule("cosine", 20)
    clean, noisy = torch.full((1, 1, 1), 0.7), torch.full((1, 1, 1), -0.4)
    mean, log_variance = schedule.posterior(clean, noisy, torch.tensor([8]))
    before, beta = schedule.alphas_cumprod[7].item(), schedule.betas[8].item()
    # prior N(sqrt(before) clean, 1 - before), likelihood noisy = sqrt(1 - beta) x + sqrt(beta) noise
    precision = 1 / (1 - before) + (1 - beta) / beta
    expected = (math.sqrt(before) * 0.7 / (1 - before) + math.sqrt(1 - beta) * -0.4 / beta) / precision
    assert mean.item() == pytest.approx(expected, rel=1e-5)
    assert log_variance.exp().item() == pytest.approx(1 / precision, rel=1e-5)


@pytest.mark.parametrize(("name", "timesteps", "word"), [("cubic", 10, "cubic"), ("cosine", 0, "timesteps")])
def test_unknown_schedules_are_refused(name: str, timesteps: int, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        NoiseSchedule(name, timesteps)
