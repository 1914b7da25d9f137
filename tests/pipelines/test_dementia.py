"""Dementia from speech from end to end: a study of a tiny synthetic cohort, its weights run on patient folders, refusals."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from transformers import BertTokenizerFast

import chiasm
from chiasm.data.datasets.interviews import labelled_interviews
from chiasm.data.errors import WeightsError
from chiasm.data.phantoms.interviews import InterviewCohort, write_adress
from chiasm.encoders.image_transformer import ImageTransformer
from chiasm.encoders.text_transformer import TextTransformer
from chiasm.pipelines.cli.main import main
from chiasm.pipelines.training.speech import command, fits

RATE = 8000
OVERRIDES = {
    "base": "dementia",
    "title": "Tiny",
    "audio": {"sample_rate": RATE, "n_fft": 512, "hop_length": 128, "n_mels": 32, "size": [32, 32]},
    "components": {
        "text": {"weights": "tiny-text"},
        "audio": {"weights": "tiny-audio"},
        "classifier": {"weights": None, "parameters": {"width": 8, "hidden": 8, "mmse": True}},
    },
    "training": {"epochs": 3, "seeds": [0, 1], "batch_size": 4, "mmse_weight": 0.5, "validation_share": 0.34},
}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("cohort") / "adress"
    write_adress(root, InterviewCohort(train=12, test=6, seed=2, rate=RATE, synthesiser="formant"), workers=1)
    return root


@pytest.fixture(scope="module")
def bench(tmp_path_factory, cohort):
    """A recipe, its encoders in the store, and a finished study."""
    folder = tmp_path_factory.mktemp("bench")
    words = sorted({w for path in cohort.rglob("*.cha") for w in path.read_text().lower().split() if w.isalpha()})
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
    (folder / "vocab.txt").write_text("\n".join(vocabulary))
    torch.manual_seed(0)
    layers = {"num_hidden_layers": 1, "num_attention_heads": 2, "hidden_size": 16, "intermediate_size": 32}
    bert = {"model_type": "bert", "vocab_size": len(vocabulary), "max_position_embeddings": 256, **layers}
    TextTransformer.from_config(bert, tokeniser=BertTokenizerFast(vocab=str(folder / "vocab.txt"))).save(
        folder / "store" / "tiny-text"
    )
    deit = {"model_type": "deit", "image_size": [32, 32], "patch_size": 8, "num_channels": 3, **layers}
    ImageTransformer.from_config(deit).save(folder / "store" / "tiny-audio")
    recipe = folder / "tiny.yaml"
    recipe.write_text(yaml.safe_dump(OVERRIDES))
    patch = pytest.MonkeyPatch()
    patch.setenv("CHIASM_WEIGHTS", str(folder / "store"))
    assert study(recipe, cohort, folder / "study") == 0
    yield folder
    patch.undo()


def study(recipe: Path, data: Path, out: Path, *more: str) -> int:
    return main(["train", str(recipe), str(data), str(out), "--control-seeds", "2", "--jobs", "1", *more])


def table(path: Path) -> list[dict[str, str]]:
    with path.open() as stream:
        return list(csv.DictReader(stream, delimiter="\t"))


@pytest.fixture
def patients(tmp_path, cohort) -> Path:
    """Test persons of the cohort as loose patient folders, and a broken one."""
    root = tmp_path / "patients"
    root.mkdir()
    shutil.copy(cohort / "dataset_description.json", root)
    people = labelled_interviews(cohort).of_split("test")
    for person in people[:3]:
        (root / person.name).mkdir()
        shutil.copy(person.audio, root / person.name / "visit.wav")
        shutil.copy(person.transcript, root / person.name / "visit.cha")
    (root / people[1].name / "visit.cha").unlink()
    (root / people[2].name / "visit.wav").write_bytes(b"RIFF\x10\0\0\0WAVE")
    return root


def test_a_study_holds_the_model_its_baselines_and_its_controls(bench) -> None:
    out = bench / "study"
    results = json.loads((out / "results.json").read_text())
    assert [row["name"] for row in results["rows"]] == [
        *("model", "text alone", "audio alone", "majority", "pauses", "words", "voice", "counts"),
        *("permuted labels", "background only", "investigator only", "metadata only"),
    ]
    assert results["protocol"] == "challenge"
    assert results["data"]["phantom"]
    assert results["data"]["persons"] == {"test": {"CN": 3, "AD": 3}, "train": {"CN": 6, "AD": 6}}
    for row in results["rows"]:
        assert row["n_runs"] == 2
        assert (row["chance"] is not None) == (row["kind"] == "control")
    for row in results["rows"][1:8]:
        assert {one["metric"] for one in row["difference"]} == {"accuracy", "auc"}
    assert results["calibration"]["noise_floor"]["n"] > 0
    assert results["mmse"]["n"] == 2 * 6
    page = (out / "report.html").read_text()
    assert "permuted labels" in page
    assert "synthetic" in page


def test_the_model_is_scored_on_test_persons_only_and_every_probability_is_kept(bench, cohort) -> None:
    test = {i.name: i.label for i in labelled_interviews(cohort).of_split("test")}
    lines = [line for line in table(bench / "study" / "predictions.tsv") if line["row"] == "model"]
    assert {line["interview"] for line in lines} == set(test)
    assert len(lines) == 2 * len(test)
    results = json.loads((bench / "study" / "results.json").read_text())
    right = sum((float(line["p_AD"]) > 0.5) == (line["label"] == "AD") for line in lines)
    assert results["rows"][0]["scores"]["accuracy"]["value"] == pytest.approx(right / len(lines), abs=1e-9)


def test_a_stopped_study_goes_on_to_the_same_numbers(bench, cohort, tmp_path, monkeypatch) -> None:
    real, ran = fits.Fitter.run, []

    def counted(self, spec):
        ran.append(spec.folder)
        return real(self, spec)

    monkeypatch.setattr(fits.Fitter, "run", counted)
    run_fits = command.run_fits
    monkeypatch.setattr(command, "run_fits", lambda *a, **k: run_fits(*a, **{**k, "stopped": lambda: len(ran) >= 5}))
    recipe, out = bench / "tiny.yaml", tmp_path / "study"
    assert study(recipe, cohort, out, "--cache", str(bench / "study" / "features")) == 75
    assert not (out / "results.json").exists()
    assert len(ran) == 5
    monkeypatch.setattr(command, "run_fits", run_fits)
    assert study(recipe, cohort, out, "--cache", str(bench / "study" / "features")) == 0
    assert all(ran.count(folder) == 1 for folder in ran[:4])  # the fifth was stopped before its first epoch
    assert (out / "results.json").read_bytes() == (bench / "study" / "results.json").read_bytes()
    assert (out / "weights" / "model.safetensors").read_bytes() == (
        bench / "study" / "weights" / "model.safetensors"
    ).read_bytes()


def test_patients_get_the_probability_that_the_study_gave_them(bench, patients, tmp_path) -> None:
    out = tmp_path / "out"
    command_line = ["run", str(bench / "tiny.yaml"), str(patients), str(out), "--threads", "1"]
    assert main([*command_line, "--weights", str(bench / "study" / "weights")]) == 1
    rows = {row["participant_id"].removeprefix("sub-"): row for row in table(out / "participants.tsv")}
    config = json.loads((bench / "study" / "weights" / "config.json").read_text())
    known = {
        line["interview"]: float(line["p_AD"])
        for line in table(bench / "study" / "predictions.tsv")
        if line["row"] == "model" and int(line["seed"]) == config["training"]["seed"]
    }
    both, words_gone, broken = sorted(rows)
    assert float(rows[both]["p_AD"]) == pytest.approx(known[both], abs=2e-4)
    assert rows[words_gone]["status"] == "done"
    assert rows[broken]["code"].startswith("CHI-IN-2")
    written = sorted(p.relative_to(out / f"sub-{both}").as_posix() for p in (out / f"sub-{both}").rglob("*"))
    stem = f"sub-{both}_desc-tiny"
    assert written == [
        "beh",
        *(f"beh/{stem}_{name}" for name in ("answer.json", "sound.tsv", "words.tsv")),
        "figures",
        *(f"figures/{stem}_report_{name}.png" for name in ("deletion", "plan", "sound")),
        f"{stem}_record.json",
        f"{stem}_report.html",
    ]
    answer = json.loads((out / f"sub-{both}" / "beh" / f"{stem}_answer.json").read_text())
    assert sum(answer["probability"]) == pytest.approx(1)
    shares = answer["modality_share"]
    assert shares["text"] + shares["audio"] == pytest.approx(1, abs=1e-3)
    assert sum(answer["vector_shares"].values()) == pytest.approx(1, abs=1e-3)
    assert answer["vector_shares"]["word counts"] + answer["vector_shares"]["voice statistics"] > 0
    without = json.loads((out / f"sub-{words_gone}" / "beh" / f"sub-{words_gone}_desc-tiny_answer.json").read_text())
    assert without["missing"] == ["text"]
    assert "learned token" in (out / f"sub-{words_gone}" / f"sub-{words_gone}_desc-tiny_report.html").read_text()


def test_what_was_learnt_from_phantoms_is_refused_on_people(bench, patients, tmp_path, capsys) -> None:
    (patients / "dataset_description.json").unlink()
    weights = str(bench / "study" / "weights")
    assert main(["run", str(bench / "tiny.yaml"), str(patients), str(tmp_path / "out"), "--weights", weights]) == 126
    assert "CHI-WT-007" in capsys.readouterr().err
    assert not list((tmp_path / "out").rglob("*answer.json"))
    answerer = chiasm.load(bench / "tiny.yaml", weights=weights)
    try:
        with pytest.raises(WeightsError, match="synthetic"):
            answerer(patients / min(p.name for p in patients.iterdir()))
    finally:
        answerer.close()


def test_load_answers_for_one_folder(bench, patients) -> None:
    one = min(path for path in patients.iterdir() if path.is_dir())
    shutil.copy(patients / "dataset_description.json", one)
    answerer = chiasm.load(bench / "tiny.yaml", weights=bench / "study" / "weights")
    try:
        result = answerer(one)
    finally:
        answerer.close()
    assert sum(result.probability.values()) == pytest.approx(1)
    assert set(result.prediction_set) <= {"CN", "AD"}
    assert result.words
    assert 0 <= result.mmse <= 30


def test_a_recipe_without_a_trained_classifier_says_how_to_get_one(bench, patients, tmp_path, capsys) -> None:
    assert main(["run", str(bench / "tiny.yaml"), str(patients), str(tmp_path / "out")]) == 126
    text = capsys.readouterr().err
    assert "CHI-WT-043" in text
    assert "chiasm train" in text


def test_other_settings_than_the_classifier_was_trained_with_are_refused(bench, patients, tmp_path, capsys) -> None:
    other = dict(OVERRIDES, audio={**OVERRIDES["audio"], "hop_length": 64})
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(other))
    weights = str(bench / "study" / "weights")
    assert main(["run", str(tmp_path / "tiny.yaml"), str(patients), str(tmp_path / "out"), "--weights", weights]) == 126
    assert "CHI-WT-042" in capsys.readouterr().err


def relabelled(cohort: Path, tmp_path: Path, *, n: int = 8) -> Path:
    """The cohort as a plain folder with participants.tsv."""
    root = tmp_path / "plain"
    for person in labelled_interviews(cohort).interviews[:n]:
        (root / f"sub-{person.name}").mkdir(parents=True)
        shutil.copy(person.audio, root / f"sub-{person.name}" / "speech.wav")
        shutil.copy(person.transcript, root / f"sub-{person.name}" / "speech.cha")
    return root


@pytest.mark.parametrize(
    ("labels", "code"),
    [
        (["CN", "MCI"] * 4, "CHI-IN-246"),
        (["CN", "banana"] * 4, "CHI-IN-17"),
        (["CN"] * 8, "CHI-IN-18"),
    ],
)
def test_labels_that_cannot_be_used(bench, cohort, tmp_path, capsys, labels, code) -> None:
    root = relabelled(cohort, tmp_path)
    names = sorted(path.name for path in root.iterdir())
    lines = ["participant_id\tgroup", *(f"{name}\t{label}" for name, label in zip(names, labels, strict=True))]
    (root / "participants.tsv").write_text("\n".join(lines) + "\n")
    assert study(bench / "tiny.yaml", root, tmp_path / "out", "--folds", "2") == 3
    assert code in capsys.readouterr().err


def test_k_fold_on_a_plain_layout_names_what_was_left_out(bench, cohort, tmp_path, capsys) -> None:
    root = relabelled(cohort, tmp_path, n=16)
    names = sorted(path.name for path in root.iterdir())
    lines = [
        "participant_id\tgroup\tage\tsex",
        *(f"{n}\t{'CN' if i % 2 else 'AD'}\t70\tF" for i, n in enumerate(names)),
    ]
    (root / "participants.tsv").write_text("\n".join(lines) + "\n")
    (root / names[0] / "speech.wav").write_bytes(b"not audio at all")
    out = tmp_path / "out"
    assert study(bench / "tiny.yaml", root, out, "--folds", "2", "--seeds", "0", "--control-seeds", "0") == 0
    assert "left out" in capsys.readouterr().out
    results = json.loads((out / "results.json").read_text())
    assert results["protocol"] == "k-fold"
    assert len(results["excluded"]["participant"]) == 1
    assert results["rows"][0]["n_persons"] == 15


def test_options_of_other_tasks_are_refused(bench, cohort, tmp_path, capsys) -> None:
    assert study(bench / "tiny.yaml", cohort, tmp_path / "out", "--fold", "1", "--steps", "5") == 2
    assert "CHI-RC-124" in capsys.readouterr().err


def test_missing_packages_are_said_at_once(bench, cohort, tmp_path, capsys, monkeypatch) -> None:
    from chiasm.pipelines.stages.speech import installed

    monkeypatch.setattr(installed, "find_spec", lambda name: None if name in {"soxr", "soundfile"} else 1)
    assert study(bench / "tiny.yaml", cohort, tmp_path / "out") == 127
    text = capsys.readouterr().err
    assert "soundfile, soxr" in text
    assert not (tmp_path / "out").exists()
