"""The page of a study: a control above chance overrules every score, and nothing stands without its interval."""

from __future__ import annotations

import copy
import json
import math
import re
from dataclasses import asdict
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chiasm.pipelines.evaluation.classification import finite
from chiasm.pipelines.evaluation.classifier_calibration import calibration_report
from chiasm.pipelines.evaluation.predictions import Predictions
from chiasm.pipelines.reports.published import PUBLISHED
from chiasm.pipelines.reports.study import write_study_report
from chiasm.pipelines.reports.study_figures import calibration_of, forest_figure, reliability_figure
from chiasm.pipelines.reports.study_verdict import interval, main_metric, study_verdict

CANARIES = ("<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "' onmouseover='alert(1)", "{{ 7 * 7 }}")
Study = dict[str, Any]


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

    def handle_data(self, data: str) -> None:
        if self._inside not in {"script", "style"}:
            self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="session")
def probabilities() -> Predictions:
    rng = np.random.default_rng(0)
    label = np.tile([0, 1], 24)
    q = 1 / (1 + np.exp(-rng.normal(2 * label - 1, 1.5)))
    return Predictions(person=[f"p{i:02}" for i in range(48)], label=label, probability=np.stack([1 - q, q], axis=1))


@pytest.fixture(scope="session")
def _whole(probabilities: Predictions) -> Study:
    report = calibration_report(probabilities, n_draws=50).as_dict()

    def row(name: str, kind: str, value: float, **more: Any) -> Study:
        half = {"low": value - 0.08, "high": value + 0.06}
        names = ("accuracy", "precision", "recall", "f1", "specificity", "auc", "brier")
        return {
            "name": name, "kind": kind, "note": f"note of {name}", "n_persons": 48, "n_runs": 5,
            "scores": {metric: {"value": value, **half} for metric in names}, "chance": None,
            "per_seed": {"accuracy": [value - 0.01, value + 0.01]}, "sd": {"accuracy": 0.0141}, "difference": [], **more,
        }  # fmt: skip

    def verdict(pooled: float) -> Study:
        return {
            "metric": "accuracy", "pooled": pooled, "low": pooled - 0.05, "high": pooled + 0.05, "chance": 0.5,
            "at_chance": abs(pooled - 0.5) <= 0.05, "confounded": pooled > 0.55, "rule": "The rule.",
        }  # fmt: skip

    def less(value: float, low: float) -> list[Study]:
        high = 2 * value - low
        return [{"metric": "accuracy", "value": value, "low": low, "high": high, "excludes_zero": low > 0 or high < 0}]

    exact = {"only_first": 9, "only_second": 1, "p_value": 0.0215, "n_persons": 48}
    return {
        "recipe": {"name": "dementia", "title": "Dementia from spontaneous speech", "sha256": "ab" * 32},
        "data": {"layout": "adress", "phantom": False, "n_interviews": 156, "notes": ["A note."],
                 "persons": {"train": {"CN": 54, "AD": 54}, "test": {"CN": 24, "AD": 24}}},
        "classes": ["CN", "AD"], "protocol": "challenge", "folds": None, "seeds": [0, 1], "control_seeds": 20,
        "settings": {"epochs": 30}, "classifier": {"crossing": "transport"},
        "rows": [
            row("model", "model", 0.87, wilson={"value": 0.875, "low": 0.753, "high": 0.941, "of": "joined seeds"}),
            row("gated", "variant", 0.85, difference=less(0.02, -0.03)),
            row("words", "baseline", 0.70, difference=less(0.17, 0.05), mcnemar=exact, stochastic_order={"eps_min": 0.04}),
            row("permuted labels", "control", 0.50, chance=verdict(0.50)),
            row("background only", "control", 0.52, chance=verdict(0.52)),
        ],
        "calibration": report, "calibration_before": report, "temperature": {"values": [1.31, 1.27]},
        "conformal": {"error_rate": 0.1, "n_fits": 2, "covered": 0.93, "answered": 0.7, "accuracy_answered": 0.91,
                      "mean_size": 1.3, "n_calibration": 27.0},
        "risk_coverage": {**report["risk_coverage"], "n_persons": 48},
        "permutation": {"metric": "accuracy", "value": 0.87, "p_value": 0.0005, "n_permutations": 2000},
        "subgroups": [{"by": "sex", "name": "female", "n_persons": 30, "hidden": False, "value": 0.9, "low": 0.8, "high": 1.0},
                      {"by": "age", "name": "under 60 years", "n_persons": None, "hidden": True}],
        "mmse": {"rmse": 4.61, "low": 3.9, "high": 5.4, "n": 48},
        "roc": {"false_positive_rate": [0.0, 0.2, 1.0], "true_positive_rate": [0.0, 0.8, 1.0]},
        "excluded": {"participant": [{"name": "S1", "code": "CHI-IN-216", "message": "Too short."},
                                     {"name": "S2", "code": "CHI-IN-216", "message": "Too short."}]},
        "command": "chiasm train dementia DATA OUT", "versions": {"chiasm": "0.2.0"},
    }  # fmt: skip


