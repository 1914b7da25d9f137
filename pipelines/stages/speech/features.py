"""From what was heard to tensors: token ids and words, pictures, and the encoders' tokens where these are frozen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ....data.audio import Clip, resample
from ....data.errors import InputError
from ....encoders.image_transformer import ImageTransformer, reduce_tokens
from ....encoders.log_mel import LogMelConfig, LogMelImage
from ....encoders.speech_images import SpeechImageConfig, SpeechImages, to_images, token_spans
from ....encoders.text_transformer import TextTransformer, TokenIds
from ....encoders.transformer_folder import EncoderOutput
from ....encoders.whisper_encoder import RATE, WhisperEncoder
from ...speech_recipe import AudioSpec, SpeechRecipe
from ...training.speech.acoustic_statistics import acoustic_statistics
from .hearing import Heard

IMAGES_A_PASS = 8
"""Pictures encoded at once: more gain nothing on a CPU and cost memory."""
WHISPER_POOL = 25
"""Tokens of 20 ms that become one of half a second, near the 0.37 s of a column of patches. Raise `cache.FORMAT` with it."""


@dataclass(frozen=True, eq=False, kw_only=True)
class SpeechFeatures:
    """One interview as the networks take it; None where a modality is missing.

    Parameters
    ----------
    ids, word_index : Tensor of int64, shape (N,)
        Tokens of the transcript, and the word of each (-1: a special token).
    text_tokens : Tensor of float32, shape (N, d)
        Of a frozen text encoder.
    words : tuple of str
        The participant's words; `n_truncated` more had no room.
    word_times : tuple of (float, float) or None
        Seconds of the recording, a word.
    pixels : Tensor of float32, shape (K, 3, H, W)
        Pictures; kept where the audio encoder is trained.
    audio_tokens : Tensor of float32, shape (T, d)
        Of a frozen audio encoder.
    audio_spans : Tensor of float32, shape (T, 4)
        start_s, end_s (of the recording), lowest and highest Mel band of each audio token.
    facts : dict
        JSON values that no network sees: duration, speech spans, header, counts, quality, warnings.
    """

    ids: Tensor | None = None
    word_index: Tensor | None = None
    text_tokens: Tensor | None = None
    words: tuple[str, ...] = ()
    word_times: tuple[tuple[float, float] | None, ...] = ()
    n_truncated: int = 0
    pixels: Tensor | None = None
    audio_tokens: Tensor | None = None
    audio_spans: Tensor | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def has_text(self) -> bool:
        """Whether there is a transcript."""
        return self.ids is not None

    @property
    def has_audio(self) -> bool:
        """Whether there is a recording."""
        return self.audio_spans is not None


@dataclass(frozen=True, eq=False, kw_only=True)
class Encoders:
    """The encoders of a recipe, loaded.

    Parameters
    ----------
    text : TextTransformer
    audio : ImageTransformer or WhisperEncoder
    hashes : dict of str to str
        Component -> sha256 of its weights.
    """

    text: TextTransformer
    audio: ImageTransformer | WhisperEncoder
    hashes: Mapping[str, str]

    def to(self, device: str | torch.device) -> Encoders:
        """Move both to a device."""
        self.text.to(device)
        self.audio.to(device)
        return self


def picture_maker(audio: AudioSpec) -> LogMelImage:
    """Return the log-Mel module of a recipe."""
    return LogMelImage(
        LogMelConfig(
            sample_rate=audio.sample_rate,
            n_fft=audio.n_fft,
            hop_length=audio.hop_length,
            n_mels=audio.n_mels,
            f_min=audio.f_min,
            f_max=audio.f_max,
            htk=audio.htk,
            top_db=audio.top_db,
        )
    )


def pictures_of(heard: Heard, audio: AudioSpec, maker: LogMelImage) -> tuple[Tensor, SpeechImages]:
    """Return the log-Mel picture (3, M, T) of a recording and the pictures cut from it."""
    if heard.clip is None:
        raise InputError("CHI-IN-241", "there is no recording.", "Add one.")
    images, _ = maker(torch.from_numpy(heard.clip.samples)[None])
    config = SpeechImageConfig(
        mode=audio.image_mode,
        size=audio.size,
        chunk_frames=audio.chunk_frames,
        max_chunks=audio.max_chunks,
        normalise=audio.normalise,
    )
    return images[0], to_images(images[0], maker.config.hop_s, config)


@torch.no_grad()
def extract(
    heard: Heard, recipe: SpeechRecipe, encoders: Encoders, *, frozen: bool = True, maker: LogMelImage | None = None
) -> SpeechFeatures:
    """Turn one interview into features.

    Parameters
    ----------
    heard : Heard
    recipe : SpeechRecipe
    encoders : Encoders
        In evaluation mode.
    frozen : bool
        True: run the encoders and keep their tokens. False: keep ids and pictures, for training from end to end (not with Whisper).
    maker : LogMelImage, optional
        Of `picture_maker`, to save its filters.
    """
    if not frozen and isinstance(encoders.audio, WhisperEncoder):
        raise ValueError("a Whisper encoder is used frozen")
    parts: dict[str, Any] = {"facts": _facts(heard)}
    if heard.clip is not None:
        parts["facts"]["acoustic"] = acoustic_statistics(heard.clip).tolist()
    if heard.transcript is not None:
        words = heard.transcript.said_by("participant")
        tokens = encoders.text.tokenise([word.text for word in words])
        parts |= {
            "ids": tokens.ids,
            "word_index": tokens.word_index,
            "n_truncated": tokens.n_truncated,
            "words": tuple(word.text for word in words),
            "word_times": tuple(
                None if word.start_s is None or word.end_s is None else (word.start_s, word.end_s) for word in words
            ),
        }
        if frozen:
            parts["text_tokens"] = _text_tokens(encoders.text, tokens)
    encoder = encoders.audio
    if heard.clip is not None and isinstance(encoder, WhisperEncoder):
        parts["audio_tokens"], spans = encode_sound(encoder, heard.clip)
        # Whisper hears all of its own bands; the page draws them over those of the picture.
        spans[:, 2], spans[:, 3] = 0.0, float(recipe.audio.n_mels)
        parts["audio_spans"] = _in_recording(spans, heard)
    elif heard.clip is not None and isinstance(encoder, ImageTransformer):
        _, images = pictures_of(heard, recipe.audio, maker or picture_maker(recipe.audio))
        encoder.check_size((images.pixels.shape[-2], images.pixels.shape[-1]))
        spans = token_spans(images.spans, encoder.grid, recipe.audio.n_mels, reduce=recipe.audio.tokens)
        parts["audio_spans"] = _in_recording(spans, heard)
        if frozen:
            parts["audio_tokens"] = encode_pictures(encoder, images.pixels, recipe.audio.tokens)
        else:
            parts["pixels"] = images.pixels
    return SpeechFeatures(**parts)


def encode_pictures(encoder: ImageTransformer, pixels: Tensor, tokens: Any) -> Tensor:
    """Run the audio encoder over the pictures of one recording: (K, 3, H, W) to (K * n, d)."""
    device = next(encoder.parameters()).device
    parts = [
        reduce_tokens(encoder(batch.to(device)), tokens).flatten(0, 1) for batch in torch.split(pixels, IMAGES_A_PASS)
    ]
    return torch.cat(parts).float().cpu()


def encode_sound(encoder: WhisperEncoder, clip: Clip) -> tuple[Tensor, Tensor]:
    """Run Whisper over a clip of any rate: tokens of half a second (T, d), and their spans in the clip (T, 4)."""
    device = next(encoder.parameters()).device
    samples = torch.from_numpy(resample(clip, RATE).samples).to(device)
    tokens, spans = encoder.encode(samples, pool=WHISPER_POOL)
    return tokens.float().cpu(), spans.float().cpu()


def _text_tokens(encoder: TextTransformer, tokens: TokenIds) -> Tensor:
    device = next(encoder.parameters()).device
    ids, mask = encoder.collate([tokens])
    output: EncoderOutput = encoder(ids.to(device), mask.to(device))
    return output.tokens[0].float().cpu()


def _in_recording(spans: Tensor, heard: Heard) -> Tensor:
    """Turn token times of the joined participant's parts into times of the recording."""
    moved = spans.clone()
    for row in moved:
        middle = heard.recording_time(float(row[0] + row[1]) / 2)
        half = float(row[1] - row[0]) / 2
        # Half a token may be the silence that fills the last picture: nothing lies behind the recording's end.
        row[0], row[1] = max(0.0, middle - half), min(middle + half, heard.duration_s)
    return moved


def _facts(heard: Heard) -> dict[str, Any]:
    quality = heard.quality
    return {
        "duration_s": round(heard.duration_s, 4),
        "speech": [[round(span.start_s, 3), round(span.end_s, 3)] for span in heard.speech],
        "header": dict(heard.facts),
        "counts": dict(heard.transcript.counts) if heard.transcript is not None else {},
        "source": heard.transcript.source if heard.transcript is not None else None,
        "estimated": heard.transcript.estimated if heard.transcript is not None else False,
        "snr_db": quality.snr_db if quality is not None else None,
        "clipped_fraction": quality.clipped_fraction if quality is not None else None,
        "warnings": list(heard.warnings),
    }
