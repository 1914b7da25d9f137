"""How a phantom cohort says of itself that it is synthetic, and how that is read."""

from __future__ import annotations

import json
from pathlib import Path

FIELD = "chiasm_phantom"
MAX_BYTES = 1 << 20
LEVELS = 3
"""How far above a given folder the mark may stand: cohort, part (train), kind of file, group."""


def is_phantom(folder: Path) -> bool:
    """Return whether a folder lies in a phantom of `chiasm phantom`.

    Its ``dataset_description.json`` says so, or that of one of the three folders above it:
    a part of a phantom, or one of its patients, is as synthetic as the whole.
    """
    here = folder.resolve()
    return any(_says_so(place / "dataset_description.json") for place in (here, *here.parents[:LEVELS]))


def _says_so(path: Path) -> bool:
    try:
        if path.stat().st_size > MAX_BYTES:
            return False
        tree = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(tree, dict) and tree.get(FIELD) is True
