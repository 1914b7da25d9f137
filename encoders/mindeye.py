"""MindEye's brain network: a residual MLP from one subject's voxels to image tokens, and a projector for retrieval.

Scotti et al. 2023, section 3.1 and appendix A.4; attribute names follow the authors' checkpoints
(MedARC-AI/fMRI-reconstruction-NSD).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from torch import Tensor, nn

from .brain_tokens import BrainTokens
from .projectors import token_projector
from .subject_voxels import check_voxels, only_subject

Norm = Literal["ln", "bn"]


@dataclass(frozen=True, kw_only=True)
class MindEyeConfig:
    """Sizes of a `MindEyeNetwork`; the defaults are the published ones.

    Parameters
    ----------
    hidden, n_blocks : int
    tokens, width : int
        Of the target space (Versatile Diffusion's CLIP tokens: 257 x 768).
    norm : {'ln', 'bn'}
        LayerNorm with GELU, or BatchNorm with ReLU.
    act_first : bool
        Whether the activation stands before the norm.
    projector : bool
        Whether contrastive losses and retrieval have a head of their own.
    projector_hidden : int
    dropout_first, dropout : float
        Of the first layer and of the blocks.
    """

    hidden: int = 4096
    n_blocks: int = 4
    tokens: int = 257
    width: int = 768
    norm: Norm = "ln"
    act_first: bool = False
    projector: bool = True
    projector_hidden: int = 2048
    dropout_first: float = 0.5
    dropout: float = 0.15

    def __post_init__(self) -> None:
        if self.norm not in get_args(Norm):
            raise ValueError(f"norm must be one of {', '.join(get_args(Norm))}; got '{self.norm}'")
        sizes = {name: getattr(self, name) for name in ("hidden", "tokens", "width", "projector_hidden")}
        if wrong := [f"{name} = {size}" for name, size in sizes.items() if size < 1]:
            raise ValueError(f"sizes must be >= 1, got {', '.join(wrong)}")


class MindEyeNetwork(nn.Module):
    """The network of one subject.

    Parameters
    ----------
    config : MindEyeConfig
    n_voxels : mapping of str to int
        One subject -> its voxels.

    Raises
    ------
    ValueError
        For more subjects than one.
    """

    def __init__(self, config: MindEyeConfig, n_voxels: Mapping[str, int]) -> None:
        super().__init__()
        self.config, self.n_voxels = config, dict(n_voxels)
        self.lin0 = _unit(only_subject(n_voxels), config, config.dropout_first)
        self.mlp = nn.ModuleList([_unit(config.hidden, config, config.dropout) for _ in range(config.n_blocks)])
        self.lin1 = nn.Linear(config.hidden, config.tokens * config.width)
        self.projector = token_projector(config.width, config.projector_hidden) if config.projector else None

    @property
    def subjects(self) -> tuple[str, ...]:
        """The subject's label."""
        return tuple(self.n_voxels)

    def add_subject(self, label: str, n_voxels: int) -> None:
        """Raise ValueError: each subject has a whole network of its own."""
        raise ValueError(f"MindEye has one network a subject; '{label}' ({n_voxels} voxels) needs another one")

    def subject_parameters(self, subject: str) -> list[nn.Parameter]:
        """Return every parameter: all belong to the one subject."""
        return list(self.parameters()) if subject in self.n_voxels else []

    def forward(self, voxels: Tensor, subject: str) -> BrainTokens:
        """Map voxels (B, V) to tokens (B, tokens, width).

        Raises
        ------
        WeightsError
            ``CHI-WT-050`` another number of voxels, ``CHI-WT-051`` another subject.
        """
        check_voxels(voxels, subject, self.n_voxels)
        x = self.lin0(voxels)
        for block in self.mlp:
            x = block(x) + x
        tokens = self.lin1(x).unflatten(1, (self.config.tokens, self.config.width))
        return BrainTokens(tokens=tokens, projected=tokens if self.projector is None else self.projector(tokens))


def _unit(n_in: int, config: MindEyeConfig, dropout: float) -> nn.Sequential:
    layered = config.norm == "ln"
    norm: nn.Module = nn.LayerNorm(config.hidden) if layered else nn.BatchNorm1d(config.hidden)
    activation: nn.Module = nn.GELU() if layered else nn.ReLU()
    order = (activation, norm) if config.act_first else (norm, activation)
    return nn.Sequential(nn.Linear(n_in, config.hidden), *order, nn.Dropout(dropout))
