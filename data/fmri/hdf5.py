"""Tables in foreign HDF5 files: opened with h5py, and refused before a read where their claims are not to be trusted."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..atomic import resource_error
from ..errors import InputError, ToolError

CODES: dict[str, str] = {
    "CHI-IN-262": "An HDF5 file is damaged, or lacks the table that is looked for, or keeps it outside itself.",
    "CHI-TL-026": "The package h5py, which reads HDF5 files, is not installed.",
}
MAX_CHUNK_BYTES = 1 << 30
"""HDF5 inflates a whole chunk for one value of it."""
_DAMAGE = (OSError, KeyError, RuntimeError, ValueError, TypeError, OverflowError, AttributeError)


@contextmanager
def open_table(path: Path, key: str, *, relative: str = "") -> Iterator[Any]:
    """Open one data set of an HDF5 file for reading; whatever goes wrong inside the block is a coded error.

    Parameters
    ----------
    path : Path
    key : str
        Name of the data set; ``betas``, ``imgBrick``.
    relative : str
        For messages.

    Yields
    ------
    h5py.Dataset
        Of numbers, stored in this file, with one axis or more and no axis of length 0.

    Raises
    ------
    InputError
        ``CHI-IN-262``.
    ToolError
        ``CHI-TL-026``.
    """
    name = relative or path.name
    try:
        import h5py  # type: ignore[import-untyped,unused-ignore]
    except ImportError as error:
        raise ToolError(
            "CHI-TL-026", "HDF5 files need the package h5py.", "pip install 'chiasm[images]'", file=name
        ) from error
    try:
        with h5py.File(path, "r") as file:
            yield _admitted(h5py, file, key, path, name)
    except _DAMAGE as error:
        coded = resource_error(error, name) if isinstance(error, OSError) else None
        if coded is not None and coded.code in {"CHI-RES-013", "CHI-RES-014"}:
            raise coded from error
        raise _refused("it cannot be read (missing, cut off or damaged)", name) from error


def _admitted(h5py: Any, file: Any, key: str, path: Path, name: str) -> Any:
    """Return the data set once its claims are checked; links to other files are never followed."""
    link = file.get(key, getlink=True)
    if link is None:
        found = ", ".join(sorted(str(other)[:40] for other in list(file)[:10])) or "nothing"
        raise _refused(f"it has no '{key}'; it has {found}", name)
    table = file[key] if isinstance(link, h5py.HardLink) else None
    if not isinstance(table, h5py.Dataset) or table.is_virtual or table.external:
        raise _refused(f"its '{key}' is not a table that is stored in this file", name)
    if table.dtype.kind not in "iuf" or not table.shape or not all(table.shape):
        raise _refused(f"its '{key}' is of type {table.dtype} and shape {table.shape}, and numbers are needed", name)
    size = table.dtype.itemsize
    if table.chunks is None and math.prod(table.shape) * size > path.stat().st_size:
        raise _refused(f"it is shorter than its '{key}' claims to be", name)
    if table.chunks is not None and math.prod(table.chunks) * size > MAX_CHUNK_BYTES:
        raise _refused(f"its '{key}' is packed in blocks of more than 1 GiB", name)
    return table


def _refused(problem: str, name: str) -> InputError:
    return InputError(
        "CHI-IN-262",
        f"the HDF5 file cannot be used: {problem}.",
        "Copy it again from where it came, and compare its size with the original's.",
        file=name,
    )
