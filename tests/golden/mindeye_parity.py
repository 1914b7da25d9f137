"""The `mindeye` golden files: every part beside this file says how its modules are run."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

MODULES: dict[str, Callable[..., dict[str, Any]]] = {}

for _path in sorted((Path(__file__).parent / "parts").glob("mindeye_*.py")):
    _spec = importlib.util.spec_from_file_location(f"golden_part_{_path.stem}", _path)
    _part = importlib.util.module_from_spec(_spec)
    _spec.loader.exec_module(_part)
    MODULES.update(_part.MODULES)
