"""Many-class logits to labels on the native grid, beside the usual way, interleaved: seconds, memory beyond the input, equal labels.

    python benchmarks/postprocessing.py [--classes 14] [--repeats 3]

160 x 160 x 128 logits onto 320 x 320 x 160 voxels, one thread. The usual way: trilinear interpolation of all classes at full
resolution, then argmax. Results: benchmarks/results/postprocessing.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch

RESULTS = Path(__file__).parent / "results" / "postprocessing.json"
SMALL, LARGE = (160, 160, 128), (320, 320, 160)


def logits(n_classes: int) -> torch.Tensor:
    """Smooth random fields, so that labels form blobs as they do in a head."""
    coarse = torch.randn(1, n_classes, 20, 20, 16, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.interpolate(coarse, SMALL, mode="trilinear")[0].contiguous()


def usual(values: torch.Tensor) -> np.ndarray[Any, Any]:
    """Every class at full resolution, then argmax."""
    return torch.nn.functional.interpolate(values[None], LARGE, mode="trilinear")[0].argmax(0).to(torch.uint8).numpy()


def slabs(values: torch.Tensor) -> np.ndarray[Any, Any]:
    """Chiasm's way: a running maximum, slab by slab."""
    from chiasm.data.geometry import Resampling, slab_argmax
    from chiasm.data.volumes import Grid

    native = Grid(LARGE, np.diag([0.5, 0.5, 0.8, 1.0]))
    spacing = tuple(n * size / m for n, size, m in zip(LARGE, (0.5, 0.5, 0.8), SMALL, strict=True))
    return slab_argmax(values, Resampling.to_spacing(native, spacing))


def one(way: Callable[[torch.Tensor], np.ndarray[Any, Any]], n_classes: int) -> tuple[float, int, np.ndarray[Any, Any]]:
    """Run one way in this (fresh) process: CPU seconds, bytes beyond the input, labels."""
    from chiasm.pipelines.engine.memory import keep_freed_memory

    keep_freed_memory()
    torch.set_num_threads(1)
    values = logits(n_classes)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.process_time()
    labels = way(values)
    return time.process_time() - start, 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before), labels


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--classes", type=int, default=14)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    ways = {"interpolate-argmax": usual, "slab-argmax": slabs}
    runs: dict[str, list[tuple[float, int]]] = {name: [] for name in ways}
    labels = {}
    for _ in range(arguments.repeats):
        for name, way in ways.items():
            with get_context("spawn").Pool(1) as pool:
                seconds, n_bytes, labels[name] = pool.apply(one, (way, arguments.classes))
            runs[name].append((seconds, n_bytes))
    medians = {name: statistics.median(seconds for seconds, _ in rows) for name, rows in runs.items()}
    result = {
        "command": f"python benchmarks/postprocessing.py --classes {arguments.classes} --repeats {arguments.repeats}",
        "machine": {"processor": platform.machine(), "cores": os.cpu_count(), "torch": torch.__version__},
        "cpu_s": {name: round(value, 3) for name, value in medians.items()},
        "extra_mb": {name: round(max(b for _, b in rows) / 2**20) for name, rows in runs.items()},
        "ratio": round(medians["interpolate-argmax"] / medians["slab-argmax"], 2),
        "equal_labels": float(np.mean(labels["interpolate-argmax"] == labels["slab-argmax"])),
    }
    RESULTS.write_text(json.dumps(result, indent=1) + "\n")
    sys.stdout.write(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
