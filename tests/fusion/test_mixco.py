"""Mixing: what is mixed with whom, and the published mistakes that are not made."""

from __future__ import annotations

import pytest
import torch

from chiasm.fusion.mixco import MixDraw, draw_mixco, mixco, mixco_targets

VOXELS = torch.tensor([[1.0, 10.0], [2.0, 20.0], [4.0, 40.0]])
BETA = torch.tensor([0.75, 1.0, 0.5])
SELECTED = torch.tensor([True, False, True])
PERMUTATION = torch.tensor([2, 1, 0])


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_a_selected_row_is_mixed_with_its_partner_as_it_was() -> None:
    mixed = mixco(VOXELS, BETA, SELECTED, PERMUTATION)
    # row 2 takes row 0 before that was mixed
    assert mixed.tolist() == [[1.75, 17.5], [2.0, 20.0], [2.5, 25.0]]


def test_the_input_stays_as_it_is() -> None:
    before = VOXELS.clone()
    mixed = mixco(VOXELS, BETA, SELECTED, PERMUTATION)
    mixed += 1
    assert torch.equal(VOXELS, before)


def test_an_unselected_row_keeps_its_bits_even_beside_a_trial_that_is_not_a_number() -> None:
    voxels = torch.tensor([[0.1], [torch.nan]])
    mixed = mixco(voxels, torch.tensor([0.3, 0.3]), torch.tensor([False, True]), torch.tensor([1, 0]))
    assert float(mixed[0]) == float(voxels[0])


def test_voxels_of_any_shape_are_mixed_by_row() -> None:
    deep = VOXELS[:, None].expand(3, 4, 2)
    assert torch.equal(mixco(deep, BETA, SELECTED, PERMUTATION)[:, 3], mixco(VOXELS, BETA, SELECTED, PERMUTATION))


def test_the_target_of_a_mixture_is_shared_between_both_stimuli() -> None:
    targets = mixco_targets(BETA, PERMUTATION)
    assert targets.tolist() == [[0.75, 0, 0.25], [0, 1, 0], [0.5, 0, 0.5]]


def test_a_row_that_is_its_own_partner_belongs_to_its_own_stimulus() -> None:
    beta, own = torch.tensor([0.9, 0.25]), torch.tensor([0, 1])
    assert torch.equal(mixco_targets(beta, own), torch.eye(2))
    assert torch.allclose(mixco_targets(beta, own, published=True), torch.diag(1 - beta))


def test_a_seed_means_one_draw_and_the_next_draw_is_another() -> None:
    generator = seeded(3)
    first, second, again = draw_mixco(64, generator), draw_mixco(64, generator), draw_mixco(64, seeded(3))
    assert torch.equal(first.beta, again.beta)
    assert torch.equal(first.permutation, again.permutation)
    assert not torch.equal(first.beta, second.beta)


def test_betas_follow_the_published_distribution() -> None:
    draw = draw_mixco(40_000, seeded())
    kept = draw.beta[draw.selected]
    # Beta(a, a): mean 1/2, variance 1 / (4 (2 a + 1))
    assert float(draw.selected.float().mean()) == pytest.approx(0.5, abs=0.01)
    assert float(kept.mean()) == pytest.approx(0.5, abs=0.01)
    assert float(kept.var()) == pytest.approx(1 / (4 * 1.3), abs=0.005)
    assert bool((draw.beta[~draw.selected] == 1).all())


def test_partners_are_of_the_same_subject_and_each_row_is_a_partner_once() -> None:
    groups = torch.tensor([5, 5, 5, 5, 1, 1, 1, 9, 9, 9, 9, 9])
    for seed in range(20):
        draw = draw_mixco(12, seeded(seed), groups=groups)
        assert torch.equal(groups[draw.permutation], groups)
        assert sorted(draw.permutation.tolist()) == list(range(12))


def test_targets_of_the_second_subject_lie_where_its_rows_are() -> None:
    # the published permutation lacks the offset of a subject: targets of the second would point at rows of the first
    groups = torch.tensor([0] * 6 + [1] * 6)
    draw = draw_mixco(12, seeded(1), share=1.0, groups=groups)
    targets = mixco_targets(draw.beta, draw.permutation)
    assert float(targets[6:, :6].abs().sum()) == 0
    assert torch.allclose(targets.sum(1), torch.ones(12))


def test_a_subject_s_rows_are_mixed_alone_as_in_the_whole_batch() -> None:
    groups = torch.tensor([0, 1, 0, 1, 1, 0])
    draw = draw_mixco(6, seeded(4), share=1.0, groups=groups)
    voxels = torch.randn(6, 7, generator=seeded())
    whole = draw.mix(voxels)
    for group in (0, 1):
        rows = (groups == group).nonzero()[:, 0]
        assert torch.equal(draw.of(rows).mix(voxels[rows]), whole[rows])


def test_rows_without_their_partners_are_refused() -> None:
    draw = MixDraw(beta=BETA, selected=SELECTED, permutation=PERMUTATION)
    with pytest.raises(ValueError, match="groups"):
        draw.of(torch.tensor([0, 1]))


@pytest.mark.parametrize(
    "settings",
    [{"alpha": 0.0}, {"share": 1.5}, {"groups": torch.zeros(3, dtype=torch.int64)}],
    ids=lambda s: next(iter(s)),
)
def test_a_draw_that_makes_no_sense_is_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        draw_mixco(4, seeded(), **settings)
