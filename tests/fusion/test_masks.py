"""Padding never changes a result: the rule itself, and that every block of tokens keeps it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from chiasm.fusion.attention import SelfAttention, SelfAttentionConfig
from chiasm.fusion.context_attention import ContextSelfAttention, ContextSelfAttentionConfig
from chiasm.fusion.cross_attention import CrossAttention, CrossAttentionConfig
from chiasm.fusion.gated_attention import GatedSelfAttention, GatedSelfAttentionConfig
from chiasm.fusion.masks import cleaned, masked_mean, masked_softmax
from chiasm.fusion.pooling import AttentionPooling, AttentionPoolingConfig, first_token

WIDTH = 4
JUNK = (math.nan, math.inf, -math.inf, 1e30, -3.0)
MEAN = nn.Identity()  # functions have no parameters: a stand-in whose parameters are none
FIRST = nn.Identity()


def context(kind: Any, n_context: int | None, **options: Any) -> nn.Module:
    return ContextSelfAttention(
        ContextSelfAttentionConfig(width=WIDTH, context=kind, context_width=n_context, **options)
    )


BLOCKS: dict[str, Callable[[], nn.Module]] = {
    "plain": lambda: SelfAttention(SelfAttentionConfig(width=WIDTH)),
    "plain, 2 heads, merged": lambda: SelfAttention(SelfAttentionConfig(width=WIDTH, heads=2, bias=True, merge=True)),
    "context global": lambda: context("global", None),
    "context global, a gate a head": lambda: context("global", None, heads=2, gate_per_head=True),
    "context deep": lambda: context("deep", 2 * WIDTH, heads=2),
    "context deep-global": lambda: context("deep-global", 3 * WIDTH),
    "gated": lambda: GatedSelfAttention(GatedSelfAttentionConfig(width=WIDTH, heads=2)),
    "gated, whole layer": lambda: GatedSelfAttention(
        GatedSelfAttentionConfig(width=WIDTH, heads=1, residual=True, feedforward=6)
    ),
    "cross": lambda: CrossAttention(CrossAttentionConfig(width=WIDTH, heads=2)),
    "cross, merged": lambda: CrossAttention(CrossAttentionConfig(width=WIDTH, bias=True, merge=True)),
    "attention pooling": lambda: AttentionPooling(AttentionPoolingConfig(width=WIDTH)),
    "masked mean": lambda: MEAN,
    "first token": lambda: FIRST,
}
POOLS = ("attention pooling", "masked mean", "first token")


def made(name: str, dtype: torch.dtype = torch.float64) -> nn.Module:
    torch.manual_seed(1)
    block = BLOCKS[name]().to(dtype)
    if name == "attention pooling":
        nn.init.normal_(block.get_parameter("query"))
    return block


def run(block: nn.Module, layers: list[Tensor], mask: Tensor, keep_weights: bool) -> Tensor:
    """Tokens (B, N, d) of an attention, or the vector (B, d) of a pooling."""
    x, previous = layers[0], layers[1:]
    if block is MEAN:
        return masked_mean(x, mask)
    if block is FIRST:
        return first_token(x, mask)
    if isinstance(block, AttentionPooling):
        return block(x, mask).vector
    if isinstance(block, CrossAttention):
        return block(x, previous[0], mask, mask, keep_weights=keep_weights).tokens
    return block(x, mask, previous=previous, keep_weights=keep_weights).tokens


@st.composite
def placed(draw: st.DrawFn) -> tuple[Tensor, Tensor, float, int]:
    """A mask (3, N), slots (M,) into which its positions are spread, the junk between them, a seed."""
    n = draw(st.integers(1, 5))
    rows = [draw(st.lists(st.booleans(), min_size=n, max_size=n)) for _ in range(3)]
    m = n + draw(st.integers(0, 4))
    slots = sorted(draw(st.permutations(range(m)))[:n])
    return torch.tensor(rows), torch.tensor(slots), draw(st.sampled_from(JUNK)), draw(st.integers(0, 99))


def spread(x: Tensor, mask: Tensor, slots: Tensor, junk: float) -> Tensor:
    out = torch.full((len(x), int(slots.max()) + 2, x.shape[-1]), junk, dtype=x.dtype)
    out[:, slots] = torch.where(mask[..., None], x, junk)
    return out


@pytest.mark.parametrize("name", BLOCKS)
@settings(max_examples=12, deadline=None)
@given(case=placed(), keep_weights=st.booleans())
def test_padding_changes_neither_results_nor_gradients(
    name: str, case: tuple[Tensor, Tensor, float, int], keep_weights: bool
) -> None:
    mask, slots, junk, seed = case
    block, generator = made(name), torch.Generator().manual_seed(seed)
    layers = [torch.randn(*mask.shape, WIDTH, generator=generator, dtype=torch.float64) for _ in range(3)]
    wide_mask = torch.zeros(len(mask), int(slots.max()) + 2, dtype=torch.bool)
    wide_mask[:, slots] = mask
    results, gradients = [], []
    for tokens, seen in ((layers, mask), ([spread(x, mask, slots, junk) for x in layers], wide_mask)):
        tokens = [x.clone().requires_grad_() for x in tokens]
        result = run(block, tokens, seen, keep_weights)
        leaves = [*tokens, *block.parameters()]
        # a fixed linear functional of the valid results: a sum alone has no gradient through a LayerNorm
        loss = (result * torch.arange(1.0, WIDTH + 1)).pow(2).sum()
        got = torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True)
        for x in got[: len(tokens)]:
            assert not x[~seen].any()
        cut = slots if seen is wide_mask else torch.arange(mask.shape[1])
        gradients.append([*(x[:, cut] for x in got[: len(tokens)]), *got[len(tokens) :]])
        if name not in POOLS:
            assert not result[~seen].any()
            result = result[:, cut]
        assert not result[~mask.any(dim=1)].any()
        results.append(result)
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=1e-12)
    for one, other in zip(*gradients, strict=True):
        assert torch.isfinite(one).all()
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("keep_weights", [False, True])
@pytest.mark.parametrize("name", BLOCKS)
def test_in_single_precision_padding_changes_a_result_by_less_than_a_millionth(name: str, keep_weights: bool) -> None:
    block = made(name, torch.float32)
    layers = [torch.randn(2, 6, WIDTH) for _ in range(3)]
    mask = torch.tensor([[True] * 6, [True] * 2 + [False] * 4])
    wide = [torch.cat([x, torch.full((2, 50, WIDTH), 1e30)], dim=1) for x in layers]
    wide_mask = torch.cat([mask, torch.zeros(2, 50, dtype=torch.bool)], dim=1)
    narrow_result, wide_result = run(block, layers, mask, keep_weights), run(block, wide, wide_mask, keep_weights)
    if name not in POOLS:
        wide_result = wide_result[:, :6]
    torch.testing.assert_close(narrow_result, wide_result, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", [name for name in BLOCKS if name not in POOLS])
def test_fused_kernel_and_explicit_weights_agree(name: str) -> None:
    block, layers = made(name), [torch.randn(3, 5, WIDTH, dtype=torch.float64) for _ in range(3)]
    mask = torch.tensor([[True] * 5, [True, False, True, False, False], [False] * 5])
    torch.testing.assert_close(run(block, layers, mask, False), run(block, layers, mask, True), rtol=0, atol=1e-12)


def test_cleaned_replaces_even_what_is_not_a_number() -> None:
    tokens = torch.tensor([[[1.0, 2.0], [math.nan, math.inf]]])
    assert cleaned(tokens, torch.tensor([[True, False]]), width=2).tolist() == [[[1.0, 2.0], [0.0, 0.0]]]


def test_everything_that_is_wrong_with_tokens_is_listed() -> None:
    with pytest.raises(ValueError, match=r"speech must have shape \(B, N, 8\), got \(2, 3, 4\)") as caught:
        cleaned(torch.zeros(2, 3, 4), torch.ones(2, 2), width=8, name="speech")
    assert "must be bool (True = valid), got torch.float32" in str(caught.value)
    assert "must have shape (2, 3), got (2, 2)" in str(caught.value)


def test_softmax_of_a_mask_is_the_softmax_of_what_is_left() -> None:
    scores = torch.tensor([[0.0, math.log(3.0), math.nan], [5.0, math.inf, 6.0]], requires_grad=True)
    weights = masked_softmax(scores, torch.tensor([[True, True, False], [False, False, False]]))
    torch.testing.assert_close(weights, torch.tensor([[0.25, 0.75, 0.0], [0.0, 0.0, 0.0]]))
    (gradient,) = torch.autograd.grad(weights[:, 1].sum(), scores)
    torch.testing.assert_close(gradient, torch.tensor([[-0.1875, 0.1875, 0.0], [0.0, 0.0, 0.0]]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_softmax_masks_in_half_precision(dtype: torch.dtype) -> None:
    weights = masked_softmax(torch.tensor([1.0, 1.0, 60000.0]).to(dtype), torch.tensor([True, True, False]))
    assert weights.tolist() == [0.5, 0.5, 0.0]


def test_mean_counts_valid_tokens_only() -> None:
    tokens = torch.tensor([[[1.0], [3.0], [100.0]], [[7.0], [8.0], [9.0]]])
    mask = torch.tensor([[True, True, False], [False, False, False]])
    assert masked_mean(tokens, mask).tolist() == [[2.0], [0.0]]
