"""From the tree that a checkpoint describes to named tensors, each checked against its storage's bytes."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ....data.errors import WeightsError
from ..safetensors_header import ITEM_BYTES
from .archives import Archive, damaged
from .unpickler import Inert, NumpyArray, StorageRef, TensorRecord

CODES = {
    "CHI-WT-012": "The checkpoint holds no tensors by name.",
}

WRAPPERS = ("state_dict", "model_state_dict", "model_state", "model", "network", "network_weights", "net")
"""Keys under which training scripts put the network beside epoch, scores and optimiser."""
MODULE_DICTS = ("_parameters", "_buffers", "_modules")
MAX_DEPTH = 64
MAX_TENSORS = 100_000
MAX_DIMENSIONS = 8
MAX_GROWTH = 4
"""Tensors may share storages; the file that is written may still not be larger than this times the one that was read."""


def named_tensors(tree: Any) -> dict[str, TensorRecord]:
    """Find the network's tensors in a checkpoint and name them by their path, as a state dict does.

    Raises
    ------
    WeightsError
        ``CHI-WT-012`` where there are none.
    """
    found: dict[str, TensorRecord] = {}
    for name, record in _walk(_unwrapped(tree), "", 0):
        found[name] = record
        if len(found) > MAX_TENSORS:
            raise damaged(f"more than {MAX_TENSORS} tensors")
    if not found:
        raise WeightsError(
            "CHI-WT-012", "the checkpoint holds no tensors by name.", "Give the file with the network's state dict."
        )
    return found


def write_raw(archive: Archive, records: Mapping[str, TensorRecord], path: Path) -> None:
    """Write named tensors as safetensors, one in memory at a time.

    Raises
    ------
    WeightsError
        ``CHI-WT-011`` where a tensor reaches outside its storage.
    """
    header: dict[str, Any] = {}
    end = 0
    for name, record in records.items():
        dtype, shape = _checked(name, record)
        n_bytes = math.prod(shape) * ITEM_BYTES[dtype]
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [end, end + n_bytes]}
        end += n_bytes
    if end > MAX_GROWTH * archive.size:
        raise damaged("its tensors are larger than the file")
    raw = json.dumps(header, separators=(",", ":")).encode()
    raw += b" " * (-len(raw) % 8)
    with path.open("wb") as stream:
        stream.write(len(raw).to_bytes(8, "little") + raw)
        for name, record in records.items():
            stream.write(_bytes(archive, name, record))


def _unwrapped(tree: Any) -> Any:
    for _ in range(4):
        if not isinstance(tree, dict) or any(isinstance(value, TensorRecord) for value in tree.values()):
            return tree
        inner = next((key for key in WRAPPERS if isinstance(tree.get(key), dict | Inert)), None)
        if inner is None:
            return tree
        tree = tree[inner]
    return tree


def _walk(node: Any, path: str, depth: int) -> Iterator[tuple[str, TensorRecord]]:
    """Yield tensors below `node`; placeholders of modules (whole models, TorchScript) are seen through."""
    if depth > MAX_DEPTH:
        raise damaged("it is nested deeper than any checkpoint")
    if isinstance(node, NumpyArray):
        node = node.record()
    if isinstance(node, TensorRecord):
        yield path, node
        return
    children = node.state if isinstance(node, Inert) else node
    if isinstance(node, Inert) and isinstance(children, tuple) and children:
        children = children[0]
    if not isinstance(children, dict):
        return
    for key, value in children.items():
        if not isinstance(key, str):
            continue
        through = isinstance(node, Inert) and key in MODULE_DICTS
        yield from _walk(value, path if through else f"{path}.{key}" if path else key, depth + 1)


def _checked(name: str, record: TensorRecord) -> tuple[str, tuple[int, ...]]:
    """Return type and shape after checking that every item lies inside the storage."""
    counts = [record.offset, *_counts(record.shape), *_counts(record.stride)]
    shape, stride = _counts(record.shape), _counts(record.stride)
    if not all(type(count) is int and 0 <= count < 2**48 for count in counts) or len(shape) != len(stride):
        raise damaged(f"tensor '{name[:120]}' has no valid shape")
    if len(shape) > MAX_DIMENSIONS:
        raise damaged(f"tensor '{name[:120]}' has {len(shape)} dimensions")
    if isinstance(record.storage, StorageRef):
        dtype, numel = record.storage.dtype, record.storage.numel
    elif isinstance(record.storage, bytes) and record.dtype in ITEM_BYTES:
        dtype = str(record.dtype)
        numel = len(record.storage) // ITEM_BYTES[dtype]
    else:
        raise damaged(f"tensor '{name[:120]}' has no storage")
    last = record.offset + sum((side - 1) * step for side, step in zip(shape, stride, strict=True))
    size = math.prod(shape)
    if size and (last >= numel or size > numel):
        raise damaged(f"tensor '{name[:120]}' reaches outside its storage")
    return dtype, shape


def _counts(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, tuple | list) else (-1,)


def _bytes(archive: Archive, name: str, record: TensorRecord) -> bytes:
    dtype, shape = _checked(name, record)
    if not math.prod(shape):
        return b""
    raw = record.storage if isinstance(record.storage, bytes) else archive.read(record.storage)
    width = ITEM_BYTES[dtype]
    items = np.frombuffer(raw, np.dtype(f"V{width}"))[record.offset :]
    strides = tuple(step * width for step in record.stride)
    return np.lib.stride_tricks.as_strided(items, shape, strides, writeable=False).tobytes()
