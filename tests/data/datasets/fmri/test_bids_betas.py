"""BIDS derivatives of betas: row i is the trial of row i of the table in every format, and every mismatch has a name."""

from __future__ import annotations

import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from chiasm.data.datasets.fmri import bids_betas
from chiasm.data.errors import ChiasmError, SeveralErrors

GRID = (4, 3, 5)
AFFINE = np.diag([2.0, 2.0, 2.0, 1.0])
NAMES = ["a/cat.png", "dog.png", "b/owl.jpg", "zebra.png"]  # the order of the stimuli: that of their paths
COLOURS = {"a/cat.png": 10, "b/owl.jpg": 60, "dog.png": 110, "zebra.png": 160}
# stimulus and side of each row of the table, by session and run; n/a is no trial
RUNS = {
    ("1", "1"): [("dog.png", "train"), ("n/a", "n/a"), ("a/cat.png", "test")],
    ("1", "2"): [("zebra.png", "val"), ("dog.png", "train")],
    ("10", "1"): [("dog.png", "train"), ("b/owl.jpg", "train")],
    ("2", "1"): [("a/cat.png", "test"), ("b/owl.jpg", "train")],
}


def inside(subject: str) -> np.ndarray:
    mask = np.zeros(GRID, dtype=bool)
    mask[1:3, :, 1:4] = True
    mask[0, 0, 0] = subject == "02"
    return mask


def values(subject: str, ses: str, run: str, n: int) -> np.ndarray:
    """A volume a trial, (n, X, Y, Z): every number says subject, session, run, trial and voxel."""
    voxels = np.arange(np.prod(GRID)).reshape(GRID) / 1024
    base = 1000 * int(subject) + 100 * int(ses) + 10 * int(run)
    return (base + np.arange(n)[:, None, None, None] + voxels).astype(np.float32)


def save(path: Path, volume: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(volume, affine), path)
    return path


def write_betas(base: Path, data: np.ndarray, form: str, mask: np.ndarray) -> Path:
    rows = np.ascontiguousarray(data[:, mask])
    if form == "nii":
        return save(base.with_name(base.name + "_betas.nii.gz"), np.moveaxis(data, 0, -1))
    if form == "npy":
        path = base.with_name(base.name + "_betas.npy")
        np.save(path, rows)
        return path
    h5py = pytest.importorskip("h5py")
    path = base.with_name(base.name + "_betas.h5")
    with h5py.File(path, "w") as file:
        if form == "h5":
            file["betas"] = rows
        elif form == "glmsingle-volume":
            file["betasmd"] = np.moveaxis(data, 0, -1)
        else:
            file["betasmd"] = rows.T[:, None, None, :]
    return path


def write_table(path: Path, rows: list[tuple[str, str]], *, split: bool = True, column: str = "stim_file") -> None:
    lines = [f"onset\tduration\t{column}" + ("\tsplit" if split else "")]
    lines += [f"{3 * i}\t2\t{name}" + (f"\t{side}" if split else "") for i, (name, side) in enumerate(rows)]
    path.write_text("\n".join(lines) + "\n")


def write_set(root: Path, form: str = "nii", *, subjects: tuple[str, ...] = ("01", "02"), split: bool = True) -> Path:
    for subject in subjects:
        for (ses, run), rows in RUNS.items():
            folder = root / f"sub-{subject}" / f"ses-{ses}" / "func"
            folder.mkdir(parents=True, exist_ok=True)
            base = folder / f"sub-{subject}_ses-{ses}_task-view_run-{run}_space-T1w"
            n = sum(name != "n/a" for name, _ in rows)
            write_betas(base, values(subject, ses, run, n), form, inside(subject))
            write_table(folder / f"sub-{subject}_ses-{ses}_task-view_run-{run}_events.tsv", rows, split=split)
            save(base.with_name(f"{base.name}_desc-brain_mask.nii.gz"), inside(subject).astype(np.uint8))
    for name, colour in COLOURS.items():
        path = root / "stimuli" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 16), (colour, colour, colour)).save(path)
    return root


def base_of(root: Path, subject: str = "01", ses: str = "1", run: str = "1") -> Path:
    return root / f"sub-{subject}/ses-{ses}/func/sub-{subject}_ses-{ses}_task-view_run-{run}"


def codes(root: Path, **options: object) -> list[str]:
    with pytest.raises(ChiasmError) as caught:
        bids_betas.open_set(root, **options)
    error = caught.value
    return [one.code for one in error.errors] if isinstance(error, SeveralErrors) else [error.code]


