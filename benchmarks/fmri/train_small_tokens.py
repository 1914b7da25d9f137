"""First stage of `train_small_decoder.py`: the image tokens, without labels.

Two views of every picture are encoded, each turned, shifted, brightened, with noise and a hole. From the tokens of a view, made
noisy, a small network (not kept) must give the view without noise and hole, and the tokens of the two views must find each
other among all pictures of the batch by their cosine (Chen et al., ICML 2020, without a projector: retrieval uses the tokens
themselves). The noise is what makes tokens of use where they are predicted from a brain: what matters most for the picture has to be
told by many of them.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from small_pictures import Pictures
from torch import Tensor, nn
from torch.nn import functional

from chiasm.encoders.small_image_tokens import ResidualBlock, SmallImageTokens

SHARES = {"fashion": 0.45, "emoji": 0.42, "shapes": 0.13}
PEAK_RATE, WARM_UP, TEMPERATURE, CONTRAST = 2e-3, 200, 0.2, 0.1
NOISE = 1.2  # largest level that is added to standardised tokens


@dataclass(frozen=True)
class Clock:
    """Share of a stage's minutes that is gone; the learning rate follows it (warm-up, then cosine)."""

    begin: float
    minutes: float

    def share(self) -> float:
        """Between 0 and 1 until the time is over."""
        return (time.monotonic() - self.begin) / (60 * self.minutes)

    def rate(self, step: int, peak: float) -> float:
        """Learning rate of a step."""
        warm = min(1.0, (step + 1) / WARM_UP)
        return peak * warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, self.share()))))


