"""Inside a worker: sessions flow through the legs of a pipeline, later legs first, within a byte budget."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from .batching import OpenJob, run_jobs
from .stage import BatchedStage, Context, Pipeline, Stage


@dataclass(eq=False)
class Flow:
    """One session on its way: its value after the stages so far, and what went wrong if anything."""

    value: Any
    context: Context
    predicted_bytes: int
    token: Any = None
    leg: int = 0
    alone: bool = False
    error: BaseException | None = None
    started: float = 0.0


@dataclass(frozen=True)
class Leg:
    """Consecutive stages of one device; a batched stage is a leg of its own."""

    device: str
    stages: Sequence[Stage]

    @property
    def batched(self) -> BatchedStage | None:
        """The batched stage, where the leg is one."""
        first = self.stages[0]
        return first if isinstance(first, BatchedStage) else None


def legs_of(pipeline: Pipeline) -> list[Leg]:
    """Cut a pipeline into legs."""
    legs: list[Leg] = []
    for stage in pipeline.stages:
        previous = legs[-1] if legs else None
        if (
            previous
            and previous.device == stage.device
            and not isinstance(stage, BatchedStage)
            and not previous.batched
        ):
            legs[-1] = Leg(previous.device, [*previous.stages, stage])
        else:
            legs.append(Leg(stage.device, [stage]))
    return legs


@dataclass
class Scheduler:
    """Run flows: a pool of threads for cpu legs, the calling thread for the accelerator.

    Parameters
    ----------
    pipeline : Pipeline
    budget_bytes : int
        Sum of the predicted bytes of the sessions in flight; one session always may run.
    finished : callable
        Called (from any thread) with a flow that reached the end, or has an `error`.
    cpu_threads : int
        Reading and writing beside the accelerator.
    tick : callable
        Called at every sign of progress.
    """

    pipeline: Pipeline
    budget_bytes: int
    finished: Callable[[Flow], None]
    cpu_threads: int = 2
    tick: Callable[[], None] = lambda: None
    _ready: list[deque[Flow]] = field(init=False)
    _changed: threading.Condition = field(init=False, default_factory=threading.Condition)
    _in_flight: int = field(init=False, default=0)
    _flying: int = field(init=False, default=0)
    _unfinished: int = field(init=False, default=0)
    _closed: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        self.legs = legs_of(self.pipeline)
        self._ready = [deque() for _ in self.legs]

    def submit(self, flow: Flow) -> None:
        """Add a session; it begins when the budget allows."""
        with self._changed:
            self._unfinished += 1
            self._ready[0].append(flow)
            self._changed.notify_all()

    def close(self) -> None:
        """Say that no more sessions come; `run` returns when the last one is finished."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def run(self) -> None:
        """Work until closed and empty. The calling thread is the accelerator's."""
        pool = [threading.Thread(target=self._work, args=("cpu",), daemon=True) for _ in range(self.cpu_threads)]
        for thread in pool:
            thread.start()
        self._work("accelerator")
        for thread in pool:
            thread.join()

    def _work(self, device: str) -> None:
        while True:
            flow = self._take(device)
            if flow is None:
                return
            leg = self.legs[flow.leg]
            if leg.batched is not None:
                self._run_batched(leg.batched, flow)
            else:
                self._run_leg(leg, flow)

    def _take(self, device: str, only_leg: int | None = None, like: Flow | None = None) -> Flow | None:
        """Take the ready flow nearest to the end; wait for one unless `only_leg` is given."""
        with self._changed:
            while True:
                for index in range(len(self.legs) - 1, -1, -1):
                    if self.legs[index].device != device or only_leg not in (None, index) or not self._ready[index]:
                        continue
                    flow = self._ready[index][0]
                    if like is not None and (flow.context.plan != like.context.plan or flow.alone or like.alone):
                        continue
                    if index == 0 and not self._may_begin(flow):
                        continue
                    return self._ready[index].popleft()
                if only_leg is not None or (self._closed and self._unfinished == 0):
                    return None
                self._changed.wait()

    def _may_begin(self, flow: Flow) -> bool:
        if self._flying and self._in_flight + flow.predicted_bytes > self.budget_bytes:
            return False
        self._in_flight += flow.predicted_bytes
        self._flying += 1
        flow.started = time.monotonic()
        return True

    def _run_leg(self, leg: Leg, flow: Flow) -> None:
        try:
            for stage in leg.stages:
                flow.value = stage.run(flow.value, flow.context)
                self.tick()
        except BaseException as error:  # noqa: BLE001 - carried to the one patient boundary, in `finished`
            flow.error = error
        self._advance(flow)

    def _run_batched(self, stage: BatchedStage, first: Flow) -> None:
        active: list[OpenJob] = []
        waiting: list[Flow] = [first]
        leg = first.leg  # `first` moves on while its batch mates still come in

        def source() -> OpenJob | None:
            while True:
                flow = waiting.pop() if waiting else self._take("accelerator", leg, like=first)
                if flow is None:
                    return None
                try:
                    return OpenJob(stage.open(flow.value, flow.context), flow.context, flow)
                except BaseException as error:  # noqa: BLE001 - carried to the one patient boundary
                    flow.error = error
                    self._advance(flow)

        def done(job: OpenJob) -> None:
            flow: Flow = job.token
            try:
                flow.value = job.job.finish()
            except BaseException as error:  # noqa: BLE001 - carried to the one patient boundary
                flow.error = error
            self.tick()
            self._advance(flow)

        def counted() -> OpenJob | None:
            self.tick()
            return source()

        try:
            run_jobs(stage, counted, done, active)
        except BaseException as error:  # noqa: BLE001 - carried to the one patient boundary of each session in the batch
            for job in active:
                job.token.error = error
                self._advance(job.token)

    def _advance(self, flow: Flow) -> None:
        flow.leg += 1
        ended = flow.error is not None or flow.leg == len(self.legs)
        if ended:
            self.finished(flow)
        with self._changed:
            if ended:
                self._in_flight -= flow.predicted_bytes
                self._flying -= 1
                self._unfinished -= 1
            else:
                self._ready[flow.leg].append(flow)
            self._changed.notify_all()
