"""MindBridge's brain network: voxels brought to one length, an encoder and a decoder a subject, everything between shared.

Wang et al., CVPR 2024 (sections 3.2 to 3.4); attribute names follow the authors' checkpoints (littlepure2333/MindBridge), with the
subject's label where theirs have a number.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..data.errors import WeightsError
from .brain_tokens import BrainTokens
from .subject_voxels import check_voxels

CODES = {
    "CHI-WT-060": "The weights of a MindBridge network have no builders, so it cannot synthesise activity.",
}

Pool = Literal["max", "avg", "linear"]


@dataclass(frozen=True, kw_only=True)
class MindBridgeConfig:
    """Sizes of a `MindBridgeNetwork`; the defaults are the published ones, but for the text head.

    Parameters
    ----------
    in_dim : int
        Length that every subject's voxels are brought to.
    pool : {"max", "avg", "linear"}
        How: adaptive pooling, or linear interpolation.
    hidden, n_blocks : int
        Width of what subjects share; blocks of the translator.
    bottleneck : int
        Of the adapters.
    tokens, width : int
        Of the image target (VD-CLIP: 257 x 768).
    text_tokens, text_width : int
        Of the text target (published: 77 x 768); 0 tokens: no text head.
    builders : bool
        Whether subjects have decoders back to voxels: for training and synthesis; single-subject inference needs none.
    """

    in_dim: int = 8192
    pool: Pool = "max"
    hidden: int = 2048
    n_blocks: int = 4
    bottleneck: int = 128
    tokens: int = 257
    width: int = 768
    text_tokens: int = 0
    text_width: int = 768
    builders: bool = True

    def __post_init__(self) -> None:
        names = ("in_dim", "hidden", "n_blocks", "bottleneck", "tokens", "width", "text_width")
        wrong = [f"{name} must be >= 1, got {getattr(self, name)}" for name in names if getattr(self, name) < 1]
        if self.text_tokens < 0:
            wrong.append(f"text_tokens must be >= 0, got {self.text_tokens}")
        if self.pool not in get_args(Pool):
            wrong.append(f"pool must be one of {get_args(Pool)}, got {self.pool!r}")
        if wrong:
            raise ValueError("; ".join(wrong))


def unified_voxels(voxels: Tensor, length: int, pool: Pool = "max") -> Tensor:
    """Bring voxel vectors to one length; neighbours in the mask's order share a window.

    Parameters
    ----------
    voxels : Tensor, shape (B, V)
        V may be smaller than ``length``: windows then repeat voxels.
    length : int
    pool : {"max", "avg", "linear"}
        Maximum or mean of voxels floor(j V / length) to ceil((j + 1) V / length) - 1, or linear interpolation at half-pixel centres.

    Returns
    -------
    Tensor, shape (B, length)
    """
    if voxels.shape[1] == length:
        return voxels
    row = voxels[:, None]
    if pool == "max":
        return functional.adaptive_max_pool1d(row, length)[:, 0]
    if pool == "avg":
        return functional.adaptive_avg_pool1d(row, length)[:, 0]
    return functional.interpolate(row, size=length, mode="linear", align_corners=False)[:, 0]


def divided_by_first(tokens: Tensor) -> Tensor:
    """Divide (B, N, d) by the norm of each item's first token: what the authors do to predicted tokens before decoding."""
    length: Tensor = tokens[:, :1].norm(dim=-1, keepdim=True)
    return tokens / (length + 1e-6)


