"""One driver a shard of an output folder."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from ...data.atomic import resource_error
from ...data.errors import ResourceError

CODES = {
    "CHI-RES-021": "Another run is writing to this output folder.",
    "CHI-RES-022": "The output or work folder cannot be made or written.",
}


class FolderBusy(ResourceError):
    """Another driver has the folder: this one stops, and may be started again later."""

    exit_code = 75


class BusyError(ResourceError):
    """Another driver is at work; stopping now loses nothing."""

    exit_code = 75


def unwritable(error: OSError) -> ResourceError:
    """Return the coded form of what kept a folder from being made or written."""
    known = resource_error(error, "")
    reason = (error.strerror or type(error).__name__).lower()
    return known or ResourceError(
        "CHI-RES-022", f"the output or work folder cannot be written: {reason}.", "Choose another OUT, or --work-dir."
    )


class FolderLock:
    """An advisory lock on ``<work>/<name>.lock``. The kernel drops it with the process, so it never goes stale.

    Raises
    ------
    FolderBusy
        ``CHI-RES-021`` where another driver holds it.
    """

    def __init__(self, work: Path, name: str) -> None:
        try:
            work.mkdir(parents=True, exist_ok=True)
            self._descriptor = os.open(work / f"{name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise unwritable(error) from None
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._descriptor)
            raise FolderBusy(
                "CHI-RES-021",
                "another run is writing to this output folder.",
                "Wait for it to end; it keeps what it has done.",
            ) from None

    def release(self) -> None:
        """Give the lock back."""
        os.close(self._descriptor)
