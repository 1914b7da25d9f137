"""The page of one subject: what was decoded beside what was seen, and an honest word where something is not there."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from chiasm.pipelines.reports import fmri_subject
from chiasm.pipelines.reports.columns import column_of, in_order
from chiasm.pipelines.reports.fmri_figures import VoxelMap, image_grid
from chiasm.pipelines.reports.fmri_subject import (
    FmriSubjectReport,
    RegionShare,
    ShownImage,
    write_fmri_subject_report,
)

CANARIES = ("<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "' onmouseover='alert(1)", "{{ 7 * 7 }}")
SCRIPT = "<script>window.canary = 1</script>"
WHERE = "[CHI-WT-001] weights 'torchvision/alexnet' are not there. Put a folder into weights/."
TWO_WAY = "efficientnet-lite0 two-way"


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


def metric(name: str, value: float | None, reason: str = "") -> dict[str, Any]:
    ends = {"low": 0.35, "high": 0.47, "chance": 0.33, "chance_low": 0.3, "chance_high": 0.36}
    return {"metric": name, "value": value, "reason": reason, **(ends if value is not None else {})}


@pytest.fixture
def full() -> FmriSubjectReport:
    """Return the page's content of a subject with stimuli, decoder, mask and regions; four images in the grid."""
    rng = np.random.default_rng(0)
    inside = np.zeros((10, 12, 9), bool)
    inside[2:8, 2:6, 3:7] = True
    pictures = rng.integers(0, 255, (4, 8, 8, 3), dtype=np.uint8)
    names = ("seen", "reconstructed", "low level", "retrieved, 1.")
    retrieval = {
        "direction": "brain-to-image", "value": 0.35, "pool": 300, "draws": 30, "draws_low": 0.34, "draws_high": 0.36,
        "chance": 1 / 300, "all": {"value": 0.3, "low": 0.2, "high": 0.4, "pool": 400}, "note": "",
    }  # fmt: skip
    return FmriSubjectReport(
        key="sub-01", title="Images from fMRI", n_images=6, n_trials=18, n_voxels=96, region="nsdgeneral", n_samples=4,
        columns=dict.fromkeys(names, pictures), found={"retrieved, 1.": np.array([True, False, False, False])},
        shown=[ShownImage(f"boot {i}", 3, 0.1 * i, 0.5, i + 1, ["boot 0", "bag 7"]) for i in range(4)],
        rank=np.array([1, 2, 3, 4, 1, 5]), n_candidates=6, spread=np.linspace(0.1, 0.6, 6),
        agreement=np.linspace(0.9, 0.4, 6), retrieval=[retrieval],
        metrics=[metric("PixCorr", 0.411), metric("AlexNet(2)", None, WHERE), metric("AlexNet(5)", None, WHERE),
                 metric(TWO_WAY, 0.8)],
        noise_ceiling={"median": 40.9, "low": 23.7, "high": 57.0, "images": 60, "repeats": 3, "split_half": 0.25},
        ceiling=np.linspace(0.0, 80.0, 96), ceiling_source="Of the data set.", declared={"selection": "best of 4"},
        voxels=VoxelMap(inside=inside, affine=np.diag([3.0, 3.0, 3.0, 1.0]), values=rng.random(96).astype(np.float32)),
        regions=[RegionShare("V1", 32, 0.5, 1 / 3)], warnings=["Two sessions are new."], notices=["Research use."],
        facts=[("Target", "small-16x64")], provenance={"inputs": {"a": "b"}}, methods="One.\n\nTwo.",
        citations=["Scotti, 2023."], group_href="../group.html",
    )  # fmt: skip


@pytest.fixture
def light(full: FmriSubjectReport) -> FmriSubjectReport:
    """Return the same without the figures that take longest."""
    return replace(full, voxels=None, ceiling=None, rank=None, n_candidates=0, n_samples=1)


