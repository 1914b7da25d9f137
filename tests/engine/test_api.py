"""``chiasm.load``: the same labels from a folder, from arrays and from the command line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

import chiasm
from chiasm.data.errors import InputError, RecipeError, WeightsError

MakeBench = Callable[[int], Any]


@pytest.fixture
def loaded(bench: MakeBench, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Any]:
    cohort = bench(1)
    monkeypatch.setenv("CHIASM_WEIGHTS", str(cohort.store))
    return cohort, chiasm.load(cohort.recipe, threads=1)


def test_a_folder_a_file_and_arrays_give_the_labels_of_the_command_line(loaded: tuple[Any, Any]) -> None:
    cohort, segment = loaded
    out = cohort.root / "out"
    assert cohort.run(out).returncode == 0
    written = nibabel.load(next(out.rglob("*_dseg.nii.gz")))
    path = cohort.source / "p00" / "t1.nii.gz"
    image = nibabel.load(path)
    expected = np.asarray(written.dataobj)
    assert set(np.unique(expected)) > {0}
    by_array = segment(np.asarray(image.dataobj), affine=image.affine)
    for result in (segment(cohort.source / "p00"), segment(path), by_array):
        np.testing.assert_array_equal(result.labels, expected)
        np.testing.assert_allclose(result.affine, image.affine)
    assert by_array.volumes_ml["one"] == pytest.approx((expected == 1).sum() / 1000)
    assert by_array.label_names == {1: "one", 2: "two"}


def test_a_cohort_and_arrays_without_an_affine_are_refused_with_what_to_do(
    loaded: tuple[Any, Any], tmp_path: Path
) -> None:
    cohort, segment = loaded
    cohort.add_head("p01", 1)
    with pytest.raises(InputError, match="one patient at a time, and 2 were found") as caught:
        segment(cohort.source)
    assert caught.value.code == "CHI-IN-084"
    with pytest.raises(RecipeError, match="the affine missing"):
        segment(np.zeros((20, 20, 20)))


def test_other_weights_can_be_named_and_missing_ones_are_said(loaded: tuple[Any, Any]) -> None:
    cohort, _ = loaded
    with pytest.raises(WeightsError, match="nothing/here"):
        chiasm.load(cohort.recipe, weights="nothing/here")