class Rebuild(nn.Module):
    """Noisy tokens to pictures in one step; trained with the tokens and thrown away."""

    def __init__(self, token_width: int) -> None:
        super().__init__()
        self.start = nn.Conv2d(token_width, 128, 3, padding=1)
        self.first = ResidualBlock(128)
        self.second = nn.Sequential(nn.Conv2d(32, 64, 3, padding=1), ResidualBlock(64))
        self.last = nn.Sequential(nn.Conv2d(16, 32, 3, padding=1), ResidualBlock(32), nn.Conv2d(32, 12, 3, padding=1))

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, 16, d) -> (B, 3, 32, 32) in about -1..1."""
        side = math.isqrt(tokens.shape[1])
        x = tokens.transpose(1, 2).unflatten(2, (side, side))
        x = functional.pixel_shuffle(self.first(self.start(x)), 2)
        x = functional.pixel_shuffle(self.second(x), 2)
        return functional.pixel_shuffle(self.last(x), 2)


def batches(pictures: Pictures, size: int, rng: np.random.Generator) -> Iterator[Tensor]:
    """Pictures (B, 32, 32, 3) uint8, drawn by kind with `SHARES`; half of them mirrored."""
    counts = [round(share * size) for share in SHARES.values()]
    counts[0] += size - sum(counts)
    while True:
        parts = []
        for kind, count in zip(SHARES, counts, strict=True):
            bank = getattr(pictures, kind)
            parts.append(bank[rng.integers(len(bank), size=count)])
        drawn = np.concatenate(parts)
        mirrored = rng.random(len(drawn)) < 0.5
        drawn[mirrored] = drawn[mirrored, :, ::-1]
        yield torch.from_numpy(drawn)


def as_images(pixels: Tensor) -> Tensor:
    """uint8 (B, S, S, 3) -> float (B, 3, S, S) in -1..1."""
    return pixels.permute(0, 3, 1, 2).float() / 127.5 - 1.0


def view(images: Tensor) -> tuple[Tensor, Tensor]:
    """Return a view of each image as the encoder gets it, and the same view without noise and hole."""
    n = len(images)
    angle, scale = 0.12 * torch.randn(n), 1 + 0.08 * torch.randn(n)
    theta = torch.zeros(n, 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = torch.cos(angle) * scale
    theta[:, 0, 1], theta[:, 1, 0] = -torch.sin(angle) * scale, torch.sin(angle) * scale
    theta[:, :, 2] = 0.08 * torch.randn(n, 2)
    grid = functional.affine_grid(theta, list(images.shape), align_corners=False)
    clean = functional.grid_sample(images, grid, padding_mode="border", align_corners=False)
    gain, shift = 1 + 0.12 * torch.randn(n, 1, 1, 1), 0.08 * torch.randn(n, 3, 1, 1)
    grey = (clean[:, :1] - clean[:, 1:2]).abs().amax((1, 2, 3), keepdim=True) < 1e-3
    shift = torch.where(grey, shift.mean(1, keepdim=True), shift)
    clean = ((clean + 1) * gain - 1 + shift).clamp(-1, 1)
    seen = clean + 0.3 * torch.rand(n, 1, 1, 1).square() * torch.randn_like(clean)
    side, corner = torch.randint(6, 15, (n, 1)), torch.randint(0, 26, (n, 2))
    at = torch.arange(32)
    rows = (at >= corner[:, :1]) & (at < corner[:, :1] + side)
    cols = (at >= corner[:, 1:]) & (at < corner[:, 1:] + side)
    hole = rows[:, None, :, None] & cols[:, None, None, :] & (torch.rand(n, 1, 1, 1) < 0.5)
    return torch.where(hole, 0.0, seen), clean


def standardise(tokens: Tensor) -> Tensor:
    """Tokens (B, N, d) with the mean of each position and channel, and the variance of each channel, taken out."""
    centred = tokens - tokens.mean(0)
    return centred / centred.square().mean((0, 1)).clamp_min(1e-6).sqrt()


def noisy(tokens: Tensor, largest: float) -> Tensor:
    """Tokens with normal noise of a level drawn for each picture."""
    return tokens + largest * torch.rand(len(tokens), 1, 1) * torch.randn_like(tokens)


def loss_of(model: SmallImageTokens, rebuild: Rebuild, pixels: Tensor) -> tuple[Tensor, dict[str, float]]:
    """Return the loss of a batch, and its parts."""
    images = as_images(pixels)
    (first, clean_first), (second, clean_second) = view(images), view(images)
    clean = torch.cat([clean_first, clean_second])
    with torch.autocast("cpu", torch.bfloat16):
        raw = model.raw(torch.cat([first, second]))
    tokens = standardise(raw.float())
    with torch.autocast("cpu", torch.bfloat16):
        made = rebuild(noisy(tokens, NOISE))
    made = made.float()
    error = functional.mse_loss(made, clean)
    edges = functional.mse_loss(made.diff(dim=2), clean.diff(dim=2)) + functional.mse_loss(
        made.diff(dim=3), clean.diff(dim=3)
    )
    a, b = functional.normalize(noisy(tokens, 0.5).flatten(1), dim=1).chunk(2)
    logits = a @ b.T / TEMPERATURE
    target = torch.arange(len(a))
    contrast = 0.5 * (functional.cross_entropy(logits, target) + functional.cross_entropy(logits.T, target))
    loss = error + edges + CONTRAST * contrast
    found = (logits.argmax(1) == target).float().mean()
    return loss, {"error": error.item(), "edges": edges.item(), "contrast": contrast.item(), "found": found.item()}


def train_tokens(
    pictures: Pictures,
    *,
    minutes: float,
    batch: int,
    seed: int,
    log: Path,
    checkpoint: Callable[[SmallImageTokens], None],
) -> tuple[SmallImageTokens, int]:
    """Train the encoder for some minutes; `checkpoint` gets it about every 4 minutes. Returns it and the steps."""
    torch.manual_seed(seed)
    model = SmallImageTokens()
    rebuild = Rebuild(model.config.token_width)
    optimiser = torch.optim.AdamW([*model.parameters(), *rebuild.parameters()], weight_decay=0.02, betas=(0.9, 0.98))
    clock, rng = Clock(time.monotonic(), minutes), np.random.default_rng(seed)
    step, saved = 0, time.monotonic()
    sums: dict[str, float] = {}
    for pixels in batches(pictures, batch, rng):
        for group in optimiser.param_groups:
            group["lr"] = clock.rate(step, PEAK_RATE)
        loss, parts = loss_of(model, rebuild, pixels)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        step += 1
        sums = {key: sums.get(key, 0.0) + value for key, value in parts.items()}
        if step % 50 == 0:
            record = {"stage": "tokens", "step": step, "share": round(clock.share(), 4)}
            with log.open("a") as stream:
                stream.write(json.dumps(record | {key: round(value / 50, 4) for key, value in sums.items()}) + "\n")
            sums = {}
        if clock.share() >= 1:
            break
        if time.monotonic() - saved > 240:
            checkpoint(model)
            saved = time.monotonic()
    model.eval().requires_grad_(False)
    fit(model, pictures, seed)
    return model, step


def fit(model: SmallImageTokens, pictures: Pictures, seed: int, n: int = 40) -> None:
    """Statistics of the tokens over `n` batches of 256 training pictures as they are."""
    drawn = batches(pictures, 256, np.random.default_rng(seed + 1))
    with torch.inference_mode():
        model.fit_statistics(model.raw(as_images(next(drawn))) for _ in range(n))
