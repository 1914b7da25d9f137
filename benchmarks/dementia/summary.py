"""Keep what a study measured, and print it as the tables of docs/dementia.md.

    chiasm phantom adress DATA                                    # 108 + 500 synthetic interviews, seed 0
    chiasm train dementia DATA STUDY --ablation
    python benchmarks/dementia/summary.py STUDY benchmarks/results/dementia_phantom.json --data "chiasm phantom adress DATA"

The result file holds every number of the study's table (curves and long lists are left out).
"""

from __future__ import annotations

import argparse
import csv
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from chiasm.pipelines.evaluation.chance import SEEDS, chance_verdict
from chiasm.pipelines.evaluation.predictions import Predictions

LEFT_OUT = ("risk_coverage", "roc", "subgroups", "excluded", "settings", "calibration_before")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", required=True, help="the command that made the data")
    arguments = parser.parse_args()
    study = json.loads((arguments.study / "results.json").read_text("utf-8"))
    kept = {key: value for key, value in study.items() if key not in LEFT_OUT}
    kept["calibration"] = {key: value for key, value in study["calibration"].items() if key not in ("table", "curve")}
    kept["n_excluded"] = {view: len(lost) for view, lost in study["excluded"].items()}
    kept["verdicts"] = verdicts(arguments.study / "predictions.tsv", study)
    kept["commands"] = [arguments.data, study["command"]]
    kept["date"] = datetime.now(UTC).date().isoformat()
    arguments.out.write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    print(rows_as_markdown(study))
    print()
    print(controls_as_markdown(study))


def verdicts(path: Path, study: dict[str, Any]) -> dict[str, Any]:
    """Judge every row that was run with 20 seeds as a control is judged: for a cohort in which nothing is planted."""
    with path.open(encoding="utf-8") as stream:
        lines = list(csv.DictReader(stream, delimiter="\t"))
    classes, found = study["classes"], {}
    for row in study["rows"]:
        own = [line for line in lines if line["row"] == row["name"]]
        if row["n_runs"] != SEEDS or len(classes) != 2:
            continue
        predictions = Predictions(
            person=[line["interview"] for line in own],
            label=np.array([classes.index(line["label"]) for line in own], dtype=np.int64),
            probability=np.array([[float(line[f"p_{name}"]) for name in classes] for line in own]),
            run=np.array([int(line["seed"]) for line in own]),
        )
        verdict = chance_verdict(predictions)
        found[row["name"]] = {name: getattr(verdict, name) for name in ("metric", "pooled", "low", "high", "at_chance")}
    return found


def rows_as_markdown(study: dict[str, Any]) -> str:
    """Model, variants, single modalities and baselines, each with the model's paired difference to it."""
    lines = ["| row | accuracy | F1 | AUC | model less this row, accuracy |", "| --- | --- | --- | --- | --- |"]
    for row in study["rows"]:
        if row["kind"] == "control":
            continue
        difference = ""
        if row["difference"]:
            first = row["difference"][0]
            sure = " *" if first["excludes_zero"] else ""
            difference = f"{first['value']:+.3f} [{first['low']:+.3f}, {first['high']:+.3f}]{sure}"
        scores = " | ".join(interval(row["scores"][name]) for name in ("accuracy", "f1", "auc"))
        lines.append(f"| {row['name']} | {scores} | {difference} |")
    return "\n".join(lines)


def controls_as_markdown(study: dict[str, Any]) -> str:
    """Controls with the verdict over their seeds."""
    lines = [
        "| control | persons | pooled score | 99 % interval | chance | verdict |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for row in study["rows"]:
        if row["chance"]:
            c = row["chance"]
            verdict = "**above chance**" if c["confounded"] else "at chance" if c["at_chance"] else "below chance"
            lines.append(
                f"| {row['name']} | {row['n_persons']} | {c['metric'].replace('_', ' ')} {c['pooled']:.3f} "
                f"| {c['low']:.3f} to {c['high']:.3f} | {c['chance']:.2f} | {verdict} |"
            )
    return "\n".join(lines)


def interval(score: dict[str, Any]) -> str:
    if score["low"] is None:
        return f"{score['value']:.3f}"
    return f"{score['value']:.3f} [{score['low']:.3f}, {score['high']:.3f}]"


if __name__ == "__main__":
    main()
