"""One fit: train, stop early on the validation loss, go on after a stop as if nothing had happened."""

from __future__ import annotations

import copy
import hashlib
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from ....data.atomic import write_text
from ....data.errors import InputError
from ....heads.two_stream import MMSE_RANGE, TwoStreamOutput
from ..checkpoints import POINTER, State, restore, save
from .batches import Batch, Sample, batches_of, collate
from .network import SpeechNetwork
from .settings import SpeechTraining

HISTORY = "history.jsonl"
CHECKPOINT_EVERY_S = 20.0


@dataclass(frozen=True, eq=False, kw_only=True)
class Fit:
    """What a fit leaves.

    Parameters
    ----------
    network : SpeechNetwork
        At its best validation loss.
    history : list of dict
        One entry an epoch: epoch, train_loss, validation_loss, learning_rate.
    best_epoch : int
        From 1.
    finished : bool
        False where it was asked to stop.
    """

    network: SpeechNetwork
    history: list[dict[str, float]]
    best_epoch: int
    finished: bool = True


def loss_of(output: TwoStreamOutput, batch: Batch, settings: SpeechTraining, *, smoothing: float) -> Tensor:
    """Cross-entropy, and the parts that the classifier has besides: MMSE where it was taken, alignment."""
    loss = F.cross_entropy(output.logits, batch.label, label_smoothing=smoothing)
    if output.mmse is not None and settings.mmse_weight:
        known = ~batch.mmse.isnan()
        if bool(known.any()):
            error = (output.mmse[known] - batch.mmse[known]) / MMSE_RANGE
            loss = loss + settings.mmse_weight * error.square().mean()
    if output.severity is not None and settings.severity_weight:
        known = ~batch.mmse.isnan()
        if bool(known.any()):
            bands = torch.tensor(settings.severity_bands, dtype=batch.mmse.dtype, device=batch.mmse.device)
            grade = torch.bucketize(batch.mmse[known], bands, right=True)
            loss = loss + settings.severity_weight * F.cross_entropy(output.severity[known], grade)
    if output.alignment is not None and settings.alignment_weight:
        loss = loss + settings.alignment_weight * output.alignment.mean()
    return loss


def fit(
    network: SpeechNetwork,
    training: Sequence[Sample],
    validation: Sequence[Sample],
    settings: SpeechTraining,
    *,
    seed: int,
    folder: Path | None = None,
    identity: str = "",
    stopped: Callable[[], bool] = lambda: False,
) -> Fit:
    """Train a network.

    Every epoch draws its order and its dropout from (seed, epoch) alone, so that a run that goes on from a checkpoint has the curve
    of one that was never stopped.

    Parameters
    ----------
    network : SpeechNetwork
        On the device that it is to be trained on.
    training, validation : sequence of Sample
    settings : SpeechTraining
    seed : int
    folder : Path, optional
        Where history and checkpoint are kept; None keeps nothing. A checkpoint of another fit, or a damaged one, is dropped.
    identity : str
        Of all that the samples and the network were made from, where names, labels and weights do not tell it.
    stopped : callable
        Asked after every epoch; True ends the fit, resumable.
    """
    device = str(next(network.parameters()).device)
    optimizer = torch.optim.AdamW(
        network.groups(settings.learning_rate, settings.encoder_learning_rate, settings.weight_decay)
    )
    state = State(network, copy.deepcopy(network), optimizer)
    identity = _identity(network, training, validation, settings, f"{seed}/{identity}")
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        _resume(state, folder, identity)
    history = _read_history(folder, state.step)
    saved = time.monotonic()
    while state.step < settings.epochs and not _patience_spent(history, settings) and not stopped():
        entry = _epoch(state, training, settings, seed=seed, device=device)
        entry["validation_loss"] = validation_loss(network, validation, settings, device=device)
        if entry["validation_loss"] < min((old["validation_loss"] for old in history), default=math.inf):
            state.average.load_state_dict(network.state_dict())
        history.append(entry)
        if folder is not None and (time.monotonic() - saved > CHECKPOINT_EVERY_S or stopped()):
            _keep(state, history, folder, identity)
            saved = time.monotonic()
    finished = state.step >= settings.epochs or _patience_spent(history, settings)
    if folder is not None:
        _write_history(folder, history)
        if finished:
            _forget(folder)
        elif state.step:
            _keep(state, history, folder, identity)
    best = min(range(len(history)), key=lambda i: history[i]["validation_loss"], default=0)
    return Fit(network=_as_network(state.average), history=history, best_epoch=best + 1, finished=finished)


def _as_network(module: nn.Module) -> SpeechNetwork:
    if not isinstance(module, SpeechNetwork):
        raise TypeError(f"expected a SpeechNetwork, got {type(module).__name__}")
    return module.eval()


