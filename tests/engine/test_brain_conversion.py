"""Published checkpoints of brain networks, made small from the golden states, through the command, to the golden numbers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from chiasm.data.errors import ChiasmError, SeveralErrors, WeightsError
from chiasm.heads.noise_schedule import NoiseSchedule
from chiasm.heads.prior_network import PriorNetwork, PriorNetworkConfig
from chiasm.pipelines.cli.main import main
from chiasm.pipelines.engine.brain_weights import build_brain, build_prior, load_brain
from chiasm.pipelines.engine.conversion.brain import FORMATS, brain_parts
from chiasm.pipelines.engine.conversion.mindeye_checkpoints import SUBJECT_OF_VOXELS
from chiasm.pipelines.engine.conversion.prior_checkpoints import prior_names, prior_parameters
from chiasm.pipelines.engine.manifest import load_manifest
from chiasm.pipelines.engine.tensors import write_folder
from chiasm.pipelines.engine.weights import open_folder

GOLDEN = Path(__file__).parents[1] / "golden"


class Golden:
    """One golden file."""

    def __init__(self, name: str) -> None:
        self.hyperparameters: dict[str, Any] = json.loads((GOLDEN / f"{name}.json").read_text())["hyperparameters"]
        tensors = load_file(GOLDEN / f"{name}.safetensors")
        self.state, self.input, self.output = (
            {key.removeprefix(part): value for key, value in tensors.items() if key.startswith(part)}
            for part in ("state/", "input/", "output/")
        )


def with_schedule(state: Mapping[str, Tensor], steps: int = 100) -> dict[str, Tensor]:
    """Put a golden prior network under its published names, with the tables of its schedule."""
    tables = {f"noise_scheduler.{key}": value for key, value in NoiseSchedule("cosine", steps).state_dict().items()}
    return {f"net.{key}": value for key, value in state.items()} | tables


def published(path: Path, state: Mapping[str, Tensor], *, prefix: str = "module.") -> Path:
    """Write a file as the authors' scripts do, optimiser and all."""
    state = {f"{prefix}{key}": value for key, value in state.items()}
    weight = torch.nn.Parameter(torch.ones(3, 2))
    weight.grad = torch.ones(3, 2)
    optimizer = torch.optim.AdamW([weight], lr=1e-3)
    optimizer.step()
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-3, total_steps=5)
    torch.save(
        {
            "epoch": 239,
            "model_state_dict": state,
            "optimizer_state_dict": optimizer.state_dict(),
            "lr_scheduler": schedule.state_dict(),
            "train_losses": [1.0, 0.5],
            "val_losses": [1.0],
            "lrs": [1e-3],
        },
        path,
    )
    return path


def mindeye_state() -> dict[str, Tensor]:
    network = {f"voxel2clip.{key}": value for key, value in Golden("mindeye/brain_network").state.items()}
    return network | with_schedule(Golden("mindeye/prior_network").state)


def mindeye2_state() -> dict[str, Tensor]:
    prior = with_schedule(Golden("mindeye2/prior_network").state)
    return Golden("mindeye2/brain_network").state | {f"diffusion_prior.{key}": value for key, value in prior.items()}


def close(ours: Tensor, theirs: Tensor) -> bool:
    return torch.allclose(ours, theirs, atol=2e-5, rtol=2e-5)


def check_prior(prior: torch.nn.Module, golden: Golden) -> None:
    given = golden.input
    assert close(prior.net(given["image_embed"], given["times"], given["brain_embed"]), golden.output["pred"])


@torch.no_grad()
def test_a_checkpoint_of_mindeye_becomes_a_folder_that_gives_its_numbers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    golden = Golden("mindeye/brain_network")
    source = published(tmp_path / "last.pth", mindeye_state())
    assert main(["weights", "convert", "mindeye", str(source), str(tmp_path / "out")]) == 0
    assert main(["weights", "verify", str(tmp_path / "out")]) == 0
    assert "mindeye, " in capsys.readouterr().out
    folder = open_folder(tmp_path / "out")
    assert set(folder.files) == {"model", "prior"}
    assert folder.config["n_voxels"] == {"subject1": 150}
    assert folder.config["target"]["name"] == "clip-vit-l14-vd"
    assert folder.config["prior"]["schedule"] == "cosine"
    assert folder.config["licence"].startswith("MIT")
    network, prior = load_brain(folder)
    answer = network(golden.input["voxels"], "subject1")
    assert close(answer.tokens.flatten(1), golden.output["backbone"])
    assert close(answer.projected, golden.output["projected"])
    assert prior.config.embed_scale is None
    check_prior(prior, Golden("mindeye/prior_network"))


