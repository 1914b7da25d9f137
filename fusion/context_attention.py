"""Self-attention whose queries and keys know their context (Yang et al., AAAI 2019, "Context-aware self-attention").

With Q, K, V of plain self-attention and a context C (B, N, d_c) or (B, 1, d_c):

    l_Q = sigmoid(Q v_Q + (C U_Q) u_Q)       and l_K alike; v, u in R^d, U in R^{d_c x d}, no biases
    Q' = (1 - l_Q) Q + l_Q (C U_Q)
    out = softmax(Q' K'^T / sqrt(d_h)) V

Contexts: *global*, the mean of the layer's own valid tokens (d_c = d); *deep*, what all earlier layers say of the same
token (d_c = sum of their widths); *deep-global*, the means of all earlier layers and of this one (d_c = that sum + d).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from .attention import Attended, attend, check_heads, split_heads
from .masks import cleaned, masked_mean

Context = Literal["global", "deep", "deep-global"]


@dataclass(frozen=True, kw_only=True)
class ContextSelfAttentionConfig:
    """Sizes of a `ContextSelfAttention`.

    Parameters
    ----------
    width : int
        Features of a token, in and out.
    heads : int
        Divides `width`.
    context : {'global', 'deep', 'deep-global'}
    context_width : int, optional
        d_c. None means `width` for a global context (it can be nothing else); deep contexts must say it: the sum of
        the widths of the `previous` layers, for deep-global plus `width`.
    dropout : float
        Of the attention weights, in training.
    gate_per_head : bool
        One l_Q and l_K a head, from that head's features, instead of one a token; the same number of parameters.
    """

    width: int
    heads: int = 1
    context: Context = "global"
    context_width: int | None = None
    dropout: float = 0.0
    gate_per_head: bool = False

    def __post_init__(self) -> None:
        check_heads(self.width, self.heads, self.dropout)
        if self.context not in get_args(Context):
            raise ValueError(f"context must be one of {', '.join(get_args(Context))}; got {self.context!r}")
        if self.context == "global":
            if self.context_width not in (None, self.width):
                raise ValueError(f"a global context is as wide as a token ({self.width}), got {self.context_width}")
        elif self.context_width is None or self.context_width <= (self.width if self.context == "deep-global" else 0):
            own = f", plus {self.width} for this layer" if self.context == "deep-global" else ""
            raise ValueError(
                f"a {self.context} context needs context_width: the widths of the previous layers{own}; "
                f"got {self.context_width}"
            )

    @property
    def n_context(self) -> int:
        """Features of the context, d_c."""
        return self.context_width or self.width


class ContextSelfAttention(nn.Module):
    """Self-attention with contextualised queries and keys; values stay as they are.

    Parameters
    ----------
    config : ContextSelfAttentionConfig

    Notes
    -----
    For d = 768 and a global context: 1,769,472 parameters in Q, K, V, 1,179,648 in U and 3,072 in the gates.
    """

    def __init__(self, config: ContextSelfAttentionConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width, bias=False)
        self.context_query = nn.Linear(config.n_context, width, bias=False)
        self.context_key = nn.Linear(config.n_context, width, bias=False)
        # row 0 weighs the token's own query (key), row 1 its context
        self.gate_query = nn.Parameter(torch.empty(2, width).uniform_(-(width**-0.5), width**-0.5))
        self.gate_key = nn.Parameter(torch.empty(2, width).uniform_(-(width**-0.5), width**-0.5))

    def forward(
        self, x: Tensor, mask: Tensor, *, previous: Sequence[Tensor] | None = None, keep_weights: bool = False
    ) -> Attended:
        """Let every valid token look at all valid tokens, each question and key mixed with its context.

        Parameters
        ----------
        x : Tensor, shape (B, N, width)
        mask : Tensor of bool, shape (B, N)
        previous : sequence of Tensor, shapes (B, N, d_l), optional
            Hidden states of the earlier layers, first layer first; deep contexts need them.
        keep_weights : bool
            Return the weights (B, H, N, N), on the graph.

        Returns
        -------
        Attended
            With gates l_Q, l_K of shape (B, 1, N, 2), or (B, H, N, 2) where there is one a head: the share of the
            context.

        Raises
        ------
        ValueError
            Where shapes do not fit, or earlier layers are missing or of another width than said.
        """
        config = self.config
        x = cleaned(x, mask, width=config.width)
        context = self._context(x, mask, () if previous is None else previous)
        query, gate_of_query = self._mixed(self.query(x), self.context_query(context), self.gate_query)
        key, gate_of_key = self._mixed(self.key(x), self.context_key(context), self.gate_key)
        attended = attend(
            query,
            key,
            split_heads(self.value(x), config.heads),
            query_mask=mask,
            key_mask=mask,
            dropout=config.dropout if self.training else 0.0,
            keep_weights=keep_weights,
        )
        gates = torch.cat([gate_of_query, gate_of_key], dim=-1).masked_fill(~mask[:, None, :, None], 0.0)
        return Attended(tokens=attended.tokens, weights=attended.weights, gates=gates)

    def _context(self, x: Tensor, mask: Tensor, previous: Sequence[Tensor]) -> Tensor:
        """Context of shape (B, 1, d_c) where all tokens share it, else (B, N, d_c)."""
        kind, expected = self.config.context, self.config.n_context
        if kind == "global":
            return masked_mean(x, mask)[:, None]
        layers = [*previous, x] if kind == "deep-global" else list(previous)
        widths = [layer.shape[-1] for layer in layers]
        if not previous or sum(widths) != expected:
            raise ValueError(
                f"a {kind} context of width {expected} needs earlier layers; got {len(previous)}, "
                f"which make a context of width {sum(widths)}"
            )
        clean = [cleaned(layer, mask, width=layer.shape[-1], name="previous") for layer in layers]
        if kind == "deep":
            return torch.cat(clean, dim=-1)
        return torch.cat([masked_mean(layer, mask) for layer in clean], dim=-1)[:, None]

    def _mixed(self, own: Tensor, context: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Mix (B, N, d) with its context; returns (B, H, N, d_h) and the gate, (B, H or 1, N, 1)."""
        score = own * weight[0] + context * weight[1]
        gate = split_heads(score, self.config.heads if self.config.gate_per_head else 1).sum(-1, keepdim=True).sigmoid()
        own, context = split_heads(own, self.config.heads), split_heads(context, self.config.heads)
        return (1 - gate) * own + gate * context, gate
