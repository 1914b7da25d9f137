"""From the fits' logits to the table that a study is read by: scores with intervals, differences, controls, calibration."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ....data.interviews import Interview
from ...evaluation.chance import chance_verdict
from ...evaluation.classification import classification_report, finite, over_seeds, root_mean_square_error, wilson
from ...evaluation.classifier_calibration import calibration_report
from ...evaluation.comparison import almost_stochastic_order, mcnemar, paired_difference, permutation_test
from ...evaluation.conformal import coverage, fit_conformal
from ...evaluation.predictions import Predictions
from ...evaluation.risk_coverage import risk_coverage
from ...evaluation.subgroups import subgroups
from ...evaluation.temperature import softmax
from .fits import FitResult, FitSpec
from .protocol import MODEL, Row

DIFFERENCE_METRICS = ("accuracy", "auc")
MIN_SEEDS_FOR_ORDER = 5


@dataclass(frozen=True, eq=False, kw_only=True)
class Answered:
    """A row with what its fits said.

    Parameters
    ----------
    row : Row
    results : tuple of (FitSpec, FitResult)
    """

    row: Row
    results: tuple[tuple[FitSpec, FitResult], ...]

    def predictions(
        self, who: Mapping[str, Interview], classes: Sequence[str], *, side: str = "test", scaled: bool = True
    ) -> Predictions:
        """Return the probabilities of all fits; `scaled`: after each fit's own temperature."""
        person: list[str] = []
        label: list[int] = []
        run: list[int] = []
        probability: list[NDArray[np.float64]] = []
        for spec, result in self.results:
            names, logits = result.names[side], result.logits[side]
            known = [i for i, name in enumerate(names) if who[name].label is not None]
            p = softmax(logits / (result.temperature if scaled else 1.0)) if len(names) else logits
            for i in known:
                person.append(who[names[i]].person)
                label.append(classes.index(str(who[names[i]].label)))
                run.append(spec.seed)
                probability.append(p[i])
        return Predictions(
            person=person,
            label=np.array(label, dtype=np.int64),
            probability=np.array(probability, dtype=np.float64).reshape(len(person), len(classes)),
            run=np.array(run, dtype=np.int64),
            classes=tuple(classes),
        )


