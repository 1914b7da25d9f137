"""`chiasm train` on betas: stopped and resumed, parts of the data, new subjects, and every small recipe."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

import chiasm
from chiasm.pipelines.cli.main import main
from chiasm.pipelines.recipes import load_recipe
from chiasm.pipelines.training.fmri import fit as fit_module
from chiasm.pipelines.training.fmri.prepare import prepare
from chiasm.pipelines.training.fmri.settings import FmriTraining

SIZES = {
    "mindbridge": "{hidden: 16, n_blocks: 1, projector_hidden: null, in_dim: 32, bottleneck: 8}",
    "mindeye": "{hidden: 16, n_blocks: 1, projector_hidden: 8}",
    "ridge": "{hidden: null, n_blocks: null, projector_hidden: null}",
}
PRIOR = "{parameters: {depth: 1, heads: 2, dim_head: 8, timesteps: 10}}"


def variant(kind: str) -> str:
    """The shipped variants, in the smallest sizes and without a decoder (a variant of a variant is not allowed)."""
    samples = 2 if kind == "mindeye" else 1
    return f"""
base: fmri-images
low_level: null
components:
  decoder: null
  latents: null
  network: {{kind: {kind}, parameters: {SIZES[kind]}}}
  prior: {PRIOR if kind == "mindeye" else "null"}
reconstruction: {{samples: {samples}, steps: 2, select: {"brain" if kind == "mindeye" else "none"}}}
retrieval: {{pool: 6, draws: 3}}
training: {{epochs: 2, batch_size: 8, validation_share: 0.1}}
"""


@pytest.fixture(scope="module")
def recipes(tmp_path_factory, without_decoder) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("recipes")
    found = {"mindeye2": without_decoder}
    for name in SIZES:
        found[name] = folder / f"{name}.yaml"
        found[name].write_text(variant(name))
    return found


def train(recipe: Path, data: Path | str, out: Path, *more: str) -> int:
    return main(["train", str(recipe), str(data), str(out), "--device", "cpu", "--no-baselines", *more])


def tensors(out: Path, part: str = "model") -> dict[str, np.ndarray]:
    return load_file(out / "weights" / f"{part}.safetensors")


def same_weights(first: Path, second: Path) -> bool:
    names = sorted(path.name for path in (first / "weights").glob("*.safetensors"))
    assert names
    return all((first / "weights" / n).read_bytes() == (second / "weights" / n).read_bytes() for n in names)


def stop_after(monkeypatch, steps: int) -> None:
    """Send the process the signal of a cluster that wants its machine back, in the middle of an epoch."""
    step, done = fit_module._step, []

    def counted(*arguments, **options):
        done.append(1)
        if len(done) == steps:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(*arguments, **options)

    monkeypatch.setattr(fit_module, "_step", counted)


@pytest.fixture(scope="module")
def bridged(tmp_path_factory, recipes, plain_brains) -> Path:
    """A MindBridge model of subject 01 that was adapted to 02."""
    out = tmp_path_factory.mktemp("bridged") / "out"
    assert train(recipes["mindbridge"], plain_brains, out, "--new-subject", "2", "--length", "8") == 0
    return out


@pytest.fixture(scope="module")
def first(tmp_path_factory, recipes, plain_brains) -> dict[str, Path]:
    """Models of subject 01 alone."""
    found = {}
    for kind in ("mindeye2", "mindbridge"):
        found[kind] = tmp_path_factory.mktemp("first") / kind
        assert train(recipes[kind], plain_brains, found[kind], "--subjects", "sub-01") == 0
    return found


def test_a_stopped_training_goes_on_to_the_same_bytes(
    first, recipes, plain_brains, tmp_path, monkeypatch, capsys
) -> None:
    out = tmp_path / "out"
    stop_after(monkeypatch, 3)
    assert train(recipes["mindeye2"], plain_brains, out, "--subjects", "1") == 75
    assert "the same command goes on" in capsys.readouterr().out
    assert not (out / "weights").exists()
    assert not (out / "results.json").exists()
    monkeypatch.undo()
    assert train(recipes["mindeye2"], plain_brains, out, "--subjects", "1") == 0
    assert same_weights(out, first["mindeye2"])
    texts = [(folder / "fit" / "history.jsonl").read_text() for folder in (out, first["mindeye2"])]
    assert texts[0] == texts[1]
    subjects = [json.loads((folder / "results.json").read_text())["subjects"] for folder in (out, first["mindeye2"])]
    assert subjects[0] == subjects[1]


def test_a_stop_while_adapting_goes_on_to_the_same_bytes(bridged, recipes, plain_brains, tmp_path, monkeypatch) -> None:
    out = tmp_path / "out"
    steps = json.loads((bridged / "fit" / "checkpoint.json").read_text())["step"]
    stop_after(monkeypatch, steps + 2)
    options = ("--new-subject", "2", "--length", "8")
    assert train(recipes["mindbridge"], plain_brains, out, *options) == 75
    assert (out / "adapt" / "checkpoint.json").is_file()
    monkeypatch.undo()
    assert train(recipes["mindbridge"], plain_brains, out, *options) == 0
    assert same_weights(out, bridged)


def test_a_checkpoint_of_other_data_is_refused(first, recipes, cohort, tmp_path, capsys) -> None:
    """Same trials, same voxels, other betas."""
    betas = np.load(cohort / "sub-01" / "betas.npy")
    np.save(cohort / "sub-01" / "betas.npy", betas * 2)
    assert train(recipes["mindeye2"], cohort, first["mindeye2"], "--subjects", "1") == 3
    text = capsys.readouterr().err
    assert "CHI-IN-130" in text
    assert "--restart" in text


def test_only_the_subjects_asked_for(first) -> None:
    results = json.loads((first["mindeye2"] / "results.json").read_text())
    assert set(results["subjects"]) == {"01"}
    assert results["command"].endswith("--subjects sub-01")
    assert set(json.loads((first["mindeye2"] / "weights" / "config.json").read_text())["n_voxels"]) == {"01"}
    assert [line["name"] for line in results["pooled"]["lines"]] == ["model"]


def test_an_adapted_model_knows_both_and_has_both_statistics(bridged) -> None:
    config = json.loads((bridged / "weights" / "config.json").read_text())
    assert set(config["n_voxels"]) == {"01", "02"}
    assert {name.split("/")[0] for name in tensors(bridged, "scalers")} == {"01", "02"}
    results = json.loads((bridged / "results.json").read_text())
    assert set(results["subjects"]) == {"02"}
    assert results["subjects"]["02"]["training_images"] + results["subjects"]["02"]["validation_images"] == 8


def test_both_subjects_of_an_adapted_model_can_be_run(bridged, recipes, plain_brains) -> None:
    reader = chiasm.load(recipes["mindbridge"], weights=bridged / "weights")
    for name in ("01", "02"):
        assert reader(plain_brains, subject=name).image.size == 8


@pytest.mark.parametrize("kind", ["mindbridge", "mindeye2"])
def test_what_adapting_changes(first, recipes, plain_brains, tmp_path, kind) -> None:
    """Reset-tuning (MindBridge) leaves all that is not the newcomer's own; fine-tuning (MindEye2) trains what is shared."""
    weights = str(first[kind] / "weights")
    assert train(recipes[kind], plain_brains, tmp_path / "out", "--from", weights, "--new-subject", "02") == 0
    before, after = tensors(first[kind]), tensors(tmp_path / "out")
    assert set(before) < set(after)
    changed = [name for name, values in before.items() if not np.array_equal(values, after[name])]
    if kind == "mindbridge":
        assert changed == []
    else:
        assert len(changed) > len(before) / 2
    assert all(np.isfinite(values).all() for values in after.values())
    scalers = tensors(first[kind], "scalers")
    found = tensors(tmp_path / "out", "scalers")
    assert all(np.array_equal(values, found[name]) for name, values in scalers.items())


