"""Read the header of a safetensors file; every number in it is checked against the bytes that are there."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from ...data.errors import WeightsError

MAX_HEADER_BYTES = 32 * 1024 * 1024
ITEM_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "I16": 2, "U16": 2, "F16": 2, "BF16": 2,
    "I32": 4, "U32": 4, "F32": 4, "I64": 8, "U64": 8, "F64": 8,
}  # fmt: skip


@dataclass(frozen=True)
class TensorEntry:
    """One tensor as the header declares it: type, shape and where its bytes are, counted from the end of the header."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


def read_header(path: Path) -> dict[str, TensorEntry]:
    """Read and check the header of a safetensors file.

    Returns
    -------
    dict of str to TensorEntry
        In the order of the header.

    Raises
    ------
    WeightsError
        ``CHI-WT-004``: too short, a header longer than the file, not JSON, an unknown type, a shape that does not agree
        with its bytes, tensors that overlap or leave gaps, bytes missing or left over.
    """
    with path.open("rb") as stream:
        size = stream.seek(0, 2)
        stream.seek(0)
        prefix = stream.read(8)
        length = int.from_bytes(prefix, "little") if len(prefix) == 8 else -1
        if not 2 <= length <= min(size - 8, MAX_HEADER_BYTES):
            raise _damaged(path, f"its header claims {length} bytes and the file has {size}")
        raw = stream.read(length)
    try:
        header = json.loads(raw.decode("utf-8"), object_pairs_hook=_without_repeats)
    except (ValueError, RecursionError):
        raise _damaged(path, "its header is not valid JSON, or repeats a name") from None
    if not isinstance(header, dict):
        raise _damaged(path, "its header is not a JSON object")
    entries = {name: _entry(path, name, value) for name, value in header.items() if name != "__metadata__"}
    end = 0
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].start, item[1].stop)):
        if entry.start != end:
            raise _damaged(path, f"tensor '{name[:200]}' overlaps another one or leaves a gap before it")
        end = entry.stop
    if end != size - 8 - length:
        raise _damaged(path, f"its tensors need {end} bytes and {size - 8 - length} are there")
    return entries


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name is repeated")
    return found


def _entry(path: Path, name: str, value: Any) -> TensorEntry:
    fields = value if isinstance(value, dict) else {}
    dtype, shape, offsets = fields.get("dtype"), fields.get("shape"), fields.get("data_offsets")
    if not isinstance(dtype, str) or dtype not in ITEM_BYTES:
        raise _damaged(path, f"tensor '{name[:200]}' has no known dtype")
    if not (_are_counts(shape) and _are_counts(offsets) and len(offsets) == 2):
        raise _damaged(path, f"tensor '{name[:200]}' has no valid shape and data_offsets")
    start, stop = offsets
    if stop - start != math.prod(shape) * ITEM_BYTES[dtype]:
        raise _damaged(path, f"tensor '{name[:200]}' does not have as many bytes as its shape and type need")
    return TensorEntry(dtype, tuple(shape), start, stop)


def _are_counts(value: Any) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(type(item) is int and 0 <= item < 2**48 for item in value)


def _damaged(path: Path, why: str) -> WeightsError:
    return WeightsError(
        "CHI-WT-004",
        f"not a whole safetensors file: {why}.",
        "Fetch or convert the weights again; `chiasm weights verify` checks them.",
        file=f"{path.parent.name}/{path.name}",
    )
