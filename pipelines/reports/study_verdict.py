"""What a study has shown and what it has not, in sentences; a control above chance overrules every score."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

LOWER_IS_BETTER = frozenset({"brier", "nll"})
SIGNIFICANT = 0.05


@dataclass(frozen=True, kw_only=True)
class StudyVerdict:
    """The banner of a study.

    Parameters
    ----------
    state : {'confounded', 'open', 'shown'}
    label : str
        The state in two words.
    title : str
    lead : str
    shown, not_shown : tuple of str
    """

    state: Literal["confounded", "open", "shown"]
    label: str
    title: str
    lead: str
    shown: tuple[str, ...]
    not_shown: tuple[str, ...]


def main_metric(study: Mapping[str, Any]) -> tuple[str, float]:
    """Return the metric that the verdict is about and its chance level: those of the controls, else balanced accuracy."""
    for row in study["rows"]:
        if row.get("chance"):
            return row["chance"]["metric"], float(row["chance"]["chance"])
    return "balanced_accuracy", 1.0 / len(study["classes"])


def study_verdict(study: Mapping[str, Any]) -> StudyVerdict:
    """Judge a study by its controls, then by its model."""
    rows = study["rows"]
    controls = [row for row in rows if row["kind"] == "control"]
    judged = [row for row in controls if row.get("chance")]
    bad = [row for row in judged if row["chance"]["confounded"]]
    shown, not_shown = _against_chance(study)
    above = bool(shown)
    _controls(controls, judged, shown, not_shown)
    _others(rows[1:], shown, not_shown)
    not_shown.append(_resolution(rows[0]))
    if bad:
        names = _listed([f"“{row['name']}”" for row in bad])
        lead = (
            f"{names} {'scores' if len(bad) == 1 else 'score'} above chance. What {'this control' if len(bad) == 1 else 'these controls'} "
            "was left with tells the classes apart without what the model is meant to hear, so its score may come from the same "
            "source: it is no evidence that dementia is recognised from speech."
        )
        return _verdict("confounded", "confounded", f"Confounded: {names}", lead, shown, not_shown)
    if not judged:
        lead = "No control was judged, so nothing says whether the score comes from the speech or from how the data were made."
        return _verdict("open", "not judged", "Not judged: no control", lead, shown, not_shown)
    if not above:
        lead = f"The model is not shown to be better than chance. {_at_chance(len(judged))}"
        return _verdict("open", "nothing shown", "Nothing shown", lead, shown, not_shown)
    lead = f"The model is better than chance. {_at_chance(len(judged))}"
    return _verdict(
        "shown", "controls at chance", "Better than chance, no control above chance", lead, shown, not_shown
    )


def _verdict(
    state: Literal["confounded", "open", "shown"],
    label: str,
    title: str,
    lead: str,
    shown: Sequence[str],
    not_shown: Sequence[str],
) -> StudyVerdict:
    return StudyVerdict(
        state=state,
        label=label,
        title=title,
        lead=lead,
        shown=tuple(shown),
        not_shown=tuple(text for text in not_shown if text),
    )


def _at_chance(n: int) -> str:
    return "The control is not above chance." if n == 1 else f"None of the {n} controls is above chance."


def interval(entry: Mapping[str, Any] | None, digits: int = 3) -> str:
    """Return ``0.958 [0.907, 0.992]``; a dash for what is missing."""
    if not entry or not _finite(entry.get("value")):
        return "–"
    text = f"{entry['value']:.{digits}f}"
    if _finite(entry.get("low")) and _finite(entry.get("high")):
        text += f" [{entry['low']:.{digits}f}, {entry['high']:.{digits}f}]"
    return text.replace("-", "−")


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _against_chance(study: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """Hold the model against chance: every interval must lie above it, and the permutation test agree."""
    metric, chance = main_metric(study)
    row = study["rows"][0]
    entry = row["scores"].get(metric) or {}
    wilson = row.get("wilson") if metric == "accuracy" else None
    lows = [one.get("low") for one in (entry, wilson) if one]
    permutation = study.get("permutation") or {}
    p = permutation.get("p_value")
    above = (
        bool(lows)
        and all(low is not None and _finite(low) and low > chance for low in lows)
        and (p is None or p < SIGNIFICANT)
    )
    name = metric.replace("_", " ")
    text = f"{name} {interval(entry)} on {row['n_persons']} persons; chance is {chance:.3f}"
    text += f", permuted labels do as well with p = {p:.4f}." if p is not None else "."
    return ([f"Better than chance: {text}"], []) if above else ([], [f"Better than chance: {text}"])


def _controls(
    controls: Sequence[Mapping[str, Any]], judged: Sequence[Mapping[str, Any]], shown: list[str], not_shown: list[str]
) -> None:
    at_chance = [row["name"] for row in judged if row["chance"]["at_chance"]]
    if at_chance:
        shown.append(f"At chance: {_listed(at_chance)}.")
    not_shown += [
        f"“{row['name']}” lies below chance, which chance rarely does: look for persons on two sides of a split."
        for row in judged
        if not row["chance"]["at_chance"] and not row["chance"]["confounded"]
    ]
    left = [row["name"] for row in controls if not row.get("chance")]
    if left:
        not_shown.append(f"Not judged: {_listed(left)}.")


def _others(rows: Sequence[Mapping[str, Any]], shown: list[str], not_shown: list[str]) -> None:
    """Say over which rows the model's paired difference excludes zero, in the first metric of each."""
    better, worse, open_ = [], [], []
    for row in rows:
        for entry in list(row.get("difference") or [])[:1]:
            sign = -1.0 if entry["metric"] in LOWER_IS_BETTER else 1.0
            if not entry["excludes_zero"]:
                open_.append(row["name"])
            elif sign * entry["value"] > 0:
                better.append(row["name"])
            else:
                worse.append(row["name"])
    if better:
        shown.append(f"Better than {_listed(better)} (paired over persons and seeds).")
    if worse:
        shown.append(f"Worse than {_listed(worse)} (paired over persons and seeds).")
    if open_:
        not_shown.append(f"A difference from {_listed(open_)}: the paired interval holds zero.")


def _resolution(row: Mapping[str, Any]) -> str:
    wilson = row.get("wilson")
    if not wilson or not (_finite(wilson.get("low")) and _finite(wilson.get("high"))):
        return ""
    half = 50 * (wilson["high"] - wilson["low"])
    return (
        f"Differences of a few points: with {row['n_persons']} persons the Wilson interval of the accuracy reaches about "
        f"{half:.0f} points to each side."
    )


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
