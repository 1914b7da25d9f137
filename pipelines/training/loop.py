"""The one training loop: any network, any source of samples, and the same loss curve after a kill."""

from __future__ import annotations

import copy
import hashlib
import json
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Protocol

import torch
from torch import Tensor, nn

from ...data.atomic import write_text
from .checkpoints import State, restore, save
from .losses import loss_of
from .settings import Phase, TrainingSettings

LOG = "training.jsonl"
EXIT_STOPPED = 75


class SampleSource(Protocol):
    """Where samples come from; a sample depends on its index and on nothing else."""

    def sample(self, index: int, phase: Phase) -> tuple[Tensor, Tensor]:
        """Return an image (C, X, Y, Z) and its labels (X, Y, Z, int64) or regions (R, X, Y, Z, float)."""


Validate = Callable[[nn.Module, int], dict[str, float]]


@dataclass(frozen=True, kw_only=True)
class HowToRun:
    """What does not change the result.

    Parameters
    ----------
    device : str
        A torch device.
    until : int, optional
        Stop after this many steps in all (the schedule stays that of the full run).
    workers : int
        Threads that make samples ahead; the samples are the same for any number.
    """

    device: str = "cpu"
    until: int | None = None
    workers: int = 0


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a call of `train_network` ended.

    Parameters
    ----------
    step : int
        Steps done in all.
    finished : bool
        False after SIGTERM or SIGINT, or where `until` came before the last step.
    average : Module
        The averaged weights.
    """

    step: int
    finished: bool
    average: nn.Module


def train_network(
    network: nn.Module,
    source: SampleSource,
    settings: TrainingSettings,
    out: Path,
    *,
    how: HowToRun | None = None,
    identity: str = "",
    validate: Validate | None = None,
) -> Outcome:
    """Train, or go on training, and leave a checkpoint and a log in `out`.

    Parameters
    ----------
    network : Module
        Already initialised from `settings.seed`.
    source : SampleSource
    settings : TrainingSettings
    out : Path
        Existing folder. A checkpoint in it is continued.
    how : HowToRun, optional
    identity : str
        Whatever else the run depends on (network, data): part of the checkpoint's identity.
    validate : callable, optional
        Takes the averaged network and the step, returns measures for the log; called every `settings.validate_every` steps.
    """
    how = how or HowToRun()
    network = network.to(how.device).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
    state = State(network, copy.deepcopy(network).eval().requires_grad_(False), optimizer)
    whole = hashlib.sha256(f"{settings.identity}|{identity}".encode()).hexdigest()
    restore(state, out, identity=whole)
    _cut_log(out / LOG, state.step)
    last = settings.steps if how.until is None else min(how.until, settings.steps)
    samples = SampleQueue(source, settings, how.workers)
    with samples, stop_signal() as stopped, (out / LOG).open("a", encoding="utf-8", buffering=1) as log:
        while state.step < last and not stopped():
            started = time.monotonic()
            record = _one_step(state, samples, settings, how.device)
            record["seconds"] = round(time.monotonic() - started, 3)
            if validate and settings.validate_every and state.step % settings.validate_every == 0:
                record.update(validate(state.average, state.step))
            log.write(json.dumps(record) + "\n")
            if state.step % settings.checkpoint_every == 0 or state.step == last or stopped():
                save(state, out, identity=whole)
    return Outcome(step=state.step, finished=state.step >= settings.steps, average=state.average)


class SampleQueue:
    """Gives the samples of a step, made ahead by threads where there are any (torch and numpy release the lock)."""

    def __init__(self, source: SampleSource, settings: TrainingSettings, workers: int) -> None:
        self.source, self.settings = source, settings
        self.pool = ThreadPoolExecutor(workers) if workers else None
        self.ahead = 2 * workers
        self.pending: dict[int, Future[tuple[Tensor, Tensor]]] = {}

    def __enter__(self) -> SampleQueue:
        return self

    def __exit__(self, *_: object) -> None:
        if self.pool:
            self.pool.shutdown(cancel_futures=True)

    def of_step(self, step: int) -> list[tuple[Tensor, Tensor]]:
        """Return the pairs of image and target of a step."""
        phase, first = self.settings.phase_at(step)
        if self.pool is None:
            return [self.source.sample(first + i, phase) for i in range(phase.batch)]
        last = min(step + 1 + self.ahead, self.settings.steps)
        for later in range(step, max(last, step + 1)):
            its_phase, start = self.settings.phase_at(later)
            for index in range(start, start + its_phase.batch):
                if index not in self.pending:
                    self.pending[index] = self.pool.submit(self.source.sample, index, its_phase)
        return [self.pending.pop(first + i).result() for i in range(phase.batch)]


def _one_step(state: State, samples: SampleQueue, settings: TrainingSettings, device: str) -> dict[str, float]:
    step = state.step
    # Dropout and the like draw from torch's global generator: tied to the step, they repeat after a resume.
    torch.manual_seed(settings.seed * 1_000_003 + step)
    pairs = samples.of_step(step)
    images = torch.stack([image for image, _ in pairs]).to(device, non_blocking=True)
    targets = torch.stack([target for _, target in pairs]).to(device, non_blocking=True)
    rate = settings.rate_at(step)
    for group in state.optimizer.param_groups:
        group["lr"] = rate
    with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=settings.precision == "bfloat16"):
        outputs = state.network(images)
    loss = loss_of(outputs, targets, focal=settings.loss == "dice-focal")
    state.optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    norm = nn.utils.clip_grad_norm_(state.network.parameters(), settings.clip_norm)
    value = float(loss.detach())
    if torch.isfinite(norm):
        state.optimizer.step()
    state.step = step + 1
    _follow(state.average, state.network, min(settings.ema, (step + 1) / (step + 10)))
    return {"step": state.step, "loss": round(value, 6), "rate": round(rate, 8), "norm": round(float(norm), 4)}


@torch.no_grad()
def _follow(average: nn.Module, network: nn.Module, decay: float) -> None:
    for kept, new in zip(average.state_dict().values(), network.state_dict().values(), strict=True):
        if kept.is_floating_point():
            kept.lerp_(new, 1 - decay)
        else:
            kept.copy_(new)


def _cut_log(path: Path, step: int) -> None:
    """Drop the lines of steps that the checkpoint does not hold: they are done again."""
    if not path.is_file():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            if int(json.loads(line)["step"]) <= step:
                kept.append(line)
        except (ValueError, KeyError, TypeError):
            continue  # a line cut short by a kill
    write_text(path, "".join(f"{line}\n" for line in kept))


@contextmanager
def stop_signal() -> Iterator[Callable[[], bool]]:
    """Turn SIGTERM and SIGINT into a flag that the loop reads between steps."""
    seen: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        seen.append(number)

    try:
        before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    except ValueError:  # not in the main thread: nothing to catch there
        before = {}
    try:
        yield lambda: bool(seen)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
