"""Folders of reconstructions against what was seen: known scores, what a run declared is copied, nothing is lost in silence."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter

from chiasm.data.errors import InputError
from chiasm.pipelines.cli.main import main
from chiasm.pipelines.evaluation.images import results as module
from chiasm.pipelines.evaluation.images.feature_networks import NETWORKS, FeatureNetwork, Judges
from chiasm.pipelines.evaluation.images.reconstructions import find_reconstructions
from chiasm.pipelines.evaluation.images.results import ImageResults, score_results
from chiasm.pipelines.evaluation.images.scorecard import ImageScorer
from chiasm.pipelines.recipes import load_recipe

N, SIDE, TEST = 14, 24, range(8, 14)
RETRIEVAL = {
    "direction": "brain-to-image",
    "value": 0.9,
    "pool": 6,
    "draws": 30,
    "draws_low": 0.8,
    "draws_high": 1.0,
    "chance": 1 / 6,
    "note": "pool of 6",
}
CANDIDATES = {"samples": 4, "select": "brain", "true image used": False, "start_strength": 1.0, "blend": 0.0}


def seen() -> np.ndarray:
    fields = gaussian_filter(np.random.default_rng(0).standard_normal((N, SIDE, SIDE, 3)), (0, 3, 3, 0))
    return np.clip(128 + 45 * fields / fields.std(), 0, 255).astype(np.uint8)


def save(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def write_run(folder: Path, subject: str, images: np.ndarray, desc: str = "fmriimages") -> Path:
    """What ``chiasm run`` writes for a subject, as far as it is read."""
    stem = folder / f"sub-{subject}" / "func" / f"sub-{subject}_desc-{desc}"
    for number in TEST:
        save(Path(f"{stem}_images") / f"image-{number:05d}.png", images[number])
    rows = "".join(f"{number}\tpicture{number:02d}\n" for number in TEST)
    Path(f"{stem}_trials.tsv").write_text("image\tname\n" + rows)
    ceiling = {"median": 12.5, "repeats": 3}
    result = {
        "Recipe": "fmri-images",
        "candidates": CANDIDATES,
        "scores": {"retrieval": [RETRIEVAL], "noise_ceiling": ceiling},
    }
    Path(f"{stem}_result.json").write_text(json.dumps(result))
    return Path(f"{stem}_images")


@pytest.fixture
def references(tmp_path: Path) -> Path:
    """A plain folder of two subjects: eight training images, six test images."""
    root = tmp_path / "data"
    for number, pixels in enumerate(seen()):
        save(root / "stimuli" / f"picture{number:02d}.png", pixels)
    for subject in ("01", "02"):
        folder = root / f"sub-{subject}"
        folder.mkdir(parents=True)
        np.save(folder / "betas.npy", np.random.default_rng(1).standard_normal((N, 5), dtype=np.float32))
        rows = "".join(f"{i}\tpicture{i:02d}\t{'test' if i in TEST else 'train'}\n" for i in range(N))
        (folder / "trials.tsv").write_text("row\timage\tsplit\n" + rows)
    return root


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Subject 01 is perfect, 02 has the images' negatives."""
    write_run(tmp_path / "run", "01", seen())
    write_run(tmp_path / "run", "02", 255 - seen())
    return tmp_path / "run"


@pytest.fixture(scope="module")
def judges() -> Judges:
    """One network, small, that sees an 8 x 8 grid."""
    network = FeatureNetwork(spec=NETWORKS["efficientnet-lite0"], sha256="abc", run=coarse, device=torch.device("cpu"))
    return Judges(networks={"efficientnet-lite0": network}, missing={"swav-resnet50": "not there"})


def coarse(values: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"pooled": torch.nn.functional.adaptive_avg_pool2d(values, 8), "early": values[:, :, ::8, ::8]}


def scored(run: Path, references: Path, judges: Judges, **options: object) -> ImageResults:
    options = {"recipe": load_recipe("fmri-images"), "judges": judges, **options}
    return score_results(run, references, run.parent / "out", **options)


def summary(run: Path) -> dict:
    return json.loads((run.parent / "out" / "summary.json").read_text())


def test_identical_images_have_perfect_scores_and_negatives_the_opposite(
    run: Path, references: Path, judges: Judges
) -> None:
    found = scored(run, references, judges)
    assert found.problems == {}
    perfect, negative = (found.subjects[name].card for name in ("01", "02"))
    assert perfect["PixCorr"].value == pytest.approx(1, abs=1e-6)
    assert perfect["SSIM"].value == pytest.approx(1, abs=1e-6)
    assert perfect["efficientnet-lite0 two-way"].value == 1
    assert perfect["efficientnet-lite0 distance"].value == pytest.approx(0, abs=1e-5)
    assert negative["PixCorr"].value == pytest.approx(-1, abs=0.01)  # a few values were clipped
    mean = summary(run)["mean_over_subjects"]["PixCorr"]
    assert mean == {"value": pytest.approx((1 + negative["PixCorr"].value) / 2), "subjects": 2}


