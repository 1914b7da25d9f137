"""Synthetic interviews: the layout, the timing, and that only what is planted tells the groups apart."""

from __future__ import annotations

import hashlib
import json
import re
import wave
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from chiasm.data.errors import RecipeError, ToolError
from chiasm.data.phantoms import speech_synthesis
from chiasm.data.phantoms.interview_markers import (
    HABITS,
    HABITS_DIFFER,
    MARKERS,
    draw_markers,
    expected_accuracy,
    habits_differ,
    ideal_observer,
    log_odds,
    names,
    read_truth,
)
from chiasm.data.phantoms.interviews import InterviewCohort, Person, people, record, write_adress
from chiasm.data.phantoms.marker import is_phantom
from chiasm.data.phantoms.recording import NOTE, Track, chat_file, wav_file

SMALL = InterviewCohort(train=4, test=2, seed=3, rate=8000, synthesiser="formant")


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("adress") / "cohort"
    write_adress(out, replace(SMALL, chunks=True), workers=2)
    return out


def wav(path: Path) -> tuple[np.ndarray, int]:
    with wave.open(str(path), "rb") as stream:
        assert (stream.getnchannels(), stream.getsampwidth()) == (1, 2)
        data = stream.readframes(stream.getnframes())
        return np.frombuffer(data, dtype="<i2").astype(np.float64) / 32767, stream.getframerate()


def test_the_tree_is_that_of_adress_and_repeats_byte_for_byte(tree: Path, tmp_path: Path) -> None:
    def digests(out: Path) -> dict[str, str]:
        files = (path for path in out.rglob("*") if path.is_file() and "chunks" not in str(path))
        return {str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}

    write_adress(tmp_path / "again", SMALL, workers=1)
    one, again = digests(tree), digests(tmp_path / "again")
    assert one == again
    expected = {"README", "dataset_description.json", "derivatives/truth/markers.tsv"}
    expected |= {"train/cc_meta_data.txt", "train/cd_meta_data.txt", "test/meta_data.txt", "test/meta_data_test.txt"}
    expected |= {"test/test_results.txt"}
    for person in people(SMALL):
        group = ("cd/" if person.patient else "cc/") if person.split == "train" else ""
        expected |= {f"{person.split}/Full_wave_enhanced_audio/{group}{person.name}.wav"}
        expected |= {f"{person.split}/transcription/{group}{person.name}.cha"}
    assert set(one) == expected


def test_the_reader_of_adress_finds_everybody_with_what_was_drawn(tree: Path) -> None:
    from chiasm.data.datasets.interviews import labelled_interviews

    found = {interview.name: interview for interview in labelled_interviews(tree).interviews}
    assert set(found) == {person.name for person in people(SMALL)}
    for person in people(SMALL):
        read = found[person.name]
        assert read.label == ("AD" if person.patient else "CN")
        assert (read.split, read.age, read.sex, read.mmse) == (person.split, person.age, person.sex, person.mmse)
        assert read.audio is not None
        assert read.transcript is not None


