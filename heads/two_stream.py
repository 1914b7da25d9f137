"""The two-stream classifier: words and sound attend to themselves, cross, are pooled, fused and classified.

Ilias and Askounis, "Context-aware attention layers coupled with optimal transport domain adaptation ... for recognizing
dementia from spontaneous speech" (arXiv 2305.16406), as far as it is published: what the description leaves open is a
field of `TwoStreamConfig`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, cast, get_args

import torch
from torch import Tensor, nn

from ..fusion.build import FUSIONS, SELF_ATTENTIONS, fusion_block, self_attention
from ..fusion.costs import Cost
from ..fusion.cross_attention import CrossAttention, CrossAttentionConfig
from ..fusion.divergence import SinkhornDivergence, SinkhornDivergenceConfig
from ..fusion.masks import masked_mean
from ..fusion.ot_kernel import kernel_embedding
from ..fusion.sinkhorn import Gradient
from ..fusion.transport import BarycentricTransport, TransportConfig

Crossing = Literal["transport", "kernel", "cross-attention", "none"]
Streams = Literal["both", "text", "audio"]
Mixing = Literal["token", "none"]
MMSE_RANGE = 30.0
KERNEL_ITERATIONS = 10
OUTLIER = 5.0  # standard deviations: a broken recording must not shout
TIED = 1e9  # a marginal that is held: relaxation so large that tau / (tau + eps) is 1


@dataclass(frozen=True, kw_only=True)
class TwoStreamConfig:
    """Everything that the published description leaves open, and sizes.

    Parameters
    ----------
    text_width, audio_width : int
        Features of the encoders' tokens.
    streams : {'both', 'text', 'audio'}
        One stream alone has no crossing and no fusion: the baseline of each encoder.
    width : int
        Of both streams after their projections.
    attention : {'plain', 'context', 'gated'}
    context : {'global', 'deep', 'deep-global'}
        For attention 'context'. Deep contexts see the encoder's tokens and every earlier block.
    layers, heads : int
        Self-attention blocks a stream, and their heads.
    residual : bool
        Add a block's input to its output and normalise (LayerNorm).
    crossing : {'transport', 'kernel', 'cross-attention', 'none'}
        Transport is barycentric, both directions from one plan.
    cost : {'cosine', 'squared-euclidean'}
    normalise : {'max', 'median', 'none'}
        Of the transport cost.
    eps : float
        Entropic regularisation, in units of the normalised cost. From 0.1 on a cosine cost gives the mean, not a match.
    iterations : int
    plan_gradient : {'unroll', 'last-step', 'none'}
        How the plan is differentiated, see `fusion.sinkhorn`. The last step alone costs a fraction of unrolling.
    unbalanced : float, optional
        Marginal relaxation of the audio side (noise may stay unmatched); None: balanced.
    mixing : {'token', 'none'}
        What is pooled of the crossing: every crossed token together with its own, through one layer; or the crossed tokens as they
        are. With even marginals the mean of transported tokens is the mean of the other stream *whatever the plan*: sum_i (1/n)
        sum_j P_ij z_j / (1/n) = sum_j b_j z_j. So without mixing a plan cannot reach the answer.
    alignment : bool
        Also return the Sinkhorn divergence between the streams, as a loss.
    fusion : str
        One of `chiasm.fusion.build.FUSIONS`.
    hidden : int
        Of the head.
    classes : int
    mmse : bool
        Also regress the Mini-Mental State Examination.
    severity_classes : int
        Also classify severity (0: no).
    dropout : float
        Of projections, attention weights and head.
    text_statistics, audio_statistics : int
        Numbers of an interview beside its tokens (counts of words, statistics of the voice); each kind becomes one more fused vector.
        0: none.
    modality_dropout : float
        Chance, in training, that one of the two modalities is withheld. Above 0 a missing modality is a learned token; at 0 it
        is refused.
    """

    text_width: int
    audio_width: int
    streams: Streams = "both"
    width: int = 128
    attention: str = "context"
    context: str = "global"
    layers: int = 1
    heads: int = 1
    residual: bool = True
    crossing: Crossing = "transport"
    cost: Cost = "cosine"
    normalise: Literal["max", "median", "none"] = "none"
    eps: float = 0.02
    iterations: int = 20
    plan_gradient: Gradient = "unroll"
    unbalanced: float | None = None
    mixing: Mixing = "token"
    alignment: bool = False
    fusion: str = "concatenation"
    hidden: int = 128
    classes: int = 2
    mmse: bool = False
    severity_classes: int = 0
    dropout: float = 0.1
    text_statistics: int = 0
    audio_statistics: int = 0
    modality_dropout: float = 0.0

    def __post_init__(self) -> None:
        wrong = []
        for name, allowed in (
            ("streams", get_args(Streams)),
            ("attention", SELF_ATTENTIONS),
            ("crossing", get_args(Crossing)),
            ("mixing", get_args(Mixing)),
            ("fusion", FUSIONS),
        ):
            if getattr(self, name) not in allowed:
                wrong.append(f"{name} must be one of {', '.join(allowed)}, got {getattr(self, name)!r}")
        if self.classes < 2:
            wrong.append(f"classes must be >= 2, got {self.classes}")
        if self.layers < 1:
            wrong.append(f"layers must be >= 1, got {self.layers}")
        if not 0 <= self.modality_dropout < 1:
            wrong.append(f"modality_dropout must be in [0, 1), got {self.modality_dropout}")
        if wrong:
            raise ValueError("; ".join(wrong))

    @property
    def n_vectors(self) -> int:
        """Vectors that are fused: one a stream, one a direction of the crossing, one a kind of statistics."""
        heard = {"text": (self.text_statistics,), "audio": (self.audio_statistics,)}
        numbers = sum(n > 0 for n in heard.get(self.streams, (self.text_statistics, self.audio_statistics)))
        if self.streams != "both":
            return 1 + numbers
        return (2 if self.crossing == "none" else 4) + numbers


@dataclass(frozen=True, eq=False, kw_only=True)
class TwoStreamOutput:
    """What the classifier says about B cases.

    Parameters
    ----------
    logits : Tensor, shape (B, K)
    mmse : Tensor, shape (B,), optional
        0 to 30.
    severity : Tensor, shape (B, S), optional
        Logits.
    vector_weights : Tensor, shape (B, m), optional
        Share of each fused vector, where the fusion has shares; the order is `names`.
    names : tuple of str
        Of the fused vectors: ``text``, ``text from audio``, ``audio``, ``audio from text``, ``word counts``, ``voice statistics``.
    pooled : tuple of Tensor, shape (B, width)
        The fused vectors.
    tokens : tuple of Tensor, shape (B, N or T, width)
        What each was pooled from (of a crossing: before it was mixed); the statistics were not pooled and have none.
    text_mask, audio_mask : Tensor of bool, optional
        With the position of a learned token counted as valid.
    plan : Tensor, shape (B, N, T), optional
        Of the crossing: transported mass, or attention of the text on the audio.
    plan_back : Tensor, shape (B, T, N), optional
        How the audio reads the text, where this is not the same plan.
    text_attention, audio_attention : tuple of Tensor, shape (B, H, N, N)
        Of the self-attention blocks, where asked for; on the graph.
    text_values, audio_values : Tensor, optional
        Tokens that the crossing carried over.
    alignment : Tensor, shape (B,), optional
        Sinkhorn divergence between the streams.
    """

    logits: Tensor
    mmse: Tensor | None
    severity: Tensor | None
    vector_weights: Tensor | None
    names: tuple[str, ...]
    pooled: tuple[Tensor, ...]
    tokens: tuple[Tensor, ...]
    text_mask: Tensor | None = None
    audio_mask: Tensor | None = None
    plan: Tensor | None = None
    plan_back: Tensor | None = None
    text_attention: tuple[Tensor, ...] = ()
    audio_attention: tuple[Tensor, ...] = ()
    text_values: Tensor | None = None
    audio_values: Tensor | None = None
    alignment: Tensor | None = None


class Crossed(NamedTuple):
    """What crossed between the streams, and by which plan (None: not kept)."""

    text_from_audio: Tensor
    audio_from_text: Tensor
    plan: Tensor | None = None
    plan_back: Tensor | None = None


class Stream(nn.Module):
    """One modality: projection, learned token for its absence, self-attention blocks."""

    def __init__(self, in_width: int, config: TwoStreamConfig) -> None:
        super().__init__()
        self.config = config
        self.project = nn.Linear(in_width, config.width)
        self.norm = nn.LayerNorm(config.width)
        self.drop = nn.Dropout(config.dropout)
        self.absent = nn.Parameter(torch.zeros(config.width)) if config.modality_dropout else None
        self.blocks = nn.ModuleList(
            self_attention(
                config.attention,
                config.width,
                heads=config.heads,
                dropout=config.dropout,
                context=config.context,
                context_width=_context_width(config, in_width, index),
            )
            for index in range(config.layers)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(config.width) for _ in range(config.layers if config.residual else 0))

    def forward(self, tokens: Tensor, mask: Tensor, keep: bool) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Return attended tokens (B, N, width), the mask with learned tokens, and attention weights where asked for."""
        tokens = tokens.masked_fill(~mask[..., None], 0.0)
        x = self.drop(self.norm(self.project(tokens))).masked_fill(~mask[..., None], 0.0)
        missing = ~mask.any(dim=1)
        if bool(missing.any()):
            if self.absent is None:
                raise ValueError("a modality is missing and the model was trained without modality dropout")
            first = torch.zeros_like(mask)
            first[:, 0] = missing
            x, mask = torch.where(first[..., None], self.absent.to(x.dtype), x), mask | first
        previous, weights = [tokens], []
        for index, block in enumerate(self.blocks):
            attended, kept = block(x, mask, previous=previous, keep_weights=keep)
            previous.append(x)
            x = self.norms[index](x + attended) if self.config.residual else attended
            x = x.masked_fill(~mask[..., None], 0.0)
            if kept is not None:
                weights.append(kept)
        return x, mask, weights


