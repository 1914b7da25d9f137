"""The local executor: spawned workers, one a device, on one shared queue."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any

import psutil

from ...data.errors import ChiasmError, ResourceError
from .executor import Executor, Outcome
from .outcome import failed_record
from .worker import WorkerSettings, WorkItem, worker_main

CODES = {
    "CHI-RES-003": "The worker died each time that it ran this session (often: the system ended it for lack of memory).",
    "CHI-RES-004": "No progress and no computation for a minute: the worker was ended.",
    "CHI-RES-005": "Workers die before they are ready.",
}
PREFETCH = 3
"""Sessions that a worker holds: one on the accelerator, one being read, one being written."""
MAX_DEATHS = 3
STALL_S = 60.0
STALL_CPU_S = 0.5


@contextmanager
def _thread_variables(threads: int) -> Iterator[None]:
    """Set what a spawned process must find before it imports numpy or torch: their pools spin, and fight over the cores."""
    wanted = {"OMP_NUM_THREADS": str(threads), "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": str(threads)}
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


class _Worker:
    """The driver's view of one worker process."""

    def __init__(self, settings: WorkerSettings) -> None:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        self.settings = settings
        self.connection: Connection = ours
        self.process: SpawnProcess = context.Process(target=worker_main, args=(theirs, settings), daemon=False)
        with _thread_variables(settings.plan.threads):
            self.process.start()
        theirs.close()
        self.ready = False
        self.held: dict[str, WorkItem] = {}
        self.alone = False
        self.progress_at = time.monotonic()
        self.cpu_s = 0.0

    def give(self, item: WorkItem) -> None:
        self.held[item.session.key] = item
        self.connection.send(item)

    def stalled(self, now: float) -> bool:
        """Whether nothing moved for `STALL_S`: no message, and no cpu time in the worker or its children."""
        if not self.held or now - self.progress_at < STALL_S:
            return False
        used = self._cpu_seconds()
        if used - self.cpu_s > STALL_CPU_S:
            self.cpu_s, self.progress_at = used, now
            return False
        return True

    def _cpu_seconds(self) -> float:
        total = 0.0
        try:
            process = psutil.Process(self.process.pid)
            for one in [process, *process.children(recursive=True)]:
                times = one.cpu_times()
                total += times.user + times.system
        except psutil.Error:
            return 0.0
        return total

    def end(self) -> None:
        if self.process.is_alive():
            self.process.kill()
        self.process.join(5)
        self.connection.close()


