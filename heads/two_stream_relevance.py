"""Which words, which seconds and which modality pushed a two-stream classifier towards one class.

The rules of `heads.relevance` run from the encoders' tokens to the pooled vectors: encoder layers and self-attention
fill R_tt and R_aa, one crossing (rules 10 and 11) fills R_ta and R_at. Pooling is read as one more attention: the
contribution of every position to the class score, cut at zero (rule 5). A pooled vector has the share of its positive
contributions, and this share is spread over the tokens by the R of its branch, normalised by rules 8 and 9. So the
maps of both streams are positive, belong to the class, and sum to one together.

A crossing carries nothing of its own stream (a transported token is a mean of the other stream's), so R_ta and R_at
spread the crossed vectors over the other modality.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .relevance import CoAttentionRule, TwoStreamState, Weighted, head_average, normalise_residual

PAPER = "bi-modal relevance propagation (Chefer et al., ICCV 2021)"


@dataclass(frozen=True, kw_only=True)
class StreamAttention:
    """All that one forward and one backward pass say about a stream with n tokens, for B cases.

    Parameters
    ----------
    mask : Tensor of bool, shape (B, n)
        True = valid.
    pooled : Tensor, shape (B, n)
        What each position adds to the class score through the self-attended pooled vector: `token_contributions`, or
        `vector_contributions` where only the pooled vectors are known.
    encoder : sequence of (attention, gradient), shape (B, H, m, m) or (B, K, H, m, m)
        The encoder's own layers, first layer first; five dimensions for K pictures that do not see each other. Empty
        for a frozen encoder.
    places : Tensor of int, shape (n,), optional
        Position of each stream token among the encoder's m (or K m) tokens. Default: they are the same tokens.
    self_attention : sequence of (attention, gradient), shape (B, H, n, n)
        The intra-modal blocks.
    crossing : (attention, gradient), shape (B, H, n, n_other), optional
        How this stream's positions read the other stream; for transport the plan with rows that sum to one.
    pooled_crossing : Tensor, shape (B, n), optional
        As `pooled`, for the pooled vector of the crossing.
    """

    mask: Tensor
    pooled: Tensor
    encoder: Sequence[Weighted] = ()
    places: Tensor | None = None
    self_attention: Sequence[Weighted] = ()
    crossing: Weighted | None = None
    pooled_crossing: Tensor | None = None

    def __post_init__(self) -> None:
        n = tuple(self.mask.shape)
        wrong = [
            f"{name} has shape {tuple(x.shape)}, the mask {n}"
            for name, x in (("pooled", self.pooled), ("pooled_crossing", self.pooled_crossing))
            if x is not None and x.shape != self.mask.shape
        ]
        wrong += [
            f"self_attention {i} has shape {tuple(attention.shape)}, not (B, H, {n[1]}, {n[1]})"
            for i, (attention, _) in enumerate(self.self_attention)
            if attention.shape[-2:] != (n[1], n[1])
        ]
        if self.mask.dtype != torch.bool:
            wrong.append(f"the mask must be bool (True = valid), got {self.mask.dtype}")
        if (self.crossing is None) != (self.pooled_crossing is None):
            wrong.append("crossing and pooled_crossing come together")
        if wrong:
            raise ValueError("; ".join(wrong))


@dataclass(frozen=True, kw_only=True)
class TwoStreamRelevance:
    """Relevance of one case for one class.

    Parameters
    ----------
    text : Tensor, shape (N,)
    audio : Tensor, shape (T,)
        Not negative, zero at padding; both together sum to 1, or to 0 where nothing speaks for the class. A stream that
        was not there has shape (0,).
    modality_share : Tensor, shape (2,)
        Sums of both.
    method : str
        What to print beside the map.
    """

    text: Tensor
    audio: Tensor
    modality_share: Tensor
    method: str


def token_contributions(tokens: Tensor, gradient: Tensor) -> Tensor:
    """Return what each position adds to the score: gradient x value before pooling, (B, n, d) to (B, n)."""
    return (tokens * gradient).sum(-1)


def vector_contributions(mask: Tensor, pooled: Tensor, gradient: Tensor) -> Tensor:
    """Spread gradient x value of a masked mean (B, d) evenly over its valid positions, (B, n).

    Coarser than `token_contributions`: a vector that speaks against the class as a whole leaves nothing, so the class
    that was not predicted often has an empty map.
    """
    weights = mask / mask.sum(1, keepdim=True).clamp(min=1)
    return weights * (pooled * gradient).sum(-1, keepdim=True)


def plan_attention(plan: Tensor) -> tuple[Tensor, Tensor]:
    """Read a transport plan (B, N, T) as attention in both directions: (B, 1, N, T) and (B, 1, T, N), rows sum to 1."""
    totals = [(direction, direction.sum(-1, keepdim=True)) for direction in (plan, plan.mT)]
    # an empty row is divided by 1: its gradient stays finite
    rows = [direction / total.where(total > 0, 1.0) for direction, total in totals]
    return rows[0][:, None], rows[1][:, None]


def crossing_gradient(values: Tensor, gradient: Tensor) -> Tensor:
    """Gradient of the score with respect to a row-normalised plan that was applied to `values`.

    Exact for ``crossed = plan_rows @ values`` with the plan as an independent variable, so it needs no derivative of
    the transport problem.

    Parameters
    ----------
    values : Tensor, shape (B, m, d)
        Tokens that were carried over.
    gradient : Tensor, shape (B, n, d)
        Of the score with respect to the crossed tokens.

    Returns
    -------
    Tensor, shape (B, 1, n, m)
    """
    return (gradient @ values.mT)[:, None]


def two_stream_relevance(
    text: StreamAttention | None, audio: StreamAttention | None, *, target: str = ""
) -> list[TwoStreamRelevance]:
    """Propagate relevance through both streams, or through the one that is there.

    Parameters
    ----------
    text, audio : StreamAttention, optional
        At least one; with one, its crossing is left out.
    target : str
        Name of the class, for the method's line.

    Returns
    -------
    list of TwoStreamRelevance
        One a case.
    """
    present = [stream for stream in (text, audio) if stream is not None]
    if not present:
        raise ValueError("no stream to explain")
    like = present[0].pooled.detach()
    sizes = [0 if stream is None else stream.mask.shape[1] for stream in (text, audio)]
    state = TwoStreamState.start(sizes, like[:, None, None])
    if text is not None:
        state = _inside(state, text)
    if audio is not None:
        state = _inside(state.mirrored(), audio).mirrored()
    before = state  # a self-attended vector is pooled before the crossing
    if text is not None and audio is not None:
        crossings = [_masked(stream.crossing, stream, other) for stream, other in ((text, audio), (audio, text))]
        # The crossing starts from R_at = R_ta = 0, so rule 11 adds nothing and R_ta, R_at are rule 10 alone.
        state = state.after_crossing(crossings[0], crossings[1], CoAttentionRule())
    of_text, of_audio = like.new_zeros(len(like), sizes[0]), like.new_zeros(len(like), sizes[1])
    if text is not None:
        of_text = of_text + _spread(text.pooled, normalise_residual(before.tt), text.mask)
    if audio is not None:
        of_audio = of_audio + _spread(audio.pooled, normalise_residual(before.aa), audio.mask)
    if text is not None and audio is not None:
        of_audio = of_audio + _spread(text.pooled_crossing, state.ta, text.mask)
        of_text = of_text + _spread(audio.pooled_crossing, state.at, audio.mask)
    total = (of_text.sum(1) + of_audio.sum(1))[:, None]
    of_text, of_audio = (torch.where(total > 0, part / total, 0.0) for part in (of_text, of_audio))
    method = _method(text, audio, target)
    return [
        TwoStreamRelevance(text=t, audio=a, modality_share=torch.stack([t.sum(), a.sum()]), method=method)
        for t, a in zip(of_text, of_audio, strict=True)
    ]


def _inside(state: TwoStreamState, stream: StreamAttention) -> TwoStreamState:
    """Fill the first stream's R_ss by its encoder and its self-attention."""
    if stream.encoder:
        state = TwoStreamState(_encoder_relevance(stream), state.ta, state.at, state.aa)
    return state.after_self([layer for w in stream.self_attention if (layer := _masked(w, stream, stream)) is not None])


