"""Cohorts in the layout of ADReSS-IS2020: synthetic persons describe a picture, in sound and in CHAT.

What differs between the groups is planted (`interview_markers`) and nothing else is: age, sex, voices, the microphone, the
room and the investigator come from the same distributions in both. Person i depends on the seed, on i, and on the size
of the cohort only. Nobody was recorded.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..atomic import write_bytes, write_json, write_text, write_tsv
from ..errors import RecipeError
from .interview_markers import HABITS, TRUTH, draw_markers, names
from .interview_scripts import (
    CLOSING,
    OPENING_PROMPT,
    PROMPTS,
    Utterance,
    counts,
    spoken,
    style_of,
    to_chat,
    write_script,
)
from .marker import FIELD
from .recording import NOTE, Track, chat_file, wav_file
from .speech_synthesis import Prosody, Samples, Synthesiser, Voice, choose, resample, speak, speak_often, with_prosody

CODES: dict[str, str] = {
    "CHI-RC-100": "a setting of a cohort of synthetic interviews is outside what is allowed",
    "CHI-RC-101": "the output folder of a cohort of synthetic interviews is not empty",
}

AGES = (52, 57, 62, 67, 72, 77)
"""Lowest ages of the brackets of five years in which the groups are matched."""

MEN_SHARE = 24 / 54
"""As in the training part of ADReSS-IS2020."""

EFFORT = 0.6
"""Size of the acoustic habit: coefficient of the first difference, its sign is the habit."""


@dataclass(frozen=True, kw_only=True)
class InterviewCohort:
    """Size and seed of a cohort of synthetic interviews.

    Parameters
    ----------
    train, test : int
        Persons; even, half of them patients.
    seed : int
    strength : float
        0 to 2: scales every planted effect; at 0 the groups differ in nothing but the label and the MMSE.
    rate : int
        Samples a second, 8000 to 48000.
    synthesiser : {'auto', 'espeak', 'formant'}
    chunks : bool
        Write ``Normalised_audio-chunks`` too, which takes as much space again.

    Raises
    ------
    RecipeError
        CHI-RC-100, every wrong setting at once.
    """

    train: int = 108
    test: int = 500
    seed: int = 0
    strength: float = 1.0
    rate: int = 16000
    synthesiser: Literal["auto", "espeak", "formant"] = "auto"
    chunks: bool = False

    def __post_init__(self) -> None:
        wrong = [
            f"{name} must be even and 2 to 2000, got {value}"
            for name, value in (("train", self.train), ("test", self.test))
            if not 2 <= value <= 2000 or value % 2
        ]
        if self.seed < 0:
            wrong.append(f"seed must be >= 0, got {self.seed}")
        if not 0.0 <= self.strength <= 2.0:
            wrong.append(f"strength must be 0 to 2, got {self.strength}")
        if not 8000 <= self.rate <= 48000:
            wrong.append(f"rate must be 8000 to 48000 Hz, got {self.rate}")
        if self.synthesiser not in ("auto", "espeak", "formant"):
            wrong.append("synthesiser must be auto, espeak or formant")
        if wrong:
            raise RecipeError("CHI-RC-100", "; ".join(wrong) + ".", "Give values inside these ranges.")


@dataclass(frozen=True, kw_only=True)
class Person:
    """One synthetic person.

    Parameters
    ----------
    name : str
        ``S001``; says nothing of the group.
    index : int
        Place in the cohort.
    split : {'train', 'test'}
    patient : bool
    sex : {'female', 'male'}
    age : int
    mmse : int or None
        None: not taken.
    markers : mapping of str to float
        As `interview_markers.draw_markers`.
    """

    name: str
    index: int
    split: Literal["train", "test"]
    patient: bool
    sex: Literal["female", "male"]
    age: int
    mmse: int | None
    markers: Mapping[str, float]


@dataclass(frozen=True, eq=False)
class Recording:
    """What a person said (the investigator's words are on the track only) and how all of it sounds."""

    track: Track
    script: list[Utterance]


def people(cohort: InterviewCohort) -> list[Person]:
    """Draw the persons of a cohort, training part first; groups are equal in size and matched in age and sex."""
    made: list[Person] = []
    for part, (split, n) in enumerate((("train", cohort.train), ("test", cohort.test))):
        rng = np.random.default_rng([cohort.seed, 1, part])
        order = rng.permutation(n)
        pair, patients = order // 2, order % 2 == 1
        # A pair is one patient and one control of one sex and one bracket of age.
        n_men = round(n / 2 * MEN_SHARE)
        brackets = rng.choice(AGES, n // 2)
        ages = brackets[pair] + rng.integers(0, 5, n)
        values = draw_markers(rng, patients, strength=cohort.strength)
        mmse = np.where(
            patients,
            np.clip(np.rint(27.0 - 9.0 * values["severity"] + 2.5 * rng.standard_normal(n)), 3, 28),
            np.clip(np.rint(29.0 + rng.standard_normal(n)), 24, 30),
        )
        missing = int(np.flatnonzero(~patients)[rng.integers(n // 2)]) if split == "train" else -1
        # Names have gaps, as in the original.
        numbers = np.sort(rng.choice(n + n // 2, n, replace=False)) + 1 + (cohort.train + cohort.train // 2) * part
        for i in range(n):
            made.append(
                Person(
                    name=f"S{numbers[i]:03d}",
                    index=len(made),
                    split="test" if part else "train",
                    patient=bool(patients[i]),
                    sex="male" if pair[i] < n_men else "female",
                    age=int(ages[i]),
                    mmse=None if i == missing else int(mmse[i]),
                    markers={name: float(column[i]) for name, column in values.items()},
                )
            )
    return made


def record(person: Person, cohort: InterviewCohort, synthesiser: Synthesiser) -> Recording:
    """Let a person describe the picture: the investigator asks, the person talks, both in one room."""
    nuisance, words, sound, room = (np.random.default_rng([cohort.seed, 2, person.index, i]) for i in range(4))
    script = write_script(style_of(person.markers, words), words)
    z = {name: float(np.clip(person.markers[name], -3.0, 3.0)) for name in names("audio")}
    voice = Voice(
        variant=f"{'m' if person.sex == 'male' else 'f'}{nuisance.integers(1, 6)}",
        pitch=int(nuisance.integers(30, 61)),
        words_per_minute=round(165 * np.exp(0.13 * z["speech_rate"] + 0.03 * nuisance.standard_normal())),
    )
    prosody = Prosody(
        jitter=0.012 * float(np.exp(0.5 * z["pitch_jitter"])),
        pitch_range=1.0 * float(np.exp(0.4 * z["pitch_range"])),
        shimmer=0.12 * float(np.exp(0.5 * z["shimmer"])),
        effort=EFFORT if person.markers[HABITS["audio"]] else -EFFORT,
    )
    asker = Voice(accent="en-gb", variant=("f4", "m7")[int(nuisance.integers(2))], words_per_minute=170)
    n_prompts, prompts = int(nuisance.integers(1, 3)), nuisance.permutation(len(PROMPTS))
    # How many prompts there are must not depend on how much is said: several may follow one utterance.
    asked_after = sorted((1 + nuisance.integers(0, len(script), n_prompts)).tolist())
    track = Track(cohort.rate)

    def ask(prompt: str) -> None:
        said = 0.7 * resample(speak_often(prompt, asker, synthesiser), cohort.rate)
        track.say("INV", f"{prompt} {'.' if prompt in (OPENING_PROMPT, CLOSING) else '?'}", said)

    track.wait(nuisance.uniform(0.4, 1.0))
    ask(OPENING_PROMPT)
    track.wait(nuisance.uniform(0.6, 1.4))
    for i, utterance in enumerate(script, 1):
        said = _pronounced(utterance, voice, prosody, sound, synthesiser=synthesiser, rate=cohort.rate)
        track.say("PAR", f"{to_chat(utterance)} .", said)
        track.wait(0.5 * float(np.exp(0.25 * z["pause_length"] + 0.35 * nuisance.standard_normal())))
        for j, after in enumerate(asked_after):
            if after == i:
                ask(PROMPTS[prompts[j]])
                track.wait(nuisance.uniform(0.5, 1.2))
    ask(CLOSING)
    track.wait(nuisance.uniform(0.4, 1.0))
    track.into_room(room, noise_db=nuisance.uniform(-40.0, -28.0), gain_db=nuisance.uniform(-33.0, -25.0))
    return Recording(track, script)


def _pronounced(
    utterance: Utterance,
    voice: Voice,
    prosody: Prosody,
    rng: np.random.Generator,
    *,
    synthesiser: Synthesiser,
    rate: int,
) -> Samples:
    parts = []
    for part in spoken(utterance):
        if isinstance(part, str):
            stretch = replace(voice, pitch=voice.pitch + int(rng.integers(-2, 3)))
            parts.append(resample(with_prosody(speak(part, stretch, synthesiser), prosody, rng), rate))
        else:
            parts.append(np.zeros(round(part * rate), dtype=np.float32))
    return np.concatenate(parts)


def write_adress(out: Path, cohort: InterviewCohort, *, workers: int = 0) -> list[str]:
    """Write a cohort in the layout of ADReSS-IS2020; what was planted goes to ``derivatives/truth/markers.tsv``.

    Parameters
    ----------
    out : Path
        New or empty.
    cohort : InterviewCohort
    workers : int
        Threads; 0 takes one a processor, at most 8. Files do not depend on it.

    Returns
    -------
    list of str
        Names, training part first.

    Raises
    ------
    RecipeError
        CHI-RC-101 where `out` holds something already.
    ToolError
        CHI-TL-011 where espeak-ng is asked for and is not installed.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RecipeError("CHI-RC-101", "the output folder is not empty.", "Give a new folder for the phantom cohort.")
    synthesiser = choose(cohort.synthesiser)
    persons = people(cohort)
    # First of all the mark: a tree that was left half-way must not pass for a real one.
    write_json(out / "dataset_description.json", _description(cohort, synthesiser))
    write_text(out / "README", _README)
    with ThreadPoolExecutor(workers or min(8, os.cpu_count() or 1)) as pool:
        rows = list(pool.map(lambda person: _write_person(out, person, cohort, synthesiser), persons))
    write_tsv(out / TRUTH, rows, list(rows[0]))
    for path, lines in _tables(persons):
        write_text(out / path, "".join(f"{line}\n" for line in lines))
    return [person.name for person in persons]


def _write_person(out: Path, person: Person, cohort: InterviewCohort, synthesiser: Synthesiser) -> dict[str, Any]:
    recording = record(person, cohort, synthesiser)
    track = recording.track
    group = ("cd" if person.patient else "cc",) if person.split == "train" else ()
    part = out / person.split
    write_bytes(
        part.joinpath("Full_wave_enhanced_audio", *group, f"{person.name}.wav"), wav_file(track.samples, cohort.rate)
    )
    for i, (start, end, samples) in enumerate(track.chunks("PAR") if cohort.chunks else (), 1):
        name = f"{person.name}-{i}-{start}-{end}.wav"
        write_bytes(part.joinpath("Normalised_audio-chunks", *group, name), wav_file(samples, cohort.rate))
    text = chat_file(person.name, person.age, person.sex, track.lines)
    write_text(part.joinpath("transcription", *group, f"{person.name}.cha"), text)
    pauses = [token.seconds for utterance in recording.script for token in utterance if token.kind == "pause"]
    row: dict[str, Any] = {
        "participant_id": person.name,
        "split": person.split,
        "group": "AD" if person.patient else "CN",
    }
    row |= {name: round(value, 6) for name, value in person.markers.items()}
    row |= {f"said_{name}": n for name, n in counts(recording.script).items()}
    return row | {"said_pause_s": round(sum(pauses), 3), "duration_s": round(len(track.samples) / cohort.rate, 3)}


def _tables(persons: list[Person]) -> Iterator[tuple[str, list[str]]]:
    """Write the tables as the original does: padded with spaces, sex in words or as 0 and 1, one score missing."""
    train, test = ([p for p in persons if p.split == split] for split in ("train", "test"))
    for folder, patient in (("cc", False), ("cd", True)):
        lines = ["ID   ; age ; gender ; mmse"]
        lines += [
            f"{p.name} ;  {p.age} ; {p.sex:<6} ;  {'NA' if p.mmse is None else p.mmse}"
            for p in train
            if p.patient is patient
        ]
        yield f"train/{folder}_meta_data.txt", lines
    sexes = {"male": 0, "female": 1}
    yield "test/meta_data.txt", ["ID   ; age; gender", *(f"{p.name} ; {p.age} ; {sexes[p.sex]}" for p in test)]
    yield (
        "test/meta_data_test.txt",
        [
            "ID   ; age; gender ; Label ; mmse",
            *(f"{p.name} ; {p.age} ; {sexes[p.sex]} ; {int(p.patient)} ; {p.mmse}" for p in test),
        ],
    )
    yield "test/test_results.txt", ["ID   ; Prediction", *(f"{p.name} ; " for p in test)]


def _description(cohort: InterviewCohort, synthesiser: Synthesiser) -> dict[str, Any]:
    return {
        "Name": "Phantom interviews in the layout of ADReSS-IS2020",
        "BIDSVersion": "1.10.0",
        "DatasetType": "raw",
        "GeneratedBy": [{"Name": "chiasm phantom", "Description": NOTE}],
        FIELD: True,
        "train": cohort.train,
        "test": cohort.test,
        "seed": cohort.seed,
        "strength": cohort.strength,
        "rate_hz": cohort.rate,
        "synthesiser": synthesiser,
    }


_README = f"""Phantom interviews
==================

{NOTE}
Made by `chiasm phantom adress` in the layout of ADReSS-IS2020. Labels, ages, scores, words and voices are drawn by a
program. What was planted in each person stands in derivatives/truth/markers.tsv; never train on it.
"""
