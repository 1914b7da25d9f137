"""The embedded image decoder: a small pixel diffusion model from the 16 tokens of `small-16x64` to 32 x 32 pictures.

Time t runs from 0 (picture) to 1 (noise) with ``alpha = cos(pi t / 2)``, ``sigma = sin(pi t / 2)`` (Nichol & Dhariwal, ICML
2021, without offset); sampled by DPM-Solver++(2M) on the predicted picture (Lu et al., 2022, algorithm 2). It was trained on tokens with
noise of a known level, so that `token_noise` says how far tokens may be trusted that were predicted from a brain.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .small_unet import SmallUNet, SmallUNetConfig

LAST_TIME = 0.995
"""Where sampling begins: at t = 1 the log signal-to-noise ratio, which the solver steps in, is infinite."""
KIND = "small-image-decoder"


@dataclass(frozen=True, kw_only=True)
class SmallDiffusionConfig:
    """How `SmallDiffusionDecoder` samples.

    Parameters
    ----------
    steps : int
        Network evaluations of a picture (those of a start image are fewer, in proportion).
    token_noise : float
        Level of the noise in the tokens that the network is told of, in standard deviations of a token; 0 for true tokens.
    start_strength : float
        Share of the schedule that a start image is put back by, 0..1; near 0 gives the start image, 1 ignores it.
    guidance : float
        Weight of classifier-free guidance; 1 is none, and half the time of any other.
    batch : int
        Pictures at once.
    """

    steps: int = 12
    token_noise: float = 0.5
    start_strength: float = 0.7
    guidance: float = 1.0
    batch: int = 50

    def __post_init__(self) -> None:
        """Refuse impossible settings; ValueError."""
        if self.steps < 1 or self.batch < 1:
            raise ValueError(
                f"SmallDiffusionConfig: steps and batch must be at least 1, got {self.steps}, {self.batch}."
            )
        if not (0 <= self.start_strength <= 1 and self.token_noise >= 0 and self.guidance >= 0):
            raise ValueError(
                "SmallDiffusionConfig: start_strength must lie in 0..1, token_noise and guidance be 0 or more; got "
                f"{self.start_strength}, {self.token_noise}, {self.guidance}."
            )


class SmallDiffusionDecoder(nn.Module):
    """Tokens to pictures; an `ImageDecoder`.

    Parameters
    ----------
    network : SmallUNet
    config : SmallDiffusionConfig
    """

    target = "small-16x64"

    def __init__(self, network: SmallUNet | None = None, config: SmallDiffusionConfig | None = None) -> None:
        super().__init__()
        self.network = network or SmallUNet()
        self.config = config or SmallDiffusionConfig()

    @property
    def size(self) -> int:
        """Height and width S of the pictures."""
        return self.network.config.size

    @torch.inference_mode()
    def decode(
        self,
        tokens: Tensor,
        *,
        text: Tensor | None = None,
        start: Tensor | None = None,
        seed: int,
        indices: Sequence[int] | None = None,
    ) -> Tensor:
        """Decode tokens.

        Parameters
        ----------
        tokens : Tensor, shape (B, N, d)
            Standardised, of `target`.
        text : Tensor, optional
            Not used.
        start : Tensor, shape (B, 3, S, S), optional
            Images in 0..1 to begin from, as a low-level branch gives them.
        seed : int
            Of the noise.
        indices : sequence of int, optional
            Numbers of the pictures; the noise of each depends on `seed` and its number only. 0..B-1 if not given.

        Returns
        -------
        Tensor, shape (B, S, S, 3), uint8, on the CPU

        Raises
        ------
        ValueError
            For tokens, a start or numbers of another shape.
        """
        indices = range(len(tokens)) if indices is None else indices
        self._check(tokens, start, indices)
        parts = [torch.empty(0, self.size, self.size, 3, dtype=torch.uint8)]
        for at in range(0, len(tokens), self.config.batch):
            here = slice(at, at + self.config.batch)
            images = self.sample(tokens[here], None if start is None else start[here], seed=seed, indices=indices[here])
            pixels = ((images + 1) * 127.5).round_().clamp_(0, 255).to("cpu", torch.uint8)
            parts.append(pixels.permute(0, 2, 3, 1))
        return torch.cat(parts).contiguous()

    def sample(self, tokens: Tensor, start: Tensor | None, *, seed: int, indices: Sequence[int]) -> Tensor:
        """One batch of `decode`: images (B, 3, S, S) in -1..1, on the network's device."""
        weight = self.network.image_out.weight
        tokens = tokens.to(weight)
        x = picture_noise((3, self.size, self.size), seed=seed, indices=indices).to(weight)
        first, steps = LAST_TIME, self.config.steps
        if start is not None:
            first = self.config.start_strength * LAST_TIME
            steps = max(1, math.ceil(steps * self.config.start_strength))
            alpha, sigma = schedule(first)
            x = alpha * (2 * start.to(weight) - 1) + sigma * x
        times = [first * (1 - i / steps) for i in range(steps + 1)]
        before: tuple[Tensor, float] | None = None
        for time, following in itertools.pairwise(times):
            picture = self.picture_at(x, time, tokens)
            x, before = solver_step(x, picture, before, time, following)
        return x

    def picture_at(self, x: Tensor, time: float, tokens: Tensor) -> Tensor:
        """Predict the picture, in -1..1, from the noisy one `x` of `time`."""
        alpha, sigma = schedule(time)
        times = torch.full((len(x),), time, device=x.device)
        level = torch.full((len(x),), self.config.token_noise, device=x.device)
        velocity = self.network(x, times, tokens, level)
        if self.config.guidance != 1:
            free = self.network(x, times, None, level)
            velocity = free + self.config.guidance * (velocity - free)
        picture: Tensor = (alpha * x - sigma * velocity).clamp(-1, 1)
        return picture

    @classmethod
    def load(cls, folder: Path, config: SmallDiffusionConfig | None = None) -> SmallDiffusionDecoder:
        """Read the ``config.json`` and ``model.safetensors`` of a weights folder; float32, in evaluation mode.

        Raises
        ------
        ValueError
            For a configuration that is not of this network.
        RuntimeError
            For tensors that do not fit it.
        """
        from safetensors.torch import load_file

        about: Mapping[str, Any] = json.loads((folder / "config.json").read_text("utf-8"))
        if about.get("kind") != KIND:
            raise ValueError(f"SmallDiffusionDecoder.load: kind must be '{KIND}', got {about.get('kind')!r}.")
        parameters = {key: tuple(v) if isinstance(v, list) else v for key, v in about["parameters"].items()}
        network = SmallUNet(SmallUNetConfig(**parameters))
        network.load_state_dict({key: value.float() for key, value in load_file(folder / "model.safetensors").items()})
        return cls(network, config).eval().requires_grad_(False)

    def _check(self, tokens: Tensor, start: Tensor | None, indices: Sequence[int]) -> None:
        config, size = self.network.config, self.size
        if tokens.ndim != 3 or tuple(tokens.shape[1:]) != (config.n_tokens, config.token_width):
            raise ValueError(
                f"SmallDiffusionDecoder: takes tokens of (B, {config.n_tokens}, {config.token_width}), got {tuple(tokens.shape)}."
            )
        if start is not None and tuple(start.shape) != (len(tokens), 3, size, size):
            raise ValueError(
                f"SmallDiffusionDecoder: start must be ({len(tokens)}, 3, {size}, {size}), got {tuple(start.shape)}."
            )
        if len(indices) != len(tokens):
            raise ValueError(f"SmallDiffusionDecoder: {len(tokens)} pictures, but {len(indices)} numbers of them.")