def _encoder_relevance(stream: StreamAttention) -> Tensor:
    """R of the encoder's layers among the stream's tokens, (B, n, n)."""
    first = stream.encoder[0][0]
    relevance = torch.eye(first.shape[-1], dtype=first.dtype, device=first.device)
    for attention, gradient in stream.encoder:
        relevance = relevance + head_average(attention.detach(), gradient) @ relevance
    if relevance.ndim == 4:
        # pictures do not see each other: blocks on the diagonal
        pictures = torch.eye(relevance.shape[1], dtype=first.dtype, device=first.device)
        blocks = torch.einsum("bkij,kl->bkilj", relevance, pictures)
        relevance = blocks.flatten(3).flatten(1, 2)
    if stream.places is not None:
        relevance = relevance[:, stream.places][:, :, stream.places]
    if relevance.shape[-1] != stream.mask.shape[1]:
        raise ValueError(
            f"the encoder has {relevance.shape[-1]} tokens, the stream {stream.mask.shape[1]}: give `places`"
        )
    # Padding keeps its identity alone: what it saw, and what saw it, is no relevance.
    eye = torch.eye(relevance.shape[-1], dtype=first.dtype, device=first.device)
    pairs = stream.mask[:, :, None] & stream.mask[:, None]
    return torch.where(pairs, relevance, eye)


