"""Class-token vision transformer that can pass the relevance of a class back to its attention maps and pixels.

State-dict keys are those of ``timm`` and of the authors' ``VisionTransformer`` (``blocks.0.attn.qkv.weight``), so
published weights load as they are.

Source: Chefer, Gur & Wolf, CVPR 2021; ``baselines/ViT/ViT_LRP`` of the authors' code.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .attention_rollout import attention_rollout, class_token_row
from .lrp_rules import add_rule, bounded_conv_rule, clone_rule, conv_rule, einsum_rule, linear_rule, select_rule


@dataclass(frozen=True, kw_only=True)
class RelevanceViTConfig:
    """Sizes of a `RelevanceViT`.

    Parameters
    ----------
    image_size, patch_size : int
        In pixels; images are square.
    in_channels, n_classes, width, depth, n_heads : int
    mlp_ratio : float
        Hidden width of the feed-forward part over `width`.
    qkv_bias : bool
    """

    image_size: int = 224
    patch_size: int = 16
    in_channels: int = 3
    n_classes: int = 1000
    width: int = 768
    depth: int = 12
    n_heads: int = 12
    mlp_ratio: float = 4.0
    qkv_bias: bool = True

    def __post_init__(self) -> None:
        if self.image_size % self.patch_size:
            raise ValueError(f"image_size {self.image_size} is no multiple of patch_size {self.patch_size}")
        if self.width % self.n_heads:
            raise ValueError(f"width {self.width} is no multiple of n_heads {self.n_heads}")


@dataclass(frozen=True, kw_only=True)
class VitRelevance:
    """What one class's relevance left in a network, for B images with P patches.

    Parameters
    ----------
    logits : Tensor, shape (B, C)
    target : Tensor of int, shape (B,)
        Class that is explained.
    attention, gradient, relevance : tuple of Tensor, shape (B, H, P + 1, P + 1)
        One a layer: the softmax, the gradient of the class's logit with respect to it, its relevance.
    pixels : Tensor, shape (B, S, S)
        Relevance of the pixels, summed over channels.
    """

    logits: Tensor
    target: Tensor
    attention: tuple[Tensor, ...]
    gradient: tuple[Tensor, ...]
    relevance: tuple[Tensor, ...]
    pixels: Tensor

    def transformer_attribution(self, *, start: int = 0) -> Tensor:
        """Rollout of mean over heads of max(gradient x relevance, 0): the paper's method, (B, P)."""
        maps = [(g * r).clamp(min=0).mean(1) for g, r in zip(self.gradient, self.relevance, strict=True)]
        return class_token_row(attention_rollout(maps, start=start, normalise=False))

    def relevance_rollout(self, *, start: int = 0) -> Tensor:
        """Rollout of the heads' mean of max(relevance, 0), without gradients, (B, P)."""
        maps = [relevance.clamp(min=0).mean(1) for relevance in self.relevance]
        return class_token_row(attention_rollout(maps, start=start, normalise=False))

    def layer(self, index: int = -1, *, with_gradient: bool = False) -> Tensor:
        """Relevance of one layer's attention, by itself or times its gradient, (B, P)."""
        maps = self.relevance[index] * self.gradient[index] if with_gradient else self.relevance[index]
        return class_token_row(maps.clamp(min=0).mean(1))

    def raw_attention(self, index: int = -1) -> Tensor:
        """Heads' mean of one layer's attention, (B, P): a baseline, the same for every class."""
        return class_token_row(self.attention[index].clamp(min=0).mean(1))


