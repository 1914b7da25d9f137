"""The part that all latent diffusion decoders share: noise or a start, guided steps, and the way through the auto-encoder."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .interface import fitted_start, image_noise

Predict = Callable[[Tensor, Tensor], Tensor]
"""Latents, without guidance twice (unconditional first), and a time -> the network's answer."""


@dataclass(frozen=True, kw_only=True)
class Noise:
    """Where the noise of a batch comes from.

    Parameters
    ----------
    seed : int
    indices : sequence of int
    """

    seed: int
    indices: Sequence[int]

    def draw(self, shape: tuple[int, ...], purpose: str, device: Any) -> Tensor:
        """Draw (B, *shape) for a purpose."""
        return image_noise(shape, seed=self.seed, indices=self.indices, purpose=purpose, device=device)


def start_latents(vae: Any, start: Tensor, size: int, noise: Noise) -> Tensor:
    """Encode start pictures (B, 3, s, s) from 0 to 1: a draw from the auto-encoder's posterior, scaled."""
    device = next(vae.parameters()).device
    posterior = vae.encode(fitted_start(start.to(device), size) * 2 - 1).latent_dist
    drawn = posterior.mean + posterior.std * noise.draw(tuple(posterior.mean.shape[1:]), "posterior", device)
    latents: Tensor = drawn * vae.config.scaling_factor
    return latents


def decoded(vae: Any, latents: Tensor) -> Tensor:
    """Decode scaled latents to images (B, 3, S, S), about -1 to 1."""
    images: Tensor = vae.decode(latents.to(next(vae.parameters()).dtype) / vae.config.scaling_factor).sample
    return images


def first_step(steps: int, strength: float) -> int:
    """Return how many steps are left out where `strength` of the schedule is run (img2img's rule)."""
    return steps - min(int(steps * strength), steps)


def run_schedule(
    scheduler: Any, predict: Predict, *, latents: Tensor, times: Tensor, guidance: float, dtype: torch.dtype
) -> Tensor:
    """Run a scheduler's steps with classifier-free guidance (Ho & Salimans, 2022).

    Parameters
    ----------
    scheduler : diffusers' scheduler, its time steps set
    predict : callable
    latents : Tensor, shape (B, c, h, w)
        At the noise level of ``times[0]``; nothing is left to do for no times.
    times : Tensor
        Those of the scheduler, from the first one that is run.
    guidance : float
        1 is none, and half the work.
    dtype : torch.dtype
        The network's; latents stay in float32 between steps.
    """
    for time in times:
        given = scheduler.scale_model_input(torch.cat([latents] * 2) if guidance != 1 else latents, time)
        answer = predict(given.to(dtype), time).float()
        if guidance != 1:
            free, guided = answer.chunk(2)
            answer = free + guidance * (guided - free)
        latents = scheduler.step(answer, time, latents, return_dict=False)[0]
    return latents


def begin(
    scheduler: Any,
    noise: Tensor,
    *,
    steps: int | Sequence[int],
    start: Tensor | None = None,
    skip: int = 0,
) -> tuple[Tensor, Tensor]:
    """Set the time steps; return the latents to begin with and the times that are left to run.

    Parameters
    ----------
    scheduler : diffusers' scheduler
    noise : Tensor, shape (B, c, h, w)
    steps : int or sequence of int
        A number, spaced as the scheduler does, or the training steps themselves, from the noisiest.
    start : Tensor, shape (B, c, h, w), optional
        Latents to begin from.
    skip : int
        How many steps are left out then (`first_step`).
    """
    times = set_times(scheduler, steps, noise.device)
    if start is None:
        return noise * scheduler.init_noise_sigma, times
    times = times[skip:]
    if not len(times):
        return start, times
    latents: Tensor = scheduler.add_noise(start, noise, times[:1].repeat(len(noise)))
    return latents, times


def set_times(scheduler: Any, steps: int | Sequence[int], device: Any) -> Tensor:
    """Set a scheduler's time steps (how many, or which) and return them."""
    given = {"num_inference_steps": steps} if isinstance(steps, int) else {"timesteps": list(steps)}
    with warnings.catch_warnings():
        # Schedulers hand tensors to numpy.array, which NumPy 2 warns of until torch takes its `copy` argument.
        warnings.filterwarnings("ignore", message="__array__ implementation", category=DeprecationWarning)
        scheduler.set_timesteps(device=device, **given)
    times: Tensor = scheduler.timesteps
    return times


def batches(n: int, size: int) -> list[slice]:
    """Cut n pictures into slices of at most `size`."""
    return [slice(at, min(at + size, n)) for at in range(0, n, size)]
