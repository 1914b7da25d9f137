"""Diffusion prior: from brain tokens to tokens that look like those of images (MindEye 1 and 2; DALL-E 2's prior)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from .noise_schedule import NoiseSchedule, ScheduleName
from .prior_network import PriorNetwork, PriorNetworkConfig, PriorNetworkLike
from .prior_samplers import ItemNoise, Sampler, batch_noise, sample_ddim, sample_ddpm, sample_dpm_solver

Prediction = Literal["x0", "eps", "v"]
LossName = Literal["l2", "l1", "huber"]

_LOSSES = {"l2": functional.mse_loss, "l1": functional.l1_loss, "huber": functional.smooth_l1_loss}


@dataclass(frozen=True, kw_only=True)
class DiffusionPriorConfig:
    """How a prior is trained and sampled; the defaults are MindEye1's (MindEye2: ``embed_scale`` 1).

    Parameters
    ----------
    timesteps : int
    schedule : {"cosine", "linear", "quadratic", "sigmoid"}
    embed_scale : float, optional
        Targets are multiplied by it before noise is added, samples divided by it. None: sqrt(d), which gives tokens of
        unit length unit variance.
    predict : {"x0", "eps", "v"}
        What the network's output is: clean tokens, their noise, or the velocity.
    loss : {"l2", "l1", "huber"}
    drop_brain, drop_image : float
        Share of training items whose brain tokens (noisy image tokens) give way to a learned null table.
    clean_range : float, optional
        Clean estimates are clipped to plus or minus this where the network predicts noise or velocity; None: never.
    norm_prediction, norm_estimate, norm_sample, norm_start : bool
        Bring every token to length ``norm_length``: the prediction in training, each clean estimate while sampling, the
        sample at the end, the noise at the start. All off as published.
    norm_length : float, optional
        None: sqrt(d), MindEye2 included.
    """

    timesteps: int = 100
    schedule: ScheduleName = "cosine"
    embed_scale: float | None = None
    predict: Prediction = "x0"
    loss: LossName = "l2"
    drop_brain: float = 0.2
    drop_image: float = 0.2
    clean_range: float | None = 1.0
    norm_prediction: bool = False
    norm_estimate: bool = False
    norm_sample: bool = False
    norm_start: bool = False
    norm_length: float | None = None

    def __post_init__(self) -> None:
        wrong = []
        for name, kinds in (("schedule", ScheduleName), ("predict", Prediction), ("loss", LossName)):
            if getattr(self, name) not in get_args(kinds):
                wrong.append(f"{name} must be one of {get_args(kinds)}, got {getattr(self, name)!r}")
        if self.timesteps < 1:
            wrong.append(f"timesteps must be >= 1, got {self.timesteps}")
        shares = {"drop_brain": self.drop_brain, "drop_image": self.drop_image}
        wrong += [f"{name} must be in [0, 1], got {share}" for name, share in shares.items() if not 0 <= share <= 1]
        for name in ("embed_scale", "clean_range", "norm_length"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                wrong.append(f"{name} must be None or > 0, got {value}")
        if wrong:
            raise ValueError("; ".join(wrong))


class DiffusionPrior(nn.Module):
    """A denoising network, a noise schedule, the training loss and the samplers.

    State-dict names are the published ones: ``net.*`` and ``noise_scheduler.*``.

    Parameters
    ----------
    network : PriorNetworkConfig or Module
        Sizes of a `PriorNetwork`, or a network of another architecture (`PriorNetworkLike`).
    config : DiffusionPriorConfig, optional
    """

    net: PriorNetworkLike

    def __init__(self, network: PriorNetworkConfig | nn.Module, config: DiffusionPriorConfig | None = None) -> None:
        super().__init__()
        self.config = config or DiffusionPriorConfig()
        self.add_module("net", PriorNetwork(network) if isinstance(network, PriorNetworkConfig) else network)
        self.noise_scheduler = NoiseSchedule(self.config.schedule, self.config.timesteps)
        unit = math.sqrt(self.net.token_shape[1])
        self._scale = self.config.embed_scale or unit
        self._norm_length = self.config.norm_length or unit

    def loss(
        self, tokens_brain: Tensor, tokens_target: Tensor, *, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Draw a step, noise and drops for every item and compare the network's answer with the truth.

        Parameters
        ----------
        tokens_brain : Tensor, shape (B, N, d)
            Gradients reach them.
        tokens_target : Tensor, shape (B, N, d)
            Clean image tokens in their own scale; never changed in place (the public MindEye1 scaled its caller's).
        generator : torch.Generator, optional
            Of all draws; they are made on its device.

        Returns
        -------
        loss : Tensor, shape ()
        predicted : Tensor, shape (B, N, d)
            Clean tokens that the network's answer implies, in the targets' scale.
        """
        like = tokens_target
        place = like.device if generator is None else generator.device
        batch = len(like)
        times = torch.randint(self.config.timesteps, (batch,), generator=generator, device=place).to(like.device)
        noise = batch_noise(generator, like.reshape(-1, *self.net.token_shape))()
        shares = torch.tensor([[self.config.drop_brain], [self.config.drop_image]], device=place)
        keep_brain, keep_image = (torch.rand(2, batch, generator=generator, device=place) >= shares).to(like.device)
        loss, answer = self.loss_at(
            tokens_brain, tokens_target, times=times, noise=noise, keep_brain=keep_brain, keep_image=keep_image
        )
        with torch.no_grad():
            noisy = self.noise_scheduler.noised(self._scaled(like), times, noise)
            predicted = self._clean(answer.detach(), noisy, times) / self._scale
        return loss, predicted

    def loss_at(
        self,
        tokens_brain: Tensor,
        tokens_target: Tensor,
        *,
        times: Tensor,
        noise: Tensor,
        keep_brain: Tensor | None = None,
        keep_image: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Compute the loss for given draws.

        Parameters
        ----------
        tokens_brain, tokens_target : Tensor, shape (B, N, d)
        times : Tensor of int, shape (B,)
        noise : Tensor, shape (B, N, d)
        keep_brain, keep_image : Tensor of bool, shape (B,), optional

        Returns
        -------
        loss : Tensor, shape ()
        answer : Tensor, shape (B, N, d)
            What the network said, in the scale that it works in.
        """
        clean = self._scaled(tokens_target)
        noisy = self.noise_scheduler.noised(clean, times, noise)
        answer = self.net(noisy, times, tokens_brain, keep_brain=keep_brain, keep_image=keep_image)
        if self.config.norm_prediction:
            answer = self._normed(answer)
        truth = {
            "x0": lambda: clean,
            "eps": lambda: noise,
            "v": lambda: self.noise_scheduler.velocity(clean, times, noise),
        }[self.config.predict]()
        return _LOSSES[self.config.loss](answer.float(), truth.float()), answer

    @torch.no_grad()
    def sample(
        self,
        tokens_brain: Tensor,
        *,
        steps: int | None = None,
        sampler: Sampler = "dpm-solver++",
        guidance: float = 1.0,
        generator: torch.Generator | None = None,
        noise: Tensor | ItemNoise | None = None,
        eta: float | None = None,
        published: bool = False,
    ) -> Tensor:
        """Draw image tokens for brain tokens.

        Parameters
        ----------
        tokens_brain : Tensor, shape (B, N, d)
        steps : int, optional
            Calls of the network. None: every time of the schedule for ``ddpm``, 20 for the others (10 is usable).
        sampler : {"ddpm", "ddim", "dpm-solver++"}
            ``ddpm`` with fewer steps than the schedule has is DDIM at ``eta`` 1.
        guidance : float
            1 uses the brain tokens as they are; more pushes away from what the null tables give, at twice the work.
        generator : torch.Generator, optional
            One stream for the batch.
        noise : ItemNoise or Tensor of shape (draws, B, N, d), optional
            Instead of ``generator``: `noise_for`, so that an image's noise does not depend on its batch; or given draws.
        eta : float, optional
            Fresh noise: 0 none, 1 as much as DDPM. None: 0 for ``ddim``, 1 for the others and where ``published``:
            fresh noise undoes errors of a network that is not trained to the end (a toy prior ended beside its target
            in 5 % of samples without it, in none with it).
        published : bool
            ``ddim`` with the grid and the shifted products of the public code (MindEye2: 20 steps, 19 calls).

        Returns
        -------
        Tensor, shape (B, N, d)
            In the targets' scale.
        """
        if sampler not in get_args(Sampler):
            raise ValueError(f"sampler must be one of {get_args(Sampler)}, got {sampler!r}")
        if generator is not None and noise is not None:
            raise ValueError("give a generator or noise, not both")
        timesteps = self.config.timesteps
        steps = steps or (timesteps if sampler == "ddpm" else min(20, timesteps))
        if eta is None:
            eta = 0.0 if sampler == "ddim" and not published else 1.0
        brain = tokens_brain.reshape(-1, *self.net.token_shape)
        draw = batch_noise(generator if noise is None else noise, brain)
        x = self._normed(draw()) if self.config.norm_start else draw()
        denoise = _Denoiser(self, brain, guidance)
        if sampler == "dpm-solver++":
            x = sample_dpm_solver(denoise, self.noise_scheduler, x, draw, steps=steps, eta=eta)
        elif sampler == "ddpm" and steps == timesteps:
            x = sample_ddpm(denoise, self.noise_scheduler, x, draw)
        else:
            x = sample_ddim(denoise, self.noise_scheduler, x, draw, steps=steps, eta=eta, published=published)
        return (self._normed(x) if self.config.norm_sample else x) / self._scale

    def predict(self, x: Tensor, times: Tensor, tokens_brain: Tensor, *, guidance: float = 1.0) -> Tensor:
        """Return what the network says of noisy tokens, guided: null + guidance (conditioned - null), (B, N, d)."""
        if guidance == 1.0:
            return self.net(x, times, tokens_brain)
        keep = torch.arange(2 * len(x), device=x.device) < len(x)  # second half: nothing of brain or image
        both = self.net(
            torch.cat((x, x)), torch.cat((times, times)), torch.cat((tokens_brain, tokens_brain)),
            keep_brain=keep, keep_image=keep,
        )  # fmt: skip
        conditioned, null = both.chunk(2)
        return null + guidance * (conditioned - null)

    def _scaled(self, tokens: Tensor) -> Tensor:
        return tokens.reshape(-1, *self.net.token_shape) * self._scale

    def _normed(self, tokens: Tensor) -> Tensor:
        return functional.normalize(tokens, dim=-1) * self._norm_length

    def _clean(self, answer: Tensor, noisy: Tensor, times: Tensor) -> Tensor:
        """Clean tokens, in the network's scale, that an answer of the network implies."""
        if self.config.predict == "x0":
            return answer
        schedule = self.noise_scheduler
        implied = schedule.clean_from_noise if self.config.predict == "eps" else schedule.clean_from_velocity
        clean = implied(noisy, times, answer)
        return (
            clean if self.config.clean_range is None else clean.clamp(-self.config.clean_range, self.config.clean_range)
        )


class _Denoiser:
    """The function of noisy tokens and time that the samplers ask."""

    def __init__(self, prior: DiffusionPrior, brain: Tensor, guidance: float) -> None:
        self.prior, self.brain, self.guidance = prior, brain, guidance

    def __call__(self, x: Tensor, time: int) -> Tensor:
        times = torch.full((len(x),), time, device=x.device)
        prior = self.prior
        answer = prior.predict(x, times, self.brain, guidance=self.guidance)
        clean = prior._clean(answer, x, times)
        return prior._normed(clean) if prior.config.norm_estimate else clean
