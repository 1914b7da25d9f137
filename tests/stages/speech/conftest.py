"""Interviews whose every turn is known to the sample, and encoders small enough to run in a moment."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from chiasm.data.audio import Clip, write_wav
from chiasm.data.phantoms.interview_scripts import BULLET
from chiasm.data.phantoms.interviews import InterviewCohort, write_adress
from chiasm.data.phantoms.recording import Line, Track, chat_file
from chiasm.data.phantoms.speech_synthesis import Voice, resample, speak
from chiasm.pipelines.recipes import load_recipe
from chiasm.pipelines.speech_recipe import AudioSpec, SpeechRecipe
from chiasm.pipelines.stages.speech.components import load_detector, load_encoders
from chiasm.pipelines.stages.speech.features import Encoders
from chiasm.pipelines.stages.speech.hearing import Listener, Sources

RATE = 8000
SCRIPT = (
    (0.8, "INV", "tell me everything that you see in this picture"),
    (0.9, "PAR", "the boy is taking a cookie from the jar"),
    (0.3, "PAR", "and the girl is laughing"),
    (1.1, "INV", "is there anything else"),
    (0.9, "PAR", "the water is running over and the mother is drying the dishes"),
    (3.5, "", ""),
)
TONE_HZ = 3000.0


@dataclass(frozen=True)
class Spoken:
    """An interview on the disk, and what is in it."""

    folder: Path
    samples: np.ndarray
    lines: tuple[Line, ...]

    @property
    def sources(self) -> Sources:
        return Sources(audio=self.audio, transcript=self.transcript, audio_name="a.wav", transcript_name="a.cha")

    @property
    def audio(self) -> Path:
        return self.folder / "a.wav"

    @property
    def transcript(self) -> Path:
        return self.folder / "a.cha"

    def times(self, speaker: str) -> list[tuple[float, float]]:
        return [(line.start_ms / 1000, line.end_ms / 1000) for line in self.lines if line.speaker == speaker]

    def seconds(self, speaker: str) -> float:
        return sum(end - start for start, end in self.times(speaker))

    def text(self, speaker: str) -> str:
        return " ".join(line.text.removesuffix(" .") for line in self.lines if line.speaker == speaker)

    def changed(self, folder: Path, samples: np.ndarray) -> "Spoken":
        """The same interview with other sound."""
        folder.mkdir(exist_ok=True)
        other = replace(self, folder=folder, samples=samples.astype(np.float32))
        write_wav(other.audio, Clip(other.samples, RATE))
        other.transcript.write_bytes(self.transcript.read_bytes())
        return other

    def with_tone(self, folder: Path, *spans: tuple[float, float], loudness: float = 0.3) -> "Spoken":
        """A tone that no voice has, added in the spans: where it is heard, they are heard."""
        samples = self.samples.copy()
        for start, end in spans:
            at = np.arange(round(start * RATE), min(round(end * RATE), len(samples)))
            samples[at] += loudness * np.sin(2 * np.pi * TONE_HZ / RATE * at)
        return self.changed(folder, samples)


@pytest.fixture(scope="session")
def spoken(tmp_path_factory: pytest.TempPathFactory) -> Spoken:
    track = Track(RATE)
    for wait_s, speaker, text in SCRIPT:
        track.wait(wait_s)
        if speaker:
            voice = Voice(variant="m3" if speaker == "INV" else "f2", words_per_minute=150)
            track.say(speaker, f"{text} .", 0.7 * resample(speak(text, voice, "formant"), RATE))
    track.into_room(np.random.default_rng(0), noise_db=-38.0, gain_db=-28.0)
    folder = tmp_path_factory.mktemp("spoken")
    write_wav(folder / "a.wav", Clip(track.samples, RATE))
    (folder / "a.cha").write_text(chat_file("a", 70, "female", track.lines), encoding="utf-8")
    return Spoken(folder, track.samples, tuple(track.lines))


@pytest.fixture(scope="session")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> list[Sources]:
    """Four persons of the phantom."""
    root = tmp_path_factory.mktemp("cohort") / "adress"
    write_adress(root, InterviewCohort(train=2, test=2, seed=1, rate=RATE, synthesiser="formant"), workers=1)
    sounds = {path.stem: path for path in root.rglob("*.wav")}
    return [Sources(audio=sounds[path.stem], transcript=path) for path in sorted(root.rglob("*.cha"))]


@pytest.fixture(scope="session")
def tone_share() -> Callable[[Clip], float]:
    """Share of a clip's energy that the tone has."""

    def share(clip: Clip) -> float:
        power = np.abs(np.fft.rfft(clip.samples.astype(np.float64))) ** 2
        hz = np.fft.rfftfreq(len(clip.samples), 1 / clip.rate)
        return float(power[np.abs(hz - TONE_HZ) < 40].sum() / power.sum())

    return share


@pytest.fixture(scope="session")
def bullet() -> str:
    """What stands around times in CHAT."""
    return BULLET


@pytest.fixture(scope="session")
def recipe() -> SpeechRecipe:
    """The recipe that is shipped, with small pictures and the small encoders."""
    shipped = load_recipe("dementia")
    assert isinstance(shipped, SpeechRecipe)
    small = {"sample_rate": RATE, "n_fft": 512, "hop_length": 128, "n_mels": 32, "size": (32, 32)}
    components = {
        name: spec.model_copy(update={"weights": f"tiny-{name}"} if name in ("text", "audio") else {})
        for name, spec in shipped.components.items()
    }
    audio = AudioSpec(**{**shipped.audio.model_dump(), **small})
    return shipped.model_copy(update={"audio": audio, "components": components})


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A weights folder with random encoders."""
    import torch
    from transformers import BertTokenizerFast

    from chiasm.encoders.image_transformer import ImageTransformer
    from chiasm.encoders.text_transformer import TextTransformer

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("weights")
    said = sorted({word for _, _, text in SCRIPT for word in text.split()} - {"cookie"})
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "cook", "##ie", *said]
    (folder / "vocab.txt").write_text("\n".join(vocabulary))
    layers = {"num_hidden_layers": 1, "num_attention_heads": 2, "hidden_size": 16, "intermediate_size": 32}
    TextTransformer.from_config(
        {"model_type": "bert", "vocab_size": len(vocabulary), "max_position_embeddings": 128, **layers},
        tokeniser=BertTokenizerFast(vocab=str(folder / "vocab.txt")),
    ).save(folder / "tiny-text")
    ImageTransformer.from_config(
        {"model_type": "deit", "image_size": [32, 32], "patch_size": 8, "num_channels": 3, **layers}
    ).save(folder / "tiny-audio")
    return folder


@pytest.fixture
def encoders(weights: Path, recipe: SpeechRecipe, monkeypatch: pytest.MonkeyPatch) -> Encoders:
    monkeypatch.setenv("CHIASM_WEIGHTS", str(weights))
    return load_encoders(recipe)


@pytest.fixture(scope="session")
def listener(recipe: SpeechRecipe):
    with Listener(recipe, load_detector()) as listening:
        yield listening
