"""Cohorts: NSD's layout file by file, designs that count from 1, equal seeds equal bytes, the asked noise ceiling on disk."""

from __future__ import annotations

import csv
import hashlib
import json
from pathlib import Path

import h5py
import nibabel
import numpy as np
import pytest
from scipy.io import loadmat

from chiasm.data.errors import RecipeError
from chiasm.data.phantoms.marker import is_phantom
from chiasm.data.phantoms.nsd.cohort import NsdCohort, write_nsd
from chiasm.data.phantoms.nsd.forward_model import ForwardModel

SMALL = NsdCohort(subjects=2, images=120, shared=30, stimuli="fashion-mnist-small", seed=3)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("nsd") / "cohort"
    assert write_nsd(out, SMALL) == ["subj01", "subj02"]
    return out


def betas(root: Path, subject: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Return betas in percent in nsdgeneral and the stimulus (from 0) of each trial."""
    name = f"subj{subject:02d}"
    folder = root / "nsddata_betas/ppdata" / name / "func1pt8mm/betas_fithrf_GLMdenoise_RR"
    mask = nibabel.load(root / "nsddata/ppdata" / name / "func1pt8mm/roi/nsdgeneral.nii.gz").get_fdata() > 0
    found = []
    for path in sorted(folder.glob("*.hdf5")):
        with h5py.File(path) as file:
            found.append(file["betas"][()].transpose(0, 3, 2, 1)[:, mask] / 300)
    design = loadmat(root / "nsddata/experiments/nsd/nsd_expdesign.mat")
    return np.concatenate(found), design["subjectim"][subject - 1, design["masterordering"].ravel().astype(int) - 1] - 1


def test_the_layout_is_nsds(root: Path) -> None:
    once = """README dataset_description.json phantom.json nsddata/experiments/nsd/nsd_expdesign.mat
        nsddata/experiments/nsd/nsd_stim_info_merged.csv nsddata_stimuli/stimuli/nsd/nsd_stimuli.hdf5""".split()
    each = """derivatives/truth/{}/voxels.tsv nsddata/freesurfer/{}/label/nsdgeneral.mgz.ctab
        nsddata/freesurfer/{}/label/prf-visualrois.mgz.ctab nsddata/freesurfer/{}/label/streams.mgz.ctab
        nsddata/ppdata/{}/func1pt8mm/roi/nsdgeneral.nii.gz nsddata/ppdata/{}/func1pt8mm/roi/prf-visualrois.nii.gz
        nsddata/ppdata/{}/func1pt8mm/roi/streams.nii.gz
        nsddata_betas/ppdata/{}/func1pt8mm/betas_fithrf_GLMdenoise_RR/betas_session01.hdf5
        nsddata_betas/ppdata/{}/func1pt8mm/betas_fithrf_GLMdenoise_RR/ncsnr.nii.gz""".split()
    expected = set(once) | {path.format(name) for path in each for name in ("subj01", "subj02")}
    assert {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()} == expected


def test_it_says_everywhere_that_it_is_synthetic(root: Path) -> None:
    assert is_phantom(root)
    assert is_phantom(root / "nsddata_betas" / "ppdata" / "subj01")
    assert "no person was measured" in (root / "README").read_text()


def test_the_design_counts_from_one_and_shows_each_image_thrice(root: Path) -> None:
    design = loadmat(root / "nsddata/experiments/nsd/nsd_expdesign.mat")
    with h5py.File(root / "nsddata_stimuli/stimuli/nsd/nsd_stimuli.hdf5") as file:
        n = len(file["imgBrick"])
        assert file["imgBrick"].dtype == np.uint8
    order, images, shared = (design[name].astype(int) for name in ("masterordering", "subjectim", "sharedix"))
    assert n == 30 + 2 * 120
    assert np.bincount(order[0])[1:].tolist() == [3] * 150
    assert (order[0, 1:] != order[0, :-1]).all()
    assert (images[:, :30] == shared).all()
    assert images.min() == 1
    assert images.max() == n
    assert set(images[0]) & set(images[1]) == set(shared[0])
    assert np.unique(images).size == n


def test_the_table_of_stimuli_agrees_with_the_design(root: Path) -> None:
    shown = betas(root, 2)[1]
    with (root / "nsddata/experiments/nsd/nsd_stim_info_merged.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    for row in rows[::10]:
        trials = np.flatnonzero(shown == int(row["nsdId"])) + 1
        assert [int(row[f"subject2_rep{k}"]) for k in range(3)] == (trials.tolist() or [0, 0, 0])
        assert row["subject2"] == str(int(len(trials) > 0))
    assert sum(row["shared1000"] == "True" for row in rows) == 30
    assert len({row["category"] for row in rows}) == 10


@pytest.mark.parametrize("subject", [1, 2])
def test_the_noise_ceiling_measured_from_betas_is_the_asked_one(root: Path, subject: int) -> None:
    values, shown = betas(root, subject)
    order = np.argsort(shown, kind="stable").reshape(-1, 3)
    grouped = values[order]
    within = grouped.var(axis=1, ddof=1).mean(axis=0)
    between = np.maximum(grouped.mean(axis=1).var(axis=0, ddof=1) - within / 3, 0)
    ceiling = 100 * between / (between + within / 3)
    ncsnr = nibabel.load(
        root / f"nsddata_betas/ppdata/subj{subject:02d}/func1pt8mm/betas_fithrf_GLMdenoise_RR/ncsnr.nii.gz"
    ).get_fdata()
    mask = nibabel.load(root / f"nsddata/ppdata/subj{subject:02d}/func1pt8mm/roi/nsdgeneral.nii.gz").get_fdata() > 0
    true = ncsnr[mask] ** 2
    true = 100 * true / (true + 1 / 3)
    assert np.median(true) == pytest.approx(40, abs=0.3)
    assert np.median(ceiling) == pytest.approx(40, abs=4)
    assert np.corrcoef(ceiling, true)[0, 1] > 0.8


def test_the_reader_of_nsd_finds_the_same_betas_images_and_regions(root: Path) -> None:
    from chiasm.data.datasets.fmri.nsd import open_set
    from chiasm.data.fmri.trials import TEST

    found = open_set(root)
    assert [subject.name for subject in found.subjects] == ["01", "02"]
    values, shown = betas(root, 2)
    subject = found.subject("02")
    assert (subject.trials.image == shown).all()
    assert subject.betas.read(np.arange(450)) == pytest.approx(values, abs=1e-4)
    assert len(set(subject.trials.image[subject.trials.split == TEST].tolist())) == 30
    assert found.stimuli is not None
    assert len(set(found.stimuli.names)) == found.stimuli.n == 270
    assert len(set(found.stimuli.categories)) == 10
    assert any("V1v" in name for name in subject.rois)


def test_other_cortex_is_zero_and_outside_is_minus_one_as_in_nsd(root: Path) -> None:
    mask = nibabel.load(root / "nsddata/ppdata/subj01/func1pt8mm/roi/nsdgeneral.nii.gz").get_fdata()
    assert set(np.unique(mask)) == {-1, 0, 1}
    recipe = json.loads((root / "phantom.json").read_text())
    assert (mask == 1).sum() == recipe["subjects"]["subj01"]["n_voxels"]
    assert recipe["forward_model"]["exponent"] == 0.5
    for name, n in (("prf-visualrois", 7), ("streams", 6)):
        roi = nibabel.load(root / f"nsddata/ppdata/subj01/func1pt8mm/roi/{name}.nii.gz").get_fdata()
        assert roi.max() == n
        assert ((roi > 0) <= (mask == 1)).all()


def test_equal_seeds_are_equal_bytes_and_others_are_not(root: Path, tmp_path: Path) -> None:
    def digests(out: Path) -> dict[str, str]:
        paths = sorted(path for path in out.rglob("*") if path.is_file())
        return {path.relative_to(out).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}

    write_nsd(tmp_path / "again", SMALL)
    assert digests(tmp_path / "again") == digests(root)
    write_nsd(tmp_path / "other", NsdCohort(subjects=1, images=120, shared=30, stimuli="fashion-mnist-small", seed=4))
    same = {path for path, digest in digests(tmp_path / "other").items() if digests(root).get(path) == digest}
    assert {Path(path).suffix for path in same} <= {"", ".ctab"}


def test_too_few_images_for_disjoint_training_sets_overlap_only_when_asked() -> None:
    plan = NsdCohort(subjects=3).plan(2000)
    assert plan.disjoint
    assert plan.subject_images.shape == (3, 200 + 600)
    asked = NsdCohort(subjects=3, images=1500).plan(2000)
    assert not asked.disjoint
    assert asked.subject_images.shape == (3, 200 + 1500)
    for row in asked.subject_images:
        assert len(set(row.tolist())) == 1700
        assert set(row[:200].tolist()) == set(asked.shared.tolist())


def test_wrong_settings_are_all_named_at_once() -> None:
    with pytest.raises(RecipeError) as caught:
        NsdCohort(subjects=9, shared=1, strength=3.0, model=ForwardModel(noise_ceiling=5.0))
    assert caught.value.code == "CHI-RC-130"
    for word in ("subjects", "shared", "strength", "noise ceiling"):
        assert word in caught.value.message


def test_a_source_that_is_too_small_and_a_full_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        write_nsd(tmp_path / "a", NsdCohort(images=1900, stimuli="fashion-mnist-small"))
    assert caught.value.code == "CHI-RC-132"
    assert not (tmp_path / "a").exists()
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "mine.txt").write_text("keep")
    with pytest.raises(RecipeError) as caught:
        write_nsd(tmp_path / "b", SMALL)
    assert caught.value.code == "CHI-RC-131"
    assert [path.name for path in (tmp_path / "b").iterdir()] == ["mine.txt"]
