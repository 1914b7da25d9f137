"""A plain MindEye2 with its prior and losses, written from the formulas as published scripts are: the peer of ``training_step.py``.

Parameter names are those of the published checkpoints, so that both sides start from equal weights. What a first version would do is done:
attention as two einsums over copied heads' logits, norms as mean and variance, relative positions looked up in every call, targets of the
mixture filled in a loop, trials read from a memory map inside the loop, one subject and session after the other.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional


class Network(nn.Module):
    """Ridge a subject, mixer, tokens, projector; no low-level branch."""

    def __init__(
        self, n_voxels: list[int], *, hidden: int, blocks: int, tokens: int, width: int, projector: int
    ) -> None:
        super().__init__()
        self.tokens, self.width = tokens, width
        self.ridge = nn.Module()
        self.ridge.linears = nn.ModuleList([nn.Linear(n, hidden) for n in n_voxels])
        self.backbone = nn.Module()
        self.backbone.mixer_blocks1 = nn.ModuleList([self.block(hidden) for _ in range(blocks)])
        self.backbone.mixer_blocks2 = nn.ModuleList([self.block(1) for _ in range(blocks)])
        self.backbone.backbone_linear = nn.Linear(hidden, tokens * width)
        self.backbone.clip_proj = nn.Sequential(
            nn.LayerNorm(width), nn.GELU(), nn.Linear(width, projector),
            nn.LayerNorm(projector), nn.GELU(), nn.Linear(projector, projector),
            nn.LayerNorm(projector), nn.GELU(), nn.Linear(projector, width),
        )  # fmt: skip

    def block(self, size: int) -> nn.Module:
        return nn.Sequential(
            nn.LayerNorm(size),
            nn.Sequential(nn.Linear(size, size), nn.GELU(), nn.Dropout(0.15), nn.Linear(size, size)),
        )

    def forward(self, voxels: Tensor, subject: int) -> tuple[Tensor, Tensor]:
        x = self.ridge.linears[subject](voxels[:, None])
        first, second = x, x.permute(0, 2, 1)
        for block1, block2 in zip(self.backbone.mixer_blocks1, self.backbone.mixer_blocks2, strict=True):
            x = block1(x) + first
            first = x
            x = x.permute(0, 2, 1)
            x = block2(x) + second
            second = x
            x = x.permute(0, 2, 1)
        tokens = self.backbone.backbone_linear(x.reshape(len(x), -1)).reshape(len(x), -1, self.width)
        return tokens, self.backbone.clip_proj(tokens)


class Norm(nn.Module):
    def __init__(self, dim: int, *, stable: bool = False) -> None:
        super().__init__()
        self.g, self.stable = nn.Parameter(torch.ones(dim)), stable

    def forward(self, x: Tensor) -> Tensor:
        if self.stable:
            x = x / x.amax(dim=-1, keepdim=True).detach()
        eps = 1e-5 if x.dtype == torch.float32 else 1e-3
        variance = torch.var(x, dim=-1, unbiased=False, keepdim=True)
        return (x - x.mean(dim=-1, keepdim=True)) * (variance + eps).rsqrt() * self.g.to(x.dtype)


class Attention(nn.Module):
    def __init__(self, dim: int, heads: int, dim_head: int) -> None:
        super().__init__()
        self.heads, self.norm = heads, Norm(dim)
        self.null_kv = nn.Parameter(torch.randn(2, dim_head))
        self.to_q = nn.Linear(dim, heads * dim_head, bias=False)
        self.to_kv = nn.Linear(dim, 2 * dim_head, bias=False)
        self.rotary_emb = nn.Module()
        turned = min(32, dim_head)
        self.rotary_emb.register_buffer("freqs", 1.0 / 10000 ** (torch.arange(0, turned, 2).float() / turned))
        self.to_out = nn.Sequential(nn.Linear(heads * dim_head, dim, bias=False), Norm(dim))

    def turn(self, x: Tensor) -> Tensor:
        angles = torch.arange(x.shape[-2])[:, None].float() * self.rotary_emb.freqs
        angles = angles.repeat_interleave(2, dim=-1)
        n = angles.shape[-1]
        left, right = x[..., :n], x[..., n:]
        pairs = left.reshape(*left.shape[:-1], -1, 2)
        half = torch.stack((-pairs[..., 1], pairs[..., 0]), dim=-1).reshape(left.shape)
        return torch.cat((left * angles.cos() + half * angles.sin(), right), dim=-1)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        batch, length = x.shape[:2]
        x = self.norm(x)
        q = self.to_q(x).reshape(batch, length, self.heads, -1).permute(0, 2, 1, 3)
        k, v = self.to_kv(x).chunk(2, dim=-1)
        q, k = self.turn(q), self.turn(k)
        null_k, null_v = (one.expand(batch, 1, -1) for one in self.null_kv.unbind(0))
        k, v = torch.cat((null_k, k), dim=1), torch.cat((null_v, v), dim=1)
        q, k = functional.normalize(q, dim=-1) * 4, functional.normalize(k, dim=-1) * 4
        logits = torch.einsum("bhid,bjd->bhij", q, k) + bias
        attention = logits.softmax(dim=-1, dtype=torch.float32).to(v.dtype)
        out = torch.einsum("bhij,bjd->bhid", attention, v.to(attention.dtype))
        return self.to_out(out.permute(0, 2, 1, 3).reshape(batch, length, -1))


class FeedForwardGate(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        x, gate = x.chunk(2, dim=-1)
        return x * functional.silu(gate)


class Positions(nn.Module):
    """T5's relative positions, 32 buckets, one-sided."""

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.relative_attention_bias = nn.Embedding(32, heads)

    def forward(self, length: int) -> Tensor:
        n = (torch.arange(length)[:, None] - torch.arange(length + 1)[None, :]).clamp(min=0)
        large = 16 + (torch.log(n.clamp(min=1).float() / 16) / math.log(128 / 16) * 16).long()
        bucket = torch.where(n < 16, n, large.clamp(max=31))
        return self.relative_attention_bias(bucket).permute(2, 0, 1)


