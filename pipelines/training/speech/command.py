"""What `chiasm train` does with a dementia recipe: a study, with its baselines and controls, its report and its weights."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .... import __version__
from ....data.atomic import write_json
from ....data.datasets.interviews import labelled_interviews
from ....data.errors import RecipeError
from ....data.interviews import Interview, InterviewSet
from ....data.phantoms.marker import is_phantom
from ...console import say, table
from ...recipes import load_recipe, recipe_base, recipe_names
from ...speech_recipe import SpeechRecipe
from ...stages.speech.cache import FeatureCache
from ...stages.speech.components import encoder_folders
from ...stages.speech.hearing import View
from ...stages.speech.installed import check_installed
from ..loop import EXIT_STOPPED, stop_signal
from .export import export
from .fits import FitData, FitSpec, Fitter, read_result, run_fits
from .gather import Excluded, check_labels, gather, read_samples
from .protocol import Row, chosen_protocol, on_view, plan_rows
from .results import Answered, durations_of, results_of, write_predictions
from .settings import Protocol, SpeechTraining, read_speech_training

CODES: dict[str, str] = {
    "CHI-RC-121": "A dementia recipe needs a data folder.",
    "CHI-RC-122": "A variant whose features are not those of the recipe cannot stand in its ablation table.",
    "CHI-RC-123": "A Whisper encoder is asked to be trained from end to end; it is used frozen.",
}


@dataclass(frozen=True, kw_only=True)
class StudyOptions:
    """What the command line asks for beside the recipe.

    Parameters
    ----------
    seeds : tuple of int
        Instead of the recipe's; empty: the recipe's.
    protocol : str
        Instead of the recipe's; empty: the recipe's.
    folds : int, optional
    control_seeds : int
        Of every control; 0 leaves them out, and the report says so.
    ablation : bool
        Also every recipe that is a variant of this one.
    jobs : int
        Processes; 0: one a core, but not more than 8.
    cache : Path, optional
        Of features; default OUT/features.
    device : str
    restart : bool
        Forget what OUT holds of earlier fits.
    """

    seeds: tuple[int, ...] = ()
    protocol: str = ""
    folds: int | None = None
    control_seeds: int = 20
    ablation: bool = False
    jobs: int = 0
    cache: Path | None = None
    device: str = "cpu"
    restart: bool = False


def train_dementia(recipe_name: str | Path, data: Path | None, out: Path, options: StudyOptions) -> int:
    """Run a study; return the exit code (0 done, 75 stopped and resumable)."""
    recipe = load_recipe(recipe_name)
    if not isinstance(recipe, SpeechRecipe):
        raise TypeError("a dementia recipe")
    if data is None:
        raise RecipeError(
            "CHI-RC-121",
            f"recipe '{recipe.name}' trains on interviews.",
            "Give their folder: chiasm train RECIPE DATA OUT. `chiasm phantom adress DATA` makes a synthetic one.",
        )
    settings = _settings(recipe, options)
    if options.restart and (out / "fits").is_dir():
        shutil.rmtree(out / "fits")
    check_installed()
    encoder_folders(recipe)  # missing weights are said before anything is read
    found = labelled_interviews(data)
    labelled = check_labels(found, recipe)
    protocol = chosen_protocol(found, settings.protocol)
    variants = _variants(recipe) if options.ablation else {}
    with stop_signal() as stopped:
        study = _Study(recipe, settings, found, labelled, out, options, protocol)
        say(
            f"{found.layout}: {len(labelled)} interviews of {len({i.person for i in labelled})} persons. Protocol: {protocol}."
        )
        if not (study.read("participant", stopped) and study.plan(variants, stopped) and study.run(stopped)):
            say("Stopped. What is finished is kept; the same command goes on from here.")
            return EXIT_STOPPED
    study.report(data)
    return 0


def _settings(recipe: SpeechRecipe, options: StudyOptions) -> SpeechTraining:
    block = dict(recipe.training or {})
    if options.seeds:
        block["seeds"] = options.seeds
    if options.protocol:
        block["protocol"] = options.protocol
    if options.folds is not None:
        block["folds"] = options.folds
    settings = read_speech_training(block, name=recipe.name)
    if settings.encoders == "finetune" and recipe.components["audio"].kind == "whisper-encoder":
        raise RecipeError(
            "CHI-RC-123",
            f"recipe '{recipe.name}', training.encoders: finetune trains on batches of pictures, and Whisper hears samples, "
            "in windows of 30 s, which no batch holds.",
            "Write `encoders: frozen`, or take an image-transformer for the audio.",
        )
    return settings


def _variants(recipe: SpeechRecipe) -> dict[str, dict[str, Any]]:
    """Return the classifiers of the shipped variants that see the same features."""
    found: dict[str, dict[str, Any]] = {}
    for name in recipe_names():
        if recipe_base(name) != recipe.name:
            continue
        variant = load_recipe(name)
        same = isinstance(variant, SpeechRecipe) and all(
            getattr(variant, field) == getattr(recipe, field) for field in ("audio", "transcript", "classes")
        )
        same = same and all(variant.components[part] == recipe.components[part] for part in ("text", "audio"))
        parameters = dict(variant.components["classifier"].parameters)
        if same and parameters != dict(recipe.components["classifier"].parameters):
            found[name] = parameters
    return found


class _Study:
    """One study on disk: ``features/``, ``fits/``, ``results.json``, ``predictions.tsv``, ``report.html``, ``weights/``."""

    def __init__(
        self,
        recipe: SpeechRecipe,
        settings: SpeechTraining,
        found: InterviewSet,
        labelled: Sequence[Interview],
        out: Path,
        options: StudyOptions,
        protocol: Protocol,
    ) -> None:
        self.recipe, self.settings, self.found, self.labelled = recipe, settings, found, list(labelled)
        self.out, self.options, self.protocol = out, options, protocol
        self.cache = FeatureCache(options.cache or out / "features")
        self.who = {interview.name: interview for interview in labelled}
        self.jobs = options.jobs or min(8, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1)
        self.rows: list[Row] = []
        self.keys: dict[str, dict[str, str]] = {}
        self.excluded: dict[str, tuple[Excluded, ...]] = {}
        self.notes: list[str] = []

    def read(self, view: View, stopped: Callable[[], bool]) -> bool:
        """Make the features of a view; interviews that it does not have are left out and listed."""
        self.out.mkdir(parents=True, exist_ok=True)
        if stopped():
            return False
        gathered = gather(
            self.labelled,
            self.found.root,
            self.recipe,
            self.cache,
            view=view,
            frozen=self.settings.encoders == "frozen",
            jobs=self.jobs,
            progress=_progress(f"features ({view})"),
        )
        self.keys[view], self.excluded[view] = gathered.keys, gathered.excluded
        if view == "participant":
            for lost in gathered.excluded[:10]:
                say(f"  left out: {lost.name} [{lost.code}] {lost.message}")
            # Before the split: a fold is made of interviews that can be read, so that no class of it is lost afterwards.
            self.labelled = [interview for interview in self.labelled if interview.name in gathered.keys]
            kept = [i for i in self.found.interviews if i.label is None or i.name in gathered.keys]
            self.found = replace(self.found, interviews=kept)
        return True

    def plan(self, variants: dict[str, dict[str, Any]], stopped: Callable[[], bool]) -> bool:
        """List the rows of the table, and make the features of every other view that they hear."""
        rows = plan_rows(
            self.found,
            self.recipe,
            self.settings,
            protocol=self.protocol,
            control_seeds=self.options.control_seeds,
            variants=variants,
        )
        for view in dict.fromkeys(row.view for row in rows):
            if view not in self.keys and not self.read(view, stopped):
                return False
        for row in rows:
            lost = {one.name for one in self.excluded[row.view]} if row.view != "participant" else set()
            kept = [interview for interview in self.found.interviews if interview.name not in lost]
            there = on_view(row, replace(self.found, interviews=kept), self.settings, self.protocol) if lost else row
            if there is None:
                note = f"'{row.name}' was not run: {len(lost)} of {len(self.found.interviews)} interviews lack what it hears."
                self.notes.append(note)
                say(note)
            else:
                self.rows.append(there)
        return True

    def data(self) -> FitData:
        """Return what fits need."""
        return FitData(
            interviews=tuple(self.labelled),
            keys=self.keys,
            cache=self.cache.folder,
            recipe=self.recipe,
            settings=self.settings,
            out=self.out,
            device=self.options.device,
        )

    def run(self, stopped: Callable[[], bool]) -> bool:
        """Run every fit that has no result yet."""
        fitter = Fitter(self.data())
        specs = [spec for row in self.rows for spec in row.fits]
        todo = [spec for spec in specs if read_result(self.out / spec.folder, fitter.identity(spec)) is None]
        count = [len(specs) - len(todo)]
        progress = _progress("fits")
        progress(count[0], len(specs))

        def done(_: FitSpec) -> None:
            count[0] += 1
            progress(count[0], len(specs))

        return run_fits(todo, self.data(), jobs=min(self.jobs, max(1, len(todo))), done=done, stopped=stopped)

    def answered(self) -> list[Answered]:
        """Read every row's results."""
        fitter = Fitter(self.data())
        rows = []
        for row in self.rows:
            results = []
            for spec in row.fits:
                result = read_result(self.out / spec.folder, fitter.identity(spec))
                if result is None:
                    raise RuntimeError(f"{spec.folder} has no result")
                results.append((spec, result))
            rows.append(Answered(row=row, results=tuple(results)))
        return rows

    def report(self, data: Path) -> None:
        """Write table, predictions, page and weights."""
        from ...reports.study import write_study_report

        rows = self.answered()
        samples = read_samples(self.labelled, self.keys["participant"], self.cache, self.recipe.classes)
        numbers = results_of(
            rows,
            self.who,
            self.recipe.classes,
            durations_of(samples),
            error_rate=self.recipe.answer.error_rate,
            control_seeds=self.options.control_seeds,
        )
        phantom = is_phantom(data)
        study = {**self._about(phantom), **numbers}
        write_json(self.out / "results.json", study)
        write_predictions(self.out / "predictions.tsv", rows, self.who, self.recipe.classes)
        summary = {
            f"{line['name']} ({line['kind']}), accuracy": _interval(line["scores"]["accuracy"])
            for line in study["rows"]
        }
        weights = export(rows[0], self.who, self.recipe, self.settings, self.out, phantom=phantom, summary=summary)
        pages = write_study_report(self.out, study)
        _show(study)
        say(f"\nweights: {weights}\nreport: {pages[0]}")

    def _about(self, phantom: bool) -> dict[str, Any]:
        shares = {
            side or "all": {
                label: len({i.person for i in self.labelled if i.label == label and i.split == side})
                for label in self.recipe.classes
            }
            for side in sorted({i.split for i in self.labelled})
        }
        command = f"chiasm train {self.recipe.name} DATA OUT --protocol {self.protocol} --seeds {' '.join(map(str, self.settings.seeds))}"
        if self.options.control_seeds != 20:
            command += f" --control-seeds {self.options.control_seeds}"
        return {
            "recipe": {"name": self.recipe.name, "title": self.recipe.title, "sha256": self.recipe.sha256()},
            "data": {
                "layout": self.found.layout,
                "phantom": phantom,
                "persons": shares,
                "n_interviews": len(self.labelled),
                "notes": list(self.found.notes),
            },
            "classes": list(self.recipe.classes),
            "protocol": self.protocol,
            "folds": self.settings.folds if self.protocol == "k-fold" else None,
            "seeds": list(self.settings.seeds),
            "control_seeds": self.options.control_seeds,
            "settings": self.settings.model_dump(mode="json"),
            "classifier": dict(self.recipe.components["classifier"].parameters),
            "excluded": {
                view: [{"name": one.name, "code": one.code, "message": one.message} for one in lost]
                for view, lost in self.excluded.items()
            },
            "notes": self.notes,
            "command": command + (" --ablation" if self.options.ablation else ""),
            "versions": {
                "chiasm": __version__,
                "python": platform.python_version(),
                **{
                    name: importlib.metadata.version(name)
                    for name in ("torch", "transformers", "scikit-learn", "numpy")
                },
            },
        }


