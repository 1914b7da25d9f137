"""For whom does it work: a metric by sex, age and length of recording, without cells so small that they name a person."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from ...data.errors import InputError
from .classification import Score, score
from .predictions import Predictions

MIN_PERSONS = 10
AGE_EDGES = (60.0, 70.0, 80.0)
NOT_STATED = "not stated"


@dataclass(frozen=True, kw_only=True)
class Subgroup:
    """A row of the table.

    Parameters
    ----------
    by : {'sex', 'age', 'length'}
    name : str
        ``female``, ``60 to 69 years``, ``32.1 to 58.0 s``, ``not stated``.
    n_persons : int, optional
        None where there are fewer than the limit.
    score : Score, optional
        None where the cell is hidden; its value is NaN, with a reason, where the metric is not defined in the cell.
    """

    by: str
    name: str
    n_persons: int | None
    score: Score | None

    @property
    def hidden(self) -> bool:
        """Whether the cell is too small to show."""
        return self.score is None


def subgroups(
    predictions: Predictions,
    metric: str = "balanced_accuracy",
    *,
    sex: Sequence[str | None] = (),
    age: Sequence[float | None] = (),
    duration_s: Sequence[float | None] = (),
    length_edges_s: Sequence[float] | None = None,
    min_persons: int = MIN_PERSONS,
) -> list[Subgroup]:
    """Tabulate a metric by subgroup; each property is one a row of `predictions`, and left out where empty.

    Parameters
    ----------
    length_edges_s : sequence of float, optional
        Edges between bands of length; the tertiles over the recordings where absent.

    Raises
    ------
    InputError
        CHI-IN-230 where a property does not pair with the rows.
    RecipeError
        CHI-RC-118.
    """
    for values in (sex, age, duration_s):
        if len(values) not in (0, len(predictions)):
            raise InputError("CHI-IN-230", f"a property has {len(values)} values for {len(predictions)} predictions.")
    lengths = [value for value in duration_s if value is not None]
    edges = length_edges_s
    if edges is None:
        edges = [float(q) for q in np.quantile(lengths, [1 / 3, 2 / 3])] if lengths else []
    columns: dict[str, tuple[list[str], list[str]]] = {
        "sex": ([value or NOT_STATED for value in sex], sorted({value for value in sex if value})),
        "age": _banded(age, AGE_EDGES, whole_years=True),
        "length": _banded(duration_s, edges, whole_years=False),
    }
    table = []
    for by, (names, order) in columns.items():
        for name in [*order, NOT_STATED]:
            rows = np.array([one == name for one in names], dtype=bool)
            if rows.any():
                table.append(_cell(by, name, predictions.rows(rows), metric, min_persons))
    return table


def _cell(by: str, name: str, part: Predictions, metric: str, min_persons: int) -> Subgroup:
    if len(part.persons) < min_persons:
        return Subgroup(by=by, name=name, n_persons=None, score=None)
    return Subgroup(by=by, name=name, n_persons=len(part.persons), score=score(part, metric))


def _banded(
    values: Sequence[float | None], edges: Sequence[float], *, whole_years: bool
) -> tuple[list[str], list[str]]:
    """Name the band of each value, lower edge included, and the bands in order."""
    if whole_years:
        inner = [f"{a:.0f} to {b - 1:.0f} years" for a, b in pairwise(edges)]
        bands = [f"under {edges[0]:.0f} years", *inner, f"{edges[-1]:.0f} years and over"]
    elif len(edges):
        inner = [f"{a:.1f} to {b:.1f} s" for a, b in pairwise(edges)]
        bands = [f"under {edges[0]:.1f} s", *inner, f"{edges[-1]:.1f} s and over"]
    else:
        bands = ["all lengths"]
    place = np.searchsorted(edges, [np.nan if value is None else value for value in values], side="right")
    return [NOT_STATED if value is None else bands[int(i)] for value, i in zip(values, place, strict=True)], bands
