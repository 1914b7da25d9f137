"""Ridge regression with a penalty for each target, beside scikit-learn, himalaya and a loop over penalties: CPU seconds on one thread.

    OMP_NUM_THREADS=1 python benchmarks/fmri/ridge.py [--repeats 3] [--full]

2,000 x 5,000 -> 768 targets, 10 penalties. Ways are interleaved; medians. `--full` runs this package alone at NSD's size
(8,859 x 15,724) on all cores and adds peak memory. Results: benchmarks/results/ridge.json.
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
from pathlib import Path
from typing import Any

import himalaya
import numpy as np
import sklearn
import torch
from himalaya.kernel_ridge import KernelRidgeCV
from sklearn.linear_model import Ridge, RidgeCV
from sklearn.model_selection import KFold

from chiasm.encoders.ridge_solver import fit_ridge

RESULTS = Path(__file__).parents[1] / "results" / "ridge.json"
ALPHAS = np.logspace(0, 6, 10)
SMALL, FULL = (2000, 5000, 768), (8859, 15724, 768)
N_TEST = 200
Fit = Callable[[], tuple[np.ndarray, np.ndarray]]


def data(n: int, p: int, t: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Responses with noise of many sizes, so that targets ask for different penalties; float32."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((n + N_TEST, p), dtype=np.float32)
    weights = rng.standard_normal((p, t), dtype=np.float32)
    y = x @ weights
    y += np.logspace(1, 3, t, dtype=np.float32) * rng.standard_normal(y.shape, dtype=np.float32)
    return x[:n], y[:n], x[n:], y[n:]


def ways(x: np.ndarray, y: np.ndarray, new: np.ndarray) -> dict[str, Fit]:
    """Every way as a function of nothing that returns the penalties chosen and predictions of new rows."""

    def ours(**options: Any) -> tuple[np.ndarray, np.ndarray]:
        found = fit_ridge(x, y, alphas=ALPHAS, **options)
        return found.alphas.numpy(), found.predict(new).numpy()

    def ridge_cv() -> tuple[np.ndarray, np.ndarray]:
        model = RidgeCV(alphas=ALPHAS, alpha_per_target=True).fit(x, y)
        return np.asarray(model.alpha_), model.predict(new)

    def kernel_ridge_cv() -> tuple[np.ndarray, np.ndarray]:
        mean_x, mean_y = x.mean(0), y.mean(0)
        model = KernelRidgeCV(alphas=ALPHAS, kernel="linear", cv=5).fit(x - mean_x, y - mean_y)
        return np.asarray(model.best_alphas_), np.asarray(model.predict(new - mean_x)) + mean_y

    def loop() -> tuple[np.ndarray, np.ndarray]:
        error = np.zeros((len(ALPHAS), y.shape[1]))
        for train, test in KFold(5).split(x):
            for i, alpha in enumerate(ALPHAS):
                predicted = Ridge(alpha=alpha).fit(x[train], y[train]).predict(x[test])
                error[i] += np.square(predicted - y[test]).sum(0)
        chosen = ALPHAS[error.argmin(0)]
        return chosen, Ridge(alpha=chosen).fit(x, y).predict(new)

    return {
        "chiasm fit_ridge, leave one out": ours,
        "chiasm fit_ridge, 5 folds": lambda: ours(cv=5),
        "sklearn RidgeCV (leave one out)": ridge_cv,
        "himalaya KernelRidgeCV (torch, 5 folds)": kernel_ridge_cv,
        "loop of sklearn Ridge (5 folds)": loop,
    }


PAIRS = {
    "sklearn RidgeCV (leave one out)": "chiasm fit_ridge, leave one out",
    "himalaya KernelRidgeCV (torch, 5 folds)": "chiasm fit_ridge, 5 folds",
    "loop of sklearn Ridge (5 folds)": "chiasm fit_ridge, 5 folds",
}
"""With whose answer each way's must agree: the same way of holding out."""


def correlation(predicted: np.ndarray, true: np.ndarray) -> float:
    a, b = (values - values.mean(0) for values in (predicted.astype(float), true.astype(float)))
    return float(((a * b).sum(0) / np.sqrt((a * a).sum(0) * (b * b).sum(0))).mean())


def small(repeats: int) -> dict[str, Any]:
    torch.set_num_threads(1)
    himalaya.backend.set_backend("torch")
    x, y, new, true = data(*SMALL)
    fits = ways(x, y, new)
    times: dict[str, list[float]] = {name: [] for name in fits}
    answers: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    fit_ridge(x[:50], y[:50], alphas=ALPHAS)  # imports
    for _ in range(repeats):
        for name, fit in fits.items():
            start = time.process_time()
            answers[name] = fit()
            times[name].append(time.process_time() - start)
    medians = {name: statistics.median(values) for name, values in times.items()}
    fastest = medians["chiasm fit_ridge, leave one out"]
    agreement = {}
    for name, partner in PAIRS.items():
        (alphas, predicted), (own, mine) = answers[name], answers[partner]
        same = np.isclose(alphas, own)
        off = np.abs(predicted - mine)[:, same].max() / predicted.std()
        agreement[name] = {
            "with": partner,
            "same_penalty": round(float(same.mean()), 4),
            "predictions": float(f"{off:.2g}"),
        }
    return {
        "rows_columns_targets": SMALL,
        "penalties": len(ALPHAS),
        "threads": 1,
        "cpu_s": {name: round(value, 2) for name, value in medians.items()},
        "ratio_to_leave_one_out": {name: round(value / fastest, 2) for name, value in medians.items()},
        "test_r": {name: round(correlation(answer[1], true), 4) for name, answer in answers.items()},
        "largest_difference_where_the_penalty_is_the_same": agreement,
    }


def full() -> dict[str, Any]:
    x, y, new, true = data(*FULL)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    wall, cpu = time.perf_counter(), time.process_time()
    found = fit_ridge(x, y, alphas=ALPHAS)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "rows_columns_targets": FULL,
        "penalties": len(ALPHAS),
        "threads": torch.get_num_threads(),
        "wall_s": round(wall, 1),
        "cpu_s": round(cpu, 1),
        "x_mb": round(x.nbytes / 2**20),
        "peak_rss_mb": round(peak / 2**10),
        "peak_rss_mb_before": round(before / 2**10),
        "test_r": round(correlation(found.predict(new).numpy(), true), 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--full", action="store_true")
    arguments = parser.parse_args()
    kept = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    result = {
        "command": "OMP_NUM_THREADS=1 python benchmarks/fmri/ridge.py"
        + (" --full" if arguments.full else f" --repeats {arguments.repeats}"),
        "machine": {
            "processor": platform.machine(),
            "cores": os.cpu_count(),
            "torch": torch.__version__,
            "numpy": np.__version__,
            "scikit-learn": sklearn.__version__,
            "himalaya": himalaya.__version__,
        },
        **{key: kept[key] for key in ("small", "full") if key in kept},
    }
    result["full" if arguments.full else "small"] = full() if arguments.full else small(arguments.repeats)
    RESULTS.write_text(json.dumps(result, indent=1) + "\n")
    sys.stdout.write(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
