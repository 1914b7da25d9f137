"""Which loss does what: contrastive only, prior only, both; with and without BiMixCo. Each row is a training of its own.

chiasm phantom nsd DATA --images 3000
python benchmarks/fmri/ablation.py DATA WORK
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from chiasm.pipelines.cli.main import main as chiasm

RESULTS = Path(__file__).parents[1] / "results" / "fmri_ablation.json"
ROWS: dict[str, dict[str, Any]] = {
    "both": {},
    "both, without BiMixCo": {"training": {"mixup_share": 0.0}},
    "contrastive only": {"training": {"prior_weight": 0.0, "token_weight": 0.0}, "prior": False},
    "prior only": {"training": {"contrastive_weight": 0.0}},
    "both, random start": {"training": {"warm_start": False}},
}
"""Row -> what it changes in `fmri-images`."""


def main() -> None:
    """Train every row that is not there, and write what came out."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=list(ROWS))
    namespace = parser.parse_args()
    namespace.work.mkdir(parents=True, exist_ok=True)
    found = {}
    for name in namespace.rows:
        out = namespace.work / name.replace(", ", "-").replace(" ", "_")
        started = time.monotonic()
        if not (out / "results.json").is_file():
            recipe = namespace.work / f"{out.name}.yaml"
            recipe.write_text(yaml.safe_dump(variant(ROWS[name])))
            epochs = ["--epochs", str(namespace.epochs)] if namespace.epochs else []
            code = chiasm(["train", str(recipe), str(namespace.data), str(out), "--no-baselines", *epochs])
            if code:
                raise SystemExit(code)
        results = json.loads((out / "results.json").read_text())
        (line,) = (line for line in results["pooled"]["lines"] if line["kind"] == "model")
        found[name] = {"scores": line["scores"], "seconds": round(time.monotonic() - started, 1)}
        settings = results["settings"]
    RESULTS.write_text(
        json.dumps(
            {
                "command": "python benchmarks/fmri/ablation.py DATA WORK --epochs 12",
                "data": "chiasm phantom nsd DATA",
                "settings": settings,
                "rows": found,
                "python": platform.python_version(),
                "numpy": np.__version__,
            },
            indent=1,
        )
        + "\n"
    )


def variant(change: dict[str, Any]) -> dict[str, Any]:
    """Return a recipe that stands on `fmri-images` and changes what a row changes."""
    tree: dict[str, Any] = {
        "base": "fmri-images",
        "training": {"contrastive_weight": 2.0, **change.get("training", {})},
    }
    if change.get("prior") is False:
        tree["components"] = {"prior": None}
        tree["reconstruction"] = {"samples": 1, "select": "none"}
    return tree


if __name__ == "__main__":
    main()
