"""Whole runs through real workers: one bad patient, resume, byte-equal trees, Ctrl-C, full disks, dry runs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from chiasm.data.phantoms.dicom import write_series

MakeBench = Callable[[int], Any]

GROUP_FILES = {
    ".bidsignore", "assets/niivue.LICENSE.txt", "assets/niivue.min.js", "dataset_description.json", "desc-tiny_report.html",
    "desc-tiny_results.tsv", "participants.tsv",
}  # fmt: skip
SESSION_FILES = {
    "sub-{p}/anat/sub-{p}_desc-tiny_dseg.json", "sub-{p}/anat/sub-{p}_desc-tiny_dseg.nii.gz", "sub-{p}/anat/sub-{p}_desc-tiny_dseg.tsv",
    "sub-{p}/anat/sub-{p}_desc-tiny_volumes.tsv", "sub-{p}/sub-{p}_desc-tiny_record.json", "sub-{p}/sub-{p}_desc-tiny_report.html",
    *(
        f"sub-{{p}}/figures/sub-{{p}}_desc-tiny_report_{plane}{layer}.png"
        for plane in ("axial", "coronal", "sagittal")
        for layer in ("", "-labels")
    ),
}  # fmt: skip


def test_one_broken_patient_fails_alone_and_the_rerun_does_only_what_is_left(bench: MakeBench) -> None:
    cohort = bench(3)
    broken = cohort.source / "p01" / "t1.nii.gz"
    whole = broken.read_bytes()
    broken.write_bytes(whole[: len(whole) // 2])
    out = cohort.root / "out"
    first = cohort.run(out)
    assert first.returncode == 1, first.stderr
    assert "sub-p01 failed [CHI-IN-006] p01/t1.nii.gz" in first.stderr
    assert "2 done (0 before), 1 failed" in first.stdout
    assert "Traceback" not in first.stderr + first.stdout
    page = (out / "sub-p01" / "sub-p01_desc-tiny_report.html").read_text()
    assert "CHI-IN-006" in page
    assert 'href="../desc-tiny_report.html"' in page
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*_dseg.nii.gz")}
    broken.write_bytes(whole)
    second = cohort.run(out)
    assert second.returncode == 0, second.stderr
    assert "3 sessions: 1 to run, 2 finished before" in second.stdout
    assert all(p.stat().st_mtime_ns == time_before for p, time_before in before.items())
    # The mended tree is what an undisturbed run writes.
    clean = cohort.run(cohort.root / "clean")
    assert clean.returncode == 0
    assert cohort.tree(out) == cohort.tree(cohort.root / "clean")
    expected = GROUP_FILES | {name.format(p=patient) for name in SESSION_FILES for patient in ("p00", "p01", "p02")}
    assert set(cohort.tree(out)) == expected


def test_the_tree_does_not_depend_on_workers_batch_mates_or_order(bench: MakeBench) -> None:
    cohort = bench(4)
    one, two = cohort.root / "one", cohort.root / "two"
    assert cohort.run(one).returncode == 0
    assert cohort.run(two, "--workers", "2", "--participant-label", "p03", "p01").returncode == 0
    assert cohort.run(two, "--workers", "2").returncode == 0
    assert cohort.tree(one) == cohort.tree(two)


def test_ctrl_c_stops_at_once_keeps_what_is_done_and_says_how_to_go_on(bench: MakeBench) -> None:
    cohort = bench(30)
    out = cohort.root / "out"
    running = subprocess.Popen(
        cohort.command(out),
        env=cohort.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    wait_for(lambda: len(list(out.glob("sub-*/*_record.json"))) >= 2)
    os.killpg(running.pid, signal.SIGINT)
    _, errors = running.communicate(timeout=30)
    assert running.returncode == 75
    assert "the same command goes on from here" in errors
    assert "Traceback" not in errors
    done = len(list(out.glob("sub-*/*_record.json")))
    assert 2 <= done < 30
    again = cohort.run(out)
    assert again.returncode == 0
    assert f"30 sessions: {30 - done} to run, {done} finished before" in again.stdout


def test_a_read_only_output_is_a_coded_message(bench: MakeBench) -> None:
    cohort = bench(1)
    out = Path("/proc/chiasm-out")  # nobody, root included, may write there
    result = cohort.run(out)
    assert result.returncode == 1
    assert "[CHI-RES-022] the output or work folder cannot be written" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_dry_run_shows_the_cohort_and_writes_nothing(bench: MakeBench) -> None:
    cohort = bench(2)
    out = cohort.root / "out"
    result = cohort.run(out, "--dry-run")
    assert result.returncode == 0, result.stderr
    assert "p00/t1.nii.gz" in result.stdout
    assert "GiB" in result.stdout
    assert not out.exists()


def test_a_session_that_cannot_fit_is_refused_before_it_starts_and_the_others_finish(bench: MakeBench) -> None:
    cohort = bench(2)
    cohort.add_head("big", 9, size=160)
    out = cohort.root / "out"
    result = cohort.run(out, "--memory-gb", "0.9")  # 21 MiB beside the worker itself
    assert result.returncode == 1, result.stderr
    assert "sub-big failed [CHI-RES-001]" in result.stderr
    assert "2 done (0 before), 1 failed" in result.stdout


def test_two_drivers_on_one_output_one_wins(bench: MakeBench) -> None:
    cohort = bench(20)
    out = cohort.root / "out"
    first = subprocess.Popen(
        cohort.command(out), env=cohort.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    wait_for(lambda: (out / ".chiasm" / "tiny-1of1.lock").exists())
    second = cohort.run(out)
    first.communicate(timeout=120)
    assert (first.returncode, second.returncode) == (0, 75)
    assert "[CHI-RES-021]" in second.stderr


def test_a_changed_recipe_is_refused_with_the_list_and_runs_with_update(bench: MakeBench) -> None:
    cohort = bench(2)
    out = cohort.root / "out"
    assert cohort.run(out).returncode == 0
    cohort.recipe.write_text(cohort.recipe.read_text().replace("overlap: 0.25", "overlap: 0.5"))
    refused = cohort.run(out)
    assert refused.returncode == 2
    assert "sub-p00 (recipe changed); sub-p01 (recipe changed)" in refused.stderr
    assert cohort.run(out, "--update").returncode == 0
    record = json.loads((out / "sub-p00" / "sub-p00_desc-tiny_record.json").read_text())
    assert record["status"] == "done"


def test_logs_hold_no_patient_label(bench: MakeBench) -> None:
    cohort = bench(1)
    cohort.add_head("CANARYname", 5)
    out = cohort.root / "out"
    assert cohort.run(out).returncode == 0
    text = "".join(path.read_text() for path in (out / "logs").rglob("*.jsonl"))
    assert "sessions" in text
    assert "CANARY" not in text


def test_a_dicom_header_reaches_neither_terminal_nor_logs_nor_pages(bench: MakeBench) -> None:
    cohort = bench(1)
    values = np.random.default_rng(1).normal(300, 40, (24, 24, 24)).astype(np.int16)
    write_series(
        cohort.source / "d1" / "t1",
        values,
        np.diag([-1.0, -1.0, 1.0, 1.0]),
        patient_name="CANARY",
        contrast="t1",
        number=1,
    )
    out = cohort.root / "out"
    result = cohort.run(out)
    assert result.returncode == 0, result.stderr
    assert "sub-d1" in result.stdout
    seen = (
        result.stdout
        + result.stderr
        + "".join(p.read_text() for p in out.rglob("*") if p.suffix in {".html", ".json", ".tsv", ".jsonl"})
    )
    assert "CANARY" not in seen
    segmentation = next(out.rglob("*_dseg.dcm"))
    assert (
        b"CANARY" in segmentation.read_bytes()
    )  # the one output that must carry the source's patient, for the archive


def wait_for(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.05)
