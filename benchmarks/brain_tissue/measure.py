"""Accuracy of the shipped brain-tissue network: the fixed generated test set, and Colin27.

    python benchmarks/brain_tissue/measure.py [--weights FOLDER] [--volumes N] [--masks folder] [--out FILE]

Colin27 is `ch2.nii.gz` of the Debian package `mricron-data` (never trained on). There is no true segmentation of it: the network is
compared with an independent method, a Gaussian mixture of three classes fitted to the intensities inside the same mask, and with
itself on the same head rotated, resampled, stored in another orientation, and with inverted contrast.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch

from chiasm.data.geometry import Canonical, Crop, Resampling
from chiasm.data.nifti import read_volume
from chiasm.data.phantoms.label_maps import template_maps
from chiasm.data.volumes import Grid
from chiasm.pipelines.engine.components import build_network
from chiasm.pipelines.engine.memory import keep_freed_memory
from chiasm.pipelines.engine.tensors import fill, read_tensors
from chiasm.pipelines.engine.weights import find, open_folder
from chiasm.pipelines.evaluation.segmentation import dice
from chiasm.pipelines.recipes import load_recipe
from chiasm.pipelines.stages.normalise import normalise
from chiasm.pipelines.training.generated import fixed_samples
from chiasm.pipelines.training.settings import read_settings
from chiasm.pipelines.training.validation import predict

TISSUES = {1: "CSF", 2: "grey matter", 3: "white matter"}
HEAD = Path("/usr/share/mricron/templates/ch2.nii.gz")
BRAIN = Path("/usr/share/mricron/templates/ch2bet.nii.gz")


class Segmenter:
    """The inference path in short: canonical, 1 mm, crop to the mask, normalise, windows, back to the grid by slab argmax."""

    def __init__(self, weights: str, *, overlap: float | None, bfloat16: bool) -> None:
        self.recipe = load_recipe("brain-tissue")
        if overlap is not None:
            self.recipe = self.recipe.model_copy(
                update={"windows": self.recipe.windows.model_copy(update={"overlap": overlap})}
            )
        spec = self.recipe.components["network"]
        folder = open_folder(Path(weights)) if Path(weights).is_dir() else find(weights)
        self.sha256, self.config, self.bfloat16 = folder.sha256, folder.config, bfloat16
        self.network = build_network(spec.kind, spec.parameters).eval()
        fill(self.network, read_tensors(folder.files["model"]), folder.name)

    def on_model_grid(self, image: torch.Tensor) -> np.ndarray:
        logits = predict(self.network, image, self.recipe, bfloat16=self.bfloat16).numpy()
        return logits.argmax(0).astype(np.uint8)

    def __call__(self, values: np.ndarray, affine: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """Return labels on the grid of `values`; 0 outside the mask."""
        grid = Grid(values.shape, affine)
        canonical = Canonical.from_affine(affine)
        turned = canonical.grid(grid)
        resampling = Resampling.to_spacing(turned, self.recipe.space.spacing_mm)
        image = np.ascontiguousarray(resampling.to_target(canonical.forward(values.astype(np.float32))))
        inside = resampling.to_target(canonical.forward(mask.astype(np.float32))) >= 0.5
        crop = Crop.around(inside, resampling.target, margin_mm=self.recipe.space.margin_mm)
        part = np.ascontiguousarray(crop.cut(image))
        normalise(part, self.recipe.intensity, np.ascontiguousarray(crop.cut(inside)))
        logits = predict(self.network, torch.from_numpy(part)[None], self.recipe, bfloat16=self.bfloat16).numpy()
        native = resampling.to_source(crop.paste(logits, fill=-30.0))
        labels = canonical.inverse(native)[1:].argmax(0).astype(np.uint8) + 1
        return np.where(mask, labels, 0).astype(np.uint8)


def generated(segment: Segmenter, limit: int | None) -> dict:
    """Dice on the generated test set, a contrast."""
    settings = read_settings(segment.recipe.training, name="brain-tissue")
    generator, test = settings.generator, settings.generator.test
    if limit:
        test = test.model_copy(update={"volumes": limit})
    scores, rows = defaultdict(list), []
    for index, sample in enumerate(fixed_samples(template_maps(), generator, test)):
        labels, truth = segment.on_model_grid(sample.image), sample.labels.numpy()
        one = {name: round(dice(labels == k, truth == k), 4) for k, name in TISSUES.items()}
        mean = float(np.mean(list(one.values())))
        scores[sample.contrast].append(list(one.values()))
        rows.append(
            {"volume": index, "contrast": sample.contrast, "separation": round(sample.separation, 2), "dice": one}
        )
        print(
            f"test {index:2d} {sample.contrast:9s} |GM-WM|/noise {sample.separation:5.1f}  mean {mean:.3f}  {one}",
            flush=True,
        )
    table = {}
    for contrast, values in scores.items():
        array = np.array(values)
        table[contrast] = {
            "n": len(values),
            "mean": round(float(array.mean()), 4),
            "lowest": round(float(array.mean(1).min()), 4),
        }
        table[contrast] |= {name: round(float(v), 4) for name, v in zip(TISSUES.values(), array.mean(0), strict=True)}
    everything = np.concatenate([np.array(v) for v in scores.values()])
    return {"mean": round(float(everything.mean()), 4), "contrasts": table, "volumes": rows}


def gaussian_mixture(values: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Label the mask by a mixture of three Gaussians: darkest CSF, brightest white matter (T1 contrast)."""
    from sklearn.mixture import GaussianMixture

    inside = values[mask].reshape(-1, 1)
    mixture = GaussianMixture(3, random_state=0, n_init=3, tol=1e-5, max_iter=500).fit(inside[::10])
    rank = np.argsort(np.argsort(mixture.means_.ravel()))
    labels = np.zeros(values.shape, np.uint8)
    labels[mask] = rank[mixture.predict(inside)] + 1
    return labels


