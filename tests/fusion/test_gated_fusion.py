"""Gated multimodal unit: the bimodal form by hand, its generalisation, independent gates, absent vectors."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from chiasm.fusion.gated_fusion import GatedMultimodalUnit, GatedMultimodalUnitConfig


def unit_of(**options: Any) -> GatedMultimodalUnit:
    return GatedMultimodalUnit(GatedMultimodalUnitConfig(**options))


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def known(gates: Any, weights: list[list[float]]) -> tuple[GatedMultimodalUnit, list[Tensor]]:
    unit = unit_of(width=1, count=2, gates=gates)
    unit.load_state_dict(
        {
            "hidden.0.weight": torch.tensor([[2.0]]),
            "hidden.1.weight": torch.tensor([[-1.0]]),
            "gate.weight": torch.tensor(weights),
        }
    )
    return unit, [torch.tensor([[0.5]]), torch.tensor([[1.5]])]


def test_the_published_bimodal_unit_by_hand() -> None:
    unit, vectors = known("softmax", [[1.0, 1.0]])
    z = sigmoid(2.0)  # 1 * 0.5 + 1 * 1.5
    fused, weights = unit(vectors)
    torch.testing.assert_close(fused, torch.tensor([[z * math.tanh(1.0) + (1 - z) * math.tanh(-1.5)]]))
    torch.testing.assert_close(weights, torch.tensor([[z, 1 - z]]))


def test_the_published_unit_with_a_gate_a_vector_by_hand() -> None:
    unit, vectors = known("sigmoid", [[1.0, 1.0], [2.0, 0.0]])
    z = sigmoid(2.0), sigmoid(1.0)
    fused, weights = unit(vectors)
    torch.testing.assert_close(fused, torch.tensor([[z[0] * math.tanh(1.0) + z[1] * math.tanh(-1.5)]]))
    torch.testing.assert_close(weights, torch.tensor([z]))


def test_two_vectors_of_many_features_are_the_bimodal_equation() -> None:
    unit, (v, t) = unit_of(width=5, count=2, hidden=3), torch.randn(2, 4, 5)
    z = torch.sigmoid(torch.cat([v, t], dim=1) @ unit.gate.weight.T)
    h_v, h_t = ((x @ linear.weight.T).tanh() for x, linear in zip((v, t), unit.hidden, strict=True))
    torch.testing.assert_close(unit([v, t]).fused, z * h_v + (1 - z) * h_t)


def test_gates_of_three_vectors_are_a_softmax_a_feature_whose_last_logit_is_zero() -> None:
    unit, vectors = unit_of(width=4, count=3, hidden=2), [torch.randn(5, 4) for _ in range(3)]
    logits = (torch.cat(vectors, dim=1) @ unit.gate.weight.T).view(5, 2, 2)
    gates = torch.cat([logits, torch.zeros(5, 1, 2)], dim=1).softmax(dim=1)
    hidden = [(v @ linear.weight.T).tanh() for v, linear in zip(vectors, unit.hidden, strict=True)]
    fused, weights = unit(vectors)
    torch.testing.assert_close(fused, sum(gates[:, i] * hidden[i] for i in range(3)))
    torch.testing.assert_close(weights, gates.mean(-1))
    torch.testing.assert_close(weights.sum(1), torch.ones(5))


def test_the_gates_of_an_absent_vector_go_to_the_others() -> None:
    unit, vectors = known("softmax", [[1.0, 1.0]])
    fused, weights = unit(vectors, torch.tensor([[False, True]]))
    assert weights.tolist() == [[0.0, 1.0]]
    torch.testing.assert_close(fused, torch.tensor([[math.tanh(-1.5)]]))
    unit, vectors = known("sigmoid", [[1.0, 1.0], [2.0, 1.0]])
    fused, weights = unit(vectors, torch.tensor([[False, True]]))
    torch.testing.assert_close(weights, torch.tensor([[0.0, sigmoid(1.5)]]))  # absent: 0 in the gate's input
    torch.testing.assert_close(fused, torch.tensor([[sigmoid(1.5) * math.tanh(-1.5)]]))


def test_sizes_of_the_published_unit() -> None:
    assert sum(p.numel() for p in unit_of(width=8, count=2, hidden=5).parameters()) == 2 * 8 * 5 + 16 * 5
    with_biases = unit_of(width=8, count=3, hidden=5, gates="sigmoid", bias=True)
    assert sum(p.numel() for p in with_biases.parameters()) == 3 * (8 * 5 + 5) + 24 * 15 + 15


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"count": 1}, "count must be >= 2, got 1"),
        ({"count": 2, "gates": "hard"}, "gates must be one of softmax, sigmoid; got 'hard'"),
    ],
)
def test_impossible_settings_are_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        GatedMultimodalUnitConfig(width=4, **options)