def check(found: object) -> None:
    order = [("1", "1"), ("1", "2"), ("2", "1"), ("10", "1")]  # sessions as numbers
    for brain in found.subjects:
        mask = inside(brain.name)
        wanted, images, sessions = [], [], []
        for session, (ses, run) in enumerate(order):
            shown = [name for name, _ in RUNS[ses, run] if name != "n/a"]
            wanted.append(values(brain.name, ses, run, len(shown))[:, mask])
            images += shown
            sessions += [{0: 1, 1: 1, 2: 2, 3: 3}[session]] * len(shown)
        trials = brain.trials
        np.testing.assert_array_equal(brain.betas.read(trials.row), np.concatenate(wanted))
        pixels = found.stimuli.read(trials.image, size=8)[:, 4, 4, 0].astype(int)
        np.testing.assert_allclose(pixels, [COLOURS[name] for name in images], atol=2)
        assert [found.stimuli.names[i] for i in trials.image] == [Path(name).stem for name in images]
        np.testing.assert_array_equal(trials.session, sessions)
        np.testing.assert_array_equal(trials.repeat, [0, 0, 0, 1, 1, 0, 2, 1])
        np.testing.assert_array_equal(trials.split, [0, 2, 1, 0, 2, 0, 0, 0])


@pytest.mark.parametrize("form", ["nii", "npy", "h5", "glmsingle-volume", "glmsingle-flat"])
@pytest.mark.parametrize("cached", [False, True])
def test_row_i_belongs_to_trial_i_in_every_form(tmp_path: Path, form: str, cached: bool) -> None:
    root = write_set(tmp_path / "set", form)
    cache = tmp_path / "cache" if cached else None
    assert bids_betas.matches(root)
    assert bids_betas.subject_names(root) == ["01", "02"]
    check(bids_betas.open_set(root, cache=cache))
    turned = sorted(path.suffix for path in cache.iterdir()) if cached and cache.is_dir() else []
    n_turned = 8 if cached and form not in ("npy", "h5") else 0
    assert turned == [".json"] * (2 * n_turned) + [".npy"] * n_turned


def test_the_cache_is_used_again_until_a_source_or_the_mask_changes(tmp_path: Path) -> None:
    root, cache = write_set(tmp_path / "set", subjects=("01",)), tmp_path / "cache"
    bids_betas.open_set(root, cache=cache)
    first = {path: path.stat().st_mtime_ns for path in cache.glob("*.npy")}
    check(bids_betas.open_set(root, cache=cache))
    assert {path: path.stat().st_mtime_ns for path in cache.glob("*.npy")} == first
    changed = save(Path(f"{base_of(root)}_space-T1w_betas.nii.gz"), np.zeros((*GRID, 2), np.float32))
    os.utime(changed, ns=(1, 1))
    brain = bids_betas.open_set(root, cache=cache).subjects[0]
    assert not brain.betas.read(np.arange(2)).any()
    assert len(list(cache.glob("*.npy"))) == 5


def test_the_mask_says_where_voxels_are_and_regions_are_parts_of_it(tmp_path: Path) -> None:
    root = write_set(tmp_path, subjects=("01",))
    region = np.zeros(GRID, np.uint8)
    region[1, 1] = 1
    save(root / "sub-01/ses-1/func/sub-01_ses-1_space-T1w_label-V1_mask.nii.gz", region)
    brain = bids_betas.open_set(root).subjects[0]
    np.testing.assert_array_equal(brain.mask.inside, inside("01"))
    np.testing.assert_array_equal(brain.mask.affine, AFFINE)
    np.testing.assert_array_equal(brain.rois["v1"], (region > 0)[inside("01")])
    chosen = bids_betas.open_set(root, roi="V1").subjects[0]
    assert chosen.n_voxels == 5
    np.testing.assert_array_equal(chosen.betas.read(np.array([0])), values("01", "1", "1", 1)[:, region > 0])
    assert codes(root, roi="V4") == ["CHI-IN-291"]


def test_voxels_that_are_in_every_runs_mask(tmp_path: Path) -> None:
    root = write_set(tmp_path, subjects=("01",))
    smaller = inside("01")
    smaller[1, 0, 1] = False
    save(Path(f"{base_of(root)}_space-T1w_desc-brain_mask.nii.gz"), smaller.astype(np.uint8))
    brain = bids_betas.open_set(root).subjects[0]
    np.testing.assert_array_equal(brain.mask.inside, smaller)
    np.testing.assert_array_equal(brain.betas.read(np.array([1]))[0], values("01", "1", "1", 2)[1][smaller])