class _Attention(nn.Module):
    def __init__(self, config: RelevanceViTConfig) -> None:
        super().__init__()
        self.n_heads = config.n_heads
        self.qkv = nn.Linear(config.width, 3 * config.width, bias=config.qkv_bias)
        self.proj = nn.Linear(config.width, config.width)

    def forward(self, x: Tensor, keep: dict[str, Tensor]) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.n_heads, -1)).permute(2, 0, 3, 1, 4)
        attention = (torch.einsum("bhid,bhjd->bhij", q, k) * q.shape[-1] ** -0.5).softmax(-1)
        mixed = torch.einsum("bhij,bhjd->bhid", attention, v)
        joined = mixed.transpose(1, 2).flatten(2)
        keep.update(attention_in=x, q=q, k=k, v=v, attention=attention, joined=joined)
        return torch.as_tensor(self.proj(joined))

    def propagate(self, relevance: Tensor, kept: dict[str, Tensor], alpha: float) -> Tensor:
        joined = linear_rule(kept["joined"], self.proj.weight, relevance, alpha=alpha)
        heads = joined.reshape(*joined.shape[:2], self.n_heads, -1).transpose(1, 2)
        to_attention, to_v = einsum_rule("bhij,bhjd->bhid", kept["attention"], kept["v"], heads)
        kept["attention_relevance"] = to_attention / 2
        # both operands come from one input, at each of the two products: each gets half
        to_q, to_k = einsum_rule("bhid,bhjd->bhij", kept["q"], kept["k"], to_attention / 2)
        parts = torch.stack([to_q / 2, to_k / 2, to_v / 2])
        qkv = parts.permute(1, 3, 0, 2, 4).flatten(2)
        return linear_rule(kept["attention_in"], self.qkv.weight, qkv, alpha=alpha)


class _Mlp(nn.Module):
    def __init__(self, config: RelevanceViTConfig) -> None:
        super().__init__()
        hidden = int(config.width * config.mlp_ratio)
        self.fc1 = nn.Linear(config.width, hidden)
        self.fc2 = nn.Linear(hidden, config.width)

    def forward(self, x: Tensor, keep: dict[str, Tensor]) -> Tensor:
        hidden = F.gelu(self.fc1(x))
        keep.update(mlp_in=x, hidden=hidden)
        return torch.as_tensor(self.fc2(hidden))

    def propagate(self, relevance: Tensor, kept: dict[str, Tensor], alpha: float) -> Tensor:
        hidden = linear_rule(kept["hidden"], self.fc2.weight, relevance, alpha=alpha)
        return linear_rule(kept["mlp_in"], self.fc1.weight, hidden, alpha=alpha)


class _Block(nn.Module):
    def __init__(self, config: RelevanceViTConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.width, eps=1e-6)
        self.attn = _Attention(config)
        self.norm2 = nn.LayerNorm(config.width, eps=1e-6)
        self.mlp = _Mlp(config)

    def forward(self, x: Tensor, keep: dict[str, Tensor]) -> Tensor:
        attended = self.attn(self.norm1(x), keep)
        middle = x + attended
        fed = self.mlp(self.norm2(middle), keep)
        keep.update(x=x, attended=attended, middle=middle, fed=fed)
        return torch.as_tensor(middle + fed)

    def propagate(self, relevance: Tensor, kept: dict[str, Tensor], alpha: float) -> Tensor:
        straight, through = add_rule(kept["middle"], kept["fed"], relevance, per_case=True)
        relevance = clone_rule(kept["middle"], straight, self.mlp.propagate(through, kept, alpha))
        straight, through = add_rule(kept["x"], kept["attended"], relevance, per_case=True)
        return clone_rule(kept["x"], straight, self.attn.propagate(through, kept, alpha))


class _PatchEmbedding(nn.Module):
    def __init__(self, config: RelevanceViTConfig) -> None:
        super().__init__()
        self.proj = nn.Conv2d(config.in_channels, config.width, config.patch_size, stride=config.patch_size)

    def forward(self, x: Tensor) -> Tensor:
        return torch.as_tensor(self.proj(x)).flatten(2).transpose(1, 2)


