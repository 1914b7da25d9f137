"""Attention rollout: products that can be written down."""

from __future__ import annotations

import pytest
import torch

from chiasm.heads.attention_rollout import attention_rollout, class_token_row, fuse_heads

A = torch.tensor([[0.2, 0.8], [0.6, 0.4]])
B = torch.tensor([[1.0, 0.0], [0.5, 0.5]])


def test_the_later_layer_stands_on_the_left() -> None:
    half = torch.tensor([[0.6, 0.4], [0.3, 0.7]]), torch.tensor([[1.0, 0.0], [0.25, 0.75]])
    torch.testing.assert_close(attention_rollout([A, B]), half[1] @ half[0])
    assert not torch.allclose(attention_rollout([A, B]), attention_rollout([B, A]))


def test_without_normalisation_the_sums_grow_by_two_a_layer() -> None:
    plain = attention_rollout([A, B, A], normalise=False)
    torch.testing.assert_close(plain.sum(-1), torch.full((2,), 8.0))
    torch.testing.assert_close(plain / 8, attention_rollout([A, B, A]))


def test_layers_before_the_start_do_not_count() -> None:
    torch.testing.assert_close(attention_rollout([A, B], start=1), attention_rollout([B]))
    with pytest.raises(ValueError, match="one of the 2 layers, not 2"):
        attention_rollout([A, B], start=2)


def test_cases_of_a_batch_do_not_mix() -> None:
    batch = torch.stack([A, B])
    torch.testing.assert_close(attention_rollout([batch, batch])[1], attention_rollout([B, B]))


def test_heads_are_joined_as_named() -> None:
    heads = torch.stack([A, B])
    torch.testing.assert_close(fuse_heads(heads), (A + B) / 2)
    assert fuse_heads(heads, heads="max").tolist() == torch.maximum(A, B).tolist()
    assert fuse_heads(heads, heads="min").tolist() == torch.minimum(A, B).tolist()
    with pytest.raises(ValueError, match="not 'median'"):
        fuse_heads(heads, heads="median")


def test_the_smallest_entries_of_each_case_are_discarded() -> None:
    both = torch.stack([A, B])[:, None]
    kept = fuse_heads(both, discard=0.5)
    torch.testing.assert_close(kept[0], torch.tensor([[0.0, 0.8], [0.6, 0.0]]))
    assert kept[1].sum() == 1.5
    with pytest.raises(ValueError, match=r"\[0, 1\)"):
        fuse_heads(both, discard=1.0)


def test_the_class_token_is_left_out_of_its_own_row() -> None:
    rollout = torch.arange(9.0).reshape(3, 3)
    assert class_token_row(rollout).tolist() == [1, 2]
    assert class_token_row(rollout, special=2).tolist() == [2]
