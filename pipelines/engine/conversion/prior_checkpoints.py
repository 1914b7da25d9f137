"""The diffusion prior in published checkpoints: its names, its sizes, and its noise schedule, computed again and compared."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar, get_args

import torch
from torch import Tensor

from ....data.errors import WeightsError
from .shapes import Shapes

CODES = {
    "CHI-WT-053": "The noise schedule in a checkpoint is none that the prior knows.",
}

Value = TypeVar("Value")
SCHEDULE = "noise_scheduler."
NETWORK = "net."
_BARE = ("causal_transformer.", "to_time_embeds.", "learned_query", "null_brain_embeds", "null_image_embed")
_TOLERANCE = 1e-4


def prior_names(state: Mapping[str, Value]) -> dict[str, Value]:
    """Return the tensors of a prior, under the names of `DiffusionPrior`; those of its network may stand alone."""
    named = {f"{NETWORK}{key}" if key.startswith(_BARE) else key: value for key, value in state.items()}
    return {key: value for key, value in named.items() if key.startswith((NETWORK, SCHEDULE))}


def prior_parameters(tensors: Mapping[str, Tensor], given: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Read the prior's sizes and switches from its tensors.

    Parameters
    ----------
    tensors : mapping of str to Tensor
        From `prior_names`.
    given : mapping
        What shapes do not show (``embed_scale``, ``causal``); it has the last word.
    name : str
        Of the file.

    Returns
    -------
    dict
        Fields of `PriorNetworkConfig` and `DiffusionPriorConfig`.

    Raises
    ------
    WeightsError
        ``CHI-WT-052``, ``CHI-WT-053``.
    """
    shapes = Shapes(tensors, name)
    layer = "net.causal_transformer.layers"
    tokens, dim = shapes.size("net.null_brain_embeds"), shapes.size("net.null_brain_embeds", 1)
    dim_head = shapes.size(f"{layer}.0.0.null_kv", 1)
    inner = shapes.size(f"{layer}.0.1.5.weight", 1)
    found: dict[str, Any] = {
        "dim": dim,
        "num_tokens": tokens,
        "depth": shapes.count(r"^net\.causal_transformer\.layers\.(\d+)\."),
        "heads": shapes.size(f"{layer}.0.0.to_q.weight") // max(dim_head, 1),
        "dim_head": dim_head,
        "ff_mult": inner // max(dim, 1),
        "rotary_emb": f"{layer}.0.0.rotary_emb.freqs" in shapes,
        "norm_in": "net.causal_transformer.init_norm.g" in shapes,
        "norm_out": "net.causal_transformer.norm.g" in shapes,
        "final_proj": "net.causal_transformer.project_out.weight" in shapes,
        "normformer": f"{layer}.0.1.3.g" in shapes,
        **_time(shapes, max(dim, 1)),
        "learned_query_mode": _query_mode(shapes, tokens),
    }
    shapes.check()
    return {**found, **_schedule(tensors, name), **given}


def with_own_schedule(tensors: Mapping[str, Tensor], parameters: Mapping[str, Any]) -> dict[str, Tensor]:
    """Put the tables of our own schedule in the place of the file's, which `prior_parameters` compared with them."""
    from ....heads.diffusion_prior import DiffusionPriorConfig
    from ....heads.noise_schedule import NoiseSchedule

    schedule = parameters.get("schedule", DiffusionPriorConfig.schedule)
    tables = NoiseSchedule(schedule, parameters.get("timesteps", DiffusionPriorConfig.timesteps)).state_dict()
    network = {key: value for key, value in tensors.items() if key.startswith(NETWORK)}
    return network | {f"{SCHEDULE}{key}": value for key, value in tables.items()}


def _time(shapes: Shapes, dim: int) -> dict[str, int | None]:
    table = "net.to_time_embeds.0.weight"
    if table in shapes:
        return {"num_timesteps": shapes.size(table), "num_time_embeds": shapes.size(table, 1) // dim}
    return {"num_timesteps": None, "num_time_embeds": shapes.size("net.to_time_embeds.0.1.net.2.bias") // dim}


def _query_mode(shapes: Shapes, tokens: int) -> str:
    if "net.learned_query" not in shapes:
        return "none"
    # 'token' has the same shape as 'pos_emb', which all published checkpoints have
    return "pos_emb" if shapes.size("net.learned_query") == tokens else "all_pos_emb"


def _schedule(tensors: Mapping[str, Tensor], name: str) -> dict[str, Any]:
    from ....heads.noise_schedule import NoiseSchedule, ScheduleName

    published = {key.removeprefix(SCHEDULE): value for key, value in tensors.items() if key.startswith(SCHEDULE)}
    if "betas" not in published:
        return {}  # a network alone: the published settings are the defaults
    steps = len(published["betas"])
    for schedule in get_args(ScheduleName):
        own = NoiseSchedule(schedule, steps).state_dict()
        if all(_same(own[key], value) for key, value in published.items() if key in own):
            return {"timesteps": steps, "schedule": schedule}
    raise WeightsError(
        "CHI-WT-053",
        f"the tables of its noise schedule ({steps} steps) are none of: {', '.join(get_args(ScheduleName))}.",
        "The file is damaged, or its prior was trained with a schedule of its own.",
        file=name,
    )


def _same(own: Tensor, published: Tensor) -> bool:
    return own.shape == published.shape and bool(
        torch.isclose(own, published.float(), rtol=_TOLERANCE, atol=_TOLERANCE * 1e-2).all()
    )
