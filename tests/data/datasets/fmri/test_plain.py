"""A plain folder reads the same from tables and volumes; mistakes of a table are told together, with their lines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import nibabel
import numpy as np
import pytest
from PIL import Image

from chiasm.data.datasets.fmri import plain
from chiasm.data.errors import ChiasmError, InputError, SeveralErrors

SHAPE = (4, 3, 2)
INSIDE = np.arange(24).reshape(SHAPE) % 3 == 0
NAMES = ["b", "a", "d", "c"]
IMAGES = ["a.png", "b", "c.png", "a", "b.png", "d", "a", "c"]


def volumes() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(8, *SHAPE)).astype(np.float32)


def table(**columns: Any) -> str:
    columns = {"image": IMAGES, **columns}
    rows = zip(*columns.values(), strict=True)
    return "\n".join(["\t".join(columns), *("\t".join(map(str, row)) for row in rows)]) + "\n"


def write(folder: Path, form: str = "npy", text: str = "", *, stimuli: bool = True) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    if form == "npy":
        np.save(folder / "betas.npy", np.ascontiguousarray(volumes()[:, INSIDE]))
    else:
        nibabel.save(nibabel.Nifti1Image(volumes().transpose(1, 2, 3, 0), np.eye(4)), folder / "betas.nii.gz")
        nibabel.save(nibabel.Nifti1Image(INSIDE.astype(np.uint8), np.eye(4)), folder / "mask.nii.gz")
    (folder / "trials.tsv").write_text(text or table())
    if stimuli:
        (folder / "stimuli").mkdir()
        for i, name in enumerate(sorted(NAMES)):
            Image.new("RGB", (8, 8), (i * 10, 0, 0)).save(folder / "stimuli" / f"{name}.png")
    return folder


def codes(error: ChiasmError) -> set[str]:
    return {each.code for each in error.errors} if isinstance(error, SeveralErrors) else {error.code}


@pytest.mark.parametrize("form", ["npy", "nii"])
def test_table_and_volumes_give_the_same(form: str, tmp_path: Path) -> None:
    root = write(tmp_path / "in", form, table(session=[1, 1, 1, 1, 2, 2, 2, 2], split=["train"] * 7 + ["val"]))
    got = plain.open_set(root, cache=tmp_path / "cache")
    (subject,) = got.subjects
    assert (got.layout, subject.name, plain.subject_names(root)) == ("plain", "01", ["01"])
    np.testing.assert_allclose(subject.betas.read(np.arange(8)), volumes()[:, INSIDE], rtol=1e-6)
    assert subject.trials.image.tolist() == [0, 1, 2, 0, 1, 3, 0, 2]
    assert subject.trials.repeat.tolist() == [0, 0, 0, 1, 1, 0, 2, 1]
    assert subject.trials.session.tolist() == [1, 1, 1, 1, 2, 2, 2, 2]
    assert subject.trials.split.tolist() == [0] * 7 + [1]
    assert (subject.mask is None) == (form == "npy")
    assert got.notes == ()
    shown = got.stimuli.read(subject.trials.image, size=8)[:, 0, 0, 0]
    np.testing.assert_array_equal(shown, subject.trials.image * 10)


def test_whole_numbers_are_taken_as_they_are(tmp_path: Path) -> None:
    root = write(tmp_path / "in", "nii")
    values = np.arange(24 * 8, dtype=np.int16).reshape(*SHAPE, 8)
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), root / "betas.nii.gz")
    got = plain.open_set(root).subjects[0].betas.read(np.arange(8))
    np.testing.assert_array_equal(got, values[INSIDE].T)


def test_rows_in_another_order_and_left_out(tmp_path: Path) -> None:
    text = "row\tsession\timage\n5\t2\ta\n0\t1\td\n3\t1\ta\n"
    trials = plain.open_set(write(tmp_path / "in", text=text)).subjects[0].trials
    assert trials.row.tolist() == [0, 3, 5]
    assert trials.image.tolist() == [3, 0, 0]
    assert trials.repeat.tolist() == [0, 0, 1]


def test_several_subjects_share_stimuli_and_fail_alone(tmp_path: Path) -> None:
    root = tmp_path / "in"
    write(root, stimuli=True)
    for name in ("betas.npy", "trials.tsv"):
        (root / name).unlink()
    write(root / "sub-02", stimuli=False, text=table(category=["x", "y", "x", "x", "y", "n/a", "x", "x"]))
    write(root / "sub-10", "nii", stimuli=False)
    assert plain.subject_names(root) == ["02", "10"]
    got = plain.open_set(root)
    assert [subject.name for subject in got.subjects] == ["02", "10"]
    np.testing.assert_array_equal(got.subjects[0].trials.image, got.subjects[1].trials.image)
    assert got.stimuli.categories == ("x", "y", "x", "")
    assert any("no split" in note for note in got.notes)
    (root / "sub-10" / "mask.nii.gz").unlink()
    with pytest.raises(ChiasmError) as caught:
        plain.open_set(root)
    assert codes(caught.value) == {"CHI-IN-275"}
    assert plain.open_set(root, subjects=["2"]).subjects[0].name == "02"
    with pytest.raises(InputError) as caught:
        plain.open_set(root, subjects=["3"])
    assert caught.value.code == "CHI-IN-290"


def test_stimuli_in_other_forms(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (4, 8, 8, 3), dtype=np.uint8)
    text = table(image=[0, 1, 2, 0, 1, 3, 0, 2])
    root = write(tmp_path / "in", text=text, stimuli=False)
    without = plain.open_set(root)
    assert without.stimuli is None
    assert without.subjects[0].trials.image.tolist() == [0, 1, 2, 0, 1, 3, 0, 2]
    np.save(root / "stimuli.npy", pixels)
    np.testing.assert_array_equal(plain.open_set(root).stimuli.read(np.array([2]), size=8), pixels[2:3])
    for key in ("imgBrick", "images", "stimuli"):
        with h5py.File(root / "stimuli.hdf5", "w") as file:
            file[key] = pixels[::-1]
        np.testing.assert_array_equal(plain.open_set(root).stimuli.read(np.array([2]), size=8), pixels[1:2])
    (root / "stimuli.hdf5").write_bytes(b"nothing")
    with pytest.raises(InputError) as caught:
        plain.open_set(root)
    assert caught.value.code == "CHI-IN-262"
    (root / "stimuli.hdf5").unlink()
    for content in (b"", b"\x93NUMPY\x01\x00\xff\xff{", b"text" * 100):
        (root / "stimuli.npy").write_bytes(content)
        with pytest.raises(InputError) as caught:
            plain.open_set(root)
        assert caught.value.code == "CHI-IN-263"


def test_names_that_are_numbers_are_names(tmp_path: Path) -> None:
    root = write(tmp_path / "in", text=table(image=[3, "005", "3.png", 9, 9, 5, 3, "012"]), stimuli=False)
    (root / "stimuli").mkdir()
    for name in ("3", "005", "9", "012"):
        Image.new("RGB", (8, 8)).save(root / "stimuli" / f"{name}.png")
    got = plain.open_set(root)
    assert got.stimuli.names == ("005", "012", "3", "9")
    assert got.subjects[0].trials.image.tolist() == [2, 0, 2, 3, 3, 0, 2, 1]
    (root / "trials.tsv").write_text(table(image=[3, 3, 3, 3, 3, 3, 3, 0]))
    with pytest.raises(InputError, match=r"line 9.*3 to 12"):
        plain.open_set(root)


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        ({"image": ["a"] * 7 + ["e"]}, "line 9: there is no stimulus 'e'"),
        ({"image": ["a"] * 7 + ["4"]}, r"no stimulus '4' among 4 \(0 to 3\)"),
        ({"image": ["a"] * 7 + [""], "session": [1] * 8}, "line 9: it names no image"),
        ({"row": range(1, 9)}, "line 9: row 8 .* Rows count from 0"),
        ({"row": [0, 1, 2, 3, 4, 5, 6, 2]}, "line 9: row 2 is taken already, by line 4"),
        ({"row": [0, 1, 2, 3, 4, 5, 6, "x"]}, "line 9: row is 'x'"),
        ({"row": [0, 1, 2, 3, 4, 5, 6, ""]}, "line 9: row is ''"),
        ({"session": [0] + [1] * 7}, "line 2: session is '0'"),
        ({"repeat": [0.5] + [1] * 7}, "line 2: repeat is '0.5'"),
        ({"split": ["tset"] + ["test"] * 7}, "line 2: split is 'tset'.*'test'"),
        ({"split": ["test"] * 7 + ["n/a"]}, r"1 line\(s\) have no split"),
        ({"subject": ["01"] * 7 + ["02"]}, "line 9: it belongs to subject 02"),
        ({"category": ["x"] * 3 + ["y"] * 5}, "line 5: the image has the category 'y'"),
        ({"immage": ["a"] * 8, "image2": ["a"] * 8}, ""),
    ],
)
def test_mistakes_of_the_table(columns: dict[str, Any], says: str, tmp_path: Path) -> None:
    text = table(**columns)
    if not says:
        text, says = text.replace("image\t", "immage\t", 1), "no column 'image'"
    with pytest.raises(ChiasmError, match=says) as caught:
        plain.open_set(write(tmp_path / "in", text=text))
    assert codes(caught.value) == {"CHI-IN-272"}


def test_all_mistakes_at_once(tmp_path: Path) -> None:
    text = table(row=[0, 1, "x", 3, 4, 5, 6, 7], session=[1, 1, 1, 1, 1, 1, 1, -1]) + "a\tb\n"
    with pytest.raises(SeveralErrors) as caught:
        plain.open_set(write(tmp_path / "in", text=text))
    assert [error.message.split(":")[0] for error in caught.value.errors] == ["line 4", "line 9", "line 10"]
    (tmp_path / "in" / "trials.tsv").write_text("image\n" + "\n".join(f"none{i}" for i in range(8)))
    with pytest.raises(SeveralErrors) as caught:
        plain.open_set(tmp_path / "in")
    assert len(caught.value.errors) == 8
    np.save(tmp_path / "in" / "betas.npy", np.zeros((900, 3)))
    (tmp_path / "in" / "trials.tsv").write_text("image\n" + "\n".join(f"none{i}" for i in range(900)))
    with pytest.raises(SeveralErrors, match="881 more") as caught:
        plain.open_set(tmp_path / "in")
    assert len(caught.value.errors) == 20


@pytest.mark.parametrize(
    "content", [None, b"", b"image\n", b"\xff\xfe\x00bad", b"image\na\na\n", b"image\timage\na\ta\n"]
)
def test_tables_that_are_none(content: bytes | None, tmp_path: Path) -> None:
    root = write(tmp_path / "in")
    path = root / "trials.tsv"
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        plain.open_set(root)
    assert caught.value.code == "CHI-IN-272"


def test_blank_lines_do_not_shift_line_numbers(tmp_path: Path) -> None:
    text = "image\n\na\nb\n\nc\na\nb\nd\na\nnone\n"
    with pytest.raises(InputError, match="line 11"):
        plain.open_set(write(tmp_path / "in", text=text))


def test_mask_that_does_not_fit(tmp_path: Path) -> None:
    root = write(tmp_path / "in")
    for inside in (INSIDE, ~INSIDE):
        nibabel.save(nibabel.Nifti1Image(inside.astype(np.uint8), np.eye(4)), root / "mask.nii.gz")
        if inside is INSIDE:
            np.testing.assert_array_equal(plain.open_set(root).subjects[0].mask.inside, INSIDE)
        else:
            with pytest.raises(InputError, match="8 voxels, and the mask 16") as caught:
                plain.open_set(root)
            assert caught.value.code == "CHI-IN-266"
    root = write(tmp_path / "other", "nii")
    nibabel.save(nibabel.Nifti1Image(np.ones((4, 3, 3), np.uint8), np.eye(4)), root / "mask.nii.gz")
    with pytest.raises(InputError) as caught:
        plain.open_set(root)
    assert caught.value.code == "CHI-IN-266"


def test_betas_with_nan(tmp_path: Path) -> None:
    root = write(tmp_path / "in", "nii")
    values = volumes()
    values[3, 0, 0, 0] = np.nan
    nibabel.save(nibabel.Nifti1Image(values.transpose(1, 2, 3, 0), np.eye(4)), root / "betas.nii.gz")
    with pytest.raises(InputError) as caught:
        plain.open_set(root)
    assert caught.value.code == "CHI-IN-267"


def test_regions_in_place_of_the_mask(tmp_path: Path) -> None:
    root = write(tmp_path / "in", "nii")
    small = INSIDE.copy()
    small[2:] = False
    nibabel.save(nibabel.Nifti1Image(small.astype(np.uint8), np.eye(4)), root / "V1.nii.gz")
    got = plain.open_set(root, roi="V1").subjects[0]
    np.testing.assert_allclose(got.betas.read(np.arange(8)), volumes()[:, small], rtol=1e-6)
    with pytest.raises(InputError, match="V1") as caught:
        plain.open_set(root, roi="V2")
    assert caught.value.code == "CHI-IN-268"
    with pytest.raises(InputError) as caught:
        plain.open_set(write(tmp_path / "npy"), roi="V1")
    assert caught.value.code == "CHI-IN-268"


def test_links_out_of_the_folder(tmp_path: Path) -> None:
    root = write(tmp_path / "in")
    (root / "betas.npy").rename(tmp_path / "secret.npy")
    (root / "betas.npy").symlink_to(tmp_path / "secret.npy")
    with pytest.raises(InputError) as caught:
        plain.open_set(root)
    assert caught.value.code == "CHI-IN-067"


def test_no_plain_folder(tmp_path: Path) -> None:
    (tmp_path / "sub-01").mkdir()
    (tmp_path / "sub-01" / "bold.nii.gz").touch()
    assert not plain.matches(tmp_path)
    assert not plain.matches(tmp_path / "none")
