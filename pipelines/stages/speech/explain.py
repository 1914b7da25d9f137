"""Why the classifier said so: relevance of words and sound for one class, and whether deletion confirms it.

The rules are those of `heads.two_stream_relevance` (Chefer et al., ICCV 2021). Where audio tokens are means over the Mel axis, a token's
relevance is shared among its patches in proportion to what each adds to the class score (gradient x value, positive part), so that the map
has Mel bands too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ....heads.deletion import deletion_curve
from ....heads.relevance import Weighted, class_score, with_gradients
from ....heads.two_stream import TwoStreamOutput
from ....heads.two_stream_relevance import (
    StreamAttention,
    TwoStreamRelevance,
    crossing_gradient,
    merge_pieces,
    plan_attention,
    token_contributions,
    two_stream_relevance,
)
from .features import SpeechFeatures

N_RANDOM = 5
STEPS = 10


@dataclass(frozen=True, eq=False, kw_only=True)
class Explanation:
    """Why one interview got its score.

    Parameters
    ----------
    target : str
        The class that is explained.
    words : ndarray, shape (n_words,)
        Relevance of each word; NaN for words that the model did not read.
    audio : ndarray, shape (T,)
        Relevance of each audio token.
    patches : ndarray, shape (P, rows) or None
        Share of each Mel row within each audio token; rows sum to 1. None where tokens are patches already, or are
        Whisper's.
    shares : tuple of (float, float)
        Text and audio; they sum to 1, or are both 0 where nothing speaks for the class.
    vectors : dict of str to float
        What each fused vector adds to the class score (gradient x value, positive part), as shares that sum to 1.
    method : str
    plan : ndarray, shape (N, T), optional
        Mass between text tokens and audio tokens.
    deletion : tuple of ndarray, optional
        Fractions, score by relevance, score at random, score least relevant first.
    """

    target: str
    words: NDArray[np.float64]
    audio: NDArray[np.float64]
    patches: NDArray[np.float64] | None
    shares: tuple[float, float]
    method: str
    vectors: Mapping[str, float] = field(default_factory=dict)
    plan: NDArray[np.float64] | None = None
    deletion: tuple[NDArray[np.float64], ...] | None = None


def relevance_of(
    output: TwoStreamOutput, target: int, *, name: str, text_encoder: Sequence[Tensor] = ()
) -> TwoStreamRelevance:
    """Propagate relevance through the classifier, and through a text encoder whose attention is on the graph.

    Parameters
    ----------
    output : TwoStreamOutput
        Of one case, with attention kept and the graph alive.
    target : int
        Class.
    name : str
        Its name, for the method's text.
    text_encoder : sequence of Tensor, shape (1, H, N, N)
        Attention of the text encoder's layers.
    """
    score = class_score(output.logits, target)
    of_tokens = dict(zip(output.names, with_gradients(score, output.tokens), strict=False))  # statistics have no tokens
    blocks = {
        "text": with_gradients(score, output.text_attention),
        "audio": with_gradients(score, output.audio_attention),
    }
    encoders: dict[str, list[Weighted]] = {"text": with_gradients(score, text_encoder), "audio": []}
    masks = {"text": output.text_mask, "audio": output.audio_mask}
    values = {"text": output.text_values, "audio": output.audio_values}
    crossings = _crossings(output, of_tokens, values)

    def stream(key: str) -> StreamAttention | None:
        mask = masks[key]
        if key not in of_tokens or mask is None:
            return None
        crossing, pooled_crossing = crossings.get(key, (None, None))
        return StreamAttention(
            mask=mask,
            pooled=token_contributions(*_known(of_tokens[key])),
            encoder=encoders[key],
            self_attention=blocks[key],
            crossing=crossing,
            pooled_crossing=pooled_crossing,
        )

    return two_stream_relevance(stream("text"), stream("audio"), target=name)[0]


def _crossings(
    output: TwoStreamOutput, of_tokens: dict[str, Weighted], values: dict[str, Tensor | None]
) -> dict[str, Any]:
    if output.plan is None or "text from audio" not in of_tokens:
        return {}
    there, back = plan_attention(output.plan.detach())
    exact = output.plan_back is None  # one plan read both ways: transport, whose gradient has a closed form
    if output.plan_back is not None:
        back = plan_attention(output.plan_back.detach())[0]
    found = {}
    for key, other, rows in (("text", "audio", there), ("audio", "text", back)):
        tokens, gradient = _known(of_tokens[f"{key} from {other}"])
        carried = values[other]
        slope = crossing_gradient(carried.detach(), gradient) if exact and carried is not None else None
        found[key] = ((rows, slope), token_contributions(tokens, gradient))
    return found


def _known(pair: Weighted) -> tuple[Tensor, Tensor]:
    value, gradient = pair
    return value, torch.zeros_like(value) if gradient is None else gradient


def vector_shares(output: TwoStreamOutput, target: int) -> dict[str, float]:
    """Return the share of each fused vector in what speaks for the class; all 0 where nothing does."""
    score = class_score(output.logits, target)
    added = {
        name: max(0.0, float((value * gradient).sum().detach())) if gradient is not None else 0.0
        for name, (value, gradient) in zip(output.names, with_gradients(score, output.pooled), strict=True)
    }
    total = sum(added.values())
    return {name: value / total if total > 0 else 0.0 for name, value in added.items()}


def mel_shares(patches: Tensor, gradient: Tensor) -> NDArray[np.float64]:
    """Return how much each Mel row adds to a token that is the mean over rows.

    Parameters
    ----------
    patches : Tensor, shape (K, rows, cols, d)
        Patch tokens of the audio encoder.
    gradient : Tensor, shape (K * cols, d)
        Of the class score with respect to the tokens.

    Returns
    -------
    ndarray, shape (K * cols, rows)
        Not negative; rows sum to 1 (evenly where no patch speaks for the class).
    """
    n_pictures, rows, cols, width = patches.shape
    slope = gradient.view(n_pictures, 1, cols, width)
    added = (patches * slope).sum(-1).clamp(min=0).permute(0, 2, 1).reshape(n_pictures * cols, rows)
    total = added.sum(1, keepdim=True)
    shares = torch.where(total > 0, added / total.clamp(min=1e-30), torch.full_like(added, 1.0 / rows))
    return np.asarray(shares.detach().cpu().double().numpy())


def words_of(relevance: TwoStreamRelevance, features: SpeechFeatures) -> NDArray[np.float64]:
    """Sum word pieces to words; NaN where the model did not read a word."""
    n_words = len(features.words)
    if features.word_index is None or not n_words:
        return np.zeros(0)
    summed = merge_pieces(
        relevance.text[: len(features.word_index)].detach().cpu(), features.word_index, n_words=n_words
    )
    values = np.array(summed.double().numpy())
    values[np.setdiff1d(np.arange(n_words), features.word_index.numpy())] = np.nan
    return values


def deletion_of(
    score: Callable[[Tensor], Tensor], relevance: TwoStreamRelevance, valid: Tensor
) -> tuple[NDArray[np.float64], ...] | None:
    """Take tokens away, most relevant first, at random and least relevant first.

    Parameters
    ----------
    score : callable
        Keep masks (S, N + T) -> probability of the class (S,).
    relevance : TwoStreamRelevance
    valid : Tensor of bool, shape (N + T,)
        Tokens that may be taken away: words and sound, not the special tokens.
    """
    joined = torch.cat([relevance.text, relevance.audio]).detach().cpu()
    if int(valid.sum()) < STEPS or float(joined.sum()) <= 0:
        return None

    def curve(order: Any) -> NDArray[np.float64]:
        found = deletion_curve(score, joined, steps=STEPS, order=order, valid=valid, batched=True)
        return np.asarray(found.scores, dtype=np.float64)

    at_random = np.mean([curve(seed) for seed in range(N_RANDOM)], axis=0)
    fractions = np.arange(len(at_random)) / STEPS
    return fractions, curve("most"), at_random, curve("least")
