"""Hearing: whose voice is left, the controls' views, times of the recording, level, and what is refused."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chiasm.data.audio import Clip, write_wav
from chiasm.data.background import participant_spans
from chiasm.data.errors import InputError
from chiasm.data.spans import Span, total_s
from chiasm.data.transcripts import Transcript, Word
from chiasm.pipelines.stages.speech.hearing import BACKGROUND_S, CODES, Heard, Listener, Sources

RATE = 8000


def code(listener: Listener, sources: Sources, **view: Any) -> str:
    with pytest.raises(InputError) as caught:
        listener.hear(sources, **view)
    return caught.value.code


def like(listener: Listener, recogniser: Any = None, **changes: Any) -> Listener:
    """A second listener with the first one's decoder, and other audio or cleaning settings."""
    audio = listener.recipe.audio.model_copy(
        update={k: v for k, v in changes.items() if k in type(listener.recipe.audio).model_fields}
    )
    transcript = listener.recipe.transcript.model_copy(
        update={k: v for k, v in changes.items() if k in type(listener.recipe.transcript).model_fields}
    )
    recipe = listener.recipe.model_copy(update={"audio": audio, "transcript": transcript})
    other = Listener(recipe, listener.detector, recogniser)
    other.close()
    other.reader = listener.reader
    return other


