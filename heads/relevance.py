"""Relevance through attention by the gradient of a class score: one stream, two streams, encoder and decoder.

Each relevance matrix ``R_sq`` says how much the tokens of stream q matter for those of stream s. It starts as identity
(``R_ss``) or zero (``R_sq``) and every attention layer adds to it. No rule needs a rewritten network: attention
probabilities and the gradient of one class's score with respect to them are enough, and the class makes the map.

Source: Chefer, Gur & Wolf, ICCV 2021, rules 5 to 11, and what the authors' code does where the paper is silent
(``hila-chefer/Transformer-MM-Explainability``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from .attention_rollout import attention_rollout, fuse_heads

Weighted = tuple[Tensor, Tensor | None]
"""Attention (..., H, n, m) of a layer and the gradient of the class score with respect to it, None where there is none."""

EmptyRows = Literal["identity", "nan"]


def class_score(logits: Tensor, target: int) -> Tensor:
    """Return the scalar a case that a map of class `target` differentiates, (B,).

    Parameters
    ----------
    logits : Tensor, shape (B, C), (B, 1) or (B,)
        One column: the logit of class 1, or a regressed number; then class 0, or "lower", is its negative.
    target : int
    """
    if logits.ndim == 2 and logits.shape[1] > 1:
        if not 0 <= target < logits.shape[1]:
            raise ValueError(f"target: one of the {logits.shape[1]} classes, not {target}")
        return logits[:, target]
    if target not in (0, 1):
        raise ValueError(f"target: 0 or 1 for one logit, not {target}")
    return logits.reshape(len(logits)) * (1 if target else -1)


def with_gradients(score: Tensor, tensors: Sequence[Tensor]) -> list[Weighted]:
    """Pair tensors of one forward pass with the gradient of a score.

    Parameters
    ----------
    score : Tensor, shape (B,)
        Of `class_score`. The graph is kept for a second class.
    tensors : sequence of Tensor
        Attention, plans or tokens. What is not on the score's graph (a frozen encoder) gets None.

    Returns
    -------
    list of (Tensor, Tensor or None)
        Both detached.
    """
    places = [i for i, tensor in enumerate(tensors) if tensor.requires_grad] if score.requires_grad else []
    found: dict[int, Tensor | None] = {}
    if places:
        gradients = torch.autograd.grad(score.sum(), [tensors[i] for i in places], retain_graph=True, allow_unused=True)
        found = dict(zip(places, gradients, strict=True))
    return [(tensor.detach(), found.get(i)) for i, tensor in enumerate(tensors)]


def head_average(attention: Tensor, gradient: Tensor | None) -> Tensor:
    """Join the heads of a layer by what favours the class: mean of max(gradient x attention, 0), rule 5.

    Parameters
    ----------
    attention, gradient : Tensor, shape (..., H, n, m)
        Without a gradient the plain mean over heads: the map is then not class-specific, and a report must say so.

    Returns
    -------
    Tensor, shape (..., n, m)
    """
    if gradient is None:
        return attention.mean(-3)
    if gradient.shape != attention.shape:
        raise ValueError(f"gradient {tuple(gradient.shape)} does not fit attention {tuple(attention.shape)}")
    return (gradient * attention).clamp(min=0).mean(-3)


def self_additions(attention: Tensor, r_ss: Tensor, r_sq: Tensor) -> tuple[Tensor, Tensor]:
    """Return what self-attention adds to R_ss and R_sq, rules 6 and 7; `attention` is head-averaged, (..., n, n)."""
    return attention @ r_ss, attention @ r_sq


def normalise_residual(relevance: Tensor, *, empty: EmptyRows = "identity") -> Tensor:
    """Give what attention added the weight of the identity: (R - I) with rows that sum to 1, plus I; rules 8 and 9.

    Parameters
    ----------
    relevance : Tensor, shape (..., n, n)
    empty : {'identity', 'nan'}
        A row to which nothing was added is 0/0. 'identity' leaves the identity alone there; 'nan' is the authors' code.

    Returns
    -------
    Tensor, shape (..., n, n)
    """
    eye = torch.eye(relevance.shape[-1], dtype=relevance.dtype, device=relevance.device)
    added = relevance - eye
    total = added.sum(-1, keepdim=True)
    shares = added / total
    if empty == "identity":
        shares = torch.where(total == 0, torch.zeros_like(shares), shares)
    return shares + eye


@dataclass(frozen=True, kw_only=True)
class CoAttentionRule:
    """Rules 10 and 11: what cross-attention with queries in stream s and keys in stream q adds.

    Parameters
    ----------
    normalise : bool
        Rules 8 and 9 first; else the raw R take part.
    self_in_rule_10 : bool
        Carry the relevance inside both streams along; else the attention itself is added.
    empty : {'identity', 'nan'}
        As in `normalise_residual`.
    """

    normalise: bool = True
    self_in_rule_10: bool = True
    empty: EmptyRows = "identity"

    def crossing(self, attention: Tensor, r_ss: Tensor, r_qq: Tensor) -> Tensor:
        """Return what is added to R_sq, rule 10; `attention` is head-averaged, (..., n_s, n_q)."""
        if not self.self_in_rule_10:
            return attention
        if self.normalise:
            r_ss, r_qq = (normalise_residual(r, empty=self.empty) for r in (r_ss, r_qq))
        return r_ss.mT @ attention @ r_qq

    def additions(self, attention: Tensor, r_ss: Tensor, r_qq: Tensor, r_qs: Tensor) -> tuple[Tensor, Tensor]:
        """Return what is added to R_sq (rule 10) and to R_ss (rule 11)."""
        return self.crossing(attention, r_ss, r_qq), attention @ r_qs


@dataclass(frozen=True)
class TwoStreamState:
    """The four relevance matrices of two streams, t (n tokens) and a (m tokens).

    Parameters
    ----------
    tt, ta, at, aa : Tensor, shapes (..., n, n), (..., n, m), (..., m, n), (..., m, m)
    """

    tt: Tensor
    ta: Tensor
    at: Tensor
    aa: Tensor

    @classmethod
    def start(cls, sizes: Sequence[int], like: Tensor) -> TwoStreamState:
        """Identity inside streams of these sizes, nothing across; dtype, device and lead of `like` (..., H, i, j)."""
        n, m = sizes
        lead = like.shape[:-3]
        eyes = [torch.eye(k, dtype=like.dtype, device=like.device).expand(*lead, k, k) for k in (n, m)]
        return cls(eyes[0], like.new_zeros(*lead, n, m), like.new_zeros(*lead, m, n), eyes[1])

    def mirrored(self) -> TwoStreamState:
        """Swap the streams: rules are written for the first."""
        return TwoStreamState(self.aa, self.at, self.ta, self.tt)

    def after_self(self, layers: Sequence[Weighted]) -> TwoStreamState:
        """Apply self-attention layers of stream t."""
        tt, ta = self.tt, self.ta
        for attention, gradient in layers:
            more_tt, more_ta = self_additions(head_average(attention, gradient), tt, ta)
            tt, ta = tt + more_tt, ta + more_ta
        return TwoStreamState(tt, ta, self.at, self.aa)

    def after_crossing(self, ta: Weighted | None, at: Weighted | None, rule: CoAttentionRule) -> TwoStreamState:
        """Apply one crossing: both directions are computed from the old matrices, then added. None: not crossed."""
        new = {"tt": self.tt, "ta": self.ta, "at": self.at, "aa": self.aa}
        if ta is not None:
            across, within = rule.additions(head_average(*ta), self.tt, self.aa, self.at)
            new["ta"], new["tt"] = new["ta"] + across, new["tt"] + within
        if at is not None:
            across, within = rule.additions(head_average(*at), self.aa, self.tt, self.ta)
            new["at"], new["aa"] = new["at"] + across, new["aa"] + within
        return TwoStreamState(**new)


@dataclass(frozen=True, kw_only=True)
class CrossLayer:
    """One layer of a co-attention network: both crossings, then self-attention in both streams.

    Parameters
    ----------
    ta, at : Weighted
        Queries of t with keys of a, (..., H, n, m), and the other way.
    t, a : Weighted
        Self-attention after the crossing, (..., H, n, n) and (..., H, m, m).
    """

    ta: Weighted
    at: Weighted
    t: Weighted
    a: Weighted


def co_attention_relevance(
    text: Sequence[Weighted],
    other: Sequence[Weighted],
    crossings: Sequence[CrossLayer],
    *,
    rule: CoAttentionRule | None = None,
) -> tuple[Tensor, Tensor]:
    """Propagate through a two-stream network whose class token is the first token of the text.

    The last crossing changes the text alone: nothing else of it reaches the class token.

    Parameters
    ----------
    text, other : sequence of Weighted
        Self-attention of each stream before the crossings.
    crossings : sequence of CrossLayer
        At least one.
    rule : CoAttentionRule, optional

    Returns
    -------
    r_tt : Tensor, shape (..., n, n)
        Entry [0, 0], the class token's own, is set to zero.
    r_ta : Tensor, shape (..., n, m)
    """
    if not crossings:
        raise ValueError("crossings: at least one layer")
    rule = rule or CoAttentionRule()
    state = TwoStreamState.start(crossings[0].ta[0].shape[-2:], crossings[0].ta[0])
    state = state.after_self(text).mirrored().after_self(other).mirrored()
    for layer in crossings[:-1]:
        state = state.after_crossing(layer.ta, layer.at, rule).after_self([layer.t])
        state = state.mirrored().after_self([layer.a]).mirrored()
    last = crossings[-1]
    state = state.after_crossing(last.ta, None, rule).after_self([last.t])
    r_tt = state.tt.clone()
    r_tt[..., 0, 0] = 0
    return r_tt, state.ta


def encoder_decoder_relevance(
    encoder: Sequence[Weighted],
    decoder: Sequence[Weighted],
    crossing: Sequence[Weighted],
    *,
    rule: CoAttentionRule | None = None,
) -> Tensor:
    """Propagate through an encoder (n_i tokens) and a decoder (n_q queries) and return R_qi.

    Parameters
    ----------
    encoder, decoder : sequence of Weighted
        Self-attention, (..., H, n_i, n_i) and (..., H, n_q, n_q).
    crossing : sequence of Weighted
        One a decoder layer, (..., H, n_q, n_i).
    rule : CoAttentionRule, optional
        With ``empty='nan'`` a NaN of rule 10 is replaced by zero, which loses the layer whole: the authors' code.

    Returns
    -------
    Tensor, shape (..., n_q, n_i)
    """
    rule = rule or CoAttentionRule()
    state = TwoStreamState.start(crossing[0][0].shape[-2:], crossing[0][0])
    state = state.mirrored().after_self(encoder).mirrored()
    for self_layer, cross_layer in zip(decoder, crossing, strict=True):
        state = state.after_self([self_layer])
        added = decoder_addition(head_average(*cross_layer), state.tt, state.aa, rule=rule)
        state = TwoStreamState(state.tt, state.ta + added, state.at, state.aa)
    return state.ta


def decoder_addition(attention: Tensor, r_qq: Tensor, r_ii: Tensor, *, rule: CoAttentionRule) -> Tensor:
    """Return rule 10 for a decoder layer, with zero where it is NaN; `attention` is head-averaged, (..., n_q, n_i)."""
    return torch.nan_to_num(rule.crossing(attention, r_qq, r_ii), nan=0.0, posinf=torch.inf, neginf=-torch.inf)


def encoder_decoder_rollout(encoder: Sequence[Tensor], decoder: Sequence[Tensor], crossing: Tensor) -> Tensor:
    """Class-agnostic baseline of `encoder_decoder_relevance`: both rollouts around the last cross-attention.

    Parameters
    ----------
    encoder, decoder : sequence of Tensor, shapes (..., H, n_i, n_i) and (..., H, n_q, n_q)
    crossing : Tensor, shape (..., H, n_q, n_i)
        Of the last decoder layer.

    Returns
    -------
    Tensor, shape (..., n_q, n_i)
    """
    r_ii, r_qq = (attention_rollout([fuse_heads(layer) for layer in layers]) for layers in (encoder, decoder))
    return r_qq.mT @ fuse_heads(crossing) @ r_ii
