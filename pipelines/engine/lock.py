"""One driver a shard of an output folder."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from ...data.errors import ResourceError

CODES = {"CHI-RES-021": "Another run is writing to this output folder."}


class FolderBusy(ResourceError):
    """Another driver has the folder: this one stops, and may be started again later."""

    exit_code = 75


class FolderLock:
    """An advisory lock on ``<work>/<name>.lock``. The kernel drops it with the process, so it never goes stale.

    Raises
    ------
    FolderBusy
        ``CHI-RES-021`` where another driver holds it.
    """

    def __init__(self, work: Path, name: str) -> None:
        work.mkdir(parents=True, exist_ok=True)
        self._descriptor = os.open(work / f"{name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._descriptor)
            raise FolderBusy(
                "CHI-RES-021", "another run is writing to this output folder.", "Wait for it to end; it keeps what it has done."
            ) from None

    def release(self) -> None:
        """Give the lock back."""
        os.close(self._descriptor)