def test_the_table_has_a_row_a_metric_with_its_reason(run: Path, references: Path, judges: Judges) -> None:
    scored(run, references, judges)
    with (run.parent / "out" / "scores.tsv").open(newline="") as stream:
        rows = list(csv.DictReader(stream, delimiter="\t"))
    assert tuple(rows[0]) == module.COLUMNS
    table = {(row["subject"], row["metric"]): row for row in rows}
    swav = table["01", "SwAV"]
    assert (swav["value"], swav["published"], swav["reason"]) == ("n/a", "True", "not there")
    pixels = table["01", "PixCorr"]
    assert float(pixels["low"]) <= float(pixels["value"]) <= float(pixels["high"])
    assert float(pixels["chance"]) < 0.5
    assert pixels["n"] == "6"
    retrieval = table["02", "brain-to-image"]
    assert [retrieval[key] for key in ("value", "low", "high", "n", "reason")] == [
        "0.9",
        "0.8",
        "1.0",
        "6",
        "pool of 6",
    ]


def test_what_the_run_declared_is_copied_and_papers_are_marked(run: Path, references: Path, judges: Judges) -> None:
    scored(run, references, judges, split="37")
    written = summary(run)
    one = written["subjects"]["01"]
    assert one["candidates"] == CANDIDATES
    assert one["retrieval"] == [RETRIEVAL]
    assert one["noise_ceiling"] == {"median": 12.5, "repeats": 3}
    assert one["compared_with"] == "01"
    assert written["antialias"] is False
    published = written["published"]
    assert published["run_here"] is False
    assert {row["split"] for row in published["rows"]} == {"37"}
    methods = {row["method"]: row["scores"] for row in published["rows"]}
    assert methods["MindBridge, one model"]["CLIP"] == 0.947


def test_the_mean_training_image_stands_beside(run: Path, references: Path, judges: Judges) -> None:
    scored(run, references, judges)
    average = np.rint(seen()[:8].mean(0)).astype(np.uint8)
    by_hand = ImageScorer(seen()[8:], judges).score(np.repeat(average[None], 6, 0))
    mean = summary(run)["subjects"]["01"]["mean_image"]
    assert mean["PixCorr"] == pytest.approx(by_hand["PixCorr"].value, abs=1e-6)
    assert mean["efficientnet-lite0 two-way"] == pytest.approx(0.5)


def test_any_decoders_images_are_scored_by_the_same_protocol(tmp_path: Path, references: Path, judges: Judges) -> None:
    flat = tmp_path / "theirs"
    for number in TEST:
        save(flat / f"{number:05d}.png", seen()[number])
    save(flat / "preview.png", seen()[0])  # no number: none of them
    found = score_results(flat, references, tmp_path / "out", recipe=load_recipe("fmri-images"), judges=judges)
    assert found.subjects["folder"].card["PixCorr"].value == pytest.approx(1, abs=1e-6)
    written = summary(flat)["subjects"]["folder"]
    assert (written["candidates"], written["retrieval"], written["images"]) == (None, [], 6)


def spoil_size(folder: Path) -> None:
    save(folder / "image-00010.png", np.zeros((SIDE + 1, SIDE + 1, 3), np.uint8))


def spoil_shape(folder: Path) -> None:
    save(folder / "image-00010.png", np.zeros((SIDE, SIDE + 1, 3), np.uint8))


def spoil_bytes(folder: Path) -> None:
    path = folder / "image-00010.png"
    path.write_bytes(path.read_bytes()[:60])


def spoil_missing(folder: Path) -> None:
    (folder / "image-00010.png").unlink()


def spoil_number(folder: Path) -> None:
    (folder / "image-00010.png").rename(folder / f"image-{N:05d}.png")


def spoil_side(folder: Path) -> None:
    save(folder / "image-00003.png", seen()[3])


def spoil_name(folder: Path) -> None:
    table = next(folder.parent.glob("*_trials.tsv"))
    table.write_text(table.read_text().replace("picture10", "picture03"))


def spoil_json(folder: Path) -> None:
    next(folder.parent.glob("*_result.json")).write_text('{"a": NaN}')


def spoil_table(folder: Path) -> None:
    next(folder.parent.glob("*_trials.tsv")).write_text("image\tname\nten\tpicture10\n")


