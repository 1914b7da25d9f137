"""What is trained: the classifier on cached tokens, or encoders and classifier from end to end."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ....encoders.image_transformer import reduce_tokens
from ....encoders.whisper_encoder import WhisperEncoder
from ....heads.two_stream import TwoStreamClassifier, TwoStreamOutput
from ...stages.speech.features import Encoders
from .batches import Batch, Sample


class SpeechNetwork(nn.Module):
    """A classifier and, where these are trained too, its encoders.

    Parameters
    ----------
    classifier : TwoStreamClassifier
    encoders : Encoders, optional
        Copied; None: batches bring tokens of frozen encoders. Not Whisper, which no batch has the samples for.
    tokens : {'patches', 'time', 'chunk'}
        What a picture becomes.
    autocast : dtype, optional
        Of the encoders; the classifier, with its transport, stays in float32.
    """

    def __init__(
        self,
        classifier: TwoStreamClassifier,
        encoders: Encoders | None = None,
        *,
        tokens: Literal["patches", "time", "chunk"] = "time",
        autocast: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if encoders is not None and isinstance(encoders.audio, WhisperEncoder):
            raise ValueError("a Whisper encoder is used frozen")
        self.classifier = classifier
        streams = classifier.config.streams
        self.text_encoder = copy.deepcopy(encoders.text) if encoders is not None and streams != "audio" else None
        self.audio_encoder = copy.deepcopy(encoders.audio) if encoders is not None and streams != "text" else None
        for encoder in (self.text_encoder, self.audio_encoder):
            if encoder is not None:
                encoder.requires_grad_(True)
        self.tokens, self.autocast = tokens, autocast

    def forward(self, batch: Batch, *, keep_attention: bool = False) -> TwoStreamOutput:
        """Classify a batch; in training a modality is withheld by chance, where the classifier says so."""
        streams = self.classifier.config.streams
        text_mask, audio_mask = self._withheld(batch.text_mask, batch.audio_mask)
        text = self._text(batch) if streams != "audio" else None
        audio = self._audio(batch) if streams != "text" else None
        with torch.autocast(batch.label.device.type, enabled=False):
            output: TwoStreamOutput = self.classifier(
                text,
                text_mask,
                audio,
                audio_mask,
                statistics=self._statistics(batch, text_mask, audio_mask),
                keep_attention=keep_attention,
            )
        return output

    def _statistics(self, batch: Batch, text_mask: Tensor, audio_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return the statistics; those of a modality that is missing, or withheld, are missing too."""
        rows = (batch.text_statistics, text_mask), (batch.audio_statistics, audio_mask)
        text, audio = (values.masked_fill(~mask.any(1, keepdim=True), torch.nan) for values, mask in rows)
        return text, audio

    def fit_statistics(self, samples: Sequence[Sample]) -> None:
        """Take centre and spread of the statistics from training samples; without it they are used as they are."""
        for index, vector in enumerate((self.classifier.text_statistics, self.classifier.audio_statistics)):
            rows = [sample.statistics[index] for sample in samples]
            known = [row for row in rows if row is not None]
            if vector is not None and known:
                vector.standardise(torch.stack(known))

    def _withheld(self, text_mask: Tensor, audio_mask: Tensor) -> tuple[Tensor, Tensor]:
        config = self.classifier.config
        if not self.training or not config.modality_dropout or config.streams != "both":
            return text_mask, audio_mask
        both = text_mask.any(1) & audio_mask.any(1)
        chance = torch.rand(2, len(both)).to(text_mask.device)
        drop, which = both & (chance[0] < config.modality_dropout), chance[1] < 0.5
        return text_mask & ~(drop & which)[:, None], audio_mask & ~(drop & ~which)[:, None]

    def _text(self, batch: Batch) -> Tensor:
        if not bool(batch.text_mask.any()):  # nobody's transcript: there is nothing to take the width from
            return torch.zeros(*batch.text_mask.shape, self.classifier.config.text_width, device=batch.label.device)
        if self.text_encoder is None:
            return batch.text
        with self._precision(batch):
            # A row without any token would make attention over nothing.
            mask = batch.text_mask | ~batch.text_mask.any(1, keepdim=True)
            tokens: Tensor = self.text_encoder(batch.text, mask).tokens
        return tokens.float()

    def _audio(self, batch: Batch) -> Tensor:
        padded = torch.zeros(*batch.audio_mask.shape, self.classifier.config.audio_width, device=batch.label.device)
        if not bool(batch.audio_mask.any()):
            return padded
        if self.audio_encoder is None:
            return batch.audio
        with self._precision(batch):
            encoded = reduce_tokens(self.audio_encoder(batch.audio), self.tokens)
        parts = torch.split(encoded.float(), list(batch.n_pictures))
        rows = [
            torch.cat([row.flatten(0, 1), padded[0, : padded.shape[1] - row.shape[0] * row.shape[1]]]) for row in parts
        ]
        return torch.stack(rows)

    def _precision(self, batch: Batch) -> AbstractContextManager[Any]:
        if self.autocast is None:
            return nullcontext()
        return torch.autocast(batch.label.device.type, dtype=self.autocast)

    def groups(self, learning_rate: float, encoder_learning_rate: float, weight_decay: float) -> list[dict[str, Any]]:
        """Return the optimiser's parameter groups: encoders slowly, classifier fast; no decay of biases and norms."""
        groups = []
        for modules, rate in (
            ((self.classifier,), learning_rate),
            ((self.text_encoder, self.audio_encoder), encoder_learning_rate),
        ):
            parameters = [p for module in modules if module is not None for p in module.parameters() if p.requires_grad]
            for decayed in (True, False):
                chosen = [p for p in parameters if (p.ndim > 1) is decayed]
                if chosen:
                    groups.append({"params": chosen, "lr": rate, "weight_decay": weight_decay if decayed else 0.0})
        return groups