class Adapter(nn.Module):
    """Bottleneck with a skip, the identity until it is trained."""

    def __init__(self, width: int, bottleneck: int) -> None:
        super().__init__()
        self.down_proj = nn.Linear(width, bottleneck)
        self.up_proj = nn.Linear(bottleneck, width)
        nn.init.zeros_(self.down_proj.bias)
        nn.init.zeros_(self.up_proj.weight)
        nn.init.zeros_(self.up_proj.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, width) to the same shape."""
        return x + self.up_proj(functional.relu(self.down_proj(x)))  # type: ignore[no-any-return]


class _Translator(nn.Module):
    def __init__(self, hidden: int, n_blocks: int) -> None:
        super().__init__()
        self.mlp = nn.ModuleList(
            nn.Sequential(nn.Linear(hidden, hidden), nn.LayerNorm(hidden), nn.GELU(), nn.Dropout(0.15))
            for _ in range(n_blocks)
        )

    def forward(self, x: Tensor) -> Tensor:
        for block in self.mlp:
            x = x + block(x)
        return x


class MindBridgeNetwork(nn.Module):
    """The network.

    Parameters
    ----------
    config : MindBridgeConfig
    n_voxels : mapping of str to int
        Subject -> voxels.
    """

    def __init__(self, config: MindBridgeConfig, n_voxels: Mapping[str, int]) -> None:
        super().__init__()
        self.config, self.n_voxels = config, dict(n_voxels)
        self.newcomer: str | None = None
        self.embedder = nn.ModuleDict({label: _embedder(config) for label in n_voxels})
        self.translator = _Translator(config.hidden, config.n_blocks)
        self.head_image = nn.Linear(config.hidden, config.tokens * config.width)
        text = config.text_tokens * config.text_width
        self.head_text = nn.Linear(config.hidden, text) if text else None
        self.builder = nn.ModuleDict({label: _builder(config) for label in n_voxels} if config.builders else {})

    @property
    def subjects(self) -> tuple[str, ...]:
        """Labels of the subjects."""
        return tuple(self.n_voxels)

    def add_subject(self, label: str, n_voxels: int) -> None:
        """Give a newcomer a fresh embedder and builder, where the others' are.

        Raises
        ------
        ValueError
            Where the label is taken.
        """
        if label in self.n_voxels:
            raise ValueError(f"subject '{label}' is there already")
        like = self.head_image.weight
        self.embedder[label] = _embedder(self.config).to(like.device, like.dtype)
        if self.config.builders:
            self.builder[label] = _builder(self.config).to(like.device, like.dtype)
        self.n_voxels[label] = n_voxels

    def subject_parameters(self, subject: str) -> list[nn.Parameter]:
        """Return what belongs to one subject alone."""
        parts = [self.embedder[subject], *([self.builder[subject]] if self.config.builders else [])]
        return [parameter for part in parts for parameter in part.parameters()]

    def freeze_shared(self, newcomer: str) -> None:
        """Leave only one subject's embedder and builder to train (reset-tuning); its cycle then ends in this subject."""
        self.requires_grad_(False)
        for parameter in self.subject_parameters(newcomer):
            parameter.requires_grad_(True)
        self.newcomer = newcomer

    def unified(self, voxels: Tensor, subject: str) -> Tensor:
        """Bring one subject's voxels (B, V) to the common length, (B, in_dim).

        Raises
        ------
        WeightsError
            ``CHI-WT-050`` another number of voxels, ``CHI-WT-051`` an unknown subject.
        """
        check_voxels(voxels, subject, self.n_voxels)
        return unified_voxels(voxels, self.config.in_dim, self.config.pool)

    def embed(self, voxels: Tensor, subject: str) -> Tensor:
        """Map one subject's voxels (B, V) to embeddings (B, hidden).

        Embeddings of several subjects may be joined along the batch for one `decode`.
        """
        return self.embed_unified(self.unified(voxels, subject), subject)

    def embed_unified(self, unified: Tensor, subject: str) -> Tensor:
        """Map voxels of the common length, (B, in_dim), for instance synthesised ones, to embeddings (B, hidden)."""
        embedded: Tensor = self.embedder[subject](unified)
        return embedded

    def decode(self, embedded: Tensor) -> BrainTokens:
        """Map embeddings (B, hidden) to image tokens and, where there is a head for them, text tokens."""
        shared, config = self.translator(embedded), self.config
        tokens = self.head_image(shared).unflatten(1, (config.tokens, config.width))
        text = None
        if self.head_text is not None:
            text = self.head_text(shared).unflatten(1, (config.text_tokens, config.text_width))
        return BrainTokens(tokens=tokens, projected=tokens, text=text)

    def forward(self, voxels: Tensor, subject: str) -> BrainTokens:
        """Map one subject's voxels, (B, V), to tokens."""
        return self.decode(self.embed(voxels, subject))

    def build(self, embedded: Tensor, subject: str) -> Tensor:
        """Map embeddings (B, hidden) to the activity that a subject would have, (B, in_dim).

        Raises
        ------
        WeightsError
            ``CHI-WT-060`` weights without builders, ``CHI-WT-051`` an unknown subject.
        """
        if not self.config.builders:
            raise WeightsError(
                "CHI-WT-060",
                "these weights have no builders, the parts that lead back to voxels.",
                "Take the weights of a model that was trained with them (a multi-subject one).",
            )
        check_voxels(embedded.new_empty(self.n_voxels.get(subject, 0)), subject, self.n_voxels)
        built: Tensor = self.builder[subject](embedded)
        return built

    def synthesise(self, voxels: Tensor, *, source: str, target: str) -> Tensor:
        """Turn one person's voxels (B, V) into another's activity, (B, in_dim): builder of the one after embedder of the other."""
        return self.build(self.embed(voxels, source), target)

    def rebuild_loss(self, voxels: Mapping[str, Tensor], *, embedded: Mapping[str, Tensor] | None = None) -> Tensor:
        """Mean squared error of every subject's own builder after its own embedder.

        Parameters
        ----------
        voxels : mapping of str to Tensor, shape (b, V)
        embedded : mapping of str to Tensor, shape (b, hidden), optional
            From `embed`, so that one pass (and one draw of dropout) serves all losses, as published.
        """
        known = self._embedded(voxels, embedded)
        rebuilt = torch.cat([self.build(known[label], label) for label in voxels])
        truth = torch.cat([self.unified(values, label) for label, values in voxels.items()])
        return functional.mse_loss(rebuilt, truth)

    def cycle_loss(
        self,
        voxels: Mapping[str, Tensor],
        *,
        generator: torch.Generator | None = None,
        pair: tuple[str, str] | None = None,
        embedded: Mapping[str, Tensor] | None = None,
    ) -> Tensor:
        """Mean squared error between a's embedding and the one that b's builder and embedder make of it.

        Parameters
        ----------
        voxels : mapping of str to Tensor, shape (b, V)
            Of two subjects or more.
        generator : torch.Generator, optional
            Draws the ordered pair (a, b); processes that train one model must use the same.
        pair : (str, str), optional
            a and b instead of a draw. After `freeze_shared`: the first other subject and the newcomer.
        embedded : mapping of str to Tensor, shape (b, hidden), optional
            As in `rebuild_loss`.

        Raises
        ------
        ValueError
            Where there are fewer than two subjects.
        """
        labels = list(voxels)
        if len(labels) < 2:
            raise ValueError(f"a cycle goes over two subjects, got {len(labels)}")
        if pair is None and self.newcomer in labels:
            pair = next(label for label in labels if label != self.newcomer), self.newcomer
        if pair is None:
            a, b = torch.randperm(len(labels), generator=generator)[:2].tolist()
            pair = labels[a], labels[b]
        source, target = pair
        start = self._embedded({source: voxels[source]}, embedded)[source]
        return functional.mse_loss(self.embed_unified(self.build(start, target), target), start)

    def _embedded(self, voxels: Mapping[str, Tensor], embedded: Mapping[str, Tensor] | None) -> Mapping[str, Tensor]:
        return embedded or {label: self.embed(values, label) for label, values in voxels.items()}


def _embedder(config: MindBridgeConfig) -> nn.Sequential:
    return nn.Sequential(
        Adapter(config.in_dim, config.bottleneck),
        nn.Linear(config.in_dim, config.hidden),
        nn.LayerNorm(config.hidden),
        nn.GELU(),
        nn.Dropout(0.5),
    )


def _builder(config: MindBridgeConfig) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(config.hidden, config.in_dim),
        nn.LayerNorm(config.in_dim),
        nn.GELU(),
        Adapter(config.in_dim, config.bottleneck),
    )
