"""Batch segmentation beside MONAI's script, interleaved: patients a minute, CPU seconds, peak memory and equal labels.

    python benchmarks/segmentation.py [--patients 2] [--repeats 2] [--device cpu] [--full]

The same cohort, network (Swin UNETR, feature size 12, random weights from a fixed seed) and window grid go through (a) the script of
MONAI's documentation, (b) the same script tuned (freed memory kept, flash attention, uint8 output, a loader worker), (c) ``chiasm run``
in exact mode and (d) in fast mode. One thread each. Results: benchmarks/results/segmentation.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import psutil
import torch
from safetensors.torch import save_file

ROI, OVERLAP, BLEND = (96, 96, 96), 0.5, "gaussian"
NETWORK = {"in_channels": 4, "out_channels": 4, "feature_size": 12}
KEEP_MEMORY = {
    "MALLOC_MMAP_THRESHOLD_": "4294967296",
    "MALLOC_TRIM_THRESHOLD_": "4294967296",
    "MALLOC_TOP_PAD_": "268435456",
}
RESULTS = Path(__file__).parent / "results" / "segmentation.json"
RECIPE = """
recipe: 1
pipeline: segmentation
title: Benchmark
channels: {flair: {keywords: [flair]}, t1ce: {keywords: [t1ce]}, t1: {keywords: [t1]}, t2: {keywords: [t2]}}
components:
  network: {kind: swin-unetr, weights: bench/swin, parameters: {in_channels: 4, out_channels: 4, feature_size: 12, merging: current}}
windows: {size: [96, 96, 96], overlap: 0.5, blend: gaussian}
labels: {1: one, 2: two, 3: three}
"""


def make_cohort(folder: Path, n_patients: int, shape: tuple[int, int, int]) -> None:
    """Four int16 channels a patient: smooth texture in an ellipsoid, zero around it (about a fifth of the volume)."""
    axes = np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij", sparse=True)
    inside = sum((a / r) ** 2 for a, r in zip(axes, (0.6, 0.72, 0.85), strict=True)) < 1
    for number in range(n_patients):
        rng = np.random.default_rng(number)
        target = folder / f"patient{number:02d}"
        target.mkdir(parents=True)
        for name in ("flair", "t1ce", "t1", "t2"):
            coarse = torch.from_numpy(rng.normal(size=(1, 1, 12, 12, 12)).astype(np.float32))
            texture = torch.nn.functional.interpolate(coarse, shape, mode="trilinear")[0, 0].numpy()
            values = np.where(inside, 500 + 120 * texture + rng.normal(0, 15, shape), 0).clip(0, 4000).astype(np.int16)
            image = nibabel.Nifti1Image(values, np.diag([-1.0, -1.0, 1.0, 1.0]))
            nibabel.save(image, target / f"patient{number:02d}_{name}.nii.gz")


def make_weights(folder: Path) -> Path:
    """Random weights of a fixed seed, in the store's form."""
    from monai.networks.nets import SwinUNETR

    torch.manual_seed(0)
    target = folder / "bench" / "swin"
    target.mkdir(parents=True)
    network = SwinUNETR(**NETWORK)
    save_file({k: v.contiguous() for k, v in network.state_dict().items()}, target / "model.safetensors")
    card = {
        "kind": "swin-unetr",
        "parameters": {**NETWORK, "merging": "current"},
        "channels": ["flair", "t1ce", "t1", "t2"],
    }
    (target / "config.json").write_text(json.dumps({**card, "foreground_crop": "not validated"}))
    (target / "README.md").write_text("Random weights for a speed benchmark.\n")
    return target / "model.safetensors"


