"""Comparing folders: cases are paired by name, scored by region, and none disappears in silence."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from chiasm.data.errors import InputError
from chiasm.pipelines.cli.main import main
from chiasm.pipelines.evaluation.compare import compare, pairs
from chiasm.pipelines.recipes import load_recipe

AFFINE = np.diag([2.0, 1.0, 1.0, 1.0])


def tumour() -> np.ndarray:
    labels = np.zeros((16, 16, 16), dtype=np.uint8)
    labels[2:12, 2:12, 2:12] = 2
    labels[4:10, 4:10, 4:10] = 4
    labels[6:8, 6:8, 6:8] = 1
    return labels


def save(path: Path, labels: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(labels, affine), path)
    return path


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """A run's output and BraTS references of two cases; the first is perfect, the second has no enhancing tumour."""
    results, references = tmp_path / "run", tmp_path / "brats"
    for i in (1, 2):
        name = f"BraTS2021_0000{i}"
        save(references / name / f"{name}_seg.nii.gz", tumour())
        for contrast in ("flair", "t1ce", "t1", "t2"):
            save(references / name / f"{name}_{contrast}.nii.gz", tumour())
        labels = tumour() if i == 1 else np.where(tumour() == 4, 1, tumour())
        key = f"sub-BraTS20210000{i}"
        save(results / key / "anat" / f"{key}_desc-braintumour_dseg.nii.gz", labels.astype(np.uint8))
        save(results / key / "anat" / f"{key}_desc-brain_mask.nii.gz", (labels > 0).astype(np.uint8))
    return results, references


def test_a_run_is_paired_with_brats_cases_by_letters_and_digits(folders: tuple[Path, Path]) -> None:
    found = pairs(*folders)
    assert [pair.case for pair in found] == ["BraTS2021_00001", "BraTS2021_00002"]
    assert all(pair.result and pair.result.name.endswith("_dseg.nii.gz") for pair in found)


def test_regions_follow_the_recipe(folders: tuple[Path, Path], tmp_path: Path) -> None:
    found = compare(*folders, tmp_path / "out", recipe=load_recipe("brain-tumour"))
    dice = {(row["case"], row["region"]): row["dice"] for row in found.rows}
    assert dice["BraTS2021_00001", "ET"] == dice["BraTS2021_00001", "WT"] == 1.0
    assert dice["BraTS2021_00002", "WT"] == dice["BraTS2021_00002", "TC"] == 1.0
    assert dice["BraTS2021_00002", "ET"] == 0.0
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["regions"]["ET"]["dice"]["mean"] == 0.5
    assert summary["regions"]["ET"]["hd95_mm"]["mean"] == pytest.approx(373.13 / 2)
    assert summary["regions"]["ET"]["dice"]["n"] == 2


def test_brats_2023_references_are_read_with_their_own_label(folders: tuple[Path, Path], tmp_path: Path) -> None:
    results, references = folders
    path = references / "BraTS2021_00001" / "BraTS2021_00001_seg.nii.gz"
    save(path, np.where(tumour() == 4, 3, tumour()).astype(np.uint8))
    found = compare(results, references, tmp_path / "out", recipe=load_recipe("brain-tumour"))
    assert {row["region"]: row["dice"] for row in found.rows if row["case"] == "BraTS2021_00001"}["ET"] == 1.0


def test_without_a_recipe_every_label_is_a_region(folders: tuple[Path, Path], tmp_path: Path) -> None:
    found = compare(*folders, tmp_path / "out")
    assert list(found.summary) == ["label 1", "label 2", "label 4"]


def test_the_table_has_volumes_in_ml_and_words_for_what_is_missing(folders: tuple[Path, Path], tmp_path: Path) -> None:
    compare(*folders, tmp_path / "out", recipe=load_recipe("brain-tumour"))
    lines = [line.split("\t") for line in (tmp_path / "out" / "scores.tsv").read_text().splitlines()]
    rows = [dict(zip(lines[0], line, strict=True)) for line in lines[1:]]
    wt = next(row for row in rows if row["region"] == "WT")
    assert float(wt["reference_ml"]) == 10**3 * 2 / 1000
    et = next(row for row in rows if row["region"] == "ET" and row["dice"] == "0.0")
    assert et["precision"] == "n/a"
    assert et["sensitivity"] == "0.0"


def test_a_case_without_a_result_is_named_and_is_in_no_mean(folders: tuple[Path, Path], tmp_path: Path) -> None:
    results, references = folders
    next((results / "sub-BraTS202100002").rglob("*_dseg.nii.gz")).unlink()
    found = compare(results, references, tmp_path / "out", recipe=load_recipe("brain-tumour"))
    assert [(error.code, error.file) for error in found.problems] == [("CHI-IN-123", "BraTS2021_00002")]
    assert found.summary["ET"]["cases"] == 1
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["cases_not_compared"] == {"BraTS2021_00002": "CHI-IN-123"}


def test_another_grid_is_refused_for_that_case_only(folders: tuple[Path, Path], tmp_path: Path) -> None:
    results, references = folders
    path = next((results / "sub-BraTS202100001").rglob("*_dseg.nii.gz"))
    moved = AFFINE.copy()
    moved[0, 3] = 1.0
    save(path, tumour(), moved)
    found = compare(results, references, tmp_path / "out")
    assert [error.code for error in found.problems] == ["CHI-IN-121"]
    assert {row["case"] for row in found.rows if row["status"] == "ok"} == {"BraTS2021_00002"}


def test_two_label_maps_of_one_case_are_refused(folders: tuple[Path, Path], tmp_path: Path) -> None:
    results, references = folders
    save(results / "sub-BraTS202100001" / "anat" / "sub-BraTS202100001_desc-other_dseg.nii.gz", tumour())
    with pytest.raises(InputError, match="CHI-IN-122"):
        compare(results, references, tmp_path / "out")


def test_sessions_of_one_patient_are_cases_of_their_own(tmp_path: Path) -> None:
    for root in ("a", "b"):
        for session in ("1", "2"):
            name = f"sub-01_ses-{session}"
            save(tmp_path / root / "sub-01" / f"ses-{session}" / "anat" / f"{name}_dseg.nii.gz", tumour())
    found = compare(tmp_path / "a", tmp_path / "b", tmp_path / "out")
    assert sorted({str(row["case"]) for row in found.rows}) == ["sub-01_ses-1", "sub-01_ses-2"]
    assert found.summary["label 2"]["dice"] == {"mean": 1.0, "low": 1.0, "high": 1.0, "n": 1}


def test_a_folder_of_plain_files_will_do(tmp_path: Path) -> None:
    for root in ("a", "b"):
        save(tmp_path / root / "case_7.nii.gz", tumour())
    assert [pair.case for pair in pairs(tmp_path / "a", tmp_path / "b")] == ["case_7"]


def test_an_empty_folder_is_refused(folders: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="CHI-IN-120"):
        compare(tmp_path / "empty", folders[1], tmp_path / "out")


def test_the_command_prints_the_table_and_says_so_where_a_case_is_missing(
    folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results, references = folders
    command = ["evaluate", str(results), str(references), str(tmp_path / "out"), "--recipe", "brain-tumour"]
    assert main(command) == 0
    assert "ET" in capsys.readouterr().out
    next((results / "sub-BraTS202100001").rglob("*_dseg.nii.gz")).unlink()
    assert main(command) == 1
    assert "CHI-IN-123" in capsys.readouterr().err
