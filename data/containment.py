"""Nothing outside the input folder: sorted listings and the check of links."""

from __future__ import annotations

import os
from pathlib import Path

from .errors import InputError

IGNORED = frozenset("derivatives sourcedata code stimuli __MACOSX lost+found node_modules".split())


def entries(folder: Path) -> list[os.DirEntry[str]]:
    """Return what is in a folder, sorted by name, without hidden entries; empty where it cannot be read."""
    try:
        with os.scandir(folder) as scan:
            return sorted((e for e in scan if not e.name.startswith(".")), key=lambda e: e.name)
    except OSError:
        return []


def inside(entry: os.DirEntry[str], root: Path) -> InputError | None:
    """Return the error for a link that leads out of `root` or nowhere; None for everything else.

    Only links are resolved: the kernel says for free which entries are links, and `root` itself is resolved already.
    """
    if not entry.is_symlink():
        return None
    return contained(Path(entry.path), root)


def contained(path: Path, root: Path) -> InputError | None:
    """Return the error for a path whose real place is not under `root` (itself resolved), or that is not there."""
    relative = os.path.relpath(path, root).replace(os.sep, "/")
    relative = relative if not relative.startswith("..") else path.name
    try:
        real = path.resolve(strict=True)
    except (OSError, RuntimeError):
        return InputError(
            "CHI-IN-068",
            "The link leads nowhere.",
            "Fetch the file's content (datalad get, git annex get), or remove the link.",
            file=relative,
        )
    if real == root or root in real.parents:
        return None
    return InputError(
        "CHI-IN-067",
        "The link leads out of the input folder.",
        "Copy the file there, or give the folder that holds the real files as input.",
        file=relative,
    )