@pytest.fixture
def bare() -> FmriSubjectReport:
    """Return what is left without stimuli, decoder, mask, regions and repeats."""
    return FmriSubjectReport(
        key="sub-02", title="Images from fMRI", side="all", n_images=5, n_trials=5, n_voxels=7,
        spread=np.zeros(5), agreement=np.full(5, np.nan),
    )  # fmt: skip


def text_of(folder: Path, report: FmriSubjectReport) -> str:
    return Page(write_fmri_subject_report(folder / "page.html", report)[0]).text


def test_page_and_figures_are_written_and_named(tmp_path: Path, full: FmriSubjectReport) -> None:
    written = write_fmri_subject_report(tmp_path / "sub-01_report.html", full, assets=tmp_path / "assets")
    kinds = ("images", "retrieval", "spread", "ceiling", "voxels")
    names = ["sub-01_report.html", *(f"figures/sub-01_report_{kind}.png" for kind in kinds)]
    assert [path.relative_to(tmp_path).as_posix() for path in written] == names
    assert sorted(names) == sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file())
    page = Page(written[0])
    assert [image["src"] for image in page.all("img")] == names[1:]
    for image in page.all("img"):
        with Image.open(tmp_path / str(image["src"])) as picture:
            assert (str(picture.width), str(picture.height)) == (image["width"], image["height"])
        assert image["alt"]
    assert "seen, reconstructed, low level, retrieved, 1.. 1 pictures" in str(page.all("img")[0]["alt"])


def test_equal_reports_give_equal_bytes_and_a_single_file_holds_all(tmp_path: Path, light: FmriSubjectReport) -> None:
    pages = [write_fmri_subject_report(tmp_path / name / "p.html", light, single_file=True) for name in "ab"]
    assert pages[0][0].read_bytes() == pages[1][0].read_bytes()
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["p.html"]
    images = Page(pages[0][0]).all("img")
    assert images
    assert all(str(image["src"]).startswith("data:image/png;base64,") for image in images)


def test_the_page_says_what_was_decoded_and_how_well(tmp_path: Path, full: FmriSubjectReport) -> None:
    text = text_of(tmp_path, replace(full, voxels=None))
    for expected in (
        "6 images were decoded from 18 trials of the test side of the split (96 voxels).",
        "first choice among 400 in 30.0 % [20.0, 40.0] of cases; guessing would find 0.2 %",
        "outputs of a decoder, not photographs of thoughts",
        "4 of 6 images, evenly spaced",
        "brain to image 300 30 0.350 0.340 to 0.360, draws 0.003 0.300 0.200 to 0.400",
        "PixCorr 0.411 0.350 to 0.470 0.330 0.300 to 0.360",
        "sampled 4 times for each image",
        "mean over images 0.350",
        "Their correlation over images is −1.00",
        "40.9 % of the variance of the median voxel (quartiles 23.7 and 57.0 %)",
        "1 boot 0 3 0.000 0.500 1 boot 0, bag 7",
        "V1 32 50.0 % 33.3 % 1.50",
        "Selection best of 4",
        "Two sessions are new.",
    ):
        assert expected in text
    assert text.count(WHERE) == 1
    assert "AlexNet(2), AlexNet(5)" in text


