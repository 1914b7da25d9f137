"""Files that appear whole or not at all: written beside the final name, synced, then renamed over it."""

from __future__ import annotations

import errno
import json
import math
import os
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from .errors import ResourceError

CODES: dict[str, str] = {
    "CHI-RES-010": "the disk that holds the output is full, or a quota is reached",
    "CHI-RES-011": "the output folder is on a read-only file system",
    "CHI-RES-012": "the output folder may not be written",
    "CHI-RES-013": "too many files are open at once",
    "CHI-RES-014": "the disk reported an input/output error",
}

_CASES: dict[int, tuple[str, str, str]] = {
    errno.ENOSPC: (
        "CHI-RES-010",
        "there is no space left for an output file",
        "Free some space and run the command again: what is done is kept.",
    ),
    errno.EDQUOT: (
        "CHI-RES-010",
        "the disk quota leaves no space for an output file",
        "Free some space and run the command again: what is done is kept.",
    ),
    errno.EROFS: (
        "CHI-RES-011",
        "the output folder is on a read-only file system",
        "Choose an output folder that can be written.",
    ),
    errno.EACCES: (
        "CHI-RES-012",
        "the output folder may not be written",
        "Change its permissions, or choose another output folder.",
    ),
    errno.EPERM: (
        "CHI-RES-012",
        "the output folder may not be written",
        "Change its permissions, or choose another output folder.",
    ),
    errno.EMFILE: (
        "CHI-RES-013",
        "too many files are open in this process",
        "Raise the limit (`ulimit -n 4096`) or use fewer workers.",
    ),
    errno.ENFILE: (
        "CHI-RES-013",
        "too many files are open on this machine",
        "Close other programs, or use fewer workers.",
    ),
    errno.EIO: (
        "CHI-RES-014",
        "the disk reported an input/output error",
        "Check the disk or the network mount, then run the command again.",
    ),
}


def resource_error(error: OSError, name: str) -> ResourceError | None:
    """Return the coded form of an operating-system error, or None where it is not one of the known cases.

    Parameters
    ----------
    error : OSError
        What the system said.
    name : str
        Name of the file, for the message; relative, never an absolute path.
    """
    case = _CASES.get(error.errno or 0)
    if case is None:
        return None
    code, what, remedy = case
    return ResourceError(code, f"{what}.", remedy, file=name)


@contextmanager
def atomic_path(final: Path) -> Iterator[Path]:
    """Give a temporary path beside `final`; after the block it is synced and takes the final name.

    The folder is made where it is missing. If the block raises, the temporary file is removed and whatever stood under the
    final name stays as it was.

    Parameters
    ----------
    final : Path
        Name that readers may see; it never holds half a file, not even after a power cut.

    Raises
    ------
    ResourceError
        CHI-RES-010 to 014: disk full, read-only, not permitted, too many open files, input/output error.
    """
    # Two threads may write one file of equal bytes (a shared asset): each has a temporary file of its own.
    temporary = final.with_name(f".{final.name}.{os.getpid()}-{threading.get_ident()}.tmp")
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        _sync_file(temporary)
        os.replace(temporary, final)
        _sync_folder(final.parent)
    except OSError as error:
        coded = resource_error(error, final.name)
        if coded is None:
            raise
        raise coded from error
    finally:
        # Gone already after a rename; on a file system that turned read-only it cannot be removed, which hides nothing.
        with suppress(OSError):
            temporary.unlink()


def write_bytes(path: Path, *chunks: bytes | memoryview) -> None:
    """Write the chunks, one after the other, atomically.

    Raises
    ------
    ResourceError
        As `atomic_path`.
    """
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        for chunk in chunks:
            stream.write(chunk)


def write_text(path: Path, text: str) -> None:
    """Write text as UTF-8 with its line ends unchanged, atomically.

    Raises
    ------
    ResourceError
        As `atomic_path`.
    """
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Write a JSON value atomically: sorted keys, two spaces, shortest exact floats, so equal values are equal bytes.

    Raises
    ------
    ValueError
        Where `value` holds NaN or an infinity, which JSON does not know.
    ResourceError
        As `atomic_path`.
    """
    write_text(path, json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n")


def write_tsv(path: Path, rows: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> None:
    """Write a table as BIDS wants it (tab-separated, a header line, ``n/a`` for what is missing), atomically.

    Parameters
    ----------
    path : Path
        Final name.
    rows : iterable of mapping
        Values by column; None, NaN and absent keys become ``n/a``; tabs and line ends inside text become spaces.
    columns : sequence of str
        Order of the columns. Keys that are not listed are left out.

    Raises
    ------
    ResourceError
        As `atomic_path`.
    """
    lines = ["\t".join(columns)]
    lines += ["\t".join(_cell(row.get(column)) for column in columns) for row in rows]
    write_text(path, "\n".join(lines) + "\n")


def _cell(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "n/a"
    text = " ".join(str(value).split())
    return text or "n/a"


def _sync_file(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_folder(folder: Path) -> None:
    # The rename itself is durable only once the folder is synced; some systems cannot open folders (EISDIR, EACCES) or
    # cannot sync them (EINVAL): the file is complete there all the same.
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        with suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
