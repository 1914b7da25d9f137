"""An absent vector never changes a result: the rule itself, and that every fusion keeps it."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from chiasm.fusion.attention_fusion import AttentionFusion, AttentionFusionConfig
from chiasm.fusion.bilinear_fusion import BilinearFusion, BilinearFusionConfig
from chiasm.fusion.concatenation import Concatenation, ConcatenationConfig
from chiasm.fusion.gated_fusion import GatedMultimodalUnit, GatedMultimodalUnitConfig
from chiasm.fusion.low_rank_fusion import LowRankFusion, LowRankFusionConfig
from chiasm.fusion.tensor_fusion import TensorFusion, TensorFusionConfig
from chiasm.fusion.vectors import check_sizes, stack, with_one

WIDTH, COUNT = 4, 3
JUNK = (math.nan, math.inf, -math.inf, 1e30, -3.0)

FUSIONS: dict[str, Callable[[], nn.Module]] = {
    "concatenation": lambda: Concatenation(ConcatenationConfig(width=WIDTH, count=COUNT)),
    "attention": lambda: AttentionFusion(AttentionFusionConfig(width=WIDTH, count=COUNT)),
    "gated": lambda: GatedMultimodalUnit(GatedMultimodalUnitConfig(width=WIDTH, count=COUNT)),
    "gated, sigmoid, biases": lambda: GatedMultimodalUnit(
        GatedMultimodalUnitConfig(width=WIDTH, count=COUNT, gates="sigmoid", bias=True, hidden=5)
    ),
    "tensor": lambda: TensorFusion(TensorFusionConfig(width=WIDTH, count=COUNT, projected=2, hidden=5)),
    "tensor, unmapped": lambda: TensorFusion(TensorFusionConfig(width=WIDTH, count=COUNT, projected=None)),
    "low-rank": lambda: LowRankFusion(LowRankFusionConfig(width=WIDTH, count=COUNT, rank=2)),
    "bilinear": lambda: BilinearFusion(BilinearFusionConfig(width=WIDTH, count=COUNT, factors=2)),
    "bilinear, not normalised": lambda: BilinearFusion(
        BilinearFusionConfig(width=WIDTH, count=COUNT, factors=2, normalise=False)
    ),
}


def made(name: str) -> nn.Module:
    torch.manual_seed(1)
    block = FUSIONS[name]().double().eval()
    for parameter in block.parameters():
        nn.init.normal_(parameter)  # biases too: they are what would fill an empty case
    return block


def with_gradients(
    block: nn.Module, vectors: list[Tensor], present: Tensor
) -> tuple[Tensor, Tensor | None, list[Tensor]]:
    vectors = [vector.clone().requires_grad_() for vector in vectors]
    fused, weights = block(vectors, present)
    loss = (fused * torch.arange(1.0, fused.shape[1] + 1)).pow(2).sum()
    gradients = torch.autograd.grad(loss, [*vectors, *block.parameters()], allow_unused=True, materialize_grads=True)
    return fused, weights, list(gradients)


@pytest.mark.parametrize("name", FUSIONS)
@settings(max_examples=15, deadline=None)
@given(
    present=st.lists(st.lists(st.booleans(), min_size=COUNT, max_size=COUNT), min_size=1, max_size=4),
    junk=st.sampled_from(JUNK),
    seed=st.integers(0, 99),
)
def test_what_stands_in_an_absent_vector_changes_nothing(
    name: str, present: list[list[bool]], junk: float, seed: int
) -> None:
    block, there = made(name), torch.tensor(present)
    values = torch.randn(COUNT, len(there), WIDTH, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    filled = torch.where(there.T[..., None], values, junk)
    fused, weights, gradients = with_gradients(block, list(values), there)
    other_fused, other_weights, other_gradients = with_gradients(block, list(filled), there)
    assert torch.equal(fused, other_fused)
    for one, other in zip(gradients, other_gradients, strict=True):
        assert torch.isfinite(one).all()
        assert torch.equal(one, other)
    for i, gradient in enumerate(gradients[:COUNT]):
        assert not gradient[~there[:, i]].any()
    assert not fused[~there.any(dim=1)].any()
    if weights is not None:
        assert torch.equal(weights, other_weights)
        assert not weights[~there].any()


@pytest.mark.parametrize("name", FUSIONS)
def test_no_mask_means_that_all_are_there_and_every_vector_counts(name: str) -> None:
    block, vectors = made(name), [torch.randn(2, WIDTH, dtype=torch.float64) for _ in range(COUNT)]
    fused = block(vectors).fused
    assert fused.shape == (2, block.config.out_width)
    assert torch.equal(fused, block(vectors, torch.ones(2, COUNT, dtype=torch.bool)).fused)
    for i in range(COUNT):
        there = torch.ones(2, COUNT, dtype=torch.bool)
        there[:, i] = False
        assert not torch.allclose(block(vectors, there).fused, fused)
        changed = [v + 1 if i == j else v for j, v in enumerate(vectors)]
        assert not torch.allclose(block(changed).fused, fused)


@pytest.mark.parametrize("name", FUSIONS)
def test_a_case_does_not_know_its_neighbours_in_the_batch(name: str) -> None:
    block, vectors = made(name), [torch.randn(3, WIDTH, dtype=torch.float64) for _ in range(COUNT)]
    alone = torch.cat([block([v[i : i + 1] for v in vectors]).fused for i in range(3)])
    torch.testing.assert_close(block(vectors).fused, alone, rtol=1e-12, atol=1e-12)


def test_stack_replaces_absent_vectors_even_where_they_are_not_numbers() -> None:
    stacked, present = stack(
        [torch.tensor([[1.0]]), torch.tensor([[math.nan]])], torch.tensor([[True, False]]), width=1, count=2
    )
    assert stacked.tolist() == [[[1.0], [0.0]]]
    assert present.tolist() == [[True, False]]


def test_a_one_is_appended_and_an_absent_vector_keeps_nothing_else() -> None:
    vectors = torch.tensor([[[2.0, 3.0], [4.0, 5.0]]])
    got = with_one(vectors, torch.tensor([[True, False]]))
    assert got.tolist() == [[[2.0, 3.0, 1.0], [0.0, 0.0, 1.0]]]


@pytest.mark.parametrize(
    ("vectors", "says"),
    [
        ([(2, 4)], r"2 of shape \(B, 4\), got 1 of shapes"),
        ([(2, 4), (2, 5)], "got 2 of shapes"),
        ([(2, 4), (3, 4)], "got 2 of shapes"),
        ([(2, 5), (2, 5)], "got 2 of shapes"),
        ([(2, 1, 4), (2, 1, 4)], "got 2 of shapes"),
    ],
)
def test_vectors_that_do_not_fit_are_refused(vectors: list[tuple[int, ...]], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        stack([torch.zeros(shape) for shape in vectors], None, width=4, count=2)


@pytest.mark.parametrize("present", [torch.ones(2, 2), torch.ones(2, 3, dtype=torch.bool)])
def test_a_mask_that_does_not_fit_is_refused(present: Tensor) -> None:
    with pytest.raises(ValueError, match=r"present must be bool of shape \(2, 2\), got"):
        stack([torch.zeros(2, 4)] * 2, present, width=4, count=2)


def test_all_sizes_that_are_wrong_are_listed() -> None:
    with pytest.raises(ValueError, match=r"count must be >= 2, got 1; rank must be >= 1, got 0$"):
        check_sizes(least_count=2, width=4, count=1, rank=0, hidden=None)
