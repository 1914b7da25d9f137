"""A manifest is the only source of sessions, and every wrong line is told with its number."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from chiasm.data.discovery import ChannelRule, discover
from chiasm.data.errors import InputError, SeveralErrors

RULES = {"t1": ChannelRule(("T1w",), ("t1",)), "t2": ChannelRule(("T2w",), ("t2",), optional=True)}
HEADER = "patient\tsession\tchannel\tpath\n"
Nifti = Callable[..., Path]


def write(folder: Path, *lines: str, header: str = HEADER) -> Path:
    path = folder / "cohort.tsv"
    path.write_text(header + "\n".join(lines) + "\n")
    return path


def test_sessions_come_from_the_lines_and_nothing_else(tmp_path: Path, nifti_file: Nifti) -> None:
    for name in ("a", "b", "c", "unlisted"):
        nifti_file(tmp_path / "data" / f"{name}.nii.gz")
    lines = ("02\tx\tt1\tdata/c.nii.gz", "sub-01\tn/a\tt1\ta.nii.gz", "01\t\tt2\tdata/b.nii.gz")
    sessions = discover(tmp_path / "data", RULES, manifest=write(tmp_path, *lines))
    assert [(s.key, {r.channel: r.files[0].name for r in s.recordings}) for s in sessions] == [
        ("sub-01", {"t1": "a.nii.gz", "t2": "b.nii.gz"}),
        ("sub-02_ses-x", {"t1": "c.nii.gz"}),
    ]
    assert sessions[0].recordings[0].relative == "a.nii.gz"
    assert not any(s.problems for s in sessions)


def test_every_wrong_line_is_told_with_its_number(tmp_path: Path, nifti_file: Nifti) -> None:
    nifti_file(tmp_path / "in" / "a.nii.gz")
    outside = nifti_file(tmp_path / "outside.nii.gz")
    (tmp_path / "in" / "link.nii.gz").symlink_to(outside)
    lines = [
        "01\t\tt1\ta.nii.gz",
        "0 1\t\tt1\ta.nii.gz",
        "02\t\tt1\tgone.nii.gz",
        "03\t\tt11\ta.nii.gz",
        "04\tt1\ta.nii.gz",
        "05\t\tt1\t../outside.nii.gz",
        "06\t\tt1\tlink.nii.gz",
        "07\t\tt1\t/gone/x.nii",
        "../x\t\tt1\ta.nii.gz",
    ]
    with pytest.raises(SeveralErrors) as caught:
        discover(tmp_path / "in", RULES, manifest=write(tmp_path / "in", *lines))
    assert [(e.code, e.message.split(":")[0]) for e in caught.value.errors] == [
        ("CHI-IN-077", "line 3"),
        ("CHI-IN-079", "line 4"),
        ("CHI-IN-078", "line 5"),
        ("CHI-IN-076", "line 6"),
        ("CHI-IN-080", "line 7"),
        ("CHI-IN-080", "line 8"),
        ("CHI-IN-079", "line 9"),
        ("CHI-IN-077", "line 10"),
    ]
    assert "Did you mean 't1'?" in str(caught.value)


@pytest.mark.parametrize(
    "header",
    ["patient,session,channel,path\n", "patient\tchannel\n", "subject\tchannel\tpath\n", "", "path\t" * 2 + HEADER],
)
def test_a_wrong_header_is_refused_with_the_right_one(header: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="line 1") as caught:
        discover(tmp_path, RULES, manifest=write(tmp_path, "a\tb\tc\td", header=header))
    assert caught.value.code == "CHI-IN-075"
    assert "patient <tab> session <tab> channel <tab> path" in caught.value.remedy


def test_absolute_paths_that_exist_are_taken(tmp_path: Path, nifti_file: Nifti) -> None:
    elsewhere = nifti_file(tmp_path / "elsewhere" / "a.nii.gz")
    (tmp_path / "in").mkdir()
    (session,) = discover(tmp_path / "in", RULES, manifest=write(tmp_path / "in", f"1\t\tt1\t{elsewhere}"))
    assert (session.recordings[0].files, session.recordings[0].relative) == ((elsewhere,), "a.nii.gz")


def test_a_folder_in_the_manifest_is_its_dicom_series(tmp_path: Path, dicom_files: SimpleNamespace) -> None:
    dicom_files.series(tmp_path / "s1")
    (session,) = discover(tmp_path, RULES, manifest=write(tmp_path, "1\t\tt1\ts1"))
    assert (session.recordings[0].kind, len(session.recordings[0].files)) == ("dicom", 3)


def test_a_volume_column_picks_from_a_4d_file(tmp_path: Path, nifti_file: Nifti) -> None:
    nifti_file(tmp_path / "a.nii.gz", (2, 2, 2, 2))
    header = "patient\tchannel\tpath\tvolume\n"
    lines = ("1\tt1\ta.nii.gz\t1", "1\tt2\ta.nii.gz\t0")
    (session,) = discover(tmp_path, RULES, manifest=write(tmp_path, *lines, header=header))
    assert [(r.channel, r.volume_index) for r in session.recordings] == [("t1", 1), ("t2", 0)]


def test_a_missing_or_doubled_channel_is_the_sessions_problem(tmp_path: Path, nifti_file: Nifti) -> None:
    nifti_file(tmp_path / "a.nii.gz")
    lines = ("1\t\tt2\ta.nii.gz", "2\t\tt1\ta.nii.gz", "2\t\tt1\ta.nii.gz")
    first, second = discover(tmp_path, RULES, manifest=write(tmp_path, *lines))
    assert [p.code for p in first.problems] == ["CHI-IN-063"]
    assert [p.code for p in second.problems] == ["CHI-IN-062"]


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", None])
def test_a_manifest_that_is_no_text_or_not_there_is_refused(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "m.tsv"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        discover(tmp_path, RULES, manifest=path)
    assert caught.value.code == "CHI-IN-082"


def test_a_manifest_without_lines_is_nothing_to_do(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        discover(tmp_path, RULES, manifest=write(tmp_path))
    assert caught.value.code == "CHI-IN-060"
