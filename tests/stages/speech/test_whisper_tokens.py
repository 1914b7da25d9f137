"""Whisper as the encoder of the sound: where its tokens lie in the recording, what they are made from, what is refused."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import torch

from chiasm.data.audio import resample
from chiasm.data.errors import RecipeError, SeveralErrors, WeightsError
from chiasm.encoders.whisper_encoder import RATE, WhisperEncoder
from chiasm.heads.two_stream import TwoStreamClassifier, TwoStreamConfig
from chiasm.pipelines.engine import weights as store
from chiasm.pipelines.engine.components import verify
from chiasm.pipelines.engine.weights import WeightsFolder
from chiasm.pipelines.recipes import load_recipe, parse_recipe
from chiasm.pipelines.speech_recipe import SpeechRecipe
from chiasm.pipelines.stages.speech.components import feature_hashes, load_encoders
from chiasm.pipelines.stages.speech.features import Encoders, extract
from chiasm.pipelines.stages.speech.hearing import Heard
from chiasm.pipelines.stages.speech.predictor import check_settings
from chiasm.pipelines.training.speech.command import StudyOptions, train_dementia
from chiasm.pipelines.training.speech.network import SpeechNetwork

TINY = {
    "model_type": "whisper", "d_model": 12, "encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 24,
    "decoder_layers": 0, "decoder_attention_heads": 2, "num_mel_bins": 80, "vocab_size": 2, "max_source_positions": 100,
    "max_target_positions": 1, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1, "decoder_start_token_id": 1,
}  # fmt: skip
TOKEN_S = 0.5
N_MELS = 32  # of the picture; Whisper has 80


@pytest.fixture
def listening(recipe: SpeechRecipe, weights: Path, monkeypatch: pytest.MonkeyPatch) -> SpeechRecipe:
    """The recipe with a Whisper of windows of two seconds."""
    monkeypatch.setenv("CHIASM_WEIGHTS", str(weights))
    if not (weights / "tiny-whisper").is_dir():
        torch.manual_seed(0)
        WhisperEncoder.from_config(TINY).save(weights / "tiny-whisper")
    audio = recipe.components["audio"].model_copy(update={"kind": "whisper-encoder", "weights": "tiny-whisper"})
    return recipe.model_copy(update={"components": {**recipe.components, "audio": audio}})


@pytest.fixture
def ears(listening: SpeechRecipe) -> Encoders:
    return load_encoders(listening, attention="eager")


@pytest.fixture
def heard(spoken, listener) -> Heard:
    return listener.hear(spoken.sources)


def test_tokens_are_those_of_the_samples_at_16_khz(heard: Heard, listening: SpeechRecipe, ears: Encoders) -> None:
    features = extract(heard, listening, ears)
    samples = torch.from_numpy(resample(heard.clip, RATE).samples)
    with torch.no_grad():
        wanted, _ = ears.audio.encode(samples, pool=25)
    assert torch.equal(features.audio_tokens, wanted)
    assert len(wanted) == -(-len(samples) // (RATE // 2))
    assert features.pixels is None
    assert not ears.audio.training
    assert not any(p.requires_grad for p in ears.audio.parameters())


def test_tokens_lie_where_the_participant_speaks(heard: Heard, spoken, listening: SpeechRecipe, ears: Encoders) -> None:
    spans = extract(heard, listening, ears).audio_spans
    assert torch.allclose(spans[:-1, 1] - spans[:-1, 0], torch.tensor(TOKEN_S), atol=1e-4)
    assert spans[:, 2:].unique(dim=0).tolist() == [[0.0, N_MELS]]
    assert 0 <= float(spans[:, 0].min()) < float(spans[:, 1].max()) <= heard.duration_s + 1e-4
    middles = spans[:, :2].mean(1).tolist()
    assert all(any(k.start_s <= t <= k.end_s for k in heard.kept) for t in middles)
    # The investigator's turns are cut out of the clip, not out of the recording's seconds.
    assert max(b - a for a, b in pairwise(middles)) > 2 * TOKEN_S


def test_what_pictures_become_does_not_matter(heard: Heard, listening: SpeechRecipe, ears: Encoders) -> None:
    other = listening.model_copy(
        update={
            "audio": listening.audio.model_copy(update={"tokens": "patches", "size": (48, 64), "image_mode": "crop"})
        }
    )
    assert torch.equal(extract(heard, other, ears).audio_tokens, extract(heard, listening, ears).audio_tokens)


def test_its_weights_are_found_hashed_and_verified(
    recipe: SpeechRecipe, listening: SpeechRecipe, ears: Encoders
) -> None:
    assert ears.hashes == feature_hashes(listening)
    assert ears.hashes["audio"] != feature_hashes(recipe)["audio"]
    assert verify(store.find("tiny-whisper")).startswith("whisper-encoder, ")


def test_whisper_is_not_trained(heard: Heard, listening: SpeechRecipe, ears: Encoders, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="frozen"):
        extract(heard, listening, ears, frozen=False)
    classifier = TwoStreamClassifier(TwoStreamConfig(text_width=16, audio_width=12, width=8, hidden=8))
    with pytest.raises(ValueError, match="frozen"):
        SpeechNetwork(classifier, ears)
    (tmp_path / "tuned.yaml").write_text(
        "base: dementia\ntitle: Tuned\ncomponents: {audio: {kind: whisper-encoder, weights: tiny-whisper}}\n"
        "training: {encoders: finetune}\n"
    )
    with pytest.raises(RecipeError, match="in windows of 30 s") as error:
        train_dementia(tmp_path / "tuned.yaml", tmp_path, tmp_path / "out", StudyOptions())
    assert error.value.code == "CHI-RC-123"


@pytest.mark.parametrize("trained", [False, True])
def test_a_classifier_of_pictures_is_refused_on_whispers_tokens(
    recipe: SpeechRecipe, listening: SpeechRecipe, ears: Encoders, trained: bool
) -> None:
    pictures = feature_hashes(recipe)
    config = {
        "encoders": {name: {"sha256": value} for name, value in pictures.items()},
        "encoders_trained": trained,
        "audio": listening.audio.model_dump(mode="json"),
        "transcript": listening.transcript.model_dump(mode="json"),
        "output": list(listening.classes),
    }
    with pytest.raises(WeightsError, match="another audio encoder") as error:
        check_settings(listening, WeightsFolder("mine", Path("mine"), config, {}, ""), ears)
    assert error.value.code == "CHI-WT-041"
    own = config | {"encoders": {name: {"sha256": value} for name, value in ears.hashes.items()}}
    check_settings(listening, WeightsFolder("mine", Path("mine"), own, {}, ""), ears)


def test_the_shipped_variant_differs_in_its_ears_only() -> None:
    whisper, base = load_recipe("dementia-whisper"), load_recipe("dementia")
    assert whisper.components["audio"].kind == "whisper-encoder"
    assert whisper.components["audio"].weight_names == ("whisper-base-hf",)
    for field in ("audio", "transcript", "classes", "training"):
        assert getattr(whisper, field) == getattr(base, field)
    assert whisper.components["classifier"].parameters == base.components["classifier"].parameters
    assert "Whisper" in whisper.methods
    assert "vision transformer" not in whisper.methods


def test_another_kind_of_ears_is_refused() -> None:
    text = "base: dementia\ntitle: x\ncomponents: {audio: {kind: text-transformer, weights: x}}\n"
    with pytest.raises(SeveralErrors, match="image-transformer or whisper-encoder"):
        parse_recipe(text, name="x")
