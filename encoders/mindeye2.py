"""MindEye2's brain network: a linear layer a subject, a shared mixer, tokens, a projector, and a low-level branch.

Scotti et al. 2024, section 2.2 and appendix A.3; attribute names follow the authors' checkpoints (MedARC-AI/MindEyeV2).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from .brain_tokens import BrainTokens
from .low_level_upsampler import LowLevelUpsampler, LowLevelUpsamplerConfig
from .projectors import maps_projector, token_projector
from .subject_voxels import check_voxels


@dataclass(frozen=True, kw_only=True)
class LowLevelHeadConfig:
    """Sizes of MindEye2's low-level branch; the defaults are the published ones.

    Parameters
    ----------
    channels, side : int
        Of the map that is made from the hidden vector.
    widths : tuple of int
        Levels of the upsampler, each but the first doubling the side; none: one 3x3 convolution in its place.
    latent_channels : int
    auxiliary : int
        Width of the features for a convolutional teacher; 0: none.
    dropout : float
    norm_groups : int
        In the upsampler.
    """

    channels: int = 64
    side: int = 7
    widths: tuple[int, ...] = (32, 64, 128)
    latent_channels: int = 4
    auxiliary: int = 512
    dropout: float = 0.3
    norm_groups: int = 32

    @property
    def latents(self) -> tuple[int, int, int]:
        """Shape of the latents: channels, height, width."""
        side = self.side * 2 ** max(len(self.widths) - 1, 0)
        return self.latent_channels, side, side


@dataclass(frozen=True, kw_only=True)
class MindEye2Config:
    """Sizes of a `MindEye2Network`; the defaults are the published ones.

    Parameters
    ----------
    hidden : int
        4096, or 1024 in the small published variant.
    n_blocks : int
        Pairs of mixer blocks.
    sequence : int
        Trials that enter together; 1 in everything published.
    tokens, width : int
        Of the target space (bigG: 256 x 1664).
    projector : bool
        Whether contrastive losses and retrieval have a head of their own.
    projector_hidden : int, optional
        Default: `width`.
    dropout : float
    low_level : LowLevelHeadConfig, optional
        None: no low-level branch.
    """

    hidden: int = 4096
    n_blocks: int = 4
    sequence: int = 1
    tokens: int = 256
    width: int = 1664
    projector: bool = True
    projector_hidden: int | None = None
    dropout: float = 0.15
    low_level: LowLevelHeadConfig | None = None

    def __post_init__(self) -> None:
        sizes = {name: getattr(self, name) for name in ("hidden", "n_blocks", "sequence", "tokens", "width")}
        if wrong := [f"{name} = {size}" for name, size in sizes.items() if size < 1]:
            raise ValueError(f"sizes must be >= 1, got {', '.join(wrong)}")


class MindEye2Network(nn.Module):
    """The network.

    Parameters
    ----------
    config : MindEye2Config
    n_voxels : mapping of str to int
        Subject -> voxels, in the order of the checkpoint's ``ridge.linears``.
    """

    def __init__(self, config: MindEye2Config, n_voxels: Mapping[str, int]) -> None:
        super().__init__()
        self.config, self.n_voxels = config, dict(n_voxels)
        self.ridge = _SubjectLinears(config.hidden, list(self.n_voxels.values()))
        self.backbone = _Backbone(config)

    @property
    def subjects(self) -> tuple[str, ...]:
        """Labels in the order of the linear layers."""
        return tuple(self.n_voxels)

    def add_subject(self, label: str, n_voxels: int) -> None:
        """Give a newcomer a fresh linear layer, where the others' are.

        Raises
        ------
        ValueError
            Where the label is taken.
        """
        if label in self.n_voxels:
            raise ValueError(f"subject '{label}' is there already")
        like = self.backbone.backbone_linear.weight
        self.ridge.linears.append(nn.Linear(n_voxels, self.config.hidden, device=like.device, dtype=like.dtype))
        self.n_voxels[label] = n_voxels

    def subject_parameters(self, subject: str) -> list[nn.Parameter]:
        """Return what belongs to one subject alone."""
        return list(self._linear(subject).parameters())

    def embed(self, voxels: Tensor, subject: str) -> Tensor:
        """Map one subject's voxels, (B, V) or (B, sequence, V), to (B, sequence, hidden).

        Embeddings of several subjects may be joined along the batch for one `decode`.

        Raises
        ------
        WeightsError
            ``CHI-WT-050`` another number of voxels, ``CHI-WT-051`` an unknown subject.
        """
        check_voxels(voxels, subject, self.n_voxels)
        embedded: Tensor = self._linear(subject)(voxels if voxels.dim() == 3 else voxels[:, None])
        return embedded

    def decode(self, embedded: Tensor) -> BrainTokens:
        """Map embeddings (B, sequence, hidden) to tokens (B, tokens, width) and what the branches give."""
        answer: BrainTokens = self.backbone(embedded)
        return answer

    def forward(self, voxels: Tensor, subject: str) -> BrainTokens:
        """Map one subject's voxels, (B, V) or (B, sequence, V), to tokens."""
        return self.decode(self.embed(voxels, subject))

    def _linear(self, subject: str) -> nn.Module:
        return self.ridge.linears[self.subjects.index(subject)]