def agreement(a: np.ndarray, b: np.ndarray) -> dict:
    return {name: round(dice(a == k, b == k), 4) for k, name in TISSUES.items()}


def turned_about(values: np.ndarray, degrees: float, axis: int, *, order: int) -> np.ndarray:
    from scipy.ndimage import rotate

    axes = tuple(i for i in range(3) if i != axis)
    return rotate(values, degrees, axes=axes, reshape=False, order=order, prefilter=order > 1)


def colin27(segment: Segmenter, mask_file: Path) -> dict:
    """Agreement with the mixture and with itself."""
    head, brain = read_volume(HEAD), read_volume(mask_file)
    values, mask, affine = np.asarray(head.values, np.float32), np.asarray(brain.values) > 0, head.grid.affine
    result: dict = {"mask": mask_file.name}
    started = time.process_time()
    labels = segment(values, affine, mask)
    result["cpu_s"] = round(time.process_time() - started, 1)
    result["ml"] = {name: round(float((labels == k).sum() * head.grid.voxel_ml), 1) for k, name in TISSUES.items()}
    mixture = gaussian_mixture(values, mask)
    result["gaussian_mixture_ml"] = {
        name: round(float((mixture == k).sum() * head.grid.voxel_ml), 1) for k, name in TISSUES.items()
    }
    result["gaussian_mixture"] = agreement(labels, mixture)
    # The rotated head holds the mask with it; its labels come back by nearest neighbour and meet the unrotated ones.
    for axis, name in enumerate(("sagittal", "coronal", "axial")):
        moved = segment(
            turned_about(values, 15, axis, order=3),
            affine,
            turned_about(mask.astype(np.float32), 15, axis, order=1) > 0.5,
        )
        result[f"rotated_15_{name}"] = agreement(turned_about(moved, -15, axis, order=0), labels)
    coarse = Resampling.to_spacing(head.grid, 1.5)
    coarse_mask = coarse.to_target(mask.astype(np.float32)) > 0.5
    at_coarse = segment(coarse.to_target(values), coarse.target.affine, coarse_mask)
    classes = np.stack([coarse.to_target((labels == k).astype(np.float32)) for k in TISSUES])
    result["spacing_1.5_mm"] = agreement(at_coarse, np.where(coarse_mask, classes.argmax(0) + 1, 0))
    # The same head stored as PIR: other axes, other directions, the affine says so.
    order, flips = (1, 2, 0), (-1, -1, 1)
    stored, stored_mask = (v.transpose(order)[tuple(slice(None, None, f) for f in flips)] for v in (values, mask))
    matrix = np.zeros((4, 4))
    matrix[3, 3] = 1
    matrix[:3, 3] = affine[:3, 3]
    for new, (old, flip) in enumerate(zip(order, flips, strict=True)):
        matrix[:3, new] = affine[:3, old] * flip
        if flip < 0:
            matrix[:3, 3] += affine[:3, old] * (values.shape[old] - 1)
    other = segment(stored, matrix, stored_mask)
    back = other[tuple(slice(None, None, f) for f in flips)].transpose(np.argsort(order))
    result["orientation_PIR"] = agreement(back, labels)
    inverted = segment(values[mask].max() - values, affine, mask)
    result["inverted_contrast"] = agreement(inverted, labels)
    result["inverted_contrast_gaussian_mixture"] = agreement(inverted, mixture)
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", default="chiasm/brain-tissue")
    parser.add_argument("--volumes", type=int, help="only the first N of the test set; 0: none")
    parser.add_argument("--overlap", type=float, help="instead of the recipe's")
    parser.add_argument("--bfloat16", action="store_true")
    parser.add_argument("--mask", type=Path, default=BRAIN, help="brain mask of Colin27 (default: ch2bet.nii.gz > 0)")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    segment = Segmenter(options.weights, overlap=options.overlap, bfloat16=options.bfloat16)
    report: dict = {
        "weights_sha256": segment.sha256,
        "precision": "bfloat16" if options.bfloat16 else "float32",
        "overlap": segment.recipe.windows.overlap,
        "machine": {
            "processor": platform.machine(),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
    }
    if HEAD.is_file() and options.mask.is_file():
        report["colin27"] = colin27(segment, options.mask)
        for name, value in report["colin27"].items():
            print(f"colin27 {name}: {value}", flush=True)
    else:
        print("colin27: skipped, the Debian package mricron-data is not installed")
    if options.volumes != 0:
        report["test_set"] = generated(segment, options.volumes)
        print("test set", json.dumps({k: v for k, v in report["test_set"].items() if k != "volumes"}))
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(report, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
