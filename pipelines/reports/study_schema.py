"""What ``results.json`` of a study holds: every number of its page, as JSON takes it, null for what is not finite.

Required are `Study`'s ``recipe``, ``data``, ``classes`` and ``rows``, whose first is the model; what else is missing is left out of
the page. Scores are shares from 0 to 1, not per cent. Further keys are kept in the file and not shown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypedDict

Kind = Literal["model", "variant", "single modality", "baseline", "control"]
METRICS = ("accuracy", "precision", "recall", "f1", "specificity", "auc", "brier")
"""Columns of the result table, where rows have them."""


class Scored(TypedDict, total=False):
    """A value with its 95 % interval over persons; a `Score` of `evaluation.classification` as a mapping."""

    value: float | None
    low: float | None
    high: float | None


class DifferenceEntry(Scored, total=False):
    """The model less this row, over the same persons and seeds (`Difference`)."""

    metric: str
    excludes_zero: bool


class ChanceEntry(TypedDict, total=False):
    """Verdict on a control (`ChanceVerdict`)."""

    metric: str
    pooled: float
    low: float
    high: float
    chance: float
    at_chance: bool
    confounded: bool
    per_seed: Sequence[float]
    rule: str


class StudyRow(TypedDict, total=False):
    """A line of the table.

    ``wilson`` is the interval of the accuracy with the persons as the sample, and ``of`` says of which answer a person; ``difference``
    has an entry a metric; ``mcnemar`` and ``stochastic_order`` are those of `evaluation.comparison`.
    """

    name: str
    kind: Kind
    note: str
    n_persons: int
    n_runs: int
    scores: Mapping[str, Scored]
    per_seed: Mapping[str, Sequence[float]]
    sd: Mapping[str, float | None]
    wilson: Mapping[str, Any] | None
    difference: Sequence[DifferenceEntry]
    chance: ChanceEntry | None
    mcnemar: Mapping[str, Any]
    stochastic_order: Mapping[str, Any]


class SubgroupEntry(Scored, total=False):
    """A cell of the subgroup table; hidden where it has too few persons."""

    by: str
    name: str
    n_persons: int | None
    hidden: bool


class ExcludedEntry(TypedDict, total=False):
    """An interview that was left out, and why."""

    name: str
    code: str
    message: str


class PublishedEntry(TypedDict, total=False):
    """A row of somebody else's publication; ``n_test`` where the accuracy is of a test set, ``read`` in what it was looked up."""

    system: str
    data: str
    accuracy: float
    f1: float | None
    n_test: int | None
    protocol: str
    source: str
    read: str


class Study(TypedDict, total=False):
    """A study.

    ``recipe``: name, title, sha256. ``data``: layout, phantom, persons (side -> class -> persons), n_interviews, notes.
    ``calibration`` and ``calibration_before`` (the temperature): `CalibrationReport.as_dict`; a key ``noise_floors`` (score ->
    `NoiseFloor`) may say more than its ``noise_floor``, which is of the ECE. ``temperature``: values, one a fit. ``conformal``:
    error_rate, covered, answered, accuracy_answered, mean_size, n_calibration. ``risk_coverage``: coverage, risk, aurc, excess_aurc,
    n_persons. ``permutation``: `PermutationTest`. ``subgroup_metric``: accuracy where absent. ``mmse``: rmse, low, high, n. ``roc``:
    false_positive_rate, true_positive_rate. ``excluded``: view -> interviews. ``published``: rows of others; those known for the
    layout where absent.
    """

    recipe: Mapping[str, Any]
    data: Mapping[str, Any]
    classes: Sequence[str]
    protocol: str
    folds: int | None
    seeds: Sequence[int]
    control_seeds: int
    settings: Mapping[str, Any]
    classifier: Mapping[str, Any]
    rows: Sequence[StudyRow]
    calibration: Mapping[str, Any]
    calibration_before: Mapping[str, Any]
    temperature: Mapping[str, Any]
    conformal: Mapping[str, Any]
    risk_coverage: Mapping[str, Any]
    permutation: Mapping[str, Any]
    subgroups: Sequence[SubgroupEntry]
    subgroup_metric: str
    mmse: Mapping[str, Any] | None
    roc: Mapping[str, Any]
    excluded: Mapping[str, Sequence[ExcludedEntry]]
    published: Sequence[PublishedEntry]
    notes: Sequence[str]
    command: str
    versions: Mapping[str, str]


def check_study(study: Mapping[str, Any]) -> None:
    """Refuse what no page can be made of.

    Raises
    ------
    ValueError
        Everything that is missing, at once.
    """
    wrong = [f"{name} is missing" for name in ("recipe", "data", "classes", "rows") if not study.get(name)]
    rows = study.get("rows") or [{"kind": "model"}]
    if rows[0].get("kind") != "model":
        wrong.append("the first row is not of kind 'model'")
    for row in study.get("rows") or []:
        missing = [name for name in ("name", "kind", "n_persons", "n_runs", "scores") if name not in row]
        if missing:
            wrong.append(f"row {row.get('name', '?')}: {', '.join(missing)} missing")
    if wrong:
        raise ValueError("; ".join(wrong))
