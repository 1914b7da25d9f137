"""MindBridge: network of one subject and of several, its losses, pooling; weights read through the mapping that conversion uses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from chiasm.encoders.mindbridge import MindBridgeNetwork, unified_voxels
from chiasm.fusion.contrastive import flattened, soft_clip
from chiasm.pipelines.engine.brain_weights import build_brain
from chiasm.pipelines.engine.conversion.brain import brain_parts

Arrays = Mapping[str, np.ndarray]
TEMPERATURE = (
    0.005  # as published and as the numbers are; the words of the file say 0.125, the default of the authors' function
)


def _network(state: Arrays) -> MindBridgeNetwork:
    tensors = {key: torch.from_numpy(value) for key, value in state.items()}
    converted = brain_parts(tensors, "mindbridge", {}, name="golden", notes=[])
    network = build_brain("mindbridge", converted.config["parameters"], converted.config["n_voxels"]).eval()
    network.load_state_dict(converted.parts["model"])
    return network


def _arrays(found: Mapping[str, torch.Tensor]) -> dict[str, np.ndarray]:
    return {key: value.detach().numpy() for key, value in found.items()}


def _label(subject: Any) -> str:
    return f"subj{int(subject):02d}"


def mind_single(hyperparameters: Mapping[str, Any], state: Arrays, inputs: Arrays) -> dict[str, Any]:
    """One subject: flat image and text embeddings, gradient of the mean square of the first."""
    network = _network(state)
    voxels = torch.from_numpy(inputs["voxels"]).requires_grad_()
    answer = network(voxels, _label(hyperparameters["subj_list"][0]))
    loss = answer.tokens.square().mean()
    loss.backward()
    found = {"image": answer.tokens.flatten(1), "loss/grad_scalar": loss, "grad/voxels": voxels.grad}
    return _arrays(found | {"text": answer.text.flatten(1)})


def mindbridge(hyperparameters: Mapping[str, Any], state: Arrays, inputs: Arrays) -> dict[str, Any]:
    """Several subjects: embeddings, reconstruction, both kinds of cycle, every loss, retrieval."""
    network = _network(state)
    given = {key: torch.from_numpy(value) for key, value in inputs.items()}
    voxels = given["voxels"].requires_grad_()
    labels = [_label(subject) for subject in given["subject_order"].tolist()]
    parts = dict(zip(labels, voxels.chunk(len(labels)), strict=True))
    embedded = {label: network.embed(part, label) for label, part in parts.items()}
    answer = network.decode(torch.cat(list(embedded.values())))
    image, text = answer.tokens.flatten(1), answer.text.flatten(1)
    rebuilt = torch.cat([network.build(embedded[label], label) for label in labels])
    rec = network.rebuild_loss(parts, embedded=embedded)
    adapting = network.cycle_loss(parts, pair=(labels[0], labels[-1]), embedded=embedded)
    drawn = tuple(_label(subject) for subject in given["subj_ab"].tolist())
    scalar = image.square().mean() + text.square().mean() + rec + adapting
    scalar.backward()
    found = {
        "image": image,
        "text": text,
        "voxels_rec": rebuilt,
        "loss/cycle_adapting": adapting,
        "loss/cyc": adapting,
        "loss/cycle_random_pair": network.cycle_loss(parts, pair=drawn, embedded=embedded),
        "loss/rec": rec,
        "loss/grad_scalar": scalar,
        "grad/voxels": voxels.grad,
    }
    for name, predicted in (("image", image), ("text", text)):
        p, t = flattened(predicted), flattened(given[f"clip_{name}"])
        found[f"loss/soft_clip_{name}"] = soft_clip(p, t, TEMPERATURE)
        found[f"loss/mse_{name}"] = functional.mse_loss(p, t)
    found["loss/total"] = (
        found["loss/soft_clip_image"]
        + found["loss/soft_clip_text"]
        + hyperparameters["mse_mult"] * (found["loss/mse_image"] + found["loss/mse_text"])
        + hyperparameters["rec_mult"] * rec
        + hyperparameters["cyc_mult"] * adapting
    )
    similar, own = flattened(image) @ flattened(given["clip_image"]).T, torch.arange(len(image))
    found["topk_fwd"] = (similar.T.argmax(1) == own).float().mean()
    found["topk_bwd"] = (similar.argmax(1) == own).float().mean()
    return _arrays(found)


def pool_voxels(hyperparameters: Mapping[str, Any], _state: Arrays, inputs: Arrays) -> dict[str, Any]:
    """Every way of bringing voxels to one length."""
    ways = {"max": "max", "avg": "avg", "resize": "linear"}
    found = {
        f"{name}_{i}": unified_voxels(torch.from_numpy(inputs[f"voxels_{i}"]), hyperparameters["pool_num"], way)
        for i in range(len(hyperparameters["lengths"]))
        for name, way in ways.items()
    }
    return _arrays(found)


MODULES = {"mind_single": mind_single, "mindbridge": mindbridge, "pool_voxels": pool_voxels}