@pytest.fixture
def study(_whole: Study) -> Study:
    return copy.deepcopy(_whole)


def control(study: Study, name: str) -> Study:
    return next(row for row in study["rows"] if row["name"] == name)


def confound(study: Study, name: str) -> None:
    control(study, name)["chance"].update(pooled=0.7, low=0.62, high=0.78, at_chance=False, confounded=True)


def test_page_and_figures_are_written_and_named(tmp_path: Path, study: Study) -> None:
    written = write_study_report(tmp_path / "out", study)
    names = sorted(path.relative_to(tmp_path / "out").as_posix() for path in written)
    figures = [f"figures/report_{name}.png" for name in ("forest", "reliability", "risk-coverage", "roc")]
    assert names == [*figures, "report.html"]
    assert written[0].name == "report.html"
    assert all((tmp_path / "out" / str(i["src"])).is_file() and i["alt"] for i in Page(written[0]).all("img"))


def test_two_writings_are_equal_and_a_study_read_from_json_gives_the_same_page(tmp_path: Path, study: Study) -> None:
    for name, one in (("a", study), ("b", json.loads(json.dumps(study)))):
        assert len(write_study_report(tmp_path / name, one, single_file=True)) == 1
    assert (tmp_path / "a" / "report.html").read_bytes() == (tmp_path / "b" / "report.html").read_bytes()


def test_the_page_says_what_the_study_holds(tmp_path: Path, study: Study) -> None:
    text = Page(write_study_report(tmp_path, study)[0]).text
    floor = study["calibration"]["noise_floor"]
    ece = study["calibration"]["scores"]["ece"]
    for said in (
        "Better than chance, no control above chance", "This model note of model 48 5 0.870 0.790 to 0.930",
        "0.875 0.753 to 0.941", "p = 0.0005 2000 permutations", "permuted labels note of permuted labels 48 5 0.500 0.450 to 0.550",
        "0.170 0.050 to 0.290, excludes 0 9 1 0.0215 0.04", "0.020 −0.030 to 0.070, holds 0", "2 comparisons",
        "10 bins of equal width", f"ECE, positive class {ece['value']:.3f} {ece['low']:.3f} to {ece['high']:.3f}",
        f"{floor['mean']:.3f} {floor['low']:.3f} to {floor['high']:.3f}", "Temperatures, fitted on validation persons: 1.31, 1.27",
        "93.0 %", "sex female 30 0.900 [0.800, 1.000]", "age under 60 years – too few to show", "4.61 [3.90, 5.40]",
        "test 24 24 48", "CHI-IN-216 Too short. 2 S1, S2", "chiasm train dementia DATA OUT", "A note.", "0.860, 0.880", "0.014",
        "the data set’s own test persons; 2 seeds; controls 20 seeds",
    ):  # fmt: skip
        assert said in text, said


def test_a_control_above_chance_marks_the_result_confounded_in_red(tmp_path: Path, study: Study) -> None:
    confound(study, "background only")
    page = Page(write_study_report(tmp_path, study)[0])
    assert "Confounded: “background only”" in page.text
    assert "no evidence that dementia is recognised" in page.text
    assert "Measured, whatever its source" in page.text
    assert "above chance: confounded" in page.text
    classes = [str(a.get("class")) for _, a in page.elements]
    assert "panel verdict bad" in classes
    assert "pill bad" in classes
    assert classes.count("hit") == 2  # in the table of controls and in that of all scores
    banner = (tmp_path / "report.html").read_text("utf-8")
    assert banner.index('id="verdict"') < banner.index('id="result"') < banner.index('id="scores"')


