"""How many bytes a network holds at once during a forward pass, found without computing anything."""

from __future__ import annotations

import json
import weakref
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from ..recipes import Recipe
from .plan import Plan

WORKSPACE = 1.3
"""Convolutions reorder their input and output into blocked layouts: measured peak over the tensors' own sum (docs/reliability.md)."""


class _FusedAttention(TorchFunctionMode):
    """On a real device attention is fused and never holds the matrix of weights; on ``meta`` it would be spelled out."""

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.nn.functional.scaled_dot_product_attention:
            query, _, value = args[:3]
            return query.new_empty((*query.shape[:-1], value.shape[-1]))
        return func(*args, **(kwargs or {}))


class _LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up the storages that are alive and remembers the most there were."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else (result,):
            if isinstance(tensor, Tensor):
                self._note(tensor)
        return result

    def _note(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._known:
            return
        n_bytes = storage.nbytes()
        self._known.add(key)
        self.now += n_bytes
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._gone, key, n_bytes)

    def _gone(self, key: int, n_bytes: int) -> None:
        self._known.discard(key)
        self.now -= n_bytes


def forward_bytes(network: nn.Module, shape: tuple[int, ...]) -> int:
    """Return the peak bytes of activations of one forward pass in inference.

    Parameters
    ----------
    network : Module
        On the ``meta`` device.
    shape : tuple of int
        Of the batch, (B, C, X, Y, Z).
    """
    counter = _LiveBytes()
    with torch.inference_mode(False), torch.no_grad():
        batch = torch.empty(shape, device="meta")
        with _FusedAttention(), counter:
            network(batch)
    return int(WORKSPACE * (counter.peak + batch.untyped_storage().nbytes()))


@cache
def network_bytes(kind: str, parameters: str, channels: int, size: tuple[int, int, int], batch_size: int) -> int:
    """Return `forward_bytes` of a recipe's network; `parameters` is its JSON, so that the answer can be remembered."""
    from .components import build_network

    # Built on the CPU first: some constructors read numbers out of tensors, which meta tensors do not have.
    network = build_network(kind, json.loads(parameters)).eval().to("meta")
    return forward_bytes(network, (batch_size, channels, *size))


def plan_bytes(recipe: Recipe, plan: Plan) -> int:
    """Return what a recipe's network holds during a forward pass of the plan's batch, whatever the patient."""
    from ..stages.windows import window_size

    spec = recipe.components["network"]
    size = window_size(recipe.windows.size, plan.window_scale)
    n_channels = sum(name != "mask" for name in recipe.channels)
    return network_bytes(spec.kind, json.dumps(spec.parameters, sort_keys=True), n_channels, size, plan.batch_size)