def test_weights_that_do_not_know_a_subject_are_not_trained_on_it(
    first, recipes, plain_brains, tmp_path, capsys
) -> None:
    weights = str(first["mindeye2"] / "weights")
    assert train(recipes["mindeye2"], plain_brains, tmp_path / "out", "--from", weights) == 3
    text = capsys.readouterr().err
    assert "CHI-IN-348" in text
    assert "--new-subject 02" in text
    assert train(recipes["mindeye2"], plain_brains, tmp_path / "out", "--from", weights, "--subjects", "1") == 0


def test_weights_of_other_voxels_are_not_trained_on(first, recipes, cohort, tmp_path, capsys) -> None:
    path = cohort / "sub-01" / "betas.npy"
    np.save(path, np.load(path)[:, 1:].copy())
    weights = str(first["mindeye2"] / "weights")
    assert train(recipes["mindeye2"], cohort, tmp_path / "out", "--from", weights, "--subjects", "1") == 3
    assert "CHI-IN-348" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["ridge", "mindeye"])
def test_models_of_one_subject_take_no_newcomer(recipes, plain_brains, tmp_path, capsys, kind) -> None:
    assert train(recipes[kind], plain_brains, tmp_path / "out", "--new-subject", "2") == 2
    assert "CHI-RC-156" in capsys.readouterr().err


