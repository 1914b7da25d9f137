from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from chiasm.pipelines.training.losses import class_loss, loss_of, region_loss, soft_dice


def test_soft_dice_of_half_an_overlap() -> None:
    a, b = torch.zeros(1, 1, 4, 1, 1), torch.zeros(1, 1, 4, 1, 1)
    a[0, 0, :2], b[0, 0, 1:3] = 1, 1
    assert float(soft_dice(a, b)) == pytest.approx(0.5, abs=1e-4)


def test_dice_ce_equals_the_formula_by_hand() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(2, 3, 4, 4, 4), torch.randint(0, 3, (2, 4, 4, 4))
    probability, target = logits.softmax(1), F.one_hot(labels, 3).movedim(-1, 1).float()
    dices = [
        2 * (probability[:, k] * target[:, k]).sum() / (probability[:, k].sum() + target[:, k].sum()) for k in (1, 2)
    ]
    expected = 1 - sum(dices) / 2 + F.cross_entropy(logits, labels)
    assert float(class_loss(logits, labels)) == pytest.approx(float(expected), abs=1e-4)


def test_a_perfect_answer_costs_nothing_and_a_wrong_one_a_lot() -> None:
    labels = torch.randint(0, 2, (1, 4, 4, 4))
    sure = 30 * F.one_hot(labels, 2).movedim(-1, 1).float()
    assert float(class_loss(sure, labels)) < 1e-3
    assert float(class_loss(-sure, labels)) > 10
    regions = F.one_hot(labels, 2).movedim(-1, 1).float()
    assert float(region_loss(60 * regions - 30, regions)) < 1e-3
    assert float(region_loss(30 - 60 * regions, regions)) > 10


@pytest.mark.parametrize("kind", ["classes", "regions"])
def test_focal_weighs_easy_voxels_down(kind: str) -> None:
    torch.manual_seed(0)
    labels = torch.randint(0, 2, (1, 4, 4, 4))
    regions = F.one_hot(labels, 2).movedim(-1, 1).float()
    logits = 4 * regions - 2
    loss, target = (class_loss, labels) if kind == "classes" else (region_loss, regions)
    assert float(loss(logits, target, focal=True)) < float(loss(logits, target))


def test_deeper_outputs_count_half_as_much_a_level() -> None:
    torch.manual_seed(0)
    labels = torch.randint(0, 2, (1, 8, 8, 8))
    full, half = torch.randn(1, 2, 8, 8, 8), torch.randn(1, 2, 4, 4, 4)
    small = F.interpolate(labels[:, None].float(), size=(4, 4, 4), mode="nearest")[:, 0].long()
    expected = (class_loss(full, labels) + 0.5 * class_loss(half, small)) / 1.5
    assert float(loss_of([full, half], labels, focal=False)) == pytest.approx(float(expected), rel=1e-6)
