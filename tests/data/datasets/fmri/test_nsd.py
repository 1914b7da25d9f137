"""NSD as it is published: numbers from 1, axes turned round in HDF5, partial subjects, and everything that can be wrong with it."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import nibabel
import numpy as np
import pytest
from scipy.io import savemat

from chiasm.data.datasets.fmri import nsd, nsd_design, open_decoding_set, subject_names
from chiasm.data.errors import ChiasmError, InputError, ResourceError, SeveralErrors
from chiasm.data.fmri import beta_files
from chiasm.data.fmri.betas import ArrayBetas, StoredBetas
from chiasm.data.fmri.stimulus_splits import check_disjoint
from chiasm.data.guard import GuardedReader

SHAPE = (5, 4, 3)
AFFINE = np.diag([1.8, 1.8, 1.8, 1.0])
VERSION = "betas_fithrf_GLMdenoise_RR"


@dataclass
class Tree:
    """A small NSD: 12 images a subject (3 shared), 3 repeats, 4 sessions of 9 trials; 20 stimuli."""

    root: Path
    n_subjects: int = 2
    seed: int = 0
    design: dict[str, np.ndarray] = field(default_factory=dict)
    betas: dict[int, np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        rng = np.random.default_rng(self.seed)
        shared = np.array([2, 7, 19])
        own = [np.setdiff1d(rng.permutation(20), shared)[:9] for _ in range(self.n_subjects)]
        self.design = {
            "masterordering": rng.permutation(np.repeat(np.arange(12), 3))[None] + 1,
            "subjectim": np.stack([np.concatenate([shared, images]) for images in own]) + 1,
            "sharedix": shared[None] + 1,
        }
        # Whole thirds of a percent: exact in int16 times 300.
        self.betas = {s: rng.integers(-900, 900, (36, *SHAPE)) for s in range(1, self.n_subjects + 1)}

    @property
    def mask(self) -> np.ndarray:
        inside = np.random.default_rng(9).random(SHAPE) < 0.4
        inside[0, 0, 0] = True
        return inside

    def space(self, subject: int) -> Path:
        return self.root / f"nsddata/ppdata/subj{subject:02d}/func1pt8mm"

    def betas_folder(self, subject: int) -> Path:
        return self.root / f"nsddata_betas/ppdata/subj{subject:02d}/func1pt8mm/{VERSION}"

    def write(self, form: str = "hdf5", *, sessions: tuple[int, ...] = (1, 2, 3, 4)) -> Tree:
        experiment = self.root / "nsddata/experiments/nsd"
        experiment.mkdir(parents=True)
        savemat(experiment / "nsd_expdesign.mat", {name: v.astype(float) for name, v in self.design.items()})
        stimuli = self.root / "nsddata_stimuli/stimuli/nsd/nsd_stimuli.hdf5"
        stimuli.parent.mkdir(parents=True)
        with h5py.File(stimuli, "w") as file:
            file["imgBrick"] = np.broadcast_to(np.arange(20, dtype=np.uint8)[:, None, None, None], (20, 8, 8, 3))
        for subject in range(1, self.n_subjects + 1):
            roi, folder = self.space(subject) / "roi", self.betas_folder(subject)
            roi.mkdir(parents=True)
            folder.mkdir(parents=True)
            save(roi / "nsdgeneral.nii.gz", np.where(self.mask, 1, -1).astype(np.int16))
            for session in sessions:
                self.write_session(subject, session, form)
        return self

    def write_session(self, subject: int, session: int, form: str, n: int = 9, **options: Any) -> None:
        values = self.betas[subject][(session - 1) * 9 :][:n].astype(np.int16)
        stem = self.betas_folder(subject) / f"betas_session{session:02d}"
        if form == "hdf5":
            with h5py.File(stem.with_suffix(".hdf5"), "w") as file:
                file.create_dataset("betas", data=values.transpose(0, 3, 2, 1), **options)
        else:
            stored = values if form == "int.nii.gz" else (values / 300).astype(np.float32)
            save(stem.with_suffix(".nii.gz"), stored.transpose(1, 2, 3, 0))

    def expected(self, subject: int, rows: np.ndarray | slice = slice(None)) -> np.ndarray:
        return (self.betas[subject][rows][:, self.mask] / 300).astype(np.float32)


def save(path: Path, values: np.ndarray) -> None:
    nibabel.save(nibabel.Nifti1Image(values, AFFINE), path)


def codes(error: ChiasmError) -> set[str]:
    return {each.code for each in error.errors} if isinstance(error, SeveralErrors) else {error.code}


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path / "nsd")


@pytest.fixture(autouse=True)
def _in_process(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read the design without a child, which takes half a second to start, but where a test is about the child."""
    if "own_guard" in request.fixturenames:
        return

    def run(self: GuardedReader, job: str, arguments: dict[str, str], *, file: str = "") -> Any:
        try:
            return nsd_design.read_tables(**arguments)
        except InputError:
            raise
        except Exception as error:
            raise InputError("CHI-IN-047", "as the guard says it") from error

    monkeypatch.setattr(GuardedReader, "run", run)


