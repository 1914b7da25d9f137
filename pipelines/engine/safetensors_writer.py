"""Write safetensors one tensor at a time: the library's own writer holds two more copies of everything in memory.

The bytes are those of ``safetensors.torch.save``: tensors by size of type, largest first, then by name.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...data.atomic import atomic_path
from .safetensors_header import ITEM_BYTES

TYPES = {
    torch.bool: "BOOL", torch.uint8: "U8", torch.int8: "I8", torch.int16: "I16", torch.uint16: "U16", torch.float16: "F16",
    torch.bfloat16: "BF16", torch.int32: "I32", torch.uint32: "U32", torch.float32: "F32", torch.float64: "F64",
    torch.int64: "I64", torch.uint64: "U64",
}  # fmt: skip
"""In the order of the format's own list of types, which decides the order in a file."""
_RANK = {name: rank for rank, name in enumerate(TYPES.values())}


def write_safetensors(path: Path, tensors: Mapping[str, Tensor], *, half: bool = False) -> None:
    """Write tensors, atomically.

    Parameters
    ----------
    path : Path
    tensors : mapping of str to Tensor
        On any device; of the types in `TYPES`.
    half : bool
        Whether floating-point tensors are stored as float16.

    Raises
    ------
    ResourceError
        As `atomic_path`.
    """
    types = {
        name: "F16" if half and tensor.is_floating_point() else TYPES[tensor.dtype] for name, tensor in tensors.items()
    }
    order = sorted(tensors, key=lambda name: (-_RANK[types[name]], name))
    header: dict[str, Any] = {}
    end = 0
    for name in order:
        shape = list(tensors[name].shape)
        n_bytes = math.prod(shape) * ITEM_BYTES[types[name]]
        header[name] = {"dtype": types[name], "shape": shape, "data_offsets": [end, end + n_bytes]}
        end += n_bytes
    raw = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    raw += b" " * (-len(raw) % 8)
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        stream.write(len(raw).to_bytes(8, "little") + raw)
        for name in order:
            tensor = tensors[name].detach()
            stored = tensor.half() if types[name] == "F16" else tensor
            stream.write(stored.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
