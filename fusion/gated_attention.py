"""Self-attention with a gate model (Yu et al. 2019, "Multimodal unified attention networks", eq. 8-9).

In every head, with its queries and keys of d_h features and gate maps that all heads share:

    G = sigmoid(W_g((W_x K) o (W_y Q)))  in R^{N x 2};    K' = G[:, 0] K,  Q' = G[:, 1] Q
    out = softmax(Q' K'^T / sqrt(d_h)) V, joined and merged by a linear map

Published sizes are d = 768 in 8 heads; the gate maps then hold 18,818 parameters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from .attention import Attended, attend, check_heads, split_heads
from .masks import cleaned


@dataclass(frozen=True, kw_only=True)
class GatedSelfAttentionConfig:
    """Sizes of a `GatedSelfAttention`.

    Parameters
    ----------
    width : int
        Features of a token, in and out.
    heads : int
        Divides `width`.
    dropout : float
        Of the attention weights and of what is added to a residual, in training.
    gate_width : int, optional
        Features inside the gate; None means those of a head, as published.
    residual : bool
        Return LayerNorm(x + attention) instead of the attention.
    feedforward : int, optional
        Hidden features of a two-layer perceptron after it, with its own residual and norm; needs `residual`.
        Published: 4 times `width`.
    """

    width: int
    heads: int = 8
    dropout: float = 0.0
    gate_width: int | None = None
    residual: bool = False
    feedforward: int | None = None

    def __post_init__(self) -> None:
        check_heads(self.width, self.heads, self.dropout)
        sizes = {"gate_width": self.gate_width, "feedforward": self.feedforward}
        if wrong := [f"{name} {size}" for name, size in sizes.items() if size is not None and size < 1]:
            raise ValueError(f"sizes must be >= 1, got {', '.join(wrong)}")
        if self.feedforward is not None and not self.residual:
            raise ValueError("feedforward stands on residual=True")


class Gate(nn.Module):
    """Two gates a token, for its key and its query, from the product of both.

    Parameters
    ----------
    head_width, gate_width : int
    """

    def __init__(self, head_width: int, gate_width: int) -> None:
        super().__init__()
        self.from_key = nn.Linear(head_width, gate_width)
        self.from_query = nn.Linear(head_width, gate_width)
        self.out = nn.Linear(gate_width, 2)

    def forward(self, key: Tensor, query: Tensor) -> Tensor:
        """Map keys and queries (B, H, N, d_h) to gates (B, H, N, 2) of (key, query)."""
        gates: Tensor = self.out(self.from_key(key) * self.from_query(query)).sigmoid()
        return gates


class GatedSelfAttention(nn.Module):
    """Self-attention whose gates silence queries and keys, optionally as a whole transformer layer (norm after).

    Parameters
    ----------
    config : GatedSelfAttentionConfig
    """

    def __init__(self, config: GatedSelfAttentionConfig) -> None:
        super().__init__()
        self.config = config
        width, head_width = config.width, config.width // config.heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.gate = Gate(head_width, config.gate_width or head_width)
        self.merge = nn.Linear(width, width)
        self.dropout = nn.Dropout(config.dropout)
        self.norm = nn.LayerNorm(width) if config.residual else None
        self.feedforward: nn.Sequential | None = None
        if config.feedforward is not None:
            self.feedforward = nn.Sequential(
                nn.Linear(width, config.feedforward),
                nn.ReLU(),
                nn.Dropout(config.dropout),
                nn.Linear(config.feedforward, width),
            )
            self.feedforward_norm = nn.LayerNorm(width)

    def forward(
        self, x: Tensor, mask: Tensor, *, previous: Sequence[Tensor] | None = None, keep_weights: bool = False
    ) -> Attended:
        """Let every valid token look at all valid tokens, as far as both gates let it.

        Parameters
        ----------
        x : Tensor, shape (B, N, width)
        mask : Tensor of bool, shape (B, N)
        previous : sequence of Tensor, optional
            Not used; here so that the kinds of self-attention can be exchanged.
        keep_weights : bool
            Return the weights (B, H, N, N), on the graph.

        Returns
        -------
        Attended
            With gates (B, H, N, 2) of (query, key).

        Raises
        ------
        ValueError
            Where shapes do not fit.
        """
        x, config = cleaned(x, mask, width=self.config.width), self.config
        query, key, value = (split_heads(linear(x), config.heads) for linear in (self.query, self.key, self.value))
        gates = self.gate(key, query)
        attended = attend(
            query * gates[..., 1:],
            key * gates[..., :1],
            value,
            query_mask=mask,
            key_mask=mask,
            dropout=config.dropout if self.training else 0.0,
            keep_weights=keep_weights,
        )
        y = self.merge(attended.tokens)
        if self.norm is not None:
            y = self.norm(x + self.dropout(y))
        if self.feedforward is not None:
            y = self.feedforward_norm(y + self.dropout(self.feedforward(y)))
        return Attended(
            tokens=y.masked_fill(~mask[..., None], 0.0),  # biases have filled the padding
            weights=attended.weights,
            gates=gates.flip(-1).masked_fill(~mask[:, None, :, None], 0.0),
        )
