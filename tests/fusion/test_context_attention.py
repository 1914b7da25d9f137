"""Context-based self-attention: the equations by hand, the three contexts, and the published sizes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from chiasm.fusion.attention import SelfAttention, SelfAttentionConfig
from chiasm.fusion.context_attention import ContextSelfAttention, ContextSelfAttentionConfig


def block_of(**options: Any) -> ContextSelfAttention:
    return ContextSelfAttention(ContextSelfAttentionConfig(**options))


def counted(block: nn.Module, *names: str) -> int:
    return sum(p.numel() for name, p in block.named_parameters() if name.startswith(names))


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def reference(block: ContextSelfAttention, x: Tensor, context: Tensor) -> np.ndarray:
    """The published equations for one head and one case without padding, in numpy."""
    state = {name: value.detach().numpy().astype(float) for name, value in block.state_dict().items()}
    h, c = x.numpy().astype(float), context.numpy().astype(float)
    mixed = []
    for name in ("query", "key"):
        own = h @ state[f"{name}.weight"].T
        of_context = c @ state[f"context_{name}.weight"].T
        v_own, v_context = state[f"gate_{name}"]
        gate = sigmoid(own @ v_own + of_context @ v_context)[:, None]
        mixed.append((1 - gate) * own + gate * of_context)
    scores = mixed[0] @ mixed[1].T / math.sqrt(h.shape[1])
    weights = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    return weights @ (h @ state["value.weight"].T)


def test_published_numbers_of_parameters_with_a_global_context() -> None:
    block = block_of(width=768)
    assert counted(block, "query", "key", "value") == 1_769_472
    assert counted(block, "context_") == 1_179_648
    assert counted(block, "gate_") == 3_072
    assert counted(block_of(width=768, heads=12, gate_per_head=True), "gate_") == 3_072
    assert counted(block, "") == 1_769_472 + 1_179_648 + 3_072


def test_a_deep_context_of_twelve_layers_costs_seven_million_a_map() -> None:
    with torch.device("meta"):
        block = block_of(width=768, context="deep", context_width=12 * 768)
    assert block.context_query.weight.numel() == block.context_key.weight.numel() == 7_077_888


def test_a_known_value_by_hand() -> None:
    """Width 1, tokens 0 and 2: the global context is 1, and with zero gate weights both gates are one half."""
    block = block_of(width=1)
    with torch.no_grad():
        for name, parameter in block.named_parameters():
            parameter.fill_(0.0 if name.startswith("gate") else 1.0)
    got = block(torch.tensor([[[0.0], [2.0]]]), torch.ones(1, 2, dtype=torch.bool), keep_weights=True)
    # queries and keys: (0 + 1) / 2 = 0.5 and (2 + 1) / 2 = 1.5; scores of token 0: 0.25, 0.75; of token 1: 0.75, 2.25
    to_second = [1 / (1 + math.exp(-0.5)), 1 / (1 + math.exp(-1.5))]
    torch.testing.assert_close(got.tokens.flatten(), 2 * torch.tensor(to_second))
    torch.testing.assert_close(got.weights[0, 0, :, 1], torch.tensor(to_second))
    assert got.gates.tolist() == [[[[0.5, 0.5], [0.5, 0.5]]]]


@pytest.mark.parametrize("kind", ["global", "deep", "deep-global"])
def test_equations_for_each_context(kind: str) -> None:
    x, previous = torch.randn(1, 5, 6), [torch.randn(1, 5, 3), torch.randn(1, 5, 6)]
    layers = {"global": [x], "deep": previous, "deep-global": [*previous, x]}[kind]
    joined = torch.cat(layers, dim=-1)[0]
    context = joined if kind == "deep" else joined.mean(dim=0, keepdim=True).expand(5, -1)
    block = block_of(width=6, context=kind, context_width=joined.shape[-1])
    got = block(x, torch.ones(1, 5, dtype=torch.bool), previous=previous)
    expected = torch.from_numpy(reference(block, x[0], context)).float()
    torch.testing.assert_close(got.tokens[0], expected, rtol=1e-4, atol=1e-5)


def test_the_global_mean_uses_the_mask() -> None:
    block = block_of(width=4)
    x = torch.randn(1, 6, 4)
    mask = torch.tensor([[True] * 4 + [False] * 2])
    expected = torch.from_numpy(reference(block, x[0, :4], x[:, :4].mean(dim=1))).float()
    torch.testing.assert_close(block(x, mask).tokens[0, :4], expected, rtol=1e-4, atol=1e-5)


def test_closed_gates_give_plain_self_attention_and_open_ones_ask_with_the_context_alone() -> None:
    block, plain = block_of(width=4, heads=2), SelfAttention(SelfAttentionConfig(width=4, heads=2))
    plain.load_state_dict({f"{n}.weight": block.get_parameter(f"{n}.weight") for n in ("query", "key", "value")})
    for linear in (block.query, block.key):  # positive queries and keys, so that the sign of v is the sign of the score
        linear.weight.data.abs_()
    plain.query.weight.data.abs_()
    plain.key.weight.data.abs_()
    x, mask = torch.rand(1, 5, 4) + 0.1, torch.ones(1, 5, dtype=torch.bool)
    gates = torch.stack([torch.full((4,), -1e4), torch.zeros(4)])
    block.gate_query.data, block.gate_key.data = gates, gates
    closed = block(x, mask)
    torch.testing.assert_close(closed.tokens, plain(x, mask).tokens)
    assert not closed.gates.any()
    block.gate_query.data, block.gate_key.data = -gates, -gates
    opened = block(x, mask)
    # one context for all: every key is the same, so attention is the mean
    torch.testing.assert_close(opened.tokens, plain.value(x).mean(dim=1, keepdim=True).expand(1, 5, 4))
    assert (opened.gates == 1).all()


def test_a_gate_a_head_reads_that_heads_features_only() -> None:
    block = block_of(width=4, heads=2, gate_per_head=True)
    with torch.no_grad():
        block.gate_query.zero_()
        block.gate_query[0, 2:] = 1.0  # features of head 1
        nn.init.eye_(block.query.weight)
    x = torch.randn(1, 3, 4)
    gates = block(x, torch.ones(1, 3, dtype=torch.bool)).gates
    assert gates.shape == (1, 2, 3, 2)
    torch.testing.assert_close(gates[0, 0, :, 0], torch.full((3,), 0.5))
    torch.testing.assert_close(gates[0, 1, :, 0], x[0, :, 2:].sum(-1).sigmoid())


def test_padding_has_no_gate() -> None:
    mask = torch.tensor([[True, True, False]])
    gates = block_of(width=4)(torch.randn(1, 3, 4), mask).gates
    assert gates[0, 0, :2].all()
    assert not gates[0, 0, 2].any()


def test_values_do_not_know_the_context() -> None:
    block = block_of(width=4, context="deep", context_width=4)
    one_token = torch.randn(1, 1, 4)
    mask = torch.ones(1, 1, dtype=torch.bool)
    for previous in (torch.zeros(1, 1, 4), torch.randn(1, 1, 4)):
        torch.testing.assert_close(block(one_token, mask, previous=[previous]).tokens, block.value(one_token))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"context": "local"}, "context must be one of global, deep, deep-global; got 'local'"),
        ({"context": "global", "context_width": 5}, r"as wide as a token \(4\), got 5"),
        ({"context": "deep"}, "a deep context needs context_width: .*got None"),
        ({"context": "deep", "context_width": 0}, "got 0"),
        ({"context": "deep-global", "context_width": 4}, "plus 4 for this layer; got 4"),
        ({"heads": 3}, "multiple of heads"),
    ],
)
def test_impossible_sizes_are_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        ContextSelfAttentionConfig(width=4, **options)


@pytest.mark.parametrize(
    ("kind", "previous", "says"),
    [
        ("deep", None, "width 8 needs earlier layers; got 0, which make a context of width 0"),
        ("deep", [torch.zeros(1, 2, 4)], "got 1, which make a context of width 4"),
        ("deep-global", [], "got 0, which make a context of width 4"),
        ("deep", [torch.zeros(1, 3, 8)], r"the mask of previous must have shape \(1, 3\), got \(1, 2\)"),
    ],
)
def test_earlier_layers_that_do_not_fit_are_refused(kind: Any, previous: list[Tensor] | None, says: str) -> None:
    block = block_of(width=4, context=kind, context_width=8)
    with pytest.raises(ValueError, match=says):
        block(torch.zeros(1, 2, 4), torch.ones(1, 2, dtype=torch.bool), previous=previous)
