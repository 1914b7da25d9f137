"""Published layouts: every case with its files, every mistake in dataset.json named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from chiasm.data.datasets import labelled_cases
from chiasm.data.datasets.brats import cases as brats_cases
from chiasm.data.datasets.msd import cases as msd_cases
from chiasm.data.datasets.nnunet import cases as nnunet_cases
from chiasm.data.datasets.nnunet import describe
from chiasm.data.errors import ChiasmError, InputError, SeveralErrors
from chiasm.data.recognition import ChannelRule

NAMES_2021 = ("_flair", "_t1ce", "_t1", "_t2", "_seg")
NAMES_2023 = ("-t2f", "-t1c", "-t1n", "-t2w", "-seg")


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def brats_case(root: Path, case: str, names: tuple[str, ...], ending: str = ".nii.gz") -> None:
    touch(*(root / case / f"{case}{name}{ending}" for name in names))


def codes_of(error: ChiasmError) -> list[str]:
    return [e.code for e in error.errors] if isinstance(error, SeveralErrors) else [error.code]


@pytest.mark.parametrize(
    ("case", "names", "ending", "t1ce"),
    [
        ("BraTS2021_00001", NAMES_2021, ".nii.gz", "BraTS2021_00001_t1ce.nii.gz"),
        ("BraTS20_Training_001", NAMES_2021, ".nii", "BraTS20_Training_001_t1ce.nii"),
        ("BraTS-GLI-00005-100", NAMES_2023, ".nii.gz", "BraTS-GLI-00005-100-t1c.nii.gz"),
    ],
)
def test_brats_names_of_every_year_give_the_same_channels(
    case: str, names: tuple[str, ...], ending: str, t1ce: str, tmp_path: Path
) -> None:
    brats_case(tmp_path, case, names, ending)
    (tmp_path / "notes").mkdir()
    (found,) = labelled_cases(tmp_path)
    assert list(found.images) == ["flair", "t1ce", "t1", "t2"]
    assert found.images["t1ce"].name == t1ce
    assert found.images["flair"].name == f"{case}{names[0]}{ending}"
    assert found.label.name == f"{case}{names[4]}{ending}"


def test_time_points_of_one_brats_patient_stay_together(tmp_path: Path) -> None:
    for case in ("BraTS-GLI-00005-101", "BraTS-GLI-00005-100", "BraTS-GLI-00006-100"):
        brats_case(tmp_path, case, NAMES_2023)
    assert [(c.name[-3:], c.patient) for c in brats_cases(tmp_path)] == [
        ("100", "BraTS-GLI-00005"),
        ("101", "BraTS-GLI-00005"),
        ("100", "BraTS-GLI-00006"),
    ]


def test_every_incomplete_brats_case_is_named(tmp_path: Path) -> None:
    brats_case(tmp_path, "a", NAMES_2021)
    brats_case(tmp_path, "b", NAMES_2021[1:])
    brats_case(tmp_path, "c", NAMES_2021[:4])
    brats_case(tmp_path, "d", NAMES_2021)
    touch(tmp_path / "d" / "d_t1.nii")
    with pytest.raises(SeveralErrors) as caught:
        brats_cases(tmp_path)
    assert [(e.file, e.message) for e in caught.value.errors] == [
        ("b", "The case has no file for flair."),
        ("c", "The case has no file for seg."),
        ("d", "The case has two files for t1."),
    ]


# ---- nnU-Net raw ----------------------------------------------------------------------------------------------------

SOUND: dict[str, Any] = {
    "channel_names": {"0": "T1w", "1": "FLAIR"},
    "labels": {"background": 0, "edema": 1, "core": 2},
    "numTraining": 2,
    "file_ending": ".nii.gz",
}


def nnunet(root: Path, **changes: Any) -> Path:
    for case in ("case_001", "case_002"):
        touch(*(root / "imagesTr" / f"{case}_{i:04d}.nii.gz" for i in range(2)), root / "labelsTr" / f"{case}.nii.gz")
    values = {key: value for key, value in {**SOUND, **changes}.items() if value is not None}
    (root / "dataset.json").write_text(json.dumps(values))
    return root


def test_nnunet_cases_have_channels_by_name_and_number(tmp_path: Path) -> None:
    found = labelled_cases(nnunet(tmp_path))
    assert [c.name for c in found] == ["case_001", "case_002"]
    assert {k: v.name for k, v in found[1].images.items()} == {
        "T1w": "case_002_0000.nii.gz",
        "FLAIR": "case_002_0001.nii.gz",
    }
    assert found[1].label == tmp_path / "labelsTr" / "case_002.nii.gz"


def test_regions_and_the_ignore_label_are_read(tmp_path: Path) -> None:
    labels = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": 3, "ignore": 4}
    description = describe(nnunet(tmp_path, labels=labels, regions_class_order=[1, 2, 3]))
    assert description.labels == {"whole": (1, 2, 3), "core": (2, 3), "enhancing": (3,)}
    assert description.regions_class_order == (1, 2, 3)
    assert description.ignore == 4


@pytest.mark.parametrize(
    ("code", "changes"),
    [
        ("CHI-IN-141", {"channel_names": None}),
        ("CHI-IN-141", {"channel_names": ["T1w", "FLAIR"]}),
        ("CHI-IN-141", {"channel_names": {"0": "T1w", "2": "FLAIR"}}),
        ("CHI-IN-141", {"channel_names": {"0": "T1w", "1": "T1w"}}),
        ("CHI-IN-141", {"channel_names": {"T1w": "0"}}),
        ("CHI-IN-142", {"labels": {"background": 0}}),
        ("CHI-IN-142", {"labels": {"edema": 1, "core": 2}}),
        ("CHI-IN-142", {"labels": {"0": "background", "1": "edema"}}),
        ("CHI-IN-142", {"labels": {"background": 0, "edema": 1, "core": 3}}),
        ("CHI-IN-142", {"labels": {"background": 0, "edema": 1, "core": True}}),
        ("CHI-IN-142", {"labels": {"background": 0, "edema": 1, "ignore": 7}}),
        ("CHI-IN-143", {"labels": {"background": 0, "whole": [1, 2], "core": 2}}),
        ("CHI-IN-143", {"labels": {"background": 0, "whole": [1, 2], "core": 2}, "regions_class_order": [1]}),
        ("CHI-IN-144", {"file_ending": None}),
        ("CHI-IN-144", {"file_ending": ".png"}),
        ("CHI-IN-145", {"numTraining": "2"}),
        ("CHI-IN-145", {"numTraining": 3}),
        ("CHI-IN-146", {"channel_names": {"0": "T1w"}}),
    ],
)
def test_each_mistake_in_an_nnunet_dataset_has_its_code(code: str, changes: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ChiasmError) as caught:
        nnunet_cases(nnunet(tmp_path, **changes))
    assert set(codes_of(caught.value)) == {code}


def test_all_mistakes_of_dataset_json_are_told_at_once(tmp_path: Path) -> None:
    root = nnunet(tmp_path, channel_names=None, labels=None, file_ending=".png", numTraining=-1)
    with pytest.raises(SeveralErrors) as caught:
        describe(root)
    assert codes_of(caught.value) == ["CHI-IN-141", "CHI-IN-142", "CHI-IN-144", "CHI-IN-145"]


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff\xfe", b"[" * 100_000])
def test_a_dataset_json_that_is_none_is_refused(content: bytes, tmp_path: Path) -> None:
    (nnunet(tmp_path) / "dataset.json").write_bytes(content)
    with pytest.raises(InputError) as caught:
        describe(tmp_path)
    assert caught.value.code == "CHI-IN-140"


def test_a_label_without_images_is_named(tmp_path: Path) -> None:
    touch(nnunet(tmp_path) / "labelsTr" / "case_009.nii.gz")
    with pytest.raises(InputError) as caught:
        nnunet_cases(tmp_path)
    assert (caught.value.code, caught.value.file) == ("CHI-IN-146", "imagesTr/case_009")


# ---- Decathlon ------------------------------------------------------------------------------------------------------


def msd(root: Path, **changes: Any) -> Path:
    touch(root / "imagesTr" / "BRATS_002.nii.gz", root / "imagesTr" / "BRATS_001.nii.gz")
    touch(root / "labelsTr" / "BRATS_002.nii.gz", root / "labelsTr" / "BRATS_001.nii.gz")
    values: dict[str, Any] = {
        "modality": {"0": "FLAIR", "1": "T1w", "2": "t1gd", "3": "T2w"},
        "labels": {"0": "background", "1": "edema"},
        "numTraining": 2,
        "training": [
            {"image": f"./imagesTr/BRATS_{n:03d}.nii.gz", "label": f"./labelsTr/BRATS_{n:03d}.nii.gz"} for n in (2, 1)
        ],
        **changes,
    }
    (root / "dataset.json").write_text(json.dumps({k: v for k, v in values.items() if v is not None}))
    return root


def test_decathlon_channels_are_volumes_of_one_file(tmp_path: Path) -> None:
    found = labelled_cases(msd(tmp_path))
    assert [c.name for c in found] == ["BRATS_001", "BRATS_002"]
    assert found[0].volumes == {"FLAIR": 0, "T1w": 1, "t1gd": 2, "T2w": 3}
    assert {path.name for path in found[0].images.values()} == {"BRATS_001.nii.gz"}
    assert found[0].label.parent.name == "labelsTr"


@pytest.mark.parametrize(
    ("code", "changes"),
    [
        ("CHI-IN-141", {"modality": None}),
        ("CHI-IN-142", {"labels": {"0": "background"}}),
        ("CHI-IN-142", {"labels": {"background": 0, "edema": 1}}),
        ("CHI-IN-145", {"numTraining": 484}),
        ("CHI-IN-148", {"training": []}),
        ("CHI-IN-148", {"training": ["x.nii.gz"], "numTraining": 1}),
        ("CHI-IN-148", {"training": [{"image": "imagesTr/gone.nii.gz", "label": "l"}], "numTraining": 1}),
        ("CHI-IN-148", {"training": [{"image": "/etc/hostname", "label": "/etc/hostname"}], "numTraining": 1}),
        (
            "CHI-IN-148",
            {"training": [{"image": "imagesTr/../../x", "label": "labelsTr/BRATS_001.nii.gz"}], "numTraining": 1},
        ),
        (
            "CHI-IN-148",
            {"training": [{"image": "imagesTr/BRATS_001.nii.gz", "label": "labelsTr/BRATS_001.nii.gz"}] * 2},
        ),
    ],
)
def test_each_mistake_in_a_decathlon_dataset_has_its_code(code: str, changes: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ChiasmError) as caught:
        msd_cases(msd(tmp_path / "data", **changes))
    assert set(codes_of(caught.value)) == {code}


# ---- names of channels ----------------------------------------------------------------------------------------------

RULES = {
    "flair": ChannelRule(("FLAIR",), ("flair",)),
    "t1ce": ChannelRule((), ("t1ce", "t1gd", "t1c")),
    "t1": ChannelRule(("T1w",), ("t1", "t1w")),
    "t2": ChannelRule(("T2w",), ("t2", "t2w")),
}


def test_channels_get_the_names_of_the_recipe_by_keyword(tmp_path: Path) -> None:
    case = labelled_cases(msd(tmp_path), RULES)[0]
    assert case.volumes == {"flair": 0, "t1": 1, "t1ce": 2, "t2": 3}


def test_channels_without_telling_names_are_taken_by_order(tmp_path: Path) -> None:
    case = labelled_cases(msd(tmp_path, modality={str(i): f"scan{i}" for i in range(4)}), RULES)[0]
    assert case.volumes == {"flair": 0, "t1ce": 1, "t1": 2, "t2": 3}


def test_a_channel_that_the_data_set_lacks_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No channel of the data set fits t1ce, t2") as caught:
        labelled_cases(nnunet(tmp_path), RULES)
    assert caught.value.code == "CHI-IN-150"


def test_a_folder_in_no_layout_is_refused(tmp_path: Path) -> None:
    touch(tmp_path / "a" / "t1.nii.gz")
    with pytest.raises(InputError) as caught:
        labelled_cases(tmp_path)
    assert caught.value.code == "CHI-IN-149"
