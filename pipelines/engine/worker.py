"""A worker process: loads the components once, then moves sessions through the pipeline. Holds the one patient boundary."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
import traceback
import warnings
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil

from ...data.errors import ChiasmError, ResourceError
from ...data.patients import Session
from ..recipes import BaseRecipe
from .admission import check, predict
from .inventory import Identity
from .options import RunOptions
from .outcome import done_record, failed_record
from .plan import Plan
from .scheduler import Flow, Scheduler
from .stage import Context, Pipeline

CODES = {"CHI-INT-001": "An error inside Chiasm; the log names where."}
MAX_TRIES = 3


@dataclass(frozen=True, kw_only=True)
class WorkerSettings:
    """All that a worker needs to begin; sent once, at its start."""

    recipe: BaseRecipe
    options: RunOptions
    plan: Plan
    identity: Identity
    out: Path
    limit_bytes: int
    cpu_threads: int = 2
    input_is_phantom: bool = False


@dataclass(frozen=True, kw_only=True)
class WorkItem:
    """A session to run, and how often it was begun before."""

    session: Session
    attempt: int = 0


@dataclass(eq=False)
class _Token:
    item: WorkItem
    tries: list[str]


def worker_main(connection: Connection, settings: WorkerSettings) -> None:
    """Entry point of the spawned process: messages in (`WorkItem`, None to end), messages out (tuples, name first)."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the whole group: the driver decides
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    # A library's warning may quote a header: that of highdicom quotes the patient's name.
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    worker = _Worker(connection, settings)
    try:
        worker.load()
    except ChiasmError as error:
        worker.send("fatal", error)
        return
    except Exception as error:  # noqa: BLE001 - before the first patient there is no patient boundary yet
        worker.send("fatal", worker.coded(error))
        return
    worker.run()


class _Worker:
    def __init__(self, connection: Connection, settings: WorkerSettings) -> None:
        self.connection, self.settings = connection, settings
        self.send_lock = threading.Lock()
        self.components: dict[str, Any] = {}
        self.pipeline: Pipeline
        self.scheduler: Scheduler

    def send(self, *message: Any) -> None:
        """Send to the driver; a driver that is gone ends this process (what was written is whole, what was not is not there)."""
        try:
            with self.send_lock:
                self.connection.send(message)
        except (BrokenPipeError, OSError):
            os._exit(75)

    def load(self) -> None:
        """Load libraries and components: the only time that this is paid."""
        from .memory import keep_freed_memory

        keep_freed_memory()
        import torch

        from .components import load_components
        from .tasks import build_pipeline

        plan = self.settings.plan
        torch.set_num_threads(plan.threads)
        torch.manual_seed(plan.seed)
        torch.use_deterministic_algorithms(True, warn_only=True)
        if plan.device.startswith("cuda"):
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
            torch.backends.cudnn.benchmark = False
        self.components = load_components(
            self.settings.recipe, plan.device, input_is_phantom=self.settings.input_is_phantom
        )
        self.pipeline = build_pipeline(self.settings.recipe, self.settings.options)
        self.scheduler = Scheduler(
            self.pipeline,
            budget_bytes=self.settings.limit_bytes - self.network_bytes(plan),
            finished=self.finished,
            cpu_threads=self.settings.cpu_threads,
            tick=lambda: self.send("tick"),
        )
        self.send("ready")

    def run(self) -> None:
        """Receive in a thread, compute in this one."""
        threading.Thread(target=self.receive, daemon=True).start()
        self.scheduler.run()
        self.send("bye")

    def receive(self) -> None:
        while True:
            try:
                item = self.connection.recv()
            except (EOFError, OSError):
                os._exit(75)  # the driver is gone: nobody would take the results
            if item is None:
                self.scheduler.close()
                return
            self.send("begin", item.session.key)
            self.begin(_Token(item, []), self.settings.plan)

    def begin(self, token: _Token, plan: Plan, *, alone: bool = False) -> None:
        session = token.item.session
        prediction = predict(session, self.pipeline, self.network_bytes(plan))
        for smaller in plan.ladder():  # predicted, not tried: the first plan that fits
            if prediction.peak_bytes <= self.settings.limit_bytes:
                break
            plan, prediction = smaller, predict(session, self.pipeline, self.network_bytes(smaller))
        context = Context(components=self.components, plan=plan, out=self.settings.out)
        flow = Flow(session, context, prediction.session_bytes, token, alone=alone)
        try:
            check(prediction, self.settings.limit_bytes)
        except ResourceError as error:
            flow.error = error
            self.finished(flow)
            return
        self.scheduler.submit(flow)

    def finished(self, flow: Flow) -> None:
        """The patient boundary: whatever happened becomes a record, or another try."""
        token: _Token = flow.token
        session, error = token.item.session, flow.error
        if error is None:
            try:
                record = done_record(session, flow, self.settings)
            except Exception as late:  # noqa: BLE001 - the boundary: the last writes can fail too
                error = late
        if error is not None:
            again = self.next_plan(flow, error)
            if again is not None:
                token.tries.append(f"{type(error).__name__} with {flow.context.plan}")
                flow.value = None
                self.begin(token, again, alone=True)
                return
            record = failed_record(session, self.coded(error), flow.context.plan, self.settings)
        seconds = time.monotonic() - flow.started if flow.started else 0.0
        peak = _peak_rss()
        flow.value = None
        self.send("end", session.key, record, round(seconds, 3), peak, token.tries)

    def network_bytes(self, plan: Plan) -> int:
        """Activations of one forward pass in main memory; on another device they are not there."""
        from .tasks import activation_bytes

        return activation_bytes(self.settings.recipe, plan)

    def next_plan(self, flow: Flow, error: BaseException) -> Plan | None:
        """Return the plan to try after `error`, or None where another try would not help."""
        tries = len(flow.token.tries)
        if tries + 1 >= MAX_TRIES:
            return None
        if is_out_of_memory(error):
            _release_memory()
            ladder = self.settings.plan.ladder()
            return ladder[tries] if tries < len(ladder) else None
        shared_batch = not flow.alone and not isinstance(error, ChiasmError)
        return replace(flow.context.plan) if shared_batch and isinstance(error, RuntimeError) else None

    def coded(self, error: BaseException) -> ChiasmError:
        """Turn any exception into a coded one; the text of a foreign exception may identify a person, so only frames are logged."""
        if isinstance(error, ChiasmError):
            return error
        if is_out_of_memory(error):
            return ResourceError(
                "CHI-RES-002",
                "memory ran out, also with smaller batches and windows.",
                "Run it on a machine with more memory, or lower --workers.",
            )
        frames = [f"{Path(f.filename).name}:{f.lineno} {f.name}" for f in traceback.extract_tb(error.__traceback__)]
        self.send("log", {"event": "internal-error", "type": type(error).__name__, "frames": frames})
        return ChiasmError(
            "CHI-INT-001",
            f"an error inside Chiasm ({type(error).__name__} at {frames[-1] if frames else 'unknown place'}).",
            "Please report it with the lines of the log that say internal-error; the other sessions are not affected.",
        )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory ran out, on the host or on a device."""
    if isinstance(error, MemoryError):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and ("out of memory" in text or "can't allocate memory" in text)


def _release_memory() -> None:
    import gc

    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _peak_rss() -> int:
    if sys.platform == "linux":
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return int(psutil.Process().memory_info().rss)