def _context_width(config: TwoStreamConfig, in_width: int, index: int) -> int | None:
    if config.attention != "context" or config.context == "global":
        return None
    deep = in_width + index * config.width
    return deep if config.context == "deep" else deep + config.width


class TokenMixing(nn.Module):
    """One layer over each token and what was carried to it: the place where an alignment becomes a feature."""

    def __init__(self, config: TwoStreamConfig) -> None:
        super().__init__()
        self.layer = nn.Linear(2 * config.width, config.width)
        self.drop = nn.Dropout(config.dropout)

    def forward(self, own: Tensor, crossed: Tensor) -> Tensor:
        """Map two (B, N, width) to one."""
        mixed: Tensor = self.drop(nn.functional.gelu(self.layer(torch.cat([own, crossed], dim=-1))))
        return mixed


class StatisticsVector(nn.Module):
    """Numbers of an interview, standardised by the training persons, as one vector; a missing number counts as average."""

    mean: Tensor
    scale: Tensor

    def __init__(self, n: int, config: TwoStreamConfig) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(n))
        self.register_buffer("scale", torch.ones(n))
        self.project = nn.Sequential(nn.Dropout(config.dropout), nn.Linear(n, config.width), nn.Tanh())

    def standardise(self, rows: Tensor) -> None:
        """Take mean and standard deviation from training rows (P, n); NaN entries are left out."""
        known = ~rows.isnan()
        n = known.sum(0).clamp(min=1)
        mean = rows.nan_to_num().sum(0) / n
        spread = (((rows - mean).nan_to_num() ** 2 * known).sum(0) / n).sqrt()
        self.mean.copy_(mean)
        self.scale.copy_(torch.where(spread > 1e-6, spread, torch.ones_like(spread)))

    def forward(self, values: Tensor) -> Tensor:
        """Map (B, n) to (B, width)."""
        z = ((values - self.mean) / self.scale).clamp(-OUTLIER, OUTLIER)
        projected: Tensor = self.project(torch.where(values.isnan(), torch.zeros_like(z), z))
        return projected