class LocalExecutor(Executor):
    """Workers on this machine.

    Parameters
    ----------
    settings : sequence of WorkerSettings
        One a worker: they differ in the device of their plan.
    """

    def __init__(self, settings: Sequence[WorkerSettings]) -> None:
        self._settings = list(settings)
        self._workers: list[_Worker] = []
        self._early_deaths = 0

    def run(self, items: Sequence[WorkItem], log: Callable[[dict[str, Any]], None]) -> Iterator[Outcome]:
        """See `Executor.run`; a worker that dies is replaced, and the sessions that it held are run again one at a time."""
        queue: deque[WorkItem] = deque(items)
        left = len(queue)
        n_workers = min(len(self._settings), max(1, left))
        self._workers = [_Worker(settings) for settings in self._settings[:n_workers]] if left else []
        try:
            while left:
                self._feed(queue)
                for outcome in self._listen(queue, log):
                    left -= 1
                    yield outcome
            for worker in self._workers:
                _say_end(worker)
        finally:
            self.stop()

    def stop(self) -> None:
        """See `Executor.stop`."""
        for worker in self._workers:
            worker.end()
        self._workers = []

    def _feed(self, queue: deque[WorkItem]) -> None:
        for worker in self._workers:
            while worker.ready and queue:
                suspect = queue[0].attempt > 0  # it was in a worker that died: it runs alone, so that a death names it
                room = 1 if suspect or worker.alone else PREFETCH
                if len(worker.held) >= room:
                    break
                worker.alone = suspect
                try:
                    worker.give(queue.popleft())
                except (BrokenPipeError, OSError):
                    break  # its death is noticed in _listen, and what it held comes back

    def _listen(self, queue: deque[WorkItem], log: Callable[[dict[str, Any]], None]) -> Iterator[Outcome]:
        channels: dict[Any, _Worker] = {}
        for worker in self._workers:
            channels[worker.connection] = worker
            channels[worker.process.sentinel] = worker
        seen: set[int] = set()
        for signalled in wait(list(channels), timeout=1.0):
            worker = channels[signalled]
            if id(worker) in seen:
                continue
            seen.add(id(worker))
            yield from self._hear(worker, queue, log)
        now = time.monotonic()
        for worker in list(self._workers):
            if worker.stalled(now):
                log({"event": "stall", "pid": worker.process.pid})
                yield from self._bury(worker, queue, log, code="CHI-RES-004")

    def _hear(
        self, worker: _Worker, queue: deque[WorkItem], log: Callable[[dict[str, Any]], None]
    ) -> Iterator[Outcome]:
        try:
            while worker.connection.poll():
                message = worker.connection.recv()
                worker.progress_at = time.monotonic()
                kind = message[0]
                if kind == "ready":
                    worker.ready, self._early_deaths = True, 0
                    log({"event": "worker-ready", "pid": worker.process.pid, "device": worker.settings.plan.device})
                elif kind == "fatal":
                    raise message[1]
                elif kind == "log":
                    log(message[1])
                elif kind == "end":
                    _, key, record, seconds, peak_rss, tries = message
                    item = worker.held.pop(key)
                    attempts = item.attempt + 1
                    yield Outcome(
                        key=key,
                        record=record,
                        seconds=seconds,
                        peak_rss=peak_rss,
                        attempts=attempts,
                        tries=tuple(tries),
                    )
        except (EOFError, OSError):
            yield from self._bury(worker, queue, log, code="CHI-RES-003")
            return
        if not worker.process.is_alive():
            yield from self._bury(worker, queue, log, code="CHI-RES-003")

    def _bury(
        self, worker: _Worker, queue: deque[WorkItem], log: Callable[[dict[str, Any]], None], *, code: str
    ) -> Iterator[Outcome]:
        """Replace a worker that died or hung; put back what it held, and give up on what died `MAX_DEATHS` times."""
        worker.end()
        exit_code = worker.process.exitcode
        log({"event": "worker-died", "pid": worker.process.pid, "exit_code": exit_code, "held": len(worker.held)})
        if not worker.ready:
            self._early_deaths += 1
            if self._early_deaths >= MAX_DEATHS:
                raise ResourceError(
                    "CHI-RES-005",
                    f"workers end before they are ready (exit code {exit_code}).",
                    "Look into the run's log; often memory is too small.",
                )
        index = self._workers.index(worker)
        self._workers[index] = _Worker(worker.settings)
        for item in reversed(list(worker.held.values())):
            again = replace(item, attempt=item.attempt + 1)
            if again.attempt < MAX_DEATHS:
                queue.appendleft(again)
                continue
            error = death_error(code, exit_code)
            record = failed_record(item.session, error, worker.settings.plan, worker.settings)
            yield Outcome(key=item.session.key, record=record, attempts=again.attempt)
        worker.held.clear()


def death_error(code: str, exit_code: int | None) -> ChiasmError:
    """Say what ended a worker."""
    if code == "CHI-RES-004":
        return ResourceError(
            code,
            f"no progress for {STALL_S:.0f} s, {MAX_DEATHS} times; the worker was ended.",
            "Check the disk and the network share.",
        )
    cause = "it was killed, often for lack of memory" if exit_code in (-9, 137) else f"exit code {exit_code}"
    return ResourceError(
        "CHI-RES-003",
        f"the worker died each of {MAX_DEATHS} times that it ran this session ({cause}).",
        "Try a machine with more memory, or fewer --workers.",
    )


def _say_end(worker: _Worker) -> None:
    try:
        worker.connection.send(None)
    except (BrokenPipeError, OSError):
        return
    worker.process.join(10)
