"""From the names that a recipe uses to blocks. It only wires: sizes that are not given are the blocks' own."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from torch import nn

from .attention import SelfAttention, SelfAttentionConfig
from .attention_fusion import AttentionFusion, AttentionFusionConfig
from .bilinear_fusion import BilinearFusion, BilinearFusionConfig
from .concatenation import Concatenation, ConcatenationConfig
from .context_attention import Context, ContextSelfAttention, ContextSelfAttentionConfig
from .gated_attention import GatedSelfAttention, GatedSelfAttentionConfig
from .gated_fusion import GatedMultimodalUnit, GatedMultimodalUnitConfig
from .low_rank_fusion import LowRankFusion, LowRankFusionConfig
from .tensor_fusion import TensorFusion, TensorFusionConfig

_PROJECTED = {2: 32, 3: 16, 4: 8}  # tensors of 1,089, 4,913 and 6,561 elements
_PROJECTED_OF_MORE = 3

_FUSIONS: dict[str, Callable[[int, int, int | None], nn.Module]] = {
    "concatenation": lambda width, count, _: Concatenation(ConcatenationConfig(width=width, count=count)),
    "attention": lambda width, count, _: AttentionFusion(AttentionFusionConfig(width=width, count=count)),
    "gated": lambda width, count, out: GatedMultimodalUnit(
        GatedMultimodalUnitConfig(width=width, count=count, hidden=out)
    ),
    "tensor": lambda width, count, out: TensorFusion(
        TensorFusionConfig(
            width=width,
            count=count,
            projected=min(width, _PROJECTED.get(count, _PROJECTED_OF_MORE)),
            hidden=width if out is None else out,
        )
    ),
    "low-rank": lambda width, count, out: LowRankFusion(LowRankFusionConfig(width=width, count=count, hidden=out)),
    "bilinear": lambda width, count, out: BilinearFusion(BilinearFusionConfig(width=width, count=count, hidden=out)),
}
FUSIONS = tuple(_FUSIONS)
"""Names of the fusions."""
SELF_ATTENTIONS = ("plain", "context", "gated")
"""Names of the kinds of self-attention."""


def self_attention(
    kind: str,
    width: int,
    *,
    heads: int = 1,
    dropout: float = 0.0,
    context: str = "global",
    context_width: int | None = None,
) -> nn.Module:
    """Make a self-attention block; all kinds are called ``block(x, mask, previous=..., keep_weights=...)``.

    Parameters
    ----------
    kind : {'plain', 'context', 'gated'}
    width : int
        Features of a token.
    heads : int
    dropout : float
    context : {'global', 'deep', 'deep-global'}
        Read for kind 'context' only.
    context_width : int, optional
        See `ContextSelfAttentionConfig`; read for kind 'context' only.

    Returns
    -------
    SelfAttention, ContextSelfAttention or GatedSelfAttention

    Raises
    ------
    ValueError
        For a kind that there is not, or sizes that contradict each other.
    """
    if kind == "plain":
        return SelfAttention(SelfAttentionConfig(width=width, heads=heads, dropout=dropout))
    if kind == "context":
        return ContextSelfAttention(
            ContextSelfAttentionConfig(
                width=width,
                heads=heads,
                context=cast("Context", context),  # the config refuses other names
                context_width=context_width,
                dropout=dropout,
            )
        )
    if kind == "gated":
        return GatedSelfAttention(GatedSelfAttentionConfig(width=width, heads=heads, dropout=dropout))
    raise ValueError(f"the kind of self-attention must be one of {', '.join(SELF_ATTENTIONS)}; got {kind!r}")


def fusion_block(kind: str, width: int, count: int, *, out_width: int | None = None) -> nn.Module:
    """Make a fusion of `count` vectors; all kinds are called ``block(vectors, present)``.

    Parameters
    ----------
    kind : {'concatenation', 'attention', 'gated', 'tensor', 'low-rank', 'bilinear'}
    width, count : int
        Features of a vector; number of vectors.
    out_width : int, optional
        Features of the result; None means `width`, and count times width for a concatenation. Concatenation and
        attention have no map that could change theirs.

    Returns
    -------
    nn.Module
        ``block.config.out_width`` is the width of its result.

    Raises
    ------
    ValueError
        For a kind that there is not, or sizes that contradict each other.
    """
    if kind not in _FUSIONS:
        raise ValueError(f"the kind of fusion must be one of {', '.join(FUSIONS)}; got {kind!r}")
    block = _FUSIONS[kind](width, count, out_width)
    fixed = cast("Concatenation", block).config.out_width
    if out_width not in (None, fixed):
        raise ValueError(f"{kind} of {count} vectors of {width} features gives {fixed} features, not {out_width}")
    return block
