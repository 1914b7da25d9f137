"""Rows from many places: the values asked for, in the order asked for, each file opened once, and coded errors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from chiasm.data.errors import InputError
from chiasm.data.fmri.betas import ArrayBetas
from chiasm.data.fmri.scattered_betas import ScatteredBetas, StackedBetas, TableBetas, read_runs

V = 6


def scattered(folder: Path, dtype: str = "<f4") -> tuple[ScatteredBetas, np.ndarray]:
    """Return betas of which rows 0, 2, 4 .. lie in one file and the others in another, back to front."""
    values = np.random.default_rng(0).integers(-50, 50, (9, V)).astype(dtype)
    size = V * values.dtype.itemsize
    paths = [folder / "a.bin", folder / "b.bin"]
    paths[0].write_bytes(b"head" + values[::2][::-1].tobytes())
    paths[1].write_bytes(values[1::2][::-1].tobytes())
    file = np.arange(9) % 2
    offset = np.array([4 + (4 - i // 2) * size if i % 2 == 0 else (3 - i // 2) * size for i in range(9)])
    return ScatteredBetas(paths, file, offset, n_voxels=V, dtype=np.dtype(dtype), root=folder), values


@pytest.mark.parametrize("dtype", ["<f2", "<f4", ">f4", "<f8"])
def test_rows_in_any_order_and_twice(tmp_path: Path, dtype: str) -> None:
    betas, values = scattered(tmp_path, dtype)
    rows = np.array([8, 1, 1, 0, 7, 2, 8])
    found = betas.read(rows)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, values[rows])
    assert betas.shape == (9, V)


def test_each_file_is_opened_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    betas, _ = scattered(tmp_path)
    opened: list[str] = []
    real = Path.open

    def counted(self: Path, *args: object, **options: object) -> object:
        opened.append(self.name)
        return real(self, *args, **options)

    monkeypatch.setattr(Path, "open", counted)
    betas.read(np.array([0, 1, 2, 3, 4, 5, 6, 7]))
    assert sorted(opened) == ["a.bin", "b.bin"]


def test_rows_that_are_not_there_and_files_that_changed(tmp_path: Path) -> None:
    betas, _ = scattered(tmp_path)
    with pytest.raises(InputError, match="CHI-IN-261"):
        betas.read(np.array([9]))
    (tmp_path / "a.bin").write_bytes(b"short")
    betas.read(np.array([1]))
    with pytest.raises(InputError, match=r"CHI-IN-285.*a\.bin"):
        betas.read(np.array([1, 0]))
    (tmp_path / "b.bin").unlink()
    with pytest.raises(InputError, match=r"CHI-IN-285.*b\.bin"):
        betas.read(np.array([1]))


def test_parts_one_after_the_other() -> None:
    values = np.arange(30, dtype=np.float32).reshape(10, 3)
    betas = StackedBetas([ArrayBetas(values[:4]), ArrayBetas(values[4:5]), ArrayBetas(values[5:])])
    rows = np.array([9, 4, 0, 3, 5, 4])
    np.testing.assert_array_equal(betas.read(rows), values[rows])
    assert betas.shape == (10, 3)
    with pytest.raises(InputError, match="CHI-IN-261"):
        betas.read(np.array([10]))
    with pytest.raises(InputError, match=r"CHI-IN-286.*3, 2 voxels"):
        StackedBetas([ArrayBetas(values), ArrayBetas(values[:, :2])])


@pytest.mark.parametrize("chunks", [None, (2, 3)])
def test_a_table_of_hdf5(tmp_path: Path, chunks: tuple[int, int] | None) -> None:
    h5py = pytest.importorskip("h5py")
    values = np.arange(40, dtype=np.float32).reshape(8, 5)
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file.create_dataset("betas", data=values, chunks=chunks)
        file["whole"] = np.ones((3, 2), dtype=np.int16)
    betas = TableBetas(tmp_path / "b.h5")
    rows = np.array([7, 0, 1, 1, 5])
    np.testing.assert_array_equal(betas.read(rows), values[rows])
    assert read_runs(values, np.zeros(0, dtype=np.int64)).shape == (0, 5)
    with pytest.raises(InputError, match="CHI-IN-283"):
        TableBetas(tmp_path / "b.h5", key="whole")
