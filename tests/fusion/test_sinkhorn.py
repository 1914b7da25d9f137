"""Plans: what they must satisfy, POT's numbers, and the costs on which the usual scaling returns nothing."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

from chiasm.fusion.costs import cosine_cost, full_precision, normalise_cost, pairwise_cost, squared_euclidean_cost
from chiasm.fusion.scaling import sinkhorn_plan
from chiasm.fusion.sinkhorn import plan_entropy, sinkhorn_log


def tokens(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def wide_tokens(n: int, seed: int) -> Tensor:
    """768 features with norms near 28, as BERT's and DeiT's last layers have them."""
    return tokens(1, n, 768, seed=seed)


def masks() -> tuple[Tensor, Tensor]:
    """Three items: full, padded on both sides, nothing valid in y."""
    a, b = torch.ones(3, 7, dtype=torch.bool), torch.ones(3, 5, dtype=torch.bool)
    a[1, 4:], b[1, 2:], b[2] = False, False, False
    return a, b


def off(plan: Tensor, mask_a: Tensor, mask_b: Tensor) -> float:
    """Largest error of any row or column sum."""
    a, b = (m.double() / m.sum(1, keepdim=True).clamp_min(1) for m in (mask_a, mask_b))
    keep = (mask_a.any(1) & mask_b.any(1))[:, None]
    return max(float((plan.sum(2) - a * keep).abs().max()), float((plan.sum(1) - b * keep).abs().max()))


# costs


def test_cosine_cost_is_one_minus_the_cosine() -> None:
    x, y = torch.tensor([[[3.0, 0.0], [0.0, 0.0]]]), torch.tensor([[[2.0, 0.0], [0.0, 5.0], [-1.0, 0.0]]])
    assert cosine_cost(x, y).tolist() == [[[0.0, 1.0, 2.0], [1.0, 1.0, 1.0]]]


def test_a_zero_token_gets_a_finite_gradient() -> None:
    x = torch.zeros(1, 1, 3, requires_grad=True)
    cosine_cost(x, torch.ones(1, 1, 3)).sum().backward()
    assert x.grad is not None
    assert float(x.grad.abs().max()) < 2


def test_squared_euclidean_cost_is_that_of_cdist() -> None:
    x, y = tokens(2, 4, 6), tokens(2, 5, 6, seed=1)
    torch.testing.assert_close(squared_euclidean_cost(x, y), torch.cdist(x, y).square(), rtol=1e-4, atol=1e-4)


def test_an_unknown_cost_is_refused() -> None:
    with pytest.raises(ValueError, match="manhattan"):
        pairwise_cost(tokens(1, 2, 2), tokens(1, 2, 2), kind="manhattan")


def test_normalising_reads_valid_pairs_only() -> None:
    cost = torch.tensor([[[1.0, 2.0, 50.0], [3.0, 8.0, 50.0], [99.0, 99.0, torch.nan]]])
    rows, columns = torch.tensor([[True, True, False]]), torch.tensor([[True, True, False]])
    assert normalise_cost(cost, rows, columns, how="max")[0, :2, :2].tolist() == [[0.125, 0.25], [0.375, 1.0]]
    assert normalise_cost(cost, rows, columns, how="median")[0, :2, :2].tolist() == [[0.5, 1.0], [1.5, 4.0]]
    assert normalise_cost(cost, rows, columns, how="none") is cost
    nothing = torch.zeros_like(rows)
    assert normalise_cost(cost, nothing, columns, how="max")[0, 0].tolist() == [1.0, 2.0, 50.0]


def test_costs_ignore_autocast() -> None:
    x, y = tokens(1, 6, 32), tokens(1, 6, 32, seed=1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = cosine_cost(x, y)
    assert torch.equal(inside, cosine_cost(x, y))
    before = torch.backends.mkldnn.matmul.fp32_precision
    with full_precision(x.device):
        assert torch.backends.mkldnn.matmul.fp32_precision == "ieee"
    assert torch.backends.mkldnn.matmul.fp32_precision == before


# the log-domain solver


@pytest.mark.parametrize("iterations", [1, 5, 200])
@pytest.mark.parametrize("eps", [1.0, 0.02, 0.001])
def test_both_marginals_hold_after_any_number_of_iterations(eps: float, iterations: int) -> None:
    cost = cosine_cost(tokens(3, 7, 8), tokens(3, 5, 8, seed=1))
    found = sinkhorn_log(cost, *masks(), eps=eps, iterations=iterations)
    assert off(found.plan, *masks()) < 1e-6
    assert float(found.marginal_error.max()) < 1e-5
    assert float(found.plan.min()) >= 0


def test_residual_says_how_far_from_convergence() -> None:
    cost = cosine_cost(tokens(1, 7, 8), tokens(1, 5, 8, seed=1))
    residuals = [float(sinkhorn_log(cost, eps=0.05, iterations=k).residual) for k in (1, 20, 2000)]
    assert residuals[0] > residuals[1] > 1e-3
    assert residuals[2] < 1e-5


def test_padding_gets_no_mass_and_changes_nothing() -> None:
    cost = cosine_cost(tokens(3, 7, 8), tokens(3, 5, 8, seed=1))
    a, b = masks()
    cost[1, 4:], cost[1, :, 2:], cost[2] = torch.nan, torch.inf, torch.nan
    found = sinkhorn_log(cost, a, b, eps=0.1, iterations=30)
    assert torch.equal(found.plan != 0, a[:, :, None] & b[:, None, :])
    alone = sinkhorn_log(cost[1:2, :4, :2], eps=0.1, iterations=30)
    torch.testing.assert_close(found.plan[1:2, :4, :2], alone.plan, rtol=1e-5, atol=1e-7)
    assert found.mass.tolist() == pytest.approx([1, 1, 0], abs=1e-6)


@pytest.mark.parametrize("gradient", ["unroll", "last-step"])
@pytest.mark.parametrize("unbalanced", [None, 0.5])
def test_an_empty_item_leaves_every_gradient_finite(gradient: str, unbalanced: float | None) -> None:
    cost = cosine_cost(tokens(3, 7, 8), tokens(3, 5, 8, seed=1)).requires_grad_()
    a, b = masks()
    found = sinkhorn_log(cost, a, b, eps=0.05, iterations=20, gradient=gradient, unbalanced=unbalanced)
    (found.plan.square().sum() + plan_entropy(found.plan).sum() + found.f.sum() + found.g.sum()).backward()
    assert cost.grad is not None
    assert bool(cost.grad.isfinite().all())
    assert float(cost.grad[0].abs().max()) > 0
    assert not cost.grad[2].any()
    assert not cost.grad[1, 4:].any()


def test_an_item_does_not_depend_on_its_neighbours() -> None:
    cost = cosine_cost(tokens(2, 7, 3), tokens(2, 5, 3, seed=1))
    cost[0] *= 0.01  # converges at once, its neighbour does not
    both = sinkhorn_log(cost, eps=0.02, iterations=500, tolerance=1e-4).plan
    alone = sinkhorn_log(cost[:1], eps=0.02, iterations=500, tolerance=1e-4).plan
    torch.testing.assert_close(both[:1], alone, rtol=0, atol=1e-8)


def test_half_precision_and_autocast_are_computed_in_float32() -> None:
    cost = cosine_cost(tokens(1, 7, 8), tokens(1, 5, 8, seed=1)).half()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        plan = sinkhorn_log(cost, eps=0.02, iterations=50).plan
    assert plan.dtype == torch.float32
    torch.testing.assert_close(plan, sinkhorn_log(cost.float(), eps=0.02, iterations=50).plan)


def test_gradients_are_those_of_finite_differences() -> None:
    cost = cosine_cost(tokens(1, 4, 6, dtype=torch.float64), tokens(1, 5, 6, seed=1, dtype=torch.float64))
    masked = torch.tensor([[True, True, True, False]])

    def plan(c: Tensor) -> Tensor:
        return sinkhorn_log(c, eps=0.2, iterations=60).plan

    def unfinished(c: Tensor) -> tuple[Tensor, Tensor]:
        found = sinkhorn_log(c, masked, eps=0.2, iterations=3)
        return found.plan, found.f

    def relaxed(c: Tensor) -> Tensor:
        return sinkhorn_log(c, eps=0.2, iterations=10, unbalanced=(0.5, 2.0)).plan

    for function in (plan, unfinished, relaxed):
        assert gradcheck(function, (cost.requires_grad_(),))


def test_float32_gradients_are_those_of_float64() -> None:
    cost = cosine_cost(tokens(1, 12, 16), tokens(1, 9, 16, seed=1))
    direction = tokens(1, 12, 9, seed=2).double()
    gradients = []
    for dtype in (torch.float32, torch.float64):
        c = cost.to(dtype).detach().clone().requires_grad_()
        value = (sinkhorn_log(c, eps=0.05, iterations=100).plan * direction.to(dtype)).sum()
        gradients.append(torch.autograd.grad(value, c)[0])
    torch.testing.assert_close(gradients[0].double(), gradients[1], rtol=1e-3, atol=1e-5)


def test_one_differentiable_step_points_where_all_do_and_none_gives_none() -> None:
    cost = cosine_cost(tokens(1, 12, 16), tokens(1, 9, 16, seed=1)).requires_grad_()
    direction = tokens(1, 12, 9, seed=2)
    full, last = (
        torch.autograd.grad((sinkhorn_log(cost, eps=0.2, iterations=50, gradient=mode).plan * direction).sum(), cost)[0]
        for mode in ("unroll", "last-step")
    )
    assert float(torch.cosine_similarity(full.flatten(), last.flatten(), 0)) > 0.95
    assert not sinkhorn_log(cost, eps=0.2, iterations=5, gradient="none").plan.requires_grad


def test_weights_are_marginals_and_zero_weight_is_padding() -> None:
    cost = cosine_cost(tokens(1, 3, 4), tokens(1, 4, 4, seed=1))
    weights = torch.tensor([[2.0, 0.0, 6.0]])
    plan = sinkhorn_log(cost, weights, eps=0.1, iterations=50).plan
    assert plan.sum(2)[0].tolist() == pytest.approx([0.25, 0, 0.75], abs=1e-6)


def test_rounding_a_converged_plan_makes_no_gradient_of_its_own() -> None:
    for seed in range(20):
        x, y = tokens(4, 6, 8, seed=seed), tokens(4, 5, 8, seed=seed + 100)
        direction = tokens(4, 6, 5, seed=seed + 200)
        gradients = []
        for dtype in (torch.float32, torch.float64):
            cost = (0.01 * cosine_cost(x, y)).to(dtype).requires_grad_()
            value = (sinkhorn_log(cost, eps=1.0, iterations=20).plan * direction.to(dtype)).sum()
            gradients.append(torch.autograd.grad(value, cost)[0])
        torch.testing.assert_close(gradients[0].double(), gradients[1], rtol=1e-3, atol=1e-5)


def test_entropy_of_a_uniform_plan_is_the_logarithm_of_its_size() -> None:
    found = sinkhorn_log(torch.zeros(1, 6, 7), eps=1.0, iterations=1)
    assert float(plan_entropy(found.plan)) == pytest.approx(np.log(42), abs=1e-5)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"eps": 0.0}, "eps must be > 0"),
        ({"iterations": 0}, "iterations >= 1"),
        ({"gradient": "envelope"}, "unroll, last-step, none"),
        ({"unbalanced": (1.0, -1.0)}, "unbalanced must be > 0"),
        ({"a": torch.ones(1, 4, dtype=torch.bool)}, r"a must have shape \(1, 3\)"),
    ],
)
def test_what_makes_no_problem_is_refused(change: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        sinkhorn_log(torch.ones(1, 3, 4), **({"eps": 0.1, "iterations": 3} | change))


# POT


def pot(cost: Tensor, reg: float, *, dtype: type = np.float64, **options: object) -> Tensor:
    """POT's plan of one cost matrix, with its warnings caught."""
    ot = pytest.importorskip("ot")
    n, m = cost.shape
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        a, b = np.full(n, 1 / n, dtype), np.full(m, 1 / m, dtype)
        plan = ot.sinkhorn(a, b, cost.numpy().astype(dtype), reg, **options)
    return torch.from_numpy(plan)