def schedule(time: float) -> tuple[float, float]:
    """Return alpha and sigma of a time."""
    return math.cos(math.pi / 2 * time), math.sin(math.pi / 2 * time)


def solver_step(
    x: Tensor, picture: Tensor, before: tuple[Tensor, float] | None, time: float, following: float
) -> tuple[Tensor, tuple[Tensor, float]]:
    """One step of DPM-Solver++(2M), eq. 9 and algorithm 2 there.

    Parameters
    ----------
    x, picture : Tensor
        The noisy picture of `time`, and the picture predicted from it.
    before : (Tensor, float), optional
        The prediction of the last step and the step's length h in half the log signal-to-noise ratio.
    time, following : float
        This time and the next one; at 0 the prediction itself is what comes out.

    Returns
    -------
    Tensor, (Tensor, float)
        The noisy picture of the next time, and the next step's `before`.
    """
    if following <= 0:
        return picture, (picture, math.inf)
    (alpha, sigma), (alpha_next, sigma_next) = schedule(time), schedule(following)
    h = math.log(alpha_next / sigma_next) - math.log(alpha / sigma)
    direction = picture
    if before is not None:
        last, h_last = before
        direction = picture + h / (2 * h_last) * (picture - last)
    return sigma_next / sigma * x - alpha_next * math.expm1(-h) * direction, (picture, h)


def picture_noise(shape: tuple[int, ...], *, seed: int, indices: Sequence[int]) -> Tensor:
    """Normal noise (B, *shape) whose every row depends on `seed` and the picture's number only; drawn on the CPU."""
    rows = []
    for index in indices:
        # torch's generator on the CPU reads 32 bits of a seed: both numbers are mixed into those
        mixed = np.random.SeedSequence([int(seed), int(index)]).generate_state(1)[0]
        rows.append(torch.randn(shape, generator=torch.Generator().manual_seed(int(mixed))))
    return torch.stack(rows)
