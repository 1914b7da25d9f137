"""Names of a recipe become blocks, and blocks of one family can be exchanged."""

from __future__ import annotations

import inspect

import pytest
import torch

from chiasm.fusion.attention import SelfAttention
from chiasm.fusion.attention_fusion import AttentionFusion
from chiasm.fusion.bilinear_fusion import BilinearFusion
from chiasm.fusion.build import FUSIONS, SELF_ATTENTIONS, fusion_block, self_attention
from chiasm.fusion.concatenation import Concatenation
from chiasm.fusion.context_attention import ContextSelfAttention
from chiasm.fusion.gated_attention import GatedSelfAttention
from chiasm.fusion.gated_fusion import GatedMultimodalUnit
from chiasm.fusion.low_rank_fusion import LowRankFusion
from chiasm.fusion.tensor_fusion import TensorFusion


def test_names_of_self_attention() -> None:
    kinds = [SelfAttention, ContextSelfAttention, GatedSelfAttention]
    made = [self_attention(name, 8, heads=2, dropout=0.25) for name in SELF_ATTENTIONS]
    assert [type(block) for block in made] == kinds
    assert [(b.config.heads, b.config.dropout) for b in made] == [(2, 0.25)] * 3
    signatures = {str(inspect.signature(kind.forward)) for kind in kinds}
    assert len(signatures) == 1


def test_a_contexts_settings_reach_the_block() -> None:
    block = self_attention("context", 8, context="deep-global", context_width=24)
    assert (block.config.context, block.config.n_context) == ("deep-global", 24)


@pytest.mark.parametrize("name", SELF_ATTENTIONS)
def test_self_attentions_are_called_alike(name: str) -> None:
    block, x, mask = self_attention(name, 8, heads=2), torch.randn(2, 3, 8), torch.ones(2, 3, dtype=torch.bool)
    tokens, weights = block(x, mask, previous=[x], keep_weights=True)
    assert tokens.shape == x.shape
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 2, 3))
    assert (block(x, mask).gates is None) == (name == "plain")


def test_names_of_fusions() -> None:
    kinds = dict(
        zip(
            FUSIONS,
            [Concatenation, AttentionFusion, GatedMultimodalUnit, TensorFusion, LowRankFusion, BilinearFusion],
            strict=True,
        )
    )
    assert list(kinds) == ["concatenation", "attention", "gated", "tensor", "low-rank", "bilinear"]
    assert all(type(fusion_block(name, 6, 2)) is kind for name, kind in kinds.items())


@pytest.mark.parametrize("count", [2, 3, 4, 5])
@pytest.mark.parametrize("name", FUSIONS)
def test_every_fusion_takes_any_number_of_vectors_and_says_its_width(name: str, count: int) -> None:
    block = fusion_block(name, 6, count)
    assert block.config.out_width == (6 * count if name == "concatenation" else 6)
    assert block([torch.randn(3, 6) for _ in range(count)]).fused.shape == (3, block.config.out_width)


@pytest.mark.parametrize("name", ["gated", "tensor", "low-rank", "bilinear"])
def test_a_width_can_be_chosen_where_there_is_a_map(name: str) -> None:
    block = fusion_block(name, 6, 3, out_width=10)
    assert block([torch.randn(3, 6) for _ in range(3)]).fused.shape == (3, 10)


@pytest.mark.parametrize(("name", "given"), [("concatenation", 12), ("attention", 6)])
def test_a_width_cannot_be_chosen_where_there_is_no_map(name: str, given: int) -> None:
    assert fusion_block(name, 6, 2, out_width=given).config.out_width == given
    with pytest.raises(ValueError, match=f"{name} of 2 vectors of 6 features gives {given} features, not 10"):
        fusion_block(name, 6, 2, out_width=10)


def test_a_tensor_of_full_sized_vectors_stays_small() -> None:
    with torch.device("meta"):
        elements = [fusion_block("tensor", 768, count).config.n_elements for count in (2, 3, 4, 5)]
    assert elements == [33**2, 17**3, 9**4, 4**5]


def test_a_name_that_there_is_not_lists_those_that_there_are() -> None:
    with pytest.raises(ValueError, match="one of plain, context, gated; got 'linear'"):
        self_attention("linear", 8)
    with pytest.raises(
        ValueError, match="one of concatenation, attention, gated, tensor, low-rank, bilinear; got 'sum'"
    ):
        fusion_block("sum", 8, 2)
    with pytest.raises(ValueError, match="context must be one of global, deep, deep-global; got 'wide'"):
        self_attention("context", 8, context="wide")
