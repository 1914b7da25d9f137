"""Units of several sessions in one forward pass, always in the batch shape of the plan."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from .stage import BatchedStage, BatchJob, Context


@dataclass
class OpenJob:
    """A session inside a batched stage; `token` is whatever the caller wants to find again."""

    job: BatchJob
    context: Context
    token: Any = None
    next_unit: int = 0
    left: int = field(init=False)

    def __post_init__(self) -> None:
        self.left = self.job.n_units


def run_jobs(
    stage: BatchedStage,
    source: Callable[[], OpenJob | None],
    done: Callable[[OpenJob], None],
    active: list[OpenJob] | None = None,
) -> None:
    """Run jobs until `source` has none.

    A batch is filled from the current job and then from the next ones; where no job waits it is padded with its own
    first unit, since torch's results depend on the batch shape (a row's result does not depend on the other rows).

    Parameters
    ----------
    stage : BatchedStage
    source : callable
        Gives the next job that waits (all with the same plan), or None.
    done : callable
        Called with each job when its last unit was accepted.
    active : list of OpenJob, optional
        Kept up to date with the jobs that have begun and not finished, for the caller's error handling.
    """
    running: list[OpenJob] = active if active is not None else []
    while True:
        rows = _fill(running, source)
        if not rows:
            return
        context = rows[0][0].context
        units = [job.job.unit(index) for job, index in rows]
        padding = context.plan.batch_size - len(units)
        batch = torch.stack(units + [units[0]] * padding)
        results = stage.forward(batch, context)
        for row, (job, index) in enumerate(rows):
            job.job.accept(index, results[row])
            job.left -= 1
            if job.left == 0:
                running.remove(job)
                done(job)


def _fill(running: list[OpenJob], source: Callable[[], OpenJob | None]) -> list[tuple[OpenJob, int]]:
    rows: list[tuple[OpenJob, int]] = []
    size = running[0].context.plan.batch_size if running else 0
    position = 0
    while size == 0 or len(rows) < size:
        if position == len(running):
            fresh = source()
            if fresh is None:
                break
            running.append(fresh)
            size = size or fresh.context.plan.batch_size
        job = running[position]
        if job.next_unit < job.job.n_units:
            rows.append((job, job.next_unit))
            job.next_unit += 1
        else:
            position += 1
    return rows
