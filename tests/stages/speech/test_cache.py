"""The feature cache: what changes a key and what does not, exact round trips, damage, writes that are broken off."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from chiasm.pipelines.speech_recipe import SpeechRecipe
from chiasm.pipelines.stages.speech import cache as module
from chiasm.pipelines.stages.speech.cache import FeatureCache
from chiasm.pipelines.stages.speech.features import SpeechFeatures, extract
from chiasm.pipelines.stages.speech.hearing import Sources

HASHES = {"text": "a" * 64, "audio": "b" * 64}
TENSORS = ("ids", "word_index", "text_tokens", "pixels", "audio_tokens", "audio_spans")


@pytest.fixture
def store(tmp_path: Path) -> FeatureCache:
    return FeatureCache(tmp_path / "features")


@pytest.fixture
def sources(tmp_path: Path) -> Sources:
    paths = {name: tmp_path / name for name in ("audio", "transcript", "segments")}
    for name, path in paths.items():
        path.write_bytes(name.encode())
    return Sources(**paths, audio_name="train/a.wav")


@pytest.fixture(scope="module")
def features() -> SpeechFeatures:
    torch.manual_seed(0)
    return SpeechFeatures(
        ids=torch.tensor([2, 7, 7, 3]),
        word_index=torch.tensor([-1, 0, 1, -1]),
        text_tokens=torch.randn(4, 8),
        words=("d\u00e9j\u00e0", "\u201cvu\u201d"),
        word_times=((0.1, 1 / 3), None),
        n_truncated=3,
        audio_tokens=torch.randn(8, 5).t(),  # not contiguous
        audio_spans=torch.randn(5, 4),
        facts={"duration_s": 0.1 + 0.2, "speech": [[0.0, 1.5]], "snr_db": None, "counts": {"fillers": 2}},
    )


def key(store: FeatureCache, sources: Sources, recipe: SpeechRecipe, **changes) -> str:
    options = {"view": "participant", "frozen": True, "hashes": HASHES, **changes}
    return store.key(sources, recipe, options.pop("hashes"), **options)


def changed(recipe: SpeechRecipe, part: str, **fields) -> SpeechRecipe:
    return recipe.model_copy(update={part: getattr(recipe, part).model_copy(update=fields)})


def same(first: SpeechFeatures, second: SpeechFeatures) -> bool:
    for name in TENSORS:
        one, two = getattr(first, name), getattr(second, name)
        if (one is None) != (two is None) or (
            one is not None and not (one.dtype == two.dtype and torch.equal(one, two))
        ):
            return False
    names = ("words", "word_times", "n_truncated", "facts")
    return all(getattr(first, name) == getattr(second, name) for name in names)


# ---- keys ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["audio", "transcript", "segments"])
def test_the_bytes_of_a_file_count_and_its_name_does_not(store, sources, recipe, tmp_path: Path, name: str) -> None:
    before = key(store, sources, recipe)
    path = getattr(sources, name)
    moved = path.rename(tmp_path / "elsewhere")
    assert key(store, replace(sources, **{name: moved}, audio_name="b.wav"), recipe) == before
    moved.write_bytes(moved.read_bytes() + b".")
    assert key(store, replace(sources, **{name: moved}), recipe) != before
    assert key(store, replace(sources, **{name: None}), recipe) != before


def test_two_files_are_not_confused(store, sources, recipe) -> None:
    swapped = replace(sources, audio=sources.transcript, transcript=sources.audio)
    assert key(store, swapped, recipe) != key(store, sources, recipe)


def test_every_setting_of_the_features_counts(store, sources, recipe) -> None:
    other = {
        "audio": {"n_mels": 40, "level_dbfs": None, "tokens": "patches", "speaker": "everyone", "top_db": None},
        "transcript": {"cleaning": {"keep_fillers": False}, "max_tokens": 64, "language": "de"},
    }
    recipes = [changed(recipe, part, **{k: v}) for part, fields in other.items() for k, v in fields.items()]
    keys = {key(store, sources, r) for r in [recipe, *recipes]}
    assert len(keys) == 1 + len(recipes)


def test_training_and_answers_do_not_count(store, sources, recipe) -> None:
    trained = recipe.model_copy(update={"training": {"epochs": 1}, "title": "other", "classes": ("CN", "MCI", "AD")})
    answered = changed(trained, "answer", prevalence=0.3)
    assert key(store, sources, answered) == key(store, sources, recipe)


def test_encoders_view_and_kind_count(store, sources, recipe) -> None:
    keys = {
        key(store, sources, recipe),
        key(store, sources, recipe, hashes={**HASHES, "audio": "c" * 64}),
        key(store, sources, recipe, hashes={**HASHES, "text": "c" * 64}),
        key(store, sources, recipe, view="background"),
        key(store, sources, recipe, view="investigator"),
        key(store, sources, recipe, frozen=False),
    }
    assert len(keys) == 6


def test_pictures_do_not_depend_on_the_audio_encoder(store, sources, recipe) -> None:
    plain = key(store, sources, recipe, frozen=False)
    assert key(store, sources, recipe, frozen=False, hashes={**HASHES, "audio": "c" * 64}) == plain
    assert key(store, sources, recipe, frozen=False, hashes={**HASHES, "text": "c" * 64}) != plain  # its tokeniser does


def test_the_recogniser_counts_where_it_writes_the_words(store, sources, recipe) -> None:
    one, other = {**HASHES, "recogniser": "d" * 64}, {**HASHES, "recogniser": "e" * 64}
    assert key(store, sources, recipe, hashes=one) == key(store, sources, recipe, hashes=other)
    unwritten = replace(sources, transcript=None)
    for frozen in (True, False):
        keys = {key(store, unwritten, recipe, frozen=frozen, hashes=hashes) for hashes in (HASHES, one, other)}
        assert len(keys) == 3


# ---- entries ---------------------------------------------------------------------------------------------------------


def test_what_is_read_is_what_was_written(store, features: SpeechFeatures) -> None:
    assert not store.has("ab12")
    assert store.read("ab12") is None
    store.write("ab12", features)
    assert store.has("ab12")
    assert same(store.read("ab12"), features)
    assert [path.name for path in store.folder.rglob("*") if path.is_file()] == ["ab12.safetensors"]


def test_real_features_come_back(store, spoken, listener, recipe, encoders) -> None:
    heard = listener.hear(spoken.sources)
    for name, frozen in (("aa", True), ("bb", False)):
        made = extract(heard, recipe, encoders, frozen=frozen)
        store.write(name, made)
        assert same(store.read(name), made)


def test_a_missing_modality_stays_missing(store, features: SpeechFeatures) -> None:
    words = replace(features, audio_tokens=None, audio_spans=None)
    store.write("aa", words)
    assert (store.read("aa").has_text, store.read("aa").has_audio) == (True, False)
    store.write("aa", SpeechFeatures(audio_spans=features.audio_spans))
    assert (store.read("aa").has_text, store.read("aa").has_audio) == (False, True)


def test_every_changed_byte_is_noticed(store, features: SpeechFeatures) -> None:
    store.write("ab12", features)
    path = store._path("ab12")
    whole = path.read_bytes()
    n_header = 8 + int.from_bytes(whole[:8], "little")
    trusted = []
    for place in (*range(0, n_header, 11), *range(n_header, len(whole), 5)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x10]) + whole[place + 1 :])
        found = store.read("ab12")
        if found is not None and not same(found, features):
            trusted.append(place)
    assert trusted == []
    for n in (0, 4, n_header, len(whole) - 1):
        path.write_bytes(whole[:n])
        assert (store.read("ab12"), store.has("ab12")) == (None, False)


def test_a_damaged_entry_is_made_again(store, features: SpeechFeatures) -> None:
    store.write("ab12", features)
    path = store._path("ab12")
    path.write_bytes(path.read_bytes()[:-1] + b"\x55")
    assert not store.has("ab12")  # who asks whether to make it is told to
    store.write("ab12", features)
    assert same(store.read("ab12"), features)


@pytest.mark.parametrize(
    "about", ["[]", "{}", '{"words": 1, "word_times": []}', "not JSON", '{"words": [], "extra": 1}']
)
def test_an_entry_of_another_form_is_none(store, features: SpeechFeatures, about: str) -> None:
    path = store._path("ab12")
    path.parent.mkdir(parents=True)
    tensors = {"ids": features.ids}
    save_file(tensors, path, metadata={"about": about, "sha256": module._digest(about, tensors)})
    assert store.read("ab12") is None
    save_file(tensors, path)
    assert store.read("ab12") is None


def test_an_interrupted_write_leaves_nothing(store, features: SpeechFeatures, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken_off(tensors, path, metadata) -> None:
        save_file(tensors, path, metadata=metadata)
        Path(path).write_bytes(Path(path).read_bytes()[:100])
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "save_file", broken_off)
    with pytest.raises(KeyboardInterrupt):
        store.write("ab12", features)
    assert not [path for path in store.folder.rglob("*") if path.is_file()]
    monkeypatch.undo()
    store.write("ab12", features)
    monkeypatch.setattr(module, "save_file", broken_off)
    with pytest.raises(KeyboardInterrupt):
        store.write("ab12", replace(features, n_truncated=9))
    assert same(store.read("ab12"), features)


def test_an_entry_holds_no_code(store, features: SpeechFeatures) -> None:
    store.write("ab12", features)
    with safe_open(store._path("ab12"), framework="pt") as file:
        assert set(file.keys()) == {name for name in TENSORS if getattr(features, name) is not None}
