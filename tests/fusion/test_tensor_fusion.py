"""Tensor fusion: all products by hand, the lower orders, and the limit of its size."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from chiasm.fusion.tensor_fusion import TensorFusion, TensorFusionConfig, outer_product


def test_all_products_of_two_vectors_by_hand() -> None:
    block = TensorFusion(TensorFusionConfig(width=2, count=2, projected=None))
    fused, weights = block([torch.tensor([[2.0, 3.0]]), torch.tensor([[5.0, 7.0]])])
    assert fused.tolist() == [[10.0, 14.0, 2.0, 15.0, 21.0, 3.0, 5.0, 7.0, 1.0]]
    assert weights is None


def test_three_vectors_are_the_outer_product_of_each_with_a_one() -> None:
    block, vectors = TensorFusion(TensorFusionConfig(width=3, count=3, projected=None)), torch.randn(3, 2, 3)
    one = torch.ones(2, 1)
    x, y, z = (torch.cat([v, one], dim=1) for v in vectors)
    expected = torch.einsum("bi,bj,bk->bijk", x, y, z).flatten(1)
    torch.testing.assert_close(block(list(vectors)).fused, expected)
    torch.testing.assert_close(outer_product([x, y, z]), expected)


def test_an_absent_vector_leaves_the_orders_without_it() -> None:
    block = TensorFusion(TensorFusionConfig(width=2, count=2, projected=None))
    vectors = [torch.tensor([[2.0, 3.0]]), torch.tensor([[5.0, 7.0]])]
    fused = block(vectors, torch.tensor([[True, False]])).fused
    assert fused.tolist() == [[0.0, 0.0, 2.0, 0.0, 0.0, 3.0, 0.0, 0.0, 1.0]]


def test_maps_before_and_after_are_linear() -> None:
    block = TensorFusion(TensorFusionConfig(width=2, count=2, projected=1, hidden=1))
    assert block.project is not None
    assert block.out is not None
    for linear, bias in zip(block.project, (0.0, 1.0), strict=True):
        nn.init.ones_(linear.weight)
        nn.init.constant_(linear.bias, bias)
    block.out.weight.data = torch.tensor([[1.0, 10.0, 100.0, 1000.0]])
    nn.init.constant_(block.out.bias, 0.5)
    vectors = [torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 4.0]])]  # projected: 3 and 7 + 1 = 8
    assert block(vectors).fused.item() == 24 + 10 * 3 + 100 * 8 + 1000 + 0.5
    # absent: the bias of its map must not stand in for it
    assert block(vectors, torch.tensor([[True, False]])).fused.item() == 10 * 3 + 1000 + 0.5


def test_a_tensor_that_is_too_large_is_refused_with_both_numbers() -> None:
    with pytest.raises(ValueError, match="3 vectors of 768 features has 454756609 elements, 65536 are allowed"):
        TensorFusionConfig(width=768, count=3, projected=None)
    assert TensorFusionConfig(width=768, count=3).out_width == 17**3
    assert TensorFusionConfig(width=768, count=2, projected=32, hidden=64).out_width == 64
    with pytest.raises(ValueError, match="count must be >= 2, got 1"):
        TensorFusionConfig(width=4, count=1)