@torch.no_grad()
def test_a_checkpoint_of_mindeye2_becomes_a_folder_that_gives_its_numbers(tmp_path: Path) -> None:
    golden = Golden("mindeye2/brain_network")
    source = published(tmp_path / "last.pth", mindeye2_state(), prefix="")
    options = ["--kind", "mindeye2", "--parameters", json.dumps({"subjects": ["b", "c", "a"]})]
    assert main(["weights", "convert", "lab", str(source), str(tmp_path / "out"), *options]) == 0
    network, prior = load_brain(open_folder(tmp_path / "out"))
    assert network.n_voxels == {"b": 90, "c": 131, "a": 74}
    answers = [network(golden.input[f"voxels_{i}"], name) for i, name in enumerate(network.subjects)]
    for field, name in (("tokens", "backbone"), ("projected", "clip"), ("latents", "blur_latent")):
        assert close(torch.cat([getattr(answer, field) for answer in answers]), golden.output[name]), name
    assert prior.config.embed_scale == 1.0
    check_prior(prior, Golden("mindeye2/prior_network"))


@torch.no_grad()
def test_the_low_level_network_is_read_with_the_names_of_old_diffusers(tmp_path: Path) -> None:
    golden = Golden("mindeye/low_level")
    assert any(".query." in name for name in golden.state)
    source = published(tmp_path / "epoch120.pth", golden.state)
    assert main(["weights", "convert", "mindeye-low-level", str(source), str(tmp_path / "out")]) == 0
    network, prior = load_brain(open_folder(tmp_path / "out"))
    assert prior is None
    assert close(network(golden.input["voxels"], "subject1").latents, golden.output["latent"])


def test_a_deepspeed_file_is_read(tmp_path: Path) -> None:
    state = Golden("mindeye2/brain_network_multi_token").state
    torch.save(
        {"module": dict(state), "buffer_names": [], "ds_version": "0.13"}, tmp_path / "mp_rank_00_model_states.pt"
    )
    source = str(tmp_path / "mp_rank_00_model_states.pt")
    assert main(["weights", "convert", "mindeye2", source, str(tmp_path / "out")]) == 0
    config = open_folder(tmp_path / "out").config
    assert config["n_voxels"] == {}
    assert (config["parameters"]["sequence"], config["prior"]) == (3, None)


def test_a_folder_as_training_writes_it_is_loaded_too(tmp_path: Path) -> None:
    parameters = {"hidden": 4, "n_blocks": 1, "tokens": 5, "width": 8}
    network = build_brain("mindeye2", parameters, {"a": 7})
    prior = build_prior({"dim": 8, "num_tokens": 5, "depth": 1, "heads": 2, "dim_head": 4, "embed_scale": 1.0})
    parts = {"model": network.state_dict(), "prior": prior.state_dict(), "scalers": {"a/mean": torch.zeros(7)}}
    recipe = {"depth": 1, "heads": 2, "dim_head": 4, "embed_scale": 1.0}
    config = {"kind": "mindeye2", "parameters": parameters, "n_voxels": {"a": 7}, "prior": recipe}
    loaded, loaded_prior = load_brain(open_folder(write_folder(tmp_path / "weights", parts, config, "# mine\n")))
    assert torch.equal(loaded.ridge.linears[0].weight, network.ridge.linears[0].weight)
    assert loaded_prior.config.embed_scale == 1.0


def test_subjects_of_nsd_are_known_by_their_voxels() -> None:
    network = build_brain("mindeye2", {"hidden": 4, "n_blocks": 1, "tokens": 2, "width": 3}, {"x": 14278, "y": 12682})
    converted = brain_parts(network.state_dict(), "mindeye2", {}, name="x", notes=[])
    assert converted.config["n_voxels"] == {"subj02": 14278, "subj07": 12682}
    assert len(set(SUBJECT_OF_VOXELS.values())) == 8


def test_words_of_wrappers_are_dropped_wherever_they_stand() -> None:
    state = {name.replace("ridge.", "module.ridge.module."): value for name, value in mindeye2_state().items()}
    assert brain_parts(state, "mindeye2", {}, name="x", notes=[]).parts["model"].keys() >= {"ridge.linears.2.bias"}


