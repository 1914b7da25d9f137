"""Losses, similarities and mixing through `chiasm.fusion.{contrastive,mixco,similarity}`; both systems have the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from chiasm.fusion import contrastive
from chiasm.fusion.mixco import mixco
from chiasm.fusion.similarity import cosine_matrix, pearson_matrix, top_k_accuracy

Arrays = Mapping[str, np.ndarray]


def losses(hyperparameters: Mapping[str, Any], _state: Arrays, inputs: Arrays) -> dict[str, Any]:
    """Every number of the file; those of MindEye2 only where its inputs are there."""
    given = {key: torch.from_numpy(value) for key, value in inputs.items()}
    p, t = given["preds"].requires_grad_(), given["targs"]
    drawn, selected, permutation = given["betas_drawn"], given["select"], given["perm"]
    beta = torch.where(selected, drawn, 1.0)
    mixture = {"beta": beta, "permutation": permutation, "published": True}
    nce = hyperparameters["nce_temp"]
    found = {
        "voxels_mixed": mixco(given["voxels"], drawn, selected, permutation),
        "betas": beta,
        "clip_target_mixed": mixco(t, beta, selected, permutation),
        "loss/soft_clip": contrastive.soft_clip(p, t, hyperparameters["temp"]),
        "loss/mixco_nce": contrastive.bimixco(p, t, nce, **mixture),
        "loss/mixco_nce_one_way": contrastive.bimixco(p, t, nce, **mixture, symmetric=False),
        "loss/nce": contrastive.info_nce(p, t, nce),
        "loss/nce_one_way": contrastive.info_nce(p, t, nce, symmetric=False),
        "loss/soft_cont": contrastive.soft_contrastive(p, t, given["targs_aug"], hyperparameters["soft_cont_temp"]),
        "cosine_anneal": contrastive.annealed_temperature(*hyperparameters["anneal"]).float(),
        **_similarities(given, hyperparameters),
    }
    found["loss/grad_scalar"] = found["loss/soft_clip"] + found["loss/mixco_nce"]
    (found["grad/preds"],) = torch.autograd.grad(found["loss/grad_scalar"], p, retain_graph=True)
    if "siglip_logtemp" in given:
        scale = ((-given["siglip_logtemp"]).exp(), given["siglip_bias"])
        found["loss/soft_siglip"] = contrastive.soft_sigmoid(p, t, *scale)
        found["loss/mixco_hard_siglip"] = contrastive.mixed_sigmoid(p, t, *scale, **mixture)
    return {key: value.detach().numpy() for key, value in found.items()}


def _similarities(given: Mapping[str, Tensor], hyperparameters: Mapping[str, Any]) -> dict[str, Tensor]:
    a, b, p, t = given["raw_a"], given["raw_b"], given["preds"], given["targs"]
    return {
        "cosine_similarity": cosine_matrix(a, b).T,
        "pairwise_cosine": cosine_matrix(a, b),
        "pearson": pearson_matrix(a, b),
        "cosine_similarity_centered": cosine_matrix(a, b, centring=hyperparameters.get("center_l", 0.0)).T,
        "prenormed": (p @ t.T).T,
        "topk1": top_k_accuracy(cosine_matrix(p, t).T, given["labels"], k=1),
        "topk3": top_k_accuracy(cosine_matrix(p, t).T, given["labels"], k=3),
    }


MODULES = {"losses": losses}