def _masked(layer: Weighted | None, stream: StreamAttention, keys: StreamAttention) -> Weighted | None:
    if layer is None:
        return None
    allowed = stream.mask[:, None, :, None] & keys.mask[:, None, None]
    return layer[0].detach().masked_fill(~allowed, 0.0), None if layer[1] is None else layer[1].masked_fill(
        ~allowed, 0.0
    )


def _spread(contributions: Tensor | None, relevance: Tensor, mask: Tensor) -> Tensor:
    """Spread the positive contributions over tokens by the rows of R, keeping their sum; (B, n), (B, n, m) to (B, m).

    Nothing is spread where no token has relevance.
    """
    if contributions is None:
        return relevance.new_zeros(len(relevance), relevance.shape[-1])
    positive = contributions.detach().masked_fill(~mask, 0.0).clamp(min=0)
    spread = (positive[:, None] @ relevance)[:, 0]
    total = spread.sum(1, keepdim=True)
    return torch.where(total > 0, positive.sum(1, keepdim=True) * spread / total, 0.0)


def _method(text: StreamAttention | None, audio: StreamAttention | None, target: str) -> str:
    parts = [PAPER, f"towards {target}" if target else "towards one class", "positive parts only"]
    for name, stream in (("text", text), ("audio", audio)):
        if stream is None:
            continue
        layers = len(stream.encoder)
        parts.append(f"{name}: {layers} encoder layers" if layers else f"{name}: from the encoder's output on")
        if any(gradient is None for _, gradient in (*stream.encoder, *stream.self_attention)):
            parts.append(f"{name}: self-attention without gradient in part")
    if text is not None and audio is not None:
        crossings = [stream.crossing for stream in (text, audio) if stream.crossing is not None]
        if not crossings:
            parts.append("no crossing")
        elif any(gradient is None for _, gradient in crossings):
            parts.append("crossing: the plan itself, without gradient")
        else:
            parts.append("crossing: gradient x row-normalised plan")
    return "; ".join(parts)


def merge_pieces(relevance: Tensor, word_index: Tensor, *, n_words: int | None = None) -> Tensor:
    """Sum the relevance of word pieces to words.

    Parameters
    ----------
    relevance : Tensor, shape (N,)
    word_index : Tensor of int, shape (N,)
        Word of each piece, negative for special tokens and padding, whose relevance is dropped.
    n_words : int, optional
        Default: up to the last word that has a piece. A word that was cut off has 0.

    Returns
    -------
    Tensor, shape (W,)
    """
    if relevance.shape != word_index.shape:
        raise ValueError(f"{tuple(relevance.shape)} relevances for {tuple(word_index.shape)} pieces")
    inside = word_index >= 0
    found = int(word_index.max()) + 1 if bool(inside.any()) else 0
    if n_words is not None and n_words < found:
        raise ValueError(f"n_words {n_words} is below the word index {found - 1}")
    words = relevance.new_zeros(found if n_words is None else n_words)
    return words.index_add(0, word_index[inside].long(), relevance[inside])


def relevance_grid(
    relevance: Tensor,
    spans: Tensor,
    n_seconds_bins: int,
    n_mel_bins: int,
    *,
    duration_s: float | None = None,
    n_mels: float | None = None,
) -> Tensor:
    """Lay the relevance of audio tokens on a grid of seconds and Mel bands, each token spread evenly over its rectangle.

    Parameters
    ----------
    relevance : Tensor, shape (T,)
    spans : Tensor, shape (T, 4)
        start_s, end_s, lowest and highest Mel band (exclusive).
    n_seconds_bins, n_mel_bins : int
    duration_s, n_mels : float, optional
        Extent of the grid, from 0. Default: the greatest end and band. A rectangle is cut there and keeps its sum.

    Returns
    -------
    Tensor, shape (n_seconds_bins, n_mel_bins)
    """
    if spans.shape != (len(relevance), 4):
        raise ValueError(f"spans: shape ({len(relevance)}, 4), not {tuple(spans.shape)}")
    spans = spans.to(relevance.dtype)
    extent_s = float(spans[:, 1].max()) if duration_s is None else duration_s
    extent_mel = float(spans[:, 3].max()) if n_mels is None else n_mels
    in_time = _overlap(spans[:, :2], extent_s, n_seconds_bins)
    in_band = _overlap(spans[:, 2:], extent_mel, n_mel_bins)
    return torch.einsum("t,ts,tm->sm", relevance, in_time, in_band)


def _overlap(spans: Tensor, extent: float, n_bins: int) -> Tensor:
    """Share of each span (T, 2), cut to 0..extent, that lies in each bin, (T, n_bins)."""
    edges = torch.linspace(0, extent, n_bins + 1, dtype=spans.dtype, device=spans.device)
    inside = (spans[:, 1:].clamp(max=edges[1:]) - spans[:, :1].clamp(min=edges[:-1])).clamp(min=0)
    total = inside.sum(1, keepdim=True)
    return torch.where(total > 0, inside / total, 0.0)
