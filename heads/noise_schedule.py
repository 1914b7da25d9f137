"""The noise schedule of a diffusion prior: how much of the clean tokens is left at every step.

Cosine: Nichol and Dhariwal 2021, equation 17; linear: Ho et al. 2020, stretched to the number of steps; the others and the
names of the buffers are those of dalle2-pytorch 1.14.2, so that a published state dict loads.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor, nn

ScheduleName = Literal["cosine", "linear", "quadratic", "sigmoid"]

_LARGEST_BETA = 0.999  # beyond it a short linear schedule would take more signal than there is


def schedule_betas(name: ScheduleName, timesteps: int) -> Tensor:
    """Return the variance that each step adds.

    Parameters
    ----------
    name : {"cosine", "linear", "quadratic", "sigmoid"}
    timesteps : int

    Returns
    -------
    Tensor of float64, shape (timesteps,)
        Clipped at 0.999; the published short linear schedules run over 1, where they are not usable.
    """
    if name not in get_args(ScheduleName):
        raise ValueError(f"the noise schedule must be one of {get_args(ScheduleName)}, got {name!r}")
    if timesteps < 1:
        raise ValueError(f"timesteps must be >= 1, got {timesteps}")
    first, last = 1e-4 * 1000 / timesteps, 0.02 * 1000 / timesteps
    if name == "cosine":
        grid = torch.linspace(0, timesteps, timesteps + 1, dtype=torch.float64)
        left = torch.cos((grid / timesteps + 0.008) / 1.008 * math.pi / 2) ** 2
        left = left / left[0]
        betas = 1 - left[1:] / left[:-1]
    elif name == "linear":
        betas = torch.linspace(first, last, timesteps, dtype=torch.float64)
    elif name == "quadratic":
        betas = torch.linspace(first**0.5, last**0.5, timesteps, dtype=torch.float64) ** 2
    else:
        betas = torch.linspace(-6, 6, timesteps, dtype=torch.float64).sigmoid() * (last - first) + first
    return betas.clamp(0, _LARGEST_BETA)


class NoiseSchedule(nn.Module):
    """Tables over the steps 0 (nearly clean) to T - 1 (nearly noise), computed in float64 and kept in float32.

    Parameters
    ----------
    name : {"cosine", "linear", "quadratic", "sigmoid"}
    timesteps : int
    """

    betas: Tensor
    alphas_cumprod: Tensor
    alphas_cumprod_prev: Tensor
    sqrt_alphas_cumprod: Tensor
    sqrt_one_minus_alphas_cumprod: Tensor
    sqrt_recip_alphas_cumprod: Tensor
    sqrt_recipm1_alphas_cumprod: Tensor
    posterior_log_variance_clipped: Tensor
    posterior_mean_coef1: Tensor
    posterior_mean_coef2: Tensor

    def __init__(self, name: ScheduleName = "cosine", timesteps: int = 100) -> None:
        super().__init__()
        self.timesteps = timesteps
        betas = schedule_betas(name, timesteps)
        left = torch.cumprod(1 - betas, 0)
        before = torch.cat((left.new_ones(1), left[:-1]))
        variance = betas * (1 - before) / (1 - left)
        tables = {
            "betas": betas,
            "alphas_cumprod": left,
            "alphas_cumprod_prev": before,
            "sqrt_alphas_cumprod": left.sqrt(),
            "sqrt_one_minus_alphas_cumprod": (1 - left).sqrt(),
            "log_one_minus_alphas_cumprod": (1 - left).log(),
            "sqrt_recip_alphas_cumprod": (1 / left).sqrt(),
            "sqrt_recipm1_alphas_cumprod": (1 / left - 1).sqrt(),
            "posterior_variance": variance,
            "posterior_log_variance_clipped": variance.clamp(min=1e-20).log(),
            "posterior_mean_coef1": betas * before.sqrt() / (1 - left),
            "posterior_mean_coef2": (1 - before) * (1 - betas).sqrt() / (1 - left),
            "p2_loss_weight": torch.ones_like(left),  # kept for the state dict: no published prior weights its steps
        }
        for key, table in tables.items():
            self.register_buffer(key, table.float())

    def _at(self, table: Tensor, times: Tensor, like: Tensor) -> Tensor:
        return table[times].view(-1, *[1] * (like.ndim - 1))

    def noised(self, clean: Tensor, times: Tensor, noise: Tensor) -> Tensor:
        """Tokens after ``times`` (B,) steps of noise: sqrt(abar) clean + sqrt(1 - abar) noise, (B, N, d)."""
        signal = self._at(self.sqrt_alphas_cumprod, times, clean)
        return signal * clean + self._at(self.sqrt_one_minus_alphas_cumprod, times, clean) * noise

    def velocity(self, clean: Tensor, times: Tensor, noise: Tensor) -> Tensor:
        """The v of Salimans and Ho 2022: sqrt(abar) noise - sqrt(1 - abar) clean, (B, N, d)."""
        signal = self._at(self.sqrt_alphas_cumprod, times, clean)
        return signal * noise - self._at(self.sqrt_one_minus_alphas_cumprod, times, clean) * clean

    def clean_from_velocity(self, noisy: Tensor, times: Tensor, velocity: Tensor) -> Tensor:
        """Clean tokens that noisy ones and a velocity imply, (B, N, d)."""
        signal = self._at(self.sqrt_alphas_cumprod, times, noisy)
        return signal * noisy - self._at(self.sqrt_one_minus_alphas_cumprod, times, noisy) * velocity

    def clean_from_noise(self, noisy: Tensor, times: Tensor, noise: Tensor) -> Tensor:
        """Clean tokens that noisy ones and their noise imply, (B, N, d)."""
        recip = self._at(self.sqrt_recip_alphas_cumprod, times, noisy)
        return recip * noisy - self._at(self.sqrt_recipm1_alphas_cumprod, times, noisy) * noise

    def noise_from_clean(self, noisy: Tensor, times: Tensor, clean: Tensor) -> Tensor:
        """Noise that noisy and clean tokens imply, (B, N, d)."""
        recip = self._at(self.sqrt_recip_alphas_cumprod, times, noisy)
        return (recip * noisy - clean) / self._at(self.sqrt_recipm1_alphas_cumprod, times, noisy)

    def posterior(self, clean: Tensor, noisy: Tensor, times: Tensor) -> tuple[Tensor, Tensor]:
        """Mean (B, N, d) and log variance (B, 1, 1) of the tokens one step earlier, given clean and noisy ones."""
        mean = self._at(self.posterior_mean_coef1, times, noisy) * clean
        mean = mean + self._at(self.posterior_mean_coef2, times, noisy) * noisy
        return mean, self._at(self.posterior_log_variance_clipped, times, noisy)
