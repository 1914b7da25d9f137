from __future__ import annotations

import re
import time
from pathlib import Path

import numpy as np
import pytest

from chiasm.pipelines.reports.group import GroupRow, natural, write_group_page


def row(key: str, **values: object) -> GroupRow:
    return GroupRow(key=key, href=f"{key}/{key}.html", **values)  # type: ignore[arg-type]


def failed(key: str, code: str = "CHI-IN-004", remedy: str = "Copy it again.") -> GroupRow:
    return row(key, status="failed", code=code, message="The file ends early.", remedy=remedy)


def keys_in_table(path: Path) -> list[str]:
    body = path.read_text("utf-8").split("<tbody>")[1].split("</tbody>")[0]
    return re.findall(r'<th scope="row"><a [^>]*>([^<]*)</a>', body)


def test_failures_come_first_then_warnings_each_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    rows = [row("sub-10"), row("sub-2"), row("sub-3", flags=["small"]), failed("sub-11"), failed("sub-9")]
    write_group_page(tmp_path / "index.html", rows, "Brain tissue")
    assert keys_in_table(tmp_path / "index.html") == ["sub-9", "sub-11", "sub-3", "sub-2", "sub-10"]


def test_the_counts_are_those_of_the_rows(tmp_path: Path) -> None:
    rows = [row("sub-1"), row("sub-2", flags=["x"]), failed("sub-3"), failed("sub-4")]
    write_group_page(tmp_path / "index.html", rows, "Brain tissue")
    text = (tmp_path / "index.html").read_text("utf-8")
    assert re.findall(r"<strong>(\d+)</strong> ([a-z ]+)", text) == [
        ("4", "patients"), ("2", "done"), ("1", "with warnings"), ("2", "failed"),
    ]  # fmt: skip


def test_failures_are_grouped_by_cause_the_most_frequent_first(tmp_path: Path) -> None:
    rows = [failed("sub-1", "CHI-IN-061", "Name one."), *(failed(f"sub-{i}") for i in range(2, 22))]
    write_group_page(tmp_path / "index.html", rows, "Brain tissue")
    panel = (tmp_path / "index.html").read_text("utf-8").split('id="failures"')[1].split("</section>")[0]
    assert panel.index("CHI-IN-004") < panel.index("CHI-IN-061")
    assert "20 patients" in panel
    assert "and 8 more" in panel
    assert panel.count("Copy it again.") == 1


def test_the_order_in_which_patients_finish_does_not_change_the_page(tmp_path: Path) -> None:
    rows = [row(f"sub-{i}", values={"CSF": float(i), "GM": 2.0 * i}) for i in range(20)]
    write_group_page(tmp_path / "a.html", rows, "t", columns=["CSF", "GM"])
    write_group_page(tmp_path / "b.html", rows[::-1], "t", columns=["CSF", "GM"])
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def test_outliers_are_named_and_linked(tmp_path: Path) -> None:
    rows = [row(f"sub-{i}", values={"grey matter": 600.0 + i}) for i in range(20)]
    rows.append(row("sub-99", values={"grey matter": 1500.0}))
    write_group_page(tmp_path / "index.html", rows, "t")
    caption = (tmp_path / "index.html").read_text("utf-8").split("<figcaption>")[1].split("</figcaption>")[0]
    assert "1 outlier:" in caption
    assert '<a href="sub-99/sub-99.html">sub-99</a> 1,500' in caption


def test_a_missing_volume_is_a_dash_and_not_in_the_plot(tmp_path: Path) -> None:
    write_group_page(tmp_path / "index.html", [row("sub-1", values={"CSF": None}), failed("sub-2")], "t")
    text = (tmp_path / "index.html").read_text("utf-8")
    assert text.count('<td class="num">–</td>') == 2
    assert "distributions" not in text.split("<body>")[1]


def test_a_run_without_patients_has_a_page(tmp_path: Path) -> None:
    assert write_group_page(tmp_path / "index.html", [], "t") == [tmp_path / "index.html"]
    assert "No patient was found." in (tmp_path / "index.html").read_text("utf-8")


