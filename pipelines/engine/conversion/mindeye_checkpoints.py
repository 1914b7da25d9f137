"""MindEye's and MindEye2's published checkpoints: which names belong to which network, and its sizes."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, TypeVar

from torch import Tensor

from .keys import without_wrapper_parts
from .prior_checkpoints import prior_names
from .shapes import Shapes

Value = TypeVar("Value")

SUBJECT_OF_VOXELS = {
    15724: "subj01",
    14278: "subj02",
    15226: "subj03",
    13153: "subj04",
    13039: "subj05",
    17907: "subj06",
    12682: "subj07",
    14386: "subj08",
}
"""Voxels of ``nsdgeneral`` -> subject of NSD: all differ, so that a linear layer says whose it is."""

_MINDEYE_PARTS = ("lin0.", "mlp.", "lin1.", "projector.")
_LOW_LEVEL_PARTS = ("lin0.", "mlp.", "lin1.", "norm.", "upsampler.", "maps_projector.")
_OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
_ATTENTION = re.compile(r"(\.attentions\.\d+)\.(query|key|value|proj_attn)\.")


def mindeye_parts(state: Mapping[str, Value]) -> dict[str, dict[str, Value]]:
    """Split a checkpoint of MindEye: ``voxel2clip.*`` is the network, ``net.*`` and ``noise_scheduler.*`` the prior."""
    names = without_wrapper_parts(state)
    bare = {key.removeprefix("voxel2clip."): value for key, value in names.items()}
    return _present(
        model={key: value for key, value in bare.items() if key.startswith(_MINDEYE_PARTS)}, prior=prior_names(names)
    )


def mindeye_parameters(tensors: Mapping[str, Tensor], hints: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Read the sizes of a `MindEyeNetwork`; without a projector, `hints` must have the tokens' width."""
    shapes = Shapes(tensors, name)
    # lin0 is linear, norm, activation, dropout or linear, activation, norm, dropout
    act_first = "lin0.1.weight" not in shapes and "lin0.2.weight" in shapes
    projector = "projector.0.weight" in shapes
    out = shapes.size("lin1.weight")
    width = _width(shapes, "projector.0.weight", hints)
    found: dict[str, Any] = {
        "hidden": shapes.size("lin0.0.weight"),
        "n_blocks": shapes.count(r"^mlp\.(\d+)\."),
        "tokens": out // max(width, 1),
        "width": width,
        "norm": "bn" if f"lin0.{2 if act_first else 1}.running_mean" in shapes else "ln",
        "act_first": act_first,
        "projector": projector,
    }
    if projector:
        found["projector_hidden"] = shapes.size("projector.2.weight")
    shapes.check()
    return found


def mindeye_voxels(tensors: Mapping[str, Tensor], name: str) -> list[int]:
    """Return the voxels of each subject in a file of MindEye: there is one."""
    shapes = Shapes(tensors, name)
    voxels = shapes.size("lin0.0.weight", 1)
    shapes.check()
    return [voxels]


def low_level_parts(state: Mapping[str, Value]) -> dict[str, dict[str, Value]]:
    """Take MindEye's low-level network from its file, with the attention's names of today's diffusers."""
    names = modern_attention(without_wrapper_parts(state))
    return _present(model={key: value for key, value in names.items() if key.startswith(_LOW_LEVEL_PARTS)})


