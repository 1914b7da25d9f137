"""Interviews as samples, in batches of similar length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ...stages.speech.features import SpeechFeatures

POOL = 8
"""Batches that are sorted by length together: enough to halve the padding, few enough that batches stay mixed."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Sample:
    """One interview, ready for the networks.

    Parameters
    ----------
    name, person : str
    label : int
        Index into the recipe's classes; -1 where it is not known.
    mmse : float
        NaN where it was not taken.
    features : SpeechFeatures
    statistics : (Tensor or None, Tensor or None)
        Counts of the words and statistics of the voice; see `stages.speech.statistics`.
    """

    name: str
    person: str
    label: int
    mmse: float
    features: SpeechFeatures
    statistics: tuple[Tensor | None, Tensor | None] = (None, None)

    @property
    def length(self) -> int:
        """Tokens that batches are sorted by: of both modalities, of the text alone where pictures are encoded (those are never padded)."""
        f = self.features
        n_text = 0 if f.ids is None else len(f.ids)
        return n_text + (0 if f.audio_spans is None or f.pixels is not None else len(f.audio_spans))


@dataclass(frozen=True, eq=False, kw_only=True)
class Batch:
    """B padded samples.

    Parameters
    ----------
    text : Tensor, shape (B, N, d) or (B, N)
        Tokens of a frozen encoder, or token ids.
    text_mask : Tensor of bool, shape (B, N)
    audio : Tensor, shape (B, T, d); or (sum of K, 3, H, W), pictures of all samples in order
    audio_mask : Tensor of bool, shape (B, T)
    n_pictures : tuple of int
        Of each sample; empty for frozen encoders.
    label : Tensor of int64, shape (B,)
    mmse : Tensor of float32, shape (B,)
    text_statistics, audio_statistics : Tensor of float32, shapes (B, n)
        NaN where a number, or the modality, is missing; n is 0 where no sample has any.
    """

    text: Tensor
    text_mask: Tensor
    audio: Tensor
    audio_mask: Tensor
    n_pictures: tuple[int, ...]
    label: Tensor
    mmse: Tensor
    text_statistics: Tensor
    audio_statistics: Tensor

    def to(self, device: str | torch.device) -> Batch:
        """Move every tensor to a device."""
        moved = {name: value.to(device) for name, value in vars(self).items() if isinstance(value, Tensor)}
        return Batch(n_pictures=self.n_pictures, **moved)


def collate(samples: Sequence[Sample]) -> Batch:
    """Pad samples to the longest of each modality; a missing modality has an empty mask."""
    features = [sample.features for sample in samples]
    frozen = not any(f.pixels is not None for f in features) and not _only_ids(features)
    text, text_mask = _padded([f.text_tokens if frozen else f.ids for f in features])
    audio, audio_mask = _padded([f.audio_tokens if frozen else f.audio_spans for f in features])
    n_pictures: tuple[int, ...] = ()
    if not frozen:
        n_pictures = tuple(0 if f.pixels is None else len(f.pixels) for f in features)
        shown = [f.pixels for f in features if f.pixels is not None]
        audio = torch.cat(shown) if shown else audio.new_zeros(0)
    return Batch(
        text=text,
        text_mask=text_mask,
        audio=audio,
        audio_mask=audio_mask,
        n_pictures=n_pictures,
        label=torch.tensor([sample.label for sample in samples]),
        mmse=torch.tensor([sample.mmse for sample in samples], dtype=torch.float32),
        text_statistics=_stacked([sample.statistics[0] for sample in samples]),
        audio_statistics=_stacked([sample.statistics[1] for sample in samples]),
    )


def _stacked(rows: Sequence[Tensor | None]) -> Tensor:
    n = next((len(row) for row in rows if row is not None), 0)
    missing = torch.full((n,), torch.nan)
    return torch.stack([missing if row is None else row for row in rows])


def _only_ids(features: Sequence[SpeechFeatures]) -> bool:
    """Whether no sample has a token of a frozen encoder (texts without any recording, trained from end to end)."""
    return all(f.text_tokens is None and f.audio_tokens is None for f in features)


def _padded(rows: Sequence[Tensor | None]) -> tuple[Tensor, Tensor]:
    there = next((row for row in rows if row is not None), torch.zeros(1, 1))
    filled = [row if row is not None else there.new_zeros((1, *there.shape[1:])) for row in rows]
    lengths = torch.tensor([0 if row is None else len(row) for row in rows])
    padded = pad_sequence(filled, batch_first=True)
    return padded, torch.arange(padded.shape[1]) < lengths[:, None]


def batches_of(samples: Sequence[Sample], size: int, *, generator: torch.Generator | None = None) -> list[list[Sample]]:
    """Cut samples into batches of similar length.

    Parameters
    ----------
    samples : sequence of Sample
    size : int
    generator : torch.Generator, optional
        Shuffles first, and the batches afterwards; None sorts everything by length, for evaluation.
    """
    if generator is None:
        ordered = sorted(samples, key=lambda sample: sample.length)
        return [ordered[start : start + size] for start in range(0, len(ordered), size)]
    shuffled = [samples[i] for i in torch.randperm(len(samples), generator=generator).tolist()]
    batches: list[list[Sample]] = []
    for start in range(0, len(shuffled), POOL * size):
        pool = sorted(shuffled[start : start + POOL * size], key=lambda sample: sample.length)
        batches += [pool[first : first + size] for first in range(0, len(pool), size)]
    return [batches[i] for i in torch.randperm(len(batches), generator=generator).tolist()]


def widths_of(samples: Sequence[Sample], encoders: Any = None) -> tuple[int, int]:
    """Return the widths of text and audio tokens, from the encoders or from the first samples that have them."""
    if encoders is not None:
        return encoders.text.width, encoders.audio.width
    text = next((s.features.text_tokens.shape[1] for s in samples if s.features.text_tokens is not None), 1)
    audio = next((s.features.audio_tokens.shape[1] for s in samples if s.features.audio_tokens is not None), 1)
    return text, audio