@pytest.mark.parametrize("eps", [0.5, 0.1, 0.02])
def test_plans_are_those_of_pot(eps: float) -> None:
    cost = cosine_cost(tokens(2, 16, 24), tokens(2, 11, 24, seed=1))
    ours = sinkhorn_log(cost, eps=eps, iterations=4000, tolerance=1e-7).plan
    for i in range(2):
        theirs = pot(cost[i], eps, method="sinkhorn_log", numItermax=10000, stopThr=1e-12)
        assert float((ours[i] - theirs).abs().max()) < 1e-5
        assert float((ours[i] - theirs).abs().sum()) < 1e-4


def test_unbalanced_plans_are_those_of_pot() -> None:
    ot = pytest.importorskip("ot")
    cost = cosine_cost(tokens(1, 8, 6, dtype=torch.float64), tokens(1, 5, 6, seed=1, dtype=torch.float64))
    ours = sinkhorn_log(cost, eps=0.1, iterations=500, unbalanced=0.3).plan[0].numpy()
    theirs = ot.unbalanced.sinkhorn_unbalanced(
        np.full(8, 1 / 8), np.full(5, 1 / 5), cost[0].numpy(), 0.1, 0.3, reg_type="kl", numItermax=5000, stopThr=1e-12
    )
    np.testing.assert_allclose(ours, theirs, atol=1e-8)
    assert ours.sum() < 0.95


