"""MindBridge's published checkpoints: subjects under their NSD number, and the network's sizes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, TypeVar

from torch import Tensor

from .keys import without_wrapper_parts
from .mindeye_checkpoints import SUBJECT_OF_VOXELS
from .shapes import Shapes

Value = TypeVar("Value")

_PARTS = ("embedder.", "builder.", "translator.", "head_image.", "head_text.")
_SUBJECT = re.compile(r"^(embedder|builder)\.([^.]+)\.")
_POOLED, _TOKEN_WIDTH = 8192, 768
_VOXELS = {label: voxels for voxels, label in SUBJECT_OF_VOXELS.items()}


def mindbridge_parts(state: Mapping[str, Value]) -> dict[str, dict[str, Value]]:
    """Take the network from a checkpoint; ``embedder.1.*`` becomes ``embedder.subj01.*``."""
    names = without_wrapper_parts(state)
    labels = {number: f"subj{int(number):02d}" if number.isdigit() else number for number in _labels(names)}
    model = with_subjects({key: value for key, value in names.items() if key.startswith(_PARTS)}, labels)
    return {"model": model} if model else {}


def with_subjects(state: Mapping[str, Value], labels: Mapping[str, str]) -> dict[str, Value]:
    """Give subjects other labels (old -> new) in the names of tensors."""
    return {_SUBJECT.sub(lambda m: f"{m[1]}.{labels.get(m[2], m[2])}.", key): value for key, value in state.items()}


def mindbridge_subjects(tensors: Mapping[str, Tensor]) -> list[str]:
    """Return the labels of the subjects, sorted: the order in a file says nothing."""
    return sorted(_labels(tensors))


def mindbridge_parameters(tensors: Mapping[str, Tensor], hints: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Read the sizes of a `MindBridgeNetwork`; `hints` may have widths of tokens (768 where it divides the heads' outputs)."""
    shapes = Shapes(tensors, name)
    first = f"embedder.{next(iter(mindbridge_subjects(tensors)), '1')}"
    tokens, width = _tokens(shapes.size("head_image.weight"), hints.get("width"))
    found: dict[str, Any] = {
        "in_dim": shapes.size(f"{first}.1.weight", 1),
        "hidden": shapes.size(f"{first}.1.weight"),
        "n_blocks": shapes.count(r"^translator\.mlp\.(\d+)\."),
        "bottleneck": shapes.size(f"{first}.0.down_proj.weight"),
        "tokens": tokens,
        "width": width,
        "builders": any(key.startswith("builder.") for key in tensors),
    }
    if "head_text.weight" in shapes:
        text_tokens, text_width = _tokens(shapes.size("head_text.weight"), hints.get("text_width"))
        found |= {"text_tokens": text_tokens, "text_width": text_width}
    shapes.check()
    return found


def mindbridge_voxels(tensors: Mapping[str, Tensor], name: str) -> list[int]:
    """Return each subject's voxels: NSD's for published sizes, else the common length, which is all that shapes show."""
    shapes = Shapes(tensors, name)
    labels = mindbridge_subjects(tensors)
    lengths = [shapes.size(f"embedder.{label}.1.weight", 1) for label in labels]
    shapes.check()
    return [
        _VOXELS.get(label, length) if length == _POOLED else length
        for label, length in zip(labels, lengths, strict=True)
    ]


def _labels(names: Mapping[str, Any]) -> list[str]:
    found = (match[2] for key in names if (match := _SUBJECT.match(key)) and match[1] == "embedder")
    return list(dict.fromkeys(found))


def _tokens(out: int, width: Any) -> tuple[int, int]:
    if width is None:
        width = _TOKEN_WIDTH if out % _TOKEN_WIDTH == 0 else out
    return out // max(int(width), 1), int(width)
