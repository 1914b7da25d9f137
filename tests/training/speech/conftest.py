"""Interviews as tensors: small, random, with a token that gives the class away where a test wants one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from chiasm.encoders.image_transformer import ImageTransformer
from chiasm.encoders.text_transformer import TextTransformer
from chiasm.heads.two_stream import TwoStreamClassifier, TwoStreamConfig
from chiasm.pipelines.stages.speech.features import Encoders, SpeechFeatures
from chiasm.pipelines.training.speech.batches import Sample
from chiasm.pipelines.training.speech.network import SpeechNetwork
from chiasm.pipelines.training.speech.settings import SpeechTraining

WIDTH = 6
VOCABULARY = 30
MARKER = 8.0
SIZES = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
QUIET = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


@pytest.fixture
def sample() -> Callable[..., Sample]:
    """Make a sample of frozen encoders (tokens), or with ``ids=True`` of encoders that are trained (ids and pictures)."""

    def make(index: int, *, label: int | None = None, n_text: int = 4, n_audio: int = 5, **fields: Any) -> Sample:
        label = index % 2 if label is None else label
        generator = torch.Generator().manual_seed(1000 + index)
        text = torch.randn(n_text, WIDTH, generator=generator)
        audio = torch.randn(n_audio, WIDTH, generator=generator)
        text[index % 2 :: 2, 0] = MARKER if label == 1 else -MARKER
        spans = torch.zeros(n_audio, 4)
        tokens = torch.arange(n_text)
        parts: dict[str, Any] = {"ids": tokens, "word_index": tokens.clone(), "text_tokens": text}
        parts |= {"audio_tokens": audio, "audio_spans": spans}
        if fields.pop("ids", False):
            n_pictures = n_audio // 2  # a picture of 16 x 16 in patches of 8 is two tokens of time
            parts = {
                "ids": torch.randint(5, VOCABULARY, (n_text,), generator=generator),
                "word_index": tokens.clone(),
                "pixels": torch.randn(n_pictures, 3, 16, 16, generator=generator),
                "audio_spans": torch.zeros(2 * n_pictures, 4),
            }
        for gone in fields.pop("without", ()):
            names = (
                ("ids", "word_index", "text_tokens") if gone == "text" else ("audio_tokens", "audio_spans", "pixels")
            )
            parts |= dict.fromkeys(names)
        name = f"i{index:03d}"
        features = SpeechFeatures(**{**parts, **fields.pop("features", {})})
        return Sample(
            **{"name": name, "person": f"p{index:03d}", "label": label, "mmse": float("nan"), **fields},
            features=features,
        )

    return make


@pytest.fixture
def encoders() -> Encoders:
    """Encoders of one layer and eight features, without dropout."""
    torch.manual_seed(3)
    text = TextTransformer.from_config(
        {"model_type": "bert", "vocab_size": VOCABULARY, "max_position_embeddings": 40, **SIZES, **QUIET}
    )
    picture = {"image_size": [16, 16], "patch_size": 8, "num_channels": 3}
    audio = ImageTransformer.from_config({"model_type": "deit", **picture, **SIZES, **QUIET})
    for module in (text, audio):
        module.eval().requires_grad_(False)
    return Encoders(text=text, audio=audio, hashes={"text": "a", "audio": "b"})


@pytest.fixture
def network() -> Callable[..., SpeechNetwork]:
    """Make a network with the same random weights every time."""

    def make(encoders: Encoders | None = None, *, autocast: torch.dtype | None = None, **fields: Any) -> SpeechNetwork:
        torch.manual_seed(0)
        width = WIDTH if encoders is None else 8
        known = {"text_width": width, "audio_width": width, "width": 8, "hidden": 8, "dropout": 0.0, "iterations": 5}
        return SpeechNetwork(TwoStreamClassifier(TwoStreamConfig(**{**known, **fields})), encoders, autocast=autocast)

    return make


@pytest.fixture
def training() -> Callable[..., SpeechTraining]:
    """Make settings: quick and without smoothing unless a test says otherwise."""

    def make(**fields: Any) -> SpeechTraining:
        known = {"epochs": 4, "batch_size": 4, "learning_rate": 0.01, "label_smoothing": 0.0, "patience": 100}
        return SpeechTraining(**{**known, **fields})

    return make
