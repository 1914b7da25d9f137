"""Steps of the diffusion prior's samplers: time, spread on a mixture whose denoiser is exact, likeness of a trained prior's tokens.

    OMP_NUM_THREADS=1 python benchmarks/fmri/prior_sampling.py [--repeats 5] [--training-steps 1000]

Time: 6 layers, 768 wide, 4 tokens, batch 1, one thread, samplers in turn; a batch of 16 beside it. Spread: 64 dimensions, eight modes of
standard deviation 0.15, 4,000 samples; distance of the modes' shares as total variation. Likeness: a prior of two layers, trained here on
tokens that follow from the brain's up to noise; cosine of samples and true tokens. Results: benchmarks/results/prior_sampling.json.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from chiasm.heads.diffusion_prior import DiffusionPrior, DiffusionPriorConfig
from chiasm.heads.noise_schedule import NoiseSchedule
from chiasm.heads.prior_network import PriorNetworkConfig
from chiasm.heads.prior_samplers import noise_for

RESULTS = Path(__file__).parents[1] / "results" / "prior_sampling.json"
WAYS: dict[str, dict[str, Any]] = {
    "ddpm 100": {"sampler": "ddpm"},
    "ddim 50": {"sampler": "ddim", "steps": 50},
    "ddim 20": {"sampler": "ddim", "steps": 20},
    "ddim 20, fresh noise": {"sampler": "ddim", "steps": 20, "eta": 1.0},
    "ddim 20, as published (19 calls)": {"sampler": "ddim", "steps": 20, "published": True},
    "dpm-solver++ 20 (default)": {"steps": 20},
    "dpm-solver++ 20, no fresh noise": {"steps": 20, "eta": 0.0},
    "dpm-solver++ 10": {"steps": 10},
}
BASELINE = "ddpm 100"
DIMENSIONS, MODES, SPREAD, N_SAMPLES = 64, 8, 0.15, 4000


class Mixture(nn.Module):
    """The exact posterior mean of a mixture of narrow Gaussians, in the place of a network."""

    token_shape = (1, DIMENSIONS)

    def __init__(self, left: Tensor) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(0)
        centres = torch.randn(MODES, DIMENSIONS, generator=g)
        self.centres = centres / centres.norm(dim=1, keepdim=True) * math.sqrt(DIMENSIONS)
        shares = torch.rand(MODES, generator=g) + 0.2
        self.shares, self.left = shares / shares.sum(), left

    def forward(self, noisy: Tensor, times: Tensor, _brain: Tensor, **_keep: Tensor | None) -> Tensor:
        left = float(self.left[times[0]])
        variance = left * SPREAD**2 + 1 - left
        offset = noisy - math.sqrt(left) * self.centres
        weights = (self.shares.log() - offset.square().sum(-1) / (2 * variance)).softmax(-1)
        means = self.centres + math.sqrt(left) * SPREAD**2 / variance * offset
        return (weights[..., None] * means).sum(1, keepdim=True)

    def score(self, samples: Tensor) -> dict[str, float]:
        """Standard deviation around the nearest mode, and distance of the modes' shares."""
        nearest = (samples - self.centres).square().sum(-1).argmin(1)
        found = torch.bincount(nearest, minlength=MODES) / len(samples)
        return {
            "residual_sd": round((samples[:, 0] - self.centres[nearest]).std().item(), 4),
            "shares_total_variation": round((found - self.shares).abs().sum().item() / 2, 4),
        }


def times_of(batch: int, repeats: int, ways: dict[str, dict[str, Any]]) -> dict[str, float]:
    """Median CPU milliseconds of one call of `sample`, the ways in turn."""
    torch.manual_seed(0)
    prior = DiffusionPrior(PriorNetworkConfig(dim=768, num_tokens=4, depth=6)).eval()
    brain, noise = torch.randn(batch, 4, 768), noise_for(range(batch), seed=0)
    prior.sample(brain, noise=noise, steps=3)
    found: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, settings in ways.items():
            start = time.process_time()
            prior.sample(brain, noise=noise, **settings)
            found[name].append(1e3 * (time.process_time() - start))
    return {name: statistics.median(values) for name, values in found.items()}


