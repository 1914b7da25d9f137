"""MindEye2's brain network, its weights read through the mapping and the inference of sizes that conversion uses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from chiasm.pipelines.engine.brain_weights import build_brain
from chiasm.pipelines.engine.conversion.brain import brain_parts

Arrays = Mapping[str, np.ndarray]


def brain_network(hyperparameters: Mapping[str, Any], state: Arrays, inputs: Arrays) -> dict[str, Any]:
    """Every subject's linear layer, then all of them through the backbone; gradients of the mean square."""
    tensors = {key: torch.from_numpy(value) for key, value in state.items()}
    # the width is in the shapes of the projector only
    given = {} if hyperparameters["clip_scale"] else {"width": hyperparameters["clip_size"]}
    converted = brain_parts(tensors, "mindeye2", given, name="golden", notes=[])
    network = build_brain("mindeye2", converted.config["parameters"], converted.config["n_voxels"]).eval()
    network.load_state_dict(converted.parts["model"])
    given = {key: torch.from_numpy(value).requires_grad_() for key, value in inputs.items()}
    found: dict[str, torch.Tensor] = {}
    if "x" in given:
        embedded = given["x"]
    else:
        voxels = [given[f"voxels_{i}"] for i in range(len(network.subjects))]
        embedded = torch.cat([network.embed(x, name) for x, name in zip(voxels, network.subjects, strict=True)])
        found["ridge"] = embedded
    answer = network.decode(embedded)
    found |= {"backbone": answer.tokens}
    if hyperparameters["clip_scale"]:
        found["clip"] = answer.projected
    if answer.latents is not None:
        found |= {"blur_latent": answer.latents, "blur_aux": answer.auxiliary}
    loss = answer.projected.square().mean()
    loss.backward()
    found["loss/grad_scalar"] = loss
    found |= {f"grad/{key}": value.grad for key, value in given.items() if value.grad is not None}
    return {key: value.detach().numpy() for key, value in found.items()}


MODULES = dict.fromkeys(("brain_network", "brain_network_multi_token"), brain_network)
