"""Images from fMRI from end to end: two phantom brains are trained on, run, loaded and refused."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import chiasm
from chiasm.data.datasets.fmri import open_decoding_set
from chiasm.data.errors import ChiasmError, WeightsError
from chiasm.data.fmri.trials import by_image
from chiasm.pipelines.cli.main import main

SHOWN = 8


def table(path: Path) -> list[dict[str, str]]:
    with path.open() as stream:
        return list(csv.DictReader(stream, delimiter="\t"))


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def run(recipe: Path, data: Path, out: Path, *more: str) -> int:
    return main(["run", str(recipe), str(data), str(out), "--threads", "1", "--device", "cpu", *more])


@pytest.fixture(scope="module")
def ran(tmp_path_factory, brains, tiny, trained) -> Path:
    """What `chiasm run` wrote for both brains."""
    out = tmp_path_factory.mktemp("ran") / "out"
    assert run(tiny, brains, out, "--weights", str(trained / "weights")) == 0
    return out


def test_training_writes_these_files(trained) -> None:
    found = {path.relative_to(trained).as_posix() for path in trained.rglob("*") if path.is_file()}
    steps = 2 * 5  # 21 or so training images of a subject, 4 a step
    assert {name for name in found if not name.startswith("betas/")} - {
        name for name in found if name.startswith(("figures/", "assets/"))
    } == {
        f"fit/checkpoint-{steps:07d}.safetensors",
        "fit/checkpoint.json",
        "fit/epoch.json",
        "fit/history.jsonl",
        "report.html",
        "results.json",
        "test_images.tsv",
        *(f"weights/{name}" for name in ("README.md", "config.json")),
        *(f"weights/{name}.safetensors" for name in ("model", "prior", "scalers")),
    }
    assert len([name for name in found if name.endswith("_betas.npy")]) == 2


def test_results_hold_the_model_beside_baselines_controls_and_bounds(trained) -> None:
    results = json.loads((trained / "results.json").read_text())
    kinds = {
        "model": "model",
        "ridge": "baseline",
        "nearest training image": "baseline",
        "mean image": "baseline",
        "untrained prior": "control",
        "decoder on true tokens": "bound",
        "optimal decoder": "bound",
    }
    assert {line["name"]: line["kind"] for line in results["pooled"]["lines"]} == kinds
    assert set(results["subjects"]) == {"01", "02"}
    for subject in results["subjects"].values():
        assert subject["training_images"] + subject["validation_images"] == 24
        assert subject["test_images"] == SHOWN
        assert not subject["scaling_leaks"]
        assert 0 < subject["noise_ceiling"]["median"] < 100
        model = subject["lines"][0]
        assert model["declared"]["true image used"] == "no"
        assert [row["direction"] for row in model["retrieval"]][:1] == ["brain-to-image"]
        assert {row["pool"] for row in model["retrieval"]} == {6}
        assert model["retrieval"][0]["chance"] == pytest.approx(1 / 6)
    assert results["data"] == {**results["data"], "layout": "nsd", "phantom": True}
    assert results["settings"]["epochs"] == 2
    assert results["reconstruction"]["select"] == "brain"
    assert "DATA OUT" in results["command"]
    for line in results["pooled"]["lines"]:
        for score in line["scores"].values():
            assert set(score) == {"mean", "low", "high", "n"}
            assert score["low"] <= score["mean"] <= score["high"]
            assert score["n"] == SHOWN
    best = {line["name"]: line["scores"] for line in results["pooled"]["lines"]}
    assert best["decoder on true tokens"]["PixCorr"]["mean"] > 0.9 > best["mean image"]["PixCorr"]["mean"]


def test_the_share_of_the_optimal_decoder_is_a_ratio_of_two_lines(trained) -> None:
    pooled = json.loads((trained / "results.json").read_text())["pooled"]
    scores = {
        line["name"]: line["scores"]["retrieval"]["mean"] for line in pooled["lines"] if line["scores"].get("retrieval")
    }
    assert pooled["share_of_optimal_retrieval"] == pytest.approx(scores["model"] / scores["optimal decoder"])
    assert pooled["differences"]["ridge"]["retrieval"]["mean"] == pytest.approx(scores["model"] - scores["ridge"])


def test_weights_say_what_they_are(trained) -> None:
    config = json.loads((trained / "weights" / "config.json").read_text())
    assert config["training_data"] == "synthetic"
    assert config["kind"] == "mindeye2"
    assert set(config["n_voxels"]) == {"01", "02"}
    assert config["target"]["name"] == "small-16x64"
    assert "phantom" in (trained / "weights" / "README.md").read_text()
    assert main(["weights", "verify", str(trained / "weights")]) == 0


def test_run_writes_these_files(ran) -> None:
    for name in ("01", "02"):
        folder = ran / f"sub-{name}"
        stem = f"sub-{name}_desc-tiny"
        found = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
        found = {path for path in found if not path.startswith("figures/")}
        images = {path for path in found if path.startswith(f"func/{stem}_images/")}
        assert found - images == {
            *(f"func/{stem}_{end}" for end in ("trials.tsv", "voxels.nii.gz", "result.json")),
            f"{stem}_record.json",
            f"{stem}_report.html",
        }
        assert len(images) == SHOWN


def test_the_table_of_trials_agrees_with_itself_and_the_images(ran, brains) -> None:
    data = open_decoding_set(brains)
    stem = "sub-01_desc-tiny"
    rows = table(ran / "sub-01" / "func" / f"{stem}_trials.tsv")
    test = by_image(data.subjects[0].trials.of("test"))
    assert [int(row["image"]) for row in rows] == test.image.tolist()
    assert [row["name"] for row in rows] == [data.stimuli.names[number] for number in test.image]
    shown = {row["name"] for row in rows}
    for row in rows:
        names, cosines = row["retrieved"].split(","), [float(value) for value in row["cosine"].split(",")]
        assert len(names) == 3
        assert set(names) <= shown
        assert cosines == sorted(cosines, reverse=True)
        assert (int(row["rank"]) == 1) == (names[0] == row["name"])
        assert int(row["rank"]) <= SHOWN
        assert row["repeats"] == "3"
        assert 0 < float(row["spread"]) < 2
        assert -1 <= float(row["agreement"]) <= 1
        assert pixels(ran / "sub-01" / "func" / f"{stem}_images" / f"image-{int(row['image']):05d}.png").shape == (
            32,
            32,
            3,
        )
    result = json.loads((ran / "sub-01" / "func" / f"{stem}_result.json").read_text())
    right = np.mean([int(row["rank"]) == 1 for row in rows])
    direct = next(row for row in result["scores"]["retrieval"] if row["direction"] == "brain-to-image")
    assert direct["all"]["value"] == pytest.approx(right)
    assert result["candidates"]["true image used"] is False
    assert result["images"] == SHOWN
    assert set(result["Models"]) == {"target", "network", "decoder"} or len(result["Models"]) == 3


def test_run_gives_the_scores_that_training_gave(ran, trained) -> None:
    """The seed of a run is 0 and that of training 42, so that only what no noise enters must agree: retrieval."""
    results = json.loads((trained / "results.json").read_text())
    for name in ("01", "02"):
        result = json.loads((ran / f"sub-{name}" / "func" / f"sub-{name}_desc-tiny_result.json").read_text())
        known = {row["direction"]: row["all"]["value"] for row in results["subjects"][name]["lines"][0]["retrieval"]}
        assert {row["direction"]: row["all"]["value"] for row in result["scores"]["retrieval"]} == known
        ceiling = results["subjects"][name]["noise_ceiling"]
        assert result["scores"]["noise_ceiling"]["median"] == pytest.approx(ceiling["median"])


def test_a_second_run_skips_what_is_done(ran, brains, tiny, trained, capsys) -> None:
    before = {path: path.stat().st_mtime_ns for path in ran.rglob("*_trials.tsv")}
    assert run(tiny, brains, ran, "--weights", str(trained / "weights")) == 0
    assert "2 sessions: 0 to run, 2 finished before" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in ran.rglob("*_trials.tsv")} == before


def test_what_was_learnt_from_phantoms_is_refused_on_people(copied, tiny, trained, tmp_path, capsys) -> None:
    (copied / "dataset_description.json").unlink()
    assert run(tiny, copied, tmp_path / "out", "--weights", str(trained / "weights")) == 126
    assert "CHI-WT-007" in capsys.readouterr().err
    assert not list((tmp_path / "out").rglob("*.png"))
    reader = chiasm.load(tiny, weights=trained / "weights")
    with pytest.raises(WeightsError, match="synthetic"):
        reader(copied, subject="01")
    with pytest.raises(WeightsError, match="synthetic"):
        reader(np.zeros((1, 10), np.float32), subject="01")
    assert main(["train", str(tiny), str(copied), str(tmp_path / "more"), "--from", str(trained / "weights")]) == 126


def test_load_decodes_a_folder_and_an_array_alike(brains, tiny, trained, ran) -> None:
    reader = chiasm.load(tiny, weights=trained / "weights")
    one = reader(brains, subject="02")
    files = ran / "sub-02" / "func" / "sub-02_desc-tiny_images"
    for number, image in zip(one.image, one.reconstruction, strict=True):
        stored = pixels(files / f"image-{int(number):05d}.png").astype(int)
        assert np.abs(stored - image).max() <= 1  # another number of threads
    rows = table(ran / "sub-02" / "func" / "sub-02_desc-tiny_trials.tsv")
    assert [int(row["rank"]) == 1 for row in rows] == (one.retrieved[:, 0] == one.image).tolist()
    assert one.scores["brain-to-image"] >= 0
    subject = open_decoding_set(brains, subjects=("02",)).subjects[0]
    test = by_image(subject.trials.of("test"))
    scaler = reader._components["trained"].scalers["02"]
    # Rows of an array are images: the mean of an image's scaled repeats is what the folder's way gave to the network.
    mean = sum(scaler.apply(subject.betas.read(test.rows[:, i]), test.session[:, i]) for i in range(3)) / 3
    raw = mean * scaler.session_sd[0] + scaler.session_mean[0]
    reader._components["trained"].scalers["02"] = scaler.__class__.from_state(
        {**scaler.state(), "sessions": np.array([0])}
    )
    again = reader(raw, subject="02", synthetic=True)
    assert np.abs(again.projected - one.projected).max() < 1e-3
    assert again.image.tolist() == list(range(SHOWN))
    assert again.reconstruction.shape == (SHOWN, 32, 32, 3)
    assert again.retrieved is None
    with pytest.raises(ChiasmError, match="CHI-IN-346") as caught:
        reader(raw[:, 1:], subject="02", synthetic=True)
    assert "02 (" in str(caught.value)
    with pytest.raises(ChiasmError, match="subject 'x'"):
        reader(raw, subject="x", synthetic=True)
    with pytest.raises(ChiasmError, match="one patient at a time"):
        reader(brains)


def test_a_recipe_without_a_decoder_retrieves_only(brains, without_decoder, trained, tmp_path) -> None:
    reader = chiasm.load(without_decoder, weights=trained / "weights")
    one = reader(brains, subject="01")
    assert one.reconstruction is None
    assert one.retrieved.shape == (SHOWN, 3)
    assert set(one.scores) == {"brain-to-image", "image-to-brain", "brain-to-image top-5", "image-to-brain top-5"}


def test_without_weights_it_says_how_to_get_them(brains, tiny, tmp_path, capsys) -> None:
    assert run(tiny, brains, tmp_path / "out") == 126
    text = capsys.readouterr().err
    assert "CHI-WT-090" in text
    assert "chiasm train tiny" in text


def test_results_inside_the_input_do_not_change_what_the_input_is(copied, without_decoder, trained, capsys) -> None:
    out, weights = copied / "derivatives" / "chiasm", str(trained / "weights")
    assert run(without_decoder, copied, out, "--weights", weights, "--participant-label", "01") == 0
    capsys.readouterr()
    assert run(without_decoder, copied, out, "--weights", weights, "--participant-label", "01") == 0
    assert "1 finished before" in capsys.readouterr().out
    shutil.rmtree(copied / "nsddata_stimuli")  # that does
    assert run(without_decoder, copied, out, "--weights", weights, "--participant-label", "01") == 2
    assert "CHI-RC-020" in capsys.readouterr().err
