"""Single-layer relevance rules against loops over pairs of input and weight."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from chiasm.heads.lrp_rules import (
    add_rule,
    bounded_conv_rule,
    clone_rule,
    conv_rule,
    einsum_rule,
    linear_rule,
    safe_divide,
    select_rule,
)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def pairwise(x: Tensor, weight: Tensor, relevance: Tensor, alpha: float) -> Tensor:
    """The rule as it is written: each output gives its relevance to pairs of one sign, by their size."""
    products = x[:, None] * weight  # (n, out, in)
    positive, negative = products.clamp(min=0), products.clamp(max=0)
    parts = [part / part.sum(-1, keepdim=True) * relevance[..., None] for part in (positive, negative)]
    return (alpha * parts[0] - (alpha - 1) * parts[1]).sum(1)


@pytest.mark.parametrize("alpha", [1.0, 2.0, 1.5])
def test_linear_gives_relevance_to_pairs_of_one_sign(alpha: float) -> None:
    x, weight, relevance = normal(3, 6), normal(4, 6, seed=1), normal(3, 4, seed=2)
    found = linear_rule(x, weight, relevance, alpha=alpha)
    torch.testing.assert_close(found, pairwise(x, weight, relevance, alpha), rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(found.sum(-1), relevance.sum(-1))


def test_an_output_without_a_positive_pair_gives_nothing() -> None:
    found = linear_rule(torch.tensor([[1.0, 2.0]]), -torch.ones(1, 2), torch.ones(1, 1))
    assert found.tolist() == [[0, 0]]


def test_division_is_zero_at_zero_and_keeps_the_sign_beside_it() -> None:
    found = safe_divide(torch.ones(4), torch.tensor([0.0, 2.0, -2.0, 1e-9]))
    assert found[0] == 0
    torch.testing.assert_close(found[1:3], torch.tensor([0.5, -0.5]))
    torch.testing.assert_close(found[3], torch.tensor(0.5e9))


def test_a_sum_gives_shares_by_absolute_sums() -> None:
    a, b = torch.tensor([[3.0, 3.0]]), torch.tensor([[1.0, 1.0]])
    to_a, to_b = add_rule(a, b, torch.tensor([[2.0, 6.0]]))
    torch.testing.assert_close(to_a, torch.tensor([[1.5, 4.5]]))
    torch.testing.assert_close(to_b, torch.tensor([[0.5, 1.5]]))
    to_a, to_b = add_rule(normal(2, 5), normal(2, 5, seed=1), normal(2, 5, seed=2))
    torch.testing.assert_close(to_a.sum() + to_b.sum(), normal(2, 5, seed=2).sum())


def test_shares_a_case_do_not_depend_on_the_batch() -> None:
    a, b, relevance = (normal(3, 5, seed=seed) for seed in range(3))
    alone = add_rule(a[:1], b[:1], relevance[:1])[0]
    torch.testing.assert_close(add_rule(a, b, relevance, per_case=True)[0][:1], alone)
    assert not torch.allclose(add_rule(a, b, relevance)[0][:1], alone)


def test_branches_of_one_tensor_are_added_and_zeros_get_nothing() -> None:
    x = torch.tensor([2.0, 0.0, -1.0])
    found = clone_rule(x, torch.tensor([1.0, 1.0, 1.0]), torch.tensor([0.5, 1.0, -3.0]))
    torch.testing.assert_close(found, torch.tensor([1.5, 0.0, -2.0]))


def test_a_product_gives_both_operands_the_whole_relevance() -> None:
    a, b, relevance = normal(2, 3, 5), normal(2, 4, 5, seed=1), normal(2, 3, 4, seed=2)
    to_a, to_b = einsum_rule("bid,bjd->bij", a, b, relevance)
    terms = a[:, :, None] * b[:, None] * (relevance / (a @ b.mT))[..., None]
    torch.testing.assert_close(to_a, terms.sum(2), rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(to_b, terms.sum(1), rtol=1e-6, atol=1e-8)


def test_what_was_not_selected_gets_nothing() -> None:
    relevance = normal(2, 1, 4, seed=1)
    found = select_rule(normal(2, 3, 4), relevance, index=2)
    torch.testing.assert_close(found[:, 2:], relevance)
    assert not found[:, :2].any()


@pytest.mark.parametrize("alpha", [1.0, 2.0])
def test_convolution_of_features_is_the_linear_rule_with_a_denominator_a_sign(alpha: float) -> None:
    x, weight, relevance = normal(1, 4, 7, 6), normal(2, 4, 3, 2, seed=1), normal(1, 2, 3, 3, seed=2)
    found = conv_rule(x, weight, relevance, stride=2, alpha=alpha)
    patches = F.unfold(x, (3, 2), stride=2)[0].T  # (9, 24)
    flat, values = weight.flatten(1), relevance.flatten(2)[0].T

    def signed(w_first: Tensor, w_second: Tensor) -> Tensor:
        total = torch.zeros_like(patches)
        for part, w in ((patches.clamp(min=0), w_first), (patches.clamp(max=0), w_second)):
            pairs = part[:, None] * w
            total += (pairs / pairs.sum(-1, keepdim=True) * values[..., None]).sum(1)
        return total

    plus, minus = flat.clamp(min=0), flat.clamp(max=0)
    expected = alpha * signed(plus, minus) - (alpha - 1) * signed(minus, plus)
    torch.testing.assert_close(found, F.fold(expected.T[None], (7, 6), (3, 2), stride=2), rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(found.sum(), 2 * relevance.sum())  # once for each sign of the input


def test_convolution_of_pixels_uses_the_bounds_of_each_image() -> None:
    x, weight, relevance = normal(2, 3, 5, 4), normal(2, 3, 2, 2, seed=1), normal(2, 2, 2, 2, seed=2)
    found = bounded_conv_rule(x, weight, relevance, stride=2)
    assert not found[:, :, 4].any()  # a row that no kernel reaches
    for image in range(2):
        patches = F.unfold(x[image : image + 1], 2, stride=2)[0].T
        low, high = x[image].min(), x[image].max()
        flat = weight.flatten(1)
        terms = patches[:, None] * flat - low * flat.clamp(min=0) - high * flat.clamp(max=0)
        assert (terms >= 0).all()
        shares = terms / terms.sum(-1, keepdim=True) * relevance[image].flatten(1).T[..., None]
        expected = F.fold(shares.sum(1).T[None], (5, 4), 2, stride=2)[0]
        torch.testing.assert_close(found[image], expected, rtol=1e-6, atol=1e-7)
