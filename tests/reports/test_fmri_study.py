"""The page of a study of images from fMRI: what it claims, what it shows beside it, and that nothing in it becomes markup."""

from __future__ import annotations

import copy
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from chiasm.pipelines.reports.fmri_study import missing_networks, write_fmri_study_report
from chiasm.pipelines.reports.fmri_verdict import fmri_verdict, main_metric, number, said

CANARIES = ("<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "' onmouseover='alert(1)", "{{ 7 * 7 }}")
SCRIPT = "<script>window.canary = 1</script>"
TWO_WAY, DISTANCE = "efficientnet-lite0 two-way", "efficientnet-lite0 distance"
WHERE = "[CHI-WT-001] weights 'torchvision/alexnet' are not there. Put a folder into weights/."
NAMES = ("seen", "model", "ridge", "nearest training image", "mean image", "untrained prior")
Results = dict[str, Any]


class Page(HTMLParser):
    """Elements of a page, and its text outside scripts and styles, cells parted by blanks."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text, self._inside = "", ""
        self.feed(path.read_text("utf-8"))
        self.text = re.sub(r"\s+", " ", self.text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._inside = tag
        self.text += " "

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""
        self.text += " " if tag in {"td", "th", "span"} else ""

    def handle_data(self, data: str) -> None:
        if self._inside not in {"script", "style"}:
            self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def score(mean: float, half: float = 0.05) -> dict[str, float]:
    return {"mean": mean, "low": mean - half, "high": mean + half, "n": 60.0}


def metric(name: str, value: float | None, *, published: bool, reason: str = "") -> dict[str, Any]:
    return {
        "metric": name, "value": value, "low": None if value is None else value - 0.1,
        "high": None if value is None else value + 0.1, "chance": None if value is None else 0.33,
        "chance_low": None if value is None else 0.3, "chance_high": None if value is None else 0.36, "n": 60,
        "higher_is_better": name != DISTANCE, "published": published, "reason": reason,
    }  # fmt: skip


def line(name: str, kind: str, two_way: float | None, found: float | None) -> dict[str, Any]:
    row = {
        "direction": "brain-to-image", "value": found, "pool": 60, "draws": 1, "draws_low": None, "draws_high": None,
        "chance": 1 / 60, "all": {"value": found, "low": 0.4, "high": 0.6, "pool": 60}, "note": "only 60 images",
    }  # fmt: skip
    metrics = [
        metric("PixCorr", 0.411, published=True), metric("AlexNet(2)", None, published=True, reason=WHERE),
        metric("AlexNet(5)", None, published=True, reason=WHERE), metric(TWO_WAY, two_way, published=False),
    ]  # fmt: skip
    return {
        "name": name, "kind": kind, "retrieval": [row] if found is not None else [],
        "retrieval_all": score(found) if found is not None else None,
        "metrics": metrics if two_way is not None else [],
        "declared": {"selection": f"best of 4 of {name}", "blending": "none"} if two_way is not None else {},
    }  # fmt: skip


@pytest.fixture
def results() -> Results:
    """Return a study whose model beats mean image and untrained prior, and is not told apart from ridge."""
    lines = [
        line("model", "model", 0.8, 0.5), line("ridge", "baseline", 0.79, 0.45), line("mean image", "baseline", 0.5, None),
        line("untrained prior", "control", 0.52, None), line("optimal decoder", "bound", None, 1.0),
    ]  # fmt: skip
    subject = {
        "voxels": 1103, "training_images": 291, "validation_images": 9, "test_images": 60, "scaling_leaks": False,
        "noise_ceiling": {
            "median": 40.9, "low": 23.7, "high": 57.0, "images": 60, "repeats": 3, "split_half": 0.25,
        }, "lines": lines,
    }  # fmt: skip
    pooled = [
        {
            "name": "model",
            "kind": "model",
            "scores": {TWO_WAY: score(0.8), "retrieval": score(0.5), "PixCorr": score(0.41)},
        },
        {"name": "ridge", "kind": "baseline", "scores": {TWO_WAY: score(0.79), "retrieval": score(0.45)}},
        {"name": "mean image", "kind": "baseline", "scores": {TWO_WAY: score(0.5)}},
        {"name": "untrained prior", "kind": "control", "scores": {TWO_WAY: score(0.52)}},
        {"name": "optimal decoder", "kind": "bound", "scores": {"retrieval": score(1.0, 0.0)}},
    ]
    differences = {
        "ridge": {TWO_WAY: score(0.01), "retrieval": score(0.05, 0.06)}, "mean image": {TWO_WAY: score(0.3)},
        "untrained prior": {TWO_WAY: score(0.28)}, "optimal decoder": {"retrieval": score(-0.5)},
    }  # fmt: skip
    return {
        "recipe": {"name": "fmri-images", "title": "Images from fMRI", "sha256": "ab"},
        "data": {"layout": "nsd", "phantom": True, "notes": ["Test side: shared images."]},
        "betas": {"roi": "nsdgeneral"}, "reconstruction": {"samples": 4}, "settings": {"epochs": 4},
        "network": {"kind": "mindeye2", "hidden": 384}, "citations": ["Scotti, 2023."], "methods": "One.\n\nTwo.",
        "command": "chiasm train fmri-images DATA OUT --epochs 4", "versions": {"chiasm": "0.1.0"},
        "subjects": {"01": subject, "02": copy.deepcopy(subject)},
        "pooled": {"lines": pooled, "differences": differences, "share_of_optimal_retrieval": 0.5},
    }  # fmt: skip


@pytest.fixture
def pictures() -> dict[str, dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    return {
        name: {column: rng.integers(0, 255, (3, 8, 8, 3), dtype=np.uint8) for column in NAMES} for name in ("01", "02")
    }


def text_of(folder: Path, results: Results, pictures: Any = None) -> str:
    return Page(write_fmri_study_report(folder, results, pictures or {})[0]).text


def test_page_and_a_grid_a_subject_are_written(tmp_path: Path, results: Results, pictures: Any) -> None:
    written = write_fmri_study_report(tmp_path, results, pictures)
    names = ["report.html", "figures/report_images-1.png", "figures/report_images-2.png"]
    assert [path.relative_to(tmp_path).as_posix() for path in written] == names
    images = Page(written[0]).all("img")
    assert [image["src"] for image in images] == names[1:]
    for image in images:
        with Image.open(tmp_path / str(image["src"])) as picture:
            assert (str(picture.width), str(picture.height)) == (image["width"], image["height"])
    assert "seen, model, nearest training image, ridge, mean image, untrained prior" in str(images[0]["alt"])


def test_equal_studies_give_equal_bytes_and_a_single_file_holds_all(
    tmp_path: Path, results: Results, pictures: Any
) -> None:
    pages = [
        write_fmri_study_report(tmp_path / name, copy.deepcopy(results), pictures, single_file=True) for name in "ab"
    ]
    assert [len(files) for files in pages] == [1, 1]
    assert pages[0][0].read_bytes() == pages[1][0].read_bytes()
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["report.html"]
    assert all(str(image["src"]).startswith("data:image/png;base64,") for image in Page(pages[0][0]).all("img"))


def test_the_verdict_says_what_was_beaten_and_what_was_not(tmp_path: Path, results: Results) -> None:
    verdict = fmri_verdict(results)
    assert verdict.state == "shown"
    assert verdict.title == "Better than chance, and than the mean image and the untrained prior, on phantom brains"
    assert verdict.better == (
        f"Better than the mean image: {TWO_WAY} +0.300 [+0.250, +0.350].",
        f"Better than the untrained prior: {TWO_WAY} +0.280 [+0.230, +0.330].",
    )
    assert verdict.open == (
        "Not told apart from ridge: Image retrieval +0.050 [−0.010, +0.110].",
        f"Not told apart from ridge: {TWO_WAY} +0.010 [−0.040, +0.060].",
    )
    assert verdict.worse == ()  # the optimal decoder is a bound, not a rival
    text = text_of(tmp_path, results)
    assert "first choice in 50.0 % [45.0, 55.0] of cases; guessing would find 1.7 %" in text
    assert "50 % of what the optimal decoder finds" in text
    assert "Noise ceiling of the median voxel, as a mean over three repeats: 41 %" in text


def test_a_model_that_loses_is_called_worse(results: Results) -> None:
    results["pooled"]["differences"]["ridge"][TWO_WAY] = score(-0.2)
    results["pooled"]["differences"]["mean image"][TWO_WAY] = score(0.01)
    verdict = fmri_verdict(results)
    assert verdict.state == "open"
    assert verdict.title.endswith("the images are not shown to be better than the mean image")
    assert verdict.worse == (f"Worse than ridge: {TWO_WAY} −0.200 [−0.250, −0.150].",)


def test_retrieval_at_chance_shows_nothing_whatever_else_is_beaten(results: Results) -> None:
    results["pooled"]["lines"][0]["scores"]["retrieval"] = score(0.03, 0.02)
    verdict = fmri_verdict(results)
    assert (verdict.state, verdict.label) == ("open", "nothing shown")
    assert verdict.title == "Nothing shown: retrieval is not above chance on phantom brains"


def test_of_a_distance_less_is_better() -> None:
    assert said(DISTANCE, score(-0.3)) == "better"
    assert said(TWO_WAY, score(-0.3)) == "worse"
    assert said(TWO_WAY, score(0.01)) == "open"
    assert said(TWO_WAY, score(math.nan)) == "open"
    assert number(score(-0.3), sign=True) == "−0.300 [−0.350, −0.250]"


def test_the_published_judge_is_preferred_to_our_own(results: Results) -> None:
    assert main_metric(results) == TWO_WAY
    results["pooled"]["lines"][0]["scores"]["CLIP"] = score(0.9)
    assert main_metric(results) == "CLIP"


def test_what_is_missing_is_named_once_with_its_place(tmp_path: Path, results: Results) -> None:
    rows = results["subjects"]["01"]["lines"][0]["metrics"]
    assert [entry.metrics for entry in missing_networks(rows)] == [["AlexNet(2)", "AlexNet(5)"]]
    text = text_of(tmp_path, results)
    assert text.count(WHERE) == 1
    assert "No other network took their place" in text


def test_tables_carry_intervals_chance_and_declarations(tmp_path: Path, results: Results) -> None:
    text = text_of(tmp_path, results)
    assert "This model 0.500 0.450 to 0.550" in text
    assert text.count("Chance: pairs permuted 0.017") == 3  # pooled and two subjects
    assert "0.330 0.300 to 0.360" in text
    assert "Optimal decoder −0.500 −0.550 to −0.450 worse" in text
    assert "best of 4 of model" in text
    assert "1,103 291 9 60 40.9 23.7 to 57.0" in text
    assert "This model 01 brain to image 60 1 0.500 0.017 0.500" in text
    for expected in ("chiasm train fmri-images DATA OUT --epochs 4", "Scotti, 2023.", "not photographs of thoughts"):
        assert expected in text


def test_published_rows_are_of_the_split_and_tagged(tmp_path: Path, results: Results) -> None:
    phantom = text_of(tmp_path, results)
    assert "do not compare with those of the papers" in phantom
    results["data"]["phantom"] = False
    assert "of neither generation of the split" in text_of(tmp_path, results)
    for one in results["subjects"].values():
        one["test_images"] = 1000
    text = text_of(tmp_path, results)
    assert "40 sessions: 1,000 test images (MindEye2)" in text
    assert "37 sessions" not in text
    assert "MindEye2 not run here; paper 0.322 0.431 96.1 % 98.6 %" in text
    assert "This model run here 0.410 – – –" in text
    results["data"]["layout"] = "plain"
    assert "not run here" not in text_of(tmp_path, results)


def test_data_of_persons_are_not_called_synthetic(tmp_path: Path, results: Results) -> None:
    assert "The brains are synthetic." in text_of(tmp_path, results)
    results["data"]["phantom"] = False
    results["pooled"]["share_of_optimal_retrieval"] = None
    text = text_of(tmp_path, results)
    assert "synthetic" not in text
    assert "optimal decoder finds" not in text


def test_without_decoder_repeats_or_baselines_the_page_says_so(tmp_path: Path, results: Results) -> None:
    for one in results["subjects"].values():
        one["lines"] = [{**one["lines"][0], "metrics": [], "declared": {}}]
        one["noise_ceiling"] = None
        one["scaling_leaks"] = True
    results["pooled"] = {
        "lines": [{"name": "model", "kind": "model", "scores": {"retrieval": score(0.5)}}], "differences": {},
        "share_of_optimal_retrieval": None,
    }  # fmt: skip
    text = text_of(tmp_path, results)
    assert "There is no decoder in this recipe" in text
    assert "No noise ceiling" in text
    assert "nothing was compared with the images" in text
    assert "Subject 01: the betas were scaled with statistics of all trials" in text
    assert "This model less the others" not in text


def test_no_name_becomes_markup(tmp_path: Path, results: Results, pictures: Any) -> None:
    safe = Page(write_fmri_study_report(tmp_path / "safe", results, pictures)[0])
    for index, canary in enumerate(CANARIES):
        poisoned = json.loads(json.dumps(results).replace("torchvision/alexnet", "there"))
        poisoned["recipe"]["title"] = poisoned["command"] = poisoned["methods"] = canary
        poisoned["citations"], poisoned["data"]["notes"] = [canary], [canary]
        poisoned["subjects"] = {canary: results["subjects"]["01"], "02": results["subjects"]["02"]}
        poisoned["subjects"][canary]["lines"][0]["declared"] = {canary: canary}
        poisoned["versions"] = {canary: canary}
        page = Page(write_fmri_study_report(tmp_path / str(index), poisoned, {canary: pictures["01"]})[0])
        assert canary in page.text
        for tag in ("script", "svg", "iframe"):
            assert len(page.all(tag)) == len(safe.all(tag))
        assert all(image["src"] == "figures/report_images-1.png" for image in page.all("img"))
        assert not any(name.startswith("on") for _, found in page.elements for name in found)


@pytest.mark.browser
@pytest.mark.parametrize("dark", [False, True])
def test_no_serious_violation_of_accessibility(
    browser: Any, axe: str, tmp_path: Path, results: Results, pictures: Any, dark: bool
) -> None:
    browser.open(write_fmri_study_report(tmp_path, results, pictures)[0], dark=dark)
    browser.run("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    browser.run(axe + "; true")
    found = browser.run("axe.run(document, {resultTypes: ['violations']}).then(r => JSON.stringify(r.violations))")
    assert [v["id"] for v in json.loads(found) if v["impact"] in {"serious", "critical"}] == []
    assert browser.complaints == []


@pytest.mark.browser
@pytest.mark.parametrize("width", [360, 1280])
def test_nothing_runs_and_nothing_sticks_out(
    browser: Any, tmp_path: Path, results: Results, pictures: Any, width: int
) -> None:
    results["recipe"]["title"] = results["command"] = SCRIPT
    browser.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
    browser.open(write_fmri_study_report(tmp_path, results, pictures)[0])
    browser.run("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    assert browser.run("document.documentElement.scrollWidth <= window.innerWidth")
    assert browser.run("Array.from(document.images).every(i => i.complete && i.naturalWidth > 0)")
    assert browser.run("window.canary") is None
    assert browser.complaints == []
    assert {url.split(":")[0] for url in browser.requests} <= {"file", "data"}
    browser.call("Emulation.clearDeviceMetricsOverride")
