"""The pages in a headless Chromium with software WebGL, opened from disk.

`.ci/run` provides what these tests need: the Debian package ``chromium``, and axe-core by ``npm pack axe-core`` (see the
`axe` fixture). Where either is missing they are skipped by name.
"""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from chiasm.pipelines.reports.group import GroupRow, write_group_page
from chiasm.pipelines.reports.patient import PatientReport, ReportError, write_patient_report

pytestmark = pytest.mark.browser

RUN = "window.canary = (window.canary || 0) + 1"
CANARIES = (
    f"<script>{RUN}</script>",
    f'"><img src=x onerror="{RUN}">',
    f"</script><svg onload='{RUN}'>",
    f"javascript:{RUN}",
)


@pytest.fixture
def done_page(tmp_path: Path, report: PatientReport) -> Path:
    page = tmp_path / "sub-01" / "report.html"
    write_patient_report(page, report, assets=tmp_path / "assets")
    return page


@pytest.fixture
def failed_page(tmp_path: Path) -> Path:
    error = ReportError(code="CHI-IN-004", message="The file ends early.", remedy="Copy it again.", file="a/b.nii.gz")
    failed = PatientReport(
        key="sub-02", title="Brain tissue", status="failed", error=error, provenance={"version": "1"}
    )
    page = tmp_path / "sub-02" / "report.html"
    write_patient_report(page, failed)
    return page


@pytest.fixture
def group_page(tmp_path: Path) -> Path:
    rows = [
        GroupRow(
            key=f"sub-{i}", href=f"sub-{i}/r.html", values={"CSF": 250.0 + 7 * i % 60, "grey matter": 900.0 + 20 * i}
        )
        for i in range(1, 20)
    ]
    rows.append(
        GroupRow(key="sub-30", href="x.html", values={"CSF": 900.0, "grey matter": None}, flags=["Too much CSF."])
    )
    rows.append(
        GroupRow(key="sub-31", href="y.html", status="failed", code="CHI-IN-004", message="Ends early.", remedy="Copy.")
    )
    page = tmp_path / "index.html"
    write_group_page(
        page, rows, "Brain tissue", notices=["A phantom."], methods="m", citations=["c"], provenance={"v": 1}
    )
    return page


