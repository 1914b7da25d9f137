"""The page of one interview: what it says, what it draws, and that no word of a transcript becomes markup."""

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

from chiasm.pipelines.reports.patient import ReportError
from chiasm.pipelines.reports.speech_figures import Deletion, RelevanceMap, SpeechPicture, TransportPlan
from chiasm.pipelines.reports.speech_patient import ShownWord, SpeechPatientReport, write_speech_patient_report

CANARIES = ("<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "' onmouseover='alert(1)", "{{ 7 * 7 }}")
SCRIPT = "<script>window.canary = 1</script>"


class Page(HTMLParser):
    """Elements of a page, and the text outside scripts and styles."""

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
        self.text += " " if tag in {"td", "th"} else ""

    def handle_data(self, data: str) -> None:
        if self._inside not in {"script", "style"}:
            self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture
def interview() -> SpeechPatientReport:
    """Return a whole report: eight words, four seconds of sound, a plan that ties the word i to the second i / 2."""
    said = "the boy um takes a cookie I think".split()
    words = tuple(ShownWord(text, i * 0.5, i * 0.5 + 0.4, (i + 1) / 8) for i, text in enumerate(said))
    times = np.arange(0.0, 4.0, 0.05)
    rng = np.random.default_rng(0)
    mass = np.full((8, 4), 0.01)
    mass[np.arange(8), np.arange(8) // 2] = 1.0
    grid = np.full((2, 4), 0.1)
    grid[1, 2] = 1.0
    edges = np.arange(5.0)
    return SpeechPatientReport(
        key="sub-01", title="Dementia from spontaneous speech", status="done",
        class_words={"CN": "no cognitive impairment", "AD": "probable Alzheimer's disease"}, probability=(0.272, 0.728),
        calibration="Temperature 1.3, 27 validation persons.", prediction_set=("CN", "AD"), prevalence="Half have it.",
        modality_share=(0.6, 0.4), words=words, times_estimated=True,
        sound=SpeechPicture(
            decibels=rng.normal(-40, 5, (16, 80)).astype(np.float32), times_s=times, centre_hz=np.linspace(60, 8000, 16)
        ),
        sound_relevance=RelevanceMap(grid=grid, edges_s=edges, band_edges=np.array([0.0, 8.0, 16.0])),
        plan=TransportPlan(mass=mass, edges_s=edges),
        deletion=Deletion(fractions=np.arange(3) / 3, by_relevance=np.array([0.7, 0.3, 0.1]), at_random=np.full(3, 0.7)),
        deletion_note="It falls sooner.", relevance_method="The method.", warnings=["The recording is noisy."],
        notices=["A phantom."], facts=(("Speech", "3.2 s"),), mmse=21.3, mmse_error=4.6, methods="One.\n\nTwo.",
        citations=["Somebody, 2020."], provenance={"inputs": {"a.wav": "ab" * 32}}, group_href="../index.html",
    )  # fmt: skip


@pytest.fixture
def words_only(interview: SpeechPatientReport) -> SpeechPatientReport:
    """Return the report without pictures, which most tests do not look at."""
    return replace(interview, sound=None, sound_relevance=None, plan=None, deletion=None)


@pytest.fixture
def failed() -> SpeechPatientReport:
    error = ReportError(code="CHI-IN-215", message="The recording is silent.", remedy="Record again.", file="a/b.wav")
    return SpeechPatientReport(key="sub-02", title="Dementia", status="failed", error=error)


def text_of(folder: Path, report: SpeechPatientReport) -> str:
    write_speech_patient_report(folder / "page.html", report)
    return re.sub(r"\s+", " ", Page(folder / "page.html").text)


def test_page_and_figures_are_written_and_named(tmp_path: Path, interview: SpeechPatientReport) -> None:
    written = write_speech_patient_report(tmp_path / "sub-01_report.html", interview, assets=tmp_path / "assets")
    assert written[0].name == "sub-01_report.html"
    names = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file())
    assert names == [
        "figures/sub-01_report_deletion.png",
        "figures/sub-01_report_plan.png",
        "figures/sub-01_report_sound.png",
        "sub-01_report.html",
    ]
    assert sorted(path.relative_to(tmp_path).as_posix() for path in written) == names
    images = Page(written[0]).all("img")
    for image in images:
        with Image.open(tmp_path / str(image["src"])) as picture:
            assert (str(picture.width), str(picture.height)) == (image["width"], image["height"])
        assert image["alt"]
    assert len(images) == 3


def test_two_writings_are_equal_and_a_single_file_holds_all(tmp_path: Path, interview: SpeechPatientReport) -> None:
    for name in ("a", "b"):
        assert len(write_speech_patient_report(tmp_path / name / "p.html", interview, single_file=True)) == 1
    assert (tmp_path / "a" / "p.html").read_bytes() == (tmp_path / "b" / "p.html").read_bytes()
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["p.html"]
    assert all(str(i["src"]).startswith("data:image/png;base64,") for i in Page(tmp_path / "a" / "p.html").all("img"))


def test_the_page_says_what_the_report_holds(tmp_path: Path, interview: SpeechPatientReport) -> None:
    text = text_of(tmp_path, interview)
    for said in (
        "0.73 Calibrated probability: probable Alzheimer's disease", "about 73 should come from persons", "Half have it.",
        "Not certain: no cognitive impairment and probable Alzheimer's disease are both possible.", "90 of 100",
        "60.0 % words", "sound 40.0 %", "The recording is noisy.", "done, 1 warning", "A phantom.", "21.3 of 30",
        "4.6 points", "not a diagnosis", "The method.", "Times of words are estimates", "It falls sooner.", "3.2 s",
        "Temperature 1.3", "Somebody, 2020.", "not a medical device",
    ):  # fmt: skip
        assert said in text, said


def test_sections_stand_in_the_order_in_which_they_matter(tmp_path: Path, interview: SpeechPatientReport) -> None:
    write_speech_patient_report(tmp_path / "page.html", interview)
    html = (tmp_path / "page.html").read_text("utf-8")
    names = ["warnings", "notices", "answer", "modalities", "transcript", "sound", "plan", "deletion", "measured"]
    places = [html.index(f'id="{name}"') for name in [*names, "methods", "provenance"]]
    assert places == sorted(places)


def test_a_word_shows_its_relevance_by_line_and_number_and_its_seconds(
    tmp_path: Path, words_only: SpeechPatientReport
) -> None:
    write_speech_patient_report(tmp_path / "page.html", words_only)
    words = [a for a in Page(tmp_path / "page.html").all("span") if "w" in str(a.get("class")).split()]
    assert [a["class"] for a in words] == ["w w1", "w w1", "w w2", "w w2", "w w3", "w w4", "w w4", "w w5"]
    assert words[2]["title"] == "relevance 0.38; 1.0 to 1.4 s"
    css = (tmp_path / "page.html").read_text("utf-8")
    widths = [int(found) for found in re.findall(r"\.w\d \{ [^}]*border-bottom-width: (\d)px", css)]
    assert widths == [1, 2, 3, 4, 5]


def test_the_table_of_words_pairs_each_with_its_seconds(tmp_path: Path, interview: SpeechPatientReport) -> None:
    text = text_of(tmp_path, interview)
    assert "think 3.5 to 3.9 s 1.00 3.0 to 4.0 s (97 %)" in text
    assert text.index("think 3.5") < text.index("I 3.0 to 3.4")


def test_a_pause_begins_a_new_line_with_its_time(tmp_path: Path, words_only: SpeechPatientReport) -> None:
    late = tuple(w._replace(start_s=w.start_s + 63.0, end_s=w.end_s + 63.0) for w in words_only.words[4:])
    write_speech_patient_report(tmp_path / "page.html", replace(words_only, words=(*words_only.words[:4], *late)))
    html = (tmp_path / "page.html").read_text("utf-8")
    assert re.findall(r"<time>(.*?)</time>", html) == ["0:00", "1:05"]


@pytest.mark.parametrize(
    ("chosen", "said", "open_"),
    [
        (("AD",), "One class is left: probable Alzheimer's disease.", False),
        ((), "Not certain: no class fits.", True),
        (None, "No prediction set was fitted", False),
    ],
)
def test_every_prediction_set_has_its_words(
    tmp_path: Path, words_only: SpeechPatientReport, chosen: tuple[str, ...] | None, said: str, open_: bool
) -> None:
    text = text_of(tmp_path, replace(words_only, prediction_set=chosen))
    assert said in text
    assert ("not certain" in text) == open_


def test_three_classes_are_all_possible(tmp_path: Path, words_only: SpeechPatientReport) -> None:
    classes = ("CN", "MCI", "AD")
    three = replace(words_only, classes=classes, probability=(0.3, 0.3, 0.4), prediction_set=classes)
    assert "no cognitive impairment, MCI and probable Alzheimer's disease are all possible" in text_of(tmp_path, three)


def test_an_uncalibrated_score_is_not_called_a_probability(tmp_path: Path, words_only: SpeechPatientReport) -> None:
    text = text_of(tmp_path, replace(words_only, calibration=""))
    assert "Score, not calibrated" in text
    assert "should come from persons" not in text
    assert "Half have it." not in text


def test_a_missing_modality_leaves_out_its_sections_and_says_so(tmp_path: Path, interview: SpeechPatientReport) -> None:
    note = "No transcript: the text is a learned token."
    bare = replace(interview, words=(), plan=None, deletion=None, modality_share=(0.0, 1.0), modality_notes=[note])
    assert note in text_of(tmp_path, bare)
    html = (tmp_path / "page.html").read_text("utf-8")
    assert 'id="sound"' in html
    assert 'id="transcript"' not in html
    assert 'id="plan"' not in html
    mute = replace(interview, sound=None, sound_relevance=None, plan=None)
    written = write_speech_patient_report(tmp_path / "mute.html", mute)
    assert [path.name for path in written] == ["mute.html", "mute_deletion.png"]


def test_words_that_the_model_did_not_read_and_a_machine_transcript_are_named(
    tmp_path: Path, words_only: SpeechPatientReport
) -> None:
    cut = tuple(w._replace(relevance=None) if i > 5 else w for i, w in enumerate(words_only.words))
    text = text_of(tmp_path, replace(words_only, words=cut, machine_transcript=True))
    assert "did not read 2 words" in text
    assert "Speech recognition wrote these words" in text
    assert 'title="not read by the model; 3.5 to 3.9 s"' in (tmp_path / "page.html").read_text("utf-8")


def test_a_plan_that_says_nothing_is_called_even(tmp_path: Path, interview: SpeechPatientReport) -> None:
    even = TransportPlan(mass=np.full((8, 4), 0.25), edges_s=np.arange(5.0))
    assert "The plan is nearly even" in text_of(tmp_path, replace(interview, plan=even))
    assert "The plan is nearly even" not in text_of(tmp_path, interview)


def test_a_failed_interview_says_why_and_what_to_do(tmp_path: Path, failed: SpeechPatientReport) -> None:
    text = text_of(tmp_path, failed)
    order = [
        text.index(part)
        for part in ("was not processed", "recording is silent", "Record again.", "CHI-IN-215", "a/b.wav")
    ]
    assert order == sorted(order)
    page = Page(tmp_path / "page.html")
    assert not page.all("img")
    assert 'id="answer"' not in (tmp_path / "page.html").read_text("utf-8")


@pytest.mark.parametrize("canary", CANARIES)
def test_no_text_becomes_markup(tmp_path: Path, interview: SpeechPatientReport, canary: str) -> None:
    poisoned = replace(
        interview, key=canary, title=canary, class_words={"AD": canary, "CN": canary}, calibration=canary,
        prevalence=canary, modality_notes=[canary], words=[w._replace(text=canary) for w in interview.words],
        deletion_note=canary, relevance_method=canary, warnings=[canary], notices=[canary], facts=[(canary, canary)],
        provenance={canary: canary}, methods=canary, citations=[canary], group_href=canary,
    )  # fmt: skip
    write_speech_patient_report(tmp_path / "clean.html", interview)
    write_speech_patient_report(tmp_path / "page.html", poisoned)
    clean, page = Page(tmp_path / "clean.html"), Page(tmp_path / "page.html")
    assert [len(page.all(tag)) for tag in ("script", "img")] == [len(clean.all(tag)) for tag in ("script", "img")]
    assert not page.all("script")
    assert not [a for _, attributes in page.elements for a in attributes if a.startswith("on") or a == "style"]
    assert page.text.count(canary) >= len(interview.words) + 10


def test_parts_that_do_not_fit_are_refused_together(interview: SpeechPatientReport) -> None:
    with pytest.raises(ValueError, match=r"3 probabilities for 2 classes.*MCI.*not between 0 and 1.*\(8, 4\)"):
        replace(
            interview,
            probability=(0.2, 0.3, 0.5),
            prediction_set=("MCI",),
            words=[ShownWord("a", relevance=2.0)],
        )


@pytest.mark.browser
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("state", ["interview", "failed"])
def test_no_serious_violation_of_accessibility(
    browser: Any, axe: str, tmp_path: Path, request: pytest.FixtureRequest, state: str, dark: bool
) -> None:
    write_speech_patient_report(tmp_path / "page.html", request.getfixturevalue(state))
    browser.open(tmp_path / "page.html", dark=dark)
    browser.run("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    browser.run(axe + "; true")
    found = browser.run("axe.run(document, {resultTypes: ['violations']}).then(r => JSON.stringify(r.violations))")
    assert [v["id"] for v in json.loads(found) if v["impact"] in {"serious", "critical"}] == []
    assert browser.complaints == []
    assert browser.run("Array.from(document.images).every(i => i.complete && i.naturalWidth > 0)")


@pytest.mark.browser
@pytest.mark.parametrize("width", [360, 1280])
def test_nothing_sticks_out_of_the_page_and_no_script_of_a_transcript_runs(
    browser: Any, tmp_path: Path, interview: SpeechPatientReport, width: int
) -> None:
    words = [
        w._replace(text=SCRIPT if i == 2 else "x" * 80 if i == 3 else w.text) for i, w in enumerate(interview.words)
    ]
    write_speech_patient_report(tmp_path / "page.html", replace(interview, words=words))
    browser.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
    browser.open(tmp_path / "page.html")
    assert browser.run("document.documentElement.scrollWidth <= window.innerWidth")
    assert browser.run("window.canary") is None
    assert browser.run("Array.from(document.querySelectorAll('.transcript .w'), w => w.textContent)")[2] == SCRIPT
    browser.call("Emulation.clearDeviceMetricsOverride")
