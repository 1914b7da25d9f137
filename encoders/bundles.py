"""Read a MONAI bundle as data: the network's name and plain parameters, and its channels. Nothing in it is ever run.

A bundle's configuration is a program (``$`` marks Python, ``_target_`` any callable). Only the block that describes the
network is read; where it needs a program to be understood, the bundle is refused.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..data.errors import RecipeError, did_you_mean
from .monai_networks import ALLOWED, check_plain

CODES = {
    "CHI-RC-065": "The folder is not a MONAI bundle, or its files are not readable JSON.",
    "CHI-RC-066": "The bundle's network block needs code to be run, which is never done.",
    "CHI-RC-067": "The bundle names a network that is not on the list.",
}

CONFIGS = ("inference.json", "train.json", "evaluate.json")
BLOCKS = ("network_def", "network", "model")
TARGET_PREFIXES = ("monai.networks.nets.", "monai.networks.nets.swin_unetr.", "monai.networks.nets.unet.", "")
MAX_CONFIG_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True)
class Bundle:
    """What a bundle says about its network.

    Parameters
    ----------
    parameters : dict
        ``network`` and its parameters, as `monai_networks.build` takes them.
    channels, output : tuple of str
        Input channels and output classes in order, where ``metadata.json`` names them.
    checkpoint : Path or None
        ``models/model.pt``, to be read by the conversion only.
    """

    parameters: dict[str, Any]
    channels: tuple[str, ...] = ()
    output: tuple[str, ...] = ()
    checkpoint: Path | None = None


def read_bundle(folder: Path) -> Bundle:
    """Read a bundle folder.

    Raises
    ------
    RecipeError
        ``CHI-RC-065`` no or unreadable configuration, ``CHI-RC-066`` expressions (all are named), ``CHI-RC-067`` a
        network that is not allowed.
    """
    config_path = next((path for name in CONFIGS if (path := folder / "configs" / name).is_file()), None)
    if config_path is None:
        raise RecipeError(
            "CHI-RC-065",
            f"no configs/{CONFIGS[0]} or configs/{CONFIGS[1]} in the folder.",
            "Give the bundle's own folder.",
        )
    config = _read(config_path)
    name = next((name for name in BLOCKS if isinstance(config.get(name), dict)), None)
    if name is None:
        raise RecipeError(
            "CHI-RC-065",
            f"{config_path.name} has no network block ({', '.join(BLOCKS)}).",
            "Describe it in a recipe instead.",
        )
    block = dict(config[name])
    target = block.pop("_target_", None)
    block.pop("_desc_", None)
    wrong = [fault for key, value in block.items() for fault in check_plain(_resolved(value, config), key)]
    if wrong:
        raise RecipeError(
            "CHI-RC-066",
            f"the network block of {config_path.name} would have to be run: {'; '.join(wrong)}.",
            "Write the network and its parameters into a recipe of kind 'monai'.",
        )
    parameters = {"network": _network_name(target), **{key: _resolved(value, config) for key, value in block.items()}}
    metadata_path = folder / "configs" / "metadata.json"
    metadata = _read(metadata_path) if metadata_path.is_file() else {}
    checkpoint = folder / "models" / "model.pt"
    return Bundle(
        parameters=parameters,
        channels=_channels(metadata, "inputs"),
        output=_channels(metadata, "outputs"),
        checkpoint=checkpoint if checkpoint.is_file() else None,
    )


def _read(path: Path) -> dict[str, Any]:
    if path.stat().st_size > MAX_CONFIG_BYTES:
        raise RecipeError(
            "CHI-RC-065",
            f"{path.name} is larger than {MAX_CONFIG_BYTES} bytes.",
            "This is not a bundle's configuration.",
        )
    try:
        value = json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise RecipeError(
            "CHI-RC-065", f"{path.name} is not a JSON object.", "Bundles with YAML configuration: save it as JSON."
        )
    return value


def _resolved(value: Any, config: Mapping[str, Any]) -> Any:
    """Follow one plain reference (``@name``) to a top-level value of the same file; anything else stays as it is."""
    if isinstance(value, str) and value.startswith("@") and value[1:].isidentifier():
        return config.get(value[1:], value)
    return value


def _network_name(target: Any) -> str:
    if isinstance(target, str):
        for prefix in TARGET_PREFIXES:
            if target.startswith(prefix) and target.removeprefix(prefix) in ALLOWED:
                return target.removeprefix(prefix)
        near = did_you_mean(target.rpartition(".")[2], ALLOWED)
        raise RecipeError(
            "CHI-RC-067",
            f"the bundle's network '{target[:120]}' is not on the list.{near}",
            f"Allowed: {', '.join(ALLOWED)}.",
        )
    raise RecipeError("CHI-RC-067", "the bundle's network block has no _target_.", f"Allowed: {', '.join(ALLOWED)}.")


def _channels(metadata: Mapping[str, Any], side: str) -> tuple[str, ...]:
    """Names from ``network_data_format.<side>.*.channel_def`` ({"0": name, ...}), in the order of the numbers."""
    spec: Any = metadata
    for key in ("network_data_format", side):
        spec = spec.get(key, {}) if isinstance(spec, dict) else {}
    entries = list(spec.values()) if isinstance(spec, dict) else []
    first = entries[0] if len(entries) == 1 and isinstance(entries[0], dict) else {}
    names = first.get("channel_def", {})
    if not isinstance(names, dict) or not all(str(key).isdigit() for key in names):
        return ()
    return tuple(str(names[key])[:80] for key in sorted(names, key=int))
