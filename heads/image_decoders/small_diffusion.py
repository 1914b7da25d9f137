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
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .interface import check_request, fitted_start, image_noise, to_pixels
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
    stop : float
        Where the last evaluation stands, as a share of the schedule that is run; its predicted picture is the answer. Nearer to 0
        there is more texture, which the small network does not do well, and less likeness.
    token_noise : float
        Level of the noise in the tokens that the network is told of, in standard deviations of a token; 0 for true tokens.
    guidance : float
        Weight of classifier-free guidance; 1 is none, and half the time of any other.
    batch : int
        Pictures at once.
    """

    steps: int = 10
    stop: float = 0.6
    token_noise: float = 0.5
    guidance: float = 1.0
    batch: int = 50

    def __post_init__(self) -> None:
        """Refuse impossible settings; ValueError."""
        if self.steps < 1 or self.batch < 1:
            raise ValueError(
                f"SmallDiffusionConfig: steps and batch must be at least 1, got {self.steps}, {self.batch}."
            )
        if not 0 < self.stop <= 1:
            raise ValueError(f"SmallDiffusionConfig: stop must lie in 0..1 and not be 0, got {self.stop}.")
        if self.token_noise < 0 or self.guidance < 0:
            raise ValueError(
                f"SmallDiffusionConfig: token_noise and guidance must be 0 or more, got {self.token_noise}, {self.guidance}."
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
    def resolution(self) -> int:
        """Side S of the pictures."""
        return self.network.config.size

    @property
    def settings(self) -> Mapping[str, Any]:
        """How it samples, for reports."""
        return {"kind": KIND, "sampler": "dpm-solver++", **asdict(self.config)}

    @torch.inference_mode()
    def decode(
        self,
        tokens: Tensor,
        *,
        text: Tensor | None = None,
        start: Tensor | None = None,
        start_strength: float = 0.85,
        seed: int,
        indices: Sequence[int],
    ) -> Tensor:
        """Decode standardised tokens of `target`; as `ImageDecoder.decode`, `text` is not looked at.

        Raises
        ------
        ValueError
            For tokens, a start, a strength or indices that do not fit.
        """
        shape = (self.network.config.n_tokens, self.network.config.token_width)
        check_request(tokens, shape, start=start, start_strength=start_strength, indices=indices)
        parts = [torch.empty(0, self.resolution, self.resolution, 3, dtype=torch.uint8)]
        for at in range(0, len(tokens), self.config.batch):
            here = slice(at, at + self.config.batch)
            shown = None if start is None else fitted_start(start[here], self.resolution)
            images = self.sample(tokens[here], shown, start_strength, seed=seed, indices=indices[here])
            parts.append(to_pixels((images + 1) / 2))
        return torch.cat(parts)

    def sample(
        self, tokens: Tensor, start: Tensor | None, strength: float, *, seed: int, indices: Sequence[int]
    ) -> Tensor:
        """One batch of `decode`: images (B, 3, S, S) in -1..1, on the network's device."""
        weight = self.network.image_out.weight
        tokens = tokens.to(weight)
        noise = image_noise((3, self.resolution, self.resolution), seed=seed, indices=indices, device=weight.device)
        x, first, steps = noise.to(weight), LAST_TIME, self.config.steps
        if start is not None:
            first, steps = strength * LAST_TIME, math.ceil(steps * strength)
            alpha, sigma = schedule(first)
            x = alpha * (2 * start.to(weight) - 1) + sigma * x
        if steps == 0:
            return x
        times = visited_times(first, steps, self.config.stop)
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
        parameters: dict[str, Any] = {
            key: tuple(v) if isinstance(v, list) else v for key, v in about["parameters"].items()
        }
        network = SmallUNet(SmallUNetConfig(**parameters))
        network.load_state_dict({key: value.float() for key, value in load_file(folder / "model.safetensors").items()})
        return cls(network, config).eval().requires_grad_(False)


def schedule(time: float) -> tuple[float, float]:
    """Return alpha and sigma of a time."""
    return math.cos(math.pi / 2 * time), math.sin(math.pi / 2 * time)


def visited_times(first: float, steps: int, stop: float) -> list[float]:
    """Return the times of `steps` evaluations, evenly from `first` to ``stop * first``, and 0 behind them."""
    if steps == 1:
        return [first, 0.0]
    return [*(first * (1 - (1 - stop) * i / (steps - 1)) for i in range(steps)), 0.0]


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
