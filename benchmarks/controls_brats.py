"""Positive and negative control of tumour segmentation on phantoms: tiny Swin UNETR, two cores, minutes.

    python benchmarks/controls_brats.py [--seeds 3] [--workers 2] [--work DIR] [--out benchmarks/results/controls_brats.json]

Positive: trained on phantoms of one seed, whole-tumour Dice >= 0.80 on phantoms of another. Negative: the same training with
each image given another patient's labels stays at the chance level (see `chiasm.pipelines.evaluation.controls`).
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

from chiasm.data.datasets import LabelledCase
from chiasm.data.phantoms.brats import CONTRASTS, write_brats
from chiasm.data.phantoms.heads import Cohort
from chiasm.pipelines.evaluation.controls import chance_dice, negative_control, positive_control, threshold_dice
from chiasm.pipelines.evaluation.segmentation import brats_scores
from chiasm.pipelines.recipes import Recipe, load_recipe
from chiasm.pipelines.training.cases import CaseSource, PreparedCase, prepare_cases
from chiasm.pipelines.training.checkpoints import POINTER
from chiasm.pipelines.training.command import initial_network
from chiasm.pipelines.training.loop import train_network
from chiasm.pipelines.training.settings import TrainingSettings, read_settings
from chiasm.pipelines.training.validation import predict, predicted_regions, true_regions

RECIPE = "brain-tumour-phantom"
BAR = 0.80
GRID = {"shape": (64, 64, 64), "spacing_mm": 3.0}


def phantoms(folder: Path, recipe: Recipe, *, patients: int, seed: int) -> list[PreparedCase]:
    raw = folder / "raw"
    if not (raw / "participants.tsv").exists():  # written last
        write_brats(raw, Cohort(patients=patients, seed=seed, **GRID))
    names = sorted(path.name for path in raw.iterdir() if path.is_dir())
    if len(names) != patients:
        raise SystemExit(f"{raw} holds {len(names)} phantoms, not {patients}: give an empty --work folder")
    cases = []
    for name in names:
        files = {suffix: folder / "raw" / name / f"{name}_{suffix}.nii.gz" for suffix in (*CONTRASTS, "seg")}
        cases.append(LabelledCase(name=name, patient=name, label=files.pop("seg"), images=files))
    return prepare_cases(cases, recipe, folder / "prepared")


@dataclass(frozen=True)
class Job:
    """One network: trained on `training`, scored on `held_out`."""

    name: str
    training: list[PreparedCase]
    held_out: list[PreparedCase]
    recipe: Recipe
    settings: TrainingSettings
    out: Path


@dataclass(frozen=True)
class Trained:
    """What came of a job: (Dice, HD95) a region and patient, and the cost."""

    name: str
    scores: dict[str, list[tuple[float, float]]]
    timed_steps: int
    wall_s: float
    cpu_s: float
    parameters: int


def work_on(job: Job) -> Trained:
    job.out.mkdir(parents=True, exist_ok=True)
    pointer = job.out / POINTER
    before = json.loads(pointer.read_text())["step"] if pointer.exists() else 0
    wall, cpu = time.monotonic(), time.process_time()
    source = CaseSource(job.training, job.recipe, job.settings)
    outcome = train_network(initial_network(job.recipe, job.settings), source, job.settings, job.out)
    if not outcome.finished:
        raise RuntimeError(
            f"{job.name} was stopped at step {outcome.step} of {job.settings.steps}; --work goes on from it"
        )
    network = outcome.average
    wall, cpu = time.monotonic() - wall, time.process_time() - cpu
    parameters = sum(p.numel() for p in network.parameters())
    return Trained(
        job.name, scores(network, job.held_out, job.recipe), job.settings.steps - before, wall, cpu, parameters
    )


def finished(jobs: list[Job], workers: int) -> Iterator[Trained]:
    """Yield what comes of the jobs in their order; more than one worker: one thread and one process a job."""
    if workers == 1:
        yield from map(work_on, jobs)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        yield from pool.map(work_on, jobs)


def scores(network: torch.nn.Module, cases: list[PreparedCase], recipe: Recipe) -> dict[str, list[tuple[float, float]]]:
    found: dict[str, list[tuple[float, float]]] = {}
    for case in cases:
        image = torch.from_numpy(np.load(case.image).astype(np.float32))
        regions = predicted_regions(predict(network, image, recipe), recipe)
        for name, truth in true_regions(np.load(case.labels), recipe).items():
            found.setdefault(name, []).append(brats_scores(regions[name], truth, case.spacing_mm))
    return found


def whole_tumour(cases: list[PreparedCase], recipe: Recipe) -> list[np.ndarray]:
    return [on_full_grid(true_regions(np.load(case.labels), recipe)["WT"]) for case in cases]


def thresholds(
    training: list[PreparedCase], held_out: list[PreparedCase], recipe: Recipe
) -> dict[str, dict[str, object]]:
    """Held-out Dice of the best single cut a region; channel and cut are chosen on the training phantoms."""
    found: dict[str, dict[str, object]] = {}
    for region in ("WT", "TC", "ET"):
        masks = [[true_regions(np.load(c.labels), recipe)[region] for c in group] for group in (training, held_out)]
        best = (-1.0, "", np.zeros(0))
        for number, channel in enumerate(recipe.channels):
            images = [[np.load(c.image)[number].astype(np.float32) for c in group] for group in (training, held_out)]
            own = float(np.mean(threshold_dice(images[0], masks[0], images[0], masks[0])[1]))
            if own > best[0]:
                best = (own, channel, threshold_dice(images[0], masks[0], images[1], masks[1])[1])
        found[region] = {"channel": best[1], "dice": round(float(best[2].mean()), 4)}
    return found


def on_full_grid(mask: np.ndarray) -> np.ndarray:
    """Centre a cropped mask on the common grid: guesses compare patients voxel by voxel, brains in the middle."""
    out = np.zeros(GRID["shape"], dtype=mask.dtype)
    start = [(n - m) // 2 for n, m in zip(out.shape, mask.shape, strict=True)]
    out[tuple(slice(a, a + m) for a, m in zip(start, mask.shape, strict=True))] = mask
    return out


def run(
    work: Path,
    out: Path,
    *,
    n_training: int,
    n_held_out: int,
    n_seeds: int,
    steps: int | None,
    workers: int = 1,
) -> dict[str, object]:
    recipe = load_recipe(RECIPE)
    settings = read_settings(recipe.training, name=recipe.name)
    if steps:
        settings = settings.model_copy(update={"phases": (settings.phases[0].model_copy(update={"steps": steps}),)})
    training = phantoms(work / "training", recipe, patients=n_training, seed=1)
    held_out = phantoms(
        work / "held-out", recipe, patients=n_held_out, seed=3
    )  # another than the 400-step run had seen
    brains = [on_full_grid((np.load(case.image) != 0).any(axis=0)) for case in held_out]
    chance = chance_dice(whole_tumour(training, recipe), whole_tumour(held_out, recipe), brains)
    report: dict[str, object] = {
        "recipe": recipe.name,
        "steps": settings.steps,
        "training_phantoms": n_training,
        "held_out_phantoms": n_held_out,
        "workers": workers,
        "one_threshold_baseline": thresholds(training, held_out, recipe),
        "chance": {name: round(float(values.mean()), 4) for name, values in chance.guesses.items()},
    }
    write(report, out)
    permuted = [settings.model_copy(update={"control": "permuted-labels", "seed": 100 + i}) for i in range(n_seeds)]
    jobs = [
        Job(name, training, held_out, recipe, chosen, work / name)
        for name, chosen in [("positive", settings), *((f"negative-{i}", s) for i, s in enumerate(permuted))]
    ]
    by_seed = []
    for done in finished(jobs, workers):
        whole = np.array(done.scores["WT"])[:, 0]
        if done.name == "positive":
            report |= positive_report(done, whole)
        else:
            by_seed.append(whole)
            report["negative"] = asdict(negative_control(np.mean(by_seed, axis=0), chance))
            report["negative_dice_by_seed"] = [round(float(np.mean(s)), 4) for s in by_seed]
        write(report, out)
    return report


def positive_report(done: Trained, whole: np.ndarray) -> dict[str, object]:
    return {
        "network_parameters": done.parameters,
        "timed_steps": done.timed_steps,
        "training_wall_s": round(done.wall_s, 1),
        "training_cpu_s": round(done.cpu_s, 1),
        "positive": asdict(positive_control(whole, BAR)),
        "positive_regions": {
            name: dict(zip(("dice", "hd95_mm"), np.round(np.mean(pairs, axis=0), 4).tolist(), strict=True))
            for name, pairs in done.scores.items()
        },
    }


def write(report: dict[str, object], out: Path) -> None:
    """Write what is known so far: a run that is stopped leaves the controls that it finished."""
    report["machine"] = {
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "load_average_1_5_15": os.getloadavg(),
        "processor": platform.processor() or platform.machine(),
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "monai", "numpy")},
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(report, indent=2) + "\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3, help="networks of the negative control")
    parser.add_argument("--training", type=int, default=40)
    parser.add_argument("--held-out", type=int, default=20)
    parser.add_argument("--steps", type=int, help="instead of the recipe's")
    parser.add_argument("--workers", type=int, default=1, help="networks trained at once, one thread each if above 1")
    parser.add_argument("--work", type=Path, help="keep phantoms and checkpoints here: the next run goes on from them")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "controls_brats.json")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        report = run(
            arguments.work or Path(work),
            arguments.out,
            n_training=arguments.training,
            n_held_out=arguments.held_out,
            n_seeds=arguments.seeds,
            steps=arguments.steps,
            workers=arguments.workers,
        )
    print(json.dumps(report, indent=2))
    passed = report["positive"]["passed"] and report.get("negative", {}).get("passed", True)
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
