"""Features: words and tokens, where each audio token lies in the recording, what is kept for frozen and for trained encoders."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from chiasm.data.audio import Clip
from chiasm.data.errors import InputError, SeveralErrors, WeightsError
from chiasm.data.spans import Span
from chiasm.data.transcripts import Transcript, Word
from chiasm.pipelines.speech_recipe import AudioSpec, SpeechRecipe
from chiasm.pipelines.stages.speech.components import (
    encoder_folders,
    feature_hashes,
    load_detector,
    load_encoders,
    load_listening,
    n_parameters,
)
from chiasm.pipelines.stages.speech.features import (
    IMAGES_A_PASS,
    Encoders,
    encode_pictures,
    extract,
    picture_maker,
    pictures_of,
)
from chiasm.pipelines.stages.speech.hearing import Heard, Listener

FRAME_S = 128 / 8000


def with_audio(recipe: SpeechRecipe, **changes) -> SpeechRecipe:
    return recipe.model_copy(update={"audio": recipe.audio.model_copy(update=changes)})


@pytest.fixture
def heard(spoken, listener) -> Heard:
    return listener.hear(spoken.sources)


def test_words_tokens_and_times(heard: Heard, spoken, recipe: SpeechRecipe, encoders: Encoders) -> None:
    features = extract(heard, recipe, encoders)
    assert " ".join(features.words) == spoken.text("PAR")
    assert features.word_index[[0, -1]].tolist() == [-1, -1]
    cookie = features.words.index("cookie")
    assert features.word_index.tolist().count(cookie) == 2  # cook ##ie
    assert features.word_index[1:-1].unique().tolist() == list(range(len(features.words)))
    for index, (start, end) in enumerate(features.word_times):
        assert any(a <= start <= end <= b for a, b in spoken.times("PAR")), index
    alone = encoders.text(features.ids[None], torch.ones(1, len(features.ids), dtype=torch.bool)).tokens[0]
    assert torch.allclose(features.text_tokens, alone, atol=1e-6)


def test_audio_tokens_lie_in_the_recording(heard: Heard, spoken, recipe: SpeechRecipe, encoders: Encoders) -> None:
    features = extract(heard, recipe, encoders)
    assert len(features.audio_tokens) == len(features.audio_spans)
    spans = features.audio_spans.numpy()
    assert (np.diff(spans[:, 0]) > 0).all()
    assert spans[0, 0] == pytest.approx(spoken.times("PAR")[0][0], abs=0.001)
    # A token covers 8 frames; its middle is in a turn of the participant.
    middles = spans[:, :2].mean(1)
    assert all(any(a - 1e-3 <= m <= b + 1e-3 for a, b in spoken.times("PAR")) for m in middles)
    assert np.allclose(spans[:5, 1] - spans[:5, 0], 8 * FRAME_S, atol=1e-3)
    assert (spans[:, 2:] == [0, 32]).all()


def test_a_noise_lights_the_token_of_its_time(spoken, listener, recipe, encoders, tmp_path: Path) -> None:
    start = spoken.times("PAR")[2][0] + 1.0
    marked = listener.hear(spoken.with_tone(tmp_path, (start, start + 0.12), loudness=0.8).sources)
    only_pictures = extract(marked, with_audio(recipe, normalise="none"), encoders, frozen=False)
    bright = only_pictures.pixels[:, 0, 24:].mean(1)  # 3 kHz is in the upper bands; (K, frames)
    column = int(bright.unflatten(1, (4, 8)).mean(2).flatten().argmax())
    assert only_pictures.audio_spans[column, :2].mean() == pytest.approx(start + 0.06, abs=0.1)


def test_no_token_lies_behind_the_recordings_end(spoken, listener, recipe, encoders, tmp_path: Path) -> None:
    end = spoken.times("PAR")[0][1]
    cut = spoken.changed(tmp_path, spoken.samples[: round(end * 8000)])
    spans = extract(listener.hear(cut.sources), recipe, encoders).audio_spans
    assert float(spans[:, 1].max()) <= end + 1e-3
    assert bool((spans[:, 1] > spans[:, 0]).all())


def test_frozen_keeps_tokens_and_trained_keeps_pictures(heard: Heard, recipe: SpeechRecipe, encoders: Encoders) -> None:
    frozen, trained = extract(heard, recipe, encoders), extract(heard, recipe, encoders, frozen=False)
    assert (frozen.pixels, trained.audio_tokens, trained.text_tokens) == (None, None, None)
    assert len(trained.pixels) > IMAGES_A_PASS  # more than one pass of the encoder
    assert torch.allclose(encode_pictures(encoders.audio, trained.pixels, "time"), frozen.audio_tokens)
    each = torch.cat([encode_pictures(encoders.audio, picture[None], "time") for picture in trained.pixels])
    assert torch.allclose(each, frozen.audio_tokens, atol=1e-5)
    assert torch.equal(trained.audio_spans, frozen.audio_spans)
    assert not frozen.audio_tokens.requires_grad


@pytest.mark.parametrize(("tokens", "a_picture"), [("time", 4), ("patches", 16), ("chunk", 1)])
def test_tokens_a_picture(heard: Heard, recipe, encoders, tokens: str, a_picture: int) -> None:
    features = extract(heard, with_audio(recipe, tokens=tokens), encoders)
    _, images = pictures_of(heard, recipe.audio, picture_maker(recipe.audio))
    assert len(features.audio_tokens) == len(features.audio_spans) == a_picture * len(images.pixels)


def test_every_setting_of_the_picture_reaches_it() -> None:
    asked = {
        "sample_rate": 12000, "n_fft": 600, "hop_length": 150, "n_mels": 50, "f_min": 40.0, "f_max": 5000.0, "htk": True,
        "top_db": 60.0,
    }  # fmt: skip
    made = picture_maker(AudioSpec(**asked)).config
    assert {name: getattr(made, name) for name in asked} == asked


def test_half_the_gain_gives_the_same_features(spoken, listener, recipe, encoders, tmp_path: Path) -> None:
    def pixels(listening: Listener, source) -> torch.Tensor:
        plain = with_audio(recipe, normalise="none", top_db=None)
        return extract(listening.hear(source.sources), plain, encoders, frozen=False).pixels[:, 0]

    soft = spoken.changed(tmp_path, 0.5 * spoken.samples)
    assert (
        pixels(listener, soft) - pixels(listener, spoken)
    ).abs().mean() < 0.3  # dB; 16 bits are coarser for the soft one
    one, other = (extract(listener.hear(s.sources), recipe, encoders).audio_tokens for s in (spoken, soft))
    assert torch.nn.functional.cosine_similarity(one, other).min() > 0.99
    unlevelled = Listener(with_audio(recipe, level_dbfs=None), listener.detector)
    unlevelled.close()
    unlevelled.reader = listener.reader
    assert (pixels(unlevelled, soft) - pixels(unlevelled, spoken)).mean() == pytest.approx(-6.0, abs=0.5)


def test_words_without_sound_and_sound_without_words(spoken, listener, recipe, encoders) -> None:
    words = extract(listener.hear(replace(spoken.sources, audio=None)), recipe, encoders)
    assert (words.has_text, words.has_audio, words.audio_tokens) == (True, False, None)
    sound = extract(listener.hear(replace(spoken.sources, transcript=None)), recipe, encoders)
    assert (sound.has_text, sound.has_audio, sound.ids, sound.words) == (False, True, None, ())
    assert sound.facts["source"] is None
    both = extract(listener.hear(spoken.sources), recipe, encoders)
    assert torch.equal(words.text_tokens, both.text_tokens)
    with pytest.raises(InputError, match="CHI-IN-241"):
        pictures_of(listener.hear(replace(spoken.sources, audio=None)), recipe.audio, picture_maker(recipe.audio))


def test_facts_are_beside_the_features(heard: Heard, spoken, recipe, encoders) -> None:
    facts = extract(heard, recipe, encoders).facts
    assert facts["duration_s"] == pytest.approx(len(spoken.samples) / 8000, abs=1e-3)
    assert facts["header"] == {"rate_hz": 8000, "bits": 16, "channels": 1, "format": "wav"}
    assert facts["source"] == "chat"
    assert facts["counts"]["utterances"] == 3
    assert facts["speech"] == [[round(span.start_s, 3), round(span.end_s, 3)] for span in heard.speech]
    assert facts["warnings"] == []


def test_untimed_and_truncated_words(recipe: SpeechRecipe, encoders: Encoders) -> None:
    words = (Word(text="boy"), Word(text="who", speaker="investigator"), Word(text="girl", start_s=1.0, end_s=1.5))
    features = extract(Heard(transcript=Transcript(words=words)), recipe, encoders)
    assert (features.words, features.word_times) == (("boy", "girl"), (None, (1.0, 1.5)))
    long = extract(Heard(transcript=Transcript(words=(Word(text="boy"),) * 200)), recipe, encoders)
    assert (len(long.ids), long.n_truncated, len(long.words)) == (128, 200 - 126, 200)


def test_every_person_of_the_phantom(cohort, listener, recipe, encoders) -> None:
    maker = picture_maker(recipe.audio)
    for sources in cohort[:2]:
        heard = listener.hear(sources)
        features = extract(heard, recipe, encoders, maker=maker)
        assert torch.isfinite(features.audio_tokens).all()
        assert features.audio_tokens.std(0).mean() > 1e-3
        assert 0 <= features.audio_spans[:, 0].min() <= features.audio_spans[:, 1].max() <= heard.duration_s + 1e-3


def test_a_clip_of_another_picture_size_is_refused(recipe: SpeechRecipe, encoders: Encoders) -> None:
    heard = Heard(clip=Clip(np.zeros(8000, np.float32), 8000), kept=(Span(0.0, 1.0),), duration_s=1.0)
    with pytest.raises(Exception, match="CHI-RC-105"):
        extract(heard, with_audio(recipe, size=(64, 32)), encoders)


# ---- components ------------------------------------------------------------------------------------------------------


def test_encoders_are_frozen_and_known_by_hash(recipe: SpeechRecipe, encoders: Encoders) -> None:
    assert not encoders.text.training
    assert not encoders.audio.training
    assert not any(p.requires_grad for net in (encoders.text, encoders.audio) for p in net.parameters())
    assert encoders.hashes == {name: folder.sha256 for name, folder in encoder_folders(recipe).items()}
    assert encoders.hashes == feature_hashes(recipe)
    assert n_parameters(torch.nn.Linear(3, 2)) == 8
    with torch.no_grad():
        out = load_encoders(recipe, attention="eager").audio(torch.zeros(1, 3, 32, 32), keep_attention=True)
    assert len(out.attentions) == 1


def test_all_that_is_missing_is_named_at_once(
    recipe: SpeechRecipe, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHIASM_WEIGHTS", str(tmp_path))
    with pytest.raises(SeveralErrors, match=r"(?s)tiny-text.*tiny-audio"):
        load_encoders(recipe)


def test_the_detector_comes_with_the_package_and_the_recogniser_only_where_asked_for(
    recipe: SpeechRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert load_listening(recipe).recogniser is None
    assert not load_detector().training
    asked: dict[str, Callable] = {}

    def fake(weights: str, *, language: str) -> str:
        asked[weights] = language
        return "recogniser"

    monkeypatch.setattr("chiasm.pipelines.stages.speech.recognition.load_recogniser", fake)
    wanted = recipe.transcript.model_copy(update={"recognition": "faster-whisper", "language": "de"})
    assert load_listening(recipe.model_copy(update={"transcript": wanted})).recogniser == "recogniser"
    assert asked == {"whisper-base": "de"}


def test_the_recognisers_hash_is_asked_for_where_it_is_used(
    recipe: SpeechRecipe, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHIASM_WEIGHTS", str(weights))
    wanted = recipe.transcript.model_copy(update={"recognition": "faster-whisper", "recognition_weights": "no-such"})
    recognising = recipe.model_copy(update={"transcript": wanted})
    with pytest.raises(WeightsError, match="CHI-WT-040"):
        feature_hashes(recognising)
    assert set(feature_hashes(recipe)) == {"text", "audio"}


def test_the_controls_numbers_hold_nothing_of_the_participant() -> None:
    import torch as pt

    from chiasm.pipelines.stages.speech.features import SpeechFeatures as Features
    from chiasm.pipelines.stages.speech.statistics import AUDIO_STATISTICS, TEXT_STATISTICS, statistics_of

    facts = {"counts": {"fillers": 9}, "acoustic": [0.5] * 145, "duration_s": 30.0, "speech": [[1.0, 4.0], [6.0, 9.0]]}
    spoken = Features(
        ids=pt.zeros(3, dtype=pt.int64), words=("tell", "me", "more"), audio_spans=pt.zeros(1, 4), facts=facts
    )
    own, other = statistics_of(spoken), statistics_of(spoken, "investigator")
    assert [len(values) for values in own] == [TEXT_STATISTICS, AUDIO_STATISTICS]
    assert 3.0 in own[0].tolist()  # nine fillers in three words
    assert other[0][-5:].isnan().all()
    assert not own[1].isnan().any()
    assert other[1][145:].isnan().all()
    assert own[1][145] == 30.0
