"""One entry for all layouts: each is asked for its own, and a folder that is none of them is told what was looked for."""

from __future__ import annotations

import inspect
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from chiasm.data.datasets import fmri
from chiasm.data.datasets.fmri import open_decoding_set, subject_names
from chiasm.data.errors import InputError


def plain(folder: Path) -> None:
    folder.mkdir(parents=True)
    np.save(folder / "betas.npy", np.ones((3, 2), np.float32))
    (folder / "trials.tsv").write_text("image\n0\n1\n0\n")


def test_plain_folder_is_found(tmp_path: Path) -> None:
    plain(tmp_path / "sub-07")
    assert subject_names(tmp_path) == ["07"]
    got = open_decoding_set(tmp_path, subjects=["7"])
    assert (got.layout, got.root, got.subject("07").n_voxels) == ("plain", tmp_path, 2)
    with pytest.raises(KeyError):
        got.subject("08")


def test_names_need_no_reading(tmp_path: Path) -> None:
    plain(tmp_path / "sub-07")
    (tmp_path / "sub-07" / "betas.npy").write_bytes(b"damaged")
    assert subject_names(tmp_path) == ["07"]
    with pytest.raises(InputError):
        open_decoding_set(tmp_path)


def test_no_layout(tmp_path: Path) -> None:
    (tmp_path / "readme.txt").touch()
    for call in (open_decoding_set, subject_names):
        with pytest.raises(InputError, match=r"NSD .*MindEye2 .*tars .*BIDS .*fMRIPrep .*plain") as caught:
            call(tmp_path)
        assert caught.value.code == "CHI-IN-271"
    with pytest.raises(InputError, match="no such folder"):
        open_decoding_set(tmp_path / "none")


@pytest.mark.parametrize("name", fmri._LAYOUTS)
def test_every_layout_keeps_the_interface(name: str, tmp_path: Path) -> None:
    layout = import_module(f"chiasm.data.datasets.fmri.{name}")
    assert layout.matches(tmp_path) is False
    assert layout.matches(tmp_path / "none") is False
    parameters = inspect.signature(layout.open_set).parameters
    assert list(parameters)[:4] == ["root", "subjects", "roi", "cache"]
    assert all(p.default is not inspect.Parameter.empty for p in list(parameters.values())[1:])
