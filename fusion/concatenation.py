"""Fusion by standing side by side: [v_1; ...; v_m]."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from .vectors import FusionOutput, check_sizes, stack


@dataclass(frozen=True, kw_only=True)
class ConcatenationConfig:
    """Sizes of a `Concatenation`.

    Parameters
    ----------
    width, count : int
        Features of a vector; number of vectors.
    """

    width: int
    count: int

    def __post_init__(self) -> None:
        check_sizes(least_count=1, width=self.width, count=self.count)

    @property
    def out_width(self) -> int:
        """Features of the result: count times width."""
        return self.count * self.width


class Concatenation(nn.Module):
    """Vectors one after the other; zeros for an absent one. It has no parameters.

    Parameters
    ----------
    config : ConcatenationConfig
    """

    def __init__(self, config: ConcatenationConfig) -> None:
        super().__init__()
        self.config = config

    def forward(self, vectors: Sequence[Tensor], present: Tensor | None = None) -> FusionOutput:
        """Fuse m vectors (B, width) into (B, m width); `present` is bool (B, m); ValueError where shapes do not fit."""
        stacked, _ = stack(vectors, present, width=self.config.width, count=self.config.count)
        return FusionOutput(stacked.flatten(1), None)
