"""MindBridge on phantoms: one model for three subjects beside one a subject, and a newcomer with a tenth of the data.

chiasm phantom nsd DATA --images 3000
python benchmarks/fmri/new_subject.py DATA WORK
"""

from __future__ import annotations

import argparse
import json
import platform
from pathlib import Path
from typing import Any

from chiasm.pipelines.cli.main import main as chiasm

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
    RESULTS.write_text(
        json.dumps(
            {
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
