"""Accuracy of the shipped brain-tissue network: the fixed generated test set, and Colin27.

    python benchmarks/brain_tissue/measure.py [--weights FOLDER] [--volumes N] [--bfloat16] [--out FILE]

Colin27 is `ch2.nii.gz` of the Debian package `mricron-data` (never trained on; read by `chiasm.load("brain-tissue")`, the same
stages as `chiasm run`). There is no true segmentation of it: the network is compared with an independent method, a Gaussian mixture
of three classes fitted to the intensities inside the same mask, and with itself on the same head rotated by 15 degrees, at
1.5 mm, stored with other axes, and with inverted contrast. Everything is done twice: with the brain mask of the package's
own mask network, made anew for each variant (inverted contrast: the mask of the original), and with `ch2bet.nii.gz` > 0.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections import defaultdict
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

import chiasm
from chiasm.data.geometry import Canonical, Resampling
from chiasm.data.nifti import read_volume
from chiasm.data.phantoms.label_maps import template_maps
from chiasm.data.volumes import Grid, Volume
from chiasm.pipelines.engine.components import load_component, load_components
from chiasm.pipelines.engine.memory import keep_freed_memory
from chiasm.pipelines.engine.weights import find, open_folder
from chiasm.pipelines.evaluation.segmentation import dice
from chiasm.pipelines.recipes import load_recipe
from chiasm.pipelines.training.generated import fixed_samples
from chiasm.pipelines.training.settings import read_settings
from chiasm.pipelines.training.validation import predict

RESULTS = Path(__file__).resolve().parents[1] / "results" / "brain_tissue.json"
TISSUES = {1: "CSF", 2: "grey matter", 3: "white matter"}
HEAD = Path("/usr/share/mricron/templates/ch2.nii.gz")
BRAIN = Path("/usr/share/mricron/templates/ch2bet.nii.gz")


def generated(weights: str, limit: int | None, *, bfloat16: bool) -> dict:
    """Dice on the generated test set, a contrast; every voxel counts, the background is a class like the others."""
    recipe = load_recipe("brain-tissue")
    settings = read_settings(recipe.training, name=recipe.name)
    test = settings.generator.test
    if limit:
        test = test.model_copy(update={"volumes": limit})
    network = load_component(recipe.components["network"], [weights_folder(weights)], "cpu")
    scores, rows = defaultdict(list), []
    for index, sample in enumerate(fixed_samples(template_maps(), settings.generator, test)):
        labels = predict(network, sample.image, recipe, bfloat16=bfloat16).numpy().argmax(0)
        one = agreement(labels, sample.labels.numpy())
        scores[sample.contrast].append(list(one.values()))
        rows.append(
            {"volume": index, "contrast": sample.contrast, "separation": round(sample.separation, 2), "dice": one}
        )
        print(f"{index:2d} {sample.contrast:9s} |GM-WM|/noise {sample.separation:5.1f}  {one}", flush=True)
    table = {contrast: summary(np.array(values)) for contrast, values in scores.items()}
    everything = np.concatenate([np.array(values) for values in scores.values()])
    return {"all": summary(everything), "contrasts": table, "volumes": rows}


def summary(values: np.ndarray) -> dict:
    """Mean over volumes of the Dice of each tissue; their mean with and without CSF."""
    table = {name: round(float(v), 4) for name, v in zip(TISSUES.values(), values.mean(0), strict=True)}
    means = {
        "n": len(values),
        "mean": round(float(values.mean()), 4),
        "mean_grey_white": round(float(values[:, 1:].mean()), 4),
    }
    return means | table | {"lowest_volume": round(float(values.mean(1).min()), 4)}


def weights_folder(name: str):
    return open_folder(Path(name)) if Path(name).is_dir() else find(name)


def gaussian_mixture(values: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Label the mask by a mixture of three Gaussians: darkest CSF, brightest white matter (T1 contrast)."""
    from sklearn.mixture import GaussianMixture

    inside = values[mask].reshape(-1, 1).astype(np.float64)
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


