"""The barycentric crossing: marginals, symmetries, padding, its two limits, gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import gradcheck

from chiasm.fusion.costs import squared_euclidean_cost
from chiasm.fusion.transport import BarycentricTransport, TransportConfig


def tokens(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def every(x: Tensor) -> Tensor:
    return torch.ones(x.shape[:2], dtype=torch.bool)


def transport(**fields: object) -> BarycentricTransport:
    return BarycentricTransport(TransportConfig(**fields))


SIZES = st.integers(1, 9)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    n=SIZES,
    m=SIZES,
    seed=st.integers(0, 999),
    eps=st.sampled_from([1.0, 0.1, 0.02, 0.005]),
    scale=st.sampled_from([1, 100]),
)
def test_marginals_hold_and_tokens_are_means(n: int, m: int, seed: int, eps: float, scale: int) -> None:
    x, y = tokens(1, n, 4, seed=seed) * scale, tokens(1, m, 4, seed=seed + 1) * scale
    out = transport(cost="squared-euclidean", normalise="max", eps=eps)(x, y, every(x), every(y))
    torch.testing.assert_close(out.plan.sum(2), torch.full((1, n), 1 / n), rtol=0, atol=1e-5)
    torch.testing.assert_close(out.plan.sum(1), torch.full((1, m), 1 / m), rtol=0, atol=1e-5)
    assert bool((out.x_from_y <= y.amax(1, keepdim=True) + 1e-3).all())
    assert bool((out.x_from_y >= y.amin(1, keepdim=True) - 1e-3).all())
    # whatever is transported, its mean stays
    torch.testing.assert_close(out.y_from_x.mean(1), x.mean(1), rtol=1e-3, atol=1e-4 * scale)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    n=SIZES,
    m=SIZES,
    pads=st.tuples(st.integers(0, 5), st.integers(0, 5)),
    seed=st.integers(0, 999),
    normalise=st.sampled_from(["none", "max", "median"]),
    filling=st.sampled_from([0.0, 1e6, float("nan"), float("inf")]),
)
def test_padding_never_changes_a_result(
    n: int, m: int, pads: tuple[int, int], seed: int, normalise: str, filling: float
) -> None:
    x, y = tokens(1, n, 4, seed=seed), tokens(1, m, 4, seed=seed + 1)
    layer = transport(normalise=normalise, eps=0.05)
    alone = layer(x, y, every(x), every(y))
    padded = [torch.cat([t, torch.full((1, pad, 4), filling)], 1) for t, pad in zip((x, y), pads, strict=True)]
    out = layer(*padded, torch.arange(n + pads[0])[None] < n, torch.arange(m + pads[1])[None] < m)
    torch.testing.assert_close(out.x_from_y[:, :n], alone.x_from_y, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(out.y_from_x[:, :m], alone.y_from_x, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(out.cost_value, alone.cost_value, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(out.entropy, alone.entropy, rtol=1e-4, atol=1e-5)
    assert not out.plan[:, n:].any()
    assert not out.plan[:, :, m:].any()
    assert not out.x_from_y[:, n:].any()
    assert not out.y_from_x[:, m:].any()


@pytest.mark.parametrize("normalise", ["max", "median"])
def test_a_normalised_cost_does_not_know_the_tokens_scale(normalise: str) -> None:
    x, y = tokens(1, 7, 4), tokens(1, 5, 4, seed=1)
    layer = transport(cost="squared-euclidean", normalise=normalise, eps=0.1)
    small, large = layer(x, y, every(x), every(y)), layer(30 * x, 30 * y, every(x), every(y))
    torch.testing.assert_close(large.plan, small.plan, rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(large.cost_value, small.cost_value, rtol=1e-3, atol=1e-6)


def test_permuting_tokens_permutes_the_result() -> None:
    x, y = tokens(2, 7, 4), tokens(2, 5, 4, seed=1)
    p, q = torch.tensor([3, 1, 6, 0, 2, 5, 4]), torch.tensor([4, 0, 2, 1, 3])
    layer = transport(eps=0.05)
    out, permuted = layer(x, y, every(x), every(y)), layer(x[:, p], y[:, q], every(x), every(y))
    torch.testing.assert_close(permuted.plan, out.plan[:, p][:, :, q], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(permuted.x_from_y, out.x_from_y[:, p], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(permuted.y_from_x, out.y_from_x[:, q], rtol=1e-4, atol=1e-5)


def test_a_small_eps_gives_the_exact_plan() -> None:
    ot = pytest.importorskip("ot")
    x, y = tokens(1, 6, 3, dtype=torch.float64), tokens(1, 4, 3, seed=1, dtype=torch.float64)
    exact = ot.emd(np.full(6, 1 / 6), np.full(4, 1 / 4), squared_euclidean_cost(x, y)[0].numpy())
    out = transport(cost="squared-euclidean", eps=0.01, iterations=3000, gradient="none")(x, y, every(x), every(y))
    np.testing.assert_allclose(out.plan[0].numpy(), exact, atol=1e-4)


def test_a_large_eps_is_mean_pooling() -> None:
    x, y = tokens(1, 6, 3), tokens(1, 4, 3, seed=1)
    out = transport(eps=1e5)(x, y, every(x), every(y))
    torch.testing.assert_close(out.x_from_y, y.mean(1, keepdim=True).expand(1, 6, 3), rtol=0, atol=1e-4)
    assert float(out.entropy) == pytest.approx(np.log(24), abs=1e-4)


def test_a_set_transported_onto_its_shuffled_self_finds_its_own_tokens() -> None:
    x, order = tokens(1, 5, 16), torch.tensor([2, 0, 4, 1, 3])
    out = transport(eps=0.01)(x, x[:, order], every(x), every(x))
    torch.testing.assert_close(out.x_from_y, x, rtol=0, atol=1e-3)
    assert float(out.cost_value) == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize("normalise", ["none", "max", "median"])
@pytest.mark.parametrize("cost", ["cosine", "squared-euclidean"])
def test_gradients_are_those_of_finite_differences(cost: str, normalise: str) -> None:
    x = tokens(1, 4, 3, dtype=torch.float64).requires_grad_()
    y = tokens(1, 5, 3, seed=1, dtype=torch.float64).requires_grad_()
    y_mask = torch.tensor([[True, True, True, True, False]])
    layer = transport(cost=cost, normalise=normalise, eps=0.5, iterations=5)

    def function(x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        out = layer(x, y, every(x), y_mask)
        return out.x_from_y, out.y_from_x, out.cost_value, out.entropy

    assert gradcheck(function, (x, y))


def test_a_missing_stream_gives_zeros_and_finite_gradients() -> None:
    x, y = tokens(2, 4, 3).requires_grad_(), tokens(2, 5, 3, seed=1).requires_grad_()
    y_mask = torch.tensor([[True] * 5, [False] * 5])
    out = transport(normalise="median")(x, y, every(x), y_mask)
    (out.x_from_y.sum() + out.y_from_x.sum() + out.cost_value.sum() + out.entropy.sum()).backward()
    assert not out.x_from_y[1].any()
    assert not out.y_from_x[1].any()
    for t in (x, y):
        assert t.grad is not None
        assert bool(t.grad.isfinite().all())
        assert not t.grad[1].any()


def test_without_a_gradient_of_the_plan_only_values_are_trained() -> None:
    x, y = tokens(1, 4, 3).requires_grad_(), tokens(1, 5, 3, seed=1).requires_grad_()
    out = transport(gradient="none")(x, y, every(x), every(y))
    assert not out.plan.requires_grad
    by_x, by_y = torch.autograd.grad(out.x_from_y.sum(), (x, y), allow_unused=True)
    assert by_x is None or not by_x.any()
    torch.testing.assert_close(by_y, (4 * out.plan.sum(1))[:, :, None].expand(1, 5, 3), rtol=0, atol=1e-5)


def test_unbalanced_transport_leaves_a_far_token_unmatched() -> None:
    x = torch.tensor([[[1.0, 0.0], [0.9, 0.1], [-1.0, 0.0]]])
    y = torch.tensor([[[1.0, 0.0], [0.9, 0.2]]])
    plan = transport(unbalanced=0.2, eps=0.05, iterations=100)(x, y, every(x), every(y)).plan
    assert float(plan[0, 2].sum()) < 0.1 * float(plan[0, 0].sum())


def test_a_projection_joins_streams_of_different_width() -> None:
    layer = transport(width=6, other_width=4, projection=5)
    x, y = tokens(1, 3, 6), tokens(1, 2, 4, seed=1)
    out = layer(x, y, every(x), every(y))
    assert out.x_from_y.shape == (1, 3, 4)
    assert out.y_from_x.shape == (1, 2, 6)
    out.x_from_y.square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in layer.parameters())
    assert not list(transport().parameters())


def test_bfloat16_tokens_are_transported_by_the_float32_plan() -> None:
    x, y = tokens(1, 6, 32).bfloat16(), tokens(1, 5, 32, seed=1).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = transport()(x, y, every(x), every(y))
    reference = transport()(x.float(), y.float(), every(x), every(y))
    torch.testing.assert_close(out.plan, reference.plan)
    assert out.x_from_y.dtype == torch.bfloat16
    torch.testing.assert_close(out.x_from_y, reference.x_from_y.bfloat16())


def test_everything_wrong_with_a_configuration_is_said_at_once() -> None:
    with pytest.raises(ValueError, match=r"cost must.*normalise must.*gradient must.*eps must.*projection needs"):
        TransportConfig(cost="l1", normalise="mean", gradient="some", eps=0, projection=3)


def test_widths_that_do_not_meet_are_refused() -> None:
    with pytest.raises(ValueError, match="as many features"):
        transport()(tokens(1, 3, 6), tokens(1, 2, 4), every(tokens(1, 3, 6)), every(tokens(1, 2, 4)))
