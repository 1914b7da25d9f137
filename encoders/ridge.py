"""A linear brain network: one ridge regression a subject from voxels to tokens, the baseline of every other network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .brain_tokens import BrainTokens
from .ridge_solver import RidgeSolution
from .subject_voxels import check_voxels


@dataclass(frozen=True, kw_only=True)
class RidgeNetworkConfig:
    """Sizes of the target space.

    Parameters
    ----------
    tokens, width : int
    """

    tokens: int
    width: int

    def __post_init__(self) -> None:
        if min(self.tokens, self.width) < 1:
            raise ValueError(f"tokens and width must be >= 1, got {self.tokens} and {self.width}")


class RidgeNetwork(nn.Module):
    """Voxels times a matrix plus an intercept, per subject; all zeros until solutions are set.

    Parameters
    ----------
    config : RidgeNetworkConfig
    n_voxels : mapping of str to int
        Subject -> voxels.
    """

    def __init__(self, config: RidgeNetworkConfig, n_voxels: Mapping[str, int]) -> None:
        super().__init__()
        self.config = config
        self.n_voxels: dict[str, int] = {}
        self.linears = nn.ModuleList()
        for label, count in n_voxels.items():
            self.add_subject(label, count)

    @property
    def subjects(self) -> tuple[str, ...]:
        """Labels in the order of the linear layers."""
        return tuple(self.n_voxels)

    def add_subject(self, label: str, n_voxels: int) -> None:
        """Give a newcomer a linear layer of zeros.

        Raises
        ------
        ValueError
            Where the label is taken.
        """
        if label in self.n_voxels:
            raise ValueError(f"subject '{label}' is there already")
        like = next(self.parameters(), torch.empty(0))
        # Made without the random numbers that nobody would see: at 257 x 768 targets they would take minutes.
        made = nn.Linear(n_voxels, self.config.tokens * self.config.width, device="meta", dtype=like.dtype)
        made = made.to_empty(device=like.device)
        for parameter in made.parameters():
            nn.init.zeros_(parameter)
        self.linears.append(made)
        self.n_voxels[label] = n_voxels

    def subject_parameters(self, subject: str) -> list[nn.Parameter]:
        """Return what belongs to one subject alone."""
        return list(self.linears[self.subjects.index(subject)].parameters())

    @torch.no_grad()
    def set_solution(self, subject: str, solution: RidgeSolution) -> None:
        """Take over a fitted regression from voxels (V) to flattened tokens (tokens * width).

        Raises
        ------
        ValueError
            Where its shape is another one.
        """
        weight, bias = self.subject_parameters(subject)
        if tuple(solution.weights.T.shape) != tuple(weight.shape):
            raise ValueError(
                f"a solution (voxels, targets) of shape {tuple(weight.T.shape)} is needed, got {tuple(solution.weights.shape)}"
            )
        weight.copy_(solution.weights.T)
        bias.copy_(solution.intercept)

    def forward(self, voxels: Tensor, subject: str) -> BrainTokens:
        """Map one subject's voxels (B, V) to tokens (B, tokens, width); `projected` is the same tensor.

        Raises
        ------
        WeightsError
            ``CHI-WT-050`` another number of voxels, ``CHI-WT-051`` an unknown subject.
        """
        check_voxels(voxels, subject, self.n_voxels)
        tokens = self.linears[self.subjects.index(subject)](voxels).unflatten(
            -1, (self.config.tokens, self.config.width)
        )
        return BrainTokens(tokens=tokens, projected=tokens)
