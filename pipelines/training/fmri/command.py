"""What `chiasm train` does with a recipe of images from fMRI: fit, score once on the test images, page, weights."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from .... import __version__
from ....data.atomic import write_json, write_tsv
from ....data.errors import InputError, RecipeError
from ....data.fmri.stimulus_splits import check_disjoint
from ....data.phantoms.marker import is_phantom
from ....encoders.target_spaces import TargetEncoder, target_space
from ...cohort import devices_of
from ...console import say
from ...engine.tensors import read_tensors
from ...engine.weights import WeightsFolder, check_synthetic, find
from ...fmri_recipe import FmriRecipe
from ...recipes import load_recipe
from ...stages.fmri.components import load_encoder, load_latents, load_maker, load_trained
from ..loop import EXIT_STOPPED, stop_signal
from .adaptation import adapt
from .export import export, scaler_tensors
from .fit import FitData, fit, forget
from .model import BrainModel, build_model, count_parameters
from .prepare import Prepared, TargetTable, chosen_subjects, needed_images, prepare, target_table
from .ridge_fit import fit_ridge_model
from .settings import FmriTraining, read_training
from .streams import TrialStream
from .study import run_study, show
from .validation import validator
from .warm_start import warm_start

CODES: dict[str, str] = {
    "CHI-RC-155": "A recipe of images from fMRI needs a data folder.",
    "CHI-RC-156": "A network of this kind cannot take up a new subject.",
    "CHI-RC-157": "No subject is left to train on.",
    "CHI-IN-348": "The weights that training begins with do not know a subject of the data, or knew it with other voxels.",
}


@dataclass(frozen=True, kw_only=True)
class BrainOptions:
    """What the command line asks for beside the recipe.

    Parameters
    ----------
    subjects : tuple of str
        Labels; empty: all.
    new_subject : str
        Adapt to it after training (or, with `start`, instead of it).
    hours : float, optional
    length : int, optional
        Sessions and training images: of the new subject where there is one, else of all.
    start : str
        Weights to begin with.
    epochs, seed : int, optional
        Instead of the recipe's.
    baselines : bool
    device : str
    restart : bool
    """

    subjects: tuple[str, ...] = ()
    new_subject: str = ""
    hours: float | None = None
    length: int | None = None
    start: str = ""
    epochs: int | None = None
    seed: int | None = None
    baselines: bool = True
    device: str = "auto"
    restart: bool = False


def train_fmri(recipe_name: str | Path, data: Path | None, out: Path, options: BrainOptions) -> int:
    """Train, score and write; return the exit code (0 done, 75 stopped and resumable)."""
    recipe = load_recipe(recipe_name)
    if not isinstance(recipe, FmriRecipe):
        raise TypeError("a recipe of images from fMRI")
    if data is None:
        raise RecipeError(
            "CHI-RC-155",
            f"recipe '{recipe.name}' trains on betas.",
            "Give their folder: chiasm train RECIPE DATA OUT. `chiasm phantom nsd DATA` makes a synthetic one.",
        )
    settings = _settings(recipe, options)
    device = devices_of(options.device, 1)[0]
    encoder = load_encoder(recipe, device)  # missing weights are said before anything is read
    start = find(_as_name(options.start)) if options.start else None
    if start is not None:
        check_synthetic(start.config, recipe.pipeline, is_phantom(data))
    if options.restart:
        for folder in (out / "fit", out / "adapt"):
            forget(folder)
    run = _Run(recipe, settings, data, out, options, device, encoder)
    with stop_signal() as stopped:
        trained = run.trained(start, stopped)
        if trained is None:
            say("Stopped. What is done is kept; the same command goes on from here.")
            return EXIT_STOPPED
    run.report(*trained)
    return 0


def _settings(recipe: FmriRecipe, options: BrainOptions) -> FmriTraining:
    block = dict(recipe.training or {})
    for name in ("epochs", "seed"):
        if getattr(options, name) is not None:
            block[name] = getattr(options, name)
    if not options.new_subject:
        block |= {name: getattr(options, name) for name in ("hours", "length") if getattr(options, name) is not None}
    if options.new_subject and recipe.network_kind in {"mindeye", "ridge"}:
        raise RecipeError(
            "CHI-RC-156",
            f"{'MindEye' if recipe.network_kind == 'mindeye' else 'ridge'} has no part that subjects share.",
            "Train it on the new subject itself, or take a MindEye2 or MindBridge recipe.",
        )
    return read_training(block, name=recipe.name)


def _as_name(start: str) -> str:
    return f"./{start}" if Path(start).is_dir() and not start.startswith(("./", "../", "~/", "/")) else start


class _Run:
    """One training on disk: ``betas/`` (gathered), ``fit/``, ``adapt/``, ``results.json``, ``report.html``, ``weights/``."""

    def __init__(
        self,
        recipe: FmriRecipe,
        settings: FmriTraining,
        root: Path,
        out: Path,
        options: BrainOptions,
        device: str,
        encoder: TargetEncoder,
    ) -> None:
        self.recipe, self.settings, self.root, self.out = recipe, settings, root, out
        self.options, self.device, self.encoder = options, device, encoder
        # Checked before anything is trained: the newcomer comes last.
        self.later = replace_settings(settings, recipe.name, hours=options.hours, length=options.length)
        self.start_sha256 = ""

    def trained(
        self, start: WeightsFolder | None, stopped: Callable[[], bool]
    ) -> tuple[BrainModel, Prepared, Mapping[str, torch.Tensor]] | None:
        """Train on the subjects, then adapt; None where it was stopped."""
        newcomer = chosen_subjects(self.root, [self.options.new_subject])[0] if self.options.new_subject else ""
        names = [name for name in chosen_subjects(self.root, self.options.subjects) if name != newcomer]
        carried: Mapping[str, torch.Tensor] = {}
        model: BrainModel | None = None
        if start is not None:
            model, self.start_sha256 = load_trained(self.recipe, start, self.device).model, start.sha256
            carried = read_tensors(start.files["scalers"]) if "scalers" in start.files else {}
            names = [name for name in names if name in model.n_voxels] if newcomer else names
        prepared, new = self._prepared(names, newcomer)
        if model is not None:
            check_known(model, prepared, new)
        if prepared is not None and (model is None or not newcomer):
            if model is None:
                torch.manual_seed(self.settings.seed)
                model = build_model(self.recipe, prepared.n_voxels).to(self.device)
            if self.settings.warm_start and model.kind == "mindeye2":
                warm_start(model, prepared, self._targets(prepared), self.settings)
            model = self._fit(model, prepared, stopped)
            carried = {**carried, **scaler_tensors(prepared)}
        if model is not None and new is not None:
            torch.manual_seed(
                self.later.seed
            )  # of the newcomer's fresh parameters: whatever was drawn, or resumed, before
            run = self._loop(stopped, self.out / "adapt")
            model = adapt(model, new, prepared, self.later, run=run)
        if model is None:
            return None
        scored = new or prepared
        if scored is None:
            raise ValueError("nobody was trained on")
        return model, scored, carried

    def _prepared(self, names: Sequence[str], newcomer: str) -> tuple[Prepared | None, Prepared | None]:
        """Open the subjects and the newcomer before anything is trained: what is wrong with either is said at once."""
        cache = self.out / "betas"
        if not names and (self.start_sha256 == "" or not newcomer):
            raise RecipeError("CHI-RC-157", "no subject is left to train on.", "Name others with --subjects.")
        prepared = prepare(self.root, names, self.recipe, self.settings, cache=cache) if names else None
        new = prepare(self.root, [newcomer], self.recipe, self.later, cache=cache) if newcomer else None
        check_disjoint(one.subject for group in (prepared, new) if group for one in group.subjects.values())
        return prepared, new

    def _fit(self, model: BrainModel, prepared: Prepared, stopped: Callable[[], bool]) -> BrainModel | None:
        say(
            f"{prepared.data.layout}: subjects {', '.join(prepared.subjects)}; "
            f"{sum(len(one.train) for one in prepared.subjects.values()):,} training images; "
            f"{self.recipe.network_kind}, {count_parameters(model):,} parameters on {self.device}."
        )
        if model.kind == "ridge":
            return fit_ridge_model(model, prepared, self._targets(prepared), self.settings)
        return self._loop(stopped, self.out / "fit")(model, prepared, self.settings)

    def _targets(self, prepared: Prepared) -> TargetTable:
        return target_table(self.encoder, prepared.stimuli, needed_images(prepared), folder=self.out / "features")

    def _latents(self, prepared: Prepared) -> TargetTable | None:
        encoder = load_latents(self.recipe, self.device)
        if encoder is None:
            return None
        space = target_space(self.recipe.low_level or "")
        table = target_table(encoder, prepared.stimuli, needed_images(prepared), folder=self.out / "features")
        return TargetTable(table.images, lambda places: space.as_latents(table(table.images[places])))

    def _loop(
        self, stopped: Callable[[], bool], folder: Path
    ) -> Callable[[BrainModel, Prepared, FmriTraining], BrainModel | None]:
        def run(model: BrainModel, prepared: Prepared, settings: FmriTraining) -> BrainModel | None:
            sources = {name: one.source for name, one in prepared.subjects.items()}
            stream = TrialStream(
                sources,
                batch_size=settings.batch_size,
                repeats=self.recipe.betas.train_repeats,
                seed=settings.seed,
            )
            targets = self._targets(prepared)
            data = FitData(stream=stream, targets=targets, latents=self._latents(prepared))
            identity = f"{self.recipe.sha256()}/{self.encoder.sha256}/{self.start_sha256}/{prepared.sha256()}"
            try:
                fitted = fit(
                    model,
                    data,
                    settings,
                    folder=folder,
                    identity=identity,
                    validate=validator(prepared, targets, self.recipe),
                    stopped=stopped,
                    tell=_progress(),
                )
            finally:
                stream.close()
            return fitted.model if fitted.finished else None

        return run

    def report(self, model: BrainModel, prepared: Prepared, carried: Mapping[str, torch.Tensor]) -> None:
        """Score on the test images, once; write table, page and weights."""
        from ...reports.fmri_study import write_fmri_study_report

        phantom = is_phantom(self.root)
        maker = load_maker(self.recipe, self.encoder, self.device)
        study = run_study(
            model,
            prepared,
            self.recipe,
            self.settings,
            maker,
            root=self.root if phantom else None,
            baselines=self.options.baselines,
        )
        results = {**self._about(prepared, phantom), **study.numbers}
        write_json(self.out / "results.json", results)
        write_tsv(self.out / "test_images.tsv", study.per_image, ("subject", "line", "image", "metric", "value"))
        about = {"phantom": phantom, "target_sha256": self.encoder.sha256, "scores": study.card, "carried": carried}
        weights = export(model, self.recipe, self.settings, prepared, self.out, about=about)
        pages = write_fmri_study_report(self.out, results, study.pictures)
        show(results)
        say(f"\nweights: {weights}\nreport: {pages[0]}")

    def _about(self, prepared: Prepared, phantom: bool) -> dict[str, Any]:
        data = prepared.data
        return {
            "recipe": {"name": self.recipe.name, "title": self.recipe.title, "sha256": self.recipe.sha256()},
            "data": {"layout": data.layout, "phantom": phantom, "notes": list(data.notes)},
            "betas": self.recipe.betas.model_dump(mode="json"),
            "reconstruction": self.recipe.reconstruction.model_dump(mode="json"),
            "settings": self.settings.model_dump(mode="json"),
            "network": {"kind": self.recipe.network_kind, **self.recipe.components["network"].parameters},
            "citations": list(self.recipe.citations),
            "methods": self.recipe.methods,
            "command": _command(self.recipe, self.options),
            "versions": {
                "chiasm": __version__,
                "python": platform.python_version(),
                **{name: importlib.metadata.version(name) for name in ("torch", "numpy")},
            },
        }


def check_known(model: BrainModel, prepared: Prepared | None, new: Prepared | None) -> None:
    """Refuse to go on with a model that has no place for the subjects.

    Raises
    ------
    InputError
        ``CHI-IN-348``.
    """
    unknown = [name for name in (prepared.subjects if prepared else ()) if name not in model.n_voxels]
    if unknown:
        raise InputError(
            "CHI-IN-348",
            f"the weights know subject {', '.join(model.n_voxels)}, and not {', '.join(unknown)}.",
            f"Adapt them, --new-subject {unknown[0]}, or name known ones with --subjects.",
        )
    for group in (prepared, new):
        for name, n_voxels in (group.n_voxels if group else {}).items():
            if model.n_voxels.get(name, n_voxels) != n_voxels:
                raise InputError(
                    "CHI-IN-348",
                    f"subject {name} has {n_voxels} voxels, and had {model.n_voxels[name]} when the weights were trained.",
                    "Use the mask that they were trained with, or give another person another label.",
                )


def replace_settings(settings: FmriTraining, name: str, **changes: Any) -> FmriTraining:
    """Return settings with some fields changed, checked again (``CHI-RC-150``)."""
    return read_training({**settings.model_dump(), **changes}, name=name)


def _command(recipe: FmriRecipe, options: BrainOptions) -> str:
    parts = [f"chiasm train {recipe.name} DATA OUT"]
    if options.subjects:
        parts.append("--subjects " + " ".join(options.subjects))
    for flag, value in (
        ("--new-subject", options.new_subject),
        ("--hours", options.hours),
        ("--length", options.length),
        ("--epochs", options.epochs),
        ("--seed", options.seed),
    ):
        if value not in (None, ""):
            parts.append(f"{flag} {value}")
    return " ".join(parts) + (" --from WEIGHTS" if options.start else "")


def _progress() -> Callable[[int, int, float], None]:
    """Say how far it is, at most every half minute and at the end."""
    import time

    last = [0.0]

    def tell(epoch: int, epochs: int, left: float) -> None:
        now = time.monotonic()
        if epoch == epochs or now - last[0] > 30:
            last[0] = now
            say(f"epoch {epoch} of {epochs}, about {left / 60:.1f} min left")

    return tell