@pytest.mark.parametrize(
    "name",
    ["mindeye/prior_network", "mindeye/prior_network_token_causal", "mindeye/prior_network_all_pos_emb", "mindeye2/prior_network"],
)  # fmt: skip
def test_sizes_and_switches_of_a_prior_are_read_from_its_tensors(name: str) -> None:
    golden = Golden(name)
    # what no shape shows
    given = {key: golden.hyperparameters[key] for key in ("causal", "learned_query_mode") if "token" in name}
    found = prior_parameters(prior_names(golden.state), given, "x")
    fields = PriorNetworkConfig.__dataclass_fields__
    expected = {key: value for key, value in golden.hyperparameters.items() if key in fields}
    assert {key: found.get(key, fields[key].default) for key in expected} == expected
    PriorNetwork(PriorNetworkConfig(**found)).load_state_dict(golden.state)


@pytest.mark.parametrize(
    ("name", "schedule", "steps"), [("diffusion_prior", "cosine", 12), ("diffusion_prior_alt", "linear", 48)]
)
def test_the_schedule_is_found_by_its_tables_and_ours_is_stored(name: str, schedule: str, steps: int) -> None:
    state = dict(Golden(f"mindeye/{name}").state)
    found = prior_parameters(prior_names(state), {}, "x")
    assert (found["schedule"], found["timesteps"]) == (schedule, steps)
    state["noise_scheduler.betas"] = state["noise_scheduler.betas"] * 1.01
    with pytest.raises(WeightsError) as caught:
        prior_parameters(prior_names(state), {}, "x")
    assert caught.value.code == "CHI-WT-053"


def test_a_table_that_does_not_follow_from_the_betas_is_found() -> None:
    state = dict(Golden("mindeye/diffusion_prior").state)
    state["noise_scheduler.posterior_mean_coef1"] = state["noise_scheduler.posterior_mean_coef1"] * 1.01
    with pytest.raises(WeightsError, match="12 steps"):
        prior_parameters(prior_names(state), {}, "x")


def test_what_does_not_fit_is_listed_for_network_and_prior_at_once() -> None:
    state = mindeye_state()
    state["voxel2clip.lin1.bias"] = torch.zeros(3)
    state["net.null_image_embed"] = torch.zeros(1, 1)
    del state["voxel2clip.mlp.1.0.weight"]
    with pytest.raises(SeveralErrors) as caught:
        brain_parts(state, "mindeye", {}, name="last.pth", notes=[])
    message = str(caught.value)
    for part in ("lin1.bias has shape (3,)", "mlp.1.0.weight is missing", "net.null_image_embed has shape (1, 1)"):
        assert part in message


def test_tensors_of_neither_part_are_left_out_and_said() -> None:
    notes: list[str] = []
    brain_parts(mindeye_state() | {"clip.logit_scale": torch.ones(1)}, "mindeye", {}, name="last.pth", notes=notes)
    assert notes == ["last.pth: 1 tensors are not part of the network and were left out."]


def without(*words: str) -> dict[str, Tensor]:
    return {name: value for name, value in mindeye_state().items() if not any(word in name for word in words)}


@pytest.mark.parametrize(
    ("kind", "left_out", "given", "code", "said"),
    [
        ("mindeye2", (), {}, "CHI-WT-054", "mindeye2"),
        ("mindeye", ("lin0", "mlp"), {}, "CHI-WT-052", "lin0.0.weight, mlp.0."),
        ("mindeye", ("projector", "net.", "noise_"), {}, "CHI-WT-052", "missing: projector.0.weight."),
        ("mindeye", (), {"subjects": ["a", "b"]}, "CHI-WT-055", "2 subjects"),
        ("mindeye", (), {"hiden": 3}, "CHI-RC-061", "hidden"),
    ],
    ids=["another kind", "no first layer", "width nowhere", "subjects", "parameter"],
)
def test_what_is_wrong_is_said_with_a_code(
    kind: str, left_out: tuple[str, ...], given: dict[str, Any], code: str, said: str
) -> None:
    with pytest.raises(ChiasmError) as caught:
        brain_parts(without(*left_out), kind, given, name="last.pth", notes=[])
    assert caught.value.code == code
    assert said in str(caught.value)


def test_nothing_is_written_where_anything_is_wrong(tmp_path: Path) -> None:
    state = mindeye_state()
    state["voxel2clip.lin1.bias"] = torch.zeros(3)
    source = published(tmp_path / "last.pth", state)
    assert main(["weights", "convert", "mindeye", str(source), str(tmp_path / "out")]) == 126
    assert not (tmp_path / "out").exists()


def test_every_published_brain_network_on_the_list_has_a_form_that_is_known() -> None:
    kinds = {entry.kind for entry in load_manifest().values() if entry.kind.startswith("mind")}
    assert kinds <= set(FORMATS)
    assert {"mindeye", "mindeye-low-level", "mindeye2"} <= kinds
