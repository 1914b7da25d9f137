"""Gated multimodal unit (Arevalo et al. 2017, "Gated multimodal units for information fusion").

    h_i = tanh(W_i v_i);   z = gates from [v_1; ...; v_m], one a feature;   h = sum_i z_i h_i

Two vectors, as published (eq. of the bimodal unit): z = sigmoid(W_z [v_1; v_2]), h = z h_1 + (1 - z) h_2. The other
form, also published (their fig. 2a), gives each vector a sigmoid of its own. For more than two vectors the bimodal unit
becomes a softmax whose last logit is 0: with two vectors that *is* the sigmoid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .masks import masked_softmax
from .vectors import FusionOutput, check_sizes, stack

GateKind = Literal["softmax", "sigmoid"]


@dataclass(frozen=True, kw_only=True)
class GatedMultimodalUnitConfig:
    """Sizes of a `GatedMultimodalUnit`.

    Parameters
    ----------
    width, count : int
        Features of a vector; number of vectors.
    hidden : int, optional
        Features of the result; None means `width`.
    gates : {'softmax', 'sigmoid'}
        Gates that sum to one over the vectors, or independent ones.
    bias : bool
        Whether W_i and W_z have biases; the published ones have none.
    """

    width: int
    count: int
    hidden: int | None = None
    gates: GateKind = "softmax"
    bias: bool = False

    def __post_init__(self) -> None:
        check_sizes(least_count=2, width=self.width, count=self.count, hidden=self.hidden)
        if self.gates not in get_args(GateKind):
            raise ValueError(f"gates must be one of {', '.join(get_args(GateKind))}; got {self.gates!r}")

    @property
    def out_width(self) -> int:
        """Features of the result."""
        return self.hidden or self.width


class GatedMultimodalUnit(nn.Module):
    """Feature by feature, how much of each vector gets through.

    Parameters
    ----------
    config : GatedMultimodalUnitConfig
    """

    def __init__(self, config: GatedMultimodalUnitConfig) -> None:
        super().__init__()
        self.config = config
        out = config.out_width
        n_gates = config.count - 1 if config.gates == "softmax" else config.count
        self.hidden = nn.ModuleList(nn.Linear(config.width, out, bias=config.bias) for _ in range(config.count))
        self.gate = nn.Linear(config.count * config.width, n_gates * out, bias=config.bias)

    def forward(self, vectors: Sequence[Tensor], present: Tensor | None = None) -> FusionOutput:
        """Fuse m vectors (B, width) into (B, hidden).

        Parameters
        ----------
        vectors : sequence of Tensor, shape (B, width)
        present : Tensor of bool, shape (B, m), optional
            None: all are there. The gate of an absent vector is 0.

        Returns
        -------
        FusionOutput
            Weights are each vector's gates, averaged over the features.

        Raises
        ------
        ValueError
            Where shapes do not fit.
        """
        stacked, there = stack(vectors, present, width=self.config.width, count=self.config.count)
        logits = self.gate(stacked.flatten(1)).unflatten(1, (-1, self.config.out_width))  # (B, m or m - 1, hidden)
        if self.config.gates == "softmax":
            gates = masked_softmax(F.pad(logits, (0, 0, 0, 1)), there[..., None], dim=1)
        else:
            gates = logits.sigmoid().masked_fill(~there[..., None], 0.0)
        hidden = torch.stack([linear(stacked[:, i]) for i, linear in enumerate(self.hidden)], dim=1).tanh()
        return FusionOutput((gates * hidden).sum(dim=1), gates.mean(dim=-1))
