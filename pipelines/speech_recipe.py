"""Recipes of dementia from speech: everything that the published description leaves open is a field here."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from .recipes import BaseRecipe, Fields

Seconds = Annotated[float, Field(gt=0, le=86_400)]
LABELS = ("CN", "MCI", "AD")
COMPONENTS = {
    "text": ("text-transformer",),
    "audio": ("image-transformer", "whisper-encoder"),
    "classifier": ("two-stream",),
}
"""What a dementia recipe consists of, and the kinds that each may have."""


class AudioSpec(Fields):
    """From a recording to the pictures that the audio encoder sees.

    `n_mels` to `top_db` are those of the log-Mel picture (`encoders.log_mel.LogMelConfig`); `image_mode` resizes the whole recording to
    one picture, takes its middle, or cuts it into chunks; `tokens` says what one picture becomes: all patches, one token a column of
    patches (the mean over Mel), or one token a picture. A ``whisper-encoder`` hears the samples: pictures are then for the page only.
    """

    sample_rate: Annotated[int, Field(ge=4000, le=96_000)] = 22050
    n_fft: Annotated[int, Field(ge=64, le=16_384)] = 2048
    hop_length: Annotated[int, Field(ge=16, le=8192)] = 512
    n_mels: Annotated[int, Field(ge=8, le=512)] = 224
    f_min: Annotated[float, Field(ge=0)] = 0.0
    f_max: float | None = None
    htk: bool = False
    top_db: float | None = 80.0
    image_mode: Literal["resize", "crop", "chunks"] = "chunks"
    size: tuple[Annotated[int, Field(ge=16, le=1024)], Annotated[int, Field(ge=16, le=1024)]] = (224, 224)
    chunk_frames: Annotated[int, Field(ge=16)] | None = None
    max_chunks: Annotated[int, Field(ge=1, le=1000)] = 64
    normalise: Literal["min-max", "none"] = "min-max"
    tokens: Literal["patches", "time", "chunk"] = "time"
    speaker: Literal["participant", "everyone"] = "participant"
    level_dbfs: Annotated[float, Field(ge=-60, le=0)] | None = -23.0
    max_duration_s: Seconds = 1800.0


class TranscriptSpec(Fields):
    """From a transcript to words; `cleaning` are the switches of `data.chat_cleaning.CleaningOptions`.

    `recognition` says what happens where a recording has no transcript: ``none`` refuses (or, after training with modality dropout, goes
    on without words), ``faster-whisper`` writes one, in `language`.
    """

    cleaning: dict[str, bool | str] = Field(default_factory=dict)
    recognition: Literal["none", "faster-whisper"] = "none"
    recognition_weights: str = "whisper-base"
    language: Annotated[str, Field(pattern="^[a-z]{2}$")] = "en"
    max_tokens: Annotated[int, Field(ge=8, le=4096)] = 512


class AnswerSpec(Fields):
    """What is said about a person.

    `prevalence` is the share of the positive class where the recipe is used (null: that of the training data); `error_rate` is that of the
    prediction set, whose size says whether the answer is certain.
    """

    prevalence: Annotated[float, Field(gt=0, lt=1)] | None = None
    error_rate: Annotated[float, Field(gt=0, lt=0.5)] = 0.1


class SpeechRecipe(BaseRecipe):
    """A recipe of dementia from speech."""

    pipeline: Literal["dementia"]
    classes: tuple[Literal["CN", "MCI", "AD"], ...] = ("CN", "AD")
    audio: AudioSpec = AudioSpec()
    transcript: TranscriptSpec = TranscriptSpec()
    answer: AnswerSpec = AnswerSpec()
    training: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _whole(self) -> SpeechRecipe:
        wrong = [
            f"components.{name}: missing, of kind {' or '.join(kinds)}"
            for name, kinds in COMPONENTS.items()
            if name not in self.components or self.components[name].kind not in kinds
        ]
        if len(set(self.classes)) != len(self.classes) or len(self.classes) < 2:
            wrong.append(f"classes: two or more different ones of {', '.join(LABELS)}")
        elif list(self.classes) != sorted(self.classes, key=LABELS.index):
            wrong.append(f"classes: in the order {', '.join(LABELS)}; the last is the positive one")
        from ..data.chat_cleaning import CleaningOptions

        known = CleaningOptions.__dataclass_fields__
        wrong += [f"transcript.cleaning.{name}: unknown" for name in self.transcript.cleaning if name not in known]
        if set(self.channels) != {"audio", "transcript"}:
            wrong.append("channels: audio and transcript")
        if wrong:
            raise ValueError("; ".join(wrong))
        return self

    @property
    def positive(self) -> str:
        """The class that scores and reports are about: the last."""
        return self.classes[-1]
