"""Training state on disk: tensors in safetensors, the rest in JSON, switched over in one rename."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ...data.atomic import atomic_path, write_json
from ...data.errors import InputError

CODES: dict[str, str] = {
    "CHI-IN-130": "the checkpoint in OUT was made with other settings, data or another network",
    "CHI-IN-131": "the checkpoint in OUT cannot be read",
}

POINTER = "checkpoint.json"


@dataclass(eq=False)
class State:
    """What a step changes.

    Parameters
    ----------
    network, average : Module
        The weights that are trained, and their exponential moving average.
    optimizer : Optimizer
        AdamW, or one that keeps only tensors in its state.
    step : int
        Steps done.
    """

    network: nn.Module
    average: nn.Module
    optimizer: torch.optim.Optimizer
    step: int = 0


def save(state: State, folder: Path, *, identity: str) -> Path:
    """Write a checkpoint; an older one is removed only once the new one counts.

    Parameters
    ----------
    state : State
    folder : Path
    identity : str
        Hash of all that the run depends on; `restore` refuses another one.
    """
    tensors: dict[str, Tensor] = {}
    for name, module in (("network", state.network), ("average", state.average)):
        tensors.update({f"{name}.{key}": value.detach().cpu().clone() for key, value in module.state_dict().items()})
    for index, entry in state.optimizer.state_dict()["state"].items():
        tensors.update({f"optimizer.{index}.{key}": value.detach().cpu().clone() for key, value in entry.items()})
    path = folder / f"checkpoint-{state.step:07d}.safetensors"
    with atomic_path(path) as partial:
        save_file({key: value.contiguous() for key, value in tensors.items()}, partial)
    write_json(folder / POINTER, {"file": path.name, "step": state.step, "identity": identity})
    for old in folder.glob("checkpoint-*.safetensors"):
        if old != path:
            old.unlink()
    return path


def restore(state: State, folder: Path, *, identity: str) -> bool:
    """Load the checkpoint of a folder into `state`; False where there is none.

    Raises
    ------
    InputError
        It belongs to another run (CHI-IN-130) or is damaged (CHI-IN-131).
    """
    pointer = folder / POINTER
    if not pointer.is_file():
        return False
    try:
        note = json.loads(pointer.read_text())
        path = folder / Path(str(note["file"])).name
        if note["identity"] != identity:
            raise InputError(
                "CHI-IN-130",
                "the checkpoint in the output folder belongs to a run with other settings.",
                "Choose an empty output folder, or start over with --restart.",
                file=POINTER,
            )
        tensors = load_file(path)
        state.step = int(note["step"])
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise InputError(
            "CHI-IN-131",
            f"the checkpoint cannot be read ({type(error).__name__}).",
            "Start over with --restart.",
            file=POINTER,
        ) from error
    for name, module in (("network", state.network), ("average", state.average)):
        module.load_state_dict(_part(tensors, name))
    packed = state.optimizer.state_dict()
    entries: dict[int, dict[str, Tensor]] = {}
    for key, value in _part(tensors, "optimizer").items():
        index, field = key.split(".", 1)
        entries.setdefault(int(index), {})[field] = value
    packed["state"] = entries
    state.optimizer.load_state_dict(packed)
    return True


def _part(tensors: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    return {key.removeprefix(f"{name}."): value for key, value in tensors.items() if key.startswith(f"{name}.")}
