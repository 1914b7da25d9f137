"""Pooling: first valid token, and a learned query that starts as the mean."""

from __future__ import annotations

import math

import pytest
import torch

from chiasm.fusion.pooling import AttentionPooling, AttentionPoolingConfig, first_token, masked_mean


def test_the_first_valid_token_wherever_the_padding_stands() -> None:
    tokens = torch.arange(12.0).view(3, 4, 1)
    mask = torch.tensor([[True, True, False, False], [False, False, True, True], [False] * 4])
    assert first_token(tokens, mask).tolist() == [[0.0], [6.0], [0.0]]
    assert first_token(tokens + 1, mask)[2].item() == 0


def test_an_untrained_attention_pooling_is_the_masked_mean_and_can_learn() -> None:
    pooling, tokens = AttentionPooling(AttentionPoolingConfig(width=4)), torch.randn(2, 5, 4)
    mask = torch.tensor([[True] * 5, [True, False, True, False, False]])
    vector, weights = pooling(tokens, mask)
    torch.testing.assert_close(vector, masked_mean(tokens, mask))
    torch.testing.assert_close(weights[1], torch.tensor([0.5, 0.0, 0.5, 0.0, 0.0]))
    vector.pow(2).sum().backward()
    assert pooling.query.grad is not None
    assert pooling.query.grad.abs().min() > 0


def test_a_known_query_weighs_by_hand() -> None:
    pooling = AttentionPooling(AttentionPoolingConfig(width=4))
    pooling.query.data = torch.tensor([2.0 * math.log(3.0), 0.0, 0.0, 0.0])  # over sqrt(4): log 3
    tokens = torch.tensor([[[1.0, 0.0, 0.0, 8.0], [0.0, 4.0, 0.0, 0.0], [9.0, 9.0, 9.0, 9.0]]])
    vector, weights = pooling(tokens, torch.tensor([[True, True, False]]))
    torch.testing.assert_close(weights, torch.tensor([[0.75, 0.25, 0.0]]))
    torch.testing.assert_close(vector, torch.tensor([[0.75, 1.0, 0.0, 6.0]]))


def test_sizes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="width must be >= 1, got 0"):
        AttentionPoolingConfig(width=0)
    with pytest.raises(ValueError, match=r"\(B, N, 4\)"):
        AttentionPooling(AttentionPoolingConfig(width=4))(torch.zeros(1, 2, 3), torch.ones(1, 2, dtype=torch.bool))
