"""A study's fits: what each is, how one is run, and many of them at a time, each kept so that a stopped study goes on."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import random
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ....data.atomic import write_json
from ....data.errors import InputError
from ....data.interviews import Interview
from ....heads.two_stream import TwoStreamClassifier, TwoStreamConfig
from ...engine.components import configure
from ...evaluation.temperature import fit_temperature
from ...speech_recipe import SpeechRecipe
from ...stages.speech.cache import FeatureCache
from ...stages.speech.hearing import View
from .baselines import baseline_named
from .batches import Sample, widths_of
from .gather import baseline_input, read_samples
from .settings import SpeechTraining

CODES: dict[str, str] = {"CHI-IN-248": "A tensor of features holds NaN or infinity."}
RESULT = "result.json"
MODEL = "model.safetensors"


@dataclass(frozen=True, kw_only=True)
class FitSpec:
    """One fit; everything that its result depends on besides the features.

    Parameters
    ----------
    row : str
        Line of the table that it belongs to.
    kind : {'network', 'baseline'}
    seed : int
    part : str
        ``challenge``, ``fold-03`` ...: unique within row and seed.
    train, validation, test : tuple of str
        Names of interviews.
    view : str
        What is heard, see `hearing.View`.
    classifier : dict
        Parameters of `TwoStreamConfig`, of a network.
    baseline : str
        Name, of a baseline.
    permuted : bool
        Train (and stop) on labels that were dealt anew among the persons: a control.
    keep_model : bool
    """

    row: str
    kind: str = "network"
    seed: int
    part: str
    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]
    view: View = "participant"
    classifier: Mapping[str, Any] = field(default_factory=dict)
    baseline: str = ""
    permuted: bool = False
    keep_model: bool = False

    @property
    def folder(self) -> str:
        """Where it is kept, relative to the study."""
        slug = "".join(letter if letter.isalnum() else "-" for letter in self.row.lower())
        return f"fits/{slug}/seed-{self.seed:02d}/{self.part}"


@dataclass(frozen=True, eq=False, kw_only=True)
class FitResult:
    """What a fit says about its validation and test interviews.

    Parameters
    ----------
    spec : FitSpec
    names : dict of str to tuple of str
        ``validation`` and ``test`` -> interviews (those that could be used).
    logits : dict of str to ndarray, shape (n, K)
        Before temperature; of baselines, logarithms of probabilities.
    mmse : ndarray, shape (n,)
        Of the test interviews; NaN where the model has no such output.
    temperature : float
    epochs, best_epoch : int
    history : list of dict
    """

    spec: FitSpec
    names: Mapping[str, tuple[str, ...]]
    logits: Mapping[str, NDArray[np.float64]]
    mmse: NDArray[np.float64]
    temperature: float
    epochs: int = 0
    best_epoch: int = 0
    history: Sequence[Mapping[str, float]] = ()


@dataclass(frozen=True, eq=False, kw_only=True)
class FitData:
    """Where fits find their data: sent to every process once.

    Parameters
    ----------
    interviews : tuple of Interview
    keys : dict
        View -> interview -> entry of the cache.
    cache : Path
    recipe : SpeechRecipe
    settings : SpeechTraining
    out : Path
        The study's folder.
    """

    interviews: tuple[Interview, ...]
    keys: Mapping[str, dict[str, str]]
    cache: Path
    recipe: SpeechRecipe
    settings: SpeechTraining
    out: Path
    device: str = "cpu"


class Fitter:
    """Runs fits in one process; samples of a view are read once."""

    def __init__(self, data: FitData, stopped: Callable[[], bool] = lambda: False) -> None:
        self.data, self.stopped = data, stopped
        self._samples: dict[str, dict[str, Sample]] = {}
        self._who = {interview.name: interview for interview in data.interviews}
        self._encoders: Any = None
        self._hashes: dict[str, str] = {}

    def samples(self, view: View) -> dict[str, Sample]:
        """Return the samples of a view by name."""
        if view not in self._samples:
            cache = FeatureCache(self.data.cache)
            found = read_samples(self.data.interviews, self.data.keys[view], cache, self.data.recipe.classes, view=view)
            _check_finite(found.values())
            self._samples[view] = found
        return self._samples[view]

    def run(self, spec: FitSpec) -> bool:
        """Run a fit, or find its result; False where it was stopped before it was done."""
        folder = self.data.out / spec.folder
        identity = self.identity(spec)
        if read_result(folder, identity) is not None:
            return True
        samples = self.samples(spec.view)
        sides = {
            side: [samples[name] for name in getattr(spec, side) if name in samples]
            for side in ("train", "validation", "test")
        }
        if spec.permuted:
            sides |= _permuted(sides["train"], sides["validation"], spec.seed)
        check_sides(sides, spec, self.data.recipe.classes)
        done = self._baseline(spec, sides) if spec.kind == "baseline" else self._network(spec, sides, folder)
        if done is None:
            return False
        write_json(folder / RESULT, {"identity": identity, **done})
        return True

    def identity(self, spec: FitSpec) -> str:
        """Hash of everything that a fit's result depends on."""
        keys = self.data.keys[spec.view]
        used = [keys.get(name) for name in (*spec.train, *spec.validation, *spec.test)]
        learned = [self._who[name] for name in (*spec.train, *spec.validation)]
        labels = [[one.person, one.label, one.mmse] for one in learned]
        if spec.baseline == "metadata":
            labels += [[one.age, one.sex] for one in (*learned, *(self._who[name] for name in spec.test))]
        about = {**asdict(spec), "keep_model": None}
        settings = self.data.settings.model_dump(mode="json", exclude={"protocol", "folds", "seeds"})
        text = json.dumps([about, used, labels, settings, self.data.recipe.classes, self._start()], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def _start(self) -> dict[str, str]:
        """Return the hashes of the encoders that are trained; those of frozen ones are in the keys of the features."""
        if self.data.settings.encoders == "finetune" and not self._hashes:
            from ...stages.speech.components import encoder_folders

            self._hashes = {name: folder.sha256 for name, folder in encoder_folders(self.data.recipe).items()}
        return self._hashes

    def _baseline(self, spec: FitSpec, sides: Mapping[str, list[Sample]]) -> dict[str, Any]:
        inputs = {
            side: [replace(baseline_input(self._who[s.name], s), label=s.label) for s in sides[side]] for side in sides
        }
        baseline = baseline_named(spec.baseline, n_classes=len(self.data.recipe.classes))
        # Nothing is stopped early or calibrated here, so the validation persons are training persons.
        probability = baseline.fit_predict([*inputs["train"], *inputs["validation"]], inputs["test"], spec.seed)
        logits = np.log(np.clip(probability, 1e-6, 1.0))
        return {
            "names": {"validation": [], "test": [s.name for s in sides["test"]]},
            "logits": {"validation": [], "test": logits.round(7).tolist()},
            "mmse": [],
            "temperature": 1.0,
            "epochs": 0,
            "best_epoch": 0,
            "history": [],
        }

    def _network(self, spec: FitSpec, sides: Mapping[str, list[Sample]], folder: Path) -> dict[str, Any] | None:
        import torch

        from .fit import fit, predict
        from .network import SpeechNetwork

        recipe, settings = self.data.recipe, self.data.settings
        encoders = self._trained_encoders()
        everyone = [sample for side in sides.values() for sample in side]
        text_width, audio_width = widths_of(everyone, encoders)
        config = configure(
            TwoStreamConfig,
            {**spec.classifier, "text_width": text_width, "audio_width": audio_width, "classes": len(recipe.classes)},
            "two-stream",
        )
        _check_modalities(everyone, config)
        torch.manual_seed(spec.seed)
        network = SpeechNetwork(
            TwoStreamClassifier(config),
            encoders,
            tokens=recipe.audio.tokens,
            autocast=_autocast(settings, self.data.device) if encoders is not None else None,
        ).to(self.data.device)
        network.fit_statistics(sides["train"])
        done = fit(
            network,
            sides["train"],
            sides["validation"],
            settings,
            seed=spec.seed,
            folder=folder,
            identity=self.identity(spec),
            stopped=self.stopped,
        )
        if not done.finished:
            return None
        logits: dict[str, Any] = {}
        for side in ("validation", "test"):
            logits[side], mmse = predict(done.network, sides[side], device=self.data.device)
        truth = np.array([sample.label for sample in sides["validation"]])
        temperature = fit_temperature(logits["validation"], truth, persons=[s.person for s in sides["validation"]])
        if spec.keep_model:
            keep_model(done.network, folder / MODEL)
        return {
            "names": {side: [s.name for s in sides[side]] for side in ("validation", "test")},
            "logits": {side: logits[side].round(7).tolist() for side in logits},
            "mmse": [] if np.isnan(mmse).all() else mmse.round(5).tolist(),
            "temperature": temperature.value,
            "epochs": len(done.history),
            "best_epoch": done.best_epoch,
            "history": done.history,
        }

    def _trained_encoders(self) -> Any:
        if self.data.settings.encoders == "frozen":
            return None
        if self._encoders is None:
            from ...stages.speech.components import load_encoders

            self._encoders = load_encoders(self.data.recipe)
        return self._encoders


def keep_model(network: Any, path: Path) -> None:
    """Write a network's tensors."""
    from safetensors.torch import save_file

    from ....data.atomic import atomic_path

    with atomic_path(path) as temporary:
        save_file({k: v.detach().cpu().contiguous().clone() for k, v in network.state_dict().items()}, temporary)


def read_result(folder: Path, identity: str = "") -> FitResult | None:
    """Return a fit's result, or None where there is none or it belongs to another fit."""
    try:
        note = json.loads((folder / RESULT).read_text("utf-8"))
    except (OSError, ValueError):
        return None
    if identity and note.get("identity") != identity:
        return None
    return FitResult(
        spec=FitSpec(row="", seed=0, part="", train=(), validation=(), test=()),
        names={side: tuple(names) for side, names in note["names"].items()},
        logits={side: np.asarray(values, dtype=np.float64) for side, values in note["logits"].items()},
        mmse=np.asarray(note["mmse"], dtype=np.float64),
        temperature=float(note["temperature"]),
        epochs=int(note["epochs"]),
        best_epoch=int(note["best_epoch"]),
        history=note["history"],
    )


def check_sides(sides: Mapping[str, list[Sample]], spec: FitSpec, classes: Sequence[str]) -> None:
    """Refuse a fit whose sides are empty or lack a class, after interviews that cannot be used were left out.

    Raises
    ------
    InputError
        ``CHI-IN-181``, ``CHI-IN-182`` (see `chiasm.data.splits`).
    """
    for side, samples in sides.items():
        if not samples:
            raise InputError(
                "CHI-IN-182",
                f"{spec.row}, {spec.part}: no interview is left on the {side} side.",
                "Use fewer folds, or more persons.",
            )
        present = {sample.label for sample in samples}
        absent = [name for index, name in enumerate(classes) if index not in present]
        if absent and side != "test":
            raise InputError(
                "CHI-IN-181",
                f"{spec.row}, {spec.part}: the {side} side has no {', '.join(absent)}.",
                "Use fewer folds, or more persons.",
            )


def run_fits(
    specs: Sequence[FitSpec], data: FitData, *, jobs: int, done: Callable[[FitSpec], None], stopped: Callable[[], bool]
) -> bool:
    """Run fits, `jobs` at a time; False where it was stopped (what is done is kept).

    Parameters
    ----------
    specs : sequence of FitSpec
    data : FitData
    jobs : int
        Processes of one thread each.
    done : callable
        Called after each.
    stopped : callable
        True: begin no more.
    """
    if jobs == 1:
        fitter = Fitter(data, stopped)
        for spec in specs:
            if stopped() or not fitter.run(spec):
                return False
            done(spec)
        return True
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context, initializer=_begin, initargs=(data,)) as pool:
        futures = {pool.submit(_run, spec): spec for spec in specs}
        try:
            for future in as_completed(futures):
                if stopped():
                    return False
                future.result()
                done(futures[future])
        finally:  # after a stop or an error nothing more is begun
            pool.shutdown(wait=True, cancel_futures=True)
    return True