def _epoch(
    state: State, training: Sequence[Sample], settings: SpeechTraining, *, seed: int, device: str
) -> dict[str, float]:
    """Run one epoch; changes `state`."""
    number = int.from_bytes(hashlib.sha256(f"{seed}/{state.step}".encode()).digest()[:6], "big")
    torch.manual_seed(number)
    generator = torch.Generator().manual_seed(number)
    network, optimizer = state.network.train(), state.optimizer
    batches = batches_of(training, settings.batch_size, generator=generator)
    groups = [batches[i : i + settings.accumulate] for i in range(0, len(batches), settings.accumulate)]
    total, n_samples = 0.0, 0
    base = [group["lr"] for group in optimizer.param_groups]
    for index, group in enumerate(groups):
        done = state.step * len(groups) + index
        scale = _schedule(done, settings.epochs * len(groups), settings.warm_up)
        for parameters, rate in zip(optimizer.param_groups, base, strict=True):
            parameters["lr"] = scale * rate
        n_group = sum(map(len, group))
        for samples in group:
            batch = collate(samples).to(device)
            loss = loss_of(network(batch), batch, settings, smoothing=settings.label_smoothing)
            (loss * len(samples) / n_group).backward()  # type: ignore[no-untyped-call]
            total, n_samples = total + float(loss.detach()) * len(samples), n_samples + len(samples)
        norm = nn.utils.clip_grad_norm_(network.parameters(), settings.clip)
        if bool(norm.isfinite()):  # a bfloat16 step may overflow: it is skipped, not averaged into the weights
            optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    for parameters, rate in zip(optimizer.param_groups, base, strict=True):
        parameters["lr"] = rate
    state.step += 1
    return {"epoch": float(state.step), "train_loss": total / max(n_samples, 1)}


def _schedule(step: int, n_steps: int, warm_up: float) -> float:
    """Linear warm-up, then linear decay to a tenth."""
    rising = max(1, round(warm_up * n_steps))
    if step < rising:
        return (step + 1) / rising
    return 1.0 - 0.9 * (step - rising) / max(1, n_steps - rising)


@torch.no_grad()
def validation_loss(network: nn.Module, samples: Sequence[Sample], settings: SpeechTraining, *, device: str) -> float:
    """Mean loss without smoothing, infinite where it overflowed: what early stopping looks at."""
    network.eval()
    total = 0.0
    for group in batches_of(samples, 2 * settings.batch_size):
        batch = collate(group).to(device)
        total += float(loss_of(network(batch), batch, settings, smoothing=0.0)) * len(group)
    mean = total / len(samples)
    return mean if math.isfinite(mean) else math.inf  # NaN is never smaller: one would end all comparing


@torch.no_grad()
def predict(
    network: SpeechNetwork, samples: Sequence[Sample], *, batch_size: int = 32, device: str = "cpu"
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return logits (n, K) and MMSE (n,; NaN where the classifier has no such output), in the order of the samples."""
    network.eval()
    logits: dict[str, NDArray[np.float64]] = {}
    mmse: dict[str, float] = {}
    for group in batches_of(samples, batch_size):
        output = network(collate(group).to(device))
        for index, sample in enumerate(group):
            logits[sample.name] = output.logits[index].double().cpu().numpy()
            mmse[sample.name] = float(output.mmse[index]) if output.mmse is not None else math.nan
    return np.stack([logits[s.name] for s in samples]), np.array([mmse[s.name] for s in samples])


def _patience_spent(history: list[dict[str, float]], settings: SpeechTraining) -> bool:
    losses = [entry["validation_loss"] for entry in history]
    return bool(losses) and len(losses) - 1 - losses.index(min(losses)) >= settings.patience


def _identity(
    network: SpeechNetwork,
    training: Sequence[Sample],
    validation: Sequence[Sample],
    settings: SpeechTraining,
    about: str,
) -> str:
    who = [[[sample.name, sample.label] for sample in side] for side in (training, validation)]
    start = hashlib.sha256()
    for value in network.state_dict().values():
        start.update(value.detach().cpu().contiguous().float().numpy().tobytes())
    text = json.dumps([who, settings.model_dump(mode="json"), about, start.hexdigest()])
    return hashlib.sha256(text.encode()).hexdigest()


def _resume(state: State, folder: Path, identity: str) -> None:
    try:
        restore(state, folder, identity=identity)
    except InputError:  # of other data or settings, or damaged: a fit is short, and begins anew
        _forget(folder)


def _keep(state: State, history: list[dict[str, float]], folder: Path, identity: str) -> None:
    _write_history(folder, history)
    save(state, folder, identity=identity)


def _forget(folder: Path) -> None:
    """Remove a finished fit's checkpoint: its result stands beside it."""
    (folder / POINTER).unlink(missing_ok=True)
    for path in folder.glob("checkpoint-*.safetensors"):
        path.unlink()


def _read_history(folder: Path | None, step: int) -> list[dict[str, float]]:
    if folder is None or not (folder / HISTORY).is_file():
        return []
    return [json.loads(line) for line in (folder / HISTORY).read_text().splitlines()][:step]


def _write_history(folder: Path, history: list[dict[str, float]]) -> None:
    write_text(folder / HISTORY, "".join(json.dumps(entry, sort_keys=True) + "\n" for entry in history))
