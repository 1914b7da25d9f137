"""Transport plans beside POT's and geomloss's, interleaved on one thread: CPU milliseconds a batch, and distance to the converged plan.

    OMP_NUM_THREADS=1 python benchmarks/dementia/sinkhorn.py [--repeats 9]

Cosine costs of random tokens of 64 features, uniform marginals. POT stops at 1e-5 (its default, 1e-9, is a row of its own);
the reference plan is POT's, float64, converged to 1e-13. Results: benchmarks/results/sinkhorn.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import ot
import torch
from torch import Tensor

from chiasm.fusion.costs import cosine_cost
from chiasm.fusion.scaling import sinkhorn_plan
from chiasm.fusion.sinkhorn import sinkhorn_log
from chiasm.fusion.transport import BarycentricTransport, TransportConfig

RESULTS = Path(__file__).parents[1] / "results" / "sinkhorn.json"
PROBLEMS = ((16, 128, 0.05), (64, 64, 0.1), (8, 512, 0.05), (16, 128, 0.02))
STOP, WIDTH = 1e-5, 64
Plans = np.ndarray[Any, Any] | None


def tokens(n_problems: int, n_points: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(n_problems, n_points, WIDTH, generator=generator) for _ in range(2))
    return x, y


def ways(x: Tensor, y: Tensor, eps: float) -> dict[str, Callable[[], Plans]]:
    """Every solver as a function of nothing that returns the plans (None from those that only give a value)."""
    cost = cosine_cost(x, y)
    wide = cost.double().numpy()
    a = np.full(cost.shape[1], 1 / cost.shape[1])

    def pot(**options: Any) -> Plans:
        return np.stack([ot.sinkhorn(a, a, one, eps, **options) for one in wide])

    def layer() -> Plans:
        leaf = cost.clone().requires_grad_()
        plan = sinkhorn_log(leaf, eps=eps, iterations=20).plan
        (plan * cost).sum().backward()
        return plan.detach().numpy()

    found: dict[str, Callable[[], Plans]] = {
        "chiasm sinkhorn_plan": lambda: sinkhorn_plan(cost, eps=eps).numpy(),
        "POT sinkhorn": lambda: pot(stopThr=STOP),
        "POT sinkhorn, default stop": pot,
        "POT sinkhorn_log": lambda: pot(method="sinkhorn_log", stopThr=STOP),
        "POT solve_batch": lambda: ot.solve_batch(cost, eps, tol=STOP).plan.numpy(),
        "chiasm sinkhorn_log, 20 iterations, forward": lambda: sinkhorn_log(cost, eps=eps, iterations=20).plan.numpy(),
        "chiasm sinkhorn_log, 20 iterations, forward and backward": layer,
    }
    if (loss := geomloss_value(x, y, eps)) is not None:
        found["geomloss tensorized (value only)"] = loss
    return found


def geomloss_value(x: Tensor, y: Tensor, eps: float) -> Callable[[], Plans] | None:
    """geomloss on unit vectors, where half the squared distance is the cosine cost; None where it is not installed."""
    try:
        import geomloss
    except ImportError:
        return None
    loss = geomloss.SamplesLoss("sinkhorn", p=2, blur=eps**0.5, debias=False, backend="tensorized")
    unit = [torch.nn.functional.normalize(t, dim=-1) for t in (x, y)]

    def run() -> Plans:
        loss(*unit)
        return None

    return run


def measure(n_problems: int, n_points: int, eps: float, repeats: int) -> dict[str, Any]:
    x, y = tokens(n_problems, n_points)
    a = np.full(n_points, 1 / n_points)
    costs = cosine_cost(x, y).double().numpy()
    reference = np.stack([ot.sinkhorn(a, a, one, eps, stopThr=1e-13, numItermax=100_000) for one in costs])
    solvers = ways(x, y, eps)
    times: dict[str, list[float]] = {name: [] for name in solvers}
    errors: dict[str, float | None] = {}
    for name, solve in solvers.items():
        plans = solve()
        errors[name] = None if plans is None else float(np.abs(plans - reference).sum((1, 2)).max())
    for _ in range(repeats):
        for name, solve in solvers.items():
            start = time.process_time()
            solve()
            times[name].append(time.process_time() - start)
    medians = {name: 1e3 * statistics.median(values) for name, values in times.items()}
    ours = medians["chiasm sinkhorn_plan"]
    return {
        "problems": n_problems,
        "points": n_points,
        "eps": eps,
        "cpu_ms": {name: round(value, 2) for name, value in medians.items()},
        "largest_l1_to_converged": {name: None if e is None else float(f"{e:.2g}") for name, e in errors.items()},
        "ratio_to_sinkhorn_plan": {name: round(value / ours, 2) for name, value in medians.items()},
    }


def crossing(repeats: int) -> dict[str, Any]:
    """Cost of the whole differentiable crossing at the size of a BERT/DeiT batch: 8 x (128 and 198 tokens of 768 features)."""
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(8, n, 768, generator=generator).requires_grad_() for n in (128, 198))
    masks = [torch.ones(t.shape[:2], dtype=torch.bool) for t in (x, y)]
    found = {}
    for mode in ("unroll", "last-step"):
        layer = BarycentricTransport(TransportConfig(gradient=mode))
        times = []
        for _ in range(repeats + 1):
            start = time.process_time()
            out = layer(x, y, *masks)
            (out.x_from_y.sum() + out.y_from_x.sum()).backward()
            times.append(time.process_time() - start)
        found[mode] = round(1e3 * statistics.median(times[1:]), 1)
    return {"tokens": [8, 128, 198], "eps": 0.02, "iterations": 20, "forward_and_backward_cpu_ms": found}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=9)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", message="Sinkhorn did not converge")
    result = {
        "command": f"OMP_NUM_THREADS=1 python benchmarks/dementia/sinkhorn.py --repeats {arguments.repeats}",
        "machine": {
            "processor": platform.machine(),
            "cores": os.cpu_count(),
            "torch": torch.__version__,
            "numpy": np.__version__,
            "POT": ot.__version__,
        },
        "crossing": crossing(arguments.repeats),
        "runs": [measure(*problem, arguments.repeats) for problem in PROBLEMS],
    }
    RESULTS.write_text(json.dumps(result, indent=1) + "\n")
    sys.stdout.write(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
