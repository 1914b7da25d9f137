"""The components of a dementia recipe, loaded once a process."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ....encoders.image_transformer import ImageTransformer, load_image_transformer
from ....encoders.silero_vad import SileroVad, SileroVadConfig
from ....encoders.text_transformer import load_text_transformer
from ....encoders.whisper_encoder import WhisperEncoder, load_whisper_encoder
from ...engine.components import configure
from ...engine.tensors import fill, read_tensors
from ...engine.weights import WeightsFolder, find_all
from ...speech_recipe import SpeechRecipe
from .features import Encoders

DETECTOR = "chiasm/silero-vad"


def load_encoders(recipe: SpeechRecipe, *, attention: str = "sdpa", device: str | torch.device = "cpu") -> Encoders:
    """Load a recipe's text and audio encoders, in evaluation mode, without gradients.

    Parameters
    ----------
    recipe : SpeechRecipe
    attention : {'sdpa', 'eager'}
        Eager where attention maps are wanted; nothing asks Whisper for any.
    device : str or torch.device

    Raises
    ------
    WeightsError, SeveralErrors
        Missing or unfit weights; all that are missing at once.
    """
    folders = encoder_folders(recipe)
    text = load_text_transformer(
        folders["text"].path,
        attention=attention,  # type: ignore[arg-type]
        max_tokens=recipe.transcript.max_tokens,
    )
    audio: ImageTransformer | WhisperEncoder
    if recipe.components["audio"].kind == "whisper-encoder":
        audio = load_whisper_encoder(folders["audio"].path)
    else:
        audio = load_image_transformer(folders["audio"].path, attention=attention)  # type: ignore[arg-type]
    for module in (text, audio):
        module.eval().requires_grad_(False).to(device)
    return Encoders(text=text, audio=audio, hashes={name: folder.sha256 for name, folder in folders.items()})


def encoder_folders(recipe: SpeechRecipe) -> dict[str, WeightsFolder]:
    """Find the encoders' weights; all that are missing are listed at once."""
    names = {name: recipe.components[name].weight_names for name in ("text", "audio")}
    found = find_all(weights for wanted in names.values() for weights in wanted)
    return {name: found[wanted[0]] for name, wanted in names.items()}


def feature_hashes(recipe: SpeechRecipe) -> dict[str, str]:
    """Return the hashes of the weights that features depend on: ``text``, ``audio``, and ``recogniser`` where the recipe has one.

    Raises
    ------
    WeightsError, SeveralErrors
        Missing weights.
    """
    hashes = {name: folder.sha256 for name, folder in encoder_folders(recipe).items()}
    if recipe.transcript.recognition == "faster-whisper":
        from .recognition import recogniser_hash

        hashes["recogniser"] = recogniser_hash(recipe.transcript.recognition_weights)
    return hashes


def load_detector() -> SileroVad:
    """Load the voice activity detector that comes with the package."""
    folder = find_all([DETECTOR])[DETECTOR]
    detector = SileroVad(configure(SileroVadConfig, folder.config.get("parameters", {}), "silero-vad"))
    fill(detector, read_tensors(folder.files["model"]), folder.name)
    return detector.eval().requires_grad_(False)


@dataclass(frozen=True, eq=False)
class Listening:
    """What reading needs: the detector and, where the recipe asks for one, the speech recogniser."""

    detector: SileroVad
    recogniser: Any = None


def load_listening(recipe: SpeechRecipe) -> Listening:
    """Load what `Listener` needs."""
    recogniser = None
    if recipe.transcript.recognition == "faster-whisper":
        from .recognition import load_recogniser

        recogniser = load_recogniser(recipe.transcript.recognition_weights, language=recipe.transcript.language)
    return Listening(load_detector(), recogniser)


def n_parameters(module: nn.Module) -> int:
    """Count a module's parameters."""
    return sum(parameter.numel() for parameter in module.parameters())
