"""The index of a tar: names and places as Python's tarfile has them, and nothing but coded errors on damaged ones."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest

from chiasm.data.errors import InputError
from chiasm.data.fmri.tar_index import Part, folder_samples, tar_samples

ENDINGS = frozenset(("jpg", "x.npy"))


def write(path: Path, members: list[tuple[str, bytes]], form: int = tarfile.PAX_FORMAT, mtime: float = 0) -> Path:
    with tarfile.open(path, "w", format=form) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(data), mtime
            tar.addfile(info, io.BytesIO(data))
    return path


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
@pytest.mark.parametrize("mtime", [0, 1.25])
def test_places_are_those_of_tarfile(tmp_path: Path, form: int, mtime: float) -> None:
    members = [("a.jpg", b"x" * 512), ("a.x.npy", b""), ("./b.jpg", b"y" * 513), ("b.json", b"{}"), ("c.x.npy", b"z")]
    path = write(tmp_path / "t.tar", members, form, mtime)
    found = tar_samples(path, ENDINGS)
    assert {key: set(sample) for key, sample in found.items()} == {"a": set(ENDINGS), "b": {"jpg"}, "c": {"x.npy"}}
    with tarfile.open(path) as tar:
        for info in tar:
            key, ending = info.name.removeprefix("./").split(".", 1)
            if ending in ENDINGS:
                assert found[key][ending] == Part(path, info.offset_data, info.size)
                assert found[key][ending].read() == tar.extractfile(info).read()


def test_names_of_pax_headers_count(tmp_path: Path) -> None:
    info = tarfile.TarInfo("short.jpg")
    info.size, info.pax_headers = 3, {"path": "../out.jpg"}
    with tarfile.open(tmp_path / "t.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(info, io.BytesIO(b"abc"))
    with pytest.raises(InputError, match="CHI-IN-281"):
        tar_samples(tmp_path / "t.tar", ENDINGS)


def test_sizes_of_pax_headers_count(tmp_path: Path) -> None:
    for size in ("99999999", "1" * 5000, "²", "-5"):
        info = tarfile.TarInfo("a.jpg")
        info.size, info.pax_headers = 3, {"size": size}
        with tarfile.open(tmp_path / "t.tar", "w", format=tarfile.PAX_FORMAT) as tar:
            tar.addfile(info, io.BytesIO(b"abc"))
        with pytest.raises(InputError, match="CHI-IN-280"):
            tar_samples(tmp_path / "t.tar", ENDINGS)


def test_a_file_twice_and_folders(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="CHI-IN-282"):
        tar_samples(write(tmp_path / "t.tar", [("a.jpg", b"1"), ("a.jpg", b"2")]), ENDINGS)
    folder = tarfile.TarInfo("./")
    folder.type = tarfile.DIRTYPE
    with tarfile.open(tmp_path / "f.tar", "w") as tar:
        tar.addfile(folder)
    assert tar_samples(tmp_path / "f.tar", ENDINGS) == {}


def test_damage_of_any_kind_is_a_coded_error(tmp_path: Path) -> None:
    members = [(f"s{i}.{ending}", bytes([i]) * 700) for i in range(4) for ending in ("jpg", "x.npy")]
    whole = write(tmp_path / "t.tar", members, mtime=0.5).read_bytes()
    rng = np.random.default_rng(0)
    path, refused = tmp_path / "m.tar", []
    for trial in range(400):
        data = bytearray(whole)
        if trial % 2:
            del data[rng.integers(len(data)) :]
        else:
            for place in rng.integers(len(data), size=rng.integers(1, 30)):
                data[place] = rng.integers(256)
        path.write_bytes(data)
        try:
            for sample in tar_samples(path, ENDINGS).values():
                for part in sample.values():
                    assert part.offset + part.size <= len(data)
        except InputError as error:
            refused.append(error.code)
    assert set(refused) <= {"CHI-IN-280", "CHI-IN-281", "CHI-IN-282"}
    assert len(refused) > 200


def test_missing_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="CHI-IN-280"):
        tar_samples(tmp_path / "none.tar", ENDINGS)
    with pytest.raises(InputError, match="CHI-IN-285"):
        Part(tmp_path / "none.tar", 0, 4).read()


def test_links_out_of_a_folder_are_refused(tmp_path: Path) -> None:
    (tmp_path / "outside.jpg").write_bytes(b"1")
    root = tmp_path / "root"
    root.mkdir()
    (root / "a.x.npy").write_bytes(b"12")
    assert folder_samples(root, ENDINGS, root) == {"a": {"x.npy": Part(root / "a.x.npy", 0, 2)}}
    (root / "a.jpg").symlink_to(tmp_path / "outside.jpg")
    with pytest.raises(InputError, match="CHI-IN-067"):
        folder_samples(root, ENDINGS, root)
