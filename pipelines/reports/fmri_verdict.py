"""What a study of images from fMRI has shown and what it has not, in sentences, from its JSON alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

RETRIEVAL = "retrieval"
TWO_WAY = (
    "CLIP", "Inception", "AlexNet(5)", "AlexNet(2)", "efficientnet-lite0 two-way", "efficientnet-lite0 early two-way",
)  # fmt: skip
"""Two-way identification, the most telling first."""
LOWER_IS_BETTER = frozenset({"EffNet-B", "SwAV", "efficientnet-lite0 distance"})
NEEDED = ("mean image", "untrained prior")
"""What reconstructions must beat to be more than a blur or the prior's own taste."""


@dataclass(frozen=True, kw_only=True)
class FmriVerdict:
    """The banner of a study.

    Parameters
    ----------
    state : {'open', 'shown'}
    label, title : str
    lead : sequence of str
        Paragraphs.
    better, worse, open : tuple of str
        A sentence for each comparison.
    """

    state: Literal["open", "shown"]
    label: str
    title: str
    lead: Sequence[str]
    better: tuple[str, ...]
    worse: tuple[str, ...]
    open: tuple[str, ...]


def fmri_verdict(results: Mapping[str, Any]) -> FmriVerdict:
    """Judge by retrieval against chance, and by two-way identification against what needs no brain."""
    better, worse, unsure = _comparisons(results)
    entry = score_of(results, "model", RETRIEVAL)
    chance = retrieval_chance(results)
    above = entry is not None and entry["low"] > chance
    metric = main_metric(results)
    differences = results["pooled"]["differences"]
    judged = [name for name in NEEDED if metric in differences.get(name, {})]
    beaten = [name for name in judged if said(metric, differences[name][metric]) == "better"]
    left = [f"the {name}" for name in judged if name not in beaten]
    phantom = "on phantom brains" if results["data"].get("phantom") else "on the test images"
    if not above:
        title = f"Nothing shown: retrieval is not above chance {phantom}"
    elif left:
        title = f"Retrieval above chance {phantom}; the images are not shown to be better than {_listed(left)}"
    elif judged:
        title = f"Better than chance, and than {_listed(['the ' + name for name in beaten])}, {phantom}"
    else:
        title = f"Retrieval above chance {phantom}; nothing was compared with the images"
    shown = above and bool(judged) and not left
    return FmriVerdict(
        state="shown" if shown else "open",
        label="shown" if shown else "in part" if above else "nothing shown",
        title=title,
        lead=_lead(results, entry, chance),
        better=tuple(better),
        worse=tuple(worse),
        open=tuple(unsure),
    )


def score_of(results: Mapping[str, Any], line: str, metric: str) -> Mapping[str, float] | None:
    """Return mean, low, high, n of a pooled line's metric, or None."""
    found = {row["name"]: row["scores"] for row in results["pooled"]["lines"]}.get(line, {})
    score: Mapping[str, float] | None = found.get(metric)
    return score


def main_metric(results: Mapping[str, Any]) -> str:
    """Return the two-way metric that the verdict is about; empty where no image was scored."""
    return next((name for name in TWO_WAY if score_of(results, "model", name) is not None), "")


def retrieval_chance(results: Mapping[str, Any]) -> float:
    """Return the share that guessing finds among all test images, averaged over subjects."""
    chances = [1.0 / max(1, int(one["test_images"])) for one in results["subjects"].values()]
    return sum(chances) / max(1, len(chances))


def said(metric: str, difference: Mapping[str, float]) -> Literal["better", "worse", "open"]:
    """Say what a paired difference, model minus the other, tells about the model."""
    if not (difference["low"] > 0.0 or difference["high"] < 0.0):  # so that no number is no answer
        return "open"
    return "better" if (difference["mean"] > 0) != (metric in LOWER_IS_BETTER) else "worse"


def number(score: Mapping[str, float], *, sign: bool = False) -> str:
    """Return ``0.142 [0.083, 0.209]``, with a true minus."""
    form = "+.3f" if sign else ".3f"
    return f"{score['mean']:{form}} [{score['low']:{form}}, {score['high']:{form}}]".replace("-", "−")


def metric_name(metric: str) -> str:
    """Return a metric as a heading says it."""
    if metric == RETRIEVAL:
        return "Image retrieval"
    return f"{metric}, two-way" if metric in TWO_WAY[:4] else metric


def _comparisons(results: Mapping[str, Any]) -> tuple[list[str], list[str], list[str]]:
    """Say for every other line, in retrieval and in the main metric, whether the model is better, worse, or neither is shown."""
    found: dict[str, list[str]] = {"better": [], "worse": [], "open": []}
    kinds = {row["name"]: row["kind"] for row in results["pooled"]["lines"]}
    for other, differences in results["pooled"]["differences"].items():
        if kinds.get(other) == "bound":
            continue  # a bound cannot be beaten: it stands in the table
        for metric in (RETRIEVAL, main_metric(results)):
            if metric in differences:
                one = differences[metric]
                word = {"better": "Better than", "worse": "Worse than", "open": "Not told apart from"}[
                    said(metric, one)
                ]
                name = metric_name(metric)
                # The metric's own capitals stay: CLIP, Inception.
                found[said(metric, one)].append(f"{word} {_article(other)}: {name} {number(one, sign=True)}.")
    return found["better"], found["worse"], found["open"]


def _lead(results: Mapping[str, Any], entry: Mapping[str, float] | None, chance: float) -> list[str]:
    subjects = results["subjects"]
    sizes = sorted({one["test_images"] for one in subjects.values()})
    n = f"{sizes[0]:,}" if len(sizes) == 1 else f"{sizes[0]:,} to {sizes[-1]:,}"
    many = f"{len(subjects)} subject{'' if len(subjects) == 1 else 's'}"
    paragraphs = []
    if entry is not None:
        text = (
            f"Of {n} test images ({many}) the one that was seen is the first choice in {100 * entry['mean']:.1f} % "
            f"[{100 * entry['low']:.1f}, {100 * entry['high']:.1f}] of cases; guessing would find {100 * chance:.1f} %."
        )
        share = results["pooled"].get("share_of_optimal_retrieval")
        if share is not None:
            text += (
                f" This is {100 * share:.0f} % of what the optimal decoder finds, which knows how the phantom was made and which "
                "no decoder can beat."
            )
        paragraphs.append(text)
    metric = main_metric(results)
    own = score_of(results, "model", metric)
    if own is not None:
        paragraphs.append(
            f"Two-way identification ({metric}): a reconstruction is more like its own image than like another in "
            f"{100 * own['mean']:.1f} % [{100 * own['low']:.1f}, {100 * own['high']:.1f}] of comparisons; guessing would give 50 %."
        )
    else:
        paragraphs.append("No image was made or none could be scored: only retrieval is reported.")
    return paragraphs + _ceilings(subjects)


def _ceilings(subjects: Mapping[str, Any]) -> list[str]:
    known = [one["noise_ceiling"]["median"] for one in subjects.values() if one.get("noise_ceiling")]
    if not known:
        return ["No noise ceiling: no image was shown often enough."]
    low, high = min(known), max(known)
    told = f"{low:.0f} %" if round(low) == round(high) else f"{low:.0f} to {high:.0f} %"
    return [f"Noise ceiling of the median voxel, as a mean over three repeats: {told} of the variance."]


def _article(name: str) -> str:
    return name if name == "ridge" else f"the {name}"


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
