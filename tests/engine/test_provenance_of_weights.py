"""What weights were trained on decides what they may be used for, and is said where the input is part of it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from chiasm.pipelines.engine.records import sha256_of_file

MakeBench = Callable[[int], Any]


def with_config(cohort: Any, **changes: object) -> Any:
    """Return the cohort with a copy of the tiny weights whose config is changed."""
    store = cohort.root / "store"
    shutil.copytree(cohort.store, store)
    path = store / "test" / "tiny" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return replace(cohort, store=store)


def test_weights_trained_on_phantoms_answer_to_phantoms_only(bench: MakeBench) -> None:
    cohort = with_config(bench(1), training_data="synthetic", statement="person")
    refused = cohort.run(cohort.root / "out")
    assert refused.returncode == 126
    assert "[CHI-WT-007]" in refused.stderr
    assert not list((cohort.root / "out").rglob("*_dseg.nii.gz"))
    (cohort.source / "dataset_description.json").write_text(json.dumps({"chiasm_phantom": True}))
    assert cohort.run(cohort.root / "out").returncode == 0


def test_an_input_that_the_network_was_trained_from_is_the_first_flag_everywhere(bench: MakeBench) -> None:
    cohort = bench(2)
    known = sha256_of_file(cohort.source / "p00" / "t1.nii.gz")
    cohort = with_config(cohort, trained_from={known: "Trained from this one."})
    out: Path = cohort.root / "out"
    assert cohort.run(out).returncode == 0
    flags = {
        p: json.loads((out / f"sub-{p}" / f"sub-{p}_desc-tiny_record.json").read_text())["flags"]
        for p in ("p00", "p01")
    }
    assert flags["p00"][0] == "Trained from this one."
    assert "Trained from this one." not in flags["p01"]
    sidecar = json.loads((out / "sub-p00" / "anat" / "sub-p00_desc-tiny_dseg.json").read_text())
    assert sidecar["QualityFlags"][0] == "Trained from this one."
    assert "Trained from this one." in (out / "sub-p00" / "sub-p00_desc-tiny_report.html").read_text()
