"""Phantom heads: painting puts in what it says, shells surround the brain, the data set is BIDS."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest

from chiasm.data.phantoms.heads import Cohort, Scanner, paint, scaled, with_shells, write_heads
from chiasm.data.phantoms.label_maps import Draw


def halves() -> np.ndarray:
    labels = np.zeros((32, 32, 32), dtype=np.uint8)
    labels[4:28, 4:28, 4:16] = 1
    labels[4:28, 4:28, 16:28] = 2
    return labels


CLEAN = Scanner(noise=0.0, bias=0.0, texture=0.0, jitter=0.0, blur_mm=0.01, blur_voxels=0.0)


def test_a_clean_scanner_paints_the_means() -> None:
    image = paint(halves(), {1: 0.5, 2: 1.0}, Draw(0, 0), 1.0, scanner=CLEAN).astype(float)
    assert image[10, 10, 10] / image[10, 10, 20] == pytest.approx(0.5, abs=0.01)
    assert np.unique(image).size == 3


def test_noise_has_the_stated_share_of_the_signal() -> None:
    image = paint(halves(), {1: 1.0, 2: 1.0}, Draw(0, 0), 1.0, scanner=Scanner(noise=0.05, bias=0, texture=0, jitter=0))
    inner = image[10:22, 10:22, 10:22].astype(float)
    assert inner.std() / inner.mean() == pytest.approx(0.05, rel=0.1)


def test_the_background_is_zero_only_where_the_skull_is_stripped() -> None:
    scanner = Scanner(noise=0.05)
    stripped = paint(halves(), {1: 1.0, 2: 1.0}, Draw(0, 0), 1.0, scanner=scanner)
    assert ((stripped > 0) == (halves() > 0)).all()
    assert (paint(halves(), {1: 1.0, 2: 1.0}, Draw(0, 0), 1.0, scanner=scanner, stripped=False)[:3] > 0).mean() > 0.9


def test_a_voxel_mixes_what_it_covers_and_the_stripped_rim_stays_bright() -> None:
    def line(blur_voxels: float) -> np.ndarray:
        scanner = Scanner(noise=0, bias=0, texture=0, jitter=0, blur_mm=0.01, blur_voxels=blur_voxels)
        image = paint(halves(), {1: 0.5, 2: 1.0}, Draw(0, 0), 3.0, scanner=scanner).astype(float)
        return image[16, 16] / image[16, 16, 20]

    crisp, mixed = line(0.0), line(0.42)
    assert crisp[15:17].tolist() == pytest.approx([0.5, 1.0], abs=0.01)
    assert 0.52 < mixed[15] < mixed[16] < 0.98
    assert mixed[[4, 27]].tolist() == pytest.approx([0.5, 1.0], abs=0.01)


def test_added_signal_is_in_the_unit_of_the_means() -> None:
    added = np.where(halves() == 1, 0.25, 0.0).astype(np.float32)
    image = paint(halves(), {1: 0.5, 2: 1.0}, Draw(0, 0), 1.0, scanner=CLEAN, added=added).astype(float)
    assert image[10, 10, 10] / image[10, 10, 20] == pytest.approx(0.75, abs=0.01)


def test_disturbances_scale_together() -> None:
    assert scaled(Scanner(), 0.0) == Scanner(noise=0, bias=0, texture=0, jitter=0)


def test_skull_and_scalp_lie_around_the_brain_in_this_order() -> None:
    labels = np.zeros((41, 41, 41), dtype=np.uint8)
    labels[15:26, 15:26, 15:26] = 2
    line = with_shells(labels, 1.0)[20, 20].tolist()
    assert line[20:] == [2] * 6 + [8] * 6 + [9] * 6 + [0] * 3


def test_heads_are_written_as_bids_with_the_truth_in_a_derivative(tmp_path: Path) -> None:
    assert write_heads(tmp_path / "out", Cohort(patients=1, seed=2, shape=(64, 72, 64), spacing_mm=3.0)) == ["00001"]
    image = nibabel.load(tmp_path / "out" / "sub-00001" / "anat" / "sub-00001_T1w.nii.gz")
    truth = nibabel.load(tmp_path / "out" / "derivatives/truth/sub-00001/anat/sub-00001_dseg.nii.gz")
    values, labels = np.asanyarray(image.dataobj).astype(float), np.asanyarray(truth.dataobj)
    assert np.unique(labels).tolist() == [0, 1, 2, 3]
    assert values[labels == 1].mean() < values[labels == 2].mean() < values[labels == 3].mean()
    assert (image.affine == truth.affine).all()
    description = json.loads((tmp_path / "out" / "dataset_description.json").read_text())
    assert description["chiasm_phantom"] is True
    assert description["GeneratedBy"][0]["Name"] == "chiasm phantom"
