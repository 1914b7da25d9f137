"""Whether weights of the dementia pipeline load: for ``chiasm weights verify``, with the loaders that a run uses."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from torch import nn

from ....data.errors import ToolError, WeightsError
from ....encoders.image_transformer import KINDS as IMAGE_MODELS
from ....encoders.image_transformer import load_image_transformer
from ....encoders.silero_vad import SileroVad, SileroVadConfig
from ....encoders.text_transformer import load_text_transformer
from ....encoders.whisper_encoder import KINDS as SOUND_MODELS
from ....encoders.whisper_encoder import load_whisper_encoder
from ....heads.two_stream import TwoStreamClassifier, TwoStreamConfig
from ...engine.components import configure
from ...engine.tensors import fill, read_tensors
from ...engine.weights import WeightsFolder, find_all
from ...training.speech.network import SpeechNetwork
from .features import Encoders

CODES: dict[str, str] = {
    "CHI-TL-013": "A text, image or Whisper encoder is to be loaded, and transformers is not installed."
}


def speech_network(folder: WeightsFolder) -> tuple[str, nn.Module]:
    """Load a folder; return its kind and its network.

    A folder that is not ours (the Hugging Face cache, a package) names no kind: there the ``model_type`` says whether it is an image, a
    text or a Whisper encoder.

    Raises
    ------
    ToolError
        ``CHI-TL-013``.
    WeightsError, SeveralErrors, RecipeError
        As the loaders; ``CHI-WT-006`` for the config of a classifier that says nothing of its encoders.
    """
    kind = folder.config.get("kind") or _kind_of(folder.config.get("model_type"))
    if kind in _LOADERS and find_spec("transformers") is None:
        raise ToolError(
            "CHI-TL-013",
            "Text, image and Whisper encoders are networks of transformers, which is not installed.",
            'Install it with `pip install "chiasm[speech]"`.',
        )
    if kind in _LOADERS:
        return kind, _LOADERS[kind](folder.path)
    network = _classifier(folder) if kind == "two-stream" else _detector(folder)
    fill(network, read_tensors(folder.files["model"]), folder.name)
    return kind, network


def _kind_of(model_type: object) -> str:
    if model_type in IMAGE_MODELS:
        return "image-transformer"
    return "whisper-encoder" if model_type in SOUND_MODELS else "text-transformer"


_LOADERS: dict[str, Callable[[Path], nn.Module]] = {
    "text-transformer": load_text_transformer,
    "image-transformer": load_image_transformer,
    "whisper-encoder": load_whisper_encoder,
}


def _detector(folder: WeightsFolder) -> nn.Module:
    return SileroVad(configure(SileroVadConfig, folder.config.get("parameters", {}), "silero-vad"))


def _classifier(folder: WeightsFolder) -> nn.Module:
    config = configure(TwoStreamConfig, folder.config.get("parameters", {}), "two-stream")
    encoders = _encoders(folder) if folder.config.get("encoders_trained") else None
    return SpeechNetwork(TwoStreamClassifier(config), encoders)


def _encoders(folder: WeightsFolder) -> Encoders:
    """Load the encoders that were fine-tuned with a classifier: their shapes are those that the classifier's file must have."""
    named: Any = folder.config.get("encoders")
    try:
        names = {stream: str(named[stream]["weights"]) for stream in ("text", "audio")}
    except (KeyError, TypeError):
        raise WeightsError(
            "CHI-WT-006",
            "config.json is not usable: 'encoders' must name the weights of text and audio.",
            "docs/weights.md shows one.",
            file=folder.name,
        ) from None
    found = find_all(names.values())
    return Encoders(
        text=load_text_transformer(found[names["text"]].path),
        audio=load_image_transformer(found[names["audio"]].path),
        hashes={},
    )
