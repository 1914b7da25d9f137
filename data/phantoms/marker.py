"""How a phantom cohort says of itself that it is synthetic, and how that is read."""

from __future__ import annotations

import json
from pathlib import Path

FIELD = "chiasm_phantom"
MAX_BYTES = 1 << 20


def is_phantom(folder: Path) -> bool:
    """Return whether a data folder's ``dataset_description.json`` says that it is a phantom of `chiasm phantom`."""
    path = folder / "dataset_description.json"
    try:
        if path.stat().st_size > MAX_BYTES:
            return False
        tree = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(tree, dict) and tree.get(FIELD) is True
