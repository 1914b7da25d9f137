"""Files: NSD's integers and axes, and bytes that tell no time."""

from __future__ import annotations

import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from scipy.io import loadmat

from chiasm.data.errors import ToolError
from chiasm.data.phantoms.nsd.nsd_files import h5py_module, stored_betas, write_csv, write_hdf5, write_labels, write_mat


def test_betas_are_percent_times_300_with_axes_trial_z_y_x(tmp_path: Path) -> None:
    voxel = np.array([[0, 1, 2], [3, 2, 1]])
    volumes = stored_betas(np.array([[1.0, -2.0], [0.0101, 1e6]]), voxel, (4, 5, 6))
    assert volumes.shape == (2, 6, 5, 4)
    assert volumes.dtype == np.int16
    assert volumes[0, 2, 1, 0] == 300
    assert volumes[:, 1, 2, 3].tolist() == [-600, 32767]
    assert volumes[1, 2, 1, 0] == 3
    assert np.count_nonzero(volumes) == 4
    write_hdf5(tmp_path / "b.hdf5", "betas", volumes)
    with h5py.File(tmp_path / "b.hdf5") as file:
        assert file["betas"].chunks == (1, 6, 5, 4)
        assert (file["betas"][()] == volumes).all()


def test_equal_tables_are_equal_bytes_at_any_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tables = {"sharedix": np.array([[1, 2, 3]]), "subjectim": np.array([[1, 5], [2, 6]])}
    write_mat(tmp_path / "a.mat", tables)
    monkeypatch.setattr("time.asctime", lambda *_: "another day")
    write_mat(tmp_path / "b.mat", tables)
    assert (tmp_path / "a.mat").read_bytes() == (tmp_path / "b.mat").read_bytes()
    read = loadmat(tmp_path / "a.mat")
    assert read["subjectim"].tolist() == [[1, 5], [2, 6]]
    assert read["sharedix"].shape == (1, 3)


def test_tables_of_text_are_written_as_nsds(tmp_path: Path) -> None:
    write_csv(tmp_path / "t.csv", [{"nsdId": 0, "name": 'a, "b"'}, {"nsdId": 1, "name": "c"}])
    assert (tmp_path / "t.csv").read_text() == ',nsdId,name\n0,0,"a, ""b"""\n1,1,c\n'
    write_labels(tmp_path / "l.ctab", ("Unknown", "V1v"))
    assert (tmp_path / "l.ctab").read_text() == "0 Unknown\n1 V1v\n"


def test_without_h5py_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ToolError, match="pip install") as caught:
        h5py_module()
    assert caught.value.code == "CHI-TL-022"
