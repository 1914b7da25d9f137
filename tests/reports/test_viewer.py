from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from isal import igzip

from chiasm.pipelines.reports.viewer import VIEWER_BYTES, viewer_licence, viewer_script, viewer_volumes


def unpacked(text: str) -> nib.Nifti1Image:
    return nib.Nifti1Image.from_bytes(igzip.decompress(base64.b64decode(text)))


def test_the_volumes_are_the_cropped_head_and_its_labels_on_one_grid(head: tuple[np.ndarray, np.ndarray]) -> None:
    values, labels = head
    padded = [np.pad(array, 30) for array in (values, labels)]
    volumes = viewer_volumes(padded[0], padded[1], (2.0, 1.0, 3.0))
    assert volumes is not None
    background, marks = unpacked(volumes.background), unpacked(volumes.labels)
    assert background.shape == marks.shape
    assert max(background.shape) <= 52
    assert background.get_data_dtype() == marks.get_data_dtype() == np.uint8
    assert background.header.get_zooms() == pytest.approx((2.0, 1.0, 3.0))
    counts = np.bincount(np.asarray(marks.dataobj).ravel(), minlength=4)[1:]
    assert counts.tolist() == np.bincount(labels.ravel(), minlength=4)[1:].tolist()
    assert int(np.asarray(background.dataobj).max()) == 255


def test_the_cross_starts_in_the_middle(head: tuple[np.ndarray, np.ndarray]) -> None:
    volumes = viewer_volumes(*head, (2.0, 2.0, 2.0))
    assert volumes is not None
    image = unpacked(volumes.background)
    corners = nib.affines.apply_affine(image.affine, [(0, 0, 0), np.array(image.shape) - 1])
    assert corners.sum(axis=0) == pytest.approx(0.0, abs=1e-5)


def test_the_cross_starts_amid_a_lesion() -> None:
    values = np.full((40, 40, 40), 50.0, np.float32)
    values[0] = 0.0
    lesion = np.zeros((40, 40, 40), np.uint8)
    lesion[30:35, 4:9, 20] = 1
    volumes = viewer_volumes(values, lesion, (1.0, 1.0, 1.0))
    assert volumes is not None
    place = np.array(volumes.start) * unpacked(volumes.labels).shape
    assert np.asarray(unpacked(volumes.labels).dataobj)[tuple(place.astype(int))] == 1
    bare = viewer_volumes(values, None, (1.0, 1.0, 1.0))
    assert bare is not None
    assert bare.start == (0.5, 0.5, 0.5)


@pytest.mark.parametrize("shape", [(61, 67, 53), (64, 64, 64), (50, 33, 41)])
def test_what_is_too_large_is_coarsened_and_stays_aligned(shape: tuple[int, int, int]) -> None:
    values = np.random.default_rng(1).uniform(20, 100, shape).astype(np.float32)
    values[:, :, 40:] = 99.0
    labels = np.zeros(shape, np.uint8)
    labels[:, :, 40:] = 3
    volumes = viewer_volumes(values, labels, (1.0, 1.0, 1.0), limit_bytes=25_000)
    assert volumes is not None
    assert volumes.coarsening > 1
    assert volumes.n_bytes <= 25_000
    background, marks = unpacked(volumes.background), unpacked(volumes.labels)
    assert background.shape == marks.shape
    assert np.array_equal(background.affine, marks.affine)
    assert background.header.get_zooms()[0] == volumes.coarsening
    assert set(np.unique(np.asarray(marks.dataobj))) == {0, 3}


def test_nothing_is_shown_where_even_the_coarsest_is_too_large(head: tuple[np.ndarray, np.ndarray]) -> None:
    assert viewer_volumes(*head, (2.0, 2.0, 2.0), limit_bytes=10) is None


def test_noise_at_full_head_size_stays_below_the_limit() -> None:
    values = np.random.default_rng(2).normal(100, 20, (200, 220, 200)).astype(np.float32)
    volumes = viewer_volumes(values, None, (1.0, 1.0, 1.0))
    assert volumes is not None
    assert volumes.n_bytes <= VIEWER_BYTES
    assert volumes.labels == ""


def test_equal_volumes_give_equal_text(head: tuple[np.ndarray, np.ndarray]) -> None:
    assert viewer_volumes(*head, (2.0, 2.0, 2.0)) == viewer_volumes(*head, (2.0, 2.0, 2.0))


def test_the_vendored_script_is_the_published_one_and_has_its_licence(repository: Path) -> None:
    readme = (repository / "pipelines/reports/vendor/niivue/README.md").read_text("utf-8")
    recorded = re.search(r"sha256: `([0-9a-f]{64})`", readme)
    assert recorded is not None
    assert hashlib.sha256(viewer_script()).hexdigest() == recorded[1]
    licence = viewer_licence().decode("utf-8")
    assert "BSD 2-Clause" in licence
    assert "Copyright (c) 2021, Niivue" in licence
