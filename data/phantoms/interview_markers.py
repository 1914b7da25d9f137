"""What is planted in the synthetic interviews, fixed before any model was trained on them, and what it can yield.

A marker is a number ``z`` for each person: standard normal in controls, shifted by ``effect * strength * severity`` in
the other group, independent of all other markers. How ``z`` becomes words and sound is in `interview_scripts` and
`interviews`. One more part is in neither stream alone: two habits, each as frequent in both groups, that differ from
each other in most patients and agree in most controls.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ..errors import RecipeError

CODES: dict[str, str] = {
    "CHI-RC-102": "a folder of interviews has no readable table of what was planted (it is no phantom of this program)",
}

TRUTH = Path("derivatives") / "truth" / "markers.tsv"
"""Where a cohort keeps what was planted."""

Stream = Literal["text", "audio"]
Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Marker:
    """One planted marker.

    Parameters
    ----------
    name : str
    stream : {'text', 'audio'}
        Where it is: in the words, or only in the sound.
    effect : float
        Shift in patients of mean severity at strength 1, in standard deviations of the controls (Cohen's d).
    direction : str
        Who reports that patients differ in this direction.
    size : str
        Where the size comes from; ``chosen``: by us, for overlap.
    """

    name: str
    stream: Stream
    effect: float
    direction: str
    size: str = "chosen"


MARKERS: tuple[Marker, ...] = (
    Marker(name="pronouns", stream="text", effect=0.75, direction="Bucks et al. 2000; Fraser et al. 2016"),
    Marker(name="information_units", stream="text", effect=-0.90, direction="Croisile et al. 1996; Giles et al. 1996"),
    Marker(name="vocabulary", stream="text", effect=-0.60, direction="Bucks et al. 2000"),
    Marker(name="repetitions", stream="text", effect=0.55, direction="Nicholas et al. 1985"),
    Marker(name="fillers", stream="text", effect=0.40, direction="chosen"),
    Marker(name="revisions", stream="text", effect=0.40, direction="chosen"),
    Marker(name="utterance_length", stream="text", effect=-0.50, direction="Croisile et al. 1996"),
    Marker(name="pause_count", stream="audio", effect=0.75, direction="Gayraud et al. 2011"),
    Marker(name="pause_length", stream="audio", effect=0.75, direction="Pastoriza-Dominguez et al. 2022"),
    Marker(name="speech_rate", stream="audio", effect=-0.75, direction="Hoffmann et al. 2010"),
    Marker(name="pitch_jitter", stream="audio", effect=0.50, direction="chosen"),
    Marker(name="pitch_range", stream="audio", effect=-0.45, direction="Horley et al. 2010"),
    Marker(name="shimmer", stream="audio", effect=0.35, direction="Meilan et al. 2014"),
)
"""The table. Fillers, repetitions and revisions are spoken too: a recogniser of words can read them from the sound."""

HABITS: Mapping[Stream, str] = {"text": "habit_opener", "audio": "habit_voice"}
"""Each held by half of either group, whatever the strength."""

HABITS_DIFFER = 0.85
"""Share of patients whose two habits differ, and of controls whose two habits agree, at strength 1."""

SEVERITY = (0.3, 1.7)
"""Range of the severity of patients (uniform, mean 1); controls have none."""


def habits_differ(strength: float) -> float:
    """Return the share at a strength: its log odds grow with it; 0.5 at 0."""
    odds = float((HABITS_DIFFER / (1 - HABITS_DIFFER)) ** strength)
    return odds / (1 + odds)


def names(stream: Stream | None = None) -> tuple[str, ...]:
    """Return the markers of one stream, or of both, in the order of the table."""
    return tuple(marker.name for marker in MARKERS if stream in (None, marker.stream))


def log_odds(
    values: Mapping[str, Floats], *, streams: tuple[Stream, ...], strength: float = 1.0, interaction: bool = True
) -> Floats:
    """Return the true log odds of the patients' group, for equal groups, given some of the planted values.

    Parameters
    ----------
    values : mapping of str to ndarray, shape (n,)
        ``z`` of every marker by name; the habits as 0 and 1.
    streams : tuple of {'text', 'audio'}
        What the observer may see.
    strength : float
        As the cohort was made.
    interaction : bool
        Use the habits, where both streams are seen.

    Returns
    -------
    ndarray, shape (n,)
    """
    seen = [marker for marker in MARKERS if marker.stream in streams]
    z = np.stack([np.asarray(values[marker.name], dtype=np.float64) for marker in seen], axis=1)
    shift = strength * np.array([marker.effect for marker in seen])
    # Severity is not seen: the patients' density is its mean over severities.
    severities = np.linspace(*SEVERITY, 201)
    exponents = severities[None] * (z @ shift)[:, None] - 0.5 * severities[None] ** 2 * float(shift @ shift)
    top = exponents.max(axis=1, keepdims=True)
    odds: Floats = top[:, 0] + np.log(np.exp(exponents - top).mean(axis=1))
    if interaction and set(streams) == {"text", "audio"}:
        share = habits_differ(strength)
        differ = np.asarray(values[HABITS["text"]]) != np.asarray(values[HABITS["audio"]])
        odds = odds + np.where(differ, 1.0, -1.0) * np.log(share / (1 - share))
    return odds


def ideal_observer(
    values: Mapping[str, Floats], patients: NDArray[np.bool_], *, strength: float = 1.0
) -> dict[str, float]:
    """Return the accuracy of the best rule that knows every planted value of the streams it sees.

    Parameters
    ----------
    values : mapping of str to ndarray, shape (n,)
        As `log_odds`.
    patients : ndarray of bool, shape (n,)

    Returns
    -------
    dict
        ``text``, ``audio``, ``both without interaction``, ``both``. Models that read files do worse: a recording of
        half a minute shows each value only roughly.
    """
    cases: dict[str, tuple[tuple[Stream, ...], bool]] = {
        "text": (("text",), False),
        "audio": (("audio",), False),
        "both without interaction": (("text", "audio"), False),
        "both": (("text", "audio"), True),
    }
    return {
        name: float(np.mean((log_odds(values, streams=s, strength=strength, interaction=i) > 0) == patients))
        for name, (s, i) in cases.items()
    }


def draw_markers(rng: np.random.Generator, patients: NDArray[np.bool_], *, strength: float = 1.0) -> dict[str, Floats]:
    """Draw severity, markers and habits of many persons.

    Parameters
    ----------
    rng : Generator
    patients : ndarray of bool, shape (n,)
    strength : float
        Scales every effect; at 0 the groups do not differ in anything but the severity, which then shows nowhere.

    Returns
    -------
    dict of str to ndarray, shape (n,)
        ``severity``, every marker's ``z``, and the habits as 0.0 and 1.0.
    """
    n = len(patients)
    severity = np.where(patients, rng.uniform(*SEVERITY, n), 0.0)
    values: dict[str, Floats] = {"severity": severity}
    for marker in MARKERS:
        values[marker.name] = rng.standard_normal(n) + marker.effect * strength * severity
    opener = rng.random(n) < 0.5
    differ = rng.random(n) < np.where(patients, habits_differ(strength), 1 - habits_differ(strength))
    values[HABITS["text"]] = opener.astype(np.float64)
    values[HABITS["audio"]] = (opener ^ differ).astype(np.float64)
    return values


def expected_accuracy(*, strength: float = 1.0, n: int = 200_000, seed: int = 0) -> dict[str, float]:
    """Return what `ideal_observer` reaches on average: over `n` persons, half of them patients, without making them."""
    patients = np.arange(n) % 2 == 1
    values = draw_markers(np.random.default_rng(seed), patients, strength=strength)
    return ideal_observer(values, patients, strength=strength)


def read_truth(root: Path, split: str | None = None) -> tuple[list[str], dict[str, Floats], NDArray[np.bool_]]:
    """Read what was planted in a cohort.

    Parameters
    ----------
    root : Path
        Folder of the cohort.
    split : {'train', 'test'}, optional
        One part only.

    Returns
    -------
    names : list of str
    values : dict of str to ndarray, shape (n,)
        As `draw_markers`, then what was said (``said_words`` ...) and ``duration_s``.
    patients : ndarray of bool, shape (n,)

    Raises
    ------
    RecipeError
        CHI-RC-102.
    """
    try:
        header, *lines = (root / TRUTH).read_text("utf-8").splitlines()
        rows = [dict(zip(header.split("\t"), line.split("\t"), strict=True)) for line in lines]
        rows = [row for row in rows if split in (None, row["split"])]
        columns = [name for name in header.split("\t") if name not in ("participant_id", "split", "group")]
        values = {name: np.array([float(row[name]) for row in rows]) for name in columns}
        return [row["participant_id"] for row in rows], values, np.array([row["group"] == "AD" for row in rows])
    except (OSError, ValueError, KeyError) as error:
        raise RecipeError(
            "CHI-RC-102", "the table of what was planted is not there or not readable.", "Give a phantom cohort."
        ) from error