@pytest.mark.parametrize(
    ("kind", "eps"),
    [
        ("squared-euclidean", 10.0),
        ("squared-euclidean", 1.0),
        ("squared-euclidean", 0.1),
        ("cosine", 0.01),
        ("cosine", 0.001),
    ],
)
def test_a_plan_where_the_plain_scaling_has_none(kind: str, eps: float) -> None:
    cost = pairwise_cost(wide_tokens(48, 0), wide_tokens(24, 1), kind=kind)
    theirs = pot(cost[0], eps, dtype=np.float32, method="sinkhorn", numItermax=50)
    assert float(theirs.sum()) < 1e-30
    found = sinkhorn_log(cost, eps=eps, iterations=50)
    assert float(found.mass) == pytest.approx(1, abs=1e-5)
    assert float(found.marginal_error) < 2e-6
    assert float(sinkhorn_plan(cost, eps=eps, iterations=50).sum()) == pytest.approx(1, abs=1e-4)


# the fast solver


@pytest.mark.parametrize(("width", "eps"), [(64, 0.1), (64, 0.05), (16, 0.02), (768, 0.01)])
def test_fast_plans_are_the_converged_ones(width: int, eps: float) -> None:
    x, y = tokens(2, 40, width), tokens(2, 30, width, seed=1)
    cost = cosine_cost(x, y)
    converged = sinkhorn_log(cost.double(), eps=eps, iterations=20000, tolerance=1e-10).plan
    assert float((sinkhorn_plan(cost, eps=eps) - converged).abs().sum((1, 2)).max()) < 1e-4