def in_other_axes(values: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Store a volume with its axes in another order and direction (PIR), and the affine that says so."""
    order, flips = (1, 2, 0), (-1, -1, 1)
    stored = values.transpose(order)[tuple(slice(None, None, f) for f in flips)]
    matrix = np.eye(4)
    matrix[:3, 3] = affine[:3, 3]
    for new, (old, flip) in enumerate(zip(order, flips, strict=True)):
        matrix[:3, new] = affine[:3, old] * flip
        if flip < 0:
            matrix[:3, 3] += affine[:3, old] * (values.shape[old] - 1)
    return stored, matrix


def from_other_axes(values: np.ndarray) -> np.ndarray:
    return values[::-1, ::-1].transpose(2, 0, 1)


class Pipeline:
    """`chiasm.load`, with the mask given or left to the mask network."""

    def __init__(self, weights: str) -> None:
        self.predictor = chiasm.load("brain-tissue", weights=weights)

    def __call__(self, values: np.ndarray, affine: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
        arrays = {"T1w": np.ascontiguousarray(values, np.float32)}
        if mask is not None:
            arrays["mask"] = np.ascontiguousarray(mask, np.float32)
        return np.asarray(self.predictor(arrays, affine).labels)


def colin27(segment: Pipeline, head: Volume, given: np.ndarray | None, own: np.ndarray) -> dict:
    """Agreement with the mixture and with itself; `given` None: the mask network makes the mask of every variant."""
    values, affine = np.asarray(head.values, np.float32), head.grid.affine
    mask = own if given is None else given
    result: dict = {}
    started = time.process_time()
    labels = segment(values, affine, given)
    result["cpu_s"] = round(time.process_time() - started, 1)
    result["ml"] = {name: round(float((labels == k).sum() * head.grid.voxel_ml), 1) for k, name in TISSUES.items()}
    mixture = gaussian_mixture(values, mask)
    result["gaussian_mixture_ml"] = {
        name: round(float((mixture == k).sum() * head.grid.voxel_ml), 1) for k, name in TISSUES.items()
    }
    result["gaussian_mixture"] = agreement(labels, mixture)
    for axis, name in enumerate(("sagittal", "coronal", "axial")):
        turned = None if given is None else turned_about(given.astype(np.float32), 15, axis, order=1) > 0.5
        moved = segment(turned_about(values, 15, axis, order=3), affine, turned)
        result[f"rotated_15_{name}"] = agreement(turned_about(moved, -15, axis, order=0), labels)
    coarse = Resampling.to_spacing(Grid(head.grid.shape, affine), 1.5)
    coarse_mask = None if given is None else coarse.to_target(given.astype(np.float32)) > 0.5
    at_coarse = segment(coarse.to_target(values), coarse.target.affine, coarse_mask)
    # Compared on the coarse grid: there each voxel's label is the one most of it has in the fine result.
    shares = np.stack([coarse.to_target((labels == k).astype(np.float32)) for k in (0, *TISSUES)])
    result["spacing_1.5_mm"] = agreement(at_coarse, shares.argmax(0))
    stored, matrix = in_other_axes(values, affine)
    stored_mask = None if given is None else in_other_axes(given, affine)[0]
    result["orientation_PIR"] = agreement(from_other_axes(segment(stored, matrix, stored_mask)), labels)
    inverted = segment(values[mask].max() - values, affine, mask)
    result["inverted_contrast"] = agreement(inverted, labels if given is not None else segment(values, affine, mask))
    result["inverted_contrast_gaussian_mixture"] = agreement(inverted, mixture)
    return result


def on_colin27(weights: str) -> dict:
    head, brain = read_volume(HEAD), read_volume(BRAIN)
    reference = np.asarray(brain.values) > 0
    masker = load_components(load_recipe("brain-tissue"), "cpu")["mask"]
    canonical = Canonical.from_affine(head.grid.affine)
    own = canonical.inverse(masker(np.ascontiguousarray(canonical.forward(np.asarray(head.values, np.float32)))))
    report: dict = {"mask_dice_against_ch2bet": round(dice(own, reference), 4)}
    segment = Pipeline(weights)
    for name, given in (("own_mask", None), ("ch2bet_mask", reference)):
        report[name] = colin27(segment, head, given, own)
        for key, value in report[name].items():
            print(f"colin27 {name} {key}: {value}", flush=True)
    return report


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", default="chiasm/brain-tissue", help="a name in the store or a folder")
    parser.add_argument("--volumes", type=int, help="only the first N of the test set; 0: none")
    parser.add_argument("--bfloat16", action="store_true", help="the test set in bfloat16")
    parser.add_argument("--no-colin27", action="store_true")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    folder = weights_folder(options.weights)
    report: dict = {
        "command": "benchmarks/brain_tissue/measure.py",
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "machine": {"processor": platform.machine(), "cores": os.cpu_count(), "threads": torch.get_num_threads()},
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("torch", "numpy", "scikit-learn")},
        },
        "weights_sha256": folder.sha256,
        "steps": folder.config.get("training", {}).get("steps"),
        "test_set_precision": "bfloat16" if options.bfloat16 else "float32",
    }
    if options.no_colin27 or not (HEAD.is_file() and BRAIN.is_file()):
        print("colin27: skipped (it is in the Debian package mricron-data)")
    else:
        report["colin27"] = on_colin27(options.weights)
    if options.volumes != 0:
        report["test_set"] = generated(options.weights, options.volumes, bfloat16=options.bfloat16)
        print("test set", json.dumps({k: v for k, v in report["test_set"].items() if k != "volumes"}))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(report, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
