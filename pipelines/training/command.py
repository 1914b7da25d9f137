"""What `chiasm train` does: recipe and data in; checkpoints, log, picture and a weights folder out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ...data.atomic import write_json
from ...data.datasets import labelled_cases
from ...data.errors import RecipeError, ResourceError
from ...data.phantoms.label_maps import template_maps
from ...data.phantoms.marker import is_phantom
from ...data.recognition import ChannelRule
from ..engine.components import build_network
from ..engine.memory import keep_freed_memory
from ..engine.tensors import fill, read_tensors, write_folder
from ..engine.weights import find
from ..recipes import Recipe, segmentation_recipe
from .cases import CaseSource, PreparedCase, prepare_cases
from .checkpoints import POINTER
from .folds import held_out
from .generated import GeneratedSource, fixed_volumes
from .loop import EXIT_STOPPED, LOG, HowToRun, SampleSource, Validate, train_network
from .picture import draw_loss
from .prior import expect_rarely
from .settings import Generator, TrainingSettings, read_settings
from .validation import case_volumes, score_volumes

CODES: dict[str, str] = {
    "CHI-RC-082": "The recipe trains on real cases and no data folder was given.",
    "CHI-RC-083": "The fold is neither a number nor 'all'.",
    "CHI-RES-040": "The device asked for is not there.",
}


def train(
    recipe_name: str | Path,
    data: Path | None,
    out: Path,
    *,
    device: str = "auto",
    seed: int | None = None,
    resume: bool = True,
    steps: int | None = None,
    fold: str | None = None,
) -> int:
    """Train a recipe's network; return the exit code (0 done, 75 stopped and resumable).

    Parameters
    ----------
    recipe_name : str or Path
        A recipe's name or file; its `training:` block sets everything else.
    data : Path, optional
        BraTS, nnU-Net raw or Decathlon folder; None for recipes that generate their samples.
    out : Path
        Made where missing. A checkpoint in it is continued.
    device : str
        ``auto``, ``cpu``, ``cuda:0`` ...
    seed : int, optional
        Instead of the recipe's.
    resume : bool
        False: start over, the checkpoint and log in `out` are removed.
    steps : int, optional
        Stop after so many steps in all; the schedule stays that of the whole run.
    fold : str, optional
        A number: hold that fold out. ``all``: train on every case. None: each fold in turn, in ``OUT/fold-<k>``.
    """
    recipe = segmentation_recipe(recipe_name)
    settings = read_settings(recipe.training, name=recipe.name)
    if seed is not None:
        settings = settings.model_copy(update={"seed": seed})
    where = _device(device)
    how = HowToRun(device=where, until=steps, workers=0 if where == "cpu" else 8)
    keep_freed_memory()
    out.mkdir(parents=True, exist_ok=True)
    if settings.generator is not None:
        return _from_generator(recipe, settings, settings.generator, Place(out, resume), how)
    if data is None:
        message = f"recipe '{recipe.name}' trains on real cases."
        raise RecipeError("CHI-RC-082", message, "Give the data folder: chiasm train RECIPE DATA OUT.")
    cases = _cases(data, recipe, out)
    for name in [fold] if fold is not None else [str(k) for k in range(settings.folds)]:
        place = Place(out if fold is not None else out / f"fold-{name}", resume)
        code = _one_fold(recipe, settings, cases, name, place, how, phantom=is_phantom(data))
        if code:
            return code
    return 0


@dataclass(frozen=True)
class Place:
    """Where a network's training is kept, and whether what is there is continued."""

    folder: Path
    resume: bool

    def clear(self) -> None:
        """Remove checkpoint and log, so that training starts over."""
        for path in [self.folder / POINTER, self.folder / LOG, *self.folder.glob("checkpoint-*.safetensors")]:
            path.unlink(missing_ok=True)


def _from_generator(
    recipe: Recipe, settings: TrainingSettings, generator: Generator, place: Place, how: HowToRun
) -> int:
    maps = template_maps()
    source = GeneratedSource(maps, generator, seed=settings.seed)
    fixed = generator.validation
    validate = _validator(lambda: fixed_volumes(maps, generator, fixed), recipe, how.device) if fixed else None
    return _one_run(recipe, settings, source, place, how, validate, {"generated": True})


def _cases(data: Path, recipe: Recipe, out: Path) -> list[PreparedCase]:
    rules = {
        name: ChannelRule(suffixes=spec.suffixes, keywords=spec.keywords, optional=spec.optional)
        for name, spec in recipe.channels.items()
        if name != "mask"
    }
    return prepare_cases(labelled_cases(data, rules), recipe, out / "prepared")