class RelevanceViT(nn.Module):
    """Vision transformer with a class token, and its relevance propagation.

    Parameters
    ----------
    config : RelevanceViTConfig
    """

    def __init__(self, config: RelevanceViTConfig) -> None:
        super().__init__()
        self.config = config
        n_patches = (config.image_size // config.patch_size) ** 2
        self.patch_embed = _PatchEmbedding(config)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.width))
        self.pos_embed = nn.Parameter(torch.randn(1, n_patches + 1, config.width) * 0.02)
        self.blocks = nn.ModuleList(_Block(config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.width)  # eps 1e-5 here and 1e-6 in the blocks, as published
        self.head = nn.Linear(config.width, config.n_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, C) of images (B, C_in, S, S)."""
        return self._forward(x)[0]

    def _forward(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor], list[dict[str, Tensor]]]:
        size = (self.config.in_channels, self.config.image_size, self.config.image_size)
        if x.ndim != 4 or tuple(x.shape[1:]) != size:
            raise ValueError(f"images of shape (B, {', '.join(map(str, size))}), not {tuple(x.shape)}")
        patches = torch.cat([self.cls_token.expand(len(x), -1, -1), self.patch_embed(x)], 1)
        tokens = patches + self.pos_embed
        kept: list[dict[str, Tensor]] = []
        for block in self.blocks:
            kept.append({})
            tokens = block(tokens, kept[-1])
        normed = self.norm(tokens)
        return self.head(normed[:, 0]), {"patches": patches, "normed": normed}, kept

    def explain(self, x: Tensor, target: Sequence[int] | int | None = None, *, alpha: float = 1.0) -> VitRelevance:
        """Pass the relevance of one class back through the network.

        Parameters
        ----------
        x : Tensor, shape (B, C_in, S, S)
        target : int or sequence of int, optional
            Class to explain, for all images or one each. Default: the most probable.
        alpha : float
            Of the alpha-beta rule.

        Returns
        -------
        VitRelevance
            Detached from the graph. A case's maps do not depend on the other cases of its batch.
        """
        if self.training:
            raise ValueError("explain works in evaluation mode")
        with torch.enable_grad():
            logits, outer, kept = self._forward(x.detach().requires_grad_())
            wanted = logits.argmax(-1) if target is None else torch.as_tensor(target, device=x.device).expand(len(x))
            score = logits.gather(1, wanted[:, None]).sum()
            gradients = torch.autograd.grad(score, [layer["attention"] for layer in kept])
        with torch.no_grad():
            relevance = F.one_hot(wanted, logits.shape[-1]).to(logits.dtype)
            relevance = linear_rule(outer["normed"][:, 0], self.head.weight, relevance, alpha=alpha)[:, None]
            relevance = select_rule(outer["normed"], relevance)
            for block, layer in zip(reversed(self.blocks), reversed(kept), strict=True):
                relevance = block.propagate(relevance, layer, alpha)  # type: ignore[operator]
            pixels = self._to_pixels(x, outer["patches"], relevance, alpha)
        return VitRelevance(
            logits=logits.detach(),
            target=wanted,
            attention=tuple(layer["attention"].detach() for layer in kept),
            gradient=gradients,
            relevance=tuple(layer["attention_relevance"].detach() for layer in kept),
            pixels=pixels,
        )

    def _to_pixels(self, x: Tensor, patches: Tensor, relevance: Tensor, alpha: float) -> Tensor:
        to_patches = add_rule(patches, self.pos_embed.expand_as(patches), relevance, per_case=True)[0][:, 1:]
        side = self.config.image_size // self.config.patch_size
        grid = to_patches.transpose(1, 2).reshape(len(x), -1, side, side)
        weight, stride = self.patch_embed.proj.weight, self.config.patch_size
        if self.config.in_channels == 3:  # only a colour image has bounds that are known, as published
            return bounded_conv_rule(x, weight, grid, stride=stride).sum(1)
        return conv_rule(x, weight, grid, stride=stride, alpha=alpha).sum(1)