class _SubjectLinears(nn.Module):
    def __init__(self, hidden: int, n_voxels: list[int]) -> None:
        super().__init__()
        self.linears = nn.ModuleList([nn.Linear(voxels, hidden) for voxels in n_voxels])


class _Backbone(nn.Module):
    def __init__(self, config: MindEye2Config) -> None:
        super().__init__()
        self.config = config
        hidden, width, length = config.hidden, config.width, config.sequence
        self.mixer_blocks1 = nn.ModuleList([_mixer_block(hidden, config.dropout) for _ in range(config.n_blocks)])
        self.mixer_blocks2 = nn.ModuleList([_mixer_block(length, config.dropout) for _ in range(config.n_blocks)])
        self.backbone_linear = nn.Linear(hidden * length, config.tokens * width)
        self.clip_proj = token_projector(width, config.projector_hidden or width) if config.projector else None
        if config.low_level is not None:
            low = config.low_level
            self.blin1 = nn.Linear(hidden * length, low.channels * low.side**2)
            self.bdropout = nn.Dropout(low.dropout)
            self.bnorm = nn.GroupNorm(1, low.channels)
            self.bupsampler = _upsampler(low)
            self.b_maps_projector = maps_projector(low.channels, low.auxiliary) if low.auxiliary else None

    def forward(self, x: Tensor) -> BrainTokens:
        if x.shape[1] != self.config.sequence:
            raise ValueError(f"{x.shape[1]} trials enter together, the network takes {self.config.sequence}")
        mixed = self._mixed(x).flatten(1)
        tokens = self.backbone_linear(mixed).unflatten(1, (self.config.tokens, self.config.width))
        projected = tokens if self.clip_proj is None else self.clip_proj(tokens)
        latents, auxiliary = self._low_level(mixed)
        return BrainTokens(tokens=tokens, projected=projected, latents=latents, auxiliary=auxiliary)

    def _mixed(self, x: Tensor) -> Tensor:
        """Mix hidden units and the sequence in turn, (B, s, h) to the same shape.

        Each kind of block adds its own last output, not the running x: two residual streams, as in the authors' code.
        """
        units, steps = x, x.mT
        for over_units, over_steps in zip(self.mixer_blocks1, self.mixer_blocks2, strict=True):
            units = over_units(x) + units
            steps = over_steps(units.mT) + steps
            x = steps.mT
        return x

    def _low_level(self, mixed: Tensor) -> tuple[Tensor | None, Tensor | None]:
        low = self.config.low_level
        if low is None:
            return None, None
        maps = self.bnorm(self.bdropout(self.blin1(mixed)).unflatten(1, (low.channels, low.side, low.side)))
        auxiliary = None if self.b_maps_projector is None else self.b_maps_projector(maps).flatten(2).mT
        return self.bupsampler(maps), auxiliary


def _mixer_block(width: int, dropout: float) -> nn.Sequential:
    inner = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Dropout(dropout), nn.Linear(width, width))
    return nn.Sequential(nn.LayerNorm(width), inner)


def _upsampler(low: LowLevelHeadConfig) -> nn.Module:
    if not low.widths:
        return nn.Conv2d(low.channels, low.latent_channels, 3, padding=1)
    config = LowLevelUpsamplerConfig(
        in_channels=low.channels, out_channels=low.latent_channels, widths=low.widths, norm_groups=low.norm_groups
    )
    return LowLevelUpsampler(config)
