"""Factorised bilinear pooling: by hand, as a bilinear form, and its normalisation."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from chiasm.fusion.bilinear_fusion import BilinearFusion, BilinearFusionConfig


def test_a_known_value_by_hand() -> None:
    block = BilinearFusion(BilinearFusionConfig(width=1, count=2, factors=2, hidden=2, dropout=0.0))
    for linear, weights in zip(block.project, ([1.0, 2.0, 3.0, 4.0], [1.0, 1.0, -1.0, -1.0]), strict=True):
        linear.weight.data = torch.tensor(weights)[:, None]
        nn.init.zeros_(linear.bias)
    fused, weights = block([torch.tensor([[2.0]]), torch.tensor([[1.5]])])
    # products 3, 6, -9, -12; sums 9, -21; signed roots 3, -sqrt 21; length sqrt 30
    torch.testing.assert_close(fused, torch.tensor([[3.0, -(21**0.5)]]) / 30**0.5)
    assert weights is None


def test_without_biases_and_norm_a_feature_is_a_bilinear_form_of_rank_k() -> None:
    block = BilinearFusion(BilinearFusionConfig(width=4, count=2, factors=3, hidden=5, normalise=False)).eval()
    x, y = torch.randn(2, 6, 4)
    u, v = (linear.weight.view(5, 3, 4) for linear in block.project)
    for linear in block.project:
        nn.init.zeros_(linear.bias)
    expected = torch.einsum("bi,okp,okq,bj,pi,qj->bo", x, u, v, y, torch.eye(4), torch.eye(4))
    torch.testing.assert_close(block([x, y]).fused, expected, rtol=1e-5, atol=1e-5)


def test_an_absent_vector_is_the_factor_one() -> None:
    block = BilinearFusion(BilinearFusionConfig(width=4, count=2, factors=3, hidden=5, normalise=False)).eval()
    x, y = torch.randn(2, 6, 4)
    fused = block([x, y], torch.tensor([[True, False]]).expand(6, 2)).fused
    torch.testing.assert_close(fused, block.project[0](x).view(6, 5, 3).sum(-1))


def test_the_result_has_unit_length() -> None:
    block = BilinearFusion(BilinearFusionConfig(width=8, count=3)).eval()
    fused = block([100 * torch.randn(4, 8) for _ in range(3)]).fused
    torch.testing.assert_close(fused.norm(dim=1), torch.ones(4))


def test_a_product_of_zero_has_a_finite_gradient() -> None:
    block = BilinearFusion(BilinearFusionConfig(width=2, count=2, hidden=2, factors=1)).eval()
    for linear in block.project:
        nn.init.zeros_(linear.bias)
    x = torch.zeros(1, 2, requires_grad=True)
    block([x, torch.ones(1, 2)]).fused.sum().backward()
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()


def test_dropout_works_in_training_only() -> None:
    block = BilinearFusion(BilinearFusionConfig(width=8, count=2, dropout=0.5, normalise=False))
    vectors = [torch.randn(4, 8) for _ in range(2)]
    calm = block.eval()(vectors).fused
    torch.testing.assert_close(block(vectors).fused, calm)
    assert not torch.allclose(block.train()(vectors).fused, calm)


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="factors must be >= 1, got 0"):
        BilinearFusionConfig(width=4, count=2, factors=0)
    with pytest.raises(ValueError, match=r"dropout must be in \[0, 1\), got 1"):
        BilinearFusionConfig(width=4, count=2, dropout=1.0)
