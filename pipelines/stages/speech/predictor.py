"""The trained classifier with its encoders, as `chiasm run` and `chiasm.load` use it: features in, calibrated answer and reasons out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor

from ....data.errors import InputError, WeightsError
from ....encoders.image_transformer import ImageTransformer
from ....encoders.whisper_encoder import WhisperEncoder
from ....heads.relevance import class_score
from ....heads.two_stream import TwoStreamClassifier, TwoStreamConfig, TwoStreamOutput
from ....heads.two_stream_relevance import TwoStreamRelevance
from ...engine.components import configure
from ...engine.tensors import mismatches
from ...engine.weights import WeightsFolder, check_synthetic, find_all
from ...evaluation.temperature import shift_prevalence, softmax
from ...speech_recipe import SpeechRecipe
from ...training.speech.batches import Batch, Sample, collate
from ...training.speech.network import SpeechNetwork
from .components import load_encoders, load_listening
from .explain import Explanation, deletion_of, mel_shares, relevance_of, vector_shares, words_of
from .features import Encoders, SpeechFeatures, encode_pictures, picture_maker
from .hearing import Listener
from .installed import check_installed
from .statistics import statistics_of

CODES: dict[str, str] = {
    "CHI-WT-041": "The classifier was trained on tokens of other encoders than the recipe names.",
    "CHI-WT-042": "The classifier was trained with other audio or transcript settings, or other classes, than the recipe has.",
    "CHI-WT-043": "A dementia recipe names no trained classifier.",
}


@dataclass(frozen=True, eq=False, kw_only=True)
class Answer:
    """What the classifier says about one interview.

    Parameters
    ----------
    classes : tuple of str
    probability : tuple of float
        Calibrated, and shifted to the recipe's prevalence where it names one.
    prediction_set : tuple of str
        Classes that cannot be ruled out at the error rate; one: certain.
    logits : tuple of float
    mmse : float, optional
    severity : tuple of float
        Probabilities of the severity classes, the severest first; empty where the model has none.
    vector_weights : dict of str to float
        Shares of the fused vectors, where the fusion has them.
    explanation : Explanation, optional
    missing : tuple of str
        Modalities that were a learned token.
    """

    classes: tuple[str, ...]
    probability: tuple[float, ...]
    prediction_set: tuple[str, ...]
    logits: tuple[float, ...]
    mmse: float | None
    severity: tuple[float, ...]
    vector_weights: Mapping[str, float]
    explanation: Explanation | None
    missing: tuple[str, ...] = ()


class SpeechPredictor:
    """A trained classifier and its encoders.

    Parameters
    ----------
    recipe : SpeechRecipe
    folder : WeightsFolder
        What `chiasm train` wrote.
    encoders : Encoders
        With eager attention.
    device : str

    Raises
    ------
    WeightsError
        ``CHI-WT-005``, ``CHI-WT-041``, ``CHI-WT-042``.
    """

    def __init__(self, recipe: SpeechRecipe, folder: WeightsFolder, encoders: Encoders, device: str = "cpu") -> None:
        check_settings(recipe, folder, encoders)
        self.recipe, self.folder, self.device = recipe, folder, device
        config = configure(TwoStreamConfig, folder.config["parameters"], "two-stream")
        trained = bool(folder.config.get("encoders_trained"))
        network = SpeechNetwork(TwoStreamClassifier(config), encoders if trained else None, tokens=recipe.audio.tokens)
        tensors = load_file(folder.files["model"])
        wrong = mismatches(network.state_dict(), tensors)
        if wrong:
            raise WeightsError(
                "CHI-WT-005",
                f"the classifier's tensors do not fit: {'; '.join(wrong[:3])}.",
                "Train again, or take the folder that belongs to the recipe.",
                file=folder.name,
            )
        network.load_state_dict({key: value.float() for key, value in tensors.items()})
        self.network = network.eval().requires_grad_(False).to(device)
        if trained and network.text_encoder is not None and network.audio_encoder is not None:
            encoders = Encoders(text=network.text_encoder, audio=network.audio_encoder, hashes=encoders.hashes)
        self.encoders = encoders.to(device)
        # Attention maps hang on the graph only where something below them wants a gradient.
        self.encoders.text.requires_grad_(True)
        self.temperature = float(folder.config["temperature"])
        self.config = config

    def answer(self, features: SpeechFeatures, pixels: Tensor | None, *, explain: bool = True) -> Answer:
        """Classify one interview and say why.

        Parameters
        ----------
        features : SpeechFeatures
            Of frozen encoders.
        pixels : Tensor, shape (K, 3, H, W), optional
            Its pictures, for the Mel bands of the map.
        explain : bool

        Raises
        ------
        InputError
            ``CHI-IN-241``: a modality is missing and the model was trained without modality dropout.
        """
        missing = self._missing(features)
        with torch.enable_grad():
            batch, attention = self._batch(features)
            audio = batch.audio.requires_grad_(True)
            for values in (batch.text_statistics, batch.audio_statistics):
                values.requires_grad_(True)  # else their vectors are off the graph, and get no share of the score
            classifier = self.network.classifier
            streams = self.config.streams
            output = classifier(
                batch.text if streams != "audio" else None,
                batch.text_mask,
                audio if streams != "text" else None,
                batch.audio_mask,
                statistics=(batch.text_statistics, batch.audio_statistics),
                keep_attention=explain,
            )
            explanation = self._explain(output, batch, features, attention, pixels, audio) if explain else None
        logits = output.logits[0].detach().cpu().double().numpy()
        probability = self._probability(logits)
        sets = self.folder.config["prediction_sets"]
        limits = zip(self.recipe.classes, self._calibrated(logits), sets["thresholds"], strict=True)
        kept = [name for name, p, limit in limits if 1 - p <= limit]
        shares = output.vector_weights
        return Answer(
            classes=self.recipe.classes,
            probability=tuple(float(p) for p in probability),
            prediction_set=tuple(kept),
            logits=tuple(float(value) for value in logits),
            mmse=float(output.mmse[0].detach()) if output.mmse is not None else None,
            severity=() if output.severity is None else tuple(output.severity[0].detach().softmax(-1).tolist()),
            vector_weights={} if shares is None else dict(zip(output.names, shares[0].detach().tolist(), strict=True)),
            explanation=explanation,
            missing=missing,
        )

    def _missing(self, features: SpeechFeatures) -> tuple[str, ...]:
        wanted = {"text": ("text",), "audio": ("audio",)}.get(self.config.streams, ("text", "audio"))
        there = {"text": features.has_text, "audio": features.has_audio}
        missing = tuple(name for name in wanted if not there[name])
        if missing and (self.config.modality_dropout == 0 or len(missing) == len(wanted)):
            what = {"text": "transcript", "audio": "recording"}[missing[0]]
            raise InputError(
                "CHI-IN-241",
                f"there is no {what}, and the model was trained with both modalities always there.",
                "Add it, ask for speech recognition (transcript.recognition: faster-whisper), or train with modality_dropout.",
            )
        return missing

    def _batch(self, features: SpeechFeatures) -> tuple[Batch, tuple[Tensor, ...]]:
        """Return the padded case; text tokens are encoded again so that their attention is on the graph."""
        sample = Sample(
            name="",
            person="",
            label=0,
            mmse=float("nan"),
            features=features,
            statistics=statistics_of(features),
        )
        batch = collate([sample]).to(self.device)
        if features.ids is None or self.config.streams == "audio":
            width = self.config.text_width
            empty = torch.zeros(1, 1, width, device=self.device)
            return _with(batch, text=empty, text_mask=torch.zeros(1, 1, dtype=torch.bool, device=self.device)), ()
        ids, mask = self.encoders.text.collate([_token_ids(features)])
        output = self.encoders.text(ids.to(self.device), mask.to(self.device), keep_attention=True)
        batch = _with(batch, text=output.tokens.float(), text_mask=mask.to(self.device))
        if features.audio_tokens is None:
            width = self.config.audio_width
            audio = torch.zeros(1, 1, width, device=self.device)
            batch = _with(batch, audio=audio, audio_mask=torch.zeros(1, 1, dtype=torch.bool, device=self.device))
        return batch, output.attentions or ()

    def _explain(
        self,
        output: TwoStreamOutput,
        batch: Batch,
        features: SpeechFeatures,
        attention: tuple[Tensor, ...],
        pixels: Tensor | None,
        audio: Tensor,
    ) -> Explanation:
        target = int(output.logits[0].argmax())
        name = self.recipe.classes[target]
        found = relevance_of(output, target, name=name, text_encoder=attention)
        patches, encoder = None, self.encoders.audio
        if (
            isinstance(encoder, ImageTransformer)  # Whisper's tokens have no Mel rows to share among
            and self.recipe.audio.tokens == "time"
            and pixels is not None
            and features.audio_tokens is not None
        ):
            score = class_score(output.logits, target).sum()
            (slope,) = torch.autograd.grad(score, audio, retain_graph=True, allow_unused=True)
            if slope is not None:
                patches = mel_shares(_patches(encoder, pixels), slope[0, : len(features.audio_tokens)].detach().cpu())
        plan = None if output.plan is None else output.plan[0].detach().cpu().double().numpy()
        return Explanation(
            target=name,
            words=words_of(found, features),
            audio=np.asarray(found.audio.detach().cpu().double().numpy()),
            patches=patches,
            shares=(float(found.modality_share[0]), float(found.modality_share[1])),
            method=found.method,
            vectors=vector_shares(output, target),
            plan=plan,
            deletion=self._deletion(found, batch, features, target),
        )

    def _deletion(
        self, found: TwoStreamRelevance, batch: Batch, features: SpeechFeatures, target: int
    ) -> tuple[NDArray[np.float64], ...] | None:
        n_text, n_audio = len(found.text), len(found.audio)
        valid = torch.zeros(n_text + n_audio, dtype=torch.bool)
        if features.word_index is not None and n_text:
            valid[:n_text] = features.word_index >= 0
        if features.has_audio and n_audio:
            valid[n_text:] = True

        @torch.no_grad()
        def score(masks: Tensor) -> Tensor:
            n = len(masks)
            text_mask = batch.text_mask[:, :n_text].expand(n, -1) & masks[:, :n_text].to(self.device)
            audio_mask = batch.audio_mask[:, :n_audio].expand(n, -1) & masks[:, n_text:].to(self.device)
            streams = self.config.streams
            logits = self.network.classifier(
                batch.text.expand(n, -1, -1) if streams != "audio" else None,
                text_mask if n_text else batch.text_mask.expand(n, -1),
                batch.audio.expand(n, -1, -1) if streams != "text" else None,
                audio_mask if n_audio else batch.audio_mask.expand(n, -1),
                statistics=(batch.text_statistics.expand(n, -1), batch.audio_statistics.expand(n, -1)),
            ).logits
            probability: Tensor = (logits / self.temperature).softmax(-1)
            return probability[:, target]

        if self.config.streams == "both" and not self.config.modality_dropout:
            # A stream must not run dry: special tokens keep the text alive, a last token the sound.
            valid[-1:] = False
        return deletion_of(score, found, valid)

    def _calibrated(self, logits: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(softmax(logits[None] / self.temperature)[0])

    def _probability(self, logits: NDArray[np.float64]) -> NDArray[np.float64]:
        prevalence = self.recipe.answer.prevalence
        scaled = logits[None] / self.temperature
        if prevalence is None:
            return np.asarray(softmax(scaled)[0])
        trained = list(self.folder.config["trained_share"])
        others = sum(trained[:-1])
        deployed = [(1 - prevalence) * share / others for share in trained[:-1]] + [prevalence]
        return np.asarray(softmax(shift_prevalence(scaled, trained=trained, deployed=deployed))[0])


def _patches(encoder: ImageTransformer, pixels: Tensor) -> Tensor:
    """Return the patch tokens of every picture, (K, rows, cols, d)."""
    rows, cols = encoder.grid
    flat: Tensor = encode_pictures(encoder, pixels, "patches")
    return flat.reshape(len(pixels), rows, cols, flat.shape[-1])


def _with(batch: Batch, **changed: Any) -> Batch:
    return Batch(**{**vars(batch), **changed})


def _token_ids(features: SpeechFeatures) -> Any:
    from ....encoders.text_transformer import TokenIds

    if features.ids is None or features.word_index is None:
        raise ValueError("features without text")
    return TokenIds(features.ids, features.word_index, features.n_truncated)


def check_settings(recipe: SpeechRecipe, folder: WeightsFolder, encoders: Encoders) -> None:
    """Compare what a classifier was trained with and what the recipe would give it.

    Raises
    ------
    WeightsError
        ``CHI-WT-041``, ``CHI-WT-042``: a difference would change the answer without any other sign.
    """
    config = folder.config
    # A classifier that brings its encoders does not care what they began with; it never brings Whisper, which is not trained here.
    brought = {"text", "audio"} if config.get("encoders_trained") else set()
    brought -= {"audio"} if isinstance(encoders.audio, WhisperEncoder) else set()
    remedy = "Use the recipe that it was trained with, or train again."
    other = [
        name
        for name, trained in config.get("encoders", {}).items()
        if name not in brought and trained.get("sha256") != encoders.hashes.get(name)
    ]
    if other:
        raise WeightsError(
            "CHI-WT-041",
            f"the classifier was trained on tokens of another {' and another '.join(other)} encoder.",
            remedy,
            file=folder.name,
        )
    now = json.loads(recipe.model_dump_json(include={"audio", "transcript", "classes"}))
    pairs = {
        "audio": (config.get("audio"), now["audio"]),
        "transcript": (_lasting(config.get("transcript")), _lasting(now["transcript"])),
        "classes": (config.get("output"), now["classes"]),
    }
    differing = [name for name, (trained, wanted) in pairs.items() if trained != wanted]
    if differing:
        raise WeightsError(
            "CHI-WT-042",
            f"the classifier was trained with other settings: {', '.join(differing)}.",
            remedy,
            file=folder.name,
        )


def _lasting(transcript: Any) -> Any:
    """Return the transcript settings that training fixes: who writes a missing transcript is a matter of the day."""
    gone = ("recognition", "recognition_weights", "language")
    return {k: v for k, v in transcript.items() if k not in gone} if isinstance(transcript, dict) else transcript


def load_speech_components(recipe: Any, device: Any, *, input_is_phantom: bool) -> dict[str, object]:
    """Load what the stages of ``chiasm run`` need: listener, encoders with their picture maker, predictor.

    Raises
    ------
    WeightsError, SeveralErrors
        Missing weights (all at once), synthetic ones for a real person (``CHI-WT-007``), unfit ones.
    """
    check_installed()
    spec = recipe.components["classifier"]
    if not spec.weight_names:
        raise WeightsError(
            "CHI-WT-043",
            f"recipe '{recipe.name}' names no trained classifier.",
            f"Train one, `chiasm train {recipe.name} DATA OUT`, and run with --weights OUT/weights.",
        )
    folders = find_all(name for one in recipe.components.values() for name in one.weight_names)
    folder = folders[spec.weight_names[0]]
    check_synthetic(folder.config, recipe.pipeline, input_is_phantom)
    encoders = load_encoders(recipe, attention="eager", device=device)
    listening = load_listening(recipe)
    return {
        "listener": Listener(recipe, listening.detector, listening.recogniser),
        "pictures": picture_maker(recipe.audio),
        "encoders": encoders,
        "predictor": SpeechPredictor(recipe, folder, encoders, str(device)),
    }
