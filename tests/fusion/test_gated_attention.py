"""Gated self-attention: the gate by hand, what closed gates do, the whole layer, and the published sizes."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from chiasm.fusion.gated_attention import Gate, GatedSelfAttention, GatedSelfAttentionConfig


def block_of(**options: Any) -> GatedSelfAttention:
    return GatedSelfAttention(GatedSelfAttentionConfig(**options)).eval()


def reference(block: GatedSelfAttention, x: Tensor) -> tuple[Tensor, Tensor]:
    """The equations head by head for one case without padding: the merged attention (N, d), gates (H, N, 2)."""
    width, heads = block.config.width, block.config.heads
    d_h = width // heads
    joined, gates = [], []
    for h in range(heads):
        part = slice(h * d_h, (h + 1) * d_h)
        query, key, value = (linear(x)[:, part] for linear in (block.query, block.key, block.value))
        g = torch.sigmoid(block.gate.out(block.gate.from_key(key) * block.gate.from_query(query)))
        scores = (query * g[:, 1:2]) @ (key * g[:, 0:1]).T / math.sqrt(d_h)
        joined.append(scores.softmax(-1) @ value)
        gates.append(g)
    return block.merge(torch.cat(joined, dim=-1)), torch.stack(gates)


def test_published_gate_has_18818_parameters() -> None:
    block = block_of(width=768, heads=8)
    assert sum(p.numel() for p in block.gate.parameters()) == 18_818


def test_the_gate_by_hand() -> None:
    gate = Gate(1, 1)
    gate.load_state_dict(
        {
            "from_key.weight": torch.tensor([[2.0]]),
            "from_key.bias": torch.tensor([1.0]),
            "from_query.weight": torch.tensor([[1.0]]),
            "from_query.bias": torch.tensor([-1.0]),
            "out.weight": torch.tensor([[1.0], [-1.0]]),
            "out.bias": torch.tensor([0.0, 0.5]),
        }
    )
    got = gate(torch.tensor([[[[3.0]]]]), torch.tensor([[[[1.5]]]])).flatten()  # (2*3 + 1) * (1.5 - 1) = 3.5
    torch.testing.assert_close(got, torch.tensor([1 / (1 + math.exp(-3.5)), 1 / (1 + math.exp(3.0))]))


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_equations_head_by_head(heads: int) -> None:
    block, x = block_of(width=8, heads=heads), torch.randn(5, 8)
    expected, gates = reference(block, x)
    got = block(x[None], torch.ones(1, 5, dtype=torch.bool))
    torch.testing.assert_close(got.tokens[0], expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(got.gates[0], gates.flip(-1), rtol=1e-5, atol=1e-6)  # reported as (query, key)


def test_a_token_whose_key_gate_is_shut_scores_zero_for_all() -> None:
    block, x = block_of(width=4, heads=1), torch.randn(1, 3, 4)
    block.gate.out.weight.data.zero_()
    block.gate.out.bias.data = torch.tensor([-1e4, 1e4])  # keys shut, queries open
    got = block(x, torch.ones(1, 3, dtype=torch.bool), keep_weights=True)
    torch.testing.assert_close(got.weights, torch.full((1, 1, 3, 3), 1 / 3))
    assert (got.gates == torch.tensor([1.0, 0.0])).all()


def test_the_whole_layer_adds_and_norms_twice() -> None:
    block, x = block_of(width=8, heads=2, residual=True, feedforward=16), torch.randn(5, 8)
    attention, _ = reference(block, x)
    first = F.layer_norm(x + attention, (8,))
    assert block.feedforward is not None
    hidden = F.relu(first @ block.feedforward[0].weight.T + block.feedforward[0].bias)
    second = F.layer_norm(first + hidden @ block.feedforward[3].weight.T + block.feedforward[3].bias, (8,))
    got = block(x[None], torch.ones(1, 5, dtype=torch.bool))
    torch.testing.assert_close(got.tokens[0], second, rtol=1e-4, atol=1e-5)
    without = block_of(width=8, heads=2, residual=True)
    without.load_state_dict({k: v for k, v in block.state_dict().items() if not k.startswith("feedforward")})
    torch.testing.assert_close(
        without(x[None], torch.ones(1, 5, dtype=torch.bool)).tokens[0], first, rtol=1e-4, atol=1e-5
    )


def test_published_perceptron_is_four_times_as_wide() -> None:
    with torch.device("meta"):
        block = block_of(width=768, heads=8, residual=True, feedforward=3072)
    assert block.feedforward is not None
    assert sum(p.numel() for p in block.feedforward.parameters()) == 2 * 768 * 3072 + 3072 + 768


def test_dropout_works_in_training_only() -> None:
    block = block_of(width=4, heads=1, dropout=0.5, residual=True)
    x, mask = torch.randn(1, 30, 4), torch.ones(1, 30, dtype=torch.bool)
    calm = block(x, mask).tokens
    torch.testing.assert_close(block(x, mask).tokens, calm)
    assert not torch.allclose(block.train()(x, mask).tokens, calm)


def test_gates_of_padding_are_zero_and_weights_carry_gradients() -> None:
    block, mask = block_of(width=4, heads=2), torch.tensor([[True, True, False]])
    got = block(torch.randn(1, 3, 4), mask, keep_weights=True)
    assert got.gates[:, :, :2].all()
    assert not got.gates[:, :, 2].any()
    (gradient,) = torch.autograd.grad(got.tokens.sum(), got.weights)
    assert gradient[:, :, :2].abs().sum() > 0


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"heads": 3}, "multiple of heads"),
        ({"heads": 1, "gate_width": 0}, "sizes must be >= 1, got gate_width 0"),
        ({"heads": 1, "feedforward": 8}, "feedforward stands on residual=True"),
    ],
)
def test_impossible_sizes_are_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        GatedSelfAttentionConfig(width=4, **options)
