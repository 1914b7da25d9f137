"""The kernel embedding: the branches that the golden files leave open, checked against the definition."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from chiasm.fusion.ot_kernel import OTKernel, OTKernelConfig, kernel_embedding, kernel_plan, position_weights


def tokens(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def definition(similarity: Tensor, mask: Tensor, *, eps: float, iterations: int) -> Tensor:
    """The iterations as they are published, one item, float64: (n, p)."""
    kernel, p = (similarity.double() / eps).exp(), similarity.shape[1]
    a, v = p / mask.sum(), torch.ones(p, dtype=torch.float64)
    for _ in range(iterations):
        u = a / (kernel @ v) * mask
        v = 1 / (kernel.T @ u)
    return u[:, None] * kernel * v


@pytest.mark.parametrize("log_domain", [False, True])
@pytest.mark.parametrize("iterations", [1, 7])
def test_plans_follow_the_definition_before_convergence_too(iterations: int, log_domain: bool) -> None:
    similarity = tokens(2, 9, 4)
    mask = torch.arange(9)[None] < torch.tensor([[9], [6]])
    plan = kernel_plan(similarity, mask, eps=0.3, iterations=iterations, log_domain=log_domain)
    for i in range(2):
        expected = definition(similarity[i], mask[i], eps=0.3, iterations=iterations).float()
        torch.testing.assert_close(plan[i], expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(plan.sum(1), torch.ones(2, 4))


@pytest.mark.parametrize(("eps", "log_domain"), [(0.1, True), (0.01, True), (0.1, False)])
def test_large_similarities_neither_overflow_nor_vanish(eps: float, log_domain: bool) -> None:
    similarity = tokens(1, 9, 4) + 200  # exp(200 / eps) is far beyond float64
    plan = kernel_plan(similarity, eps=eps, iterations=20, log_domain=log_domain)
    torch.testing.assert_close(plan.sum(1), torch.ones(1, 4))
    # + 200 leaves float32 five digits after the point
    shifted = kernel_plan(similarity - 200, eps=eps, iterations=20, log_domain=log_domain)
    torch.testing.assert_close(plan, shifted, rtol=0, atol=1e-2)


@pytest.mark.parametrize("log_domain", [False, True])
def test_an_empty_item_is_zero_with_finite_gradients(log_domain: bool) -> None:
    x = tokens(2, 5, 3).requires_grad_()
    module = OTKernel(OTKernelConfig(in_dim=3, out_size=2, eps=0.5, max_iter=5, log_domain=log_domain))
    pooled = module(x, torch.tensor([[True] * 5, [False] * 5]))
    pooled.embedding.square().sum().backward()
    assert not pooled.embedding[1].any()
    assert not pooled.plan[1].any()
    assert x.grad is not None
    assert module.weight.grad is not None
    assert bool(x.grad.isfinite().all() & module.weight.grad.isfinite().all())
    assert bool(x.grad[0].any())


def test_hard_positions_cut_the_plan() -> None:
    weights = position_weights((8,), 4, kind="hard", sigma=0.2)
    i, j = torch.arange(8)[:, None] / 8, torch.arange(4)[None] / 4
    assert torch.equal(weights, ((i - j).abs() < 0.2).float())
    config = OTKernelConfig(in_dim=3, out_size=4, heads=2, position_encoding="hard", position_sigma=0.2, eps=0.5)
    plan = OTKernel(config)(tokens(1, 8, 3)).plan
    assert torch.equal(plan[0, :, 0].T != 0, weights.bool())


def test_image_positions_count_from_one_in_both_directions() -> None:
    weights = position_weights((3, 4), 4, kind="gaussian", sigma=0.5)
    # token (row 2, column 4 of 3 x 4), reference (row 1, column 2 of 2 x 2), both counted from one
    expected = torch.exp(torch.tensor(-(((2 / 3 - 1 / 2) / 0.5) ** 2) - ((4 / 4 - 2 / 2) / 0.5) ** 2))
    torch.testing.assert_close(weights[1 * 4 + 3, 0 * 2 + 1], expected)
    hard = position_weights((3, 4), 4, kind="hard", sigma=0.3)
    assert hard[1 * 4 + 3].tolist() == [0, 1, 0, 0]


def test_an_image_is_its_row_major_sequence_in_a_square() -> None:
    module = OTKernel(OTKernelConfig(in_dim=3, out_size=4, heads=2, eps=0.5, max_iter=10))
    image = tokens(2, 3, 5, 3)
    mask = torch.ones(2, 3, 5, dtype=torch.bool)
    mask[1, 2] = False
    as_image, as_sequence = module(image, mask), module(image.flatten(1, 2), mask.flatten(1))
    assert torch.equal(as_image.embedding.flatten(1, 2), as_sequence.embedding)
    assert as_image.embedding.shape == (2, 2, 2, 6)


def test_heads_are_independent_and_side_by_side() -> None:
    both = OTKernel(OTKernelConfig(in_dim=3, out_size=4, heads=2, eps=0.5))
    one = OTKernel(OTKernelConfig(in_dim=3, out_size=4, eps=0.5))
    one.load_state_dict({"weight": both.weight.detach()[1:]})
    x = tokens(2, 6, 3)
    torch.testing.assert_close(both(x).embedding[:, :, 3:], one(x).embedding)


def test_another_modality_serves_as_references_and_its_padding_changes_nothing() -> None:
    x, y = tokens(2, 7, 3), tokens(2, 5, 3, seed=1)
    x_mask = torch.arange(7)[None] < torch.tensor([[7], [4]])
    y_mask = torch.arange(5)[None] < torch.tensor([[5], [3]])
    x[1, 4:], y[1, 3:] = torch.nan, torch.inf
    for log_domain in (False, True):
        crossed = kernel_embedding(x, y, x_mask, y_mask, eps=0.5, iterations=50, log_domain=log_domain)
        alone = kernel_embedding(x[1:, :4], y[1:, :3], eps=0.5, iterations=50, log_domain=log_domain)
        torch.testing.assert_close(crossed.embedding[1:, :3], alone.embedding, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(crossed.value[1:], alone.value, rtol=1e-4, atol=1e-5)
        assert not crossed.embedding[1, 3:].any()
        torch.testing.assert_close(crossed.plan[1, :3, 0].sum(1), torch.ones(3))
        torch.testing.assert_close(crossed.plan[1, :, 0, :4].sum(0), torch.full((4,), 3 / 4), rtol=0, atol=1e-3)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"must be \(B, n, 3\)"):
        OTKernel(OTKernelConfig(in_dim=3, out_size=4))(tokens(2, 6, 4))
    with pytest.raises(ValueError, match="5 is no square"):
        OTKernel(OTKernelConfig(in_dim=3, out_size=5))(tokens(2, 6, 6, 3))
    with pytest.raises(ValueError, match="share B and d"):
        kernel_embedding(tokens(2, 6, 3), tokens(1, 6, 3))
    with pytest.raises(ValueError, match="eps and position_sigma"):
        OTKernelConfig(in_dim=3, out_size=5, eps=0)
