"""Rules 5 to 11 with matrices that can be multiplied by hand, and the propagation over layers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from chiasm.heads.relevance import (
    CoAttentionRule,
    CrossLayer,
    TwoStreamState,
    Weighted,
    class_score,
    co_attention_relevance,
    decoder_addition,
    encoder_decoder_relevance,
    encoder_decoder_rollout,
    head_average,
    normalise_residual,
    self_additions,
    with_gradients,
)

EYE = torch.eye(2)
A = torch.tensor([[0.1, 0.3], [0.2, 0.2]])


def layer(n: int, m: int, seed: int, heads: int = 2) -> Weighted:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(heads, n, m, generator=generator), torch.randn(heads, n, m, generator=generator)


def test_only_what_favours_the_class_counts_before_heads_are_averaged() -> None:
    attention = torch.tensor([[[0.5, 0.5]], [[1.0, 0.0]]])
    gradient = torch.tensor([[[2.0, -4.0]], [[-2.0, 1.0]]])
    assert head_average(attention, gradient).tolist() == [[0.5, 0.0]]
    assert head_average(attention, -gradient).tolist() == [[1.0, 1.0]]
    assert head_average(attention, None).tolist() == [[0.75, 0.25]]
    with pytest.raises(ValueError, match="does not fit"):
        head_average(attention, gradient[:1])


def test_one_self_layer_adds_its_attention_and_two_add_the_product() -> None:
    within, across = self_additions(A, EYE, torch.zeros(2, 3))
    assert torch.equal(within, A)
    assert not across.any()
    state = TwoStreamState.start((2, 3), A[None]).after_self([(A[None], None), (A[None], None)])
    torch.testing.assert_close(state.tt, (EYE + A) @ (EYE + A))
    assert torch.equal(state.aa, torch.eye(3))


def test_normalised_rows_add_one_to_the_identity_and_empty_rows_nothing() -> None:
    added = torch.tensor([[1.0, 3.0], [0.0, 0.0]])
    assert normalise_residual(EYE + added).tolist() == [[1.25, 0.75], [0.0, 1.0]]
    literal = normalise_residual(EYE + added, empty="nan")
    assert literal[0].tolist() == [1.25, 0.75]
    assert literal[1].isnan().all()


def test_rules_10_and_11_by_loops() -> None:
    generator = torch.Generator().manual_seed(0)
    r_ss, r_qq = (
        torch.eye(2) + torch.rand(2, 2, generator=generator),
        torch.eye(3) + torch.rand(3, 3, generator=generator),
    )
    r_qs, cross = torch.rand(3, 2, generator=generator), torch.rand(2, 3, generator=generator)
    hat_s, hat_q = normalise_residual(r_ss), normalise_residual(r_qq)
    expected = torch.zeros(2, 3)
    for i in range(2):
        for j in range(3):
            expected[i, j] = sum(hat_s[k, i] * cross[k, m] * hat_q[m, j] for k in range(2) for m in range(3))
    across, within = CoAttentionRule().additions(cross, r_ss, r_qq, r_qs)
    torch.testing.assert_close(across, expected)
    torch.testing.assert_close(within, cross @ r_qs)
    raw = CoAttentionRule(normalise=False).crossing(cross, r_ss, r_qq)
    torch.testing.assert_close(raw, r_ss.T @ cross @ r_qq)
    assert torch.equal(CoAttentionRule(self_in_rule_10=False).crossing(cross, r_ss, r_qq), cross)


def test_a_decoder_layer_whose_rule_is_nan_is_lost_only_as_the_authors_have_it() -> None:
    cross = torch.ones(2, 2)
    assert not decoder_addition(cross, EYE, EYE + A, rule=CoAttentionRule(empty="nan")).any()
    kept = decoder_addition(cross, EYE, EYE + A, rule=CoAttentionRule())
    torch.testing.assert_close(kept, cross @ normalise_residual(EYE + A))


def test_both_directions_of_a_crossing_start_from_the_old_matrices() -> None:
    state = TwoStreamState(EYE + A, torch.rand(2, 2), torch.rand(2, 2), EYE + 2 * A)
    ta, at, rule = layer(2, 2, 1), layer(2, 2, 2), CoAttentionRule()
    both = state.after_crossing(ta, at, rule)
    one, other = state.after_crossing(ta, None, rule), state.after_crossing(None, at, rule)
    assert torch.equal(both.ta, one.ta)
    assert torch.equal(both.tt, one.tt)
    assert torch.equal(both.at, other.at)
    assert torch.equal(both.aa, other.aa)
    mirrored = state.mirrored().after_crossing(at, ta, rule).mirrored()
    assert all(torch.equal(getattr(mirrored, name), getattr(both, name)) for name in ("tt", "ta", "at", "aa"))


def crossings(seed: int) -> list[CrossLayer]:
    return [
        CrossLayer(ta=layer(3, 2, s), at=layer(2, 3, s + 1), t=layer(3, 3, s + 2), a=layer(2, 2, s + 3))
        for s in (seed, seed + 10)
    ]


def test_the_last_crossing_changes_the_text_alone() -> None:
    text, image, layers = [layer(3, 3, 50)], [layer(2, 2, 60)], crossings(1)
    r_tt, r_ta = co_attention_relevance(text, image, layers)
    assert r_tt[0, 0] == 0
    last = layers[1]
    unseen = CrossLayer(ta=last.ta, at=layer(2, 3, 99), t=last.t, a=layer(2, 2, 98))
    again = co_attention_relevance(text, image, [layers[0], unseen])
    assert torch.equal(again[0], r_tt)
    assert torch.equal(again[1], r_ta)
    first = CrossLayer(ta=layers[0].ta, at=layer(2, 3, 99), t=layers[0].t, a=layers[0].a)
    assert not torch.allclose(co_attention_relevance(text, image, [first, last])[0], r_tt)
    with pytest.raises(ValueError, match="at least one"):
        co_attention_relevance(text, image, [])


def test_a_batch_is_propagated_case_by_case() -> None:
    def stacked(seed: int, n: int, m: int) -> tuple[Weighted, Weighted]:
        cases = [layer(n, m, seed), layer(n, m, seed + 500)]
        return (torch.stack([a for a, _ in cases]), torch.stack([g for _, g in cases])), cases[1]  # type: ignore[arg-type]

    enc, dec, cross = stacked(1, 4, 4), stacked(2, 3, 3), stacked(3, 3, 4)
    together = encoder_decoder_relevance([enc[0]], [dec[0]], [cross[0]])
    torch.testing.assert_close(together[1], encoder_decoder_relevance([enc[1]], [dec[1]], [cross[1]]))


def test_decoder_reads_the_encoder_through_its_own_relevance() -> None:
    encoder, decoder, cross = layer(4, 4, 1), layer(3, 3, 2), layer(3, 4, 3)
    hats = [normalise_residual(torch.eye(n) + head_average(*w)) for n, w in ((3, decoder), (4, encoder))]
    expected = hats[0].T @ head_average(*cross) @ hats[1]
    torch.testing.assert_close(encoder_decoder_relevance([encoder], [decoder], [cross]), expected)
    rollout = encoder_decoder_rollout([torch.eye(4)[None]], [torch.eye(3)[None]], cross[0])
    torch.testing.assert_close(rollout, cross[0].mean(0))


def test_a_score_is_a_column_or_a_sign() -> None:
    logits = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    assert class_score(logits, 1).tolist() == [2, 4]
    assert class_score(logits[:, :1], 0).tolist() == [-1, -3]
    assert class_score(logits[:, 0], 1).tolist() == [1, 3]
    for wrong, target in ((logits, 2), (logits[:, 0], 2)):
        with pytest.raises(ValueError, match="target"):
            class_score(wrong, target)


def test_gradients_come_with_their_tensors_and_none_from_what_is_frozen() -> None:
    used = torch.tensor([[1.0, 2.0]], requires_grad=True)
    unused, frozen = torch.ones(1, 2, requires_grad=True), torch.ones(1, 2)
    score: Tensor = (used**2).sum(1)
    pairs = with_gradients(score, [frozen, used * 1, used, unused])
    assert pairs[2][1].tolist() == [[2, 4]]
    assert pairs[0][1] is None
    assert pairs[1][1] is None  # a copy beside the graph
    assert pairs[3][1] is None
    assert not pairs[2][0].requires_grad
    assert with_gradients(score, [used])[0][1].tolist() == [[2, 4]]  # the graph is still there
    assert with_gradients(torch.ones(1), [used])[0][1] is None
