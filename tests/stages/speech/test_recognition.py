"""Speech recognition: where weights come from, how Whisper is asked, its words, and one real recording."""

import importlib.util
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from chiasm.data.audio import AudioReader, Clip
from chiasm.data.errors import ToolError, WeightsError
from chiasm.pipelines.stages.speech import recognition
from chiasm.pipelines.stages.speech.recognition import PACKAGED, Recogniser, load_recogniser, recogniser_hash

READ_SPEECH = Path("/usr/share/pocketsphinx/test/data/librivox")
CLIP = "sense_and_sensibility_01_austen_64kb-0870"
INSTALLED = importlib.util.find_spec("faster_whisper") is not None
needs_whisper = pytest.mark.skipif(not INSTALLED, reason="faster-whisper is not installed")


class Whisper:
    """Says what it was told to, in segments of words."""

    def __init__(self, *segments: Any, multilingual: bool = True, heard: tuple[str, float] = ("en", 0.99)) -> None:
        self.segments, self.heard, self.asked = segments, heard, []
        self.model = SimpleNamespace(is_multilingual=multilingual)
        self.supported_languages = ["en", "de", "zh"] if multilingual else ["en"]

    def transcribe(self, samples: np.ndarray, **options: Any) -> tuple[Iterator[Any], None]:
        self.asked.append((samples, options))
        words = [
            None if s is None else [SimpleNamespace(word=w, start=np.float64(a), end=np.float64(b)) for w, a, b in s]
            for s in self.segments
        ]
        return (SimpleNamespace(words=part) for part in words), None

    def detect_language(self, samples: np.ndarray) -> tuple[str, float, list[Any]]:
        self.asked.append((samples, {}))
        return *self.heard, []


def recogniser(*segments: Any, language: str = "en", **options: Any) -> Recogniser:
    return Recogniser(model=Whisper(*segments, **options), language=language, sha256="")


def clip(seconds: float = 4.0, rate: int = 22050) -> Clip:
    return Clip(np.random.default_rng(0).uniform(-0.1, 0.1, round(seconds * rate)).astype(np.float32), rate)


