"""Chiasm: patients in, segmentations and reports out.

`chiasm.load("brain-tissue")` gives an object that is called with a patient folder or arrays; everything else is
imported from the rooms (`chiasm.data.nifti`, `chiasm.pipelines.recipes`, ...). Importing this package loads nothing heavy.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .pipelines.api import load

__version__ = "0.1.0"
__all__ = ["__version__", "load"]


def __getattr__(name: str) -> Any:
    # PEP 562: `chiasm.load` pulls in its pipeline when it is first asked for, not before.
    if name == "load":
        return import_module(".pipelines.api", __name__).load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
