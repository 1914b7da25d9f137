"""Score folders of reconstructions against the images that were seen, by one protocol for this package's runs and anybody else's.

What a run declared (how candidates were chosen, retrieval, noise ceiling) is copied from its ``result.json``; nothing of that
could be computed again from images. Published rows stand beside as data.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ....data.atomic import write_json, write_tsv
from ....data.datasets.fmri import open_decoding_set, subject_names
from ....data.errors import ChiasmError, InputError
from ....data.fmri.decoding_set import BrainSubject, DecodingSet, Stimuli
from ...engine.records import label_of
from ...fmri_recipe import FmriRecipe
from .feature_networks import Judges, load_networks
from .identification import Rule
from .published import SPLITS, published_results
from .reconstructions import Images, Reconstructions, find_reconstructions
from .scorecard import ImageScorer, Scorecard

CODES: dict[str, str] = {
    "CHI-IN-316": "A reconstruction belongs to no stimulus of the data set, to one of another name, or to one that is no test image.",
    "CHI-IN-317": "Test images have no reconstruction.",
    "CHI-IN-318": "A data set to score against has no stimuli, or not the subject that was reconstructed.",
}
Split = Literal["37", "40"]
COLUMNS = ("subject", "metric", "value", "low", "high", "chance", "n", "reason", "published")
FLAT = "folder"
"""Stands for the subject where a folder of images says nothing of one."""
MEAN_IMAGES = 256
"""Read at once."""
RULES = (
    "Images at 256 x 256; PixCorr and SSIM at 425 x 425; two-way identification among all test images; 95 % bootstrap intervals that "
    "draw stimuli; chance: pairs permuted. Retrieval, noise ceiling and candidates are copied from result.json."
)
NOT_RUN = "Numbers from papers (means of NSD's subjects 1, 2, 5 and 7). They were not run here."


@dataclass(frozen=True, eq=False, kw_only=True)
class SubjectScores:
    """One set of reconstructions, scored.

    Parameters
    ----------
    subject : str
    card, mean_image : Scorecard
        Of the reconstructions; of the mean training image in their place, where there is a training side.
    result : mapping
        Of ``result.json``.
    compared_with : str
        Subject of the data set.
    """

    subject: str
    card: Scorecard
    mean_image: Scorecard | None
    result: Mapping[str, Any]
    compared_with: str

    @property
    def retrieval(self) -> list[dict[str, Any]]:
        """Retrieval as the run measured it."""
        rows = _mapping(self.result.get("scores")).get("retrieval")
        return [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []

    def rows(self) -> list[dict[str, Any]]:
        """Rows of ``scores.tsv``."""
        rows = [{**row, "subject": self.subject} for row in self.card.rows()]
        return rows + [_retrieval_row(self.subject, row) for row in self.retrieval]

    def as_json(self) -> dict[str, Any]:
        """What ``summary.json`` says of the subject."""
        kept = ("value", "low", "high", "chance", "chance_low", "chance_high")
        return {
            "images": self.card.n,
            "stimuli_sha256": self.card.stimuli_sha256,
            "compared_with": self.compared_with,
            "candidates": self.result.get("candidates"),
            "recipe_of_the_run": self.result.get("Recipe"),
            "scores": {
                row["metric"]: {key: row[key] for key in kept} for row in self.card.rows() if row["value"] is not None
            },
            "mean_image": _values(self.mean_image) if self.mean_image is not None else None,
            "retrieval": self.retrieval,
            "noise_ceiling": _mapping(self.result.get("scores")).get("noise_ceiling"),
        }


@dataclass(frozen=True, eq=False, kw_only=True)
class ImageResults:
    """What was found.

    Parameters
    ----------
    subjects : dict of str to SubjectScores
    problems : dict of str to ChiasmError
        Subjects that could not be scored.
    missing : mapping of str to str
        Network -> why it is not there, and where its weights belong.
    published : list of dict
        Rows of the papers, of the same generation of the split.
    """

    subjects: dict[str, SubjectScores]
    problems: dict[str, ChiasmError]
    missing: Mapping[str, str]
    published: list[dict[str, Any]]


def score_results(
    results: Path,
    references: Path,
    out: Path,
    *,
    recipe: FmriRecipe,
    split: Split = "40",
    rule: Rule = "columns",
    judges: Judges | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> ImageResults:
    """Score reconstructions; writes ``scores.tsv`` and ``summary.json`` to `out`.

    Parameters
    ----------
    results : Path
        Output of ``chiasm run``, or a folder of ``NNNNN.png``, named by the stimulus' number from 0.
    references : Path
        A data set with stimuli.
    out : Path
    recipe : FmriRecipe
        Names the region of the betas, and which results are meant.
    split : "37" or "40"
        Generation of the published rows; also whether downsizing blurs ("40"), as torchvision did at the time.
    rule : "columns" or "rows"
        Of two-way identification.
    judges : Judges, optional
    tell : callable
        Told the name of every subject.

    Raises
    ------
    InputError
        ``CHI-IN-314``, ``CHI-IN-318``; ``CHI-IN-271``; of a flat folder ``CHI-IN-315`` to ``CHI-IN-319``.
    ResourceError
        Where `out` cannot be written.
    """
    sets = find_reconstructions(results, label=label_of(recipe.name))
    known = {name.lstrip("0"): name for name in subject_names(references)}
    judges = judges or load_networks()
    cache = next((place for place in (results / ".chiasm" / "betas",) if place.is_dir()), out / ".chiasm" / "betas")
    scored: dict[str, SubjectScores] = {}
    problems: dict[str, ChiasmError] = {}
    for subject, found in sets.items():
        name = subject or FLAT
        tell(name)
        try:
            if isinstance(found, ChiasmError):
                raise found
            opened = _opened(references, subject, known, roi=recipe.betas.roi, cache=cache)
            scored[name] = _scored(found, opened, judges, name=name, rule=rule, antialias=split == "40")
        except ChiasmError as error:
            problems[name] = error
    rows = [row for one in scored.values() for row in one.rows()]
    rows += [{"subject": name, "reason": error.code} for name, error in problems.items()]
    table = [asdict(row) for row in published_results(split)]
    whole = ImageResults(subjects=scored, problems=problems, missing=judges.missing, published=table)
    write_tsv(out / "scores.tsv", rows, COLUMNS)
    unseen = sorted(set(known.values()) - {one.compared_with for one in scored.values()})
    write_json(
        out / "summary.json",
        {
            "recipe": recipe.name,
            "rules": RULES,
            "rule": rule,
            "antialias": split == "40",
            "subjects": {name: one.as_json() for name, one in scored.items()},
            "mean_over_subjects": mean_over_subjects(whole),
            "not_scored": {name: {"code": error.code, "why": str(error)} for name, error in problems.items()},
            "subjects_without_results": unseen,
            "missing_networks": dict(judges.missing),
            "published": {"run_here": False, "about": NOT_RUN, "split": SPLITS[split], "rows": table},
        },
    )
    return whole


def mean_over_subjects(results: ImageResults) -> dict[str, dict[str, float]]:
    """Return metric -> ``value`` and ``subjects``, as papers give one number a method."""
    values: dict[str, list[float]] = {}
    for one in results.subjects.values():
        for row in one.rows():
            if isinstance(row["value"], float | int):
                values.setdefault(str(row["metric"]), []).append(float(row["value"]))
    return {name: {"value": float(np.mean(found)), "subjects": len(found)} for name, found in values.items()}


def _opened(references: Path, subject: str, known: Mapping[str, str], *, roi: str, cache: Path) -> DecodingSet:
    if subject and subject.lstrip("0") not in known:
        raise InputError(
            "CHI-IN-318",
            f"the data set has no subject '{subject}'; it has {', '.join(known.values())}.",
            "Give the data set that the run decoded.",
        )
    asked = (known[subject.lstrip("0")],) if subject else ()
    opened = open_decoding_set(references, subjects=asked, roi=roi, cache=cache)
    if opened.stimuli is None:
        raise InputError(
            "CHI-IN-318", "the data set has no stimuli.", "Add the images that were shown.", file=references.name
        )
    return opened


def _scored(
    found: Reconstructions, opened: DecodingSet, judges: Judges, *, name: str, rule: Rule, antialias: bool
) -> SubjectScores:
    stimuli = opened.stimuli
    if stimuli is None:
        raise ValueError("there are no stimuli")
    numbers = found.numbers
    _check_stimuli(found, stimuli)
    subject = _compared_with(numbers, opened)
    _check_test_images(numbers, np.unique(subject.trials.of("test").image))
    made = found.read()
    scorer = ImageScorer(stimuli.read(numbers, size=made.shape[1]), judges, rule=rule, antialias=antialias)
    card = scorer.score(made)
    shape = made.shape
    del made
    average = _mean_image(subject, stimuli, shape[1])
    mean = None if average is None else scorer.score(np.broadcast_to(average, shape))
    return SubjectScores(subject=name, card=card, mean_image=mean, result=found.result, compared_with=subject.name)


def _check_stimuli(found: Reconstructions, stimuli: Stimuli) -> None:
    for number, path in found.files.items():
        known = stimuli.names[number] if number < stimuli.n else None
        if known is not None and found.names.get(number, known) == known:
            continue
        raise InputError(
            "CHI-IN-316",
            f"there is no stimulus {number}: they are numbers 0 to {stimuli.n - 1}."
            if known is None
            else f"stimulus {number} had another name when it was reconstructed.",
            "Count from 0, and give the data set that was decoded.",
            file=path.name,
        )


def _compared_with(numbers: NDArray[np.int64], opened: DecodingSet) -> BrainSubject:
    """Return the subject whose test images fit best; a flat folder does not say whose it is."""
    return min(opened.subjects, key=lambda one: len(np.setxor1d(numbers, one.trials.of("test").image)))


def _check_test_images(numbers: NDArray[np.int64], test: NDArray[np.int64]) -> None:
    if not len(test):
        return
    beyond, absent = np.setdiff1d(numbers, test), np.setdiff1d(test, numbers)
    if len(beyond):
        raise InputError(
            "CHI-IN-316",
            f"{len(beyond)} of {len(numbers)} reconstructions are of no test image, the first of stimulus {beyond[0]}.",
            "Score test images only, named by the stimulus' number from 0.",
        )
    if len(absent):
        raise InputError(
            "CHI-IN-317",
            f"{len(absent)} of {len(test)} test images have no reconstruction, the first is stimulus {absent[0]}.",
            "Reconstruct them all: two-way scores depend on which images are among the candidates.",
        )


def _mean_image(subject: BrainSubject, stimuli: Stimuli, size: int) -> Images | None:
    numbers = np.unique(subject.trials.of("train").image)
    if not len(numbers):
        return None
    starts = range(0, len(numbers), MEAN_IMAGES)
    parts = [numbers[start : start + MEAN_IMAGES] for start in starts]
    total = np.zeros((size, size, 3))
    for part in parts:
        total += stimuli.read(part, size=size).sum(0, dtype=np.float64)
    return np.rint(total / len(numbers)).astype(np.uint8)


def _retrieval_row(subject: str, row: Mapping[str, Any]) -> dict[str, Any]:
    """Interval over the draws, as published; n: candidates in a draw."""
    kept = {"value": "value", "low": "draws_low", "high": "draws_high", "chance": "chance", "n": "pool"}
    numbers = {name: _number(row.get(key)) for name, key in kept.items()}
    return {
        "subject": subject,
        "metric": str(row.get("direction")),
        **numbers,
        "reason": row.get("note"),
        "published": True,
    }


def _number(value: object) -> float | int | None:
    return value if isinstance(value, float | int) and not isinstance(value, bool) else None


def _values(card: Scorecard) -> dict[str, float]:
    return {score.name: score.value for score in card.scores if score.value is not None}


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