def test_own_space_and_template_space_are_told_apart(
    tmp_path: Path, full: FmriSubjectReport, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The map itself is looked at in the tests of the figures.
    monkeypatch.setattr(fmri_subject, "voxel_figure", lambda _: image_grid({"map": full.columns["seen"]}))
    plain = replace(full, columns={}, found={}, shown=(), rank=None, ceiling=None, spread=None)
    assert "no outline of a template is drawn" in text_of(tmp_path, plain)
    assert full.voxels is not None
    template = replace(full.voxels, space="MNI152NLin6Asym")
    assert "glass brain of that template" in text_of(tmp_path, replace(plain, voxels=template))


def test_without_stimuli_decoder_or_mask_the_page_says_so(tmp_path: Path, bare: FmriSubjectReport) -> None:
    page = tmp_path / "page.html"
    assert write_fmri_subject_report(page, bare) == [page]
    text = Page(page).text
    for expected in (
        "5 images were decoded from 5 trials of this subject (7 voxels).",
        "The stimuli are not there: nothing could be retrieved or scored.",
        "There is no decoder in this recipe: no image was reconstructed.",
        "there is no map, and there are no named regions",
        "One sample was made for each image",
    ):
        assert expected in text
    for absent in ("Likeness to the seen images", "Not computed", "Retrieval"):
        assert absent not in text


def test_scores_over_all_trials_carry_a_caution(tmp_path: Path, full: FmriSubjectReport) -> None:
    text = text_of(tmp_path, replace(full, side="all", voxels=None, ceiling=None, columns={}, found={}, shown=()))
    assert "some may have been trained on" in text


def test_parts_that_do_not_fit_are_refused_together(full: FmriSubjectReport) -> None:
    with pytest.raises(ValueError, match=r"rows and columns.*which are no columns.*ranks without candidates"):
        replace(full, shown=full.shown[:2], found={"other": np.ones(4, bool)}, n_candidates=0)


def test_no_name_becomes_markup(tmp_path: Path, light: FmriSubjectReport) -> None:
    safe = Page(write_fmri_subject_report(tmp_path / "safe.html", light)[0])
    for index, canary in enumerate(CANARIES):
        poisoned = replace(
            light, key=canary, title=canary, warnings=[canary], notices=[canary], methods=canary, citations=[canary],
            facts=[(canary, canary)], provenance={canary: canary}, group_href=canary, declared={canary: canary},
            shown=[row._replace(name=canary, retrieved=[canary]) for row in light.shown],
            metrics=[metric(canary, None, canary)], regions=[RegionShare(canary, 3, 0.5, 0.5)],
        )  # fmt: skip
        page = Page(write_fmri_subject_report(tmp_path / f"{index}.html", poisoned)[0])
        assert page.text.count(canary) >= 10
        for tag in ("script", "svg", "iframe", "img"):
            assert len(page.all(tag)) == len(safe.all(tag))
        assert not any(name.startswith("on") for _, found in page.elements for name in found)


def test_the_cohorts_columns_are_named_as_papers_name_them() -> None:
    assert column_of("brain-to-image", [0.3456]).title == "image retrieval"
    assert column_of("brain-to-image").show(0.3456) == "0.346"
    assert column_of("voxels").show(15724.0) == "15,724"
    names = ["images", "voxels", "spread", "brain-to-image", "PixCorr", "CLIP"]
    assert in_order(names) == ["brain-to-image", "PixCorr", "CLIP", "spread", "images", "voxels"]


@pytest.mark.browser
@pytest.mark.parametrize("dark", [False, True])
def test_no_serious_violation_of_accessibility(
    browser: Any, axe: str, tmp_path: Path, full: FmriSubjectReport, dark: bool
) -> None:
    report = replace(full, voxels=None)
    browser.open(write_fmri_subject_report(tmp_path / "p.html", report)[0], dark=dark)
    browser.run("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    browser.run(axe + "; true")
    found = browser.run("axe.run(document, {resultTypes: ['violations']}).then(r => JSON.stringify(r.violations))")
    assert [v["id"] for v in json.loads(found) if v["impact"] in {"serious", "critical"}] == []
    assert browser.complaints == []


@pytest.mark.browser
@pytest.mark.parametrize("width", [360, 1280])
def test_nothing_runs_and_nothing_sticks_out(
    browser: Any, tmp_path: Path, light: FmriSubjectReport, width: int
) -> None:
    report = replace(light, key=SCRIPT, shown=[row._replace(name=SCRIPT) for row in light.shown])
    browser.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
    browser.open(write_fmri_subject_report(tmp_path / "p.html", report)[0])
    browser.run("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    assert browser.run("document.documentElement.scrollWidth <= window.innerWidth")
    assert browser.run("Array.from(document.images).every(i => i.complete && i.naturalWidth > 0)")
    assert browser.run("window.canary") is None
    assert browser.complaints == []
    assert {url.split(":")[0] for url in browser.requests} <= {"file", "data"}
    browser.call("Emulation.clearDeviceMetricsOverride")
