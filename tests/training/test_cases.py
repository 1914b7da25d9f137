from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch

from chiasm.data.datasets import LabelledCase
from chiasm.data.errors import SeveralErrors
from chiasm.pipelines.recipes import Recipe, parse_recipe
from chiasm.pipelines.training.cases import CaseSource, PreparedCase, nearest, prepare_cases, region_masks
from chiasm.pipelines.training.settings import Phase, TrainingSettings, read_settings

RECIPE = """
recipe: 1
pipeline: segmentation
title: test
channels: {t1: {}, t2: {}}
components: {network: {kind: unet3d, parameters: {in_channels: 2, out_channels: 2}}}
space: {spacing_mm: null, margin_mm: 1}
intensity: zscore-nonzero
"""
REGIONS = RECIPE + "regions: [{name: whole, labels: [1, 2], write: 1}, {name: core, labels: [2], write: 2}]\n"
CLASSES = RECIPE + "labels: {1: edema, 2: core}\n"
QUIET = {"flip": 0, "scale": 0, "shift": 0, "noise": 0}


def recipe(text: str = CLASSES) -> Recipe:
    return parse_recipe(text, name="test")


def settings(**more: object) -> TrainingSettings:
    return read_settings({"phases": [{"steps": 1, "patch": [8, 8, 8]}], "augmentation": QUIET, **more}, name="test")


@pytest.fixture
def case(tmp_path: Path) -> Callable[..., LabelledCase]:
    """Writes a case whose first channel tells the label: 1 + label inside a box, 0 outside; the second is noise."""

    def write(
        name: str = "a", *, patient: str = "", affine: np.ndarray | None = None, **change: object
    ) -> LabelledCase:
        rng = np.random.default_rng(sum(name.encode()))
        labels = np.zeros((20, 18, 16), np.uint8)
        x, y, z = rng.integers(4, 9, 3)
        labels[x : x + 5, y : y + 4, z : z + 3] = 1
        labels[x + 1 : x + 3, y : y + 2, z] = 2
        inside = np.zeros(labels.shape, bool)
        inside[2:18, 2:16, 2:14] = True
        t1 = np.where(inside, 1.0 + labels, 0).astype(np.float32)
        t2 = np.where(inside, rng.uniform(1, 2, labels.shape), 0).astype(np.float32)
        labels = np.asarray(change.get("labels", labels))
        if change.get("nan"):
            t1[5, 5, 5] = np.nan
        images = {}
        for channel, values in (("t1", t1), ("t2", t2)):
            path = tmp_path / f"{name}_{channel}.nii.gz"
            matrix = np.eye(4) if affine is None else affine
            if change.get("moved") and channel == "t2":
                matrix = matrix + np.array([[0, 0, 0, 5.0]] + [[0.0] * 4] * 3)
            nibabel.save(nibabel.Nifti1Image(values, matrix), path)
            images[channel] = path
        label = tmp_path / f"{name}_seg.nii.gz"
        nibabel.save(nibabel.Nifti1Image(labels, np.eye(4) if affine is None else affine), label)
        if change.get("without"):
            del images[str(change["without"])]
        return LabelledCase(name=name, patient=patient or name, images=images, label=label)

    return write


def arrays(one: PreparedCase) -> tuple[np.ndarray, np.ndarray]:
    return np.load(one.image), np.load(one.labels)


def test_a_case_is_cropped_normalised_and_keeps_its_labels(case: Callable[..., LabelledCase], tmp_path: Path) -> None:
    (one,) = prepare_cases([case()], recipe(), tmp_path / "prepared")
    image, labels = arrays(one)
    assert image.shape == (2, 18, 16, 14)  # the box and 1 mm around it
    inside = image[1] != 0
    assert inside.sum() == 16 * 14 * 12
    for channel in image.astype(np.float64):
        assert channel[inside].mean() == pytest.approx(0, abs=2e-3)
        assert channel[inside].std() == pytest.approx(1, abs=2e-3)
    # The first channel told the label before; it still does.
    values = [image[0][labels == k] for k in (1, 2)]
    assert all(v.std() < 1e-3 for v in values)
    assert values[0].mean() < values[1].mean()
    assert (labels[tuple(one.centres.T)] > 0).all()
    assert {int(v) for v in labels[tuple(one.centres.T)]} == {1, 2}


def test_orientation_does_not_matter(case: Callable[..., LabelledCase], tmp_path: Path) -> None:
    # The same arrays, declared as LPS: canonical order turns the first two axes around.
    (plain,) = prepare_cases([case("a")], recipe(), tmp_path / "1")
    (turned,) = prepare_cases([case("a", affine=np.diag([-1.0, -1, 1, 1]))], recipe(), tmp_path / "2")
    assert np.array_equal(arrays(plain)[1], arrays(turned)[1][::-1, ::-1])
    assert np.array_equal(arrays(plain)[0], arrays(turned)[0][:, ::-1, ::-1])


