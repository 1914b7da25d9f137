"""MindEye1's tars: every real repeat is a trial of its image, copies are none, and damage has a name."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from chiasm.data.datasets.fmri import mindeye_tars
from chiasm.data.errors import InputError, SeveralErrors

V = 7
SIDES = {"train": 4, "val": 1, "test": 2}


def npy(values: object) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.asarray(values), allow_pickle=False)
    return buffer.getvalue()


def jpg(number: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (12, 10), (number % 256, 40, 90)).save(buffer, "PNG")  # exact colours
    return buffer.getvalue()


def betas(number: int, subject: int, n_real: int = 3, n_voxels: int = V) -> np.ndarray:
    """Values that say image, repeat and subject; repeats beyond `n_real` are copies."""
    rows = [number + 0.1 * (r % n_real) + 1000 * subject + np.arange(n_voxels) / 64 for r in range(3)]
    return np.array(rows, dtype=np.float32)


def sample(number: int, subject: int, n_real: int = 3, **other: bytes | None) -> dict[str, bytes]:
    members = {
        "jpg": jpg(number),
        "nsdgeneral.npy": npy(betas(number, subject, n_real)),
        "coco73k.npy": npy(np.int64(number)),
        "num_uniques.npy": npy(np.array([n_real])),
        "trial.npy": npy(np.arange(3)),
    } | {name.replace("__", "."): value for name, value in other.items()}
    return {name: value for name, value in members.items() if value is not None}


def write_tar(path: Path, samples: list[dict[str, bytes]], extra: tarfile.TarInfo | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for index, members in enumerate(samples):
            for ending, data in members.items():
                info = tarfile.TarInfo(f"sample{index:09d}.{ending}")
                info.size, info.mtime = len(data), 1.5  # a fraction makes a pax header, as webdataset's writer does
                tar.addfile(info, io.BytesIO(data))
        if extra is not None:
            tar.addfile(extra)
    return path


def write_set(root: Path, subjects: tuple[int, ...] = (1, 2)) -> Path:
    base = root / "webdataset_avg_split"
    for s in subjects:
        write_tar(base / "train" / f"train_subj0{s}_0.tar", [sample(30 + s, s), sample(10 + s, s, 2)])
        write_tar(base / "train" / f"train_subj0{s}_10.tar", [sample(60 + s, s, 1)])
        write_tar(base / "train" / f"train_subj0{s}_2.tar", [sample(50 + s, s)])
        write_tar(base / "val" / f"val_subj0{s}_0.tar", [sample(40 + s, s)])
        write_tar(base / "test" / f"test_subj0{s}_0.tar", [sample(5, s), sample(99, s)])
    return root


def codes(error: InputError | SeveralErrors) -> list[str]:
    return [one.code for one in error.errors] if isinstance(error, SeveralErrors) else [error.code]


def refused(root: Path, **options: object) -> list[str]:
    with pytest.raises((InputError, SeveralErrors)) as caught:
        mindeye_tars.open_set(root, **options)
    return codes(caught.value)


def check(found: object, n: dict[str, int]) -> None:
    for brain in found.subjects:
        trials = brain.trials
        values = brain.betas.read(trials.row)
        numbers = np.array([int(found.stimuli.names[i]) for i in trials.image])
        expected = numbers + 0.1 * trials.repeat + 1000 * int(brain.name)
        np.testing.assert_allclose(values, expected[:, None] + np.arange(V) / 64, rtol=1e-6)
        assert {side: len(trials.of(side)) for side in n} == n
        pixels = found.stimuli.read(trials.image, size=8)
        np.testing.assert_array_equal(pixels[:, 3, 3, 0], numbers)


def test_a_row_belongs_to_its_image_and_copies_are_no_trials(tmp_path: Path) -> None:
    root = write_set(tmp_path)
    assert mindeye_tars.matches(root)
    assert mindeye_tars.matches(root / "webdataset_avg_split")
    assert mindeye_tars.subject_names(root) == ["01", "02"]
    found = mindeye_tars.open_set(root)
    check(found, {"train": 3 + 2 + 1 + 3, "val": 3, "test": 6})
    assert found.layout == "mindeye"
    assert found.stimuli.names == tuple(sorted(found.stimuli.names, key=int))
    assert found.subject("01").normalised
    shared = [set(found.subject(s).trials.of("test").image) for s in ("01", "02")]
    assert shared[0] == shared[1]  # the two subjects saw the same test images, under the same numbers


def test_rows_may_be_asked_for_in_any_order_and_twice(tmp_path: Path) -> None:
    brain = mindeye_tars.open_set(write_set(tmp_path), subjects=["1"]).subjects[0]
    rows = np.array([14, 0, 5, 5, 3])
    np.testing.assert_array_equal(brain.betas.read(rows), brain.betas.read(np.arange(15))[rows])
    assert brain.betas.read(np.zeros(0, dtype=np.int64)).shape == (0, V)


def test_tars_are_taken_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    found = mindeye_tars.open_set(write_set(tmp_path), subjects=["1"])
    train = found.subjects[0].trials.of("train")
    numbers = [int(found.stimuli.names[i]) for i in train.image]
    assert list(dict.fromkeys(numbers)) == [31, 11, 51, 61]  # ..._10.tar after ..._2.tar


@pytest.mark.parametrize("with_counts", [True, False])
def test_the_same_unpacked(tmp_path: Path, with_counts: bool) -> None:
    for split, numbers in (("train", [31, 11]), ("val", [41]), ("test", [5, 99])):
        folder = tmp_path / "subj01" / split
        folder.mkdir(parents=True)
        for index, number in enumerate(numbers):
            for ending, data in sample(number, 1, 2 if number == 11 else 3).items():
                if with_counts or ending != "num_uniques.npy":
                    (folder / f"sample{index}.{ending}").write_bytes(data)
    assert mindeye_tars.matches(tmp_path)
    check(mindeye_tars.open_set(tmp_path), {"train": 5, "val": 3, "test": 6})


def test_copies_are_found_wherever_they_stand(tmp_path: Path) -> None:
    root = write_set(tmp_path, (1,))
    values = betas(70, 1)[[0, 0, 1]]
    write_tar(
        root / "webdataset_avg_split/train/train_subj01_0.tar",
        [sample(70, 1, nsdgeneral__npy=npy(values), num_uniques__npy=npy(np.array([2])))],
    )
    found = mindeye_tars.open_set(root)
    trials = found.subjects[0].trials.of("train")
    mine = trials.row[trials.image == found.stimuli.names.index("70")]
    np.testing.assert_array_equal(found.subjects[0].betas.read(mine), values[[0, 2]])


def damage(root: Path, name: str, data: bytes | None) -> None:
    path = root / "webdataset_avg_split" / name
    path.write_bytes(data if data is not None else path.read_bytes()[: path.stat().st_size // 2])


FIRST = "train/train_subj01_0.tar"


def test_a_tar_that_was_cut_off_is_named_and_others_open(tmp_path: Path) -> None:
    root = write_set(tmp_path)
    damage(root, FIRST, None)
    with pytest.raises(InputError, match=r"CHI-IN-280.*train_subj01_0\.tar"):
        mindeye_tars.open_set(root)
    check(mindeye_tars.open_set(root, subjects=["02"]), {"train": 9, "val": 3, "test": 6})


def test_a_tar_cut_off_between_two_members_is_seen_too(tmp_path: Path) -> None:
    root = write_set(tmp_path)
    with tarfile.open(root / "webdataset_avg_split" / FIRST) as tar:
        last = tar.getmembers()[-1]
    end = last.offset  # the start of a header: nothing is cut inside
    damage(root, FIRST, (root / "webdataset_avg_split" / FIRST).read_bytes()[:end])
    assert refused(root) == ["CHI-IN-280"]


@pytest.mark.parametrize("data", [b"\x1f\x8b" + bytes(600), b"x" * 2048, b"short", b""])
def test_no_tar(tmp_path: Path, data: bytes) -> None:
    root = write_set(tmp_path)
    damage(root, FIRST, data)
    assert refused(root) == ["CHI-IN-280"]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("../../escape.jpg", tarfile.REGTYPE),
        ("/tmp/sample1.jpg", tarfile.REGTYPE),
        ("sample9.jpg", tarfile.SYMTYPE),
        ("sample9.jpg", tarfile.LNKTYPE),
        ("sample9.jpg", tarfile.FIFOTYPE),
    ],
)
def test_links_and_paths_are_refused(tmp_path: Path, name: str, kind: bytes) -> None:
    root = write_set(tmp_path)
    extra = tarfile.TarInfo(name)
    extra.type, extra.linkname = kind, "/etc/hostname" if kind in (tarfile.SYMTYPE, tarfile.LNKTYPE) else ""
    write_tar(root / "webdataset_avg_split" / FIRST, [sample(1, 1)], extra)
    assert refused(root) == ["CHI-IN-281"]


def test_a_size_beyond_the_file_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    root = write_set(tmp_path)
    info = tarfile.TarInfo("sample9.jpg")
    info.size = 1 << 40
    damage(root, FIRST, info.tobuf(format=tarfile.GNU_FORMAT) + bytes(1024))
    assert refused(root) == ["CHI-IN-280"]


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({"jpg": None}, "CHI-IN-289"),
        ({"coco73k__npy": None}, "CHI-IN-282"),
        ({"nsdgeneral__npy": None}, "CHI-IN-282"),
        ({"nsdgeneral__npy": npy(np.zeros((3, V)))[:-1]}, "CHI-IN-283"),
        ({"nsdgeneral__npy": npy(np.zeros((3, V), dtype=np.int64))}, "CHI-IN-283"),
        ({"nsdgeneral__npy": npy(np.zeros(V, dtype=np.float32))}, "CHI-IN-283"),
        ({"nsdgeneral__npy": b"no array"}, "CHI-IN-283"),
        ({"coco73k__npy": npy(np.array([1, 2]))}, "CHI-IN-283"),
        ({"coco73k__npy": npy(-1)}, "CHI-IN-283"),
        ({"num_uniques__npy": npy(0)}, "CHI-IN-283"),
        ({"num_uniques__npy": npy(4)}, "CHI-IN-283"),
        ({"nsdgeneral__npy": npy(np.zeros((3, V + 1), dtype=np.float32))}, "CHI-IN-292"),
    ],
)
def test_a_bad_sample(tmp_path: Path, changed: dict[str, bytes | None], code: str) -> None:
    root = write_set(tmp_path)
    write_tar(root / "webdataset_avg_split" / FIRST, [sample(2, 1), sample(1, 1, **changed)])
    assert refused(root) == [code]


def test_every_bad_sample_is_listed(tmp_path: Path) -> None:
    root = write_set(tmp_path)
    write_tar(root / "webdataset_avg_split" / FIRST, [sample(1, 1, jpg=None), sample(2, 1, coco73k__npy=None)])
    damage(root, "test/test_subj02_0.tar", None)
    assert refused(root) == ["CHI-IN-289", "CHI-IN-282", "CHI-IN-280"]


def test_a_pickle_is_not_opened(tmp_path: Path) -> None:
    root = write_set(tmp_path)
    buffer = io.BytesIO()
    np.save(buffer, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    write_tar(root / "webdataset_avg_split" / FIRST, [sample(1, 1, coco73k__npy=buffer.getvalue())])
    assert refused(root) == ["CHI-IN-283"]


def test_missing_sides_subjects_and_regions(tmp_path: Path) -> None:
    root = write_set(tmp_path)
    (root / "webdataset_avg_split/test/test_subj01_0.tar").unlink()
    assert refused(root) == ["CHI-IN-288"]
    assert refused(root, subjects=["7"]) == ["CHI-IN-290"]
    assert refused(root, subjects=["2"], roi="V1") == ["CHI-IN-291"]


def test_values_that_are_not_finite_are_refused_when_read(tmp_path: Path) -> None:
    root = write_set(tmp_path, (1,))
    values = betas(70, 1)
    values[1, 2] = np.nan
    write_tar(root / "webdataset_avg_split" / FIRST, [sample(70, 1, nsdgeneral__npy=npy(values))])
    brain = mindeye_tars.open_set(root).subjects[0]
    with pytest.raises(InputError, match="CHI-IN-267"):
        brain.betas.read(np.arange(3))


def test_a_tar_that_shrinks_after_opening(tmp_path: Path) -> None:
    root = write_set(tmp_path, (1,))
    brain = mindeye_tars.open_set(root).subjects[0]
    damage(root, FIRST, b"")
    with pytest.raises(InputError, match="CHI-IN-285"):
        brain.betas.read(np.arange(2))


def test_a_damaged_image_is_named_when_it_is_asked_for(tmp_path: Path) -> None:
    root = write_set(tmp_path, (1,))
    write_tar(root / "webdataset_avg_split" / FIRST, [sample(70, 1, jpg=jpg(70)[:40])])
    found = mindeye_tars.open_set(root)
    with pytest.raises(InputError, match=r"CHI-IN-287.*'70'"):
        found.stimuli.read(np.array([found.stimuli.names.index("70")]), size=8)
