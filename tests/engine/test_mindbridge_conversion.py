"""Published checkpoints of MindBridge, made small from the golden states, through conversion, to the golden numbers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from chiasm.data.errors import SeveralErrors, WeightsError
from chiasm.encoders.mindbridge import MindBridgeConfig, MindBridgeNetwork
from chiasm.pipelines.cli.main import main
from chiasm.pipelines.engine.brain_weights import load_brain
from chiasm.pipelines.engine.conversion.brain import brain_parts
from chiasm.pipelines.engine.weights import open_folder

GOLDEN = Path(__file__).parents[1] / "golden" / "mindbridge"


def _golden(name: str, part: str) -> dict[str, Tensor]:
    tensors = load_file(GOLDEN / f"{name}.safetensors")
    return {key.removeprefix(part): value for key, value in tensors.items() if key.startswith(part)}


def _converted(state: dict[str, Tensor], **given: object) -> tuple[dict[str, Tensor], dict[str, object]]:
    converted = brain_parts(state, "mindbridge", given, name="last.pth", notes=[])
    return converted.parts["model"], converted.config


def test_a_checkpoint_becomes_a_folder_that_gives_the_golden_numbers(tmp_path: Path) -> None:
    state = {f"module.{key}": value for key, value in _golden("mindbridge", "state/").items()}
    torch.save({"epoch": 599, "model_state_dict": state}, tmp_path / "last.pth")
    out = tmp_path / "weights" / "bridge"
    command = ["weights", "convert", "mindbridge", str(tmp_path / "last.pth"), str(out)]
    assert main(command) == 0
    network, prior = load_brain(open_folder(out))
    assert prior is None
    config = json.loads((out / "config.json").read_text())
    assert config["n_voxels"] == {"subj01": 84, "subj05": 84}
    assert config["target"] == {"name": "clip-vit-l14-vd"}
    given, expected = _golden("mindbridge", "input/"), _golden("mindbridge", "output/")
    with torch.no_grad():
        parts = zip(network.subjects, given["voxels"].chunk(2), strict=True)
        tokens = torch.cat([network(voxels, label).tokens for label, voxels in parts])
    torch.testing.assert_close(tokens.flatten(1), expected["image"], atol=1e-5, rtol=1e-5)


def test_subjects_of_published_size_have_their_own_number_of_voxels() -> None:
    config = MindBridgeConfig(hidden=4, n_blocks=1, bottleneck=2, tokens=2, width=768, text_tokens=1)
    state = MindBridgeNetwork(config, {"7": 12682, "1": 15724, "12": 9000}).state_dict()
    parts, found = _converted(state)
    assert found["n_voxels"] == {"subj01": 15724, "subj07": 12682, "subj12": 8192}
    sizes = {"in_dim": 8192, "hidden": 4, "n_blocks": 1, "bottleneck": 2, "tokens": 2, "width": 768}
    assert found["parameters"] == {**sizes, "builders": True, "text_tokens": 1, "text_width": 768}
    assert torch.equal(parts["embedder.subj07.1.weight"], state["embedder.7.1.weight"])


def test_labels_may_be_given_and_a_file_without_builders_is_for_inference() -> None:
    state = _golden("mind_single", "state/")
    parts, found = _converted(state, subjects=["alice"], width=16, text_width=20)
    assert found["n_voxels"] == {"alice": 110}
    parameters = found["parameters"]
    assert (parameters["builders"], parameters["tokens"], parameters["text_tokens"]) == (False, 7, 4)
    assert all(key.startswith("embedder.alice.") for key in parts if key.startswith("embedder"))
    with pytest.raises(WeightsError) as error:
        _converted(state, subjects=["alice", "bob"])
    assert error.value.code == "CHI-WT-055"


@pytest.mark.parametrize(
    ("dropped", "code"),
    [("embedder.1.0.down_proj.weight", "CHI-WT-052"), ("builder.5.1.bias", "CHI-WT-005"), ("", "CHI-WT-054")],
)
def test_a_checkpoint_that_is_not_whole_is_refused(dropped: str, code: str) -> None:
    state = {key: value for key, value in _golden("mindbridge", "state/").items() if not key.startswith(dropped)}
    with pytest.raises((WeightsError, SeveralErrors)) as error:
        _converted(state)
    assert error.value.code == code
