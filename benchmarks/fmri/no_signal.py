"""Nothing to find: phantoms of strength 0, pooled over seeds, in every metric. Each must be at chance.

At chance: the 99 % bootstrap interval over stimuli of the score pooled over all seeds contains chance: 0.5 for two-way
identification, one over the pool for retrieval, for pixels and distances the same metric on permuted pairs (a paired difference
that contains 0).

    python benchmarks/fmri/no_signal.py WORK
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

RESULTS = Path(__file__).parents[1] / "results" / "fmri_no_signal.json"
SHARED = 60


def one_seed(work: Path, seed: int, epochs: int) -> dict[str, list[float]]:
    """Make a phantom without signal, train on it, and return each metric's contributions of single images less chance."""
    import torch

    torch.set_num_threads(1)
    from chiasm.data.phantoms.nsd.cohort import NsdCohort, write_nsd
    from chiasm.pipelines.recipes import load_recipe
    from chiasm.pipelines.stages.fmri.components import load_encoder, load_maker
    from chiasm.pipelines.training.fmri.fit import FitData, fit
    from chiasm.pipelines.training.fmri.model import build_model
    from chiasm.pipelines.training.fmri.prepare import TargetTable, encode, needed_images, prepare
    from chiasm.pipelines.training.fmri.settings import read_training
    from chiasm.pipelines.training.fmri.streams import TrialStream
    from chiasm.pipelines.training.fmri.study import evaluated

    data, out = work / f"data-{seed}", work / f"out-{seed}"
    if not data.is_dir():
        cohort = NsdCohort(
            subjects=1, images=240, shared=SHARED, seed=seed, strength=0.0, stimuli="fashion-mnist-small"
        )
        write_nsd(data, cohort)
    recipe = load_recipe("fmri-images")
    settings = read_training(
        {**recipe.training, "contrastive_weight": 2.0, "epochs": epochs, "seed": seed}, name="no-signal"
    )
    encoder = load_encoder(recipe)
    prepared = prepare(data, ["01"], recipe, settings, cache=out / "betas")
    images = needed_images(prepared)
    table = encode(encoder, prepared.stimuli, images, size=32)
    targets = TargetTable(images, lambda places: table[torch.from_numpy(places)])
    torch.manual_seed(seed)
    model = build_model(recipe, prepared.n_voxels)
    stream = TrialStream(
        {name: one.source for name, one in prepared.subjects.items()}, batch_size=48, repeats="cycle", seed=seed
    )
    try:
        fitted = fit(model, FitData(stream=stream, targets=targets), settings, folder=out / "fit")
    finally:
        stream.close()
    (line,) = evaluated(fitted.model, prepared, recipe, settings, load_maker(recipe, encoder)).values()
    shutil.rmtree(out)
    found = {"retrieval": (line.hits - 1 / SHARED).tolist()}
    for score in line.card.scores:
        if score.per_image is None:
            continue
        chance = 0.5 if "two-way" in score.name else score.chance_per_image
        found[score.name] = (score.per_image - chance).tolist()
    return found


def main() -> None:
    """Run the seeds and write the pooled intervals."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", type=Path)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=2)
    namespace = parser.parse_args()
    namespace.work.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(namespace.jobs) as pool:
        seeds = range(100, 100 + namespace.seeds)
        runs = list(pool.map(one_seed, [namespace.work] * len(seeds), seeds, [namespace.epochs] * len(seeds)))
    rng = np.random.default_rng(0)
    rows: dict[str, Any] = {}
    for metric in runs[0]:
        values = np.concatenate([run[metric] for run in runs])
        draws = values[rng.integers(len(values), size=(5000, len(values)))].mean(1)
        low, high = np.percentile(draws, [0.5, 99.5])
        rows[metric] = {
            "above_chance": float(values.mean()),
            "low_99": float(low),
            "high_99": float(high),
            "at_chance": bool(low <= 0 <= high),
            "per_seed": [round(float(np.mean(run[metric])), 4) for run in runs],
        }
    RESULTS.write_text(
        json.dumps(
            {
                "command": "python benchmarks/fmri/no_signal.py WORK",
                "seeds": namespace.seeds,
                "epochs": namespace.epochs,
                "test_images_a_seed": SHARED,
                "rows": rows,
                "python": platform.python_version(),
            },
            indent=1,
        )
        + "\n"
    )
    for metric, row in rows.items():
        print(
            f"{metric:36s} {row['above_chance']:+.4f} [{row['low_99']:+.4f}, {row['high_99']:+.4f}] at chance: {row['at_chance']}"
        )


if __name__ == "__main__":
    main()
