"""Subjects of betas as sessions: whose file is whose, what all share, and what is no input at all."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from chiasm.data.errors import InputError
from chiasm.data.fmri_discovery import fmri_sessions, root_of


def touch(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


@pytest.fixture
def nsd(tmp_path) -> Path:
    root = tmp_path / "nsd"
    for name in ("subj01", "subj02"):
        betas = f"nsddata_betas/ppdata/{name}/func1pt8mm/betas_fithrf_GLMdenoise_RR/betas_session01.hdf5"
        touch(root, betas, f"nsddata/ppdata/{name}/func1pt8mm/roi/nsdgeneral.nii.gz")
    touch(root, "nsddata_stimuli/stimuli/nsd/nsd_stimuli.hdf5", "nsddata/experiments/nsd/nsd_expdesign.mat")
    touch(root, "nsddata/information/subject_list.tsv", "nsddata/ppdata/subj09/func1pt8mm/roi/V1.nii.gz")
    return root


def files(root: Path) -> dict[str, dict[str, list[str]]]:
    return {
        session.patient: {
            one.channel: [path.relative_to(root).as_posix() for path in one.files] for one in session.recordings
        }
        for session in fmri_sessions(root)
    }


def test_a_subject_has_its_own_files_and_those_that_all_share(nsd) -> None:
    found = files(nsd)
    assert list(found) == ["01", "02"]
    for name, channels in found.items():
        assert channels["betas"] == [
            f"nsddata/ppdata/subj{name}/func1pt8mm/roi/nsdgeneral.nii.gz",
            f"nsddata_betas/ppdata/subj{name}/func1pt8mm/betas_fithrf_GLMdenoise_RR/betas_session01.hdf5",
        ]
        # "subject_list" is no subject's; subject 9, who has no betas, concerns nobody.
        assert channels["shared"] == [
            "nsddata/experiments/nsd/nsd_expdesign.mat",
            "nsddata/information/subject_list.tsv",
            "nsddata_stimuli/stimuli/nsd/nsd_stimuli.hdf5",
        ]


def test_a_session_knows_its_root(nsd) -> None:
    assert {root_of(session) for session in fmri_sessions(nsd)} == {nsd}


def test_one_folder_is_one_subject_to_whom_everything_belongs(tmp_path) -> None:
    np.save(tmp_path / "betas.npy", np.zeros((2, 3), np.float32))
    touch(tmp_path, "trials.tsv", "stimuli/a.png")
    (session,) = fmri_sessions(tmp_path)
    assert session.patient == "01"
    assert root_of(session) == tmp_path
    assert files(tmp_path) == {"01": {"shared": ["betas.npy", "stimuli/a.png", "trials.tsv"]}}


@pytest.mark.parametrize("mark", ["work folder", "description", "training"])
def test_hidden_files_links_that_lead_out_and_own_results_are_no_input(nsd, tmp_path, mark) -> None:
    before = files(nsd)
    touch(nsd, ".DS_Store", "nsddata/.git/config", "derivatives/chiasm/sub-01/func/sub-01_desc-x_trials.tsv")
    touch(tmp_path, "elsewhere.txt")
    (nsd / "link.txt").symlink_to(tmp_path / "elsewhere.txt")
    out = nsd / "derivatives" / "chiasm"
    if mark == "work folder":
        touch(out, ".chiasm/ledger.sqlite")
    elif mark == "training":
        touch(out, "fit/history.jsonl", "betas/nsd-01_betas.npy")
    else:
        (out / "dataset_description.json").write_text(json.dumps({"GeneratedBy": [{"Name": "chiasm"}]}))
    assert files(nsd) == before


@pytest.mark.parametrize("text", ["{", "[]", '{"GeneratedBy": [{}]}', '{"GeneratedBy": [{"Name": "chiasm phantom"}]}'])
def test_other_derivatives_are_input(nsd, text) -> None:
    touch(nsd, "derivatives/fmriprep/sub-02/func/sub-02_bold.nii.gz")
    (nsd / "derivatives" / "fmriprep" / "dataset_description.json").write_text(text)
    assert "derivatives/fmriprep/sub-02/func/sub-02_bold.nii.gz" in files(nsd)["02"]["betas"]
    assert "derivatives/fmriprep/dataset_description.json" in files(nsd)["01"]["shared"]


def test_only_the_participants_asked_for(nsd) -> None:
    assert [one.patient for one in fmri_sessions(nsd, participants=["sub-02"])] == ["02"]
    with pytest.raises(InputError, match="Not in the input: 7") as caught:
        fmri_sessions(nsd, participants=["7"])
    assert caught.value.code == "CHI-IN-071"


def test_a_folder_without_betas_says_what_was_looked_for(tmp_path) -> None:
    with pytest.raises(InputError, match=r"Looked for: NSD") as caught:
        fmri_sessions(tmp_path)
    assert caught.value.code == "CHI-IN-271"