class Prior(nn.Module):
    """Predicts clean tokens from [brain, time, noisy]; mean squared error; cosine schedule."""

    def __init__(self, *, dim: int, tokens: int, depth: int, heads: int, dim_head: int, timesteps: int) -> None:
        super().__init__()
        self.tokens, self.timesteps, self.dim = tokens, timesteps, dim
        self.net = net = nn.Module()
        hidden = 2 * dim
        mlp = nn.Module()
        mlp.net = nn.Sequential(
            nn.Sequential(nn.Linear(dim, hidden), nn.SiLU()), nn.Sequential(nn.Linear(hidden, hidden), nn.SiLU()), nn.Linear(hidden, dim)
        )  # fmt: skip
        net.to_time_embeds = nn.ModuleList([nn.ModuleList([nn.Identity(), mlp])])
        net.learned_query = nn.Parameter(torch.randn(tokens, dim))
        net.null_brain_embeds = nn.Parameter(torch.randn(tokens, dim))
        net.null_image_embed = nn.Parameter(torch.randn(tokens, dim))
        net.causal_transformer = body = nn.Module()
        body.rel_pos_bias = Positions(heads)
        body.layers = nn.ModuleList()
        for _ in range(depth):
            forward = nn.Sequential(
                Norm(dim), nn.Linear(dim, 8 * dim, bias=False), FeedForwardGate(),
                nn.Identity(), nn.Dropout(0.0), nn.Linear(4 * dim, dim, bias=False),
            )  # fmt: skip
            body.layers.append(nn.ModuleList([Attention(dim, heads, dim_head), forward]))
        body.norm, body.project_out = Norm(dim, stable=True), nn.Linear(dim, dim, bias=False)
        grid = (
            torch.cos((torch.linspace(0, timesteps, timesteps + 1).double() / timesteps + 0.008) / 1.008 * math.pi / 2)
            ** 2
        )
        betas = (1 - grid[1:] / grid[:-1]).clamp(0, 0.999)
        self.left = torch.cumprod(1 - betas, 0).float()

    def loss(self, brain: Tensor, target: Tensor, generator: torch.Generator) -> Tensor:
        batch = len(target)
        times = torch.randint(self.timesteps, (batch,), generator=generator)
        noise = torch.randn(target.shape, generator=generator)
        keep_brain, keep_image = torch.rand(2, batch, generator=generator) >= 0.2
        left = self.left[times][:, None, None]
        noisy = left.sqrt() * target + (1 - left).sqrt() * noise
        net, body = self.net, self.net.causal_transformer
        brain = torch.where(keep_brain[:, None, None], brain, net.null_brain_embeds.to(brain.dtype))
        noisy = torch.where(keep_image[:, None, None], noisy, net.null_image_embed) + net.learned_query
        rate = math.log(10000) / (self.dim // 2 - 1)
        angles = times.float()[:, None] * torch.exp(torch.arange(self.dim // 2) * -rate)
        time = net.to_time_embeds[0][1].net(torch.cat((angles.sin(), angles.cos()), dim=-1))[:, None]
        x = torch.cat((brain, time.to(brain.dtype), noisy), dim=1)
        bias = body.rel_pos_bias(x.shape[1])
        for attention, forward in body.layers:
            x = attention(x, bias) + x
            x = forward(x) + x
        predicted = body.project_out(body.norm(x))[:, -self.tokens :]
        return functional.mse_loss(predicted.float(), target)


def contrastive(p: Tensor, t: Tensor, *, temperature: float, mixed: tuple[Tensor, Tensor] | None) -> Tensor:
    """BiMixCo with (beta, permutation), or SoftCLIP."""
    p = functional.normalize(p.float().flatten(1), dim=-1)
    t = functional.normalize(t.float().flatten(1), dim=-1)
    with torch.autocast(p.device.type, enabled=False):
        logits, own = p @ t.T / temperature, t @ t.T / temperature
    if mixed is None:
        first = -(logits.log_softmax(-1) * own.softmax(-1)).sum(-1).mean()
        return (first - (logits.T.log_softmax(-1) * own.softmax(-1)).sum(-1).mean()) / 2
    shares = torch.zeros(len(p), len(p))
    for row, (beta, partner) in enumerate(zip(*mixed, strict=True)):
        shares[row, row] += beta
        shares[row, partner] += 1 - beta
    first = -(logits.log_softmax(-1) * shares).sum(-1).mean()
    return (first - (logits.T.log_softmax(-1) * shares.T).sum(-1).mean()) / 2


def trials(path: str, rows: np.ndarray, sessions: np.ndarray, mean: np.ndarray, sd: np.ndarray) -> Tensor:
    """Read rows from a memory map and scale each by its session."""
    table = np.load(path, mmap_mode="r")
    return torch.from_numpy(np.stack([(table[row] - mean[s]) / sd[s] for row, s in zip(rows, sessions, strict=True)]))