def spreads() -> dict[str, dict[str, float]]:
    """Sample the mixture with every way."""
    config = DiffusionPriorConfig(embed_scale=1.0)
    mixture = Mixture(NoiseSchedule(config.schedule, config.timesteps).alphas_cumprod)
    prior = DiffusionPrior(mixture, config)
    brain = torch.zeros(N_SAMPLES, 1, DIMENSIONS)
    return {
        name: mixture.score(prior.sample(brain, generator=torch.Generator().manual_seed(1), **settings))
        for name, settings in WAYS.items()
    }


def pairs(n: int, generator: torch.Generator, mixing: Tensor) -> tuple[Tensor, Tensor]:
    """Brain and image tokens with six causes in common, up to noise; (n, 4, 32) each."""
    brain, image = (torch.randn(n, 6, generator=generator) @ mixing).chunk(2, -1)
    tokens = [part.unflatten(1, (4, 32)) for part in (brain, image.tanh())]
    brain, image = (
        part + level * torch.randn(part.shape, generator=generator)
        for part, level in zip(tokens, (0.5, 0.2), strict=True)
    )
    return brain, nn.functional.normalize(image, dim=-1)


def likeness(training_steps: int) -> dict[str, dict[str, float]]:
    """Train a small prior, then compare each way's samples with the true tokens of 256 new items."""
    torch.manual_seed(0)
    g = torch.Generator().manual_seed(0)
    mixing = torch.randn(6, 256, generator=g) / 6**0.5
    network = PriorNetworkConfig(dim=32, num_tokens=4, depth=2, heads=4, dim_head=16)
    prior = DiffusionPrior(network, DiffusionPriorConfig())
    optimiser = torch.optim.AdamW(prior.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, total_steps=training_steps)
    for _ in range(training_steps):
        loss, _ = prior.loss(*pairs(64, g, mixing), generator=g)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    prior.eval()
    brain, truth = pairs(256, g, mixing)
    found = {}
    for name, settings in WAYS.items():
        samples = [prior.sample(brain, noise=noise_for(range(256), seed), **settings) for seed in range(4)]
        cosine = [nn.functional.cosine_similarity(s.flatten(1), truth.flatten(1)).mean().item() for s in samples]
        mean = nn.functional.cosine_similarity(torch.stack(samples).mean(0).flatten(1), truth.flatten(1)).mean().item()
        between = torch.stack(samples).std(0).mean().item()
        found[name] = {
            "cosine_to_truth": round(statistics.mean(cosine), 4),
            "cosine_of_the_mean_of_4": round(mean, 4),
            "sd_between_samples": round(between, 4),
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--training-steps", type=int, default=1000)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    one = times_of(1, arguments.repeats, WAYS)
    default = "dpm-solver++ 20 (default)"
    many = times_of(16, 1, {default: WAYS[default]})[default]
    spread, like = spreads(), likeness(arguments.training_steps)
    rows = {
        name: {
            "cpu_ms": round(one[name], 1),
            "times_faster_than_ddpm_100": round(one[BASELINE] / one[name], 2),
            **spread[name],
            **like[name],
            "cosine_minus_ddpm_100": round(like[name]["cosine_to_truth"] - like[BASELINE]["cosine_to_truth"], 4),
        }
        for name in WAYS
    }
    result = {
        "command": f"OMP_NUM_THREADS=1 python benchmarks/fmri/prior_sampling.py --repeats {arguments.repeats}"
        f" --training-steps {arguments.training_steps}",
        "machine": {"processor": platform.machine(), "cores": os.cpu_count(), "torch": torch.__version__},
        "true_residual_sd": SPREAD,
        "samplers": rows,
        "batch_of_16_cpu_ms_a_sample": {default: round(many / 16, 1), "alone": round(one[default], 1)},
    }
    RESULTS.write_text(json.dumps(result, indent=1) + "\n")
    sys.stdout.write(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