def _one_fold(
    recipe: Recipe,
    settings: TrainingSettings,
    cases: Sequence[PreparedCase],
    fold: str,
    place: Place,
    how: HowToRun,
    *,
    phantom: bool,
) -> int:
    if fold == "all":
        apart: frozenset[str] = frozenset()
    elif fold.isdigit():
        patients = [case.patient for case in cases]
        apart = held_out(patients, folds=settings.folds, fold=int(fold), seed=settings.seed)
    else:
        raise RecipeError("CHI-RC-083", f"'{fold}' is no fold.", f"Give 'all' or 0 to {settings.folds - 1}.")
    training = [case for case in cases if case.patient not in apart]
    waiting = [case for case in cases if case.patient in apart]
    place.folder.mkdir(parents=True, exist_ok=True)
    write_json(
        place.folder / "split.json", {"training": [c.name for c in training], "validation": [c.name for c in waiting]}
    )
    validate = _validator(lambda: case_volumes(waiting), recipe, how.device) if waiting else None
    about = {"fold": fold, "n_cases": len(training), "cases_sha256": _hash([case.name for case in training])}
    about |= {"phantom": True} if phantom else {}
    return _one_run(recipe, settings, CaseSource(training, recipe, settings), place, how, validate, about)


def _one_run(
    recipe: Recipe,
    settings: TrainingSettings,
    source: SampleSource,
    place: Place,
    how: HowToRun,
    validate: Validate | None,
    about: dict[str, Any],
) -> int:
    """Train one network in one folder, then write scores, picture and weights."""
    if not place.resume:
        place.clear()
    out = place.folder
    identity = _hash([recipe.components["network"].model_dump(mode="json"), about])
    network = initial_network(recipe, settings)
    outcome = train_network(network, source, settings, out, how=how, identity=identity, validate=validate)
    if outcome.finished and validate is not None:
        write_json(out / "validation.json", validate(outcome.average, outcome.step))
    draw_loss(out / LOG, out / "loss.png")
    _export(outcome.average, outcome.step, recipe, settings, out, {**about, "device": how.device})
    asked = settings.steps if how.until is None else min(how.until, settings.steps)
    return 0 if outcome.step >= asked else EXIT_STOPPED


def initial_network(recipe: Recipe, settings: TrainingSettings) -> nn.Module:
    """Build the recipe's network with weights drawn from the seed, or with `settings.initial`."""
    spec = recipe.components["network"]
    parameters = dict(spec.parameters)
    if spec.kind == "unet3d" and settings.deep_supervision:
        parameters["deep_supervision"] = True
    torch.manual_seed(settings.seed)
    network = build_network(spec.kind, parameters)
    if recipe.regions:
        expect_rarely(network, len(recipe.regions))
    if settings.initial:
        folder = find(settings.initial)
        fill(network, read_tensors(folder.files["model"]), folder.name)
    return network


def _export(
    network: nn.Module, step: int, recipe: Recipe, settings: TrainingSettings, out: Path, about: dict[str, Any]
) -> None:
    spec = recipe.components["network"]
    # Heads of deep supervision are for training only.
    tensors = {key: value for key, value in network.state_dict().items() if not key.startswith("extra_heads.")}
    config = {
        "kind": spec.kind,
        "parameters": spec.parameters,
        "channels": [name for name in recipe.channels if name != "mask"],
        "output": [region.name for region in recipe.regions] or ["background", *recipe.labels.values()],
        "training": {**about, "steps": step, "seed": settings.seed, "precision": settings.precision},
        "training_data": "synthetic" if settings.generator is not None or about.get("phantom") else "real",
        # What was learnt from planted signals may not speak about a person; generated contrasts of real anatomy may.
        "statement": "person" if about.get("phantom") else "anatomy",
        "licence": "Apache-2.0" if settings.generator is not None else "that of the training data",
        "source": f"chiasm train {recipe.name}",
    }
    card = (
        f"# {recipe.title}\n\nTrained by `chiasm train {recipe.name}` for {step} steps on {about['device']} "
        f"({settings.precision}). See `config.json`. Research use only; not a medical device.\n"
    )
    write_folder(out / "weights", {"model": tensors}, config, card, half=True)


def _validator(volumes: Any, recipe: Recipe, device: str) -> Validate:
    def validate(network: nn.Module, step: int) -> dict[str, float]:
        return score_volumes(network, volumes(), recipe, device=device)

    return validate


def _device(name: str) -> str:
    if name == "auto":
        return "cuda:0" if torch.cuda.is_available() else "cpu"
    try:
        kind = torch.device(name).type
    except RuntimeError:
        kind = ""
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}.get(kind, False)
    if not there:
        raise ResourceError("CHI-RES-040", f"device '{name}' is not there.", "Use --device auto or cpu.")
    return name


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()