@pytest.fixture
def own_guard() -> None:
    """Let the child be."""


@pytest.mark.parametrize("form", ["hdf5", "int.nii.gz", "float.nii.gz"])
def test_all_forms_give_equal_betas(form: str, tree: Tree) -> None:
    tree.write(form)
    got = open_decoding_set(tree.root)
    assert got.layout == "nsd"
    assert [subject.name for subject in got.subjects] == subject_names(tree.root) == ["01", "02"]
    for number, subject in enumerate(got.subjects, 1):
        np.testing.assert_allclose(subject.betas.read(np.arange(36)), tree.expected(number), rtol=1e-6)
        np.testing.assert_array_equal(subject.mask.inside, tree.mask)
        np.testing.assert_allclose(subject.mask.affine, AFFINE)


def test_hdf5_is_taken_where_both_forms_are_there(tree: Tree) -> None:
    tree.write()
    (tree.betas_folder(1) / "betas_session02.nii.gz").write_bytes(b"not looked at")
    got = open_decoding_set(tree.root, subjects=["01"]).subjects[0]
    np.testing.assert_allclose(got.betas.read(np.arange(36)), tree.expected(1), rtol=1e-6)


@pytest.mark.parametrize("chunks", [(1, 3, 4, 5), (9, 1, 4, 1), (9, 2, 4, 5), (4, 3, 4, 5)])
def test_however_the_hdf5_is_packed(chunks: tuple[int, ...], tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    tree.write()
    for session in range(1, 5):
        tree.write_session(1, session, "hdf5", chunks=chunks, compression="gzip")
    monkeypatch.setattr(beta_files, "_BLOCK_BYTES", 200)
    monkeypatch.setattr(beta_files, "_SLAB_BYTES", 600)
    got = open_decoding_set(tree.root, subjects=["01"]).subjects[0]
    np.testing.assert_allclose(got.betas.read(np.arange(36)), tree.expected(1), rtol=1e-6)


def test_trials_count_from_zero_and_shared_images_are_the_test(tree: Tree) -> None:
    tree.write()
    got = open_decoding_set(tree.root)
    check_disjoint(got.subjects)
    for number, subject in enumerate(got.subjects):
        trials = subject.trials
        for i in range(36):
            image = tree.design["subjectim"][number, tree.design["masterordering"][0, i] - 1] - 1
            assert trials.image[i] == image
            assert trials.repeat[i] == (trials.image[:i] == image).sum()
            assert trials.split[i] == (2 if image in (2, 7, 19) else 0)
        np.testing.assert_array_equal(trials.session, np.repeat([1, 2, 3, 4], 9))
        # The picture that belongs to a trial: stimulus i is grey of value i.
        shown = got.stimuli.read(trials.image, size=8)[:, 0, 0, 0]
        np.testing.assert_array_equal(shown, trials.image)
    assert got.stimuli.names[:3] == ("1", "2", "3")
    assert got.stimuli.categories == ()


def test_names_and_categories_from_the_table_of_stimuli(tree: Tree) -> None:
    tree.write()
    lines = [",nsdId,name,category"] + [f"{i},{i},img {i},{'cat' if i % 2 else 'dog'}" for i in reversed(range(20))]
    table = tree.root / "nsddata/experiments/nsd/nsd_stim_info_merged.csv"
    table.write_text("\n".join(lines))
    stimuli = open_decoding_set(tree.root, subjects=["1"]).stimuli
    assert stimuli.names[:2] == ("img 0", "img 1")
    assert stimuli.categories[:2] == ("dog", "cat")
    table.write_text("\n".join(lines[:-1]))  # one is missing: none is used
    assert open_decoding_set(tree.root, subjects=["1"]).stimuli.categories == ()


@pytest.mark.parametrize("sessions", [(1, 2), (1, 3), (2, 4), (3,)])
def test_fewer_sessions(sessions: tuple[int, ...], tree: Tree) -> None:
    tree.write(sessions=sessions)
    subject = open_decoding_set(tree.root, subjects=["02"]).subjects[0]
    places = np.concatenate([np.arange((s - 1) * 9, s * 9) for s in sessions])
    np.testing.assert_allclose(subject.betas.read(subject.trials.row), tree.expected(2, places), rtol=1e-6)
    column = tree.design["masterordering"][0]
    np.testing.assert_array_equal(subject.trials.image, tree.design["subjectim"][1][column[places] - 1] - 1)
    # Seen in a session that is missing is seen all the same.
    assert subject.trials.repeat.tolist() == [(column[:i] == column[i]).sum() for i in places]


def test_sessions_of_different_length(tree: Tree) -> None:
    tree.write(sessions=(1,))
    tree.write_session(1, 1, "hdf5", n=7)
    tree.betas[1][9:] = np.roll(tree.betas[1][9:], 1, axis=0)
    tree.write_session(1, 2, "hdf5")
    trials = open_decoding_set(tree.root, subjects=["01"]).subjects[0].trials
    assert trials.session.tolist() == [1] * 7 + [2] * 9
    np.testing.assert_array_equal(
        trials.image, tree.design["subjectim"][0][tree.design["masterordering"][0, :16] - 1] - 1
    )
    tree.write_session(1, 4, "hdf5")  # and now session 3 is missing
    with pytest.raises(InputError, match="cannot be placed") as caught:
        open_decoding_set(tree.root, subjects=["01"])
    assert caught.value.code == "CHI-IN-274"


def test_cache_is_made_once_used_and_made_anew(tree: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree.write()
    cache = tmp_path / "cache"
    first = open_decoding_set(tree.root, cache=cache).subjects[0]
    assert isinstance(first.betas, StoredBetas)
    np.testing.assert_allclose(first.betas.read(np.arange(36)), tree.expected(1), rtol=1e-6)
    names = sorted(path.name for path in cache.iterdir())
    assert [name.split("_")[-1] for name in names] == ["betas.json", "betas.npy"] * 2
    with monkeypatch.context() as patch:
        patch.setattr(beta_files.BetaVolumes, "chunks", None)  # a second opening reads no volume
        again = open_decoding_set(tree.root, cache=cache).subjects[0]
        np.testing.assert_array_equal(again.betas.read(np.arange(36)), first.betas.read(np.arange(36)))
    tree.betas[1] = tree.betas[1][::-1]
    tree.write_session(1, 2, "hdf5")
    os.utime(tree.betas_folder(1) / "betas_session02.hdf5", ns=(1, 1))
    changed = open_decoding_set(tree.root, cache=cache).subjects[0]
    np.testing.assert_allclose(changed.betas.read(np.arange(9, 18)), tree.expected(1, slice(9, 18)), rtol=1e-6)
    before = changed.betas.read(np.arange(4))
    save(tree.space(1) / "roi/nsdgeneral.nii.gz", np.roll(tree.mask, 1, axis=0).astype(np.int16))
    moved = open_decoding_set(tree.root, cache=cache, subjects=["01"]).subjects[0]  # as many voxels, other ones
    assert moved.betas.shape == changed.betas.shape
    assert not np.array_equal(moved.betas.read(np.arange(4)), before)


def test_damaged_cache_is_made_anew(tree: Tree, tmp_path: Path) -> None:
    tree.write()
    cache = tmp_path / "cache"
    open_decoding_set(tree.root, subjects=["01"], cache=cache)
    table = next(cache.glob("*_betas.npy"))
    note = next(cache.glob("*_betas.json"))
    for path, content in ((table, b"x"), (note, b"{"), (note, b"[1]"), (note, b"")):
        path.write_bytes(content)
        got = open_decoding_set(tree.root, subjects=["01"], cache=cache).subjects[0]
        np.testing.assert_allclose(got.betas.read(np.arange(36)), tree.expected(1), rtol=1e-6)


def test_disk_full_leaves_nothing_behind(tree: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree.write()
    cache = tmp_path / "cache"
    chunks = beta_files.BetaVolumes.chunks

    def full(self: Any, inside: np.ndarray) -> Any:
        for chunk in chunks(self, inside):
            if "session03" in self.relative:
                raise OSError(errno.ENOSPC, "No space left on device")
            yield chunk

    monkeypatch.setattr(beta_files.BetaVolumes, "chunks", full)
    with pytest.raises(ResourceError) as caught:
        open_decoding_set(tree.root, subjects=["01"], cache=cache)
    assert caught.value.code == "CHI-RES-010"
    assert list(cache.iterdir()) == []


def test_without_a_cache_only_what_fits(tree: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree.write()
    assert isinstance(open_decoding_set(tree.root, subjects=["01"]).subjects[0].betas, ArrayBetas)
    monkeypatch.setattr(beta_files, "MAX_MEMORY_BYTES", 1000)
    with pytest.raises(InputError, match="cache") as caught:
        open_decoding_set(tree.root, subjects=["01"])
    assert caught.value.code == "CHI-IN-269"
    open_decoding_set(tree.root, subjects=["01"], cache=tmp_path / "cache")


def test_regions_by_name(tree: Tree) -> None:
    tree.write()
    areas = np.zeros(SHAPE, np.int16)
    areas[:2], areas[2:4] = 1, 2
    roi = tree.space(1) / "roi"
    save(roi / "prf-visualrois.nii.gz", areas)
    left = tree.mask.copy()
    left[3:] = False
    save(roi / "lh.faces.nii.gz", left.astype(np.float32))
    save(roi / "rh.faces.nii.gz", (tree.mask & ~left).astype(np.float32))
    save(tree.space(1) / "brainmask.nii.gz", np.ones(SHAPE, np.uint8))
    labels = tree.root / "nsddata/freesurfer/subj01/label"
    labels.mkdir(parents=True)
    (labels / "prf-visualrois.mgz.ctab").write_text("0 Unknown\n1 V1v 10 20 30 0\n2 V1d\n")

    def opened(name: str) -> Any:
        return open_decoding_set(tree.root, subjects=["01"], roi=name).subjects[0]

    def of(inside: np.ndarray) -> np.ndarray:
        return (tree.betas[1][:, inside] / 300).astype(np.float32)

    expected = {
        "prf-visualrois": areas > 0, "prf-visualrois:V1d": areas == 2, "prf-visualrois:1": areas == 1,
        "prf-visualrois:V1v+V1d": areas > 0, "faces": tree.mask, "brainmask": np.ones(SHAPE, bool),
    }  # fmt: skip
    for name, inside in expected.items():
        np.testing.assert_allclose(opened(name).betas.read(np.arange(36)), of(inside), rtol=1e-6)
    rois = opened("brainmask").rois
    assert set(rois) == {"nsdgeneral", "prf-visualrois:V1v", "prf-visualrois:V1d"}
    np.testing.assert_array_equal(rois["prf-visualrois:V1d"], (areas == 2).ravel())
    for name, says in (
        ("nsdgenral", "nsdgeneral"),
        ("prf-visualrois:V1w", "V1v"),
        ("../secret", "no region"),
        (":", "no r"),
    ):
        with pytest.raises(InputError, match=says) as caught:
            opened(name)
        assert caught.value.code == "CHI-IN-268"
    save(roi / "empty.nii.gz", np.zeros(SHAPE, np.int16))
    with pytest.raises(InputError, match="no voxel"):
        opened("empty")


def test_ncsnr_of_the_voxels(tree: Tree) -> None:
    tree.write()
    values = np.random.default_rng(3).random(SHAPE).astype(np.float32)
    values[0, 0, 0] = np.nan
    save(tree.betas_folder(1) / "ncsnr.nii.gz", values)
    first, second = open_decoding_set(tree.root).subjects
    np.testing.assert_allclose(first.ncsnr, np.nan_to_num(values)[tree.mask])
    assert second.ncsnr is None


@pytest.mark.parametrize(
    ("table", "shift", "says"),
    [
        ("masterordering", -1, "counts? from 1"),
        ("masterordering", 1, "12 columns"),
        ("subjectim", 8, "20 images"),
        ("sharedix", -3, "counts? from 1"),
        ("sharedix", -1, "shared image"),
        ("subjectim", -1, "counts? from 1"),
    ],
)
def test_tables_that_are_off(table: str, shift: int, says: str, tree: Tree) -> None:
    tree.design[table] = tree.design[table] + shift
    tree.write()
    with pytest.raises(ChiasmError, match=says) as caught:
        open_decoding_set(tree.root, subjects=["01"])
    assert codes(caught.value) == {"CHI-IN-264"}


@pytest.mark.parametrize(
    "how", ["missing", "empty", "text", "cut", "no table", "nan", "cell", "halves", "few subjects", "short"]
)
def test_designs_that_cannot_be_used(how: str, tree: Tree) -> None:
    if how == "few subjects":
        tree.design["subjectim"] = tree.design["subjectim"][:1]
    if how == "short":
        tree.design["masterordering"] = tree.design["masterordering"][:, :30]
    if how == "no table":
        del tree.design["sharedix"]
    if how == "nan":
        tree.design["sharedix"] = tree.design["sharedix"] * np.nan
    if how == "halves":
        tree.design["masterordering"] = tree.design["masterordering"] / 2
    tree.write()
    path = tree.root / "nsddata/experiments/nsd/nsd_expdesign.mat"
    content = path.read_bytes()
    if how == "missing":
        path.unlink()
    elif how == "cell":
        savemat(path, {name: np.array([[{"a": 1}]], dtype=object) for name in tree.design})
    elif how in {"empty", "text", "cut"}:
        path.write_bytes({"empty": b"", "text": b"no mat file\n" * 40, "cut": content[: len(content) // 2]}[how])
    with pytest.raises(ChiasmError) as caught:
        open_decoding_set(tree.root, subjects=["02"])
    assert codes(caught.value) == {"CHI-IN-274"}


def test_design_is_read_in_a_child_that_may_crash(tree: Tree, own_guard: None) -> None:
    tree.write(sessions=(1,))
    path = tree.root / "nsddata/experiments/nsd/nsd_expdesign.mat"
    got = nsd.read_design(path, n_stimuli=20)
    np.testing.assert_array_equal(got.images + 1, tree.design["subjectim"])
    path.write_bytes(b"no mat file\n" * 40)
    with pytest.raises(InputError) as caught:
        nsd.read_design(path)
    assert caught.value.code == "CHI-IN-274"


def test_death_of_the_child_is_damage(tree: Tree, own_guard: None, monkeypatch: pytest.MonkeyPatch) -> None:
    tree.write(sessions=(1,))

    def died(self: GuardedReader, *_: Any, **__: Any) -> Any:
        raise ResourceError("CHI-RES-032", "The decoder died (status -7).")

    monkeypatch.setattr(GuardedReader, "run", died)
    with pytest.raises(InputError) as caught:
        nsd.read_design(tree.root / "nsddata/experiments/nsd/nsd_expdesign.mat")
    assert caught.value.code == "CHI-IN-274"


def test_wrong_betas_are_told_and_other_subjects_open(tree: Tree) -> None:
    tree.write()
    folder = tree.betas_folder(1)
    path = folder / "betas_session02.hdf5"
    good = path.read_bytes()
    other_grid = np.zeros((9, 3, 4, 6), np.int16)
    with_nan = np.full((9, 3, 4, 5), np.nan, np.float32)
    for values, code in ((other_grid, "CHI-IN-266"), (with_nan, "CHI-IN-267"), (np.zeros((9, 5)), "CHI-IN-266")):
        with h5py.File(path, "w") as file:
            file["betas"] = values
        with pytest.raises(ChiasmError) as caught:
            open_decoding_set(tree.root)
        assert codes(caught.value) == {code}
        assert "subj01" in str(caught.value)
    path.write_bytes(good[: len(good) - 500])
    with pytest.raises(ChiasmError) as caught:
        open_decoding_set(tree.root)
    assert codes(caught.value) == {"CHI-IN-262"}
    (folder / "betas_session02.hdf5").unlink()
    tree.write_session(1, 2, "int.nii.gz")
    nifti = folder / "betas_session02.nii.gz"
    nifti.write_bytes(nifti.read_bytes()[:-30])
    with pytest.raises(ChiasmError):
        open_decoding_set(tree.root)
    assert open_decoding_set(tree.root, subjects=["02"]).subjects[0].name == "02"
    assert subject_names(tree.root) == ["01", "02"]


def test_both_subjects_are_reported(tree: Tree) -> None:
    tree.write()
    for subject in (1, 2):
        (tree.space(subject) / "roi/nsdgeneral.nii.gz").unlink()
    with pytest.raises(SeveralErrors) as caught:
        open_decoding_set(tree.root)
    assert [error.code for error in caught.value.errors] == ["CHI-IN-268", "CHI-IN-268"]


def test_missing_parts(tree: Tree) -> None:
    tree.write()
    (tree.root / "nsddata_stimuli/stimuli/nsd/nsd_stimuli.hdf5").unlink()
    got = open_decoding_set(tree.root, subjects=["01"])
    assert got.stimuli is None
    assert any("not scored" in note for note in got.notes)
    with pytest.raises(InputError) as caught:
        open_decoding_set(tree.root, subjects=["03"])
    assert caught.value.code == "CHI-IN-290"
    for path in tree.betas_folder(1).iterdir():
        path.unlink()
    with pytest.raises(InputError) as caught:
        open_decoding_set(tree.root, subjects=["01"])
    assert caught.value.code == "CHI-IN-265"


def test_other_versions_of_the_betas(tree: Tree) -> None:
    tree.write()
    tree.betas_folder(1).rename(tree.betas_folder(1).with_name("betas_assumehrf"))
    got = open_decoding_set(tree.root, subjects=["01"])
    assert any("betas_assumehrf" in note for note in got.notes)
    other = tree.betas_folder(1).with_name("betas_fithrf")
    other.mkdir()
    (other / "betas_session01.hdf5").write_bytes(b"")
    with pytest.raises(InputError, match="several versions") as caught:
        open_decoding_set(tree.root, subjects=["01"])
    assert caught.value.code == "CHI-IN-265"
