"""What an executor is: it takes sessions and gives back records, one by one, in any order."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from .records import PatientRecord
from .worker import WorkItem


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A finished session."""

    key: str
    record: PatientRecord
    seconds: float = 0.0
    peak_rss: int = 0
    attempts: int = 1
    tries: tuple[str, ...] = ()


class Executor(ABC):
    """Runs work items somewhere. Executors only call the worker's function: equal plans give equal bytes."""

    @abstractmethod
    def run(self, items: Sequence[WorkItem], log: Callable[[dict[str, Any]], None]) -> Iterator[Outcome]:
        """Yield an outcome for each item.

        Raises
        ------
        WeightsError, ChiasmError
            What kept a worker from starting.
        """

    @abstractmethod
    def stop(self) -> None:
        """End at once: what is written is whole, what is not written is not there."""
