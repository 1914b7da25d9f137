"""``chiasm evaluate RESULTS REFERENCES OUT``: a run's label maps against a labelled data set."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def _folder(text: str) -> Path:
    path = Path(text)
    if not path.is_dir():
        raise argparse.ArgumentTypeError(f"'{text}' is not a folder")
    return path.resolve()


def register(subparsers: Any) -> None:
    """Add the command's arguments."""
    parser = subparsers.add_parser("evaluate", help="compare results with a labelled data set")
    parser.add_argument(
        "results", metavar="RESULTS", type=_folder, help="output of 'chiasm run', or a folder of label maps"
    )
    parser.add_argument(
        "references",
        metavar="REFERENCES",
        type=_folder,
        help="a BraTS, nnU-Net raw or Decathlon data set, a derivative, or a folder of label maps",
    )
    parser.add_argument(
        "out", metavar="OUT", type=lambda text: Path(text).resolve(), help="folder for scores.tsv and summary.json"
    )
    parser.add_argument("--recipe", metavar="RECIPE", help="names labels and regions (default: every label on its own)")
    parser.set_defaults(handler=_evaluate)


def _evaluate(namespace: argparse.Namespace) -> int:
    from ..console import complain, say, table
    from ..evaluation.compare import compare
    from ..recipes import segmentation_recipe

    recipe = segmentation_recipe(namespace.recipe) if namespace.recipe else None
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


def _cell(interval: Any) -> str:
    return f"{interval['mean']:.3f} ({interval['low']:.3f} to {interval['high']:.3f})"
