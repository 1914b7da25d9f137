"""A cohort of everything that goes wrong: each patient fails with its own code and file, and the good ones finish."""

from __future__ import annotations

import gzip
import os
import shutil
import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

MakeBench = Callable[[int], Any]
AFFINE = np.diag([-1.0, 1.0, 1.0, 1.0])


def save(path: Path, values: Any, affine: Any = AFFINE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(values, affine), path)


def a_lying_header(path: Path) -> None:
    """A header that claims 30,000 voxels a side, and 1 kB behind it."""
    header = bytearray(nibabel.Nifti1Image(np.zeros((2, 2, 2), np.int16), AFFINE).header.binaryblock)
    struct.pack_into("<8h", header, 40, 3, 30000, 30000, 30000, 1, 1, 1, 1)
    path.parent.mkdir()
    path.write_bytes(bytes(header) + bytes(4) + bytes(1024))


def make_bad(source: Path) -> dict[str, str]:
    """Write one patient a fault; return patient -> the code that it must fail with."""
    noise = np.random.default_rng(0).normal(100, 20, (24, 24, 24)).astype(np.float32)
    save(source / "truncated" / "t1.nii.gz", noise)
    whole = (source / "truncated" / "t1.nii.gz").read_bytes()
    (source / "truncated" / "t1.nii.gz").write_bytes(whole[: len(whole) // 2])
    a_lying_header(source / "liar" / "t1.nii")
    (source / "empty").mkdir()
    save(source / "twins" / "scan_t1.nii.gz", noise)
    save(source / "twins" / "other_t1.nii.gz", noise)
    with_nan = noise.copy()
    with_nan[3, 4, 5] = np.nan
    save(source / "nan" / "t1.nii.gz", with_nan)
    save(source / "flat" / "t1.nii.gz", np.full((24, 24, 24), 7, np.int16))
    save(source / "slice" / "t1.nii.gz", noise[:, :, :1])
    save(source / "singular" / "t1.nii.gz", noise)
    raw = bytearray(gzip.decompress((source / "singular" / "t1.nii.gz").read_bytes()))
    struct.pack_into("<4f", raw, 280, 0, 0, 0, 0)  # the first row of the sform
    (source / "singular" / "t1.nii.gz").write_bytes(gzip.compress(bytes(raw)))
    (source / "text").mkdir()
    (source / "text" / "t1.nii.gz").write_text("not an image")
    return {
        "truncated": "CHI-IN-006", "liar": "CHI-IN-", "empty": "CHI-IN-", "twins": "CHI-IN-", "nan": "CHI-IN-090",
        "flat": "CHI-IN-091", "slice": "CHI-IN-", "singular": "CHI-IN-", "text": "CHI-IN-",
    }  # fmt: skip


def test_each_bad_patient_fails_with_its_own_code_and_the_good_ones_finish(bench: MakeBench) -> None:
    cohort = bench(2)
    wanted = make_bad(cohort.source)
    result = cohort.run(cohort.root / "out")
    assert result.returncode == 1
    assert "Traceback" not in result.stdout + result.stderr
    assert f"2 done (0 before), {len(wanted)} failed" in result.stdout
    lines = {line.split()[0].removeprefix("sub-"): line for line in result.stderr.splitlines() if " failed [" in line}
    assert set(lines) == set(wanted)
    for patient, code in wanted.items():
        assert f"failed [{code}" in lines[patient], lines[patient]
        assert (cohort.root / "out" / f"sub-{patient}" / f"sub-{patient}_desc-tiny_report.html").is_file()
    assert "scan_t1.nii.gz" in lines["twins"] + result.stdout
    assert len({line.split("[")[1].split("]")[0] for line in lines.values()}) >= 7  # the codes tell the faults apart


def test_an_empty_folder_is_exit_3_and_says_what_was_looked_for(bench: MakeBench) -> None:
    cohort = bench(1)
    shutil.rmtree(cohort.source)
    cohort.source.mkdir()
    result = cohort.run(cohort.root / "out")
    assert result.returncode == 3
    assert result.stderr.startswith("[CHI-IN-")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 700 kB: the viewer's script alone does not fit."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = (
        os.geteuid() == 0
        and subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=700k", "tmpfs", str(folder)], check=False, capture_output=True
        ).returncode
        == 0
    )
    if not mounted:
        pytest.skip("a small file system can be mounted by root only")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_is_named_nothing_is_half_written_and_the_rerun_completes(
    bench: MakeBench, small_disk: Path
) -> None:
    cohort = bench(2)
    out = small_disk / "out"
    full = cohort.run(out, "--work-dir", str(cohort.root / "work"))
    assert full.returncode == 1
    assert "[CHI-RES-010]" in full.stderr
    assert "Traceback" not in full.stdout + full.stderr
    for path in out.rglob("*.nii.gz"):
        gzip.decompress(path.read_bytes())
    assert not list(out.rglob(".*.tmp"))
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    again = cohort.run(out, "--work-dir", str(cohort.root / "work"))
    assert again.returncode == 0, again.stderr
    assert cohort.run(cohort.root / "clean").returncode == 0
    assert cohort.tree(out) == cohort.tree(cohort.root / "clean")
