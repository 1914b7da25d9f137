"""Fits of a study: found again by what they depend on, controls that leave the test alone, sides that are refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from chiasm.data.errors import InputError
from chiasm.data.interviews import Interview
from chiasm.pipelines.recipes import load_recipe
from chiasm.pipelines.stages.speech import components
from chiasm.pipelines.stages.speech.cache import FeatureCache
from chiasm.pipelines.stages.speech.features import Encoders, SpeechFeatures
from chiasm.pipelines.training.speech import fits
from chiasm.pipelines.training.speech.acoustic_statistics import NAMES
from chiasm.pipelines.training.speech.batches import Sample
from chiasm.pipelines.training.speech.fits import (
    MODEL,
    RESULT,
    FitData,
    FitSpec,
    Fitter,
    check_sides,
    read_result,
    run_fits,
)
from chiasm.pipelines.training.speech.settings import SpeechTraining

Make = Callable[..., Sample]
Training = Callable[..., SpeechTraining]
SMALL = {"width": 8, "hidden": 8, "dropout": 0.0, "iterations": 5, "modality_dropout": 0.2}
N = 20


def facts(index: int) -> dict[str, Any]:
    """What the baselines read; pauses, words and voice of odd numbers differ."""
    rng, odd = np.random.default_rng(index), index % 2
    return {
        "duration_s": 10.0 + index % 3,
        "speech": [[0.5, 2.0], [2.5 + 2 * odd, 8.0]],
        "header": {"rate_hz": 16000, "bits": 16, "channels": 1, "format": "wav"},
        "counts": {"fillers": 3 * odd},
        "acoustic": (rng.normal(size=len(NAMES)) + odd).tolist(),
    }


def words(index: int) -> tuple[str, ...]:
    return tuple(("well the thing is there" if index % 2 else "mother washes dishes while water overflows").split())


class Study:
    """A data set in a cache, and the fits of it."""

    def __init__(self, folder: Path, samples: list[Sample], settings: SpeechTraining) -> None:
        self.cache = FeatureCache(folder / "features")
        self.interviews = tuple(
            Interview(
                name=s.name, person=s.person, label=("CN", "AD")[s.label], age=70.0 + i, sex=("female", "male")[i % 2]
            )
            for i, s in enumerate(samples)
        )
        self.keys: dict[str, str] = {}
        for index, one in enumerate(samples):
            self.write(one.name, replace(one.features, words=words(index), facts=facts(index)))
        self.settings, self.out = settings, folder / "out"

    def write(self, name: str, features: SpeechFeatures, version: str = "a") -> None:
        self.keys[name] = f"{version}{name}"
        self.cache.write(self.keys[name], features)

    def data(self, **fields: Any) -> FitData:
        known: dict[str, Any] = {
            "interviews": self.interviews, "keys": {"participant": dict(self.keys)}, "cache": self.cache.folder,
            "recipe": load_recipe("dementia"), "settings": self.settings, "out": self.out,
        }  # fmt: skip
        return FitData(**{**known, **fields})


@pytest.fixture
def study(tmp_path: Path, sample: Make, training: Training) -> Study:
    return Study(tmp_path, [sample(i) for i in range(N)], training(epochs=2, precision="float32"))


def spec(**fields: Any) -> FitSpec:
    names = [f"i{i:03d}" for i in range(N)]
    known = {"train": tuple(names[:10]), "validation": tuple(names[10:14]), "test": tuple(names[14:])}
    return FitSpec(**{"row": "model", "seed": 0, "part": "fold-000", "classifier": SMALL, **known, **fields})


def result(study: Study, one: FitSpec) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((study.out / one.folder / RESULT).read_text())
    return found


def test_a_fit_leaves_logits_of_validation_and_test(study: Study) -> None:
    one = spec(keep_model=True)
    assert Fitter(study.data()).run(one)
    assert one.folder == "fits/model/seed-00/fold-000"
    found = read_result(study.out / one.folder, Fitter(study.data()).identity(one))
    assert found is not None
    assert found.names == {"validation": one.validation, "test": one.test}
    assert found.logits["validation"].shape == (4, 2)
    assert found.logits["test"].shape == (6, 2)
    assert found.temperature > 0
    assert found.epochs == len(found.history) == 2
    assert found.mmse.size == 0
    assert (study.out / one.folder / MODEL).is_file()


def test_a_result_is_found_again_and_nothing_is_trained(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    one = spec()
    assert Fitter(study.data()).run(one)
    before = (study.out / one.folder / RESULT).read_bytes()
    monkeypatch.setattr(Fitter, "samples", lambda *_: pytest.fail("read again"))
    assert Fitter(study.data()).run(one)
    assert Fitter(study.data()).run(replace(one, keep_model=True))  # does not change what it says
    other = study.settings.model_copy(update={"seeds": (0, 1, 2), "folds": 3})
    assert Fitter(study.data(settings=other)).run(one)  # which other fits there are is nothing to this one
    assert (study.out / one.folder / RESULT).read_bytes() == before


def relabelled(study: Study, index: int, **fields: Any) -> tuple[Interview, ...]:
    return tuple(replace(who, **fields) if i == index else who for i, who in enumerate(study.interviews))


@pytest.mark.parametrize(
    "change", ["label", "person", "mmse", "settings", "features", "side", "classifier", "view", "permuted"]
)
def test_a_result_of_something_else_is_not_found(study: Study, change: str) -> None:
    one = spec()
    first = Fitter(study.data()).identity(one)
    data = study.data()
    if change == "label":
        data = study.data(interviews=relabelled(study, 3, label="CN"))
    elif change == "person":
        data = study.data(interviews=relabelled(study, 3, person="p004"))
    elif change == "mmse":
        data = study.data(interviews=relabelled(study, 3, mmse=20.0))
    elif change == "settings":
        data = study.data(settings=study.settings.model_copy(update={"learning_rate": 0.02}))
    elif change == "features":
        data = study.data(keys={"participant": {**study.keys, "i016": "b"}})
    elif change == "side":
        one = spec(test=one.test[1:])
    elif change == "classifier":
        one = spec(classifier={**SMALL, "eps": 0.03})
    elif change == "view":
        one, data = spec(view="background"), study.data(keys={"background": study.keys})
    else:
        one = spec(permuted=True)
    assert Fitter(data).identity(one) != first


def test_the_labels_of_the_test_side_change_nothing(study: Study) -> None:
    data = study.data(interviews=relabelled(study, 16, label="AD", mmse=3.0, age=1.0))
    assert Fitter(data).identity(spec()) == Fitter(study.data()).identity(spec())
    metadata = spec(kind="baseline", baseline="metadata")
    assert Fitter(data).identity(metadata) != Fitter(study.data()).identity(metadata)  # this one reads the age


def test_a_result_of_something_else_is_made_anew(study: Study) -> None:
    one = spec()
    assert Fitter(study.data()).run(one)
    before = result(study, one)
    changed = study.data(interviews=relabelled(study, 3, label="CN"))
    assert Fitter(changed).run(one)
    assert result(study, one)["identity"] != before["identity"]
    assert result(study, one)["logits"] != before["logits"]
    (study.out / one.folder / RESULT).write_text('{"identity": ')
    assert read_result(study.out / one.folder) is None
    assert Fitter(study.data()).run(one)
    assert result(study, one) == before


def test_a_stopped_fit_has_no_result_and_goes_on(study: Study) -> None:
    one = spec()
    study.settings = study.settings.model_copy(update={"epochs": 4})
    asked = iter(range(100))
    assert not Fitter(study.data(), lambda: next(asked) >= 3).run(one)
    assert not (study.out / one.folder / RESULT).exists()
    assert Fitter(study.data()).run(one)
    stopped = result(study, one)
    whole = study.data(out=study.out.with_name("whole"))
    assert Fitter(whole).run(one)
    assert stopped == json.loads((whole.out / one.folder / RESULT).read_text())


def test_features_that_changed_below_a_stopped_fit_start_it_anew(study: Study) -> None:
    one = spec()
    study.settings = study.settings.model_copy(update={"epochs": 4})
    asked = iter(range(100))
    assert not Fitter(study.data(), lambda: next(asked) >= 3).run(one)
    samples = Fitter(study.data()).samples("participant")
    for name in one.train:
        old = samples[name].features
        study.write(name, replace(old, text_tokens=old.text_tokens + 1.0), version="b")
    assert Fitter(study.data()).run(one)
    whole = study.data(out=study.out.with_name("whole"))
    assert Fitter(whole).run(one)
    assert result(study, one) == json.loads((whole.out / one.folder / RESULT).read_text())


def sides_that_were_fitted(study: Study, one: FitSpec, monkeypatch: pytest.MonkeyPatch) -> Mapping[str, list[Sample]]:
    seen: dict[str, list[Sample]] = {}
    monkeypatch.setattr(Fitter, "_network", lambda _self, _spec, sides, _folder: seen.update(sides))
    Fitter(study.data()).run(one)
    return seen


def test_permuted_labels_are_dealt_by_person_and_leave_the_test_alone(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    study.interviews = tuple(
        replace(who, person=f"q{i // 2 * 2 + i % 2 if i >= 8 else i % 4}") for i, who in enumerate(study.interviews)
    )
    true = {who.name: ("CN", "AD").index(str(who.label)) for who in study.interviews}
    dealt = []
    for seed in range(6):
        sides = sides_that_were_fitted(study, spec(permuted=True, seed=seed), monkeypatch)
        assert {s.name: s.label for s in sides["test"]} == {name: true[name] for name in spec().test}
        for side in ("train", "validation"):
            assert tuple(one.name for one in sides[side]) == getattr(spec(), side)
            of_person: dict[str, set[int]] = {}
            for one in sides[side]:
                of_person.setdefault(one.person, set()).add(one.label)
            assert all(len(labels) == 1 for labels in of_person.values())
            given = sorted(labels.pop() for labels in of_person.values())
            truth = {one.person: true[one.name] for one in sides[side]}
            assert given == sorted(truth.values())  # as many of each class, so none can be lost
        dealt.append(tuple(s.label for side in ("train", "validation") for s in sides[side]))
    assert len(set(dealt)) > 3
    again = sides_that_were_fitted(study, spec(permuted=True, seed=5), monkeypatch)
    assert tuple(s.label for side in ("train", "validation") for s in again[side]) == dealt[-1]
    assert [s.label for s in sides_that_were_fitted(study, spec(), monkeypatch)["train"]] == [
        true[n] for n in spec().train
    ]


@pytest.mark.parametrize("name", ["majority", "pauses", "words", "voice", "counts", "metadata"])
def test_a_baseline_is_a_fit_like_any_other(study: Study, name: str) -> None:
    one = spec(row=name, kind="baseline", baseline=name)
    assert Fitter(study.data()).run(one)
    found = read_result(study.out / one.folder, Fitter(study.data()).identity(one))
    assert found is not None
    assert found.names == {"validation": (), "test": one.test}
    assert found.temperature == 1.0
    probability = np.exp(found.logits["test"])
    np.testing.assert_allclose(probability.sum(1), 1.0, atol=1e-5)
    truth = np.array([int(n[1:]) % 2 for n in one.test])
    if name == "majority":
        np.testing.assert_allclose(probability, 0.5, atol=1e-6)  # of training and validation persons together
    elif name != "metadata":
        np.testing.assert_array_equal(probability.argmax(1), truth)


def test_an_interview_without_features_is_left_out(study: Study) -> None:
    del study.keys["i015"], study.keys["i002"]
    one = spec()
    assert Fitter(study.data()).run(one)
    found = read_result(study.out / one.folder)
    assert found is not None
    assert found.names["test"] == tuple(name for name in one.test if name != "i015")
    assert len(found.logits["test"]) == 5


def refused(code: str, call: Callable[..., object], *args: Any) -> InputError:
    with pytest.raises(InputError) as caught:
        call(*args)
    assert caught.value.code == code
    return caught.value


def test_sides_that_are_empty_or_lack_a_class_are_refused(study: Study, sample: Make) -> None:
    both = [sample(0), sample(1)]
    check_sides({"train": both, "validation": both, "test": both[:1]}, spec(), ("CN", "AD"))
    for side in ("train", "validation", "test"):
        lacking = {"train": both, "validation": both, "test": both, side: []}
        assert f"left on the {side} side" in refused("CHI-IN-182", check_sides, lacking, spec(), ("CN", "AD")).message
    for side in ("train", "validation"):
        lacking = {"train": both, "validation": both, "test": both, side: both[:1]}
        said = refused("CHI-IN-181", check_sides, lacking, spec(), ("CN", "AD")).message
        assert f"the {side} side has no AD" in said
        assert "fold-000" in said
    gone = {name: key for name, key in study.keys.items() if name not in spec().test}
    refused("CHI-IN-182", Fitter(study.data(keys={"participant": gone})).run, spec())


@pytest.mark.parametrize("name", ["text_tokens", "audio_tokens"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_features_that_are_not_finite_are_refused(study: Study, name: str, value: float) -> None:
    bad = Fitter(study.data()).samples("participant")["i005"].features
    broken = getattr(bad, name).clone()
    broken[1, 2] = value
    study.write("i005", replace(bad, **{name: broken}), version="b")
    error = refused("CHI-IN-248", Fitter(study.data()).run, spec())
    assert error.file == "i005"
    assert name in error.message


@pytest.mark.parametrize(("gone", "what"), [("text", "transcript"), ("audio", "recording")])
def test_a_missing_modality_needs_modality_dropout(study: Study, sample: Make, gone: str, what: str) -> None:
    study.write("i015", sample(15, without=[gone]).features, version="b")
    assert Fitter(study.data()).run(spec())
    strict = {**SMALL, "modality_dropout": 0.0}
    error = refused("CHI-IN-241", Fitter(study.data()).run, spec(classifier=strict))
    assert f"1 of 20 interviews have no {what}" in error.message
    other = "audio" if gone == "text" else "text"
    assert Fitter(study.data()).run(spec(row="alone", classifier={**strict, "streams": other}))
    refused("CHI-IN-241", Fitter(study.data()).run, spec(classifier={**strict, "streams": gone}))


def test_encoders_are_trained_from_the_same_start_in_every_fit(
    study: Study, sample: Make, encoders: Encoders, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashes = {"text": "a", "audio": "b"}
    monkeypatch.setattr(components, "load_encoders", lambda _recipe: encoders)
    monkeypatch.setattr(
        components, "encoder_folders", lambda _recipe: {name: type("", (), {"sha256": h}) for name, h in hashes.items()}
    )
    study.settings = study.settings.model_copy(
        update={"encoders": "finetune", "encoder_learning_rate": 1e-2, "epochs": 1}
    )
    for index in range(N):
        study.write(f"i{index:03d}", sample(index, ids=True, n_audio=4).features, version="ids")
    start = {key: value.clone() for key, value in encoders.text.state_dict().items()}
    fitter = Fitter(study.data())
    first, again = spec(), spec(row="again")
    assert fitter.run(first)
    assert fitter.run(again)
    assert result(study, first)["logits"] == result(study, again)["logits"]
    assert all(torch.equal(value, start[key]) for key, value in encoders.text.state_dict().items())
    identity = fitter.identity(first)
    hashes["audio"] = "c"  # pictures do not depend on the encoder's weights, the result does
    assert Fitter(study.data()).identity(first) != identity


def test_many_fits_end_with_a_stop_and_begin_where_they_were(study: Study) -> None:
    specs = [spec(row=name, kind="baseline", baseline="majority") for name in ("a", "b", "c")]
    seen: list[str] = []
    stopped = run_fits(
        specs, study.data(), jobs=1, done=lambda one: seen.append(one.row), stopped=lambda: len(seen) >= 2
    )
    assert not stopped
    assert seen == ["a", "b"]
    assert not (study.out / specs[2].folder).exists()
    assert run_fits(specs, study.data(), jobs=1, done=lambda one: seen.append(one.row), stopped=lambda: False)
    assert seen == ["a", "b", "a", "b", "c"]


@pytest.mark.slow
def test_processes_say_what_one_process_says(study: Study) -> None:
    specs = [spec(seed=0), spec(seed=1), spec(row="counts", kind="baseline", baseline="counts")]
    alone = study.data(out=study.out.with_name("alone"))
    assert run_fits(specs, alone, jobs=1, done=lambda _: None, stopped=lambda: False)
    seen: list[FitSpec] = []
    assert run_fits(specs, study.data(), jobs=2, done=seen.append, stopped=lambda: False)
    assert sorted(map(str, seen)) == sorted(map(str, specs))
    for one in specs:
        ours, theirs = (json.loads((out / one.folder / RESULT).read_text()) for out in (study.out, alone.out))
        np.testing.assert_allclose(ours["logits"]["test"], theirs["logits"]["test"], atol=1e-5)
        assert ours["identity"] == theirs["identity"]
    bad = [spec(row=f"bad {i}", test=("nobody",)) if i == 0 else spec(row=f"good {i}") for i in range(12)]
    with pytest.raises((InputError, KeyError)):
        run_fits(bad, study.data(), jobs=2, done=seen.append, stopped=lambda: False)
    assert len(list((study.out / "fits").glob("good-*"))) < 11  # those that waited were not begun


def test_codes_have_a_sentence() -> None:
    assert set(fits.CODES) == {"CHI-IN-248"}