def test_a_file_a_session_takes_the_tables_of_its_runs_in_order(tmp_path: Path) -> None:
    root = write_set(tmp_path, "npy", subjects=("01",))
    folder = root / "sub-01/ses-1/func"
    parts = [Path(f"{base_of(root, run=run)}_space-T1w_betas.npy") for run in "12"]
    np.save(folder / "sub-01_ses-1_space-T1w_desc-glmsingle_betas.npy", np.concatenate([np.load(p) for p in parts]))
    for ses in ("2", "10"):
        old = Path(f"{base_of(root, ses=ses)}_space-T1w_betas.npy")
        old.rename(old.with_name(f"sub-01_ses-{ses}_space-T1w_desc-glmsingle_betas.npy"))
    for part in parts:
        part.unlink()
    check(bids_betas.open_set(root))


def test_trials_tables_come_before_events_and_endings_may_be_left_out(tmp_path: Path) -> None:
    root = write_set(tmp_path, "npy", subjects=("01",))
    rows = [("stimuli/zebra.png", "train"), ("b/owl", "train")]
    write_table(Path(f"{base_of(root)}_trials.tsv"), rows, column="image")
    found = bids_betas.open_set(root)
    assert [found.stimuli.names[i] for i in found.subjects[0].trials.image[:2]] == ["zebra", "owl"]


def test_events_and_stimuli_of_the_raw_data_set(tmp_path: Path) -> None:
    root = write_set(tmp_path / "derivatives" / "glmsingle", "npy", subjects=("01",))
    for table in list(root.rglob("*_events.tsv")):
        place = tmp_path / table.relative_to(root)
        place.parent.mkdir(parents=True, exist_ok=True)
        table.rename(place)
    (root / "stimuli").rename(tmp_path / "stimuli")
    check(bids_betas.open_set(root))
    assert bids_betas.matches(tmp_path)
    check(bids_betas.open_set(tmp_path))


def test_without_a_split_all_is_training_and_said(tmp_path: Path) -> None:
    found = bids_betas.open_set(write_set(tmp_path, "npy", split=False))
    assert not found.subjects[0].trials.split.any()
    assert any("split" in note for note in found.notes)


def test_without_stimuli_images_are_numbered_alike_for_all(tmp_path: Path) -> None:
    root = write_set(tmp_path, "npy")
    (root / "stimuli").rename(root / "elsewhere")
    found = bids_betas.open_set(root)
    assert found.stimuli is None
    np.testing.assert_array_equal(found.subjects[0].trials.image, found.subjects[1].trials.image)
    np.testing.assert_array_equal(found.subjects[0].trials.image, [2, 0, 3, 2, 0, 1, 2, 1])


def test_a_missing_stimulus_is_counted_and_others_open(tmp_path: Path) -> None:
    root = write_set(tmp_path)
    write_table(Path(f"{base_of(root)}_events.tsv"), [("dog.png", "train"), ("cow.png", "train")])
    assert codes(root) == ["CHI-IN-289"]
    assert [brain.name for brain in bids_betas.open_set(root, subjects=["02"]).subjects] == ["02"]


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("onset\tduration\n0\t1\n", "CHI-IN-294"),
        ("onset\tstim_file\n0\n", "CHI-IN-294"),
        ("stim_file\n", "CHI-IN-294"),
        ("stim_file\tsplit\ndog.png\ttrain\ndog.png\tmaybe\n", "CHI-IN-295"),
        ("stim_file\ndog.png\n", "CHI-IN-299"),
    ],
)
def test_bad_tables(tmp_path: Path, text: str, code: str) -> None:
    root = write_set(tmp_path)
    Path(f"{base_of(root)}_events.tsv").write_text(text)
    assert codes(root) == [code]


def test_no_table_no_mask_and_no_values_are_all_listed(tmp_path: Path) -> None:
    root = write_set(tmp_path)
    Path(f"{base_of(root)}_events.tsv").unlink()
    Path(f"{base_of(root, ses='2')}_events.tsv").unlink()
    for mask in (root / "sub-02").rglob("*_mask.nii.gz"):
        mask.unlink()
    assert codes(root) == ["CHI-IN-297", "CHI-IN-297", *["CHI-IN-298"] * 4]


@pytest.mark.parametrize("form", ["nii", "npy", "glmsingle-volume"])
def test_another_number_of_rows(tmp_path: Path, form: str) -> None:
    root = write_set(tmp_path, form)
    write_betas(Path(f"{base_of(root)}_space-T1w"), values("01", "1", "1", 3), form, inside("01"))
    assert codes(root) == ["CHI-IN-299"]