def test_mindeye_has_one_subject(recipes, plain_brains, tmp_path, capsys) -> None:
    assert train(recipes["mindeye"], plain_brains, tmp_path / "out") == 2
    assert "CHI-RC-151" in capsys.readouterr().err
    assert train(recipes["mindeye"], plain_brains, tmp_path / "out", "--subjects", "2") == 0
    reader = chiasm.load(recipes["mindeye"], weights=tmp_path / "out" / "weights")
    assert reader(plain_brains, subject="02").retrieved.shape == (8, 5)


def test_ridge_is_the_baseline_of_the_others(recipes, brains, tmp_path, trained) -> None:
    """As a recipe of its own it gives what stands as `ridge` beside a model."""
    assert train(recipes["ridge"], brains, tmp_path / "out") == 0
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    beside = json.loads((trained / "results.json").read_text())
    for name, subject in results["subjects"].items():
        assert subject["training_images"] + subject["validation_images"] == 24  # ridge learns from both
        (ridge,) = (line for line in beside["subjects"][name]["lines"] if line["name"] == "ridge")
        mine = {row["direction"]: row["all"] for row in subject["lines"][0]["retrieval"]}
        assert mine == {row["direction"]: row["all"] for row in ridge["retrieval"]}
    assert not (tmp_path / "out" / "fit").exists()
    reader = chiasm.load(recipes["ridge"], weights=tmp_path / "out" / "weights")
    found = reader(brains, subject="01")
    right = float((found.retrieved[:, 0] == found.image).mean())
    assert right == results["subjects"]["01"]["lines"][0]["retrieval"][0]["all"]["value"]


@pytest.mark.parametrize(
    ("more", "code", "status"),
    [
        (("--fold", "1"), "CHI-RC-124", 2),
        (("--hours", "-1"), "CHI-RC-150", 2),
        (("--length", "2"), "CHI-RC-150", 2),
        (("--new-subject", "2", "--length", "2"), "CHI-RC-150", 2),
        (("--subjects", "1", "--new-subject", "1"), "CHI-RC-157", 2),
        (("--new-subject", "7"), "CHI-IN-340", 3),
        (("--from", "nowhere"), "CHI-WT-001", 126),
    ],
)
def test_options_that_cannot_be_met(recipes, plain_brains, tmp_path, capsys, more, code, status) -> None:
    assert train(recipes["mindeye2"], plain_brains, tmp_path / "out", *more) == status
    assert code in capsys.readouterr().err
    assert not (tmp_path / "out" / "fit").exists()


def test_a_data_folder_is_needed(recipes, tmp_path, capsys) -> None:
    assert train(recipes["mindeye2"], "-", tmp_path / "out") == 2
    assert "CHI-RC-155" in capsys.readouterr().err


def prepared(root: Path, recipe: Path, **settings: object):
    how = FmriTraining(**{"validation_share": 0.0, **settings})
    return prepare(root, ["01"], load_recipe(recipe), how, cache=root / "cache").subjects["01"]


def test_hours_are_the_first_sessions_that_there_are(cohort, recipes) -> None:
    """Sessions 5, 6 and 7 of 32 trials: an hour keeps the training trials of session 5; test images stay."""
    path = cohort / "sub-01" / "trials.tsv"
    header, *lines = path.read_text().splitlines()
    cells = [line.split("\t") for line in lines]
    lines = ["\t".join([row, image, str(5 + int(row) // 32), side]) for row, image, _, side in cells]
    path.write_text("\n".join([header, *lines]) + "\n")
    early = {int(image) for row, image, _, side in cells if int(row) < 32 and side == "train"}
    one = prepared(cohort, recipes["mindeye2"], hours=1)
    assert set(one.train.image.tolist()) == early
    assert set(np.unique(one.train.session)) == {5}
    assert len(one.test) == 8
    assert set(np.unique(one.test.session)) == {5, 6, 7}
    assert len(prepared(cohort, recipes["mindeye2"], hours=40).train) == 24
    assert set(prepared(cohort, recipes["mindeye2"], hours=0.2).train.image.tolist()) == early


def test_length_keeps_the_images_that_were_seen_first(plain_brains, recipes) -> None:
    lines = [line.split("\t") for line in (plain_brains / "sub-01" / "trials.tsv").read_text().splitlines()[1:]]
    order = list(dict.fromkeys(int(image) for _, image, _, side in lines if side == "train"))
    one = prepared(plain_brains, recipes["mindeye2"], length=6)
    assert sorted(order[:6]) == one.train.image.tolist()
    assert one.train.n_repeats.tolist() == [3] * 6
    # So few that a validation share would take all or nothing: none is taken, and nothing fails.
    assert len(prepared(plain_brains, recipes["mindeye2"], length=5, validation_share=0.001).validation) == 0