def test_every_confounded_control_is_named(study: Study) -> None:
    confound(study, "background only")
    confound(study, "permuted labels")
    verdict = study_verdict(study)
    assert verdict.state == "confounded"
    assert verdict.title == "Confounded: “permuted labels” and “background only”"
    assert "score above chance" in verdict.lead


def test_what_was_and_was_not_shown(study: Study) -> None:
    verdict = study_verdict(study)
    assert verdict.state == "shown"
    assert [text.split(":")[0] for text in verdict.shown] == [
        "Better than chance",
        "At chance",
        "Better than words (paired over persons and seeds).",
    ]
    assert verdict.not_shown[0] == "A difference from gated: the paired interval holds zero."
    assert "48 persons" in verdict.not_shown[1]
    assert "about 9 points" in verdict.not_shown[1]


@pytest.mark.parametrize(
    "harm",
    [
        lambda s: s["rows"][0]["scores"]["accuracy"].update(low=0.5),
        lambda s: s["rows"][0]["scores"]["accuracy"].update(low=None),
        lambda s: s["rows"][0]["wilson"].update(low=0.49),
        lambda s: s["permutation"].update(p_value=0.05),
    ],
)
def test_better_than_chance_takes_every_interval_and_the_permutation_test(study: Study, harm: Any) -> None:
    harm(study)
    verdict = study_verdict(study)
    assert (verdict.state, verdict.label) == ("open", "nothing shown")
    assert verdict.not_shown[0].startswith("Better than chance: accuracy 0.870")


def test_without_controls_nothing_is_claimed(tmp_path: Path, study: Study) -> None:
    study["rows"] = study["rows"][:3]
    assert study_verdict(study).label == "not judged"
    assert main_metric(study) == ("balanced_accuracy", 0.5)
    study["rows"][0]["scores"]["balanced_accuracy"] = {"value": 0.9, "low": 0.8, "high": 0.95}
    text = Page(write_study_report(tmp_path, study)[0]).text
    assert "No control was run." in text
    assert "Not judged: no control" in text


def test_a_control_without_a_verdict_or_below_chance_is_named(study: Study) -> None:
    control(study, "permuted labels")["chance"] = None
    control(study, "background only")["chance"].update(pooled=0.3, low=0.2, high=0.4, at_chance=False)
    said = " ".join(study_verdict(study).not_shown)
    assert "Not judged: permuted labels." in said
    assert "“background only” lies below chance" in said


def test_of_errors_less_is_better(study: Study) -> None:
    study["rows"][2]["difference"] = [
        {"metric": "brier", "value": 0.1, "low": 0.05, "high": 0.2, "excludes_zero": True}
    ]
    assert "Worse than words (paired over persons and seeds)." in study_verdict(study).shown


def test_published_rows_stand_apart_with_the_intervals_of_their_n(tmp_path: Path, study: Study) -> None:
    html = write_study_report(tmp_path, study)[0].read_text("utf-8")
    section = html[html.index('class="published"') :]
    section = section[: section.index("</section>")]
    assert section.count("<tr>") == 1 + len(PUBLISHED["adress"])
    assert "not run here" in section
    own = html.replace(section, "")
    assert not [row["source"] for row in PUBLISHED["adress"] if row["source"] in own]
    text = re.sub(r"\s+", " ", section)
    # 44 of 48 would be 0.9167 [0.804, 0.967]; Wilson 1927.
    assert "0.9125 [0.799, 0.965]" in text
    assert "cannot be compared" not in text
    study["data"]["phantom"] = True
    assert "cannot be compared with them at all" in Page(write_study_report(tmp_path, study)[0]).text
    study["published"] = []
    assert 'class="published"' not in write_study_report(tmp_path, study)[0].read_text("utf-8")


def test_a_bare_study_still_makes_a_page(tmp_path: Path, study: Study) -> None:
    bare = {name: study[name] for name in ("recipe", "data", "classes", "rows")}
    bare["data"] = {"layout": "pitt"}
    bare["rows"] = [{k: row[k] for k in ("name", "kind", "n_persons", "n_runs", "scores")} for row in study["rows"]]
    written = write_study_report(tmp_path, bare)
    assert [path.name for path in written] == ["report.html", "report_forest.png"]
    bare["rows"][1]["scores"]["accuracy"] = {"value": None, "low": None, "high": None}
    bare["rows"][1]["scores"]["auc"] = {"value": 0.7, "low": None, "high": None}
    write_study_report(tmp_path, bare)


