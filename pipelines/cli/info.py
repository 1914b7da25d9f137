"""``chiasm info``: what is here. Imports torch only with ``--devices``."""

from __future__ import annotations

import argparse
import json
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

from ..console import say, table

PACKAGES = (
    "torch",
    "monai",
    "nibabel",
    "pydicom",
    "highdicom",
    "numpy",
    "scipy",
    "safetensors",
    "transformers",
    "diffusers",
    "open_clip_torch",
    "librosa",
)


def register(subparsers: Any) -> None:
    """Add the command's arguments."""
    parser = subparsers.add_parser("info", help="show pipelines, versions, devices and weights")
    parser.add_argument("--json", action="store_true", help="as JSON, for programs")
    parser.add_argument("--devices", action="store_true", help="ask torch about devices (slow: imports it)")
    parser.set_defaults(handler=_info)


def _info(namespace: argparse.Namespace) -> int:
    facts = collect(devices=namespace.devices)
    if namespace.json:
        say(json.dumps(facts, indent=1, sort_keys=True))
        return 0
    say(f"chiasm {facts['version']}, Python {facts['python']}")
    say()
    rows = [
        [
            r["name"],
            r["pipeline"],
            "ready" if not r["missing"] else "needs weights: " + ", ".join(r["missing"]),
            r["title"],
        ]
        for r in facts["recipes"]
    ]
    say(table(["recipe", "pipeline", "state", "title"], rows))
    say()
    say(
        table(
            ["package", "version"], [[name, version or "not installed"] for name, version in facts["packages"].items()]
        )
    )
    say()
    for device in facts["devices"]:
        say(f"device {device['name']}: {device['description']}")
    return 0


def collect(*, devices: bool = False) -> dict[str, Any]:
    """Return versions, recipes with the weights that they miss, and devices, as JSON values."""
    from ... import __version__

    return {
        "version": __version__,
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "recipes": _recipes(),
        "devices": _torch_devices() if devices else _visible_devices(),
    }


def _recipes() -> list[dict[str, Any]]:
    from ...data.errors import WeightsError
    from ..engine.weights import find
    from ..recipes import load_recipe, recipe_names

    found = []
    for name in recipe_names():
        recipe = load_recipe(name)
        present, missing = [], []
        for weights in dict.fromkeys(w for spec in recipe.components.values() for w in spec.weight_names):
            try:
                find(weights)
                present.append(weights)
            except WeightsError:
                missing.append(weights)
        found.append(
            {"name": name, "title": recipe.title, "pipeline": recipe.pipeline, "present": present, "missing": missing}
        )
    return found


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _visible_devices() -> list[dict[str, str]]:
    gpus = sorted(Path("/dev").glob("nvidia[0-9]*"))
    listed = [
        {"name": f"cuda:{index}", "description": "NVIDIA device file present; --devices asks torch"}
        for index in range(len(gpus))
    ]
    return [{"name": "cpu", "description": platform.processor() or platform.machine()}, *listed]


def _torch_devices() -> list[dict[str, str]]:
    import torch

    listed = [
        {"name": "cpu", "description": f"{torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}"}
    ]
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        listed.append(
            {"name": f"cuda:{index}", "description": f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"}
        )
    if torch.backends.mps.is_available():
        listed.append({"name": "mps", "description": "Apple Metal"})
    return listed
