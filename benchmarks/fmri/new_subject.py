"""MindBridge on phantoms: one model for three subjects beside one a subject, and a newcomer with a tenth of the data.

chiasm phantom nsd DATA --images 3000
python benchmarks/fmri/new_subject.py DATA WORK
"""

from __future__ import annotations

import argparse
import csv
import json
import platform
from pathlib import Path
from typing import Any

from chiasm.pipelines.cli.main import main as chiasm
from chiasm.pipelines.evaluation.intervals import bootstrap_mean

RESULTS = Path(__file__).parents[1] / "results" / "fmri_new_subject.json"
RECIPE = "fmri-images-mindbridge"


def main() -> None:
    """Train what is not there yet, and write the scores of every subject under every training."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--length", type=int, default=300, help="training images of the newcomer")
    parser.add_argument("--epochs", type=int)
    namespace = parser.parse_args()
    subjects, newcomer = ["01", "02", "03"], "03"
    tenth = ["--length", str(namespace.length)]
    trained = {"one model for three": train(namespace, "joint", "--subjects", *subjects)}
    for subject in subjects:
        trained[f"subject {subject} alone"] = train(namespace, f"alone-{subject}", "--subjects", subject)
    train(namespace, "others", "--subjects", "01", "02")
    start = str(namespace.work / "others" / "weights")
    trained["a tenth, adapted"] = train(
        namespace, "adapted", "--subjects", "01", "02", "--from", start, "--new-subject", newcomer, *tenth
    )
    trained["a tenth, from scratch"] = train(namespace, "scratch", "--subjects", newcomer, *tenth)
    joint, pairs = namespace.work / "joint", {}
    for subject in subjects:
        pairs[f"{subject}: one model less its own"] = paired(joint, namespace.work / f"alone-{subject}", subject)
    pairs["all: one model less their own"] = paired(joint, *(namespace.work / f"alone-{one}" for one in subjects))
    pairs["newcomer: adapted less from scratch"] = paired(namespace.work / "adapted", namespace.work / "scratch")
    RESULTS.write_text(
        json.dumps(
            {
                "differences": pairs,
                "command": "python benchmarks/fmri/new_subject.py DATA WORK",
                "data": "chiasm phantom nsd DATA --images 3000",
                "length": namespace.length,
                "rows": trained,
                "python": platform.python_version(),
            },
            indent=1,
        )
        + "\n"
    )
    for name, found in trained.items():
        for subject, scores in found.items():
            shown = ", ".join(f"{k} {v['mean']:.3f} [{v['low']:.3f}, {v['high']:.3f}]" for k, v in scores.items())
            print(f"{name:26s} {subject}: {shown}")
    for name, found in pairs.items():
        print(
            f"{name}: "
            + ", ".join(f"{k} {v['mean']:+.3f} [{v['low']:+.3f}, {v['high']:+.3f}]" for k, v in found.items())
        )


def paired(first: Path, *others: Path | str) -> dict[str, dict[str, float]]:
    """Difference of two trainings on the same subjects' test images; an image's value is its mean over subjects."""
    folders = [one for one in others if isinstance(one, Path)]
    wanted = {one for one in others if isinstance(one, str)}
    a, b = values(first), {key: value for folder in folders for key, value in values(folder).items()}
    both = [key for key in a if key in b and (not wanted or key[0] in wanted)]
    found = {}
    for metric in dict.fromkeys(key[2] for key in both):
        images: dict[str, list[float]] = {}
        for key in both:
            if key[2] == metric:
                images.setdefault(key[1], []).append(a[key] - b[key])
        interval = bootstrap_mean([sum(one) / len(one) for one in images.values()])
        found[metric] = {"mean": interval.mean, "low": interval.low, "high": interval.high}
    return found


def values(folder: Path) -> dict[tuple[str, str, str], float]:
    """Return (subject, image, metric) -> value of the model's line."""
    with (folder / "test_images.tsv").open(encoding="utf-8") as stream:
        rows = [row for row in csv.DictReader(stream, delimiter="\t") if row["line"] == "model"]
    return {(row["subject"], row["image"], row["metric"]): float(row["value"]) for row in rows}


def train(namespace: argparse.Namespace, folder: str, *options: str) -> dict[str, Any]:
    """Train once and return, for every subject, retrieval and metrics with intervals over stimuli."""
    out = namespace.work / folder
    if not (out / "results.json").is_file():
        epochs = ["--epochs", str(namespace.epochs)] if namespace.epochs else []
        code = chiasm(["train", RECIPE, str(namespace.data), str(out), "--no-baselines", *options, *epochs])
        if code:
            raise SystemExit(code)
    results = json.loads((out / "results.json").read_text())
    found = {}
    for name, subject in results["subjects"].items():
        (line,) = (line for line in subject["lines"] if line["kind"] == "model")
        scores = {row["metric"]: row for row in line["metrics"] if row["value"] is not None}
        found[name] = {"retrieval": line["retrieval_all"]} | {
            metric: {"mean": row["value"], "low": row["low"], "high": row["high"]} for metric, row in scores.items()
        }
    return found


if __name__ == "__main__":
    main()
