"""Attention over vectors: weights by hand, absent vectors, order."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from chiasm.fusion.attention_fusion import AttentionFusion, AttentionFusionConfig


def known() -> tuple[AttentionFusion, list[Tensor]]:
    """W = 1 and w = log 3 / tanh(1): a vector's score is log 3 for 1, 0 for 0, -log 3 for -1."""
    block = AttentionFusion(AttentionFusionConfig(width=1, count=3))
    block.hidden.weight.data.fill_(1.0)
    block.score.weight.data.fill_(math.log(3.0) / math.tanh(1.0))
    return block, [torch.tensor([[1.0]]), torch.tensor([[0.0]]), torch.tensor([[-1.0]])]


def test_weights_by_hand() -> None:
    block, vectors = known()
    fused, weights = block(vectors)
    torch.testing.assert_close(weights, torch.tensor([[9 / 13, 3 / 13, 1 / 13]]))  # 3 : 1 : 1/3
    torch.testing.assert_close(fused, torch.tensor([[8 / 13]]))


def test_an_absent_vector_has_no_weight_and_the_others_share_it() -> None:
    block, vectors = known()
    fused, weights = block(vectors, torch.tensor([[False, True, True]]))
    torch.testing.assert_close(weights, torch.tensor([[0.0, 0.75, 0.25]]))
    torch.testing.assert_close(fused, torch.tensor([[-0.25]]))
    alone = block(vectors, torch.tensor([[False, False, True]]))
    assert alone.weights.tolist() == [[0.0, 0.0, 1.0]]
    assert alone.fused.tolist() == [[-1.0]]


def test_published_equation_in_numbers() -> None:
    block = AttentionFusion(AttentionFusionConfig(width=5, count=4, hidden=3))
    vectors = [torch.randn(2, 5) for _ in range(4)]
    fused, weights = block(vectors)
    for case in range(2):
        rows = torch.stack([v[case] for v in vectors])  # F (m, d)
        a = (block.score.weight @ torch.tanh(block.hidden.weight @ rows.T)).softmax(-1)
        torch.testing.assert_close(weights[case], a[0])
        torch.testing.assert_close(fused[case], (a @ rows)[0])


def test_vectors_have_no_place_of_their_own() -> None:
    block, vectors = AttentionFusion(AttentionFusionConfig(width=4, count=3)), [torch.randn(2, 4) for _ in range(3)]
    one, other = block(vectors), block(vectors[::-1])
    torch.testing.assert_close(one.fused, other.fused)
    torch.testing.assert_close(one.weights, other.weights.flip(-1))


def test_the_result_is_as_wide_as_a_vector() -> None:
    assert AttentionFusionConfig(width=768, count=4, hidden=128).out_width == 768
    with pytest.raises(ValueError, match="hidden must be >= 1, got 0"):
        AttentionFusionConfig(width=4, count=2, hidden=0)
