from __future__ import annotations

import jinja2
import pytest

from chiasm.pipelines.reports.pages import content_policy, millilitres, nonce_of, render, safe_href


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (float("nan"), "–"),
        (1234.5, "1,234"),
        (99.96, "100.0"),
        (12.34, "12.3"),
        (0.456, "0.46"),
        (0, "0.00"),
    ],
)
def test_volumes_are_written_with_the_digits_that_matter(value: float | None, text: str) -> None:
    assert millilitres(value) == text


@pytest.mark.parametrize(
    ("path", "href"),
    [
        ("sub-01/sub-01_report.html", "sub-01/sub-01_report.html"),
        ("../index.html", "../index.html"),
        ("javascript:alert(1)", "javascript%3Aalert%281%29"),
        ("//elsewhere.example/x", "elsewhere.example/x"),
        ("\\\\elsewhere.example\\x", "elsewhere.example/x"),
        ("a b#c?d", "a%20b%23c%3Fd"),
    ],
)
def test_a_link_stays_a_relative_path(path: str, href: str) -> None:
    assert safe_href(path) == href


def test_the_policy_allows_no_network_and_only_scripts_with_the_nonce() -> None:
    rules = dict(rule.strip().split(" ", 1) for rule in content_policy("abc").split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["script-src"] == "'nonce-abc'"
    assert rules["style-src"] == "'nonce-abc'"
    assert not any(word in " ".join(rules.values()) for word in ("http", "unsafe", "*", "blob"))


def test_the_nonce_depends_on_every_part_and_on_where_parts_end() -> None:
    assert nonce_of(["ab", "c"]) == nonce_of([b"ab", b"c"])
    assert len({nonce_of(parts) for parts in (["ab", "c"], ["a", "bc"], ["abc"], ["ab", "d"])}) == 4


def test_a_value_that_a_template_misses_is_an_error_not_a_gap() -> None:
    with pytest.raises(jinja2.UndefinedError):
        render("patient.html", "abc")
