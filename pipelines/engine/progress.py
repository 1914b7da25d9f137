"""Progress: a live bar on a terminal, one plain line every half minute elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Self, TextIO

PLAIN_EVERY_S = 30.0


class Progress:
    """Sessions done, failed and left, the rate and the time left.

    Parameters
    ----------
    total : int
        Sessions to run now.
    stream : text stream
        Where it is shown; a bar only where this is a terminal.
    """

    def __init__(self, total: int, stream: TextIO | None = None) -> None:
        self.total, self.done, self.failed = total, 0, 0
        self._stream = stream or sys.stderr
        self._began = self._shown = time.monotonic()
        self._bar = None
        if self._stream.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
            from rich.progress import Progress as RichProgress

            columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[note]}"), TimeElapsedColumn())
            self._bar = RichProgress(*columns, console=Console(file=self._stream), transient=True)
            self._task = self._bar.add_task("sessions", total=total, note="starting")

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(self, *, failed: bool) -> None:
        """Count one finished session."""
        self.done += not failed
        self.failed += failed
        if self._bar is not None:
            self._bar.update(self._task, completed=self.done + self.failed, note=self.line())
        elif time.monotonic() - self._shown >= PLAIN_EVERY_S:
            self._shown = time.monotonic()
            self._stream.write(self.line() + "\n")
            self._stream.flush()

    def say(self, text: str) -> None:
        """Write a line of its own, above the bar."""
        if self._bar is not None:
            self._bar.console.print(text, highlight=False, markup=False)
        else:
            self._stream.write(text + "\n")
            self._stream.flush()

    def line(self) -> str:
        """Return the state in one line."""
        finished = self.done + self.failed
        elapsed = max(1e-6, time.monotonic() - self._began)
        rate = 60.0 * finished / elapsed
        left = self.total - finished
        remaining = f", about {_duration(left * elapsed / finished)} left" if finished and left else ""
        return f"{self.done} done, {self.failed} failed, {left} left, {rate:.1f} a minute{remaining}"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.1f} h"
