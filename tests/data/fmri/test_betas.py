"""Rows of betas from memory and from disk are the same, damage is found, and a training run does not fill the memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from chiasm.data.errors import InputError
from chiasm.data.fmri import betas
from chiasm.data.fmri.betas import ArrayBetas, StoredBetas


@pytest.mark.parametrize(("kind", "scale"), [("f2", 1), ("f4", 1), ("f8", 1), ("i2", 300)])
def test_rows_in_any_order(kind: str, scale: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).normal(0, 1000, (50, 9)).astype(kind)
    np.save(tmp_path / "b.npy", values)
    monkeypatch.setattr(betas, "_READ_BYTES", 4 * values.itemsize * 9)  # runs of more than 4 rows are read in parts
    stored = StoredBetas(tmp_path / "b.npy", scale=scale)
    assert stored.shape == ArrayBetas(values).shape == (50, 9)
    for rows in (np.arange(50), np.array([7, 3, 7, 49, 0, 8]), np.array([], dtype=np.int64), np.arange(49, -1, -1)):
        np.testing.assert_allclose(stored.read(rows), values[rows].astype(np.float32) / scale, rtol=1e-6)
        np.testing.assert_array_equal(ArrayBetas(values).read(rows), values[rows].astype(np.float32))


def test_reading_gives_copies() -> None:
    values = np.ones((3, 2), np.float32)
    got = ArrayBetas(values).read(np.array([0, 1]))
    got[:] = 7
    assert (values == 1).all()


@pytest.mark.parametrize("row", [-1, 50])
def test_rows_outside(row: int, tmp_path: Path) -> None:
    np.save(tmp_path / "b.npy", np.zeros((50, 2), np.float32))
    for source in (StoredBetas(tmp_path / "b.npy"), ArrayBetas(np.zeros((50, 2)))):
        with pytest.raises(InputError, match=f"row {row} ") as caught:
            source.read(np.array([1, row]))
        assert caught.value.code == "CHI-IN-261"


@pytest.mark.parametrize(
    ("value", "kind"), [(np.nan, "f2"), (np.inf, "f4"), (-np.inf, "f8"), (np.nan, "f4"), (1e300, "f8")]
)
def test_not_finite(value: float, kind: str, tmp_path: Path) -> None:
    values = np.zeros((6, 5), kind)
    values[3, 1:3] = value
    np.save(tmp_path / "b.npy", values)
    for source in (StoredBetas(tmp_path / "b.npy"), ArrayBetas(values)):
        source.read(np.array([0, 1, 2, 4]))
        with pytest.raises(InputError, match=r"2 voxel.* 1 of 2 trial") as caught:
            source.read(np.array([0, 3]))
        assert caught.value.code == "CHI-IN-267"


def npy(header: str, data: bytes = b"\0" * 80) -> bytes:
    text = header.ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode("latin-1") + data


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x93NUMPY\x01\x00",
        b"PK\x03\x04" + b"\0" * 100,
        npy("{'descr': '<f4', 'fortran_order': True, 'shape': (4, 5)}"),
        npy("{'descr': '|O', 'fortran_order': False, 'shape': (4, 5)}"),
        npy("{'descr': '<f4', 'fortran_order': False, 'shape': (20,)}"),
        npy("{'descr': '<f4', 'fortran_order': False, 'shape': (4, -5)}"),
        npy("{'descr': '<f4', 'fortran_order': False, 'shape': (4, 6)}"),
        npy("{'descr': '<f4', 'fortran_order': False, 'shape': (10**9, 10**9)}"),
        npy("{'descr': ['<f4'], 'fortran_order': False, 'shape': (4, 5)}"),
        npy("{[]: 1}"),
        npy("__import__('os').getcwd()"),
        npy("(" * 60),
    ],
)
def test_damaged_npy(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "b.npy").write_bytes(content)
    with pytest.raises(InputError) as caught:
        StoredBetas(tmp_path / "b.npy", relative="sub-01/b.npy")
    assert caught.value.code == "CHI-IN-260"
    assert caught.value.file == "sub-01/b.npy"


def test_file_that_goes_away(tmp_path: Path) -> None:
    np.save(tmp_path / "b.npy", np.zeros((50, 20), np.float32))
    stored = StoredBetas(tmp_path / "b.npy")
    with (tmp_path / "b.npy").open("r+b") as file:
        file.truncate(1000)
    with pytest.raises(InputError) as caught:
        stored.read(np.arange(50))
    assert caught.value.code == "CHI-IN-260"
    (tmp_path / "b.npy").unlink()
    with pytest.raises(InputError) as caught:
        stored.read(np.arange(2))
    assert caught.value.code == "CHI-IN-260"


def test_batches_of_a_full_subject_stay_out_of_memory(tmp_path: Path) -> None:
    """30,000 trials x 15,724 voxels in a sparse file of 1.9 GB, 50 batches of 64: in a child, whose memory is its own."""
    with (tmp_path / "b.npy").open("wb") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": (30_000, 15_724)}
        np.lib.format.write_array_header_1_0(file, header)
        file.truncate(file.tell() + 30_000 * 15_724 * 4)
    script = """
import sys, re
from pathlib import Path
import numpy as np
from chiasm.data.fmri.betas import StoredBetas
def anonymous():
    return int(re.search(r"RssAnon:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024
betas, rng = StoredBetas(Path(sys.argv[1])), np.random.default_rng(0)
betas.read(np.arange(64))
before, most = anonymous(), 0.0
for _ in range(50):
    batch = betas.read(rng.integers(0, 30_000, 64))
    most = max(most, anonymous())
print(most - before, anonymous() - before)
"""
    if not Path("/proc/self/status").exists():
        pytest.skip("no /proc here")
    answer = subprocess.run(
        [sys.executable, "-c", script, tmp_path / "b.npy"], capture_output=True, text=True, check=True
    )
    most, last = map(float, answer.stdout.split())
    assert most < 24  # MiB; one batch has 4, the whole table 1,799
    assert last < 24
