"""Deletion curves of scores that are sums: every area can be written down."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from chiasm.heads.deletion import DeletionCase, compare_with_random, deletion_curve, keep_masks

WEIGHTS = torch.tensor([0.1, 0.6, 0.3, 0.0])


def additive(keep: Tensor) -> Tensor:
    return keep.float() @ WEIGHTS


def test_tokens_leave_in_the_order_of_their_relevance() -> None:
    masks = keep_masks(WEIGHTS, steps=4)
    assert masks.int().tolist() == [[1, 1, 1, 1], [1, 0, 1, 1], [1, 0, 0, 1], [0, 0, 0, 1]]
    masks = keep_masks(WEIGHTS, steps=4, order="least")
    assert masks.int().tolist() == [[1, 1, 1, 1], [1, 1, 1, 0], [0, 1, 1, 0], [0, 1, 0, 0]]


def test_padding_is_neither_counted_nor_taken() -> None:
    valid = torch.tensor([True, False, True, False])
    masks = keep_masks(WEIGHTS, steps=2, valid=valid)
    assert masks.int().tolist() == [[1, 1, 1, 1], [1, 1, 0, 1]]
    assert keep_masks(WEIGHTS, steps=10, order=3, valid=valid)[:, ~valid].all()


def test_area_is_the_mean_height() -> None:
    curve = deletion_curve(additive, WEIGHTS, steps=4)
    assert curve.fractions.tolist() == [0, 0.25, 0.5, 0.75]
    torch.testing.assert_close(curve.scores, torch.tensor([1.0, 0.4, 0.1, 0.0], dtype=torch.float64))
    assert curve.area == pytest.approx((0.7 + 0.25 + 0.05) / 3)
    flat = deletion_curve(lambda keep: 0.25, WEIGHTS)
    assert flat.area == pytest.approx(0.25)
    assert flat.fractions[-1] == pytest.approx(0.9)


def test_all_masks_at_once_give_the_same_curve() -> None:
    shapes = []

    def batched(keep: Tensor) -> Tensor:
        shapes.append(tuple(keep.shape))
        return additive(keep)

    one, many = deletion_curve(additive, WEIGHTS), deletion_curve(batched, WEIGHTS, batched=True)
    assert shapes == [(10, 4)]
    torch.testing.assert_close(one.scores, many.scores)


def test_a_seed_is_a_random_order_of_its_own() -> None:
    relevance = torch.arange(30.0)
    assert torch.equal(keep_masks(relevance, order=1), keep_masks(relevance, order=1))
    assert not torch.equal(keep_masks(relevance, order=1), keep_masks(relevance, order=2))


def test_what_makes_no_curve_is_refused() -> None:
    with pytest.raises(ValueError, match="'most', 'least' or a seed, not 'best'"):
        keep_masks(WEIGHTS, order="best")
    with pytest.raises(ValueError, match="at least 2"):
        keep_masks(WEIGHTS, steps=1)
    with pytest.raises(ValueError, match="1 scores for 10 masks"):
        deletion_curve(lambda keep: 1.0, WEIGHTS, batched=True)
    with pytest.raises(ValueError, match="not finite"):
        deletion_curve(lambda keep: float("nan"), WEIGHTS)
    with pytest.raises(ValueError, match="at least one case"):
        compare_with_random([])


def cases(n: int, *, right: bool, per_person: int = 1) -> list[DeletionCase]:
    generator = torch.Generator().manual_seed(4)
    found = []
    for person in range(n):
        weights = torch.rand(12, generator=generator) ** 4
        guess = weights if right else torch.rand(12, generator=generator)
        found += [
            DeletionCase(score=lambda keep, w=weights: keep.float() @ w, relevance=guess, person=f"p{person}")
        ] * per_person
    return found


def test_a_true_map_beats_chance_both_ways_and_a_random_one_does_not() -> None:
    true = compare_with_random(cases(30, right=True), batched=True)
    assert true.positive.low > 0
    assert true.negative.low > 0
    assert (true.most_first < true.random).all()
    guessed = compare_with_random(cases(30, right=False), batched=True)
    assert guessed.positive.low < 0 < guessed.positive.high
    assert true.positive.mean == pytest.approx(np.mean(true.random - true.most_first))


def test_more_recordings_of_the_same_persons_make_no_narrower_interval() -> None:
    once = compare_with_random(cases(12, right=True), batched=True, n_random=30)
    often = compare_with_random(cases(12, right=True, per_person=5), batched=True, n_random=30)
    assert often.n_persons == once.n_persons == 12
    assert len(often.random) == 60
    widths = [result.positive.high - result.positive.low for result in (once, often)]
    assert widths[1] == pytest.approx(widths[0], rel=0.15)