def test_cases_come_at_the_recipes_spacing(case: Callable[..., LabelledCase], tmp_path: Path) -> None:
    coarse = parse_recipe(CLASSES.replace("spacing_mm: null", "spacing_mm: 2.0"), name="test")
    (one,) = prepare_cases([case()], coarse, tmp_path / "prepared")
    image, labels = arrays(one)
    assert image.shape[1:] == labels.shape == (9, 8, 7)
    assert one.spacing_mm == pytest.approx((2, 2, 2))


def test_what_was_prepared_is_kept_until_the_file_or_the_recipe_changes(
    case: Callable[..., LabelledCase], tmp_path: Path
) -> None:
    first = case()
    (one,) = prepare_cases([first], recipe(), tmp_path / "p")
    stamp = one.image.stat().st_mtime_ns
    (again,) = prepare_cases([first], recipe(), tmp_path / "p")
    assert again.image.stat().st_mtime_ns == stamp
    assert np.array_equal(again.centres, one.centres)
    other = parse_recipe(CLASSES.replace("zscore-nonzero", "percentile"), name="test")
    (changed,) = prepare_cases([first], other, tmp_path / "p")
    assert np.load(changed.image).min() >= 0


def test_every_unusable_case_is_listed(case: Callable[..., LabelledCase], tmp_path: Path) -> None:
    bad = [
        case("good"),
        case("lacks", without="t2"),
        case("moved", moved=True),
        case("odd", labels=np.full((20, 18, 16), 7, np.uint8)),
        case("nan", nan=True),
    ]
    with pytest.raises(SeveralErrors) as caught:
        prepare_cases(bad, recipe(), tmp_path / "p")
    codes = {error.file: error.code for error in caught.value.errors}
    assert codes == {"lacks": "CHI-IN-134", "moved": "CHI-IN-135", "odd": "CHI-IN-136", "nan": "CHI-IN-137"}


def test_a_sample_depends_on_its_index_only(case: Callable[..., LabelledCase], tmp_path: Path) -> None:
    cases = prepare_cases([case("a"), case("b")], recipe(), tmp_path / "p")
    source = CaseSource(cases, recipe(), settings(augmentation={}))
    phase = Phase(steps=1, patch=(8, 8, 8))
    ahead = [source.sample(i, phase) for i in (3, 1, 2)]
    fresh = CaseSource(cases, recipe(), settings(augmentation={}))
    for index, pair in zip((3, 1, 2), ahead, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(pair, fresh.sample(index, phase), strict=True))


@pytest.mark.parametrize("patch", [(8, 8, 8), (24, 24, 24)])
def test_image_and_labels_of_a_patch_belong_together(
    case: Callable[..., LabelledCase], tmp_path: Path, patch: tuple[int, int, int]
) -> None:
    cases = prepare_cases([case("a"), case("b")], recipe(), tmp_path / "p")
    source = CaseSource(
        cases, recipe(), settings(foreground=1.0, augmentation={"flip": 0.5, "scale": 0, "shift": 0, "noise": 0})
    )
    for index in range(10):
        image, labels = source.sample(index, Phase(steps=1, patch=patch))
        assert image.shape == (2, *patch)
        assert labels.dtype == torch.int64
        found = [image[0][labels == k] for k in range(3)]
        assert all(float(v.std()) < 1e-3 for v in found[1:] if len(v) > 1)
        assert (labels > 0).any()  # centred on a labelled voxel


def test_without_oversampling_some_patches_miss_the_label(case: Callable[..., LabelledCase], tmp_path: Path) -> None:
    cases = prepare_cases([case("a")], recipe(), tmp_path / "p")
    source = CaseSource(cases, recipe(), settings(foreground=0.0))
    hits = [bool((source.sample(i, Phase(steps=1, patch=(4, 4, 4)))[1] > 0).any()) for i in range(40)]
    assert 0 < sum(hits) < 40


def test_regions_nest_as_the_recipe_says(case: Callable[..., LabelledCase], tmp_path: Path) -> None:
    cases = prepare_cases([case("a")], recipe(REGIONS), tmp_path / "p")
    _, regions = CaseSource(cases, recipe(REGIONS), settings(foreground=1.0)).sample(
        0, Phase(steps=1, patch=(24, 24, 24))
    )
    labels = np.load(cases[0].labels)
    assert regions.shape == (2, 24, 24, 24)
    assert [int(r.sum()) for r in regions] == [int((labels > 0).sum()), int((labels == 2).sum())]
    assert bool((regions[1] <= regions[0]).all())
    assert np.array_equal(region_masks(labels, recipe(REGIONS))[1], labels == 2)


def test_the_negative_control_gives_no_case_its_own_labels(case: Callable[..., LabelledCase], tmp_path: Path) -> None:
    cases = prepare_cases([case(name) for name in "abcde"], recipe(), tmp_path / "p")
    source = CaseSource(cases, recipe(), settings(control="permuted-labels"))
    assert sorted(source.label_of) == list(range(5))
    assert all(own != other for own, other in enumerate(source.label_of))


def test_nearest_keeps_labels_and_places() -> None:
    labels = np.zeros((4, 4, 4), np.uint8)
    labels[2:, :2, 1] = 3
    fine = nearest(labels, (8, 4, 12))
    assert fine.sum() == labels.sum() * 6
    assert np.array_equal(nearest(fine, (4, 4, 4)), labels)
