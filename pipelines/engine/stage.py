"""Stage and pipeline: named steps with typed ends, checked before anything loads."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from ...data.errors import RecipeError

if TYPE_CHECKING:
    import torch

    from .plan import Plan

CODES = {
    "CHI-RC-001": "Two neighbouring stages do not fit: one gives what the next does not take.",
    "CHI-RC-002": "Two stages of a pipeline share a name.",
}


@dataclass
class Context:
    """What a stage may know besides its item.

    Parameters
    ----------
    components : mapping of str to object
        Networks and the like, loaded once a worker. A stage reads the names in its `needs` and no others.
    plan : Plan
        Device, batch shape, precision, threads: everything that decides the bytes of the output.
    out : Path
        The output folder; a stage writes inside it, atomically, through `data.atomic`.
    notes : dict
        What stages leave for the report and the sidecars of this patient (JSON values).
    flags : list of str
        Quality flags of this patient, in words.
    """

    components: Mapping[str, Any]
    plan: Plan
    out: Path
    notes: dict[str, Any] = field(default_factory=dict)
    flags: list[str] = field(default_factory=list)


class Stage(ABC):
    """One step. Holds settings, never weights; one object serves all patients, so `run` keeps no state on self."""

    name: ClassVar[str]
    consumes: ClassVar[type]
    produces: ClassVar[type]
    device: ClassVar[Literal["cpu", "accelerator"]] = "cpu"
    needs: tuple[str, ...] = ()

    @abstractmethod
    def run(self, item: Any, context: Context) -> Any:
        """Turn one patient's `consumes` into its `produces`."""

    def predict_bytes(self, n_voxels: int) -> int:
        """Return the peak bytes that this stage holds for a native volume of `n_voxels` (0: negligible)."""
        return 0


class BatchJob(ABC):
    """One patient inside a batched stage: units go out, results come back in the same order."""

    n_units: int

    @abstractmethod
    def unit(self, index: int) -> torch.Tensor:
        """Return unit `index`, shape (C, ...) without a batch axis; every job of a stage has the same unit shape."""

    @abstractmethod
    def accept(self, index: int, result: torch.Tensor) -> None:
        """Take the network's answer for unit `index`, on the device."""

    @abstractmethod
    def finish(self) -> Any:
        """Return the stage's product."""


class BatchedStage(Stage):
    """A stage on the accelerator whose units (windows, slices, epochs) are batched across patients."""

    device: ClassVar[Literal["cpu", "accelerator"]] = "accelerator"

    @abstractmethod
    def open(self, item: Any, context: Context) -> BatchJob:
        """Cut one patient into units."""

    @abstractmethod
    def forward(self, batch: torch.Tensor, context: Context) -> torch.Tensor:
        """Run the component on a batch of units: (B, C, ...) to (B, K, ...)."""

    def run(self, item: Any, context: Context) -> Any:
        """Run one patient alone, with the batch shape of the plan (the last batch padded with its own first unit)."""
        from .batching import OpenJob, run_jobs

        job = self.open(item, context)
        waiting = [OpenJob(job, context)]
        run_jobs(self, lambda: waiting.pop() if waiting else None, lambda _: None)
        return job.finish()


@dataclass(frozen=True)
class Pipeline:
    """An ordered chain of stages.

    Raises
    ------
    RecipeError
        Where a stage does not take what the one before it gives, or two stages share a name.
    """

    name: str
    stages: Sequence[Stage]

    def __post_init__(self) -> None:
        for before, after in zip(self.stages, self.stages[1:], strict=False):
            if not issubclass(before.produces, after.consumes):
                raise RecipeError(
                    "CHI-RC-001",
                    f"stage '{after.name}' takes {after.consumes.__name__}, but '{before.name}' gives {before.produces.__name__}.",
                    "Put a stage between them that turns one into the other.",
                )
        names = [stage.name for stage in self.stages]
        if len(set(names)) != len(names):
            raise RecipeError("CHI-RC-002", f"two stages share a name: {names}.", "Name each stage once.")

    @property
    def needs(self) -> tuple[str, ...]:
        """Names of all components, in order of first use."""
        return tuple(dict.fromkeys(need for stage in self.stages for need in stage.needs))
