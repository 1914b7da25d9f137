"""Low-rank fusion equals tensor fusion with the weight tensor that its factors make."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from chiasm.fusion.low_rank_fusion import LowRankFusion, LowRankFusionConfig
from chiasm.fusion.tensor_fusion import TensorFusion, TensorFusionConfig

LETTERS = "ijk"


def assembled(block: LowRankFusion) -> Tensor:
    """The full weight tensor (hidden, (d + 1)^m) of a block."""
    count = block.config.count
    terms = ",".join(f"r{letter}h" for letter in LETTERS[:count])
    full = torch.einsum(f"{terms},r->h{LETTERS[:count]}", *block.factors, block.rank_weights)
    return full.flatten(1)


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("rank", [1, 4])
def test_it_is_tensor_fusion_with_the_assembled_weight(count: int, rank: int) -> None:
    low = LowRankFusion(LowRankFusionConfig(width=4, count=count, rank=rank, hidden=5)).double()
    torch.nn.init.normal_(low.rank_weights)
    torch.nn.init.normal_(low.bias)
    full = TensorFusion(TensorFusionConfig(width=4, count=count, projected=None, hidden=5)).double()
    full.load_state_dict({"out.weight": assembled(low), "out.bias": low.bias})
    vectors = [torch.randn(6, 4, dtype=torch.float64) for _ in range(count)]
    present = torch.rand(6, count) < 0.7
    torch.testing.assert_close(low(vectors).fused, full(vectors).fused, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(low(vectors, present).fused, full(vectors, present).fused, rtol=1e-10, atol=1e-10)


def test_a_known_value_by_hand() -> None:
    block = LowRankFusion(LowRankFusionConfig(width=1, count=2, rank=2))
    block.load_state_dict(
        {
            # a row a vector; in it a pair (feature, one) for each rank
            "factors": torch.tensor([[[[2.0], [1.0]], [[0.0], [1.0]]], [[[1.0], [0.0]], [[-1.0], [3.0]]]]),
            "rank_weights": torch.tensor([1.0, 10.0]),
            "bias": torch.tensor([0.5]),
        }
    )
    vectors = [torch.tensor([[3.0]]), torch.tensor([[5.0]])]
    # rank 1: (2*3 + 1) * (1*5 + 0) = 35; rank 2: (0*3 + 1) * (-1*5 + 3) = -2
    fused, weights = block(vectors)
    assert fused.item() == 35 - 20 + 0.5
    assert weights is None
    assert block(vectors, torch.tensor([[True, False]])).fused.item() == 7 * 0 + 10 * 1 * 3 + 0.5


def test_it_grows_with_the_rank_and_not_with_the_tensor() -> None:
    with torch.device("meta"):
        block = LowRankFusion(LowRankFusionConfig(width=768, count=4, rank=4))
    assert sum(p.numel() for p in block.parameters()) == 4 * 4 * 769 * 768 + 4 + 768
    assert block.config.out_width == 768


def test_an_untrained_block_keeps_the_scale_of_its_vectors() -> None:
    block = LowRankFusion(LowRankFusionConfig(width=256, count=4))
    fused = block([torch.randn(64, 256) for _ in range(4)]).fused
    assert 0.5 < fused.std().item() < 2


def test_impossible_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="rank must be >= 1, got 0"):
        LowRankFusionConfig(width=4, count=2, rank=0)
