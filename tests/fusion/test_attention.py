"""Plain self-attention: known numbers, torch's own layer, and weights that relevance can use."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from chiasm.fusion.attention import Attended, SelfAttention, SelfAttentionConfig, attend, split_heads


def with_identity_maps(block: SelfAttention) -> SelfAttention:
    for name in ("query", "key", "value"):
        nn.init.eye_(block.get_parameter(f"{name}.weight"))
    return block


@pytest.mark.parametrize("keep_weights", [False, True])
def test_two_orthogonal_tokens_by_hand(keep_weights: bool) -> None:
    block = with_identity_maps(SelfAttention(SelfAttentionConfig(width=2)))
    tokens, weights = block(torch.eye(2)[None], torch.ones(1, 2, dtype=torch.bool), keep_weights=keep_weights)
    own = math.exp(1 / math.sqrt(2)) / (math.exp(1 / math.sqrt(2)) + 1)  # 0.6698
    expected = torch.tensor([[own, 1 - own], [1 - own, own]])
    torch.testing.assert_close(tokens[0], expected)  # values are the unit vectors: the result is the weights
    if keep_weights:
        torch.testing.assert_close(weights[0, 0], expected)
    else:
        assert weights is None


def test_heads_scale_by_their_own_width_and_do_not_mix() -> None:
    block = with_identity_maps(SelfAttention(SelfAttentionConfig(width=2, heads=2)))
    x = torch.tensor([[[1.0, 0.0], [0.0, 2.0]]])
    tokens, weights = block(x, torch.ones(1, 2, dtype=torch.bool), keep_weights=True)
    e = math.e
    first = torch.tensor([[e / (e + 1), 1 / (e + 1)], [0.5, 0.5]])  # head 0 sees 1 and 0
    second = torch.tensor([[0.5, 0.5], [1 / (e**4 + 1), e**4 / (e**4 + 1)]])  # head 1 sees 0 and 2
    torch.testing.assert_close(weights[0], torch.stack([first, second]))
    torch.testing.assert_close(tokens[0], torch.stack([first[:, 0], 2 * second[:, 1]], dim=-1))


@pytest.mark.parametrize("keep_weights", [False, True])
def test_with_biases_and_merge_it_is_torchs_multi_head_attention(keep_weights: bool) -> None:
    theirs = nn.MultiheadAttention(12, 3, batch_first=True)
    nn.init.normal_(theirs.in_proj_bias)
    nn.init.normal_(theirs.out_proj.bias)
    ours = SelfAttention(SelfAttentionConfig(width=12, heads=3, bias=True, merge=True))
    state = {"merge.weight": theirs.out_proj.weight, "merge.bias": theirs.out_proj.bias}
    for i, name in enumerate(("query", "key", "value")):
        state[f"{name}.weight"] = theirs.in_proj_weight[12 * i : 12 * i + 12]
        state[f"{name}.bias"] = theirs.in_proj_bias[12 * i : 12 * i + 12]
    ours.load_state_dict(state)
    x, mask = torch.randn(2, 7, 12), torch.tensor([[True] * 7, [True] * 4 + [False] * 3])
    expected, expected_weights = theirs(x, x, x, key_padding_mask=~mask, average_attn_weights=False)
    tokens, weights = ours(x, mask, keep_weights=keep_weights)
    torch.testing.assert_close(tokens[mask], expected[mask], rtol=1e-5, atol=1e-6)
    if keep_weights:
        torch.testing.assert_close(weights[0], expected_weights[0], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(weights[1, :, :4], expected_weights[1, :, :4], rtol=1e-5, atol=1e-6)


def test_weights_are_on_the_graph_and_their_gradient_is_known() -> None:
    block = SelfAttention(SelfAttentionConfig(width=4, heads=2))
    x, mask = torch.randn(1, 3, 4), torch.tensor([[True, True, False]])
    tokens, weights = block(x, mask, keep_weights=True)
    (gradient,) = torch.autograd.grad(tokens.sum(), weights)
    # d sum(A V) / dA_ij is the sum of value j's features, head by head
    values = split_heads(block.value(x.masked_fill(~mask[..., None], 0)), 2).sum(-1)
    torch.testing.assert_close(gradient[:, :, 0], values)
    torch.testing.assert_close(gradient[:, :, 1], values)


def test_rows_and_columns_of_padding_are_zero_and_the_rest_sums_to_one() -> None:
    block = SelfAttention(SelfAttentionConfig(width=4, heads=2))
    mask = torch.tensor([[True, False, True, True], [False] * 4])
    weights = block(torch.randn(2, 4, 4), mask, keep_weights=True).weights
    torch.testing.assert_close(weights.sum(-1), mask[:, None, :].expand(2, 2, 4).float())
    assert not weights[0, :, :, 1].any()


def test_dropout_works_in_training_only_and_weights_are_returned_before_it() -> None:
    block = SelfAttention(SelfAttentionConfig(width=4, dropout=0.5))
    x, mask = torch.randn(1, 30, 4), torch.ones(1, 30, dtype=torch.bool)
    calm = block.eval()(x, mask, keep_weights=True)
    torch.testing.assert_close(block(x, mask).tokens, calm.tokens)
    noisy = block.train()(x, mask, keep_weights=True)
    torch.testing.assert_close(noisy.weights, calm.weights)
    assert not torch.allclose(noisy.tokens, calm.tokens)
    assert not torch.allclose(block(x, mask).tokens, calm.tokens)


def test_published_number_of_parameters() -> None:
    block = SelfAttention(SelfAttentionConfig(width=768))
    assert sum(p.numel() for p in block.parameters()) == 1_769_472


def test_attend_takes_streams_of_two_lengths() -> None:
    query, key = torch.zeros(1, 1, 2, 3), torch.zeros(1, 1, 4, 3)
    value = torch.arange(12.0).view(1, 1, 4, 3)
    got = attend(
        query,
        key,
        value,
        query_mask=torch.tensor([[True, False]]),
        key_mask=torch.tensor([[True, True, False, False]]),
    )
    assert got.tokens.tolist() == [[[1.5, 2.5, 3.5], [0.0, 0.0, 0.0]]]  # equal scores: the mean of two values


def test_what_is_returned_unpacks_into_tokens_and_weights() -> None:
    tokens, weights = Attended(tokens=torch.ones(1), gates=torch.zeros(1))
    assert tokens.item() == 1
    assert weights is None


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"width": 6, "heads": 4}, "multiple of heads, got width 6 and 4 heads"),
        ({"width": 0, "heads": 1}, "got width 0 and 1 heads"),
        ({"width": 4, "heads": 0}, "got width 4 and 0 heads"),
        ({"width": 4, "dropout": 1.0}, r"dropout must be in \[0, 1\), got 1.0"),
    ],
)
def test_impossible_sizes_are_refused(options: dict[str, float], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        SelfAttentionConfig(**options)


def test_tokens_of_another_width_are_refused() -> None:
    block = SelfAttention(SelfAttentionConfig(width=4))
    with pytest.raises(ValueError, match=r"\(B, N, 4\), got \(1, 2, 5\)"):
        block(torch.zeros(1, 2, 5), torch.ones(1, 2, dtype=torch.bool))
