"""Second stage of `train_small_decoder.py`: the diffusion U-Net on the tokens of the first.

The tokens that condition it are spoilt on purpose, by noise of a level that it is told of, as they would be where a brain gave them:
noise alone, noise and the shrinking of a regression, or a share of another picture's tokens. One in ten pictures has no tokens at
all (Ho & Salimans, 2022).
"""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from small_pictures import Pictures
from torch import Tensor, nn
from torch.nn import functional
from train_small_tokens import Clock, as_images, batches

from chiasm.encoders.small_image_tokens import SmallImageTokens
from chiasm.heads.image_decoders.small_diffusion import LAST_TIME
from chiasm.heads.image_decoders.small_unet import SmallUNet

PEAK_RATE, LARGEST_LEVEL, DROPPED = 1e-3, 1.5, 0.1


def spoilt(tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Return tokens with errors, and the level (B,) of their noise."""
    n = len(tokens)
    level = LARGEST_LEVEL * torch.rand(n).square()
    wide = level[:, None, None]
    added = tokens + wide * torch.randn_like(tokens)
    shrunk = added / (1 + wide.square())
    share = wide.square() / (1 + wide.square())
    mixed = (1 - share).sqrt() * tokens + share.sqrt() * tokens.roll(1, 0)
    kind = torch.rand(n, 1, 1)
    return torch.where(kind < 0.5, added, torch.where(kind < 0.85, shrunk, mixed)), level


def loss_of(network: SmallUNet, tokens: Tensor, images: Tensor) -> Tensor:
    """Squared error of the velocity at times drawn evenly, stratified over the batch."""
    n = len(images)
    order = torch.randperm(n)  # neighbours differ in kind, so that other pictures' tokens come from all
    tokens, images = tokens[order], images[order]
    tokens, level = spoilt(tokens)
    tokens = torch.where(torch.rand(n, 1, 1) < DROPPED, network.no_tokens, tokens)
    times = LAST_TIME * (torch.randperm(n) + torch.rand(n)) / n
    angle = (0.5 * torch.pi * times)[:, None, None, None]
    alpha, sigma = angle.cos(), angle.sin()
    noise = torch.randn_like(images)
    with torch.autocast("cpu", torch.bfloat16):
        velocity = network(alpha * images + sigma * noise, times, tokens, level)
    return functional.mse_loss(velocity.float(), alpha * noise - sigma * images)


def train_unet(
    pictures: Pictures,
    encoder: SmallImageTokens,
    *,
    minutes: float,
    batch: int,
    seed: int,
    log: Path,
    checkpoint: Callable[[SmallUNet], None],
) -> tuple[SmallUNet, int]:
    """Train the network for some minutes; `checkpoint` gets its running mean about every 4. Returns that and the steps."""
    torch.manual_seed(seed)
    network = SmallUNet()
    mean = copy.deepcopy(network).eval().requires_grad_(False)
    optimiser = torch.optim.AdamW(network.parameters(), weight_decay=0.01, betas=(0.9, 0.99))
    clock, rng = Clock(time.monotonic(), minutes), np.random.default_rng(seed)
    step, total, saved = 0, 0.0, time.monotonic()
    for pixels in batches(pictures, batch, rng):
        for group in optimiser.param_groups:
            group["lr"] = clock.rate(step, PEAK_RATE)
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            tokens = encoder(pixels)
        loss = loss_of(network, tokens, as_images(pixels))
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        step, total = step + 1, total + loss.item()
        follow(mean, network, min(0.998, (1 + step) / (10 + step)))
        if step % 100 == 0:
            record = {"stage": "decoder", "step": step, "share": round(clock.share(), 4), "loss": round(total / 100, 4)}
            with log.open("a") as stream:
                stream.write(json.dumps(record) + "\n")
            total = 0.0
        if clock.share() >= 1:
            break
        if time.monotonic() - saved > 240:
            checkpoint(mean)
            saved = time.monotonic()
    return mean, step


@torch.no_grad()
def follow(mean: nn.Module, network: nn.Module, decay: float) -> None:
    """Move a running mean of the weights."""
    theirs = list(network.parameters())
    torch._foreach_lerp_(list(mean.parameters()), theirs, 1 - decay)
