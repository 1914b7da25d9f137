"""Planted tumours: labels, contrasts and anatomy are what a reader of BraTS data expects; equal seeds give equal bytes."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import nibabel
import numpy as np
import pytest

from chiasm.data.errors import RecipeError
from chiasm.data.phantoms.brats import CONTRASTS, MEANS, Patient, Tumours, patient, plant, write_brats
from chiasm.data.phantoms.heads import Cohort, Scanner, template
from chiasm.data.phantoms.label_maps import GREY, WHITE, Draw, TissueMaps
from chiasm.pipelines.evaluation.controls import threshold_dice

SMALL = Cohort(patients=2, seed=11, shape=(64, 64, 56), spacing_mm=3.0)


@pytest.fixture(scope="module")
def maps() -> TissueMaps:
    return template()


@pytest.fixture(scope="module")
def made(maps: TissueMaps) -> Patient:
    return patient(maps, SMALL, 1, tumours=Tumours(core_mm=(16.0, 18.0), without_rim=0.0))


def test_labels_are_those_of_brats_2021_and_lie_in_the_brain(made: Patient) -> None:
    assert np.unique(made.labels).tolist() == [0, 1, 2, 4]
    assert (made.tissue[made.labels > 0] > 0).all()


def test_the_brain_is_skull_stripped_in_every_contrast_at_once(made: Patient) -> None:
    brain = made.tissue > 0
    assert set(made.images) == set(CONTRASTS)
    for image in made.images.values():
        assert image.dtype == np.int16
        assert ((image != 0) == brain).all()


def test_the_brain_has_the_volume_of_a_head(made: Patient) -> None:
    litres = (made.tissue > 0).sum() * 27 / 1e6
    assert 1.1 < litres < 2.3
    assert (made.tissue == GREY).sum() > (made.tissue == WHITE).sum() > 0


def test_contrasts_have_the_signs_of_the_clinic(made: Patient) -> None:
    from scipy.ndimage import binary_erosion

    white = binary_erosion((made.tissue == WHITE) & (made.labels == 0))

    def over_white(contrast: str, label: int) -> float:
        image = made.images[contrast].astype(float)
        return float(np.median(image[made.labels == label]) / np.median(image[white]))

    assert over_white("flair", 2) > 1.2
    assert over_white("t2", 2) > 1.2
    assert over_white("t1", 2) < 0.95
    assert over_white("t1ce", 4) > 1.2
    assert over_white("t1ce", 1) < over_white("t1ce", 4) / 1.5


def test_at_strength_zero_the_tumour_cannot_be_seen(maps: TissueMaps) -> None:
    even = Scanner(jitter=0.0, bias=0.0)
    hidden = patient(maps, SMALL, 1, tumours=Tumours(core_mm=(16.0, 18.0), strength=0.0), scanner=even)
    for contrast in CONTRASTS:
        image, white = hidden.images[contrast].astype(float), hidden.tissue == WHITE
        usual = np.median(image[white & (hidden.labels == 0)])
        assert np.median(image[white & (hidden.labels == 2)]) / usual == pytest.approx(1.0, abs=0.06)
        assert np.median(image[(hidden.labels == 1) | (hidden.labels == 4)]) / usual == pytest.approx(1.0, abs=0.06)


def test_oedema_fades_across_its_labelled_border(maps: TissueMaps) -> None:
    from scipy.ndimage import distance_transform_edt

    plain = Scanner(noise=0.0, jitter=0.0, bias=0.0, texture=0.0, blur_voxels=0.0)
    made = patient(maps, SMALL, 1, tumours=Tumours(core_mm=(16.0, 18.0)), scanner=plain)
    flair, white = made.images["flair"].astype(float), (made.tissue == WHITE) & (made.labels != 4) & (made.labels != 1)
    inside, outside = (distance_transform_edt(mask, sampling=3.0) for mask in (made.labels > 0, made.labels == 0))
    steps = [white & (outside > 12), white & (outside == 3), white & (inside == 3), white & (inside > 4)]
    means = [float(np.median(flair[where])) for where in steps]
    assert means == sorted(means)
    assert means[1] > 1.03 * means[0]


def test_contrast_of_the_oedema_differs_between_patients_within_its_range(maps: TissueMaps) -> None:
    plain, found = Scanner(noise=0.0, jitter=0.0, bias=0.0, texture=0.0), []
    for index in range(1, 6):
        made = patient(maps, SMALL, index, tumours=Tumours(core_mm=(16.0, 18.0), oedema=(2.0, 2.1)), scanner=plain)
        flair, white = made.images["flair"].astype(float), made.tissue == WHITE
        found.append(np.median(flair[white & (made.labels == 2)]) / np.median(flair[white & (made.labels == 0)]))
    assert 1.2 < min(found) < max(found) - 0.1 < 2.1


def test_no_threshold_on_flair_finds_the_tumours(maps: TissueMaps) -> None:
    cohort = Cohort(patients=8, seed=3, shape=(64, 64, 56), spacing_mm=3.0)
    images, masks = [], []
    for index in range(1, 9):
        made = patient(maps, cohort, index)
        brain = made.images["flair"][made.tissue > 0].astype(np.float32)
        images.append((brain - brain.mean()) / brain.std())
        masks.append(made.labels[made.tissue > 0] > 0)
    # The cut is chosen on these very patients: no honest choice does better.
    assert threshold_dice(images, masks, images, masks)[1].mean() < 0.7


def test_the_rim_encloses_the_necrosis(made: Patient) -> None:
    from scipy.ndimage import binary_dilation

    around = binary_dilation(made.labels == 1) & (made.labels != 1)
    assert (made.labels[around] == 4).mean() > 0.8


def test_without_a_rim_there_is_no_enhancing_label_and_the_core_stays(maps: TissueMaps) -> None:
    low_grade = patient(maps, SMALL, 1, tumours=Tumours(core_mm=(16.0, 18.0), without_rim=1.0))
    assert np.unique(low_grade.labels).tolist() == [0, 1, 2]


def test_oedema_follows_the_white_matter_and_never_enters_fluid(maps: TissueMaps) -> None:
    tissue = np.full((48, 48, 48), WHITE, dtype=np.uint8)
    tissue[:, :, 24:] = GREY
    tissue[:10] = 1
    labels = plant(tissue, Draw(0, 0), 3.0, Tumours())
    assert not (labels[:10] == 2).any()


def test_patients_differ_and_one_does_not_depend_on_the_others(maps: TissueMaps, made: Patient) -> None:
    options = {"tumours": Tumours(core_mm=(16.0, 18.0), without_rim=0.0)}
    again = patient(maps, Cohort(patients=50, seed=11, shape=SMALL.shape, spacing_mm=3.0), 1, **options)
    assert (again.labels == made.labels).all()
    assert all((again.images[c] == made.images[c]).all() for c in CONTRASTS)
    assert (patient(maps, SMALL, 2, **options).tissue != made.tissue).any()


def test_a_cohort_is_written_in_the_layout_and_repeats_byte_for_byte(tmp_path: Path) -> None:
    def digests(out: Path) -> dict[str, str]:
        assert write_brats(out, SMALL) == ["BraTS2021_00001", "BraTS2021_00002"]
        return {
            str(p.relative_to(out)): hashlib.sha256(p.read_bytes()).hexdigest() for p in out.rglob("*") if p.is_file()
        }

    one, other = digests(tmp_path / "a"), digests(tmp_path / "b")
    assert one == other
    expected = {f"BraTS2021_0000{i}/BraTS2021_0000{i}_{c}.nii.gz" for i in (1, 2) for c in (*CONTRASTS, "seg")}
    assert set(one) == expected | {"participants.tsv", "dataset_description.json"}
    assert json.loads((tmp_path / "a" / "dataset_description.json").read_text())["chiasm_phantom"] is True
    image = nibabel.load(tmp_path / "a" / "BraTS2021_00001" / "BraTS2021_00001_t2.nii.gz")
    assert "".join(nibabel.aff2axcodes(image.affine)) == "LPS"
    assert image.header.get_zooms() == (3.0, 3.0, 3.0)
    lines = (tmp_path / "a" / "participants.tsv").read_text().splitlines()
    table = dict(zip(lines[0].split("\t"), lines[1].split("\t"), strict=True))
    labels = np.asanyarray(nibabel.load(tmp_path / "a" / "BraTS2021_00001" / "BraTS2021_00001_seg.nii.gz").dataobj)
    assert float(table["oedema_ml"]) == pytest.approx((labels == 2).sum() * 0.027)


def test_a_folder_that_holds_something_is_refused(tmp_path: Path) -> None:
    (tmp_path / "old.txt").write_text("x")
    with pytest.raises(RecipeError, match="CHI-RC-071"):
        write_brats(tmp_path, SMALL)


def test_every_wrong_setting_is_named_at_once() -> None:
    with pytest.raises(RecipeError) as caught:
        Cohort(patients=0, seed=-1, shape=(8, 64, 64), spacing_mm=9.0)
    for word in ("patients", "seed", "shape", "spacing"):
        assert word in str(caught.value)
    with pytest.raises(RecipeError, match="strength"):
        Tumours(strength=3.0)


def test_every_contrast_names_every_tissue_and_tumour_part() -> None:
    assert {frozenset(means) for means in MEANS.values()} == {frozenset({1, 2, 3, 11, 12, 14})}
