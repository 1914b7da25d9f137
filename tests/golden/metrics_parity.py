"""The `metrics` golden files through `chiasm.pipelines.evaluation`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from chiasm.pipelines.evaluation import calibration
from chiasm.pipelines.evaluation.segmentation import counts, dice, surface_distances

Arrays = Mapping[str, np.ndarray]


def segmentation(hyperparameters: Mapping[str, Any], _state: Arrays, inputs: Arrays) -> dict[str, Any]:
    """Both masks, every score, by the definitions of medpy and of MONAI."""
    pred, truth = inputs["pred"], inputs["gt"]
    c = counts(pred, truth)
    there, back = (surface_distances(*pair, hyperparameters["spacing"]) for pair in ((pred, truth), (truth, pred)))
    return {
        "medpy_dc": dice(pred, truth, both_empty=0.0),
        "medpy_jc": c.jaccard,
        "medpy_sensitivity": c.sensitivity,
        "medpy_specificity": c.specificity,
        "medpy_precision": c.precision,
        "medpy_hd": there.hausdorff,
        "medpy_hd95": there.hd95_pooled,
        "medpy_hd95_swapped": back.hd95_pooled,
        "medpy_asd": there.asd,
        "medpy_asd_swapped": back.asd,
        "medpy_assd": there.assd,
        "medpy_sd_pg": there.to_reference,
        "medpy_sd_gp": there.to_prediction,
        "monai_dice": dice(pred, truth),
        "monai_hd": there.hausdorff,
        "monai_hd95": there.hd95_max,
        "monai_hd95_directed": there.hd95_directed,
        "monai_asd": there.asd,
        "monai_asd_symmetric": there.assd,
    }


def calibration_scores(hyperparameters: Mapping[str, Any], _state: Arrays, inputs: Arrays) -> dict[str, Any]:
    """Every calibration score of the file's description."""
    p, label, bins = inputs["prob"], inputs["label"], hyperparameters["bins"]
    confidence, hit = calibration.top_label(p, label)
    left = calibration.equal_width(confidence, hit, bins)
    right = calibration.equal_width(confidence, hit, bins, closed="right")
    mass = calibration.equal_mass(confidence, hit, bins)
    first = (label == 0).astype(float)
    binary = calibration.equal_width(p[:, 0], first, bins)
    return {
        "ECE_l": left.expected,
        "MCE_l": left.largest,
        "RMSCE_l": left.root_mean_square,
        "ECE_r": right.expected,
        "MCE_r": right.largest,
        "binary_ECE_l": binary.expected,
        "binary_MCE_l": binary.largest,
        "ECE_em": mass.expected,
        "ACE_top": mass.unweighted,
        "MCE_em": mass.largest,
        "ACE": calibration.adaptive_calibration_error(p, label, bins),
        "SCE": calibration.static_calibration_error(p, label, bins),
        "brier": calibration.brier(p, label),
        "binary_brier": calibration.binary_brier(p[:, 0], first),
        "nll": calibration.negative_log_likelihood(p, label),
    }


MODULES: dict[str, Callable[[Mapping[str, Any], Arrays, Arrays], dict[str, Any]]] = {
    "segmentation": segmentation,
    "calibration": calibration_scores,
}
