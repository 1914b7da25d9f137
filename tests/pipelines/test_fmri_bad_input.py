"""What is wrong with betas, trials, stimuli or weights is said by code; other subjects finish, nothing is left half-written."""

from __future__ import annotations

import csv
import errno
import json
import os
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

import chiasm
from chiasm.data.errors import ChiasmError, SeveralErrors
from chiasm.data.fmri import beta_files
from chiasm.pipelines.cli.main import main

BETAS = "nsddata_betas/ppdata/subj{}/func1pt8mm/betas_fithrf_GLMdenoise_RR/betas_session01.hdf5"


def read_rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream, delimiter="\t"))


def write_rows(path: Path, rows: list[dict[str, object]]) -> None:
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]), delimiter="\t", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


@pytest.fixture(scope="module")
def reader(without_decoder, trained):
    return chiasm.load(without_decoder, weights=trained / "weights")


def error_of(call, *arguments: object, **options: object) -> ChiasmError:
    with pytest.raises(ChiasmError) as caught:
        call(*arguments, **options)
    error = caught.value
    return error.errors[0] if isinstance(error, SeveralErrors) else error


def other_voxels(folder: Path) -> None:
    np.save(folder / "betas.npy", np.load(folder / "betas.npy")[:, :-1].copy())


def nan_betas(folder: Path) -> None:
    betas = np.load(folder / "betas.npy")
    betas[:, 7] = np.nan
    np.save(folder / "betas.npy", betas)