class TwoStreamClassifier(nn.Module):
    """See the module; parameters are in `TwoStreamConfig`."""

    def __init__(self, config: TwoStreamConfig) -> None:
        super().__init__()
        self.config = config
        both = config.streams == "both"
        self.text = Stream(config.text_width, config) if config.streams != "audio" else None
        self.audio = Stream(config.audio_width, config) if config.streams != "text" else None
        self.transport = self._transport() if both and config.crossing == "transport" else None
        crossed = both and config.crossing == "cross-attention"
        one = CrossAttentionConfig(width=config.width, heads=config.heads, dropout=config.dropout)
        self.text_from_audio = CrossAttention(one) if crossed else None
        self.audio_from_text = CrossAttention(one) if crossed else None
        mixed = both and config.crossing != "none" and config.mixing == "token"
        self.mix_text = TokenMixing(config) if mixed else None
        self.mix_audio = TokenMixing(config) if mixed else None
        aligned = both and config.alignment
        self.divergence = SinkhornDivergence(SinkhornDivergenceConfig(cost=config.cost)) if aligned else None
        numbers = {"text": config.text_statistics, "audio": config.audio_statistics}
        heard = {name: n for name, n in numbers.items() if n and config.streams in (name, "both")}
        self.text_statistics = StatisticsVector(heard["text"], config) if "text" in heard else None
        self.audio_statistics = StatisticsVector(heard["audio"], config) if "audio" in heard else None
        self.fusion = fusion_block(config.fusion, config.width, config.n_vectors) if config.n_vectors > 1 else None
        fused = cast("Any", self.fusion).config.out_width if self.fusion is not None else config.width
        self.head = nn.Sequential(nn.Linear(fused, config.hidden), nn.ReLU(), nn.Dropout(config.dropout))
        self.classify = nn.Linear(config.hidden, config.classes)
        self.regress = nn.Linear(config.hidden, 1) if config.mmse else None
        self.grade = nn.Linear(config.hidden, config.severity_classes) if config.severity_classes else None

    def _transport(self) -> BarycentricTransport:
        config = self.config
        relaxed = None if config.unbalanced is None else (TIED, config.unbalanced)
        return BarycentricTransport(
            TransportConfig(
                cost=config.cost,
                normalise=config.normalise,
                eps=config.eps,
                iterations=config.iterations,
                unbalanced=relaxed,
                gradient=config.plan_gradient,
            )
        )

    def forward(
        self,
        text: Tensor | None,
        text_mask: Tensor | None,
        audio: Tensor | None,
        audio_mask: Tensor | None,
        *,
        statistics: tuple[Tensor | None, Tensor | None] = (None, None),
        keep_attention: bool = False,
    ) -> TwoStreamOutput:
        """Classify B cases.

        Parameters
        ----------
        text : Tensor, shape (B, N, text_width)
        text_mask : Tensor of bool, shape (B, N)
            A case whose row is all False has no text (N >= 1 all the same).
        audio : Tensor, shape (B, T, audio_width)
        audio_mask : Tensor of bool, shape (B, T)
        statistics : (Tensor, Tensor), shapes (B, n)
            Counts of the words and statistics of the voice, where the classifier has them; NaN: missing.
        keep_attention : bool
            Keep attention weights and tokens on the graph, for relevance.

        Raises
        ------
        ValueError
            A modality is missing and the model was trained without modality dropout; wrong shapes.
        """
        names: list[str] = []
        tokens: list[Tensor] = []
        masks: list[Tensor] = []
        extra: dict[str, Any] = {}
        x = z = None
        if self.text is not None and text is not None and text_mask is not None:
            x, text_mask, weights = self.text(text, text_mask, keep_attention)
            extra.update(text_mask=text_mask, text_attention=tuple(weights))
            names, tokens, masks = ["text"], [x], [text_mask]
        if self.audio is not None and audio is not None and audio_mask is not None:
            z, audio_mask, weights = self.audio(audio, audio_mask, keep_attention)
            extra.update(audio_mask=audio_mask, audio_attention=tuple(weights))
            names, tokens, masks = [*names, "audio"], [*tokens, z], [*masks, audio_mask]
        if len(names) != (2 if self.config.streams == "both" else 1):
            raise ValueError(f"the model has streams '{self.config.streams}', got tokens of {names or 'none'}")
        if x is not None and z is not None and text_mask is not None and audio_mask is not None:
            crossed = self._cross(x, z, text_mask, audio_mask, keep_attention)
            if crossed is not None:
                names = ["text", "text from audio", "audio", "audio from text"]
                tokens = [x, crossed.text_from_audio, z, crossed.audio_from_text]
                masks = [text_mask, text_mask, audio_mask, audio_mask]
                extra.update(plan=crossed.plan, plan_back=crossed.plan_back, text_values=x, audio_values=z)
            if self.divergence is not None:
                extra["alignment"] = self.divergence(x, z, text_mask, audio_mask)
        pooled = [
            masked_mean(self._mixed(name, tokens, index), mask)
            for index, (name, mask) in enumerate(zip(names, masks, strict=True))
        ]
        for name, block, values in zip(
            ("word counts", "voice statistics"), (self.text_statistics, self.audio_statistics), statistics, strict=True
        ):
            if block is not None:
                if values is None or not values.shape[-1]:  # nobody in the batch has any
                    values = block.mean.new_full((len(pooled[0]), len(block.mean)), torch.nan)
                names = [*names, name]
                pooled.append(block(values))
        return self._answer(names, tokens, pooled, extra)

    def _mixed(self, name: str, tokens: Sequence[Tensor], index: int) -> Tensor:
        """Return what is pooled for a vector: tokens, or crossed tokens mixed with those that they were carried to."""
        mix = {"text from audio": self.mix_text, "audio from text": self.mix_audio}.get(name)
        mixed: Tensor = tokens[index] if mix is None else mix(tokens[index - 1], tokens[index])
        return mixed

    def _cross(self, x: Tensor, z: Tensor, text_mask: Tensor, audio_mask: Tensor, keep: bool) -> Crossed | None:
        if self.transport is not None:
            out = self.transport(x, z, text_mask, audio_mask)
            return Crossed(out.x_from_y, out.y_from_x, out.plan)
        if self.text_from_audio is not None and self.audio_from_text is not None:
            there = self.text_from_audio(x, z, text_mask, audio_mask, keep_weights=keep)
            back = self.audio_from_text(z, x, audio_mask, text_mask, keep_weights=keep)
            plans = (there.weights.mean(1), back.weights.mean(1)) if keep else (None, None)
            return Crossed(there.tokens, back.tokens, *plans)
        if self.config.crossing == "kernel":
            scale, eps = self.config.width**0.5, self.config.eps
            there = kernel_embedding(z / scale, x / scale, audio_mask, text_mask, eps=eps, iterations=KERNEL_ITERATIONS)
            back = kernel_embedding(x / scale, z / scale, text_mask, audio_mask, eps=eps, iterations=KERNEL_ITERATIONS)
            # A kernel plan (B, p, heads, n): its rows are the references that read.
            return Crossed(scale * there.embedding, scale * back.embedding, there.plan.mean(2), back.plan.mean(2))
        return None

    def _answer(
        self, names: Sequence[str], tokens: Sequence[Tensor], pooled: Sequence[Tensor], extra: dict[str, Any]
    ) -> TwoStreamOutput:
        fused, shares = (pooled[0], None) if self.fusion is None else self.fusion(pooled)
        hidden = self.head(fused)
        return TwoStreamOutput(
            logits=self.classify(hidden),
            mmse=MMSE_RANGE * self.regress(hidden).squeeze(-1).sigmoid() if self.regress is not None else None,
            severity=self.grade(hidden) if self.grade is not None else None,
            vector_weights=shares,
            names=tuple(names),
            pooled=tuple(pooled),
            tokens=tuple(tokens),
            **extra,
        )
