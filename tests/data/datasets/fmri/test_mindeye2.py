"""MindEye2's HDF5 files and session tars: column 5 is the row, column 0 the image, and mixed or damaged files have a name."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest

from chiasm.data.datasets.fmri import mindeye2
from chiasm.data.errors import InputError, SeveralErrors

h5py = pytest.importorskip("h5py")

V, N_IMAGES, N_TRIALS = 5, 12, 14
# (image, session, row): rows are not in the tars' order, and some rows are in no tar.
TRAIN = {0: [(3, 1, 1), (4, 1, 0), (3, 1, 5)], 1: [(7, 2, 8), (3, 2, 9)], 10: [(11, 11, 13)]}
TEST = [(0, 1, 3), (0, 2, 10), (6, 1, 2)]


def write_tar(path: Path, trials: list[tuple[int, int, int]], subject: int, width: int = 17) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for index, (image, session, row) in enumerate(trials):
            values = np.full((1, width), -1.0)
            values[0, :6] = image, subject, session, 1, 1, row
            for ending in ("behav.npy", "past_behav.npy"):
                buffer = io.BytesIO()
                np.save(buffer, values if ending == "behav.npy" else np.zeros((15, 17)))
                info = tarfile.TarInfo(f"sample{index:09d}.{ending}")
                info.size = buffer.tell()
                buffer.seek(0)
                tar.addfile(info, buffer)


def table(subject: int) -> np.ndarray:
    return (100 * subject + np.arange(N_TRIALS)[:, None] + np.arange(V) / 16).astype(np.float32)


def write_set(root: Path, subjects: tuple[int, ...] = (1, 5), test: str = "new_test") -> Path:
    root.mkdir(exist_ok=True)
    for s in subjects:
        with h5py.File(root / f"betas_all_subj0{s}_fp32_renorm.hdf5", "w") as file:
            file["betas"] = table(s)
        for session, trials in TRAIN.items():
            write_tar(root / f"wds/subj0{s}/train/{session}.tar", trials, s)
        write_tar(root / f"wds/subj0{s}/{test}/0.tar", TEST, s)
    with h5py.File(root / "coco_images_224_float16.hdf5", "w") as file:
        values = np.zeros((N_IMAGES, 3, 224, 224), dtype=np.float16)
        values[:, 1] = np.arange(N_IMAGES)[:, None, None] / 255
        values[:, 2] = 1.0
        file.create_dataset("images", data=values, chunks=(1, 3, 224, 224), compression="gzip")
    return root


def codes(root: Path, **options: object) -> list[str]:
    with pytest.raises((InputError, SeveralErrors)) as caught:
        mindeye2.open_set(root, **options)
    error = caught.value
    return [one.code for one in error.errors] if isinstance(error, SeveralErrors) else [error.code]


def test_rows_images_sessions_and_repeats(tmp_path: Path) -> None:
    root = write_set(tmp_path)
    assert mindeye2.matches(root)
    assert mindeye2.subject_names(root) == ["01", "05"]
    found = mindeye2.open_set(root)
    trials = found.subject("05").trials
    np.testing.assert_array_equal(trials.row, [0, 1, 2, 3, 5, 8, 9, 10, 13])
    np.testing.assert_array_equal(trials.image, [4, 3, 6, 0, 3, 7, 3, 0, 11])
    np.testing.assert_array_equal(trials.session, [1, 1, 1, 1, 1, 2, 2, 2, 11])
    np.testing.assert_array_equal(trials.repeat, [0, 0, 0, 0, 1, 0, 2, 1, 0])
    np.testing.assert_array_equal(trials.split, [0, 0, 2, 2, 0, 0, 0, 2, 0])
    np.testing.assert_array_equal(found.subject("05").betas.read(trials.row), table(5)[trials.row])
    pixels = found.stimuli.read(trials.image, size=16)
    np.testing.assert_array_equal(pixels[:, 8, 8], [(0, image, 255) for image in trials.image])


def test_rows_in_any_order_and_twice(tmp_path: Path) -> None:
    betas = mindeye2.open_set(write_set(tmp_path), subjects=["subj01"]).subjects[0].betas
    rows = np.array([13, 2, 2, 3, 0])
    np.testing.assert_array_equal(betas.read(rows), table(1)[rows])


def test_the_leak_of_the_published_notebook_is_noted(tmp_path: Path) -> None:
    found = mindeye2.open_set(write_set(tmp_path))
    assert all(subject.normalised for subject in found.subjects)
    assert any("shared test images" in note for note in found.notes)


def test_the_old_test_side_is_used_and_said(tmp_path: Path) -> None:
    found = mindeye2.open_set(write_set(tmp_path, (1,), test="test"))
    assert len(found.subjects[0].trials.of("test")) == 3
    assert any("37 sessions" in note for note in found.notes)


def test_without_images_betas_are_there_all_the_same(tmp_path: Path) -> None:
    root = write_set(tmp_path, (1,))
    (root / mindeye2.IMAGES).unlink()
    found = mindeye2.open_set(root)
    assert found.stimuli is None
    assert any(mindeye2.IMAGES in note for note in found.notes)


def test_mixed_subjects(tmp_path: Path) -> None:
    root = write_set(tmp_path)
    write_tar(root / "wds/subj05/train/1.tar", TRAIN[1], 1)
    assert codes(root) == ["CHI-IN-292"]
    assert len(mindeye2.open_set(root, subjects=["01"]).subjects) == 1


@pytest.mark.parametrize(
    ("trial", "code"),
    [
        ((3, 1, N_TRIALS), "CHI-IN-261"),
        ((N_IMAGES, 1, 4), "CHI-IN-264"),  # a table that counts from 1
        ((3, 1, 8), "CHI-IN-293"),
        ((3, 0, 4), "CHI-IN-283"),
        ((-1, 1, 4), "CHI-IN-283"),
    ],
)
def test_bad_trials(tmp_path: Path, trial: tuple[int, int, int], code: str) -> None:
    root = write_set(tmp_path, (1,))
    write_tar(root / "wds/subj01/train/20.tar", [trial], 1)
    assert codes(root) == [code]


def test_another_width(tmp_path: Path) -> None:
    root = write_set(tmp_path, (1,))
    write_tar(root / "wds/subj01/train/0.tar", TRAIN[0], 1, width=16)
    assert codes(root) == ["CHI-IN-283"]


def test_missing_sides_and_damaged_tars_are_all_listed(tmp_path: Path) -> None:
    root = write_set(tmp_path)
    (root / "wds/subj01/new_test/0.tar").unlink()
    for number in (0, 10):
        tar = root / f"wds/subj05/train/{number}.tar"
        tar.write_bytes(tar.read_bytes()[:700])
    assert codes(root) == ["CHI-IN-288", "CHI-IN-280", "CHI-IN-280"]


def test_damaged_hdf5_and_an_empty_tar(tmp_path: Path) -> None:
    root = write_set(tmp_path)
    path = root / "betas_all_subj01_fp32_renorm.hdf5"
    path.write_bytes(path.read_bytes()[:200])
    assert codes(root) == ["CHI-IN-262"]
    with h5py.File(path, "w") as file:
        file["betas"] = np.zeros((4, 3, 2), dtype=np.float32)
    assert codes(root) == ["CHI-IN-283"]
    write_tar(root / "wds/subj05/train/0.tar", [], 5)
    assert codes(root, subjects=["05"]) == ["CHI-IN-288"]


def test_values_that_are_not_finite(tmp_path: Path) -> None:
    root = write_set(tmp_path, (1,))
    with h5py.File(root / "betas_all_subj01_fp32_renorm.hdf5", "r+") as file:
        file["betas"][3, 1] = np.inf
    betas = mindeye2.open_set(root).subjects[0].betas
    betas.read(np.array([0, 1, 2]))
    with pytest.raises(InputError, match="CHI-IN-267"):
        betas.read(np.array([2, 3]))