def spoil_double(folder: Path) -> None:
    save(folder / "image-010.png", seen()[10])


def spoil_all(folder: Path) -> None:
    for path in folder.glob("*.png"):
        path.unlink()


SPOILT = {
    spoil_size: "CHI-IN-315",
    spoil_shape: "CHI-IN-315",
    spoil_bytes: "CHI-IN-315",
    spoil_number: "CHI-IN-316",
    spoil_side: "CHI-IN-316",
    spoil_name: "CHI-IN-316",
    spoil_missing: "CHI-IN-317",
    spoil_json: "CHI-IN-319",
    spoil_table: "CHI-IN-319",
    spoil_double: "CHI-IN-319",
    spoil_all: "CHI-IN-314",
}


@pytest.mark.parametrize("spoil", SPOILT, ids=lambda spoil: spoil.__name__)
def test_a_spoilt_subject_is_named_and_the_other_is_scored(spoil, run: Path, references: Path, judges: Judges) -> None:
    spoil(run / "sub-01" / "func" / "sub-01_desc-fmriimages_images")
    found = scored(run, references, judges)
    assert {name: error.code for name, error in found.problems.items()} == {"01": SPOILT[spoil]}
    assert list(found.subjects) == ["02"]
    written = summary(run)
    assert written["not_scored"]["01"]["code"] == SPOILT[spoil]
    assert written["subjects_without_results"] == ["01"]
    assert f"01\tn/a\tn/a\tn/a\tn/a\tn/a\tn/a\t{SPOILT[spoil]}" in (run.parent / "out" / "scores.tsv").read_text()


def test_numbers_that_count_from_1_are_found_out(tmp_path: Path, references: Path, judges: Judges) -> None:
    flat = tmp_path / "theirs"
    for number in TEST:
        save(flat / f"{number + 1}.png", seen()[number])
    found = score_results(flat, references, tmp_path / "out", recipe=load_recipe("fmri-images"), judges=judges)
    assert found.problems["folder"].code == "CHI-IN-316"


def test_results_of_several_recipes_need_a_name(run: Path) -> None:
    write_run(run, "01", seen(), desc="other")
    found = find_reconstructions(run, label="fmriimages")
    assert next(iter(found["01"].files.values())).parent.name == "sub-01_desc-fmriimages_images"
    unclear = find_reconstructions(run, label="third")
    assert unclear["01"].code == "CHI-IN-319"
    assert list(unclear["02"].numbers) == list(TEST)  # one result only: whatever its recipe


def test_a_subject_that_the_data_set_does_not_have(run: Path, references: Path, judges: Judges) -> None:
    write_run(run, "09", seen())
    found = scored(run, references, judges)
    assert {name: error.code for name, error in found.problems.items()} == {"09": "CHI-IN-318"}


def test_a_data_set_without_stimuli_and_a_folder_without_images(run: Path, references: Path, judges: Judges) -> None:
    for path in (references / "stimuli").iterdir():
        path.unlink()
    (references / "stimuli").rmdir()
    assert {error.code for error in scored(run, references, judges).problems.values()} == {"CHI-IN-318"}
    with pytest.raises(InputError) as error:
        scored(references, references, judges)
    assert error.value.code == "CHI-IN-314"


def no_networks() -> Judges:
    return Judges(networks={}, missing={name: f"put {NETWORKS[name].weights} there" for name in NETWORKS})


def test_the_command(run: Path, references: Path, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "load_networks", no_networks)
    words = ["evaluate", str(run), str(references), str(tmp_path / "out"), "--recipe", "fmri-images"]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "01       PixCorr         1.000" in said
    assert "not computed, alexnet: put torchvision/alexnet there" in said
    assert summary(run)["missing_networks"]["swav-resnet50"] == "put facebook/swav-resnet50 there"
    spoil_missing(run / "sub-01" / "func" / "sub-01_desc-fmriimages_images")
    assert main([*words, "--split", "37", "--rule", "rows"]) == 1
    assert "01: [CHI-IN-317]" in capsys.readouterr().err
    assert (summary(run)["rule"], summary(run)["antialias"]) == ("rows", False)
    spoil_missing(run / "sub-02" / "func" / "sub-02_desc-fmriimages_images")
    assert main(words) == 3


def test_options_of_images_are_refused_for_label_maps(run: Path, references: Path, tmp_path: Path, capsys) -> None:
    words = ["evaluate", str(run), str(references), str(tmp_path / "out"), "--rule", "rows"]
    assert main(words) == 2
    assert "CHI-RC-140" in capsys.readouterr().err