@pytest.mark.parametrize("canary", ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>'])
def test_no_text_of_a_row_becomes_markup(tmp_path: Path, canary: str) -> None:
    poison = GroupRow(
        key=canary, href=canary, status="failed", code=canary, message=canary, remedy=canary,
        values={canary: 1.0}, flags=[canary],
    )  # fmt: skip
    fine = GroupRow(key=canary + "2", href="javascript:alert(1)", values={canary: 2.0})
    write_group_page(
        tmp_path / "index.html", [poison, fine], canary, notices=[canary], methods=canary, citations=[canary],
        provenance={canary: canary},
    )  # fmt: skip
    text = (tmp_path / "index.html").read_text("utf-8")
    assert text.count("<script") == 1
    assert "<img" not in text
    assert "javascript:" not in text


def test_ten_thousand_patients_are_written_in_seconds(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(600, 50, 10_000)
    rows = [row(f"sub-{i}", values={"grey matter": float(v)}) for i, v in enumerate(values)]
    start = time.process_time()
    write_group_page(tmp_path / "index.html", rows, "t")
    assert time.process_time() - start < 10.0
    assert len(keys_in_table(tmp_path / "index.html")) == 10_000
    assert (tmp_path / "index.html").read_text("utf-8").count("<circle") <= 150


def test_numbers_inside_names_are_compared_as_numbers() -> None:
    names = ["sub-10", "sub-9", "sub-a", "sub-1_ses-2", "sub-1_ses-10", "sub-01", "10", "x", "²3"]
    ordered = sorted(names, key=natural)
    assert ordered[0] == "10"
    assert ordered.index("sub-9") < ordered.index("sub-10")
    assert ordered.index("sub-1_ses-2") < ordered.index("sub-1_ses-10")


def heads(path: Path) -> list[tuple[str, str]]:
    """(attributes, words) of each heading of the table."""
    row = path.read_text("utf-8").split("<thead><tr>")[1].split("</tr>")[0]
    return re.findall(r'<th scope="col"([^>]*)>([^<]*)</th>', row)


def cells(path: Path) -> list[list[str]]:
    body = path.read_text("utf-8").split("<tbody>")[1].split("</tbody>")[0]
    return [re.findall(r"<td(?: class=\"num\")?>([^<]*)</td>", line) for line in body.splitlines() if line]


ANSWER = {
    "p_AD": 0.9964,
    "prediction_set": "AD",
    "mmse_estimate": 19.5,
    "text_share": 0.613,
    "duration_s": 61.25,
    "words": 104.0,
}


def test_answers_stand_with_their_own_names_units_and_digits(tmp_path: Path) -> None:
    unsure = {**ANSWER, "p_AD": 0.5, "prediction_set": "CN or AD"}
    rows = [row("sub-1", values=dict(sorted(ANSWER.items()))), row("sub-2", values=unsure), failed("sub-3")]
    write_group_page(tmp_path / "index.html", rows, "Dementia from speech")
    assert [words for _, words in heads(tmp_path / "index.html")][2:-1] == [
        "probability of AD", "prediction set", "MMSE, estimated", "text share of the relevance", "duration (s)", "words",
    ]  # fmt: skip
    lost, first, second = cells(tmp_path / "index.html")
    assert first == ["0.996", "AD", "19.5", "0.61", "61.2", "104"]
    assert second[:2] == ["0.500", "CN or AD"]
    assert lost == ["–"] * 6
    text = (tmp_path / "index.html").read_text("utf-8")
    assert "ml" not in re.sub(r"(?i)</?html[^>]*>|\.html", "", text.split("<body>")[1].split("<script")[0])
    assert "Volumes" not in text


def test_words_are_sorted_as_words_and_have_no_distribution(tmp_path: Path) -> None:
    write_group_page(tmp_path / "index.html", [row(f"sub-{i}", values=ANSWER) for i in range(9)], "t")
    numeric = {words: "num" in attributes for attributes, words in heads(tmp_path / "index.html")}
    assert not numeric["prediction set"]
    assert numeric["probability of AD"]
    text = (tmp_path / "index.html").read_text("utf-8")
    titles = re.findall(r'<p class="plot-title">([^<]*)</p>', text)
    assert "prediction set" not in titles
    assert titles[0] == "probability of AD"
    assert "<title>sub-0: 61.2 s</title>" in text
    assert "<title>sub-0: 0.996</title>" in text


def test_volumes_are_volumes_in_millilitres(tmp_path: Path) -> None:
    write_group_page(tmp_path / "index.html", [row("sub-1", values={"CSF_ml": 1234.5, "lesion_ml": 0.123})], "t")
    assert [words for _, words in heads(tmp_path / "index.html")][2:-1] == ["CSF_ml (ml)", "lesion_ml (ml)"]
    text = (tmp_path / "index.html").read_text("utf-8")
    assert '<h2 id="distributions">Volumes</h2>' in text
    assert cells(tmp_path / "index.html") == [["1,234", "0.12"]]
    assert "<title>sub-1: 1,234.5 ml</title>" in text


def test_a_result_of_unknown_name_stands_as_it_is(tmp_path: Path) -> None:
    write_group_page(tmp_path / "index.html", [row("sub-1", values={"age": 70.0, "pause_s": 2.0, "note": None})], "t")
    assert [words for _, words in heads(tmp_path / "index.html")][2:-1] == ["age", "pause (s)", "note"]
    assert '<h2 id="distributions">Distributions</h2>' in (tmp_path / "index.html").read_text("utf-8")
