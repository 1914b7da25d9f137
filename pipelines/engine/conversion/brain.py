"""Published checkpoints of brain networks: one file becomes the parts of a weights folder, and its shapes the sizes.

A system is one `CheckpointFormat` in `FORMATS`: how names are split into parts, and how sizes are read from shapes. `brain_parts` does
the rest, and the golden tests go through the same functions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ....data.errors import SeveralErrors, WeightsError
from ..brain_weights import build_brain, build_prior
from ..tensors import check_fit
from . import mindbridge_checkpoints as mindbridge
from . import mindeye_checkpoints as mindeye
from .prior_checkpoints import prior_parameters, with_own_schedule

CODES = {
    "CHI-WT-054": "The checkpoint holds none of the parts that its kind consists of.",
    "CHI-WT-055": "The subjects named for a checkpoint are not as many as its linear layers.",
}

Tensors = dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class CheckpointFormat:
    """How a system publishes its weights.

    Parameters
    ----------
    split : callable
        Names in the file -> part -> names in our modules; part ``model`` is the network, ``prior`` a `DiffusionPrior`.
    parameters : callable
        Tensors of the network, hints (what was given, and the prior's ``width``), name of the file -> fields of the network's config.
    voxels : callable
        Tensors of the network, name of the file -> voxels of each subject in order.
    prior : mapping
        Parameters of the prior that shapes do not show.
    config : mapping
        What else the weights folder's config says: target space, region, scaling.
    subjects : callable, optional
        Tensors of the network -> labels of its subjects, where their names have them (``mindbridge.with_subjects`` gives others).
    """

    split: Callable[[Mapping[str, Any]], dict[str, dict[str, Any]]]
    parameters: Callable[[Mapping[str, Tensor], Mapping[str, Any], str], dict[str, Any]]
    voxels: Callable[[Mapping[str, Tensor], str], list[int]]
    prior: Mapping[str, Any]
    config: Mapping[str, Any]
    subjects: Callable[[Mapping[str, Tensor]], list[str]] | None = None


FORMATS: dict[str, CheckpointFormat] = {
    "mindeye": CheckpointFormat(
        split=mindeye.mindeye_parts,
        parameters=mindeye.mindeye_parameters,
        voxels=mindeye.mindeye_voxels,
        prior={},
        config={"target": {"name": "clip-vit-l14-vd"}, "roi": "nsdgeneral", "scaling": "session-zscore"},
    ),
    "mindeye-low-level": CheckpointFormat(
        split=mindeye.low_level_parts,
        parameters=mindeye.low_level_parameters,
        voxels=mindeye.mindeye_voxels,
        prior={},
        config={"target": {"name": "sd-vae-512"}, "roi": "nsdgeneral", "scaling": "session-zscore"},
    ),
    "mindeye2": CheckpointFormat(
        split=mindeye.mindeye2_parts,
        parameters=mindeye.mindeye2_parameters,
        voxels=mindeye.mindeye2_voxels,
        prior={"embed_scale": 1.0},
        config={"target": {"name": "openclip-bigg-14"}, "roi": "nsdgeneral", "scaling": "session-zscore"},
    ),
    "mindbridge": CheckpointFormat(
        split=mindbridge.mindbridge_parts,
        parameters=mindbridge.mindbridge_parameters,
        voxels=mindbridge.mindbridge_voxels,
        prior={},
        config={"target": {"name": "clip-vit-l14-vd"}, "roi": "nsdgeneral", "scaling": "session-zscore"},
        subjects=mindbridge.mindbridge_subjects,
    ),
}
"""Kind of brain network -> its published form."""


@dataclass(frozen=True, kw_only=True)
class Converted:
    """Parts of a weights folder, and what its ``config.json`` says of them."""

    parts: dict[str, Tensors]
    config: dict[str, Any]


def brain_parts(
    tensors: Mapping[str, Tensor], kind: str, given: Mapping[str, Any], *, name: str, notes: list[str]
) -> Converted:
    """Turn the tensors of a published file into parts that fit our modules.

    Parameters
    ----------
    tensors : mapping of str to Tensor
        As in the file.
    kind : str
        One of `FORMATS`.
    given : mapping
        Parameters of the network that have the last word; ``subjects`` (labels in order) and ``prior`` (a mapping) apart.
    name : str
        Of the file, for messages.
    notes : list of str
        Gets sentences for the log.

    Raises
    ------
    WeightsError, SeveralErrors
        ``CHI-WT-005`` tensors that do not fit, ``CHI-WT-052`` to ``CHI-WT-055``; of several parts, all.
    """
    form = FORMATS[kind]
    parts = form.split(tensors)
    if "model" not in parts:
        raise WeightsError(
            "CHI-WT-054",
            f"no tensor in it belongs to a network of kind '{kind}'.",
            f"Check the kind; known are {', '.join(FORMATS)}.",
            file=name,
        )
    left = len(tensors) - sum(len(part) for part in parts.values())
    if left > 0:
        notes.append(f"{name}: {left} tensors are not part of the network and were left out.")
    config: dict[str, Any] = {**form.config, "prior": None}
    if "prior" in parts:
        config["prior"] = prior_parameters(parts["prior"], {**form.prior, **given.get("prior", {})}, name)
    hints = {"width": (config["prior"] or {}).get("dim"), **given}
    found = form.parameters(parts["model"], hints, name)
    config["parameters"] = {**found, **{key: value for key, value in given.items() if key not in {"subjects", "prior"}}}
    own = form.subjects(parts["model"]) if form.subjects else None
    config["n_voxels"] = _subjects(form.voxels(parts["model"], name), given.get("subjects") or own, name)
    if own is not None:
        labels = dict(zip(own, config["n_voxels"], strict=True))
        parts = {**parts, "model": mindbridge.with_subjects(parts["model"], labels)}
    parts = _fitted(parts, kind, config, name)
    return Converted(parts=parts, config=config)


def _subjects(voxels: list[int], labels: Any, name: str) -> dict[str, int]:
    if labels is None:
        known = [mindeye.SUBJECT_OF_VOXELS.get(count, "") for count in voxels]
        labels = (
            known if all(known) and len(set(known)) == len(known) else [f"subject{i + 1}" for i in range(len(voxels))]
        )
    if len(labels) != len(voxels) or len(set(labels)) != len(labels):
        raise WeightsError(
            "CHI-WT-055",
            f"{len(labels)} subjects are named ({', '.join(map(str, labels))[:200]}) and the file has layers of {len(voxels)}.",
            "Name each once, in the order of training.",
            file=name,
        )
    return dict(zip(map(str, labels), voxels, strict=True))


def _fitted(parts: dict[str, Tensors], kind: str, config: Mapping[str, Any], name: str) -> dict[str, Tensors]:
    """Compare every part with the module that it is for; of a prior, the noise schedule is our own."""
    errors: list[WeightsError] = []
    with torch.device("meta"):  # shapes only: MindEye2 has two billion parameters
        wanted = {"model": build_brain(kind, config["parameters"], config["n_voxels"]).state_dict()}
        if "prior" in parts:
            wanted["prior"] = build_prior(config["prior"]).state_dict()
    if "prior" in parts:
        parts = {**parts, "prior": with_own_schedule(parts["prior"], config["prior"])}
    for part, tensors in parts.items():
        try:
            check_fit(wanted[part], tensors, f"{name}, {part}" if len(parts) > 1 else name)
        except WeightsError as error:
            errors.append(error)
    if errors:
        raise errors[0] if len(errors) == 1 else SeveralErrors(errors)
    return {part: {key: tensors[key] for key in wanted[part] if key in tensors} for part, tensors in parts.items()}