def truncated(folder: Path) -> None:
    data = (folder / "betas.npy").read_bytes()
    (folder / "betas.npy").write_bytes(data[: len(data) // 2])


def changed_rows(folder: Path, **changes: object) -> None:
    rows = read_rows(folder / "trials.tsv")
    write_rows(folder / "trials.tsv", [*rows[:-1], rows[-1] | changes])


def no_stimulus(folder: Path) -> None:
    changed_rows(folder, image="n/a")


def beyond_the_stimuli(folder: Path) -> None:
    """A table that counts from 1: its last number has no image."""
    rows = read_rows(folder / "trials.tsv")
    n = len(np.load(folder.parent / "stimuli.npy", mmap_mode="r"))
    rows[3]["image"] = n
    write_rows(folder / "trials.tsv", rows)


def row_beyond(folder: Path) -> None:
    changed_rows(folder, row=96)


def mixed(folder: Path) -> None:
    rows = read_rows(folder / "trials.tsv")
    subjects = ["02"] * (len(rows) - 1) + ["01"]
    write_rows(folder / "trials.tsv", [row | {"subject": name} for row, name in zip(rows, subjects, strict=True)])


@pytest.mark.parametrize(
    ("spoil", "code", "words"),
    [
        (other_voxels, "CHI-IN-346", "and the model was trained with"),
        (nan_betas, "CHI-IN-267", "1 voxel(s)"),
        (truncated, "CHI-IN-260", "its length is another"),
        (no_stimulus, "CHI-IN-272", "line 97"),
        (beyond_the_stimuli, "CHI-IN-272", "(0 to 55)"),
        (row_beyond, "CHI-IN-272", "96"),
        (mixed, "CHI-IN-272", "it belongs to subject 01, and the folder to 02"),
    ],
)
def test_what_is_wrong_with_a_subject_has_a_code(cohort, reader, spoil, code, words) -> None:
    spoil(cohort / "sub-02")
    error = error_of(reader, cohort, subject="02")
    assert error.code == code
    assert words in str(error)
    assert reader(cohort, subject="01").image.size == 8


def test_a_spoilt_cohort_finishes_without_the_spoilt(cohort, without_decoder, trained, tmp_path, capsys) -> None:
    nan_betas(cohort / "sub-02")
    shutil.copytree(cohort / "sub-01", cohort / "sub-03")
    out = tmp_path / "out"
    command = ["run", str(without_decoder), str(cohort), str(out), "--threads", "1", "--device", "cpu"]
    assert main([*command, "--weights", str(trained / "weights")]) == 1
    text = capsys.readouterr().out
    assert "1 done (0 before), 2 failed" in text
    assert "CHI-IN-267" in text
    assert "CHI-IN-345" in text
    assert "trained for 01, 02" in text
    assert sorted(path.name for path in (out / "sub-01" / "func").iterdir()) == [
        "sub-01_desc-retrieval_result.json",
        "sub-01_desc-retrieval_trials.tsv",
    ]
    for name in ("02", "03"):
        assert not (out / f"sub-{name}" / "func").exists()
        assert (out / f"sub-{name}" / f"sub-{name}_desc-retrieval_record.json").is_file()
    with (out / "participants.tsv").open() as stream:
        rows = {row["participant_id"]: row["status"] for row in csv.DictReader(stream, delimiter="\t")}
    assert rows == {"sub-01": "done", "sub-02": "failed", "sub-03": "failed"}


def half(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def test_a_corrupt_hdf5_of_one_subject_leaves_the_other(copied, reader) -> None:
    half(copied / BETAS.format("01"))
    error = error_of(reader, copied, subject="01")
    assert error.code == "CHI-IN-262"
    assert "betas_session01.hdf5" in str(error)
    assert reader(copied, subject="02").image.size == 8


def test_stimuli_that_do_not_open_are_said(copied, reader) -> None:
    half(copied / "nsddata_stimuli" / "stimuli" / "nsd" / "nsd_stimuli.hdf5")
    assert "nsd_stimuli.hdf5" in str(error_of(reader, copied, subject="01"))


def test_a_design_that_counts_from_0_is_refused(copied, reader) -> None:
    from scipy.io import loadmat, savemat

    path = copied / "nsddata" / "experiments" / "nsd" / "nsd_expdesign.mat"
    tables = {name: values for name, values in loadmat(path).items() if not name.startswith("__")}
    savemat(path, {name: values.astype(np.int64) - 1 for name, values in tables.items()})
    error = error_of(reader, copied, subject="01")
    assert error.code == "CHI-IN-264"
    assert "count from 1" in str(error)


def test_a_mask_of_other_voxels_is_refused(copied, reader) -> None:
    import nibabel

    path = copied / "nsddata" / "ppdata" / "subj01" / "func1pt8mm" / "roi" / "nsdgeneral.nii.gz"
    image = nibabel.load(path)
    values = np.asarray(image.dataobj).copy()
    values[tuple(np.argwhere(values == 1)[0])] = 0
    nibabel.save(nibabel.Nifti1Image(values, image.affine), path)
    error = error_of(reader, copied, subject="01")
    assert error.code == "CHI-IN-346"
    assert "nsdgeneral" in str(error)


def test_a_corrupt_tar_is_said(tmp_path, tiny, capsys) -> None:
    for side in ("train", "val", "test"):
        (tmp_path / "data" / side).mkdir(parents=True)
        (tmp_path / "data" / side / f"{side}_subj01_0.tar").write_bytes(b"not a tar at all" * 100)
    assert main(["train", str(tiny), str(tmp_path / "data"), str(tmp_path / "out"), "--device", "cpu"]) == 3
    assert "_subj01_0.tar" in capsys.readouterr().err
    assert not (tmp_path / "out" / "results.json").exists()


def train(recipe: Path, data: Path, out: Path, *more: str) -> int:
    return main(["train", str(recipe), str(data), str(out), "--device", "cpu", *more])


def without_split(root: Path) -> None:
    for folder in root.glob("sub-*"):
        rows = read_rows(folder / "trials.tsv")
        write_rows(folder / "trials.tsv", [{k: v for k, v in row.items() if k != "split"} for row in rows])


def on_both_sides(root: Path) -> None:
    """A test image of the first subject was trained on with the second."""
    rows = read_rows(root / "sub-02" / "trials.tsv")
    shared = {row["image"] for row in rows if row["split"] == "test"}
    one = min(shared)
    rows = [row | ({"split": "train"} if row["image"] == one else {}) for row in rows]
    write_rows(root / "sub-02" / "trials.tsv", rows)


def without_stimuli(root: Path) -> None:
    (root / "stimuli.npy").unlink()


@pytest.mark.parametrize(
    ("spoil", "code", "words"),
    [
        (without_split, "CHI-IN-341", "0 test images"),
        (on_both_sides, "CHI-IN-270", "1 stimuli are on more than one side"),
        (without_stimuli, "CHI-IN-341", "no stimuli"),
        (lambda root: nan_betas(root / "sub-01"), "CHI-IN-267", "NaN"),
    ],
)
def test_what_cannot_be_trained_on(cohort, without_decoder, tmp_path, capsys, spoil, code, words) -> None:
    spoil(cohort)
    assert train(without_decoder, cohort, tmp_path / "out") == 3
    text = capsys.readouterr().err
    assert code in text
    assert words in text
    assert not (tmp_path / "out" / "weights").exists()


def test_a_test_image_of_the_newcomer_must_not_have_been_trained_on(cohort, without_decoder, tmp_path, capsys) -> None:
    on_both_sides(cohort)  # subject 02 is trained on, 01 is new: each alone is in order
    assert train(without_decoder, cohort, tmp_path / "out", "--new-subject", "01") == 3
    assert "CHI-IN-270" in capsys.readouterr().err
    assert not (tmp_path / "out" / "fit").exists()


def test_an_unknown_subject_is_named_with_those_there_are(cohort, without_decoder, tmp_path, capsys) -> None:
    assert train(without_decoder, cohort, tmp_path / "out", "--subjects", "1", "9") == 3
    text = capsys.readouterr().err
    assert "CHI-IN-340" in text
    assert "subject 9" in text
    assert "01, 02" in text


def test_a_full_disk_while_caching_leaves_nothing(brains, without_decoder, tmp_path, monkeypatch, capsys) -> None:
    chunks = beta_files.BetaVolumes.chunks

    def full(self, inside):
        yield next(iter(chunks(self, inside)))[:1]
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(beta_files.BetaVolumes, "chunks", full)
    assert train(without_decoder, brains, tmp_path / "out") != 0
    assert "CHI-RES-010" in capsys.readouterr().err
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    monkeypatch.undo()


def test_weights_of_another_encoder_or_region_are_refused(brains, without_decoder, trained, tmp_path) -> None:
    other = Path(shutil.copytree(trained / "weights", tmp_path / "other"))
    config = json.loads((other / "config.json").read_text())
    config["target"]["sha256"] = "0" * 64
    (other / "config.json").write_text(json.dumps(config))
    error = error_of(chiasm.load, without_decoder, weights=other)
    assert error.code == "CHI-WT-091"
    assert "encoder" in str(error)
    config["roi"], config["low_level"] = "V1", None
    config["target"]["sha256"] = json.loads((trained / "weights" / "config.json").read_text())["target"]["sha256"]
    (other / "config.json").write_text(json.dumps(config))
    error = error_of(chiasm.load, without_decoder, weights=other)
    assert error.code == "CHI-WT-091"
    assert "region 'V1' there, 'nsdgeneral' in the recipe" in str(error)
    assert "low_level" in str(error)


def test_betas_that_end_early_are_said_with_their_file(copied, reader) -> None:
    path = copied / BETAS.format("02")
    with h5py.File(path, "r+") as file:
        values = file["betas"][:-3]
        del file["betas"]
        file.create_dataset("betas", data=values)
    found = reader(copied, subject="02")  # a session cut short is a session of fewer trials
    assert found.image.size <= 8
