"""The network over sliding windows, batched across the patients that wait."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Literal

import torch
from torch import Tensor

from ...heads.segmenter import Blend, Triple, WindowGrid, importance
from ..engine.plan import Plan
from ..engine.stage import BatchedStage, BatchJob, Context
from ..recipes import WindowsSpec
from .items import Logits, Prepared

ON_DEVICE_BYTES = 4 << 30
"""Sums larger than this stay in main memory: decided from the shape alone, so that a rerun decides the same."""
SIDE_MULTIPLE = 32
"""Shrunk windows keep sides that a network with five halvings takes."""


def window_size(size: Sequence[int], scale: float) -> Triple:
    """Return the sides of a window, shrunk by the plan's scale to a multiple of 32."""
    x, y, z = (n if scale == 1 else min(n, -(-int(n * scale) // SIDE_MULTIPLE) * SIDE_MULTIPLE) for n in size)
    return x, y, z


@cache
def _importance(size: Triple, blend: Literal["gaussian", "constant"], device: str) -> Tensor:
    return importance(size, blend, device)


class WindowsJob(BatchJob):
    """The windows of one patient."""

    def __init__(self, item: Prepared, spec: WindowsSpec, plan: Plan, *, n_outputs: int, normalised: bool) -> None:
        x, y, z = item.image.shape[1:]
        self.grid = WindowGrid((x, y, z), window_size(spec.size, plan.window_scale), spec.overlap)
        self.n_units = len(self.grid)
        self._item, self._normalised = item, normalised
        self._image = _to_device(self.grid.pad(item.image), plan.device)
        n_bytes = 4 * n_outputs * self._image[0].numel()
        on = plan.device if n_bytes <= ON_DEVICE_BYTES else "cpu"
        self._blend = Blend(self.grid, _importance(self.grid.size, spec.blend, on), on)

    def unit(self, index: int) -> Tensor:
        """Return the view of window `index`, shape (C, *size)."""
        return self._image[(slice(None), *self.grid.window(index))]

    def accept(self, index: int, result: Tensor) -> None:
        """Blend the logits (K, *size) of window `index` into the sum."""
        self._blend.add(index, result)

    def finish(self) -> Logits:
        """Return the blended logits."""
        values = self._blend.result(normalised=self._normalised)
        return Logits(values=values, case=self._item.case, space=self._item.space)


class Windows(BatchedStage):
    """Run the network over sliding windows.

    Parameters
    ----------
    spec : WindowsSpec
        Size, overlap and blending.
    n_outputs : int
        Channels of the network's answer.
    probabilities : bool
        Whether probability maps are asked for; then the logits must be true means.
    """

    name = "windows"
    consumes = Prepared
    produces = Logits

    def __init__(self, spec: WindowsSpec, *, n_outputs: int, probabilities: bool = False) -> None:
        self.spec, self.n_outputs, self.probabilities = spec, n_outputs, probabilities
        self.needs = ("network",)

    def open(self, item: Prepared, context: Context) -> WindowsJob:
        """Cut one patient into windows."""
        if context.plan.window_scale != 1:
            context.flags.append(
                "windows were made smaller to fit into memory: the labels may differ slightly from those of full windows"
            )
        # Neither an argmax nor a sign needs the division by the summed weights; an interpolation does.
        normalised = self.probabilities or not item.space.resampling.is_identity
        return WindowsJob(item, self.spec, context.plan, n_outputs=self.n_outputs, normalised=normalised)

    def forward(self, batch: Tensor, context: Context) -> Tensor:
        """Map windows (B, C, *size) to logits (B, K, *size)."""
        network = context.components["network"]
        device_type = torch.device(context.plan.device).type
        if device_type == "cuda":
            batch = batch.contiguous(memory_format=torch.channels_last_3d)
        half = context.plan.precision == "bfloat16"
        with torch.inference_mode(), torch.autocast(device_type, dtype=torch.bfloat16, enabled=half):
            answer = network(batch)
        # Networks with deep supervision also answer at lower resolutions.
        first: Tensor = answer[0] if isinstance(answer, (list, tuple)) else answer
        return first.float()

    def predict_bytes(self, n_voxels: int) -> int:
        """Image, first channel and sum in float32; the activations of a window are the worker's (`engine.footprint`)."""
        return 4 * n_voxels * (self.n_outputs + 2)


def _to_device(image: Tensor, device: str) -> Tensor:
    if torch.device(device).type != "cuda":
        return image.to(device)
    # Pinned memory makes the copy asynchronous: it overlaps with the windows of the patient before.
    return image.pin_memory().to(device, non_blocking=True)
