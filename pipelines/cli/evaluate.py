"""``chiasm evaluate RESULTS REFERENCES OUT``: a run's label maps, or its images from fMRI, against a labelled data set."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..fmri_recipe import FmriRecipe

CODES: dict[str, str] = {"CHI-RC-140": "An option of `chiasm evaluate` has no meaning for the recipe's task."}


def _folder(text: str) -> Path:
    path = Path(text)
    if not path.is_dir():
        raise argparse.ArgumentTypeError(f"'{text}' is not a folder")
    return path.resolve()


def register(subparsers: Any) -> None:
    """Add the command's arguments."""
    parser = subparsers.add_parser("evaluate", help="compare results with a labelled data set")
    parser.add_argument(
        "results",
        metavar="RESULTS",
        type=_folder,
        help="output of 'chiasm run', a folder of label maps, or (fmri-images) a folder of NNNNN.png from any decoder",
    )
    parser.add_argument(
        "references",
        metavar="REFERENCES",
        type=_folder,
        help="a BraTS, nnU-Net raw or Decathlon data set, a derivative, a folder of label maps, or (fmri-images) a data set with stimuli",
    )
    parser.add_argument(
        "out", metavar="OUT", type=lambda text: Path(text).resolve(), help="folder for scores.tsv and summary.json"
    )
    parser.add_argument(
        "--recipe",
        metavar="RECIPE",
        help="says the task; names labels and regions (default: label maps, every label on its own)",
    )
    group = parser.add_argument_group("images from fMRI")
    group.add_argument(
        "--split",
        choices=("37", "40"),
        help="NSD's sessions: which published rows stand beside, and how images were resized then (default: 40)",
    )
    group.add_argument("--rule", choices=("columns", "rows"), help="of two-way identification (default: columns)")
    parser.set_defaults(handler=_evaluate)


def _evaluate(namespace: argparse.Namespace) -> int:
    from ..recipes import load_recipe, segmentation_recipe

    if namespace.recipe:
        recipe = load_recipe(namespace.recipe)
        if recipe.pipeline == "fmri-images":
            return _images(namespace, recipe)
    return _label_maps(namespace, segmentation_recipe(namespace.recipe) if namespace.recipe else None)


def _label_maps(namespace: argparse.Namespace, recipe: Any) -> int:
    from ...data.errors import RecipeError
    from ..console import complain, say, table
    from ..evaluation.compare import compare

    if given := [name for name in ("split", "rule") if getattr(namespace, name) is not None]:
        raise RecipeError(
            "CHI-RC-140",
            f"--{given[0]} has no meaning for label maps.",
            "Name a recipe of images from fMRI with --recipe, or leave the option out.",
        )
    found = compare(namespace.results, namespace.references, namespace.out, recipe=recipe)
    rows = [
        [name, str(region["cases"]), _cell(region["dice"]), _cell(region["hd95_mm"])]
        for name, region in found.summary.items()
    ]
    say(table(["region", "cases", "Dice (95 % interval)", "HD95 mm (95 % interval)"], rows))
    say(f"written: {namespace.out / 'scores.tsv'}, {namespace.out / 'summary.json'}")
    for error in found.problems:
        complain(str(error))
    return (1 if found.summary else 3) if found.problems else 0


def _images(namespace: argparse.Namespace, recipe: FmriRecipe) -> int:
    from ..console import complain, say, table
    from ..evaluation.images.results import score_results

    found = score_results(
        namespace.results,
        namespace.references,
        namespace.out,
        recipe=recipe,
        **{name: value for name in ("split", "rule") if (value := getattr(namespace, name)) is not None},
    )
    rows = [
        [name, str(row["metric"]), _number(row["value"]), _range(row), _number(row["chance"])]
        for name, one in found.subjects.items()
        for row in one.rows()
        if row["value"] is not None
    ]
    if rows:
        say(table(["subject", "metric", "value", "95 % interval", "chance"], rows))
    for name, reason in found.missing.items():
        say(f"not computed, {name}: {reason}")
    say(
        f"written: {namespace.out / 'scores.tsv'}, {namespace.out / 'summary.json'} (with published rows, not run here)"
    )
    for name, error in found.problems.items():
        complain(f"{name}: {error}")
    return (1 if found.subjects else 3) if found.problems else 0


def _cell(interval: Any) -> str:
    return f"{interval['mean']:.3f} ({interval['low']:.3f} to {interval['high']:.3f})"


def _number(value: Any) -> str:
    return "" if value is None else f"{value:.3f}"


def _range(row: Mapping[str, Any]) -> str:
    return "" if row["low"] is None or row["high"] is None else f"{row['low']:.3f} to {row['high']:.3f}"
