"""Tensors from safetensors files into networks, and from networks into weights folders."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ...data.atomic import write_text
from ...data.errors import WeightsError
from .safetensors_header import read_header
from .safetensors_writer import write_safetensors
from .weights import MODEL_FILE, sha256_of

CONSTANT_BUFFERS = ("relative_position_index", "num_batches_tracked")
"""Ends of names that a network computes itself: files may hold them or not."""

SHOWN = 12


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file; half-precision tensors become float32.

    Raises
    ------
    WeightsError
        ``CHI-WT-004`` where header and bytes do not agree.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    read_header(path)
    try:
        tensors = load_file(path)
    except SafetensorError:
        raise WeightsError(
            "CHI-WT-004",
            "not a whole safetensors file.",
            "Fetch or convert the weights again.",
            file=f"{path.parent.name}/{path.name}",
        ) from None
    return {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}


def fill(network: nn.Module, tensors: Mapping[str, Tensor], name: str) -> None:
    """Copy tensors into a network, all or nothing.

    Parameters
    ----------
    network : nn.Module
    tensors : mapping of str to Tensor
    name : str
        Of the weights, for the message.

    Raises
    ------
    WeightsError
        ``CHI-WT-005``, with every name that is missing, unknown or has another shape.
    """
    wanted = network.state_dict()
    check_fit(wanted, tensors, name)
    network.load_state_dict({key: tensors[key] for key in wanted if key in tensors}, strict=False)


def check_fit(wanted: Mapping[str, Tensor], tensors: Mapping[str, Tensor], name: str) -> None:
    """Compare tensors with those that a network wants.

    Raises
    ------
    WeightsError
        ``CHI-WT-005``, listing what is wrong (the first dozen, and how many more).
    """
    wrong = mismatches(wanted, tensors)
    if wrong:
        shown = "; ".join(wrong[:SHOWN]) + (f"; and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else "")
        raise WeightsError(
            "CHI-WT-005",
            f"'{name}' does not fit the network: {shown}.",
            "Check the kind and the parameters of the network, or convert the authors' file again.",
        )


def mismatches(wanted: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> list[str]:
    """List in words every tensor that is missing, unknown or of another shape; constant buffers may be absent."""
    wrong = [f"{key} is missing" for key in wanted if key not in tensors and not key.endswith(CONSTANT_BUFFERS)]
    for key, tensor in tensors.items():
        if key not in wanted:
            if not key.endswith(CONSTANT_BUFFERS):
                wrong.append(f"{key} is not part of the network")
        elif tensor.shape != wanted[key].shape:
            wrong.append(f"{key} has shape {tuple(tensor.shape)}, the network needs {tuple(wanted[key].shape)}")
    return wrong


def write_folder(
    folder: Path,
    parts: Mapping[str, Mapping[str, Tensor]],
    config: Mapping[str, Any],
    card: str,
    *,
    half: bool = False,
) -> Path:
    """Write a weights folder; ``config.json``, which makes it complete, comes last.

    Parameters
    ----------
    folder : Path
        Made where missing; files of the same names are replaced.
    parts : mapping of str to (mapping of str to Tensor)
        ``{"model": state_dict}`` for most; each part becomes a file.
    config : mapping
        As in the `weights` module; ``files`` and ``sha256`` are added here.
    card : str
        The model card, Markdown.
    half : bool
        Whether floating-point tensors are stored as float16.
    """
    files = {part: MODEL_FILE if part == "model" else f"{part}.safetensors" for part in parts}
    hashes = {}
    for part, tensors in parts.items():
        write_safetensors(folder / files[part], tensors, half=half)
        hashes[files[part]] = sha256_of(folder / files[part])
    write_text(folder / "README.md", card)
    whole = {**config, "sha256": hashes, **({} if set(parts) == {"model"} else {"files": files})}
    write_text(folder / "config.json", json.dumps(whole, indent=2, ensure_ascii=False) + "\n")
    return folder
