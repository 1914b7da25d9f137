"""Concatenation: order, width and the place of an absent vector."""

from __future__ import annotations

import pytest
import torch

from chiasm.fusion.concatenation import Concatenation, ConcatenationConfig


def test_vectors_stand_in_order_and_an_absent_one_leaves_its_place_empty() -> None:
    block = Concatenation(ConcatenationConfig(width=2, count=3))
    vectors = [torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 4.0]]), torch.tensor([[5.0, 6.0]])]
    fused, weights = block(vectors)
    assert fused.tolist() == [[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]]
    assert weights is None
    assert block(vectors, torch.tensor([[True, False, True]])).fused.tolist() == [[1.0, 2.0, 0.0, 0.0, 5.0, 6.0]]


def test_four_streams_of_768_make_3072_without_a_parameter() -> None:
    block = Concatenation(ConcatenationConfig(width=768, count=4))
    assert block.config.out_width == 3072
    assert not list(block.parameters())


def test_no_vector_is_no_fusion() -> None:
    with pytest.raises(ValueError, match="count must be >= 1, got 0"):
        ConcatenationConfig(width=2, count=0)
