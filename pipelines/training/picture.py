"""The loss picture, and the training log made short enough to ship."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from ...data.atomic import atomic_path, write_text


def read_log(path: Path) -> list[dict[str, Any]]:
    """Return the records of a training log, one a step."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]


def draw_loss(log: Path, picture: Path, *, smooth: int = 50) -> None:
    """Draw the loss (each step, and a running mean) and the validation Dice, where there is one, as a PNG.

    Parameters
    ----------
    log, picture : Path
        ``training.jsonl`` and the file to write.
    smooth : int
        Steps of the running mean.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    records = read_log(log)
    steps = np.array([record["step"] for record in records])
    losses = np.array([record["loss"] for record in records], dtype=float)
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.plot(steps, losses, color="0.8", linewidth=0.6, label="loss of each step")
    if len(losses) >= 2:
        width = min(smooth, len(losses))
        mean = np.convolve(losses, np.ones(width) / width, mode="valid")
        axes.plot(steps[width - 1 :], mean, color="#b5541c", label=f"mean of {width} steps")
    scores = [(record["step"], record["dice"]) for record in records if "dice" in record]
    if scores:
        twin = axes.twinx()
        twin.plot(*zip(*scores, strict=True), color="#1f5fa8", marker="o", markersize=3)
        twin.set_ylabel("validation Dice", color="#1f5fa8")
        twin.set_ylim(0, 1)
    axes.set_xlabel("step")
    axes.set_ylabel("loss")
    axes.legend(loc="upper right", frameon=False)
    with atomic_path(picture) as temporary:
        # No software version or date in the file: equal logs are equal bytes.
        figure.savefig(temporary, format="png", dpi=110, metadata={"Software": None})


def shorten_log(log: Path, target: Path, *, every: int) -> None:
    """Write a log with the means over `every` steps instead of all steps; validation values are kept as they are."""
    records = read_log(log)
    lines = []
    for start in range(0, len(records), every):
        part = records[start : start + every]
        mean = {key: round(sum(r[key] for r in part) / len(part), 6) for key in ("loss", "rate", "norm", "seconds")}
        others = {key: value for r in part for key, value in r.items() if key not in {*mean, "step"}}
        lines.append(json.dumps({"step": part[-1]["step"], **mean, **others}))
    write_text(target, "".join(f"{line}\n" for line in lines))
