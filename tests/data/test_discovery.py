"""Sessions are found in every layout, in one order; what is wrong with one patient stays with that patient."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from chiasm.data.discovery import CODES, ChannelRule, discover
from chiasm.data.errors import InputError
from chiasm.data.patients import Session

ONE = {"T1w": ChannelRule(("T1w",), ("t1w", "t1", "mprage", "spgr"))}
FOUR = {
    "flair": ChannelRule(("FLAIR",), ("flair", "t2f")),
    "t1ce": ChannelRule(("ce_T1w",), ("t1ce", "t1gd", "t1c")),
    "t1": ChannelRule(("T1w",), ("t1", "t1w", "t1n")),
    "t2": ChannelRule(("T2w",), ("t2", "t2w")),
}
Nifti = Callable[..., Path]


def found(root: Path, rules: dict[str, ChannelRule], **more: Any) -> dict[str, dict[str, str]]:
    """Return key -> channel -> relative path."""
    return {s.key: {r.channel: r.relative for r in s.recordings} for s in discover(root, rules, **more)}


def codes(sessions: list[Session]) -> dict[str, list[str]]:
    return {s.key: [p.code for p in s.problems] for s in sessions}


# ---- BIDS -----------------------------------------------------------------------------------------------------------


def test_bids_sessions_are_found_by_suffix_in_order(tmp_path: Path, nifti_file: Nifti) -> None:
    nifti_file(tmp_path / "sub-02/ses-b/anat/sub-02_ses-b_T1w.nii.gz")
    nifti_file(tmp_path / "sub-02/ses-a/anat/sub-02_ses-a_T1w.nii")
    nifti_file(tmp_path / "sub-01/anat/sub-01_T1w.nii.gz")
    nifti_file(tmp_path / "sub-01/anat/sub-01_T2w.nii.gz")
    nifti_file(tmp_path / "derivatives/sub-09/anat/sub-09_T1w.nii.gz")
    nifti_file(tmp_path / "sourcedata/sub-08/anat/sub-08_T1w.nii.gz")
    nifti_file(tmp_path / ".sub-07/anat/sub-07_T1w.nii.gz")
    sessions = discover(tmp_path, ONE)
    assert [s.key for s in sessions] == ["sub-01", "sub-02_ses-a", "sub-02_ses-b"]
    assert [s.recordings[0].relative for s in sessions] == [
        "sub-01/anat/sub-01_T1w.nii.gz",
        "sub-02/ses-a/anat/sub-02_ses-a_T1w.nii",
        "sub-02/ses-b/anat/sub-02_ses-b_T1w.nii.gz",
    ]
    assert all(len(s.recordings) == 1 and not s.problems for s in sessions)


@pytest.mark.parametrize("entity", ["run", "acq"])
def test_two_t1w_without_a_rule_are_a_problem_that_names_both(entity: str, tmp_path: Path, nifti_file: Nifti) -> None:
    names = [f"sub-01/anat/sub-01_{entity}-{n}_T1w.nii.gz" for n in (1, 2)]
    for name in names:
        nifti_file(tmp_path / name)
    (session,) = discover(tmp_path, ONE)
    (problem,) = session.problems
    assert problem.code == "CHI-IN-062"
    assert problem.message == f"two T1w: {names[0]}, {names[1]}; no rule to choose."
    assert "--manifest" in problem.remedy


def test_the_contrast_entity_tells_t1_from_t1ce(tmp_path: Path, nifti_file: Nifti) -> None:
    for name in ("ce-gadolinium_T1w", "T1w", "T2w", "FLAIR"):
        nifti_file(tmp_path / f"sub-1/anat/sub-1_{name}.nii.gz")
    recordings = found(tmp_path, FOUR)["sub-1"]
    assert recordings["t1ce"].endswith("ce-gadolinium_T1w.nii.gz")
    assert recordings["t1"].endswith("sub-1_T1w.nii.gz")
    assert found(tmp_path, ONE)["sub-1"]["T1w"].endswith("sub-1_T1w.nii.gz")


def test_a_brain_mask_is_a_channel_and_a_lesion_mask_is_not(tmp_path: Path, nifti_file: Nifti) -> None:
    for name in ("T1w", "desc-brain_mask", "label-lesion_mask"):
        nifti_file(tmp_path / f"sub-1/anat/sub-1_{name}.nii.gz")
    assert found(tmp_path, ONE)["sub-1"]["mask"].endswith("desc-brain_mask.nii.gz")


def test_a_bids_subject_without_images_or_channel_is_a_failed_session(tmp_path: Path, nifti_file: Nifti) -> None:
    nifti_file(tmp_path / "sub-1/anat/sub-1_T1w.nii.gz")
    nifti_file(tmp_path / "sub-2/anat/sub-2_T2w.nii.gz")
    (tmp_path / "sub-3" / "anat").mkdir(parents=True)
    assert codes(discover(tmp_path, ONE)) == {"sub-1": [], "sub-2": ["CHI-IN-063"], "sub-3": ["CHI-IN-064"]}


def test_two_thousand_bids_patients_are_found_in_a_second(tmp_path: Path) -> None:
    for n in range(2_000):
        folder = tmp_path / f"sub-{n:05d}" / "anat"
        folder.mkdir(parents=True)
        (folder / f"sub-{n:05d}_T1w.nii.gz").touch()
    start = time.process_time()
    assert len(discover(tmp_path, ONE)) == 2_000
    assert time.process_time() - start < 1.0


# ---- loose folders --------------------------------------------------------------------------------------------------


def test_loose_files_get_channels_by_whole_words(tmp_path: Path, nifti_file: Nifti) -> None:
    for name in ("flair", "t1ce", "t1", "t2", "seg"):
        nifti_file(tmp_path / "patient_07" / f"BraTS2021_00007_{name}.nii.gz")
    assert found(tmp_path, FOUR) == {
        "sub-patient07": {c: f"patient_07/BraTS2021_00007_{c}.nii.gz" for c in ("flair", "t1ce", "t1", "t2")}
    }
    assert found(tmp_path, ONE)["sub-patient07"]["T1w"].endswith("_t1.nii.gz")


@pytest.mark.parametrize("name", ["t1_gd", "T1 post contrast", "T1-CE", "t1c", "T1Gd"])
def test_a_contrast_enhanced_t1_is_no_t1(name: str, tmp_path: Path, nifti_file: Nifti) -> None:
    nifti_file(tmp_path / "p" / f"{name}.nii.gz")
    nifti_file(tmp_path / "p" / "x_T1.nii.gz")
    assert found(tmp_path, ONE)["sub-p"] == {"T1w": "p/x_T1.nii.gz"}


@pytest.mark.parametrize("name", ["art1st", "t10", "start1", "xt1"])
def test_a_keyword_inside_a_word_does_not_count(name: str, tmp_path: Path, nifti_file: Nifti) -> None:
    nifti_file(tmp_path / "p" / f"{name}.nii.gz")
    nifti_file(tmp_path / "p" / "other.nii.gz")
    assert codes(discover(tmp_path, ONE)) == {"sub-p": ["CHI-IN-063"]}


def test_content_decides_and_the_name_does_not(tmp_path: Path, nifti_file: Nifti) -> None:
    real = nifti_file(tmp_path / "tmp.nii.gz").rename(tmp_path / "image_without_ending")
    (tmp_path / "p").mkdir()
    real.rename(tmp_path / "p" / "t1")
    (tmp_path / "p" / "t1.doc").write_text("t1 t1 t1")
    assert found(tmp_path, ONE) == {"sub-p": {"T1w": "p/t1"}}


def test_a_damaged_file_named_like_an_image_is_kept_for_the_reader_to_name(tmp_path: Path) -> None:
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "t1.nii.gz").write_bytes(b"\x1f\x8bgarbage")
    assert found(tmp_path, ONE) == {"sub-p": {"T1w": "p/t1.nii.gz"}}


def test_the_only_image_of_a_patient_is_the_only_channel(tmp_path: Path, nifti_file: Nifti) -> None:
    nifti_file(tmp_path / "p" / "study" / "head.nii.gz")
    nifti_file(tmp_path / "p" / "study" / "brain_mask.nii.gz")
    assert found(tmp_path, ONE)["sub-p"] == {"T1w": "p/study/head.nii.gz", "mask": "p/study/brain_mask.nii.gz"}


def test_a_sidecar_tells_the_channel_when_the_name_does_not(tmp_path: Path, nifti_file: Nifti) -> None:
    for name, values in {
        "a": {"SeriesDescription": "Sag MPRAGE CANARY"},
        "b": {"ScanningSequence": "SE", "EchoTime": 0.1, "RepetitionTime": 5},
    }.items():
        nifti_file(tmp_path / "p" / f"{name}.nii.gz")
        (tmp_path / "p" / f"{name}.json").write_text(json.dumps(values))
    rules = {"T1w": ONE["T1w"], "t2": FOUR["t2"]}
    assert found(tmp_path, rules)["sub-p"] == {"T1w": "p/a.nii.gz", "t2": "p/b.nii.gz"}


def test_missing_channels_are_named_with_what_was_found(tmp_path: Path, nifti_file: Nifti) -> None:
    for name in ("flair", "t1"):
        nifti_file(tmp_path / "p" / f"{name}.nii.gz")
    (problem,) = discover(tmp_path, FOUR)[0].problems
    assert problem.message == "The channels are missing: t1ce, t2; found flair, t1 among 2 image(s)."


def test_a_patient_folder_without_images_fails_and_the_others_run(tmp_path: Path, nifti_file: Nifti) -> None:
    nifti_file(tmp_path / "a" / "t1.nii.gz")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "readme.txt").write_text("nothing")
    assert codes(discover(tmp_path, ONE)) == {"sub-a": [], "sub-b": ["CHI-IN-064"]}


def test_visits_in_a_patient_folder_are_sessions(tmp_path: Path, nifti_file: Nifti) -> None:
    for visit in ("ses-01", "2021-03-04"):
        nifti_file(tmp_path / "p" / visit / "t1.nii.gz")
    assert set(found(tmp_path, ONE)) == {"sub-p_ses-01", "sub-p_ses-20210304"}


# ---- flat folders and single files ----------------------------------------------------------------------------------


def test_nnunet_inference_layout_gives_one_patient_a_case(tmp_path: Path, nifti_file: Nifti) -> None:
    for case in ("la_003", "la_001"):
        for index in range(4):
            nifti_file(tmp_path / f"{case}_{index:04d}.nii.gz")
    nifti_file(tmp_path / "la_009_0000.nii.gz")
    sessions = discover(tmp_path, FOUR)
    assert codes(sessions) == {"sub-la001": [], "sub-la003": [], "sub-la009": ["CHI-IN-073"]}
    assert [r.channel for r in sessions[0].recordings] == list(FOUR)
    assert sessions[0].recordings[1].relative == "la_001_0001.nii.gz"


def test_files_of_a_flat_folder_are_grouped_by_what_their_names_share(tmp_path: Path, nifti_file: Nifti) -> None:
    for patient in ("anna", "bert"):
        for channel in ("flair", "t1_gd", "t1", "t2", "seg"):
            nifti_file(tmp_path / f"{patient}_{channel}.nii.gz")
    assert {k: set(v) for k, v in found(tmp_path, FOUR).items()} == {"sub-anna": set(FOUR), "sub-bert": set(FOUR)}


def test_one_patients_own_folder_is_one_patient(tmp_path: Path, nifti_file: Nifti) -> None:
    for channel in ("flair", "t1ce", "t1", "t2"):
        nifti_file(tmp_path / "P 1" / f"{channel}.nii.gz")
    assert set(found(tmp_path / "P 1", FOUR)) == {"sub-P1"}


def test_a_single_file_is_one_patient(tmp_path: Path, nifti_file: Nifti) -> None:
    path = nifti_file(tmp_path / "scan-3.nii")
    assert found(path, ONE) == {"sub-scan3": {"T1w": "scan-3.nii"}}


def test_volumes_of_a_4d_file_are_the_channels_in_order(tmp_path: Path, nifti_file: Nifti) -> None:
    nifti_file(tmp_path / "BRATS_001.nii.gz", (2, 2, 2, 4))
    nifti_file(tmp_path / "BRATS_002.nii.gz", (2, 2, 2, 3))
    first, second = discover(tmp_path, FOUR)
    assert [(r.channel, r.volume_index) for r in first.recordings] == [(c, i) for i, c in enumerate(FOUR)]
    assert [p.code for p in second.problems] == ["CHI-IN-070"]


# ---- DICOM ----------------------------------------------------------------------------------------------------------


def test_dicom_series_get_channels_by_description(tmp_path: Path, dicom_files: SimpleNamespace) -> None:
    def flair(dataset: Any, index: int) -> None:
        dataset.SeriesInstanceUID, dataset.SeriesDescription = "1.2.3.50", "CANARY t2_flair"

    dicom_files.series(tmp_path / "p" / "study" / "1")
    dicom_files.series(tmp_path / "p" / "study" / "2", edit=flair)
    (session,) = discover(tmp_path, {"T1w": ONE["T1w"], "flair": FOUR["flair"]})
    assert [(r.channel, r.kind, len(r.files)) for r in session.recordings] == [
        ("T1w", "dicom", 3),
        ("flair", "dicom", 3),
    ]
    assert "CANARY" not in repr(session)


def test_two_t1_series_are_told_without_their_descriptions(tmp_path: Path, dicom_files: SimpleNamespace) -> None:
    def again(dataset: Any, index: int) -> None:
        dataset.SeriesInstanceUID, dataset.SeriesDescription = "1.2.3.50", "CANARY T1"

    dicom_files.series(tmp_path / "p" / "1")
    dicom_files.series(tmp_path / "p" / "2", edit=again)
    (problem,) = discover(tmp_path, ONE)[0].problems
    assert problem.code == "CHI-IN-062"
    assert "CANARY" not in str(problem)


def test_a_folder_of_dicom_files_is_one_patient(tmp_path: Path, dicom_files: SimpleNamespace) -> None:
    dicom_files.series(tmp_path / "anon")
    (session,) = discover(tmp_path / "anon", ONE)
    assert (session.key, len(session.recordings[0].files), session.problems) == ("sub-anon", 3, ())


def test_a_damaged_slice_fails_its_patient_only(tmp_path: Path, dicom_files: SimpleNamespace) -> None:
    dicom_files.series(tmp_path / "a")
    broken = dicom_files.series(tmp_path / "b")[0]
    broken.write_bytes(broken.read_bytes()[:400])
    assert codes(discover(tmp_path, ONE)) == {"sub-a": [], "sub-b": ["CHI-IN-030"]}


# ---- labels, links, order -------------------------------------------------------------------------------------------


def test_equal_labels_of_two_folders_are_an_error_of_that_label(tmp_path: Path, nifti_file: Nifti) -> None:
    for name in ("pat_1", "pat-1", "pat2"):
        nifti_file(tmp_path / name / "t1.nii.gz")
    sessions = discover(tmp_path, ONE)
    assert codes(sessions) == {"sub-pat1": ["CHI-IN-066"], "sub-pat2": []}
    assert "pat-1, pat_1" in sessions[0].problems[0].message


def test_labels_that_cannot_be_kept_stay_apart(tmp_path: Path, nifti_file: Nifti) -> None:
    for name in ("患者一", "患者二", "x" * 100 + "1", "x" * 100 + "2", "Müller"):
        nifti_file(tmp_path / name / "t1.nii.gz")
    sessions = discover(tmp_path, ONE)
    assert len({s.patient for s in sessions}) == 5
    assert all(s.patient.isascii() and s.patient.isalnum() and len(s.patient) <= 64 for s in sessions)
    assert "Muller" in {s.patient for s in sessions}


def test_links_out_of_the_input_are_refused_and_links_inside_are_not(tmp_path: Path, nifti_file: Nifti) -> None:
    outside = nifti_file(tmp_path / "outside" / "t1.nii.gz")
    root = tmp_path / "in"
    inner = nifti_file(root / "a" / "t1.nii.gz")
    for name, target in {"b": outside, "c": inner, "d": tmp_path / "gone"}.items():
        (root / name).mkdir()
        (root / name / "t1.nii.gz").symlink_to(target)
    (root / "e").symlink_to(outside.parent)
    (root / "f").mkdir()
    (root / "f" / "loop").symlink_to(root / "f")
    assert codes(discover(root, ONE)) == {
        "sub-a": [],
        "sub-b": ["CHI-IN-067"],
        "sub-c": [],
        "sub-d": ["CHI-IN-068"],
        "sub-e": ["CHI-IN-067"],
        "sub-f": ["CHI-IN-064"],
    }


def test_participants_are_kept_with_or_without_the_prefix(tmp_path: Path, nifti_file: Nifti) -> None:
    for name in ("sub-01", "sub-02", "sub-03"):
        nifti_file(tmp_path / name / "anat" / f"{name}_T1w.nii.gz")
    assert set(found(tmp_path, ONE, participants=["sub-03", "01"])) == {"sub-01", "sub-03"}
    with pytest.raises(InputError, match="Not in the input: 99") as caught:
        discover(tmp_path, ONE, participants=["01", "99"])
    assert caught.value.code == "CHI-IN-071"


def test_an_input_without_patients_says_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="looked for a BIDS dataset") as caught:
        discover(tmp_path, ONE)
    assert (caught.value.code, caught.value.exit_code) == ("CHI-IN-060", 3)
    with pytest.raises(InputError) as caught:
        discover(tmp_path / "gone", ONE)
    assert caught.value.code == "CHI-IN-061"


def test_every_code_is_in_the_range_of_discovery() -> None:
    assert all("CHI-IN-060" <= code <= "CHI-IN-089" for code in CODES)