def test_masks_of_another_shape_place_or_size(tmp_path: Path) -> None:
    root = write_set(tmp_path)
    path = Path(f"{base_of(root)}_space-T1w_desc-brain_mask.nii.gz")
    save(path, np.ones((4, 3, 6), np.uint8))
    assert codes(root) == ["CHI-IN-296"]
    shifted = AFFINE.copy()
    shifted[0, 3] = 4.0
    save(path, inside("01").astype(np.uint8), shifted)
    assert codes(root) == ["CHI-IN-296"]
    save(path, np.zeros(GRID, np.uint8))
    assert codes(root) == ["CHI-IN-298"]
    for one in (root / "sub-01").rglob("*_mask.nii.gz"):
        save(one, np.ones((5, 5, 5), np.uint8))
    assert codes(root) == ["CHI-IN-296"] * 4


def test_voxels_that_do_not_fit_the_mask_or_each_other(tmp_path: Path) -> None:
    root = write_set(tmp_path, "npy")
    write_betas(Path(f"{base_of(root)}_space-T1w"), values("01", "1", "1", 2), "npy", inside("02"))
    assert codes(root) == ["CHI-IN-286"]
    for mask in (root / "sub-01").rglob("*_mask.nii.gz"):
        save(mask, np.ones(GRID, np.uint8))
    write_betas(Path(f"{base_of(root)}_space-T1w"), values("01", "1", "1", 2), "npy", inside("01"))
    assert codes(root) == ["CHI-IN-298"]


@pytest.mark.parametrize("form", ["nii", "glmsingle-volume", "glmsingle-flat"])
def test_nan_inside_the_mask(tmp_path: Path, form: str) -> None:
    root = write_set(tmp_path / "set", form)
    data = values("01", "1", "1", 2)
    data[1, 1, 1, 2] = np.nan
    data[:, 0, 0, 0] = np.nan  # outside the mask: of no matter
    write_betas(Path(f"{base_of(root)}_space-T1w"), data, form, inside("01"))
    assert codes(root, cache=tmp_path / "cache") == ["CHI-IN-267"]
    assert not [path for path in (tmp_path / "cache").iterdir() if path.name.startswith(".")]  # nothing half-written
    assert len(list((tmp_path / "cache").glob("*.npy"))) == 7


def test_nan_in_rows_is_found_when_they_are_read(tmp_path: Path) -> None:
    root = write_set(tmp_path, "npy")
    data = values("01", "1", "1", 2)
    data[1, 1, 1, 2] = np.nan
    write_betas(Path(f"{base_of(root)}_space-T1w"), data, "npy", inside("01"))
    betas = bids_betas.open_set(root).subjects[0].betas
    betas.read(np.array([0, 2]))
    with pytest.raises(ChiasmError, match=r"CHI-IN-267.*sub-01"):
        betas.read(np.array([1]))


def test_damaged_files(tmp_path: Path) -> None:
    root = write_set(tmp_path)
    path = Path(f"{base_of(root)}_space-T1w_betas.nii.gz")
    path.write_bytes(path.read_bytes()[:-40])
    assert codes(root)[0] in ("CHI-IN-006", "CHI-IN-014")
    path.unlink()
    path.with_name(path.name.replace(".nii.gz", ".h5")).write_bytes(b"no HDF5")
    assert codes(root) == ["CHI-IN-262"]


def test_an_unknown_form_of_betasmd(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    root = write_set(tmp_path, "h5", subjects=("01",))
    with h5py.File(f"{base_of(root)}_space-T1w_betas.h5", "w") as file:
        file["betasmd"] = np.zeros((4, 3, 2))
    assert codes(root) == ["CHI-IN-303"]


def test_two_forms_of_one_run(tmp_path: Path) -> None:
    root = write_set(tmp_path, "npy", subjects=("01",))
    write_betas(Path(f"{base_of(root)}_space-T1w"), values("01", "1", "1", 2), "nii", inside("01"))
    assert codes(root) == ["CHI-IN-305"]


def test_links_that_lead_out(tmp_path: Path) -> None:
    root = write_set(tmp_path / "set", "npy", subjects=("01",))
    path = Path(f"{base_of(root)}_space-T1w_betas.npy")
    path.rename(tmp_path / "outside.npy")
    path.symlink_to(tmp_path / "outside.npy")
    assert codes(root) == ["CHI-IN-067"]
    path.unlink()
    (tmp_path / "outside.npy").rename(path)
    (root / "sub-01/ses-1").rename(tmp_path / "ses-1")
    (root / "sub-01/ses-1").symlink_to(tmp_path / "ses-1")
    assert codes(root) == ["CHI-IN-067"]


def test_too_large_for_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_set(tmp_path / "set", subjects=("01",))
    monkeypatch.setattr("chiasm.data.fmri.beta_files.MAX_MEMORY_BYTES", 50)
    with pytest.raises(SeveralErrors) as caught:
        bids_betas.open_set(root)
    assert {one.code for one in caught.value.errors} == {"CHI-IN-269"}
    check(bids_betas.open_set(root, cache=tmp_path / "cache"))