def run(command: list[str], environment: dict[str, str]) -> dict[str, float]:
    """Wall and CPU seconds of a process tree, and its peak resident bytes (sampled every 50 ms)."""
    before = os.times()
    start = time.monotonic()
    process = subprocess.Popen(
        command, env={**os.environ, **environment}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    peak = 0
    stop = threading.Event()

    def watch() -> None:
        nonlocal peak
        tree = psutil.Process(process.pid)
        while not stop.wait(0.05):
            try:
                peak = max(peak, sum(p.memory_info().rss for p in [tree, *tree.children(recursive=True)]))
            except psutil.Error:
                continue

    watcher = threading.Thread(target=watch)
    watcher.start()
    _, errors = process.communicate()
    stop.set()
    watcher.join()
    wall = time.monotonic() - start
    after = os.times()
    if process.returncode != 0:
        sys.exit(f"{command}: exit {process.returncode}\n{errors.decode()[-2000:]}")
    cpu = (after.children_user - before.children_user) + (after.children_system - before.children_system)
    return {"wall_s": wall, "cpu_s": cpu, "peak_rss": peak}


def labels(folder: Path, pattern: str) -> list[np.ndarray[Any, Any]]:
    """Label maps of a run, in order of the patients."""
    return [np.asarray(nibabel.load(path).dataobj).astype(np.uint8).squeeze() for path in sorted(folder.glob(pattern))]


def agreement(ours: list[np.ndarray[Any, Any]], theirs: list[np.ndarray[Any, Any]]) -> float:
    """Share of equal voxels over the cohort."""
    return float(np.mean([np.mean(a == b) for a, b in zip(ours, theirs, strict=True)]))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--patients", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--full", action="store_true", help="240 x 240 x 155, as BraTS; otherwise 160 x 160 x 128")
    arguments = parser.parse_args()
    shape = (240, 240, 155) if arguments.full else (160, 160, 128)
    scratch = Path(tempfile.mkdtemp(prefix="bench-"))
    try:
        result = measure(scratch, arguments, shape)
    finally:
        shutil.rmtree(scratch)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(result, indent=1) + "\n")
    sys.stdout.write(json.dumps(result["summary"], indent=1) + "\n")


def measure(scratch: Path, arguments: argparse.Namespace, shape: tuple[int, int, int]) -> dict[str, Any]:
    """Interleave the four programs and put their medians side by side."""
    cohort, weights, recipe, network = (
        scratch / "in",
        make_weights(scratch / "weights"),
        scratch / "bench.yaml",
        scratch / "network.json",
    )
    make_cohort(cohort, arguments.patients, shape)
    recipe.write_text(RECIPE)
    network.write_text(json.dumps({"network": NETWORK, "roi": ROI, "overlap": OVERLAP, "blend": BLEND}))
    one_thread = {"OMP_NUM_THREADS": "1", "CHIASM_WEIGHTS": str(scratch / "weights")}
    peer = [sys.executable, str(Path(__file__).parent / "peers" / "monai_script.py"), str(cohort)]
    rest = [str(weights), "--config", str(network), "--device", arguments.device]

    def ours(out: Path, mode: str) -> list[str]:
        return [
            sys.executable,
            "-m",
            "chiasm",
            "run",
            str(recipe),
            str(cohort),
            str(out),
            "--threads",
            "1",
            "--mode",
            mode,
            "--device",
            arguments.device,
        ]

    programs: dict[str, Any] = {
        "monai-script": lambda out: ([*peer, str(out), *rest], one_thread),
        "monai-tuned": lambda out: ([*peer, str(out), *rest, "--tuned"], {**one_thread, **KEEP_MEMORY}),
        "chiasm-exact": lambda out: (ours(out, "exact"), one_thread),
        "chiasm-fast": lambda out: (ours(out, "fast"), one_thread),
    }
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in programs}
    for repeat in range(arguments.repeats):
        for name, program in programs.items():
            out = scratch / f"{name}-{repeat}"
            runs[name].append(run(*program(out)))
            sys.stderr.write(f"{name} {repeat}: {runs[name][-1]}\n")
    reference = labels(scratch / "monai-script-0", "**/*_seg.nii.gz")
    equal = {
        name: agreement(
            labels(scratch / f"{name}-0", "**/*_dseg.nii.gz" if "chiasm" in name else "**/*_seg.nii.gz"), reference
        )
        for name in programs
    }
    median = {name: {key: statistics.median(r[key] for r in rs) for key in rs[0]} for name, rs in runs.items()}
    base, tuned = median["monai-script"], median["monai-tuned"]
    summary = {
        name: {
            **{key: round(value, 2) for key, value in values.items()},
            "patients_a_minute": round(60 * arguments.patients / values["wall_s"], 2),
            "cpu_ratio_to_script": round(base["cpu_s"] / values["cpu_s"], 2),
            "cpu_ratio_to_tuned": round(tuned["cpu_s"] / values["cpu_s"], 2),
            "wall_ratio_to_script": round(base["wall_s"] / values["wall_s"], 2),
            "equal_labels": round(equal[name], 7),
        }
        for name, values in median.items()
    }
    machine = {
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    command = (
        f"python benchmarks/segmentation.py --patients {arguments.patients} --repeats {arguments.repeats} --device {arguments.device}"
        + (" --full" if arguments.full else "")
    )
    return {"command": command, "shape": shape, "machine": machine, "summary": summary, "runs": runs}


if __name__ == "__main__":
    main()
