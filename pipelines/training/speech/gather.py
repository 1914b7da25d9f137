"""From a data set to samples: every interview read once a view, its features cached, its failures listed and left out."""

from __future__ import annotations

import math
import multiprocessing
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ....data.errors import ChiasmError, InputError, SeveralErrors
from ....data.interviews import Interview, InterviewSet
from ....data.spans import Span
from ...engine.memory import keep_freed_memory
from ...speech_recipe import SpeechRecipe
from ...stages.speech.cache import FeatureCache
from ...stages.speech.components import feature_hashes, load_encoders, load_listening
from ...stages.speech.features import extract, picture_maker
from ...stages.speech.hearing import Listener, Sources, View
from ...stages.speech.statistics import statistics_of
from .baselines import BaselineInput
from .batches import Sample

CODES: dict[str, str] = {
    "CHI-IN-246": "The data set has labels that are no classes of the recipe.",
    "CHI-IN-247": "Hardly any interview of the data set can be used.",
}
MAX_LOST = 0.5


@dataclass(frozen=True, kw_only=True)
class Excluded:
    """An interview that is left out, and why."""

    name: str
    code: str
    message: str


@dataclass(frozen=True, kw_only=True)
class Gathered:
    """A data set's interviews in one view.

    Parameters
    ----------
    keys : dict of str to str
        Interview -> entry of the cache.
    excluded : tuple of Excluded
    """

    keys: dict[str, str]
    excluded: tuple[Excluded, ...]


def check_labels(found: InterviewSet, recipe: SpeechRecipe) -> list[Interview]:
    """Return the interviews that have a label.

    Raises
    ------
    InputError
        ``CHI-IN-246``: labels that are no classes of the recipe.
    """
    labelled = [interview for interview in found.interviews if interview.label is not None]
    other = [interview for interview in labelled if interview.label not in recipe.classes]
    if other:
        names = sorted({str(interview.label) for interview in other})
        raise InputError(
            "CHI-IN-246",
            f"{len(other)} of {len(labelled)} interviews have the label {', '.join(names)}, which is no class of the recipe.",
            "Write `classes: [CN, MCI, AD]` into a copy of the recipe, or leave those persons out.",
        )
    return labelled


def sources_of(interview: Interview, root: Path) -> Sources:
    """Return an interview's files; names for messages are relative to the data set."""

    def name(path: Path | None) -> str:
        return path.relative_to(root).as_posix() if path is not None and path.is_relative_to(root) else ""

    return Sources(
        audio=interview.audio,
        transcript=interview.transcript,
        segments=interview.segments,
        audio_name=name(interview.audio),
        transcript_name=name(interview.transcript),
    )


def gather(
    interviews: Sequence[Interview],
    root: Path,
    recipe: SpeechRecipe,
    cache: FeatureCache,
    *,
    view: View = "participant",
    frozen: bool = True,
    jobs: int = 1,
    progress: Callable[[int, int], None] = lambda _done, _all: None,
) -> Gathered:
    """Make, or find in the cache, the features of every interview.

    Raises
    ------
    SeveralErrors
        More than half of the interviews cannot be used in the participant's view: something is wrong with the whole.
    """
    hashes = feature_hashes(recipe)
    keys: dict[str, str] = {}
    excluded: list[Excluded] = []
    todo: list[tuple[str, Sources, str]] = []
    for interview in interviews:
        sources = sources_of(interview, root)
        key = cache.key(sources, recipe, hashes, view=view, frozen=frozen)
        keys[interview.name] = key
        if not cache.has(key):
            todo.append((interview.name, sources, key))
    done = len(interviews) - len(todo)
    progress(done, len(interviews))
    errors: dict[str, ChiasmError] = {}
    for name, error in _made(todo, (recipe, cache.folder, view, frozen), jobs):
        done += 1
        progress(done, len(interviews))
        if error is not None:
            errors[name] = error
            del keys[name]
    excluded = [Excluded(name=name, code=error.code, message=error.message) for name, error in sorted(errors.items())]
    if view == "participant" and len(errors) > MAX_LOST * len(interviews):
        whole = InputError(
            "CHI-IN-247",
            f"{len(errors)} of {len(interviews)} interviews cannot be used.",
            "The first reasons follow; mend the data set or the recipe.",
        )
        raise SeveralErrors([whole, *list(errors.values())[:5]])
    return Gathered(keys=keys, excluded=tuple(excluded))