def test_over_relaxation_converges_where_plain_iterations_do_not() -> None:
    cost = cosine_cost(tokens(2, 60, 8), tokens(2, 50, 8, seed=1))
    converged = sinkhorn_log(cost.double(), eps=0.01, iterations=5000, tolerance=1e-10).plan
    plain = sinkhorn_log(cost.double(), eps=0.01, iterations=200).plan
    assert float((plain - converged).abs().sum((1, 2)).max()) > 3e-3
    assert float((sinkhorn_plan(cost, eps=0.01, iterations=200) - converged).abs().sum((1, 2)).max()) < 1e-4


def test_fast_plans_respect_padding_and_empty_items() -> None:
    cost = cosine_cost(tokens(3, 7, 8), tokens(3, 5, 8, seed=1))
    a, b = masks()
    cost[1, 4:], cost[1, :, 2:] = torch.nan, torch.nan
    plan = sinkhorn_plan(cost, a, b, eps=0.1)
    assert torch.equal(plan != 0, a[:, :, None] & b[:, None, :] & b.any(1)[:, None, None])
    torch.testing.assert_close(plan[1:2, :4, :2], sinkhorn_plan(cost[1:2, :4, :2], eps=0.1))
    assert off(plan, a, b) < 1e-5


@pytest.mark.parametrize("offset", [9.5, 12])
def test_a_fast_plan_that_float32_is_too_narrow_for_is_solved_in_float64(
    offset: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    from chiasm.fusion import scaling

    cost = cosine_cost(tokens(1, 20, 32), tokens(1, 15, 32, seed=1))
    expected = sinkhorn_plan(cost, eps=0.1)
    # a constant for each column changes no plan, but exp(-95) has three bits in float32, and exp(-120) none
    shifted = cost + torch.linspace(0, offset, 15)
    types = []
    scale = scaling._scale
    monkeypatch.setattr(scaling, "_scale", lambda c, *rest: (types.append(c.dtype), scale(c, *rest))[1])
    monkeypatch.delattr(scaling, "sinkhorn_log")
    assert float((sinkhorn_plan(shifted, eps=0.1) - expected).abs().sum()) < 1e-4
    assert types == [np.float32, np.float64]


@pytest.mark.parametrize("eps", [0.002, 0.0002])
def test_a_fast_plan_falls_back_to_the_log_domain(eps: float) -> None:
    cost = cosine_cost(tokens(1, 12, 4), tokens(1, 9, 4, seed=1))
    plan = sinkhorn_plan(cost, eps=eps, iterations=300)
    everything = torch.ones(1, 12, dtype=torch.bool), torch.ones(1, 9, dtype=torch.bool)
    assert off(plan, *everything) < 1e-5
    reference = sinkhorn_log(cost.double(), eps=eps, iterations=300).plan
    assert float((plan - reference).abs().sum()) < 1e-3


def test_batched_scaling_gives_what_one_by_one_gives() -> None:
    from chiasm.fusion import scaling
    from chiasm.fusion.sinkhorn import marginals

    cost = cosine_cost(tokens(3, 7, 8), tokens(3, 5, 8, seed=1))
    a, b = marginals(cost, *masks(), balanced=True)
    together, solved = scaling._scale_together(cost, a, b, 0.1, 1000, 1e-5)
    assert solved.all()
    torch.testing.assert_close(together, sinkhorn_plan(cost, *masks(), eps=0.1), rtol=1e-3, atol=1e-6)


@pytest.mark.gpu
def test_a_gpu_gives_the_plan_of_the_cpu() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    cost = cosine_cost(tokens(3, 70, 64), tokens(3, 50, 64, seed=1))
    there = sinkhorn_plan(cost.cuda(), eps=0.05).cpu()
    torch.testing.assert_close(there, sinkhorn_plan(cost, eps=0.05), rtol=1e-3, atol=1e-6)
