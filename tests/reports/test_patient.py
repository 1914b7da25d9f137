from __future__ import annotations

from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from chiasm.pipelines.reports import patient as patient_module
from chiasm.pipelines.reports.patient import (
    PatientReport,
    ReportError,
    VolumeRow,
    share_viewer,
    write_overview,
    write_patient_report,
)
from chiasm.pipelines.reports.viewer import viewer_script

CANARIES = ("<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "'onmouseover='alert(1)", "{{ 7 * 7 }}")


class Page(HTMLParser):
    """Elements of a page: (tag, attributes), and the text outside scripts and styles."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text, self._inside = "", ""
        self.feed(path.read_text("utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._inside = tag

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside not in {"script", "style"}:
            self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture
def failed() -> PatientReport:
    error = ReportError(
        code="CHI-IN-004", message="The file ends early.", remedy="Copy it again.", file="sub-02/sub-02_T1w.nii.gz"
    )
    return PatientReport(key="sub-02", title="Brain tissue", status="failed", error=error, provenance={"version": "1"})


def test_the_page_and_its_figures_are_written_and_named(tmp_path: Path, report: PatientReport) -> None:
    page = tmp_path / "sub-01" / "sub-01_desc-chiasm_report.html"
    written = write_patient_report(page, report, assets=tmp_path / "assets")
    assert written[0] == page
    assert sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()) == [
        "assets/niivue.LICENSE.txt",
        "assets/niivue.min.js",
        "sub-01/figures/sub-01_desc-chiasm_report_axial-labels.png",
        "sub-01/figures/sub-01_desc-chiasm_report_axial.png",
        "sub-01/figures/sub-01_desc-chiasm_report_coronal-labels.png",
        "sub-01/figures/sub-01_desc-chiasm_report_coronal.png",
        "sub-01/figures/sub-01_desc-chiasm_report_sagittal-labels.png",
        "sub-01/figures/sub-01_desc-chiasm_report_sagittal.png",
        "sub-01/sub-01_desc-chiasm_report.html",
    ]
    assert set(written) == {path for path in (tmp_path / "sub-01").rglob("*") if path.is_file()}
    assert '"script": "../assets/niivue.min.js"' in page.read_text("utf-8")


def test_every_link_of_the_page_leads_to_a_file(tmp_path: Path, report: PatientReport) -> None:
    page = tmp_path / "sub-01" / "report.html"
    (tmp_path / "index.html").write_text("")
    write_patient_report(page, report, assets=tmp_path / "assets")
    parsed = Page(page)
    links = [a["href"] for a in parsed.all("a")] + [image["src"] for image in parsed.all("img")]
    assert len(links) == 8
    for link in links:
        assert link is not None
        assert link.startswith("#") or (page.parent / link).is_file()


def test_two_writings_are_equal_byte_for_byte(tmp_path: Path, report: PatientReport) -> None:
    for name in ("a", "b"):
        write_patient_report(tmp_path / name / "page.html", report)
        write_patient_report(tmp_path / name / "single.html", report, single_file=True)
    for path in (tmp_path / "a").rglob("*"):
        if path.is_file():
            assert path.read_bytes() == (tmp_path / "b" / path.relative_to(tmp_path / "a")).read_bytes()


def test_warnings_come_before_volumes_and_volumes_before_pictures(tmp_path: Path, report: PatientReport) -> None:
    write_patient_report(tmp_path / "page.html", report)
    text = (tmp_path / "page.html").read_text("utf-8")
    places = [
        text.index(f'id="{name}"') for name in ("warnings", "notices", "volumes", "slices", "methods", "provenance")
    ]
    assert places == sorted(places)


def test_the_page_says_what_the_report_holds(tmp_path: Path, report: PatientReport) -> None:
    write_patient_report(tmp_path / "page.html", report)
    text = Page(tmp_path / "page.html").text
    for said in (
        report.title, report.flags[0], report.notices[0], "First paragraph.", "Second paragraph.", report.citations[0],
        "ab" * 32, "grey matter", "(orange)", "Radiological convention", "not a medical device", "done, 1 warning",
    ):  # fmt: skip
        assert said in text
    total = sum(row.volume_ml for row in report.rows)
    assert f"{total:,.0f}" in text


def test_a_failed_patient_says_why_and_what_to_do_first(tmp_path: Path, failed: PatientReport) -> None:
    written = write_patient_report(tmp_path / "page.html", failed)
    assert written == [tmp_path / "page.html"]
    page = Page(tmp_path / "page.html")
    main = page.text[page.text.index("This patient was not processed") :]
    assert [
        main.index(part) for part in ("The file ends early.", "Copy it again.", "CHI-IN-004", "sub-02_T1w")
    ] == sorted(main.index(part) for part in ("The file ends early.", "Copy it again.", "CHI-IN-004", "sub-02_T1w"))
    assert not page.all("img")
    assert not page.all("script")
    assert not (tmp_path / "assets").exists()


def test_a_patient_that_failed_late_still_shows_its_volume(
    tmp_path: Path, failed: PatientReport, report: PatientReport
) -> None:
    late = replace(failed, background=report.background, spacing_mm=(2.0, 2.0, 2.0))
    assert len(write_patient_report(tmp_path / "page.html", late)) == 4
    assert "No label is drawn" in (tmp_path / "page.html").read_text("utf-8")


@pytest.mark.parametrize("canary", CANARIES)
@pytest.mark.parametrize("single_file", [False, True])
def test_no_text_of_a_report_becomes_markup(
    tmp_path: Path, report: PatientReport, canary: str, single_file: bool
) -> None:
    clean = tmp_path / "clean.html"
    write_patient_report(clean, report, single_file=single_file)
    poisoned = replace(
        report, key=canary, title=canary, flags=[canary], notices=[canary], methods=canary, citations=[canary],
        provenance={"inputs": {canary: canary}, "list": [canary], "version": canary}, group_href=canary,
        rows=[replace(row, name=canary, colour=canary) for row in report.rows],
        label_table={value: (canary, rgb) for value, (_, rgb) in report.label_table.items()},
    )  # fmt: skip
    poisoned_page = tmp_path / "poisoned.html"
    write_patient_report(poisoned_page, poisoned, single_file=single_file)
    expected, got = Page(clean), Page(poisoned_page)
    known = {"script", "img"}
    assert [t for t, _ in got.elements if t in known] == [t for t, _ in expected.elements if t in known]
    assert not [a for _, attributes in got.elements for a in attributes if a.startswith("on")]
    assert canary in got.text


def test_every_script_and_style_carries_the_nonce_of_the_policy(tmp_path: Path, report: PatientReport) -> None:
    write_patient_report(tmp_path / "page.html", report)
    page = Page(tmp_path / "page.html")
    policy = next(a["content"] for a in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy")
    nonces = {attributes.get("nonce") for tag, attributes in page.elements if tag in {"script", "style"}}
    assert len(nonces) == 1
    assert f"'nonce-{nonces.pop()}'" in str(policy)
    assert not [1 for _, attributes in page.elements if "style" in attributes]


def test_a_single_file_holds_everything(tmp_path: Path, report: PatientReport) -> None:
    written = write_patient_report(tmp_path / "page.html", report, single_file=True)
    assert written == [tmp_path / "page.html"]
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]
    page = Page(tmp_path / "page.html")
    assert all(str(image["src"]).startswith("data:image/png;base64,") for image in page.all("img"))
    assert viewer_script()[:100].decode() in (tmp_path / "page.html").read_text("utf-8")


def test_a_single_file_stays_below_its_limit_by_leaving_the_viewer_out(
    tmp_path: Path, report: PatientReport, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patient_module, "SINGLE_FILE_BYTES", 1_000_000)
    write_patient_report(tmp_path / "page.html", report, single_file=True)
    assert (tmp_path / "page.html").stat().st_size < 1_000_000
    assert "Interactive viewer" not in (tmp_path / "page.html").read_text("utf-8")


def test_regions_within_regions_get_no_shares(tmp_path: Path, report: PatientReport) -> None:
    rows = [
        VolumeRow(label=1, name="whole", colour="#ff0000", volume_ml=30.0),
        VolumeRow(label=2, name="core", colour="#00ff00", volume_ml=10.0),
    ]
    write_patient_report(tmp_path / "page.html", replace(report, rows=rows))
    text = Page(tmp_path / "page.html").text
    assert "Share" not in text
    assert "All regions" not in text


def test_shares_of_regions_that_overlap_are_not_shown_as_parts_of_a_whole(
    tmp_path: Path, report: PatientReport
) -> None:
    rows = [replace(row, share=0.6) for row in report.rows]
    write_patient_report(tmp_path / "page.html", replace(report, rows=rows))
    assert "Share" not in Page(tmp_path / "page.html").text


def test_the_shared_script_is_written_once_and_mended_when_damaged(tmp_path: Path) -> None:
    script = share_viewer(tmp_path)
    before = script.stat().st_mtime_ns
    assert share_viewer(tmp_path).stat().st_mtime_ns == before
    script.write_bytes(b"half")
    assert share_viewer(tmp_path).read_bytes() == viewer_script()


def test_the_overview_is_one_picture_of_all_planes(
    tmp_path: Path, report: PatientReport, failed: PatientReport
) -> None:
    with Image.open(write_overview(tmp_path / "images" / "overview.png", report)) as picture:
        assert picture.height > 700
        assert picture.mode == "RGB"
    with pytest.raises(ValueError, match="a volume"):
        write_overview(tmp_path / "none.png", failed)


def test_labels_on_another_grid_are_refused(tmp_path: Path, report: PatientReport) -> None:
    with pytest.raises(ValueError, match="of one shape"):
        write_patient_report(tmp_path / "page.html", replace(report, labels=np.zeros((2, 2, 2), np.uint8)))
    assert not list(tmp_path.iterdir())
