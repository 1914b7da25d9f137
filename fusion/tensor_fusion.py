"""Tensor fusion (Zadeh et al., EMNLP 2017): all products of features, of every order up to the number of vectors.

    Z = [v_1; 1] (x) ... (x) [v_m; 1],   h = W Z + b

Z has (p + 1)^m elements, so vectors are first mapped to a small width p.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .vectors import FusionOutput, check_sizes, stack, with_one

MAX_ELEMENTS = 65_536
"""Most elements of one case's tensor: a linear map to 768 features would already hold 50 million parameters."""


@dataclass(frozen=True, kw_only=True)
class TensorFusionConfig:
    """Sizes of a `TensorFusion`.

    Parameters
    ----------
    width, count : int
        Features of a vector; number of vectors.
    projected : int, optional
        p, to which each vector is mapped by a linear map of its own; None leaves the vectors as they are.
    hidden : int, optional
        Features of h; None returns Z itself, flat.
    """

    width: int
    count: int
    projected: int | None = 16
    hidden: int | None = None

    def __post_init__(self) -> None:
        check_sizes(least_count=2, width=self.width, count=self.count, projected=self.projected, hidden=self.hidden)
        if self.n_elements > MAX_ELEMENTS:
            raise ValueError(
                f"the outer product of {self.count} vectors of {self.n_factor - 1} features has {self.n_elements} "
                f"elements, {MAX_ELEMENTS} are allowed: choose a smaller `projected`, or low-rank fusion"
            )

    @property
    def n_factor(self) -> int:
        """Features of a factor of the product, with its 1."""
        return (self.projected or self.width) + 1

    @property
    def n_elements(self) -> int:
        """Elements of Z."""
        return int(self.n_factor**self.count)

    @property
    def out_width(self) -> int:
        """Features of the result."""
        return self.hidden or self.n_elements


def outer_product(factors: Sequence[Tensor]) -> Tensor:
    """Multiply factors (B, p_1), ..., (B, p_m) into a flat (B, p_1 ... p_m); the last factor's index runs fastest."""
    product = factors[0]
    for factor in factors[1:]:
        product = (product[:, :, None] * factor[:, None, :]).flatten(1)
    return product


class TensorFusion(nn.Module):
    """The outer product of all vectors, each with a 1 appended, and a linear map of it.

    An absent vector takes part with its 1 alone: the orders without it stay.

    Parameters
    ----------
    config : TensorFusionConfig
    """

    def __init__(self, config: TensorFusionConfig) -> None:
        super().__init__()
        self.config = config
        self.project: nn.ModuleList | None = None
        if config.projected is not None:
            self.project = nn.ModuleList(nn.Linear(config.width, config.projected) for _ in range(config.count))
        self.out = nn.Linear(config.n_elements, config.hidden) if config.hidden is not None else None

    def forward(self, vectors: Sequence[Tensor], present: Tensor | None = None) -> FusionOutput:
        """Fuse m vectors (B, width) into (B, hidden), or (B, (p + 1)^m) without a map; the weights are None.

        `present` is bool (B, m), None for all; ValueError where shapes do not fit.
        """
        checked = stack(vectors, present, width=self.config.width, count=self.config.count)
        small = checked.stacked
        if self.project is not None:
            small = torch.stack([project(small[:, i]) for i, project in enumerate(self.project)], dim=1)
        fused = outer_product(with_one(small, checked.present).unbind(dim=1))
        return FusionOutput(checked.without_empty(fused if self.out is None else self.out(fused)), None)
