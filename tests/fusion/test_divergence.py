"""The loss: geomloss's values, zero between equal sets, gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

from chiasm.fusion.divergence import SinkhornDivergence, SinkhornDivergenceConfig

# geomloss 0.3.1, SamplesLoss("sinkhorn", p=2, blur=..., scaling=0.9999, backend="tensorized") on points() below
GEOMLOSS = {0.3: 0.8922272434231566, 0.1: 0.924203252811213}


def points(n: int, k: float, shift: float = 0.0) -> Tensor:
    return torch.sin(torch.arange(3 * n, dtype=torch.float64) * k).view(1, n, 3) + shift


def every(x: Tensor) -> Tensor:
    return torch.ones(x.shape[:2], dtype=torch.bool)


def divergence(**settings: object) -> SinkhornDivergence:
    return SinkhornDivergence(SinkhornDivergenceConfig(**settings))


@pytest.mark.parametrize("blur", GEOMLOSS)
def test_half_the_value_is_that_of_geomloss(blur: float) -> None:
    x, y = points(9, 1.7), points(7, 2.3, 0.5)
    loss = divergence(cost="squared-euclidean", eps=2 * blur**2, iterations=1000)
    assert float(loss(x, y, every(x), every(y))) / 2 == pytest.approx(GEOMLOSS[blur], abs=1e-5)


def test_values_are_those_of_the_installed_geomloss() -> None:
    geomloss = pytest.importorskip("geomloss")
    x, y = points(12, 0.9), points(5, 2.9, 0.2)
    theirs = geomloss.SamplesLoss("sinkhorn", p=2, blur=0.3, scaling=0.999, backend="tensorized")(x, y)
    ours = divergence(cost="squared-euclidean", eps=0.18, iterations=1000)(x, y, every(x), every(y)) / 2
    assert float(ours) == pytest.approx(float(theirs), abs=1e-3)


@pytest.mark.parametrize("cost", ["cosine", "squared-euclidean"])
def test_equal_sets_in_any_order_are_at_zero(cost: str) -> None:
    x = points(8, 1.3).float()
    loss = divergence(cost=cost)
    assert float(loss(x, x, every(x), every(x))) == 0
    assert float(loss(x, x.flip(1), every(x), every(x))) == pytest.approx(0, abs=1e-5)
    assert float(loss(x, points(8, 2.3).float(), every(x), every(x))) > 1e-3


def test_a_step_down_the_gradient_brings_the_sets_together() -> None:
    x, y = points(6, 1.7).requires_grad_(), points(6, 2.3, 0.5)
    loss = divergence(cost="squared-euclidean", eps=0.1)
    value = loss(x, y, every(x), every(y))
    (gradient,) = torch.autograd.grad(value.sum(), x)
    moved = loss(x - 0.5 * gradient, y, every(x), every(y))
    assert float(moved.detach()) < 0.8 * float(value.detach())


def test_gradients_are_those_of_finite_differences() -> None:
    loss = divergence(eps=0.5, iterations=40, tolerance=1e-12)
    x, y = points(4, 1.7).requires_grad_(), points(5, 2.3, 0.5).requires_grad_()
    assert gradcheck(lambda p, q: loss(p, q, every(x), every(y)), (x, y), atol=1e-6)


def test_padding_changes_nothing_and_an_empty_side_is_zero_without_gradient() -> None:
    x, y = points(6, 1.7).float().repeat(3, 1, 1), points(5, 2.3).float().repeat(3, 1, 1)
    x_mask, y_mask = torch.ones(3, 6, dtype=torch.bool), torch.ones(3, 5, dtype=torch.bool)
    x_mask[1, 4:], y_mask[2] = False, False
    x[1, 4:] = torch.nan
    x.requires_grad_()
    loss = divergence()
    values = loss(x, y, x_mask, y_mask)
    values.sum().backward()
    alone = loss(x.detach()[1:2, :4], y[1:2], x_mask[1:2, :4], y_mask[1:2])
    assert float(values[1].detach()) == pytest.approx(float(alone), abs=1e-6)
    assert float(values[2].detach()) == 0
    assert x.grad is not None
    assert bool(x.grad.isfinite().all())
    assert float(x.grad[0].abs().max()) > 0
    assert not x.grad[1, 4:].any()
    assert not x.grad[2].any()


def test_settings_that_make_no_loss_are_refused_together() -> None:
    with pytest.raises(ValueError, match=r"cost must be one of .*; eps must be > 0"):
        SinkhornDivergenceConfig(cost="l1", eps=0)
