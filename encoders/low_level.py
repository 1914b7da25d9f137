"""MindEye's low-level network: one subject's voxels to the latents of Stable Diffusion's auto-encoder, i.e. a blurry image.

Scotti et al. 2023, appendix A.5; attribute names follow the authors' checkpoints (``Voxel2StableDiffusionModel``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from .brain_tokens import BrainTokens
from .low_level_upsampler import LowLevelUpsampler, LowLevelUpsamplerConfig
from .projectors import maps_projector
from .subject_voxels import check_voxels, only_subject


@dataclass(frozen=True, kw_only=True)
class LowLevelConfig:
    """Sizes of a `LowLevelNetwork`; the defaults are those of the published subject 1 (upsampling by 4).

    Parameters
    ----------
    hidden, n_blocks : int
    channels, side : int
        Of the map that enters the upsampler. Upsampling by 8: 256 and 8; by 16: 512 and 4.
    widths : tuple of int
        Levels of the upsampler. By 8: 64, 128, 256, 256; by 16: 64, 128, 256, 256, 512.
    latent_channels : int
    auxiliary : int
        Width of the features for a convolutional teacher; 0: the normalised map itself.
    dropout_first, dropout : float
    norm_groups : int
        In the upsampler.
    """

    hidden: int = 4096
    n_blocks: int = 4
    channels: int = 64
    side: int = 16
    widths: tuple[int, ...] = (64, 128, 256)
    latent_channels: int = 4
    auxiliary: int = 512
    dropout_first: float = 0.5
    dropout: float = 0.25
    norm_groups: int = 32

    @property
    def latents(self) -> tuple[int, int, int]:
        """Shape of the latents: channels, height, width."""
        side = self.side * 2 ** (len(self.widths) - 1)
        return self.latent_channels, side, side


class LowLevelNetwork(nn.Module):
    """The network of one subject.

    Parameters
    ----------
    config : LowLevelConfig
    n_voxels : mapping of str to int
        One subject -> its voxels.

    Raises
    ------
    ValueError
        For more subjects than one.
    """

    def __init__(self, config: LowLevelConfig, n_voxels: Mapping[str, int]) -> None:
        super().__init__()
        self.config, self.n_voxels = config, dict(n_voxels)
        self.lin0 = _unit(only_subject(n_voxels), config.hidden, config.dropout_first)
        self.mlp = nn.ModuleList([_unit(config.hidden, config.hidden, config.dropout) for _ in range(config.n_blocks)])
        self.lin1 = nn.Linear(config.hidden, config.channels * config.side**2, bias=False)
        self.norm = nn.GroupNorm(1, config.channels)
        self.upsampler = LowLevelUpsampler(
            LowLevelUpsamplerConfig(
                in_channels=config.channels,
                out_channels=config.latent_channels,
                widths=config.widths,
                norm_groups=config.norm_groups,
            )
        )
        self.maps_projector = maps_projector(config.channels, config.auxiliary) if config.auxiliary else nn.Identity()

    @property
    def subjects(self) -> tuple[str, ...]:
        """The subject's label."""
        return tuple(self.n_voxels)

    def add_subject(self, label: str, n_voxels: int) -> None:
        """Raise ValueError: each subject has a whole network of its own."""
        raise ValueError(f"one low-level network a subject; '{label}' ({n_voxels} voxels) needs another one")

    def subject_parameters(self, subject: str) -> list[nn.Parameter]:
        """Return every parameter: all belong to the one subject."""
        return list(self.parameters()) if subject in self.n_voxels else []

    def forward(self, voxels: Tensor, subject: str) -> BrainTokens:
        """Map voxels (B, V) to latents (B, c, h, w) and auxiliary features (B, side * side, auxiliary).

        The tokens are the latents, one token a position: (B, h * w, c).

        Raises
        ------
        WeightsError
            ``CHI-WT-050`` another number of voxels, ``CHI-WT-051`` another subject.
        """
        check_voxels(voxels, subject, self.n_voxels)
        x = self.lin0(voxels)
        for block in self.mlp:
            x = block(x) + x
        maps = self.norm(self.lin1(x).unflatten(1, (self.config.channels, self.config.side, self.config.side)))
        latents = self.upsampler(maps)
        tokens = latents.flatten(2).mT
        auxiliary = self.maps_projector(maps).flatten(2).mT
        return BrainTokens(tokens=tokens, projected=tokens, latents=latents, auxiliary=auxiliary)


def _unit(n_in: int, n_out: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(nn.Linear(n_in, n_out, bias=False), nn.LayerNorm(n_out), nn.SiLU(), nn.Dropout(dropout))