def open_viewer(browser: Any, view: str = "3") -> np.ndarray:
    """Start the viewer, choose a view, and return its picture."""
    browser.run("document.getElementById('viewer-open').click()")
    browser.wait_for("document.documentElement.dataset.viewer")
    assert browser.run("document.documentElement.dataset.viewer") == "ready"
    choose = "const v = document.getElementById('viewer-view'); v.value = '{}'; v.dispatchEvent(new Event('change'))"
    browser.run(f"(() => {{ {choose.format(view)} }})()")
    frame = "document.getElementById('viewer-canvas').getBoundingClientRect()"
    browser.run("document.getElementById('viewer-canvas').scrollIntoView()")
    browser.run("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    x, y, width, height = browser.run(f"(r => [r.x + scrollX, r.y + scrollY, r.width, r.height])({frame})")
    clip = {"x": x, "y": y, "width": width, "height": height, "scale": 1}
    picture = Image.open(io.BytesIO(browser.screenshot(clip=clip, captureBeyondViewport=True)))
    return np.array(picture.convert("RGB")).astype(int)


def violations(browser: Any, axe: str) -> list[str]:
    """Return what axe-core calls serious or critical."""
    browser.run(axe + "; true")
    found = browser.run("axe.run(document, {resultTypes: ['violations']}).then(r => JSON.stringify(r.violations))")
    return [
        f"{entry['id']}: {[node['html'][:200] for node in entry['nodes'][:3]]}"
        for entry in json.loads(found)
        if entry["impact"] in {"serious", "critical"}
    ]


@pytest.mark.parametrize("single_file", [False, True])
def test_the_viewer_shows_volume_and_labels_and_asks_no_network(
    browser: Any, tmp_path: Path, report: PatientReport, single_file: bool
) -> None:
    page = tmp_path / "sub-01" / "report.html"
    write_patient_report(page, report, assets=tmp_path / "assets", single_file=single_file)
    browser.open(page)
    pictures = "Array.from(document.images).every(i => i.complete && i.naturalWidth > 0)"
    assert browser.run(f"document.images.length === 6 && {pictures}")
    canvas = open_viewer(browser)
    assert (canvas.max(axis=2) > 40).mean() > 0.05
    coloured = canvas.max(axis=2) - canvas.min(axis=2) > 40  # the volume alone is grey
    assert coloured.mean() > 0.02
    assert browser.run("document.getElementById('viewer-here').textContent") == "At the cross: white matter"
    assert browser.complaints == []
    assert {url.split(":")[0] for url in browser.requests} <= {"file", "data"}


@pytest.mark.parametrize(("convention", "bright_side"), [("radiological", 0), ("neurological", 1)])
def test_viewer_and_slices_agree_on_left_and_right(
    browser: Any, tmp_path: Path, report: PatientReport, convention: str, bright_side: int
) -> None:
    # The head of the fixture is brighter on the patient's right.
    bare = replace(report, labels=None, label_table={}, convention=convention)  # type: ignore[arg-type]
    written = write_patient_report(tmp_path / "page.html", bare)
    browser.open(tmp_path / "page.html")
    canvas = open_viewer(browser, view="0")
    axial = np.array(Image.open(next(path for path in written if path.name.endswith("_axial.png")))).astype(int)
    tile = axial[:, axial.shape[1] * 2 // 5 : axial.shape[1] * 3 // 5]
    for picture in (canvas.min(axis=2), tile):
        columns = np.flatnonzero((picture > 60).sum(axis=0) > picture.shape[0] * 0.1)
        middle = (columns[0] + columns[-1]) // 2
        halves = [picture[:, columns[0] : middle], picture[:, middle : columns[-1]]]
        means = [float(half[half > 20].mean()) for half in halves]
        assert int(means[1] > means[0]) == bright_side


def test_the_viewer_opens_on_the_lesion(browser: Any, tmp_path: Path, report: PatientReport) -> None:
    assert report.labels is not None
    lesion = np.zeros_like(report.labels)
    lesion[30:34, 12:16, 20:24] = 2
    write_patient_report(tmp_path / "page.html", replace(report, labels=lesion))
    browser.open(tmp_path / "page.html")
    open_viewer(browser)
    assert browser.run("document.getElementById('viewer-here').textContent") == "At the cross: grey matter"


def test_without_webgl_the_page_says_so_and_the_pictures_stay(browser_without_webgl: Any, done_page: Path) -> None:
    browser_without_webgl.open(done_page)
    status = browser_without_webgl.run("document.getElementById('viewer-status').textContent")
    assert "WebGL" in status
    assert browser_without_webgl.run("document.getElementById('viewer-start').hidden")
    assert browser_without_webgl.run("document.images.length === 6 && document.images[0].naturalWidth > 0")


def test_a_page_that_was_moved_alone_says_that_the_viewer_is_missing(
    browser: Any, done_page: Path, tmp_path: Path
) -> None:
    (tmp_path / "assets" / "niivue.min.js").unlink()
    browser.open(done_page)
    browser.run("document.getElementById('viewer-open').click()")
    browser.wait_for("document.documentElement.dataset.viewer")
    assert "not beside this page" in browser.run("document.getElementById('viewer-status').textContent")


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("name", ["done_page", "failed_page", "group_page"])
def test_no_serious_violation_of_accessibility(
    browser: Any, axe: str, request: pytest.FixtureRequest, name: str, dark: bool
) -> None:
    browser.open(request.getfixturevalue(name), dark=dark)
    browser.run("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    if name == "done_page" and not dark:
        open_viewer(browser)
    assert violations(browser, axe) == []
    assert browser.complaints == []


def test_no_script_in_a_name_or_label_runs(browser: Any, tmp_path: Path, report: PatientReport) -> None:
    for i, canary in enumerate(CANARIES):
        poisoned = replace(
            report, key=canary, title=canary, flags=[canary], notices=[canary], methods=canary, citations=[canary],
            provenance={canary: {canary: canary}}, group_href=canary,
            label_table={value: (canary, rgb) for value, (_, rgb) in report.label_table.items()},
            rows=[replace(row, name=canary, colour=canary) for row in report.rows],
        )  # fmt: skip
        write_patient_report(tmp_path / f"{i}.html", poisoned)
        rows = [
            GroupRow(key=canary, href=canary, values={canary: 5.0}),
            GroupRow(key="b", status="failed", message=canary),
        ]
        write_group_page(tmp_path / f"group{i}.html", rows, canary, notices=[canary], provenance={canary: canary})
        browser.open(tmp_path / f"{i}.html")
        if i == 0:
            open_viewer(browser)  # names of labels reach the viewer, too
            assert browser.run("document.getElementById('viewer-here').textContent") == f"At the cross: {canary}"
        assert browser.run("window.canary") is None
        browser.open(tmp_path / f"group{i}.html")
        browser.run("document.querySelectorAll('.sort').forEach(b => b.click())")
        assert browser.run("window.canary") is None
        assert browser.run("Array.from(document.links).every(a => a.protocol === 'file:')")


def test_the_policy_stops_what_escaping_might_miss(browser: Any, done_page: Path) -> None:
    page = done_page.with_name("broken.html")
    evil = f"<script>{RUN}</script><img src=x onerror='{RUN}'><script src='http://127.0.0.1:9/x.js'></script>"
    page.write_text(done_page.read_text("utf-8").replace("<main", evil + "<main"), "utf-8")
    browser.open(page)
    assert browser.run("window.canary") is None
    refused = "fetch('http://127.0.0.1:9/').then(() => 'sent', e => 'refused')"
    assert browser.run(refused) == "refused"
    beacon = "new Promise(r => { const i = new Image(); i.onerror = () => r('refused'); i.onload = () => r('sent'); "
    assert browser.run(beacon + "i.src = 'http://127.0.0.1:9/x.png'; })") == "refused"
    assert len([text for text in browser.complaints if "Content Security Policy" in text]) >= 5


def press(browser: Any, key: str, code: int, text: str = "") -> None:
    for kind in ("keyDown", "keyUp"):
        extra = {"text": text} if text and kind == "keyDown" else {}
        browser.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, **extra)


def shown(browser: Any) -> list[str]:
    rows = "Array.from(document.querySelectorAll('#table tbody th'))"
    return browser.run(f"{rows}.map(cell => cell.textContent)")


def test_the_table_sorts_by_keyboard_and_what_is_missing_comes_last(browser: Any, group_page: Path) -> None:
    browser.open(group_page)
    browser.run("document.querySelectorAll('.sort')[3].focus()")
    press(browser, "Enter", 13, "\r")
    assert browser.run("document.querySelectorAll('#table th')[3].getAttribute('aria-sort')") == "ascending"
    assert shown(browser) == [*(f"sub-{i}" for i in range(1, 20)), *shown(browser)[-2:]]
    assert set(shown(browser)[-2:]) == {"sub-30", "sub-31"}
    press(browser, "Enter", 13, "\r")
    assert shown(browser)[0] == "sub-19"  # 1,280 above 980: numbers, not text
    assert set(shown(browser)[-2:]) == {"sub-30", "sub-31"}
    browser.run("document.querySelectorAll('.sort')[1].click()")
    assert shown(browser)[:2] == ["sub-31", "sub-30"]


def choose(browser: Any, element: str, value: str, event: str) -> None:
    browser.run(
        f"(e => {{ e.value = '{value}'; e.dispatchEvent(new Event('{event}')); }})(document.getElementById('{element}'))"
    )


def test_the_table_filters_by_text_and_state(browser: Any, group_page: Path) -> None:
    browser.open(group_page)
    choose(browser, "find", "too much csf", "input")
    browser.wait_for("document.getElementById('count').textContent.startsWith('1 of 21')")
    assert shown(browser) == ["sub-30"]
    choose(browser, "find", "", "input")
    choose(browser, "show", "failed", "change")
    assert shown(browser) == ["sub-31"]


def test_a_large_cohort_is_laid_out_in_part_until_all_is_asked_for(browser: Any, tmp_path: Path) -> None:
    rows = [GroupRow(key=f"sub-{i}", values={"CSF": float(i)}) for i in range(1, 1501)]
    write_group_page(tmp_path / "index.html", rows, "Brain tissue")
    browser.open(tmp_path / "index.html")
    assert len(shown(browser)) == 1000
    browser.run("document.querySelectorAll('.sort')[2].click()")
    browser.run("document.querySelectorAll('.sort')[2].click()")
    assert shown(browser)[0] == "sub-1500"  # sorting is over all, not over those shown
    browser.run("document.getElementById('more').click()")
    assert len(shown(browser)) == 1500
    assert browser.run("document.getElementById('more').hidden")