class Ear:
    """Hears the tone where a recogniser hears words."""

    def __init__(self, texts: tuple[str, ...] = ("boy", "girl", "water"), language: str = "") -> None:
        self.texts, self.language, self.clips = texts, language, []

    def transcribe(self, clip: Clip) -> Transcript:
        self.clips.append(clip)
        n = clip.rate // 50
        frames = np.abs(np.fft.rfft(clip.samples[: len(clip.samples) // n * n].reshape(-1, n), axis=1)) ** 2
        heard = np.concatenate([[False], frames[:, 3000 * n // clip.rate] > 0.5 * frames.sum(1), [False]])
        edges = np.flatnonzero(np.diff(heard.astype(int)))
        times = zip(edges[::2] * 0.02, edges[1::2] * 0.02, self.texts, strict=True)
        return Transcript(words=tuple(Word(text=t, start_s=a, end_s=b) for a, b, t in times), source="asr")

    def other_language(self, clip: Clip) -> str:
        return self.language


# ---- views -----------------------------------------------------------------------------------------------------------


def test_the_investigator_is_not_heard(spoken, listener, tone_share: Callable, tmp_path: Path) -> None:
    marked = spoken.with_tone(tmp_path, *spoken.times("INV"))
    heard = listener.hear(marked.sources)
    assert heard.clip.duration_s == pytest.approx(spoken.seconds("PAR"), abs=0.002)
    assert [tuple(span) for span in heard.kept] == spoken.times("PAR")
    everyone = like(listener, speaker="everyone").hear(marked.sources)
    assert everyone.clip.duration_s == pytest.approx(len(spoken.samples) / RATE, abs=0.001)
    assert tone_share(everyone.clip) > 0.5  # the measure sees the tone where it is
    assert tone_share(heard.clip) < 1e-3
    plain = listener.hear(spoken.sources)
    assert tone_share(heard.clip) == pytest.approx(tone_share(plain.clip), rel=0.2)


def test_what_is_kept_is_the_participants_own_sound(spoken, listener) -> None:
    heard = like(listener, level_dbfs=None).hear(spoken.sources)
    start, end = (round(time * RATE) for time in spoken.times("PAR")[0])
    ours, theirs = heard.clip.samples[: end - start - 50], spoken.samples[start : end - 50]
    assert np.abs(ours - theirs).max() < 1e-4  # 16 bits; the fade lies in the last 40 samples


def test_every_person_of_the_phantom_loses_the_investigator(cohort: list[Sources], listener) -> None:
    for sources in cohort:
        heard = listener.hear(sources)
        kept = participant_spans(heard.transcript.turns, heard.duration_s)
        investigator = [turn for turn in heard.transcript.turns if turn.speaker == "investigator"]
        assert len(investigator) >= 2
        assert not any(t.start_s < span.end_s and span.start_s < t.end_s for t in investigator for span in heard.kept)
        assert heard.clip.duration_s == pytest.approx(total_s(kept), abs=0.01)
        assert 0.4 * heard.duration_s < heard.clip.duration_s < heard.duration_s - 3


def test_the_investigators_view_has_only_the_investigator(spoken, listener, tone_share, tmp_path: Path) -> None:
    marked = spoken.with_tone(tmp_path, *spoken.times("PAR"))
    heard = listener.hear(marked.sources, view="investigator")
    assert heard.clip.duration_s == pytest.approx(spoken.seconds("INV"), abs=0.002)
    assert tone_share(heard.clip) < 1e-3
    assert heard.transcript.text == spoken.text("INV")
    assert heard.transcript.said_by("investigator") == ()  # the features take them as they take the participant's


def test_background_has_no_speech_and_one_length(spoken, listener, tone_share, tmp_path: Path) -> None:
    marked = spoken.with_tone(tmp_path / "marked", *spoken.times("PAR"), *spoken.times("INV"), loudness=0.05)
    longer = spoken.changed(tmp_path / "longer", np.concatenate([spoken.samples, spoken.samples[-2 * RATE :]]))
    heard = listener.hear(marked.sources, view="background")
    other = listener.hear(longer.sources, view="background")
    assert len(heard.clip.samples) == len(other.clip.samples) == round(BACKGROUND_S * RATE)
    assert heard.transcript is None
    for part in (heard, other):
        assert listener._speech(part.clip) == []
    assert tone_share(listener.hear(marked.sources).clip) > 0.3
    plain = listener.hear(spoken.sources, view="background")
    # Not levelled, and quiet as the room is: no louder than a hundredth of the speech's power.
    assert np.mean(plain.clip.samples**2) < 0.01 * np.mean(spoken.samples**2)
    # The room has a little at every frequency: the tone adds nothing to it.
    assert abs(tone_share(heard.clip) - tone_share(plain.clip)) < 0.02


# ---- sources ---------------------------------------------------------------------------------------------------------


def test_words_alone(spoken, listener) -> None:
    heard = listener.hear(replace(spoken.sources, audio=None))
    assert heard.transcript.text == spoken.text("PAR")
    assert (heard.clip, heard.kept, heard.quality, heard.duration_s, heard.warnings) == (None, (), None, 0.0, ())
    asked = listener.hear(replace(spoken.sources, audio=None), view="investigator")
    assert asked.transcript.text == spoken.text("INV")


def test_sound_alone(spoken, listener) -> None:
    heard = listener.hear(replace(spoken.sources, transcript=None))
    assert heard.transcript is None
    assert heard.kept == (Span(0.0, len(spoken.samples) / RATE),)
    assert heard.clip.duration_s == pytest.approx(heard.duration_s)
    assert heard.facts == {"rate_hz": RATE, "bits": 16, "channels": 1, "format": "wav"}
    turns = [Span(*times) for who in ("PAR", "INV") for times in spoken.times(who)]
    assert total_s(heard.speech) == pytest.approx(total_s(turns), rel=0.25)


def test_segments_say_who_speaks_where_no_transcript_does(spoken, listener, tmp_path: Path) -> None:
    rows = [f"{line.speaker},{line.start_ms},{line.end_ms}" for line in spoken.lines]
    segments = tmp_path / "segments.csv"
    segments.write_text("\n".join(["speaker,begin,end", *rows]))
    sources = replace(spoken.sources, transcript=None, segments=segments)
    heard = listener.hear(sources)
    assert [tuple(span) for span in heard.kept] == spoken.times("PAR")
    assert np.array_equal(heard.clip.samples, listener.hear(spoken.sources).clip.samples)
    assert [tuple(span) for span in listener.hear(sources, view="investigator").kept] == spoken.times("INV")


# ---- time and level --------------------------------------------------------------------------------------------------


def test_times_of_the_clip_become_times_of_the_recording() -> None:
    heard = Heard(kept=(Span(2.0, 3.0), Span(10.0, 14.0), Span(20.0, 20.5)))
    times = {0.0: 2.0, 0.25: 2.25, 1.5: 10.5, 4.75: 13.75, 5.25: 20.25, 9.0: 20.5}
    assert {time: heard.recording_time(time) for time in times} == times
    assert heard.recording_span(0.25, 0.5) == (2.25, 2.5)
    assert heard.recording_span(1.0, 1.5) == (10.0, 10.5)
    assert heard.recording_span(0.75, 2.0) == (
        10.0,
        11.0,
    )  # its middle is in the second part; nothing of the gap is claimed
    assert heard.recording_span(0.5, 1.25) == (2.5, 3.0)
    assert heard.recording_span(5.25, 6.0) == (20.25, 20.5)
    assert heard.recording_span(7.0, 8.0) == (20.5, 20.5)
    assert Heard().recording_span(1.0, 2.0) == (1.0, 2.0)


def test_a_mark_in_the_recording_is_found_again_through_the_clip(spoken, listener, tmp_path: Path) -> None:
    last = spoken.times("PAR")[2]
    heard = listener.hear(spoken.with_tone(tmp_path, (last[0] + 1.0, last[0] + 1.1)).sources)
    word = Ear(("mark",)).transcribe(heard.clip).words[0]
    assert heard.recording_time((word.start_s + word.end_s) / 2) == pytest.approx(last[0] + 1.05, abs=0.03)


@pytest.mark.parametrize("gain", [0.5, 0.1, 1.5])
def test_the_knob_of_the_recorder_does_not_matter(spoken, listener, tmp_path: Path, gain: float) -> None:
    plain, other = listener.hear(spoken.sources), listener.hear(spoken.changed(tmp_path, gain * spoken.samples).sources)
    rms = [np.sqrt(np.mean(heard.clip.samples.astype(np.float64) ** 2)) for heard in (plain, other)]
    assert 20 * np.log10(rms[1] / rms[0]) == pytest.approx(0, abs=0.1)
    assert np.abs(other.clip.samples - plain.clip.samples).max() < 0.02 * np.abs(plain.clip.samples).max()
    unlevelled = like(listener, level_dbfs=None).hear(Sources(audio=tmp_path / "a.wav", transcript=spoken.transcript))
    assert np.abs(unlevelled.clip.samples).max() < 0.8 * np.abs(plain.clip.samples).max()


def test_a_bad_recording_is_warned_of(spoken, listener, tmp_path: Path) -> None:
    assert listener.hear(spoken.sources).warnings == ()
    noise = 0.03 * np.random.default_rng(0).standard_normal(len(spoken.samples))
    warnings = listener.hear(spoken.changed(tmp_path, spoken.samples + noise).sources).warnings
    assert any("noisy" in warning for warning in warnings)


# ---- what is refused -------------------------------------------------------------------------------------------------


def test_nothing_to_hear(listener) -> None:
    assert code(listener, Sources()) == "CHI-IN-240"


def test_no_participant_in_the_transcript(spoken, listener, tmp_path: Path) -> None:
    lines = spoken.transcript.read_text("utf-8").split("\n")
    mumbled = tmp_path / "a.cha"
    mumbled.write_text("\n".join("*PAR:\txxx ." if line.startswith("*PAR") else line for line in lines), "utf-8")
    assert code(listener, replace(spoken.sources, audio=None, transcript=mumbled)) == "CHI-IN-242"
    with pytest.raises(InputError) as caught:
        listener.hear(replace(spoken.sources, transcript=mumbled))
    assert (caught.value.code, caught.value.file) == ("CHI-IN-242", "a.cha")


def test_no_speech(spoken, listener, tmp_path: Path) -> None:
    room = spoken.changed(tmp_path, spoken.samples[-3 * RATE :])
    assert code(listener, replace(room.sources, transcript=None)) == "CHI-IN-243"
    assert code(listener, room.sources) == "CHI-IN-243"


def test_silence_and_splinters(spoken, listener, bullet: str, tmp_path: Path) -> None:
    assert code(listener, spoken.changed(tmp_path / "silent", np.zeros(RATE)).sources) == "CHI-IN-215"
    assert code(listener, spoken.changed(tmp_path / "short", spoken.samples[:300]).sources) == "CHI-IN-216"
    # The recording is long enough, what the participant has of it is not.
    start = spoken.lines[1].start_ms
    splinter = tmp_path / "splinter.cha"
    splinter.write_text(
        f"@UTF8\n@Begin\n@Participants:\tPAR Participant, INV Investigator\n*PAR:\tboy . {bullet}{start}_{start + 30}{bullet}\n@End\n"
    )
    assert code(listener, replace(spoken.sources, transcript=splinter)) == "CHI-IN-216"
    assert code(like(listener, max_duration_s=2.0), spoken.sources) == "CHI-IN-211"


def test_too_little_background(spoken, listener, tmp_path: Path) -> None:
    start, end = spoken.times("PAR")[0]
    tight = spoken.changed(tmp_path, spoken.samples[round(start * RATE) : round(end * RATE)])
    assert code(listener, replace(tight.sources, transcript=None), view="background") == "CHI-IN-244"
    assert code(listener, replace(spoken.sources, audio=None), view="background") == "CHI-IN-244"


def test_nobody_asks(spoken, listener, tmp_path: Path) -> None:
    assert code(listener, replace(spoken.sources, transcript=None), view="investigator") == "CHI-IN-245"
    alone = tmp_path / "a.txt"
    alone.write_text("the boy is taking a cookie")
    assert code(listener, Sources(transcript=alone), view="investigator") == "CHI-IN-245"
    without = like(listener, cleaning={"keep_investigator": False})
    assert code(without, spoken.sources, view="investigator") == "CHI-IN-245"


def test_messages_name_the_file_and_not_its_words(spoken, listener, tmp_path: Path) -> None:
    room = spoken.changed(tmp_path, spoken.samples[-3 * RATE :])
    with pytest.raises(InputError) as caught:
        listener.hear(room.sources)
    assert caught.value.file == "a.wav"
    assert str(tmp_path) not in str(caught.value)
    assert set(CODES) == {f"CHI-IN-{n}" for n in range(240, 246)}


# ---- recognition -----------------------------------------------------------------------------------------------------


@pytest.fixture
def told(spoken, tmp_path: Path):
    """Tones instead of words, at known times of the participant's turns; only a table says who speaks when."""
    spans = [(start + 0.5, start + 0.6) for start, _ in spoken.times("PAR")]
    marked = spoken.with_tone(tmp_path / "told", *spans, *spoken.times("INV"))
    segments = tmp_path / "segments.csv"
    rows = [f"{line.speaker},{line.start_ms},{line.end_ms}" for line in spoken.lines]
    segments.write_text("\n".join(["speaker,begin,end", *rows]))
    return replace(marked.sources, transcript=None, segments=segments), spans


def test_recognised_words_have_the_recordings_time(told, listener) -> None:
    sources, spans = told
    ear = Ear()
    heard = like(listener, ear).hear(sources)
    assert heard.transcript.text == "boy girl water"  # and none of the investigator's tones
    assert heard.transcript.source == "asr"
    times = np.array([(word.start_s, word.end_s) for word in heard.transcript.words])
    assert np.abs(times - np.array(spans)).max() < 0.04
    assert heard.clip.duration_s == pytest.approx(ear.clips[0].duration_s, abs=0.001)
    assert [turn.speaker for turn in heard.transcript.turns].count("investigator") == 2


def test_recognised_words_are_cleaned_as_written_ones(told, listener) -> None:
    texts = ("The", "don\u2019t,", "\u2026")
    assert like(listener, Ear(texts)).hear(told[0]).transcript.text == "The don't"
    kept = like(listener, Ear(texts), cleaning={"keep_punctuation": True}).hear(told[0])
    assert kept.transcript.text == "The don\u2019t, \u2026"


def test_another_language_is_warned_of(told, listener, tmp_path: Path) -> None:
    clip = listener.reader.read(told[0].audio)
    write_wav(tmp_path / "quiet.wav", Clip(0.02 * clip.samples, clip.rate))
    quiet = replace(told[0], audio=tmp_path / "quiet.wav")
    plain = like(listener, Ear()).hear(quiet).warnings
    assert any("quiet" in warning for warning in plain)
    foreign = like(listener, Ear(language="de")).hear(quiet).warnings
    assert foreign == (*plain, "The recording seems to be in another language (de).")


def test_recognition_of_nothing_is_refused(told, listener) -> None:
    with pytest.raises(InputError) as caught:
        like(listener, Ear(("...", "-", "!"))).hear(told[0])
    assert (caught.value.code, caught.value.file) == ("CHI-IN-242", "a.wav")


def test_the_recogniser_is_asked_only_where_words_are_missing(told, spoken, listener) -> None:
    ear = Ear()
    assert like(listener, ear).hear(spoken.sources).transcript.text == spoken.text("PAR")
    assert like(listener, ear).hear(told[0], view="background").transcript is None
    assert ear.clips == []


def test_what_the_investigator_says_is_recognised_for_that_control(told, spoken, listener, tmp_path: Path) -> None:
    spans = [(start + 0.5, start + 0.6) for start, _ in spoken.times("INV")]
    marked = spoken.with_tone(tmp_path / "asked", *spans, *spoken.times("PAR"))
    asked = like(listener, Ear(("who", "asks"))).hear(replace(told[0], audio=marked.audio), view="investigator")
    assert asked.transcript.text == "who asks"
    times = np.array([(word.start_s, word.end_s) for word in asked.transcript.words])
    assert np.abs(times - np.array(spans)).max() < 0.04


def test_the_recogniser_hears_the_levelled_clip(told, spoken, listener, tmp_path: Path) -> None:
    ears = [Ear(), Ear()]
    like(listener, ears[0]).hear(told[0])
    quiet = tmp_path / "quiet.wav"
    clip = listener.reader.read(told[0].audio)
    write_wav(quiet, Clip(0.25 * clip.samples, clip.rate))
    like(listener, ears[1]).hear(replace(told[0], audio=quiet))
    loud, soft = (np.sqrt(np.mean(ear.clips[0].samples ** 2)) for ear in ears)
    assert soft == pytest.approx(loud, rel=0.01)
