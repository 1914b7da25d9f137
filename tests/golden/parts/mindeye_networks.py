"""MindEye's brain network and low-level network, their weights read through the mapping that conversion uses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from chiasm.pipelines.engine.brain_weights import build_brain
from chiasm.pipelines.engine.conversion.brain import brain_parts

Arrays = Mapping[str, np.ndarray]


def brain_network(hyperparameters: Mapping[str, Any], state: Arrays, inputs: Arrays) -> dict[str, Any]:
    """Backbone and, where there is one, projector; gradients of the mean square of the last."""
    # the width is in the shapes of the projector only
    given = {} if hyperparameters["use_projector"] else {"width": hyperparameters["clip_size"]}
    network = _converted("mindeye", state, given)
    voxels = torch.from_numpy(inputs["voxels"]).requires_grad_()
    answer = network(voxels, *network.subjects)
    found = {"backbone": answer.tokens.flatten(1)}
    if hyperparameters["use_projector"]:
        found["projected"] = answer.projected
    return _with_gradients(found, answer.projected, voxels)


def low_level(_hyperparameters: Mapping[str, Any], state: Arrays, inputs: Arrays) -> dict[str, Any]:
    """Latents and features for the teacher; gradients of the mean square of the latents."""
    network = _converted("mindeye-low-level", state, {})
    voxels = torch.from_numpy(inputs["voxels"]).requires_grad_()
    answer = network(voxels, *network.subjects)
    return _with_gradients({"latent": answer.latents, "transformer_feats": answer.auxiliary}, answer.latents, voxels)


def _converted(kind: str, state: Arrays, given: Mapping[str, Any]) -> nn.Module:
    tensors = {key: torch.from_numpy(value) for key, value in state.items()}
    converted = brain_parts(tensors, kind, given, name="golden", notes=[])
    network = build_brain(kind, converted.config["parameters"], converted.config["n_voxels"]).eval()
    network.load_state_dict(converted.parts["model"])
    return network


def _with_gradients(found: dict[str, Tensor], last: Tensor, voxels: Tensor) -> dict[str, Any]:
    loss = last.square().mean()
    loss.backward()
    every = {**found, "loss/grad_scalar": loss, "grad/voxels": voxels.grad}
    return {key: value.detach().numpy() for key, value in every.items()}


MODULES = {"brain_network": brain_network, "brain_network_alt": brain_network, "low_level": low_level}
