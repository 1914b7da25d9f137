"""Which fits a study has: rows, folds and seeds, and who may not be on two sides."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from chiasm.data.errors import InputError
from chiasm.data.interviews import Interview, InterviewSet
from chiasm.pipelines.recipes import load_recipe
from chiasm.pipelines.speech_recipe import SpeechRecipe
from chiasm.pipelines.training.speech import protocol as protocol_module
from chiasm.pipelines.training.speech.protocol import (
    BASELINES,
    CONTROLS,
    Row,
    chosen_protocol,
    folds_of,
    on_view,
    plan_rows,
)
from chiasm.pipelines.training.speech.settings import SpeechTraining

Training = Callable[..., SpeechTraining]


def interview(index: int, **fields: Any) -> Interview:
    known: dict[str, Any] = {
        "name": f"i{index:03d}", "person": f"p{index // 2:03d}", "label": ("CN", "AD")[index // 2 % 2], "age": 70.0,
        "audio": Path("a.wav"), "transcript": Path("a.cha"), "split": "test" if index >= 18 else "train",
    }  # fmt: skip
    return Interview(**{**known, **fields})


def cohort(n: int = 24, **fields: Any) -> InterviewSet:
    """Twelve persons with two interviews each."""
    return InterviewSet(layout="adress", root=Path(), interviews=[interview(i, **fields) for i in range(n)])


def changed(found: InterviewSet, index: int, **fields: Any) -> InterviewSet:
    interviews = list(found.interviews)
    interviews[index] = replace(interviews[index], **fields)
    return replace(found, interviews=interviews)


def recipe() -> SpeechRecipe:
    found = load_recipe("dementia")
    assert isinstance(found, SpeechRecipe)
    return found


def planned(found: InterviewSet, settings: SpeechTraining, **fields: Any) -> dict[str, Row]:
    rows = plan_rows(found, recipe(), settings, **{"protocol": "k-fold", "control_seeds": 2, **fields})
    assert len({row.name for row in rows}) == len(rows)
    return {row.name: row for row in rows}


@pytest.fixture
def settings(training: Training) -> SpeechTraining:
    return training(folds=3, seeds=(0, 7), validation_share=0.35)


def test_both_modalities_have_every_row(settings: SpeechTraining) -> None:
    rows = planned(cohort(), settings)
    assert list(rows) == ["model", "text alone", "audio alone", *BASELINES, *CONTROLS]
    kinds = {name: row.kind for name, row in rows.items()}
    assert kinds["model"] == "model"
    assert kinds["text alone"] == kinds["audio alone"] == "single modality"
    assert {kinds[name] for name in BASELINES} == {"baseline"}
    assert {kinds[name] for name in CONTROLS} == {"control"}
    classifier = recipe().components["classifier"].parameters
    for fit in rows["model"].fits:
        assert dict(fit.classifier) == classifier
        assert fit.keep_model
        assert not fit.permuted
    assert not any(fit.keep_model for name, row in rows.items() if name != "model" for fit in row.fits)
    assert {fit.classifier["streams"] for fit in rows["text alone"].fits} == {"text"}
    assert {fit.classifier["streams"] for fit in rows["audio alone"].fits} == {"audio"}
    assert {(fit.kind, fit.baseline) for fit in rows["words"].fits} == {("baseline", "words")}


def test_controls_are_what_they_say(settings: SpeechTraining) -> None:
    rows = planned(cohort(), settings)
    assert all(fit.permuted for fit in rows["permuted labels"].fits)
    assert not any(fit.permuted for name, row in rows.items() if name != "permuted labels" for fit in row.fits)
    assert rows["background only"].view == "background"
    assert {fit.classifier["streams"] for fit in rows["background only"].fits} == {"audio"}
    assert rows["investigator only"].view == "investigator"
    assert {fit.baseline for fit in rows["metadata only"].fits} == {"metadata"}
    assert {row.view for name, row in rows.items() if name not in ("background only", "investigator only")} == {
        "participant"
    }
    assert not set(CONTROLS) & planned(cohort(), settings, control_seeds=0).keys()


def test_words_alone(settings: SpeechTraining) -> None:
    rows = planned(cohort(audio=None), settings)
    assert list(rows) == ["model", "majority", "words", "counts", "permuted labels", "metadata only"]
    assert {fit.classifier["streams"] for fit in rows["model"].fits} == {"text"}


def test_sound_alone(settings: SpeechTraining) -> None:
    rows = planned(cohort(transcript=None), settings)
    assert list(rows) == ["model", "majority", "pauses", "voice", "permuted labels", "background only", "metadata only"]
    assert {fit.classifier["streams"] for fit in rows["model"].fits} == {"audio"}


def test_a_baseline_that_cannot_be_computed_of_everyone_is_left_out(settings: SpeechTraining) -> None:
    rows = planned(changed(cohort(), 3, transcript=None), settings)
    assert {"text alone", "audio alone", "pauses", "voice"} <= rows.keys()
    assert not {"words", "counts"} & rows.keys()
    # Who has no label takes no part, and so takes nothing away.
    assert {"words", "counts"} <= planned(changed(cohort(), 3, transcript=None, label=None), settings).keys()


def test_variants_are_rows_on_the_same_folds(settings: SpeechTraining) -> None:
    rows = planned(cohort(), settings, variants={"dementia-x": {"crossing": "none"}})
    assert rows["dementia-x"].kind == "variant"
    assert {fit.classifier["crossing"] for fit in rows["dementia-x"].fits} == {"none"}
    assert not any(fit.keep_model for fit in rows["dementia-x"].fits)
    for name in ("dementia-x", "words", "text alone"):
        for ours, theirs in zip(rows["model"].fits, rows[name].fits, strict=True):
            assert (ours.seed, ours.part, ours.train, ours.validation, ours.test) == (
                theirs.seed, theirs.part, theirs.train, theirs.validation, theirs.test,
            )  # fmt: skip


def test_every_seed_tests_everyone_once(settings: SpeechTraining) -> None:
    rows = planned(cohort(), settings)
    assert [(fit.seed, fit.part) for fit in rows["model"].fits] == [
        (seed, f"fold-{i:03d}") for seed in (0, 7) for i in range(3)
    ]
    assert {fit.seed for fit in rows["permuted labels"].fits} == {0, 1}
    tests = {seed: [name for fit in rows["model"].fits if fit.seed == seed for name in fit.test] for seed in (0, 7)}
    assert sorted(tests[0]) == sorted(tests[7]) == [f"i{i:03d}" for i in range(24)]
    assert tests[0] != tests[7]
    assert len({fit.folder for row in rows.values() for fit in row.fits}) == sum(len(r.fits) for r in rows.values())


@pytest.mark.parametrize("protocol", ["challenge", "k-fold", "leave-one-person-out"])
def test_no_person_is_on_two_sides(settings: SpeechTraining, protocol: Any) -> None:
    found = cohort()
    person = {one.name: one.person for one in found.interviews}
    folds = list(folds_of(found, settings, protocol, 0))
    assert len(folds) == {"challenge": 1, "k-fold": 3, "leave-one-person-out": 12}[protocol]
    for _, fold in folds:
        sides = [{person[name] for name in side} for side in (fold.train, fold.validation, fold.test)]
        assert not sides[0] & sides[1]
        assert not sides[0] & sides[2]
        assert not sides[1] & sides[2]
        assert all(sides)
        assert sum(map(len, (fold.train, fold.validation, fold.test))) == 24
    if protocol == "challenge":
        assert folds[0][0] == "challenge"
        assert set(folds[0][1].test) == {f"i{i:03d}" for i in range(18, 24)}


def refused(code: str, call: Callable[[], object]) -> str:
    with pytest.raises(InputError) as caught:
        call()
    assert caught.value.code == code
    return caught.value.message


def test_a_person_in_both_splits_of_the_data_set_is_refused(settings: SpeechTraining) -> None:
    found = changed(cohort(), 20, person="p000")
    refused("CHI-IN-180", lambda: list(folds_of(found, settings, "challenge", 0)))
    refused("CHI-IN-180", lambda: planned(found, settings, protocol="challenge"))
    assert len(list(folds_of(found, settings, "k-fold", 0))) == 3  # these are cut by person


def test_folds_are_checked_whoever_made_them(settings: SpeechTraining, monkeypatch: pytest.MonkeyPatch) -> None:
    real = protocol_module.k_fold

    def careless(*args: Any, **named: Any) -> Any:
        first, *others = real(*args, **named)
        return [replace(first, train=(*first.train, first.test[0])), *others]

    monkeypatch.setattr(protocol_module, "k_fold", careless)
    refused("CHI-IN-180", lambda: list(folds_of(cohort(), settings, "k-fold", 0)))


def test_auto_is_the_data_sets_own_test_where_it_has_labels() -> None:
    assert chosen_protocol(cohort(), "auto") == "challenge"
    assert chosen_protocol(changed(cohort(), 20, label=None), "auto") == "k-fold"
    assert chosen_protocol(cohort(split=""), "auto") == "k-fold"
    assert chosen_protocol(cohort(), "leave-one-person-out") == "leave-one-person-out"


def test_a_test_side_without_labels(settings: SpeechTraining) -> None:
    some = changed(cohort(), 20, label=None)
    ((_, fold),) = folds_of(some, settings, "challenge", 0)
    assert fold.test == tuple(f"i{i:03d}" for i in range(18, 24) if i != 20)
    none = some
    for index in range(18, 24):
        none = changed(none, index, label=None)
    assert "test side has a label" in refused("CHI-IN-182", lambda: list(folds_of(none, settings, "challenge", 0)))
    assert len(list(folds_of(none, settings, "k-fold", 0))) == 3


def test_a_row_whose_view_lacks_interviews_is_split_anew(settings: SpeechTraining) -> None:
    rows, gone = planned(cohort(), settings, protocol="k-fold"), {"i000", "i001", "i004"}
    found = cohort()
    kept = replace(found, interviews=[one for one in found.interviews if one.name not in gone])
    before, after = rows["background only"], on_view(rows["background only"], kept, settings, "k-fold")
    assert after is not None
    assert [(fit.seed, fit.part) for fit in after.fits] == [(fit.seed, fit.part) for fit in before.fits]
    for fit in after.fits:
        assert fit.view == "background"
        sides = fit.train, fit.validation, fit.test
        assert {name for side in sides for name in side} == {f"i{i:03d}" for i in range(24)} - gone
        assert (
            {int(name[1:]) // 2 % 2 for name in fit.train}
            == {int(name[1:]) // 2 % 2 for name in fit.validation}
            == {0, 1}
        )


def test_a_row_that_loses_a_class_is_not_run(settings: SpeechTraining) -> None:
    rows, found = planned(cohort(), settings, protocol="k-fold"), cohort()
    controls = replace(found, interviews=[one for one in found.interviews if one.label == "CN"])
    assert on_view(rows["background only"], controls, settings, "k-fold") is None