@pytest.fixture
def nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with faster-whisper and no weights; the weights' folder."""
    monkeypatch.setenv("CHIASM_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.setattr(recognition, "_PIECES", (("no_such_package", "x"), ("no_such_package_either", "y")))
    real = importlib.util.find_spec
    fake = SimpleNamespace(find_spec=lambda name: "there" if name == "faster_whisper" else real(name))
    monkeypatch.setattr(recognition, "importlib", SimpleNamespace(util=fake))
    return tmp_path / "weights"


def put(folder: Path, **files: bytes) -> Path:
    folder.mkdir(parents=True)
    for name, content in {"model": b"model", "config": b"{}", "tokenizer": b"{}", **files}.items():
        (folder / f"{name}{'.bin' if name == 'model' else '.json'}").write_bytes(content)
    return folder


# ---- what is said ----------------------------------------------------------------------------------------------------


def test_words_with_times_of_the_participant() -> None:
    found = recogniser([(" The", 0.1, 0.3), (" boy.", 0.3, 0.8)], None, [(" Falls", 2.0, 2.5)]).transcribe(clip())
    assert (found.text, found.source, found.turns, found.counts) == ("The boy. Falls", "asr", (), {})
    assert [(w.start_s, w.end_s) for w in found.words] == [(0.1, 0.3), (0.3, 0.8), (2.0, 2.5)]
    assert {type(time) for word in found.words for time in (word.start_s, word.end_s)} == {float}
    assert not found.estimated


def test_whisper_is_asked_for_what_can_be_repeated() -> None:
    asked = recogniser(language="de")
    asked.transcribe(clip(rate=22050))
    (samples, options), *_ = asked.model.asked
    assert options == {
        "language": "de", "beam_size": 5, "temperature": 0.0, "condition_on_previous_text": False, "vad_filter": False,
        "word_timestamps": True,
    }  # fmt: skip
    assert samples.dtype == np.float32
    assert len(samples) == 4 * 16000


def test_pieces_of_a_word_are_one_word() -> None:
    pieces = [(" rather", 0.0, 0.4), (" cold", 0.4, 0.8), ("-hearted", 0.8, 1.2), (" ", 1.2, 1.3), (" man", 1.3, 1.5)]
    words = recogniser(pieces).transcribe(clip()).words
    assert [(w.text, w.start_s, w.end_s) for w in words] == [
        ("rather", 0.0, 0.4), ("cold-hearted", 0.4, 1.2), ("man", 1.3, 1.5),
    ]  # fmt: skip
    chinese = recogniser([("男", 0.0, 0.2), ("孩", 0.2, 0.4)], language="zh").transcribe(clip())
    assert [word.text for word in chinese.words] == ["男", "孩"]


def test_nothing_is_said_behind_the_end() -> None:
    segment = [(" here", -0.02, 0.5), (" last", 3.8, 4.6), (" thanks", 4.0, 4.4), (" watching", 29.0, 29.9)]
    words = recogniser(segment).transcribe(clip(4.0)).words
    assert [(w.text, w.start_s, w.end_s) for w in words] == [("here", 0.0, 0.5), ("last", 3.8, 4.0)]
    backward = recogniser([(" odd", 1.0, 0.9)]).transcribe(clip()).words[0]
    assert (backward.start_s, backward.end_s) == (1.0, 1.0)


def test_another_language_is_believed_when_it_is_likely() -> None:
    assert recogniser(heard=("de", 0.8)).other_language(clip()) == "de"
    assert recogniser(heard=("de", 0.4)).other_language(clip()) == ""
    assert recogniser(heard=("en", 0.9)).other_language(clip()) == ""
    english = recogniser(heard=("de", 0.8), multilingual=False)
    assert english.other_language(clip()) == ""
    assert english.model.asked == []


# ---- weights ---------------------------------------------------------------------------------------------------------


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    absent = SimpleNamespace(util=SimpleNamespace(find_spec=lambda name: None))
    monkeypatch.setattr(recognition, "importlib", absent)
    with pytest.raises(ToolError, match="CHI-TL-012") as caught:
        load_recogniser(PACKAGED, language="en")
    assert 'pip install "chiasm[asr]"' in caught.value.remedy


@pytest.mark.parametrize("name", [PACKAGED, "chiasm/whisper-base", "other", "./no-such-folder"])
def test_without_weights_both_ways_are_told(nothing: Path, name: str) -> None:
    for ask in (recogniser_hash, lambda weights: load_recogniser(weights, language="en")):
        with pytest.raises(WeightsError, match="CHI-WT-040") as caught:
            ask(name)
        assert "$CHIASM_WEIGHTS" in caught.value.remedy
        assert 'pip install "chiasm[asr]"' in caught.value.remedy


def test_a_folder_lacking_a_file_is_none(nothing: Path) -> None:
    (put(nothing / PACKAGED) / "tokenizer.json").unlink()  # without it, it would be looked for on the network
    with pytest.raises(WeightsError, match="CHI-WT-040"):
        load_recogniser(PACKAGED, language="en")


def test_a_name_does_not_leave_the_store(nothing: Path) -> None:
    with pytest.raises(WeightsError, match="CHI-WT-017"):
        recogniser_hash("whisper/../../x")


def test_a_folder_is_found_by_name_and_by_path(nothing: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = put(nothing / "my-whisper")
    loaded = []
    monkeypatch.setattr(recognition, "_load", lambda name, files: loaded.append((name, files)) or Whisper())
    model_sha256 = "9372c470eeadd5ecd9c3c74c2b3cb633f8e2f2fad799250a0f70d652b6b825e4"  # of the five letters
    for name in ("my-whisper", str(folder)):
        found = load_recogniser(name, language="de")
        assert (found.sha256, found.language, recogniser_hash(name)) == (model_sha256, "de", model_sha256)
    assert loaded == [(str(folder), None)] * 2


def test_a_language_that_the_weights_do_not_know(nothing: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(nothing / "english")
    monkeypatch.setattr(recognition, "_load", lambda name, files: Whisper(multilingual=False))
    assert load_recogniser("english", language="en").language == "en"
    with pytest.raises(WeightsError, match=r"CHI-WT-044.*'de'"):
        load_recogniser("english", language="de")


@needs_whisper
def test_damaged_weights(nothing: Path) -> None:
    put(nothing / "broken", model=b"no model at all")
    with pytest.raises(WeightsError, match="CHI-WT-045") as caught:
        load_recogniser("broken", language="en")
    assert str(nothing) not in str(caught.value)


def test_pieces_that_are_not_the_known_ones(nothing: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(nothing)
    for index, name in enumerate(("whisper_piece_one", "whisper_piece_two")):
        folder = put(nothing / name / "data")
        (nothing / name / "__init__.py").touch()
        (folder / f"part{index}").write_bytes(b"x")
    importlib.invalidate_caches()
    pieces = (("whisper_piece_one", "part0"), ("whisper_piece_two", "part1"))
    monkeypatch.setattr(recognition, "_PIECES", pieces)
    monkeypatch.setattr(recognition, "_load", lambda name, files: Whisper())
    with pytest.raises(WeightsError, match=r"CHI-WT-045.*other bytes"):
        load_recogniser(PACKAGED, language="en")
    with pytest.raises(WeightsError, match="CHI-WT-040"):  # the packages hold one size of Whisper, not every
        load_recogniser("whisper-small", language="en")
    monkeypatch.setattr(recognition, "_PIECES", (pieces[0], ("no_such_package", "part1")))
    with pytest.raises(WeightsError, match="CHI-WT-040"):
        load_recogniser(PACKAGED, language="en")


# ---- a real recording ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real() -> Recogniser:
    if not INSTALLED:
        pytest.skip("faster-whisper is not installed")
    try:
        recogniser_hash(PACKAGED)
    except WeightsError:
        pytest.skip(f"the weights {PACKAGED} are not on this machine")
    return load_recogniser(PACKAGED, language="en")


@pytest.fixture(scope="module")
def read_aloud() -> Clip:
    if not READ_SPEECH.is_dir():
        pytest.skip("pocketsphinx-testdata is not installed")
    with AudioReader() as reader:
        return reader.read(READ_SPEECH / f"{CLIP}.wav")


def error_rate(said: list[str], heard: list[str]) -> float:
    """Words put in, left out or changed, a word said."""
    row = list(range(len(heard) + 1))
    for i, word in enumerate(said, 1):
        row, before = [i], row
        for j, other in enumerate(heard, 1):
            row.append(min(before[j] + 1, row[-1] + 1, before[j - 1] + (word != other)))
    return row[-1] / len(said)


def test_read_speech_is_written_down(real: Recogniser, read_aloud: Clip) -> None:
    lines = (READ_SPEECH / "transcription").read_text().split("\n")
    said = next(re.sub(r"</?s>", "", line.split("(")[0]).split() for line in lines if CLIP in line)
    found = real.transcribe(read_aloud)
    heard = re.findall(r"[a-z']+", found.text.lower().replace("mr.", "mister"))
    assert error_rate(said, heard) < 0.2
    starts = [word.start_s for word in found.words]
    assert starts == sorted(starts)
    assert 0 <= starts[0] <= found.words[-1].end_s <= read_aloud.duration_s
    assert all(0 < word.end_s - word.start_s < 1.5 for word in found.words)
    assert replace(real, language="de").other_language(read_aloud) == "en"


def test_error_rate_of_the_test_itself() -> None:
    assert error_rate("a b c d".split(), "a x c".split()) == 0.5
    assert error_rate(["a"], []) == 1.0
