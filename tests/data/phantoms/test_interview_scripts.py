"""What synthetic persons say: each habit moves its own count, and CHAT writes it as CHAT does."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from chiasm.data.phantoms.interview_markers import HABITS, draw_markers, names
from chiasm.data.phantoms.interview_scripts import (
    _ENTITIES,
    EMPTY,
    FACTS,
    OPENERS,
    PROMPTS,
    Style,
    Token,
    Utterance,
    counts,
    spoken,
    style_of,
    to_chat,
    write_script,
)

PRONOUNS = {"he", "she", "it", "they", "him", "her", "them"}
USUAL = Style(
    clauses=10,
    informative=0.7,
    pronouns=0.3,
    richness=0.3,
    repeats=5.0,
    fillers=5.0,
    revisions=4.0,
    pauses=9.0,
    pause_s=0.5,
    words_per_utterance=10.0,
    opener=0,
)


def measured(script: list[Utterance]) -> dict[str, float]:
    """Read from a script what a reader of the transcript could."""
    found = counts(script)
    words = [token.text for utterance in script for token in utterance if token.kind == "word"]
    nouns = {noun for entity, _, _ in _ENTITIES.values() for noun in entity}
    n_pronouns, n_nouns = (sum(word in these for word in words) for these in (PRONOUNS, nouns))
    empty = {"thing", "stuff", "something", "place", "way"}
    return {
        "pronouns": n_pronouns / max(1, n_pronouns + n_nouns),
        "information_units": -sum(word in empty for word in words) / len(words),
        "vocabulary": len(set(words)) / len(words) ** 0.7,
        "repetitions": found["repeats"] / len(words),
        "fillers": found["fillers"] / len(words),
        "revisions": found["revisions"] / len(words),
        "utterance_length": len(words) / len(script),
        "pause_count": found["pauses"] / len(words),
    }


def scripts(patients: np.ndarray, *, strength: float, seed: int) -> list[list[Utterance]]:
    values = draw_markers(np.random.default_rng(seed), patients, strength=strength)
    made = []
    for i in range(len(patients)):
        rng = np.random.default_rng([seed, i])
        made.append(write_script(style_of({name: float(column[i]) for name, column in values.items()}, rng), rng))
    return made


def effects(*, strength: float, n: int = 400, seed: int = 0) -> dict[str, float]:
    patients = np.arange(n) % 2 == 1
    found = [measured(script) for script in scripts(patients, strength=strength, seed=seed)]
    sizes = {}
    for name in found[0]:
        column = np.array([row[name] for row in found])
        a, b = column[patients], column[~patients]
        sizes[name] = float((a.mean() - b.mean()) / np.sqrt((a.var() + b.var()) / 2))
    return sizes


def test_groups_differ_in_what_is_said_as_the_table_says() -> None:
    from chiasm.data.phantoms.interview_markers import MARKERS

    planted, found = {marker.name: marker.effect for marker in MARKERS}, effects(strength=1.0)
    for name, size in found.items():
        # Half a minute shows a habit only roughly: the size is at most that of the table, give or take chance (0.10).
        assert 0.15 < size / planted[name] < 1.4, (name, size)


def test_at_strength_0_groups_say_the_same() -> None:
    assert max(map(abs, effects(strength=0.0, n=600).values())) < 3 * 2 / np.sqrt(600)


def test_a_linear_reader_of_the_words_is_above_chance_and_below_the_ceiling() -> None:
    patients = np.arange(600) % 2 == 1
    found = [measured(script) for script in scripts(patients, strength=1.0, seed=4)]
    table = np.array([[value for name, value in row.items() if name != "pause_count"] for row in found])
    table = np.column_stack([(table - table.mean(axis=0)) / table.std(axis=0), np.ones(len(table))])
    weights = np.linalg.lstsq(table[:300], 2.0 * patients[:300] - 1, rcond=None)[0]
    score = np.mean((table[300:] @ weights > 0) == patients[300:])
    assert 0.64 < score < 0.80


@pytest.mark.parametrize(
    ("field", "value", "name"),
    [
        ("pronouns", 0.9, "pronouns"),
        ("informative", 1.0, "information_units"),
        ("richness", 1.0, "vocabulary"),
        ("repeats", 15.0, "repetitions"),
        ("fillers", 15.0, "fillers"),
        ("revisions", 15.0, "revisions"),
        ("words_per_utterance", 22.0, "utterance_length"),
        ("pauses", 25.0, "pause_count"),
    ],
)
def test_a_habit_moves_its_own_count(field: str, value: float, name: str) -> None:
    def mean(style: Style) -> float:
        return float(np.mean([measured(write_script(style, np.random.default_rng(i)))[name] for i in range(60)]))

    usual = mean(USUAL)
    assert mean(replace(USUAL, **{field: value})) - usual > 0.05 * abs(usual)


def test_the_number_of_words_is_no_marker() -> None:
    short, long = replace(USUAL, informative=0.2, words_per_utterance=5.0), replace(USUAL, words_per_utterance=20.0)
    means = [
        np.mean([counts(write_script(s, np.random.default_rng(i)))["words"] for i in range(200)]) for s in (short, long)
    ]
    assert means[0] / means[1] == pytest.approx(1.0, abs=0.2)


def test_words_of_the_openers_occur_nowhere_else_and_are_as_frequent() -> None:
    other = " ".join([*FACTS, *EMPTY, *PROMPTS, *(" ".join(nouns) for nouns, _, _ in _ENTITIES.values())])
    rest = set(re.findall(r"[a-z]+", other))
    assert not rest & {word for opener in OPENERS for word in opener.split()}
    for opener in (0, 1):
        script = write_script(replace(USUAL, opener=opener, clauses=16, repeats=0.0), np.random.default_rng(3))
        said = [" ".join(t.text for t in utterance if t.kind == "word") for utterance in script]
        share = np.mean([text.startswith(OPENERS[opener]) for text in said])
        assert 0.6 < share < 0.9
        assert not any(OPENERS[1 - opener] in text for text in said)


def test_every_reference_in_the_grammar_is_known_and_alternatives_differ() -> None:
    for text in (*FACTS, *EMPTY):
        assert set(re.findall(r"<(\w+)>", text)) <= set(_ENTITIES)
        for group in re.findall(r"\{([^}]*)\}", text):
            assert len(set(group.split("|"))) == len(group.split("|"))


UTTERANCE: Utterance = (
    Token("filler", "uh"),
    Token("revision", "the girl"),
    Token("word", "the"),
    Token("repeat", "boy"),
    Token("word", "boy"),
    Token("pause", seconds=0.3),
    Token("word", "is"),
    Token("pause", seconds=0.9),
    Token("pause", seconds=2.0),
    Token("word", "falling"),
)


def test_an_utterance_is_written_in_chat() -> None:
    assert to_chat(UTTERANCE) == "&-uh <the girl> [//] the boy [/] boy (.) is (..) (...) falling"


def test_retraced_words_and_fillers_are_spoken_and_pauses_are_silent() -> None:
    assert spoken(UTTERANCE) == ["uh the girl the boy boy", 0.3, "is", 0.9, 2.0, "falling"]


def test_counts_leave_retraced_words_out() -> None:
    assert counts([UTTERANCE]) == {
        "utterances": 1,
        "words": 4,
        "fillers": 1,
        "repeats": 1,
        "revisions": 1,
        "pauses": 3,
    }


def test_the_reader_of_chat_counts_what_was_planted() -> None:
    from pathlib import Path
    from tempfile import TemporaryDirectory

    from chiasm.data.chat import read_chat
    from chiasm.data.phantoms.recording import Line, chat_file

    script = write_script(USUAL, np.random.default_rng(8))
    lines = [Line("PAR", f"{to_chat(u)} .", 1000 * i, 1000 * i + 900) for i, u in enumerate(script)]
    with TemporaryDirectory() as folder:
        path = Path(folder) / "S001.cha"
        path.write_text(chat_file("S001", 70, "female", lines), encoding="utf-8")
        transcript = read_chat(path)
    planted = counts(script)
    for name in ("utterances", "fillers", "repeats", "revisions", "pauses"):
        assert transcript.counts[name] == planted[name], name
    assert [(turn.start_s, turn.end_s) for turn in transcript.turns][:2] == [(0.0, 0.9), (1.0, 1.9)]


def test_markers_of_the_sound_do_not_change_the_words() -> None:
    values = dict.fromkeys(names(), 0.3) | dict.fromkeys(HABITS.values(), 0.0)
    loud = values | {"speech_rate": 2.0, "pitch_jitter": -2.0, "shimmer": 2.0, "pitch_range": 2.0, HABITS["audio"]: 1.0}
    one, other = (write_script(style_of(v, (rng := np.random.default_rng(5))), rng) for v in (values, loud))
    assert one == other
