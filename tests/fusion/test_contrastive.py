"""Losses against values by hand, their symmetries, and where they are smallest."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from chiasm.fusion import contrastive

BETA = torch.tensor([0.9, 1.0, 0.4, 0.7])
PERMUTATION = torch.tensor([2, 1, 3, 0])


def rows(n: int = 4, seed: int = 0, width: int = 6) -> Tensor:
    return contrastive.flattened(torch.randn(n, 2, width // 2, generator=torch.Generator().manual_seed(seed)))


def test_items_are_flattened_and_normalised_as_a_whole() -> None:
    flat = contrastive.flattened(torch.tensor([[[3.0, 0.0], [0.0, 4.0]]]))
    assert torch.allclose(flat, torch.tensor([[0.6, 0, 0, 0.8]]))


def test_info_nce_of_two_orthogonal_pairs_is_known() -> None:
    unit = torch.eye(2)
    expected = math.log(1 + math.exp(-1 / 0.5))
    assert float(contrastive.info_nce(unit, unit, 0.5)) == pytest.approx(expected, rel=1e-6)
    assert float(contrastive.info_nce(unit, unit, 0.5, symmetric=False)) == pytest.approx(expected, rel=1e-6)


def test_info_nce_is_the_cross_entropy_of_both_directions() -> None:
    p, t = rows(seed=1), rows(seed=2)
    logits, own = p @ t.T / 0.1, torch.arange(4)
    both = (functional.cross_entropy(logits, own) + functional.cross_entropy(logits.T, own)) / 2
    assert float(contrastive.info_nce(p, t, 0.1)) == pytest.approx(float(both), rel=1e-6)


def test_a_learned_scale_gets_its_gradient() -> None:
    scale = torch.tensor(math.log(1 / 0.07), requires_grad=True)
    contrastive.info_nce(rows(seed=1), rows(seed=2), (-scale).exp()).backward()
    step = 1e-2
    values = [contrastive.info_nce(rows(seed=1), rows(seed=2), (-(scale.detach() + s)).exp()) for s in (step, -step)]
    assert float(scale.grad) == pytest.approx(float(values[0] - values[1]) / (2 * step), rel=1e-2)


def test_bimixco_without_mixing_is_info_nce() -> None:
    p, t = rows(seed=1), rows(seed=2)
    for published in (False, True):
        loss = contrastive.bimixco(
            p, t, 0.1, beta=torch.ones(4), permutation=torch.tensor([1, 2, 3, 0]), published=published
        )
        assert float(loss) == pytest.approx(float(contrastive.info_nce(p, t, 0.1)), rel=1e-6)


def test_bimixco_counts_each_target_by_the_share_of_it_that_is_in_the_batch() -> None:
    p, t = rows(seed=1), rows(seed=2)
    log_shares = (p @ t.T / 0.1).T.log_softmax(1)
    total = torch.zeros(())
    for j in range(4):
        belongs = torch.tensor([BETA[i] * (i == j) + (1 - BETA[i]) * (PERMUTATION[i] == j) for i in range(4)])
        total = total - belongs.sum() * (belongs / belongs.sum() * log_shares[j]).sum()
    forth = contrastive.bimixco(p, t, 0.1, beta=BETA, permutation=PERMUTATION, symmetric=False)
    both = contrastive.bimixco(p, t, 0.1, beta=BETA, permutation=PERMUTATION)
    assert float(both) == pytest.approx(float(forth + total / 4) / 2, rel=1e-5)


def test_equal_columns_make_every_target_s_shares_sum_to_one() -> None:
    p, t = rows(seed=1), rows(seed=2)
    log_shares = (p @ t.T / 0.1).T.log_softmax(1)
    columns = contrastive.mixco_targets(BETA, PERMUTATION).T
    columns = columns / columns.sum(1, keepdim=True)
    forth = contrastive.bimixco(p, t, 0.1, beta=BETA, permutation=PERMUTATION, symmetric=False)
    both = contrastive.bimixco(p, t, 0.1, beta=BETA, permutation=PERMUTATION, equal_columns=True)
    back = -(columns * log_shares).sum(1).mean()
    assert float(both) == pytest.approx(float(forth + back) / 2, rel=1e-5)
    assert float(both) != pytest.approx(float(contrastive.bimixco(p, t, 0.1, beta=BETA, permutation=PERMUTATION)))


def test_a_target_that_nothing_holds_makes_no_nan() -> None:
    p = rows(seed=1).requires_grad_()
    beta, permutation = torch.tensor([1.0, 1.0, 1.0, 0.0]), torch.tensor([3, 1, 2, 0])
    loss = contrastive.bimixco(p, rows(seed=2), 0.1, beta=beta, permutation=permutation, equal_columns=True)
    loss.backward()
    assert bool(torch.isfinite(p.grad).all())


def test_soft_clip_is_smallest_where_the_prediction_is_the_target() -> None:
    t = rows(8, seed=2)
    loss = contrastive.soft_clip(t, t, 0.1)
    entropy = -((t @ t.T / 0.1).softmax(1) * (t @ t.T / 0.1).log_softmax(1)).sum(1).mean()
    assert float(loss) == pytest.approx(float(entropy), rel=1e-5)
    assert float(contrastive.soft_clip(rows(8, seed=1), t, 0.1)) > float(loss)


def test_soft_contrastive_with_one_view_is_soft_clip() -> None:
    p, t = rows(seed=1), rows(seed=2)
    assert float(contrastive.soft_contrastive(p, t, t, 0.2)) == pytest.approx(float(contrastive.soft_clip(p, t, 0.2)))


def test_soft_contrastive_is_smallest_where_the_student_is_the_teacher() -> None:
    teacher, view = rows(8, seed=2), rows(8, seed=3)
    own = contrastive.soft_contrastive(teacher, teacher, view, 0.2)
    assert float(own) < float(contrastive.soft_contrastive(rows(8, seed=1), teacher, view, 0.2))


def test_mixed_sigmoid_takes_each_direction_s_own_labels() -> None:
    p, t = rows(seed=1), rows(seed=2)
    mixture = {"beta": BETA, "permutation": PERMUTATION}
    # with the right labels both directions sum over the same pairs
    labels = 2 * contrastive.mixco_targets(**mixture) - 1
    pairs = -functional.logsigmoid((p @ t.T / 0.1 - 1) * labels).sum() / 4
    assert float(contrastive.mixed_sigmoid(p, t, 0.1, -1.0, **mixture)) == pytest.approx(float(pairs), rel=1e-5)
    published = contrastive.mixed_sigmoid(p, t, 0.1, -1.0, **mixture, published=True)
    assert float(published) != pytest.approx(float(pairs), rel=1e-3)


def test_the_temperature_goes_from_start_to_end_and_is_halfway_in_the_middle() -> None:
    schedule = contrastive.annealed_temperature(0.004, 0.0075, 11)
    assert schedule[[0, 5, 10]].tolist() == pytest.approx([0.004, 0.00575, 0.0075])
    assert bool((schedule.diff() > 0).all())
    assert contrastive.annealed_temperature(0.004, 0.0075, 1).tolist() == [0.0075]


def test_half_precision_and_autocast_change_nothing_but_the_input() -> None:
    p, t = rows(32, seed=1, width=64), rows(32, seed=2, width=64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = contrastive.info_nce(p, t, 0.006)
    assert inside.dtype == torch.float32
    assert float(inside) == float(contrastive.info_nce(p, t, 0.006))


def test_tokens_that_are_not_flattened_are_refused() -> None:
    with pytest.raises(ValueError, match="flattened"):
        contrastive.soft_clip(torch.zeros(2, 3, 4), torch.zeros(2, 3, 4), 0.1)
