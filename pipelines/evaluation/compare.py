"""Results against a labelled data set: scores by case and region, means over patients with intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...data.atomic import write_json, write_tsv
from ...data.errors import ChiasmError, InputError
from ...data.nifti import read_volume
from ...data.volumes import Volume
from ...heads.regions import RegionTable
from ..recipes import Recipe
from .intervals import bootstrap_mean
from .segmentation import brats_scores, counts

CODES: dict[str, str] = {
    "CHI-IN-120": "no label map was found in one of the folders to compare",
    "CHI-IN-121": "result and reference of a case lie on different grids",
    "CHI-IN-122": "two label maps in one folder belong to one case",
    "CHI-IN-123": "a case of the reference has no result",
}

COLUMNS = (
    "case",
    "patient",
    "region",
    "status",
    "dice",
    "hd95_mm",
    "sensitivity",
    "precision",
    "result_ml",
    "reference_ml",
)
NO_DATA_SET = "CHI-IN-149"
"""Code of `labelled_cases` for a folder in none of the layouts that it knows."""

ENDINGS = ("_dseg", "_seg")
RULES = (
    "Dice 1 and HD95 0 where a region is empty in both, Dice 0 and HD95 373.13 mm where it is empty in one (BraTS); "
    "HD95 is the larger of the two directed 95th percentiles; means over patients, 95 % bootstrap intervals that draw patients."
)


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A case to compare.

    Parameters
    ----------
    case, patient : str
        Names from the reference.
    result, reference : Path or None
        Label maps; no result where the case was not found.
    """

    case: str
    patient: str
    result: Path | None
    reference: Path


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What was found.

    Parameters
    ----------
    rows : list of dict
        One a case and region, with the columns `COLUMNS`.
    summary : dict
        Region -> number of patients, means and intervals.
    problems : list of ChiasmError
        Cases that could not be compared; they have a row and are in no mean.
    """

    rows: list[dict[str, str | float]]
    summary: dict[str, dict[str, object]]
    problems: list[ChiasmError]


def compare(results: Path, references: Path, out: Path, *, recipe: Recipe | None = None) -> Comparison:
    """Compare two folders and write ``scores.tsv`` and ``summary.json`` to `out`.

    Parameters
    ----------
    results : Path
        Output of `chiasm run`, or a folder of label maps.
    references : Path
        A BraTS, nnU-Net raw or Decathlon data set, a BIDS derivative, or a folder of label maps.
    out : Path
    recipe : Recipe, optional
        Names labels and regions; every label on its own where absent.

    Raises
    ------
    InputError
        CHI-IN-120, CHI-IN-122.
    """
    rows: list[dict[str, str | float]] = []
    problems: list[ChiasmError] = []
    for pair in pairs(results, references):
        try:
            rows += score_case(pair, recipe)
        except ChiasmError as error:
            problems.append(error)
            rows.append({"case": pair.case, "patient": pair.patient, "status": error.code})
    comparison = Comparison(rows=rows, summary=_summary(rows), problems=problems)
    write_tsv(out / "scores.tsv", rows, COLUMNS)
    whole = {
        "regions": comparison.summary,
        "rules": RULES,
        "recipe": recipe.name if recipe else None,
        "cases_compared": len({row["case"] for row in rows if row["status"] == "ok"}),
        "cases_not_compared": {str(row["case"]): row["status"] for row in rows if row["status"] != "ok"},
    }
    write_json(out / "summary.json", whole)
    return comparison


def pairs(results: Path, references: Path) -> list[Pair]:
    """Find the cases of both folders by name, in the order of the reference.

    Raises
    ------
    InputError
        CHI-IN-120 where a folder has no label map, CHI-IN-122 where it has two for one case.
    """
    there = {key: path for key, (_, _, path) in label_maps(results).items()}
    return [
        Pair(case=case, patient=patient, result=there.get(key), reference=path)
        for key, (case, patient, path) in sorted(label_maps(references).items())
    ]


def label_maps(folder: Path) -> dict[str, tuple[str, str, Path]]:
    """Return the label maps of a folder: letters and digits of the case name -> case, patient, file."""
    found = _of_data_set(folder)
    if not found:
        files = sorted(path for path in folder.rglob("*.nii*") if path.name.endswith((".nii", ".nii.gz")))
        files = [path for path in files if _stem(path).endswith(ENDINGS)] or [p for p in files if p.parent == folder]
        found = [(_case(path), _case(path).split("_")[0], path) for path in files]
    if not found:
        raise InputError(
            "CHI-IN-120",
            "one of the two folders holds no label map.",
            "Give a run's output, a labelled data set, or a folder of *_dseg.nii.gz or *_seg.nii.gz files.",
        )
    maps: dict[str, tuple[str, str, Path]] = {}
    for case, patient, path in found:
        if _key(case) in maps:
            raise InputError(
                "CHI-IN-122",
                "two label maps belong to one case.",
                "Keep one, or give the folder of one recipe.",
                file=path.relative_to(folder).as_posix(),
            )
        maps[_key(case)] = (case, patient, path)
    return maps


def _of_data_set(folder: Path) -> list[tuple[str, str, Path]]:
    from ...data.datasets import labelled_cases

    try:
        return [(case.name, case.patient, case.label) for case in labelled_cases(folder)]
    except InputError as error:
        if error.code != NO_DATA_SET:
            raise
        return []


def score_case(pair: Pair, recipe: Recipe | None) -> list[dict[str, str | float]]:
    """Score every region of one case.

    Raises
    ------
    InputError
        CHI-IN-121, CHI-IN-123, or what reading raises.
    """
    if pair.result is None:
        raise InputError("CHI-IN-123", "there is no result for this case.", "Run it, or leave it out.", file=pair.case)
    result, reference = (read_volume(path, dtype=None, relative=path.name) for path in (pair.result, pair.reference))
    if not result.grid.same_as(reference.grid, tolerance_mm=1e-2):
        raise InputError(
            "CHI-IN-121",
            f"result ({result.grid.shape}) and reference ({reference.grid.shape}) lie on different grids.",
            "Compare on the grid of the input; `chiasm run` writes there.",
            file=pair.case,
        )
    spacing, ml = reference.grid.spacing_mm, reference.grid.voxel_ml
    rows: list[dict[str, str | float]] = []
    for name, (ours, truth) in _regions(result, reference, recipe, pair).items():
        dice, hd95 = brats_scores(ours, truth, spacing)
        c = counts(ours, truth)
        rows.append(
            {
                "case": pair.case,
                "patient": pair.patient,
                "region": name,
                "status": "ok",
                "dice": round(dice, 6),
                "hd95_mm": round(hd95, 4),
                "sensitivity": round(c.sensitivity, 6),
                "precision": round(c.precision, 6),
                "result_ml": round(int(ours.sum()) * ml, 4),
                "reference_ml": round(int(truth.sum()) * ml, 4),
            }
        )
    return rows


Masks = tuple[NDArray[np.bool_], NDArray[np.bool_]]


def _regions(result: Volume, reference: Volume, recipe: Recipe | None, pair: Pair) -> Mapping[str, Masks]:
    ours, truth = (np.rint(volume.values).astype(np.int64) for volume in (result, reference))
    if recipe is not None and recipe.regions:
        table = RegionTable(recipe.regions)
        both = zip(table.names, table.written(ours), table.channels(truth, file=pair.case), strict=True)
        return {name: (one, other) for name, one, other in both}
    names = recipe.labels if recipe is not None else {v: f"label {v}" for v in _values(ours, truth)}
    return {name: (ours == label, truth == label) for label, name in names.items()}


def _values(*volumes: NDArray[np.int64]) -> list[int]:
    return sorted({int(value) for volume in volumes for value in np.unique(volume)} - {0})


def _summary(rows: list[dict[str, str | float]]) -> dict[str, dict[str, object]]:
    summary: dict[str, dict[str, object]] = {}
    scored = [row for row in rows if row["status"] == "ok"]
    for name in dict.fromkeys(str(row["region"]) for row in scored):
        own = [row for row in scored if row["region"] == name]
        patients = [str(row["patient"]) for row in own]
        summary[name] = {"reference_empty": sum(row["reference_ml"] == 0 for row in own), "cases": len(own)}
        for measure in ("dice", "hd95_mm"):
            values = [float(row[measure]) for row in own]
            interval = asdict(bootstrap_mean(values, patients))
            summary[name][measure] = {k: v if isinstance(v, int) else _plain(v) for k, v in interval.items()}
            summary[name][f"{measure}_median"] = _plain(float(np.median(values)))
    return summary


def _plain(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 6)


def _stem(path: Path) -> str:
    return path.name.removesuffix(".gz").removesuffix(".nii")


def _case(path: Path) -> str:
    """Take the case out of a file name: ``sub-X[_ses-Y]`` of BIDS names, else what stands before the ending."""
    parts = _stem(path).split("_")
    if parts[0].startswith("sub-"):
        return "_".join(part for part in parts if part.startswith(("sub-", "ses-")))
    return _stem(path).removesuffix("_dseg").removesuffix("_seg")


def _key(case: str) -> str:
    words = (word.removeprefix("sub-").removeprefix("ses-") for word in case.split("_"))
    return "".join(c for c in "".join(words) if c.isalnum())
