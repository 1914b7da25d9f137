"""Cross-attention: known numbers, torch's own layer, and a stream that is missing."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from chiasm.fusion.cross_attention import CrossAttention, CrossAttentionConfig


def test_one_question_two_answers_by_hand() -> None:
    block = CrossAttention(CrossAttentionConfig(width=1))
    for parameter in block.parameters():
        nn.init.ones_(parameter)
    tokens, weights = block(
        torch.tensor([[[math.log(3.0)]]]),
        torch.tensor([[[1.0], [0.0]]]),
        torch.ones(1, 1, dtype=torch.bool),
        torch.ones(1, 2, dtype=torch.bool),
        keep_weights=True,
    )
    torch.testing.assert_close(weights, torch.tensor([[[[0.75, 0.25]]]]))  # scores log 3 and 0
    torch.testing.assert_close(tokens, torch.tensor([[[0.75]]]))


@pytest.mark.parametrize("keep_weights", [False, True])
def test_with_biases_and_merge_it_is_torchs_multi_head_attention(keep_weights: bool) -> None:
    theirs = nn.MultiheadAttention(8, 2, batch_first=True, kdim=6, vdim=6)
    nn.init.normal_(theirs.in_proj_bias)
    ours = CrossAttention(CrossAttentionConfig(width=8, other_width=6, heads=2, bias=True, merge=True))
    state = {"merge.weight": theirs.out_proj.weight, "merge.bias": theirs.out_proj.bias}
    for i, name in enumerate(("query", "key", "value")):
        state[f"{name}.weight"] = theirs.get_parameter(f"{name[0]}_proj_weight")
        state[f"{name}.bias"] = theirs.in_proj_bias[8 * i : 8 * i + 8]
    ours.load_state_dict(state)
    x, other = torch.randn(2, 3, 8), torch.randn(2, 5, 6)
    mask, other_mask = torch.ones(2, 3, dtype=torch.bool), torch.tensor([[True] * 5, [True] * 2 + [False] * 3])
    expected, expected_weights = theirs(x, other, other, key_padding_mask=~other_mask, average_attn_weights=False)
    tokens, weights = ours(x, other, mask, other_mask, keep_weights=keep_weights)
    torch.testing.assert_close(tokens, expected, rtol=1e-5, atol=1e-6)
    if keep_weights:
        torch.testing.assert_close(weights, expected_weights, rtol=1e-5, atol=1e-6)
    else:
        assert weights is None


@pytest.mark.parametrize("merge", [False, True])
@pytest.mark.parametrize("keep_weights", [False, True])
def test_a_missing_stream_answers_nothing(merge: bool, keep_weights: bool) -> None:
    block = CrossAttention(CrossAttentionConfig(width=4, bias=True, merge=merge))
    x = torch.randn(2, 3, 4, requires_grad=True)
    other, other_mask = torch.randn(2, 5, 4, requires_grad=True), torch.ones(2, 5, dtype=torch.bool)
    other_mask[1] = False
    tokens = block(x, other, torch.ones(2, 3, dtype=torch.bool), other_mask, keep_weights=keep_weights).tokens
    assert tokens[0].abs().min() > 0
    assert not tokens[1].any()
    gradients = torch.autograd.grad(tokens.pow(2).sum(), [x, other, *block.parameters()])
    assert all(torch.isfinite(gradient).all() for gradient in gradients)
    assert not gradients[0][1].any()
    assert not gradients[1][1].any()


def test_junk_in_the_other_streams_padding_changes_nothing() -> None:
    block = CrossAttention(CrossAttentionConfig(width=4, heads=2))
    x, other, mask = torch.randn(1, 3, 4), torch.randn(1, 2, 4), torch.ones(1, 3, dtype=torch.bool)
    wide = torch.cat([other, torch.full((1, 4, 4), math.nan)], dim=1)
    wide_mask = torch.tensor([[True] * 2 + [False] * 4])
    expected = block(x, other, mask, torch.ones(1, 2, dtype=torch.bool)).tokens
    torch.testing.assert_close(block(x, wide, mask, wide_mask).tokens, expected, rtol=0, atol=1e-6)


def test_streams_of_unequal_batches_are_refused() -> None:
    block = CrossAttention(CrossAttentionConfig(width=4))
    with pytest.raises(ValueError, match="as many cases, got 2 and 1"):
        block(
            torch.zeros(2, 3, 4),
            torch.zeros(1, 3, 4),
            torch.ones(2, 3, dtype=torch.bool),
            torch.ones(1, 3, dtype=torch.bool),
        )


def test_the_message_says_which_stream_is_wrong() -> None:
    block = CrossAttention(CrossAttentionConfig(width=4, other_width=6))
    mask = torch.ones(1, 3, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"other must have shape \(B, N, 6\), got \(1, 3, 4\)"):
        block(torch.zeros(1, 3, 4), torch.zeros(1, 3, 4), mask, mask)
    with pytest.raises(ValueError, match="other_width must be >= 1, got 0"):
        CrossAttentionConfig(width=4, other_width=0)