def test_it_says_everywhere_that_it_is_synthetic(tree: Path) -> None:
    assert is_phantom(tree)
    assert NOTE in (tree / "README").read_text()
    assert json.loads((tree / "dataset_description.json").read_text())["strength"] == 1.0
    for path in tree.rglob("*.cha"):
        assert f"@Comment:\t{NOTE}\n" in path.read_text()
    for path in tree.rglob("*.wav"):
        assert path.read_bytes().endswith(b"ICMT" + (len(NOTE) // 2 * 2 + 2).to_bytes(4, "little") + _padded(NOTE))


def _padded(text: str) -> bytes:
    return text.encode().ljust(len(text) // 2 * 2 + 2, b"\0")


def test_tables_have_the_traps_of_the_original(tree: Path) -> None:
    train = (tree / "train" / "cc_meta_data.txt").read_text().splitlines()
    assert train[0].split(";") == ["ID   ", " age ", " gender ", " mmse"]
    assert all(re.fullmatch(r"S\d{3} ;  \d\d ; (male  |female) ;  (\d\d|NA)", line) for line in train[1:])
    tables = [(tree / "train" / f"{group}_meta_data.txt").read_text() for group in ("cc", "cd")]
    assert [text.count("NA") for text in tables] == [1, 0]
    labels = (tree / "test" / "meta_data_test.txt").read_text().splitlines()
    rows = [[cell.strip() for cell in line.split(";")] for line in labels]
    assert rows[0] == ["ID", "age", "gender", "Label", "mmse"]
    of = {person.name: person for person in people(SMALL)}
    for name, _, gender, label, _ in rows[1:]:
        assert (gender, label) == ("01"[of[name].sex == "female"], "01"[of[name].patient])
    assert "Label" not in (tree / "test" / "meta_data.txt").read_text()


def test_bullets_say_when_someone_speaks(tree: Path) -> None:
    for path in sorted(tree.rglob("*.cha")):
        text = path.read_text().replace("\n\t", " ")
        assert not re.search("AD|CN|Control|dement", text)
        samples, rate = wav(next(tree.rglob(f"Full*/**/{path.stem}.wav")))
        bullets = [tuple(map(int, pair)) for pair in re.findall(r"\x15(\d+)_(\d+)\x15", text)]
        assert bullets == sorted(bullets)
        inside = np.zeros(len(samples), dtype=bool)
        for start, end in bullets:
            assert end <= 1000 * len(samples) / rate
            span = samples[start * rate // 1000 : end * rate // 1000]
            # Sound begins and ends with the bullet: to a hundredth of a second.
            edges = max(1, rate // 100)
            assert min(np.abs(span[:edges]).max(), np.abs(span[-edges:]).max()) > 0
            inside[start * rate // 1000 : end * rate // 1000 + 1] = True
        levels = [float(np.sqrt(np.mean(samples[where] ** 2))) for where in (inside, ~inside)]
        assert levels[0] > 8 * levels[1]
    assert text.count("*INV:") >= 3


def test_pauses_in_the_transcript_are_silent_in_the_sound() -> None:
    from chiasm.data.phantoms.interview_scripts import Token
    from chiasm.data.phantoms.interviews import _pronounced

    utterance = (Token("word", "water"), Token("pause", seconds=0.7), Token("word", "water"))
    sound = _pronounced(
        utterance,
        speech_synthesis.Voice(),
        speech_synthesis.Prosody(jitter=0.01),
        np.random.default_rng(0),
        synthesiser="formant",
        rate=8000,
    )
    edges = np.flatnonzero(np.diff(np.abs(sound) > 1e-3))
    assert np.diff(edges).max() == pytest.approx(0.7 * 8000, abs=80)
    assert len(sound) - 0.7 * 8000 > 0.4 * 8000


def test_chunks_are_short_and_at_one_level(tree: Path) -> None:
    chunks = list(tree.rglob("Normalised_audio-chunks/**/*.wav"))
    assert {path.name.partition("-")[0] for path in chunks} == {person.name for person in people(SMALL)}
    for path in chunks:
        samples, rate = wav(path)
        assert len(samples) <= 10 * rate + 1
        assert np.abs(samples).max() == pytest.approx(0.9, abs=1e-3)


def test_long_turns_are_cut_into_equal_chunks() -> None:
    track = Track(8000)
    track.wait(1.0)
    track.say("PAR", "words .", np.ones(8000 * 25, dtype=np.float32))
    track.say("INV", "words .", np.ones(8000, dtype=np.float32))
    assert [(start, end) for start, end, _ in track.chunks("PAR")] == [(1000, 9333), (9333, 17667), (17667, 26000)]


def test_groups_are_matched_and_one_score_of_a_control_is_missing() -> None:
    cohort = InterviewCohort(seed=5)
    made = people(cohort)
    assert len({person.name for person in made}) == 608
    train = [person for person in made if person.split == "train"]
    assert Counter((person.patient, person.sex) for person in train) == {
        (patient, sex): n for patient in (True, False) for sex, n in (("male", 24), ("female", 30))
    }
    brackets = [
        Counter((person.sex, (person.age - 2) // 5) for person in train if person.patient is patient)
        for patient in (True, False)
    ]
    assert brackets[0] == brackets[1]
    (missing,) = [person for person in made if person.mmse is None]
    assert (missing.split, missing.patient) == ("train", False)
    scores = {p: [m.mmse for m in made if m.patient is p and m.mmse is not None] for p in (True, False)}
    assert np.mean(scores[True]) == pytest.approx(18, abs=1)
    assert np.mean(scores[False]) == pytest.approx(29, abs=0.5)
    severe = np.corrcoef([(m.markers["severity"], m.mmse) for m in made if m.patient], rowvar=False)[0, 1]
    assert severe < -0.7


def test_names_do_not_tell_the_group() -> None:
    made = [person for person in people(InterviewCohort(seed=1)) if person.split == "test"]
    assert [person.name for person in made] == sorted(person.name for person in made)
    first = np.mean([person.patient for person in made[:250]])
    assert 0.4 < first < 0.6


def _flat(person: Person, **markers: float) -> Person:
    return replace(person, markers=dict.fromkeys([*names(), *HABITS.values()], 0.0) | {"severity": 0.0} | markers)


def test_a_recording_is_made_of_markers_and_nothing_else_of_the_group() -> None:
    person = people(SMALL)[0]
    other = replace(person, patient=not person.patient, mmse=3, markers=dict(person.markers) | {"severity": 1.7})
    one, two = (record(p, SMALL, "formant").track for p in (person, other))
    assert one.lines == two.lines
    assert (one.samples == two.samples).all()


def test_room_microphone_and_investigator_do_not_depend_on_the_markers() -> None:
    person = people(SMALL)[0]
    extreme = _flat(person, pause_count=3.0, pause_length=3.0, speech_rate=-3.0, habit_voice=1.0, fillers=3.0)
    one, two = (record(p, SMALL, "formant").track for p in (_flat(person), extreme))
    assert one.lines[0] == two.lines[0]  # the prompt that opens
    asked = [[line.text for line in track.lines if line.speaker == "INV"] for track in (one, two)]
    assert asked[0] == asked[1]
    n = one.lines[0].start_ms * SMALL.rate // 1000
    levels = [float(np.std(track.samples[: n - 80])) for track in (one, two)]
    assert levels[0] == pytest.approx(levels[1], rel=0.1)


def test_pauses_and_a_slow_voice_make_a_recording_longer() -> None:
    person = people(SMALL)[0]
    usual = len(record(_flat(person), SMALL, "formant").track.samples)
    for marker in ({"pause_count": 2.0, "pause_length": 1.0}, {"speech_rate": -2.0}):
        assert len(record(_flat(person, **marker), SMALL, "formant").track.samples) > 1.05 * usual


def test_without_strength_the_label_is_drawn_apart_from_everything() -> None:
    mask = np.random.default_rng(0).random(100) < 0.5
    one, other = (draw_markers(np.random.default_rng(1), m, strength=0.0) for m in (mask, ~mask))
    for name in (*names(), *HABITS.values()):
        assert (one[name] == other[name]).all(), name
    found = expected_accuracy(strength=0.0, n=2000)
    assert set(found.values()) == {0.5}


def test_planted_values_have_the_effects_of_the_table() -> None:
    n = 40_000
    patients = np.arange(n) % 2 == 1
    values = draw_markers(np.random.default_rng(0), patients)
    for marker in MARKERS:
        column = values[marker.name]
        assert column[patients].mean() - column[~patients].mean() == pytest.approx(marker.effect, abs=0.04)
        assert column[~patients].std() == pytest.approx(1.0, abs=0.03)


def test_neither_habit_tells_the_group_and_both_together_do() -> None:
    n = 40_000
    patients = np.arange(n) % 2 == 1
    values = draw_markers(np.random.default_rng(2), patients)
    opener, voice = (values[name] == 1 for name in HABITS.values())
    for habit in (opener, voice):
        assert habit[patients].mean() == pytest.approx(0.5, abs=0.015)
        assert habit[~patients].mean() == pytest.approx(0.5, abs=0.015)
    assert ((opener != voice) == patients).mean() == pytest.approx(HABITS_DIFFER, abs=0.01)
    assert [round(habits_differ(s), 3) for s in (0.0, 1.0, 2.0)] == [0.5, 0.85, 0.970]


def test_the_ideal_observer_is_calibrated_and_both_streams_beat_either() -> None:
    n = 20_000
    patients = np.arange(n) % 2 == 1
    values = draw_markers(np.random.default_rng(3), patients)
    probability = 1 / (1 + np.exp(-log_odds(values, streams=("text", "audio"))))
    for low in (0.1, 0.4, 0.7):
        where = (probability >= low) & (probability < low + 0.2)
        assert patients[where].mean() == pytest.approx(probability[where].mean(), abs=0.03)
    found = ideal_observer(values, patients)
    expected = {"text": 0.770, "audio": 0.756, "both without interaction": 0.827, "both": 0.899}
    assert found == pytest.approx(expected, abs=0.01)


def test_what_was_planted_can_be_read_again(tree: Path) -> None:
    found, values, patients = read_truth(tree, "train")
    made = [person for person in people(SMALL) if person.split == "train"]
    assert found == [person.name for person in made]
    assert patients.tolist() == [person.patient for person in made]
    for name in ("pronouns", "shimmer", "habit_voice"):
        assert values[name] == pytest.approx([person.markers[name] for person in made], abs=1e-6)
    assert len(read_truth(tree)[0]) == 6
    with pytest.raises(RecipeError, match="CHI-RC-102"):
        read_truth(tree / "train")


def test_a_folder_that_holds_something_is_refused(tree: Path) -> None:
    with pytest.raises(RecipeError, match="CHI-RC-101"):
        write_adress(tree, SMALL)


def test_every_wrong_setting_is_named_at_once() -> None:
    with pytest.raises(RecipeError, match="CHI-RC-100") as caught:
        InterviewCohort(train=3, test=0, seed=-1, strength=2.5, rate=100)
    for word in ("train", "test", "seed", "strength", "rate"):
        assert word in str(caught.value)


def test_nothing_is_written_where_espeak_is_asked_for_and_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speech_synthesis.shutil, "which", lambda name: None)
    with pytest.raises(ToolError, match="CHI-TL-011"):
        write_adress(tmp_path / "x", replace(SMALL, synthesiser="espeak"))
    assert not (tmp_path / "x").exists()


def test_the_command_says_what_it_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from chiasm.pipelines.cli.main import main

    options = "--train 2 --test 2 --rate 8000 --synthesiser formant --strength 0".split()
    assert main(["phantom", "adress", str(tmp_path / "x"), *options]) == 0
    assert "2 to train on, 2 to test on. Synthetic: no person was recorded." in capsys.readouterr().out
    assert main(["phantom", "adress", str(tmp_path / "y"), "--train", "3"]) == 2
    assert "CHI-RC-100" in capsys.readouterr().err


def test_loud_sound_is_cut_off_at_full_scale() -> None:
    data = wav_file(np.array([2.0, -2.0, 0.5]), 8000)
    assert np.frombuffer(data[44:50], dtype="<i2").tolist() == [32767, -32767, 16384]


def test_a_long_line_is_folded_as_chat_does() -> None:
    track = Track(8000)
    track.say("PAR", "word " * 30 + ".", np.ones(800, dtype=np.float32))
    lines = chat_file("S001", 70, "male", track.lines).splitlines()
    body = [line for line in lines if not line.startswith("@")]
    assert body[0].startswith("*PAR:\tword")
    assert all(line.startswith("\t") for line in body[1:])
    assert max(map(len, lines)) <= 81
    assert body[-1].endswith("\x150_100\x15")