def test_what_no_page_can_be_made_of_is_refused_at_once(tmp_path: Path, study: Study) -> None:
    del study["classes"], study["rows"][2]["scores"]
    study["rows"] = study["rows"][1:]
    with pytest.raises(
        ValueError, match=r"classes is missing; the first row is not of kind 'model'; row words: scores"
    ):
        write_study_report(tmp_path, study)
    assert not list(tmp_path.iterdir())


def test_calibration_comes_back_from_json(probabilities: Predictions) -> None:
    report = calibration_report(probabilities, n_draws=50)
    again = calibration_of(json.loads(json.dumps(report.as_dict())))
    assert again.as_dict() == report.as_dict()
    assert finite(asdict(again.table[0])) == finite(asdict(report.table[0]))
    broken = report.as_dict()
    broken["scores"]["slope"]["value"] = None
    assert math.isnan(calibration_of(broken).scores["slope"].value)


def test_figures_say_their_numbers(study: Study) -> None:
    assert "this model 0.87; gated (variant) 0.85; words (baseline) 0.70" in forest_figure(study, "accuracy", 0.5).alt
    first = study["calibration"]["reliability"][0]
    said = f"promised {first['promised']:.2f}, happened {first['happened']:.2f}"
    assert said in reliability_figure(study["calibration"]).alt


@pytest.mark.parametrize(
    ("entry", "text"),
    [
        ({"value": 0.5, "low": 0.4, "high": 0.6}, "0.500 [0.400, 0.600]"),
        ({"value": -0.5, "low": None, "high": 1.0}, "−0.500"),
        ({"value": math.nan, "low": 0.4, "high": 0.6}, "–"),
        (None, "–"),
    ],
)
def test_a_score_in_text(entry: dict[str, float] | None, text: str) -> None:
    assert interval(entry) == text


@pytest.mark.parametrize("canary", CANARIES)
def test_no_text_becomes_markup(tmp_path: Path, study: Study, canary: str) -> None:
    clean = Page(write_study_report(tmp_path / "clean", study)[0])
    study["recipe"]["title"] = study["command"] = study["notes"] = canary
    study["notes"] = [canary]
    study["data"].update(layout=canary, notes=[canary], persons={canary: {"CN": 1, "AD": 1}})
    study["excluded"] = {canary: [{"name": canary, "code": canary, "message": canary}]}
    study["settings"] = {canary: canary}
    study["published"] = [
        {"system": canary, "data": canary, "accuracy": 0.5, "f1": None, "n_test": 10, "source": canary}
    ]
    for row in study["rows"][1:]:
        row.update(name=canary, note=canary)
    confound_rows = [row for row in study["rows"] if row["kind"] == "control"]
    confound_rows[0]["chance"].update(confounded=True, rule=canary)
    page = Page(write_study_report(tmp_path / "bad", study)[0])
    assert not page.all("script")
    assert len(page.all("img")) == len(clean.all("img"))
    assert not [a for _, attributes in page.elements for a in attributes if a.startswith("on") or a == "style"]
    assert page.text.count(canary) > 20


@pytest.mark.browser
@pytest.mark.parametrize("dark", [False, True])
def test_no_serious_violation_of_accessibility(
    browser: Any, axe: str, tmp_path: Path, study: Study, dark: bool
) -> None:
    confound(study, "background only")
    browser.open(write_study_report(tmp_path, study)[0], dark=dark)
    browser.run("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    browser.run(axe + "; true")
    found = browser.run("axe.run(document, {resultTypes: ['violations']}).then(r => JSON.stringify(r.violations))")
    assert [v["id"] for v in json.loads(found) if v["impact"] in {"serious", "critical"}] == []
    assert browser.complaints == []


@pytest.mark.browser
@pytest.mark.parametrize("width", [360, 1280])
def test_nothing_sticks_out_of_the_page(browser: Any, tmp_path: Path, study: Study, width: int) -> None:
    browser.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
    browser.open(write_study_report(tmp_path, study)[0])
    browser.run("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    assert browser.run("document.documentElement.scrollWidth <= window.innerWidth")
    browser.call("Emulation.clearDeviceMetricsOverride")