_fitter: Fitter | None = None


def _begin(data: FitData) -> None:
    global _fitter  # noqa: PLW0603 - one a process, as ProcessPoolExecutor wants it
    import signal

    import torch

    from ...engine.memory import keep_freed_memory

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides; a fit is short, and kept when done
    keep_freed_memory()
    torch.set_num_threads(1)
    _fitter = Fitter(data)


def _run(spec: FitSpec) -> bool:
    if _fitter is None:
        raise RuntimeError("the process was not initialised")
    return _fitter.run(spec)


def _permuted(train: list[Sample], validation: list[Sample], seed: int) -> dict[str, list[Sample]]:
    """Deal the labels anew among the persons of each side, so that no side loses a class; the test labels stay."""
    dealer = random.Random(1000 + seed)

    def relabelled(samples: list[Sample]) -> list[Sample]:
        label_of = {sample.person: sample.label for sample in samples}
        persons = sorted(label_of)
        dealt = [label_of[person] for person in persons]
        dealer.shuffle(dealt)
        new = dict(zip(persons, dealt, strict=True))
        return [replace(sample, label=new[sample.person]) for sample in samples]

    return {"train": relabelled(train), "validation": relabelled(validation)}


def _check_modalities(samples: Sequence[Sample], config: TwoStreamConfig) -> None:
    if config.modality_dropout:
        return
    wanted = {"both": ("text", "audio"), "text": ("text",), "audio": ("audio",)}[config.streams]
    there = {"text": [s.features.has_text for s in samples], "audio": [s.features.has_audio for s in samples]}
    for name in wanted:
        if not all(there[name]):
            what = {"text": "transcript", "audio": "recording"}[name]
            raise InputError(
                "CHI-IN-241",
                f"{there[name].count(False)} of {len(samples)} interviews have no {what}.",
                "Add them, leave those interviews out, or set the classifier's modality_dropout above 0.",
            )


def _check_finite(samples: Any) -> None:
    import torch

    for sample in samples:
        for name in ("text_tokens", "audio_tokens", "pixels"):
            value = getattr(sample.features, name)
            if value is not None and not bool(torch.isfinite(value).all()):
                raise InputError(
                    "CHI-IN-248",
                    f"the features ({name}) of an interview hold NaN or infinity.",
                    "Remove the feature cache and look at the recording.",
                    file=sample.name,
                )


def _autocast(settings: SpeechTraining, device: str) -> Any:
    import torch

    from ...cohort import has_bfloat16

    wanted = settings.precision == "bfloat16" or (settings.precision == "auto" and has_bfloat16(device))
    return torch.bfloat16 if wanted else None