def results_of(
    rows: Sequence[Answered],
    who: Mapping[str, Interview],
    classes: Sequence[str],
    durations: Mapping[str, float],
    *,
    error_rate: float,
    control_seeds: int,
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Return the study's numbers as JSON values.

    Parameters
    ----------
    rows : sequence of Answered
        The first is the model.
    who : mapping of str to Interview
    classes : sequence of str
    durations : mapping of str to float
        Interview -> seconds, for the subgroups.
    error_rate : float
        Of the prediction sets.
    control_seeds : int
        Seeds that a control was run with.
    """
    by_name = {answered.row.name: answered for answered in rows}
    main = by_name[MODEL]
    predictions = {name: answered.predictions(who, classes) for name, answered in by_name.items()}
    table = []
    for name, answered in by_name.items():
        say(f"scoring: {name}")
        table.append(_line(answered, predictions[name], predictions[MODEL], control_seeds))
    own = predictions[MODEL]
    confounded = [line["name"] for line in table if line["chance"] and line["chance"]["confounded"]]
    whole = {
        "rows": table,
        "confounded": confounded,
        "calibration": calibration_report(own).as_dict(),
        "calibration_before": calibration_report(main.predictions(who, classes, scaled=False)).as_dict(),
        "temperature": {"values": [round(r.temperature, 4) for _, r in main.results]},
        "conformal": _conformal(main, who, classes, error_rate),
        "risk_coverage": _curve(own),
        "permutation": _plain(permutation_test(own, "accuracy", n_permutations=2000)),
        "subgroups": _subgroups(main, who, classes, durations),
        "mmse": _mmse(main, who),
        "roc": _roc(own),
    }
    return finite(whole)  # type: ignore[no-any-return]


def _line(answered: Answered, own: Predictions, main: Predictions, control_seeds: int) -> dict[str, Any]:
    row = answered.row
    report = classification_report(own)
    scores = {name: {"value": s.value, "low": s.low, "high": s.high} for name, s in report.scores.items()}
    per_seed = {name: list(over_seeds(own, name).values) for name in ("accuracy", "f1", "auc")}
    persons = own.by_person()
    right = int((persons.probability.argmax(1) == persons.label).sum())
    interval = wilson(right, len(persons))
    line: dict[str, Any] = {
        "name": row.name,
        "kind": row.kind,
        "note": row.note,
        "n_persons": len(own.persons),
        "n_runs": len(own.rows_by_run),
        "scores": scores,
        "per_seed": per_seed,
        "sd": {name: over_seeds(own, name).sd for name in per_seed},
        "wilson": {
            "value": interval.mean,
            "low": interval.low,
            "high": interval.high,
            "of": "mean probability over seeds",
        },
        "difference": [],
        "chance": None,
    }
    if row.kind == "control":
        line["chance"] = _plain(chance_verdict(own, seeds=control_seeds))
    elif (
        row.name != MODEL
        and len(own) == len(main)
        and own.person == main.person
        and np.array_equal(np.asarray(own.run), np.asarray(main.run))
    ):
        line["difference"] = [_difference(main, own, metric) for metric in DIFFERENCE_METRICS]
        line["mcnemar"] = _plain(mcnemar(main.by_person(), persons))
        if min(len(main.rows_by_run), len(own.rows_by_run)) >= MIN_SEEDS_FOR_ORDER:
            first, second = over_seeds(main, "accuracy").values, over_seeds(own, "accuracy").values
            line["stochastic_order"] = _plain(almost_stochastic_order(first, second))
    return line


def _same_rows(own: Predictions, main: Predictions) -> bool:
    return own.person == main.person and np.array_equal(np.asarray(own.run), np.asarray(main.run))


def _difference(main: Predictions, other: Predictions, metric: str) -> dict[str, Any]:
    found = paired_difference(main, other, metric)
    return {**_plain(found), "excludes_zero": found.excludes_zero}


def _conformal(
    main: Answered, who: Mapping[str, Interview], classes: Sequence[str], error_rate: float
) -> dict[str, Any]:
    """Sets calibrated, fit by fit, on its validation persons, judged on its test persons; means over fits."""
    found = []
    for one in main.results:
        alone = Answered(row=main.row, results=(one,))
        validation = alone.predictions(who, classes, side="validation")
        sets = fit_conformal(validation, error_rate=error_rate)
        found.append(
            _plain(coverage(sets, alone.predictions(who, classes))) | {"n_calibration": len(validation.persons)}
        )
    means = {}
    for name in ("covered", "answered", "accuracy_answered", "mean_size", "n_calibration"):
        # A fit whose sets never hold one class alone has answered nobody: it has no accuracy.
        values = [float(entry[name]) for entry in found if np.isfinite(float(entry[name]))]
        means[name] = float(np.mean(values)) if values else float("nan")
    return {"error_rate": error_rate, "n_fits": len(found), **means}


def _curve(own: Predictions) -> dict[str, Any]:
    curve = risk_coverage(own)
    step = max(1, len(curve.coverage) // 200)
    return {
        "coverage": curve.coverage[::step].round(5).tolist(),
        "risk": curve.risk[::step].round(5).tolist(),
        "aurc": curve.aurc,
        "excess_aurc": curve.excess_aurc,
        "n_persons": curve.n_persons,
    }


def _roc(own: Predictions) -> dict[str, Any]:
    from sklearn.metrics import roc_curve

    mean = own.by_person()
    truth = mean.label == mean.positive
    if truth.all() or not truth.any():
        return {"false_positive_rate": [], "true_positive_rate": []}
    wrong, right, _ = roc_curve(truth, mean.probability[:, mean.positive])
    return {"false_positive_rate": wrong.round(5).tolist(), "true_positive_rate": right.round(5).tolist()}


def _subgroups(
    main: Answered, who: Mapping[str, Interview], classes: Sequence[str], durations: Mapping[str, float]
) -> list[dict[str, Any]]:
    names = [name for _, result in main.results for name in result.names["test"] if who[name].label is not None]
    cells = subgroups(
        main.predictions(who, classes),
        "accuracy",
        sex=[who[name].sex for name in names],
        age=[who[name].age for name in names],
        duration_s=[durations.get(name) for name in names],
    )
    return [
        {"by": cell.by, "name": cell.name, "n_persons": cell.n_persons, "hidden": cell.hidden}
        | ({"value": cell.score.value, "low": cell.score.low, "high": cell.score.high} if cell.score else {})
        for cell in cells
    ]


def _mmse(main: Answered, who: Mapping[str, Interview]) -> dict[str, Any] | None:
    estimated: list[float] = []
    truth: list[float] = []
    person: list[str] = []
    for _, result in main.results:
        if not len(result.mmse):
            return None
        for name, value in zip(result.names["test"], result.mmse, strict=True):
            score = who[name].mmse
            if score is not None:
                estimated.append(float(value))
                truth.append(score)
                person.append(who[name].person)
    if not truth:
        return None
    found = root_mean_square_error(person, truth, np.array(estimated))
    return {"rmse": found.value, "low": found.low, "high": found.high, "n": len(truth)}


def _plain(value: Any) -> dict[str, Any]:
    """Return a result's fields as JSON values."""
    return {key: _listed(item) for key, item in asdict(value).items()}


def _listed(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, np.generic):
        return value.item()
    return list(value) if isinstance(value, tuple) else value


def durations_of(samples: Mapping[str, Any]) -> dict[str, float]:
    """Return the seconds of each interview that has a recording."""
    return {name: s.features.facts["duration_s"] for name, s in samples.items() if s.features.has_audio}


def write_predictions(
    path: Path, rows: Sequence[Answered], who: Mapping[str, Interview], classes: Sequence[str]
) -> None:
    """Write every test probability of every row: what all scores were computed from."""
    from ....data.atomic import write_tsv

    lines = []
    for answered in rows:
        for spec, result in answered.results:
            p = softmax(result.logits["test"] / result.temperature)
            for name, values in zip(result.names["test"], p, strict=True):
                lines.append(
                    {
                        "row": answered.row.name,
                        "seed": spec.seed,
                        "part": spec.part,
                        "interview": name,
                        "label": who[name].label,
                    }
                    | {f"p_{label}": f"{value:.6f}" for label, value in zip(classes, values, strict=True)}
                )
    write_tsv(path, lines, ["row", "seed", "part", "interview", "label", *(f"p_{label}" for label in classes)])