def low_level_parameters(tensors: Mapping[str, Tensor], _hints: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Read the sizes of a `LowLevelNetwork`."""
    shapes = Shapes(tensors, name)
    channels = shapes.size("norm.weight")
    maps = "maps_projector.6.weight" in shapes
    found = {
        "hidden": shapes.size("lin0.0.weight"),
        "n_blocks": shapes.count(r"^mlp\.(\d+)\."),
        "channels": channels,
        "side": math.isqrt(shapes.size("lin1.weight") // max(channels, 1)),
        "widths": _widths(shapes, "upsampler"),
        "latent_channels": shapes.size("upsampler.conv_out.weight"),
        "auxiliary": shapes.size("maps_projector.6.weight") if maps else 0,
    }
    shapes.check()
    return found


def mindeye2_parts(state: Mapping[str, Value]) -> dict[str, dict[str, Value]]:
    """Split a checkpoint of MindEye2: ``ridge.*`` and ``backbone.*`` are the network, ``diffusion_prior.*`` the prior."""
    names = modern_attention(without_wrapper_parts(state))
    prior = {key.removeprefix("diffusion_prior."): value for key, value in names.items()}
    model = {key: value for key, value in names.items() if key.startswith(("ridge.", "backbone."))}
    return _present(model=model, prior=prior_names(prior))


def mindeye2_parameters(tensors: Mapping[str, Tensor], hints: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Read the sizes of a `MindEye2Network`; without a projector, `hints` must have the tokens' width."""
    shapes = Shapes(tensors, name)
    projector = "backbone.clip_proj.0.weight" in shapes
    width = _width(shapes, "backbone.clip_proj.0.weight", hints)
    found = {
        "hidden": shapes.size("backbone.mixer_blocks1.0.0.weight"),
        "n_blocks": shapes.count(r"^backbone\.mixer_blocks1\.(\d+)\."),
        "sequence": shapes.size("backbone.mixer_blocks2.0.0.weight"),
        "tokens": shapes.size("backbone.backbone_linear.weight") // max(width, 1),
        "width": width,
        "projector": projector,
        "projector_hidden": shapes.size("backbone.clip_proj.2.weight") if projector else None,
        "low_level": _low_level(shapes) if "backbone.blin1.weight" in shapes else None,
    }
    shapes.check()
    return found


def mindeye2_voxels(tensors: Mapping[str, Tensor], name: str) -> list[int]:
    """Return the voxels of each subject, in the order of the linear layers; a backbone alone has none."""
    if not any(key.startswith("ridge.") for key in tensors):
        return []
    shapes = Shapes(tensors, name)
    linears = range(shapes.count(r"^ridge\.linears\.(\d+)\."))
    voxels = [shapes.size(f"ridge.linears.{i}.weight", 1) for i in linears]
    shapes.check()
    return voxels


def modern_attention(state: Mapping[str, Value]) -> dict[str, Value]:
    """Rename the attention of upsamplers written with diffusers before 0.23: query, key, value, proj_attn."""
    return {_ATTENTION.sub(lambda m: f"{m[1]}.{_OLD_ATTENTION[m[2]]}.", name): value for name, value in state.items()}


def _width(shapes: Shapes, key: str, hints: Mapping[str, Any]) -> int:
    known = hints.get("width")
    return int(known) if known and key not in shapes else shapes.size(key)


def _low_level(shapes: Shapes) -> dict[str, Any]:
    channels, plain = shapes.size("backbone.bnorm.weight"), "backbone.bupsampler.weight" in shapes
    maps = "backbone.b_maps_projector.6.weight"
    return {
        "channels": channels,
        "side": math.isqrt(shapes.size("backbone.blin1.weight") // max(channels, 1)),
        "widths": [] if plain else _widths(shapes, "backbone.bupsampler"),
        "latent_channels": shapes.size(
            "backbone.bupsampler.weight" if plain else "backbone.bupsampler.conv_out.weight"
        ),
        "auxiliary": shapes.size(maps) if maps in shapes else 0,
    }


def _widths(shapes: Shapes, prefix: str) -> list[int]:
    blocks = range(shapes.count(rf"^{prefix}\.up_blocks\.(\d+)\."))
    return [shapes.size(f"{prefix}.up_blocks.{i}.resnets.0.conv1.weight") for i in reversed(blocks)]


def _present(**parts: dict[str, Value]) -> dict[str, dict[str, Value]]:
    return {name: tensors for name, tensors in parts.items() if tensors}
