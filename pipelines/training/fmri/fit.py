"""The loop of a brain network: the same curve after a stop, an averaged network at the end."""

from __future__ import annotations

import copy
import hashlib
import json
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ....data.atomic import write_text
from ..checkpoints import POINTER, State, restore, save
from .model import BrainModel
from .objective import StepInput, step_loss
from .settings import FmriTraining
from .streams import TrialBatch, TrialStream

HISTORY = "history.jsonl"
PARTIAL = "epoch.json"
CHECKPOINT_EVERY_S = 30.0
START_DIVISOR = 25.0
"""Of the learning rate at the first step, as torch's OneCycleLR."""

Targets = Callable[[NDArray[np.int64]], Tensor]
"""Numbers of stimuli -> their targets (k, ...)."""


@dataclass(frozen=True, eq=False, kw_only=True)
class FitData:
    """What a fit reads.

    Parameters
    ----------
    stream : TrialStream
    targets : callable
    text, latents : callable, optional
    """

    stream: TrialStream
    targets: Targets
    text: Targets | None = None
    latents: Targets | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class Fitted:
    """How a fit ended: the averaged model, one entry an epoch, and whether it came to its end."""

    model: BrainModel
    history: list[dict[str, float]]
    finished: bool


def fit(
    model: BrainModel,
    data: FitData,
    settings: FmriTraining,
    *,
    folder: Path,
    identity: str = "",
    validate: Callable[[BrainModel], dict[str, float]] | None = None,
    stopped: Callable[[], bool] = lambda: False,
    tell: Callable[[int, int, float], None] = lambda *_: None,
) -> Fitted:
    """Train, or go on training.

    Parameters
    ----------
    model : BrainModel
        On its device; parameters that want no gradient stay as they are.
    data : FitData
    settings : FmriTraining
    folder : Path
        For the checkpoint and the history; a checkpoint of another run there is refused (``CHI-IN-130``).
    identity : str
        Of all that data and model were made from.
    validate : callable, optional
        Measures of the averaged model for the history, after every epoch.
    stopped : callable
        Asked between steps.
    tell : callable
        Told after every epoch: number, how many in all, seconds left.
    """
    folder.mkdir(parents=True, exist_ok=True)
    optimizer = torch.optim.AdamW(decay_groups(model, settings.weight_decay), lr=settings.learning_rate)
    state = State(model, copy.deepcopy(model).requires_grad_(False).eval(), optimizer)
    identity = _identity(settings, identity)
    restore(state, folder, identity=identity)
    per_epoch = data.stream.steps_per_epoch
    total = settings.epochs * per_epoch
    history, sums = _read(folder, state.step // per_epoch, state.step)
    started, first, saved = time.monotonic(), state.step, time.monotonic()
    while state.step < total and not stopped():
        for name, value in _step(state, data, settings, total).items():
            sums.setdefault(name, []).append(value)
        if state.step % per_epoch == 0:
            entry = {"epoch": float(state.step // per_epoch), **{k: float(np.mean(v)) for k, v in sums.items()}}
            history.append({**entry, **(validate(_average(state)) if validate else {})})
            sums = {}
            left = (time.monotonic() - started) / max(1, state.step - first) * (total - state.step)
            tell(state.step // per_epoch, settings.epochs, left)
        if time.monotonic() - saved > CHECKPOINT_EVERY_S or stopped():
            _keep(state, folder, identity, history, sums)
            saved = time.monotonic()
    finished = state.step >= total
    if state.step > first:
        _keep(state, folder, identity, history, sums)
    return Fitted(model=_average(state), history=history, finished=finished)


def forget(folder: Path) -> None:
    """Remove a checkpoint: its result is written, or it shall not be continued."""
    (folder / POINTER).unlink(missing_ok=True)
    for path in [*folder.glob("checkpoint-*.safetensors"), folder / HISTORY, folder / PARTIAL]:
        path.unlink(missing_ok=True)


def decay_groups(model: nn.Module, decay: float) -> list[dict[str, object]]:
    """Parameters with weight decay, and those whose name contains ``bias`` without (as MindEye's script in effect does)."""
    wanted = [(name, value) for name, value in model.named_parameters() if value.requires_grad]
    groups: list[dict[str, object]] = [
        {"params": [value for name, value in wanted if "bias" not in name], "weight_decay": decay},
        {"params": [value for name, value in wanted if "bias" in name], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def one_cycle(step: int, total: int, settings: FmriTraining) -> float:
    """Learning rate of a step: up along half a cosine to its maximum, then down, as torch's OneCycleLR (Smith and Topin 2019)."""
    low = settings.learning_rate / START_DIVISOR
    rise = min(1.0, settings.warm_up_epochs / settings.epochs) * total - 1
    if step <= rise:
        return _between(low, settings.learning_rate, step / rise if rise > 0 else 1.0)
    share = (step - max(rise, 0)) / max(1.0, total - 1 - max(rise, 0))
    return _between(settings.learning_rate, low / settings.final_divisor, min(1.0, share))


def _between(start: float, end: float, share: float) -> float:
    return end + (start - end) / 2 * (1 + math.cos(math.pi * share))


def _step(state: State, data: FitData, settings: FmriTraining, total: int) -> dict[str, float]:
    number = int.from_bytes(hashlib.sha256(f"{settings.seed}/{state.step}".encode()).digest()[:6], "big")
    torch.manual_seed(number)  # dropout: tied to the step, it repeats after a resume
    generator = torch.Generator().manual_seed(number)
    model = _model(state.network).train()
    device = next(model.parameters()).device
    batch = step_input(data, data.stream.step(state.step), device)
    for group in state.optimizer.param_groups:
        group["lr"] = one_cycle(state.step, total, settings)
    with torch.autocast(device.type, torch.bfloat16, enabled=settings.precision == "bfloat16"):
        loss, parts = step_loss(model, batch, settings, progress=state.step / total, generator=generator)
    state.optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    norm = nn.utils.clip_grad_norm_([p for p in model.parameters() if p.requires_grad], settings.clip_norm)
    if bool(norm.isfinite()):
        state.optimizer.step()
    state.step += 1
    _follow(state.average, model, min(settings.ema, (state.step + 1) / (state.step + 10)))
    return {"loss": float(loss.detach()), **parts}


def step_input(data: FitData, batches: dict[str, TrialBatch], device: torch.device) -> StepInput:
    """Put a step's arrays on the device, with their targets."""
    images = np.concatenate([batch.images for batch in batches.values()])
    return StepInput(
        voxels={name: torch.from_numpy(batch.voxels).to(device) for name, batch in batches.items()},
        targets=data.targets(images).to(device),
        text=None if data.text is None else data.text(images).to(device),
        latents=None if data.latents is None else data.latents(images).to(device),
    )


@torch.no_grad()
def _follow(average: nn.Module, network: nn.Module, decay: float) -> None:
    for kept, new in zip(_values(average), _values(network), strict=True):
        if kept.is_floating_point():
            kept.lerp_(new, 1 - decay)
        else:
            kept.copy_(new)


def _values(module: nn.Module) -> Iterable[Tensor]:
    return module.state_dict().values()


def _model(module: nn.Module) -> BrainModel:
    if not isinstance(module, BrainModel):
        raise TypeError(f"expected a BrainModel, got {type(module).__name__}")
    return module


def _average(state: State) -> BrainModel:
    return _model(state.average).eval()


def _identity(settings: FmriTraining, about: str) -> str:
    text = json.dumps([settings.model_dump(mode="json"), about], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _keep(
    state: State, folder: Path, identity: str, history: list[dict[str, float]], sums: dict[str, list[float]]
) -> None:
    """Write history, the sums of the epoch that is not over, then the checkpoint that they belong to."""
    write_text(folder / HISTORY, "".join(json.dumps(entry, sort_keys=True) + "\n" for entry in history))
    write_text(folder / PARTIAL, json.dumps({"step": state.step, "sums": sums}))
    save(state, folder, identity=identity)


def _read(folder: Path, n_epochs: int, step: int) -> tuple[list[dict[str, float]], dict[str, list[float]]]:
    lines = (folder / HISTORY).read_text().splitlines() if (folder / HISTORY).is_file() else []
    partial = json.loads((folder / PARTIAL).read_text()) if (folder / PARTIAL).is_file() else {}
    sums = partial["sums"] if partial.get("step") == step else {}
    return [json.loads(line) for line in lines[:n_epochs]], sums