def _progress(what: str) -> Callable[[int, int], None]:
    """Say how far it is, at most every half minute and at the end."""
    import time

    last = [0.0]

    def progress(done: int, total: int) -> None:
        now = time.monotonic()
        if total and (done == total or now - last[0] > 30):
            last[0] = now
            say(f"{what}: {done} of {total}")

    return progress


def _interval(score: dict[str, Any]) -> str:
    if score["value"] is None:
        return "n/a"
    if score["low"] is None:
        return f"{score['value']:.3f}"
    return f"{score['value']:.3f} [{score['low']:.3f}, {score['high']:.3f}]"


def _show(study: dict[str, Any]) -> None:
    lines = []
    for line in study["rows"]:
        verdict = ""
        if line["chance"]:
            verdict = (
                "CONFOUNDED"
                if line["chance"]["confounded"]
                else "at chance"
                if line["chance"]["at_chance"]
                else "below chance"
            )
        elif line["difference"]:
            first = line["difference"][0]
            verdict = f"model {first['value']:+.3f} [{first['low']:+.3f}, {first['high']:+.3f}]"
        lines.append(
            [
                line["name"],
                line["kind"],
                str(line["n_runs"]),
                *(_interval(line["scores"][m]) for m in ("accuracy", "f1", "auc")),
                verdict,
            ]
        )
    say()
    say(table(["row", "kind", "runs", "accuracy", "F1", "AUC", "against the model / chance"], lines))
    if study["confounded"]:
        say(f"\nCONFOUNDED: {', '.join(study['confounded'])} above chance. The scores above may not be about dementia.")