Settings = tuple[SpeechRecipe, Path, View, bool]


def _made(
    todo: Sequence[tuple[str, Sources, str]], settings: Settings, jobs: int
) -> Iterable[tuple[str, ChiasmError | None]]:
    if not todo:
        return
    if jobs == 1 or len(todo) < 2 * jobs:
        maker = _Maker(settings)
        try:
            for item in todo:
                yield item[0], maker.make(item)
        finally:
            maker.close()
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context, initializer=_begin, initargs=(settings,)) as pool:
        for item, error in zip(todo, pool.map(_make, todo, chunksize=2), strict=True):
            yield item[0], error


class _Maker:
    """What a process that makes features holds."""

    def __init__(self, settings: Settings) -> None:
        self.recipe, folder, self.view, self.frozen = settings
        keep_freed_memory()
        listening = load_listening(self.recipe)
        self.encoders = load_encoders(self.recipe)
        self.listener = Listener(self.recipe, listening.detector, listening.recogniser)
        self.pictures = picture_maker(self.recipe.audio)
        self.cache = FeatureCache(folder)

    def make(self, item: tuple[str, Sources, str]) -> ChiasmError | None:
        """Make one entry; an interview that cannot be used comes back as its error, and the others go on."""
        _, sources, key = item
        try:
            heard = self.listener.hear(sources, view=self.view)
            features = extract(heard, self.recipe, self.encoders, frozen=self.frozen, maker=self.pictures)
            self.cache.write(key, features)
        except ChiasmError as error:
            return error
        return None

    def close(self) -> None:
        self.listener.close()


_maker: _Maker | None = None


def _begin(settings: Settings) -> None:
    global _maker  # noqa: PLW0603 - one a process, as ProcessPoolExecutor wants it
    import torch

    torch.set_num_threads(1)
    _maker = _Maker(settings)


def _make(item: tuple[str, Sources, str]) -> ChiasmError | None:
    if _maker is None:
        raise RuntimeError("the process was not initialised")
    return _maker.make(item)


def read_samples(
    interviews: Iterable[Interview],
    keys: dict[str, str],
    cache: FeatureCache,
    classes: Sequence[str],
    *,
    view: View = "participant",
) -> dict[str, Sample]:
    """Read samples from the cache; interviews without an entry are left out."""
    samples = {}
    for interview in interviews:
        features = cache.read(keys[interview.name]) if interview.name in keys else None
        if features is not None:
            samples[interview.name] = Sample(
                name=interview.name,
                person=interview.person,
                label=classes.index(interview.label) if interview.label is not None else -1,
                mmse=math.nan if interview.mmse is None else interview.mmse,
                features=features,
                statistics=statistics_of(features, view),
            )
    return samples


def baseline_input(interview: Interview, sample: Sample) -> BaselineInput:
    """Return what the baselines see of a sample."""
    import numpy as np

    f = sample.features
    facts: dict[str, Any] = dict(f.facts)
    header = facts.get("header", {})
    acoustic = facts.get("acoustic")
    return BaselineInput(
        name=sample.name,
        person=sample.person,
        label=sample.label,
        text=" ".join(f.words) if f.has_text else None,
        speech=[Span(*pair) for pair in facts["speech"]] if f.has_audio else None,
        duration_s=facts["duration_s"] if f.has_audio else None,
        acoustic=np.asarray(acoustic, dtype=np.float64) if acoustic is not None else None,
        age=interview.age,
        sex=interview.sex,
        rate=header.get("rate_hz"),
        bits=header.get("bits"),
        channels=header.get("channels"),
        file_format=header.get("format", ""),
        counts=facts.get("counts", {}),
    )
