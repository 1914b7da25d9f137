"""Baselines: each finds its own cue and no other's, tunes on the training persons only, and refuses leaks."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest

from chiasm.data.errors import InputError, RecipeError
from chiasm.data.spans import Span
from chiasm.pipelines.training.speech import baselines as b

NAMES = ("majority", "pauses", "words", "voice", "counts", "metadata")
RICH = "boy stool cookie jar sink water overflowing mother window curtain plate dishes kitchen sister reaching falling".split()
POOR = "thing it there uh that something this um".split()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer fits: where the choice of C is not what is tested."""
    monkeypatch.setattr(b, "FOLDS", 2)
    monkeypatch.setattr(b, "GRID", {"logistic": (0.01, 1.0), "svm": (1.0, 10.0), "words": (1.0, 10.0)})


def cohort(cue: str, n: int = 40, *, seed: int = 0, start: int = 0, n_classes: int = 2) -> list[b.BaselineInput]:
    """Persons whose label shows in one property only, all else being drawn alike."""
    rng = np.random.default_rng(seed)
    made = []
    for i in range(n):
        label = i % n_classes

        def of(what: str, label: int = label) -> int:
            return label if cue == what else int(rng.integers(n_classes))

        slow, words, voice, old = of("pauses"), of("words"), of("voice"), of("metadata")
        edges = np.cumsum(rng.uniform(0.8, 1.2, 20) * np.tile([1.0, 0.4 + 1.2 * slow], 10))
        text = " ".join(rng.choice(POOR if words else RICH, 30))
        made.append(
            b.BaselineInput(
                name=f"S{start + i:03}",
                person=f"P{start + i:03}",
                label=label,
                text=text,
                speech=[Span(float(x), float(y)) for x, y in edges[:20].reshape(10, 2)],
                duration_s=float(edges[-1]) + 1.0,
                acoustic=rng.normal(size=12) + voice * np.array([2.0] + [0.0] * 11),
                age=float(rng.normal(65 + 15 * old, 3)),
                sex="female" if rng.random() < 0.5 else "male",
                rate=44_100,
                bits=16,
                channels=1,
                file_format="wav",
            )
        )
    return made


def accuracy(name: str, cue: str, *, seed: int = 0) -> float:
    train, test = cohort(cue, 60, seed=1), cohort(cue, 60, seed=2, start=500)
    p = b.baseline_named(name).fit_predict(train, test, seed)
    assert p.shape == (60, 2)
    np.testing.assert_allclose(p.sum(axis=1), 1.0)
    return float((p.argmax(axis=1) == [one.label for one in test]).mean())


@pytest.mark.parametrize("name", ["pauses", "words", "voice", "metadata"])
def test_a_baseline_finds_its_own_cue(name: str) -> None:
    assert accuracy(name, name) > 0.75


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("name", "cue"),
    [("pauses", "words"), ("words", "voice"), ("voice", "pauses"), ("metadata", "pauses"), ("metadata", "words")],
)
def test_a_baseline_does_not_see_the_cue_of_another(name: str, cue: str) -> None:
    # Four standard errors of 60 tosses.
    assert accuracy(name, cue) == pytest.approx(0.5, abs=4 * np.sqrt(0.25 / 60))


def test_counts_see_poor_words() -> None:
    assert accuracy("counts", "words") > 0.75


def test_metadata_knows_neither_length_nor_words_nor_voice() -> None:
    one = cohort("", 1)[0]
    other = dataclasses.replace(
        one, text="else", speech=[Span(0, 1)], duration_s=99.0, acoustic=np.ones(12), counts={"fillers": 9}, label=1
    )
    np.testing.assert_array_equal(b.metadata(one), b.metadata(other))
    changed = dataclasses.replace(one, age=90.0)
    assert (b.metadata(one) != b.metadata(changed)).sum() == 1
    fields = {f.name for f in dataclasses.fields(b.BaselineInput)}
    assert not {name for name in fields if "mmse" in name or "bytes" in name or "size" in name}


def test_missing_metadata_are_marked_not_guessed() -> None:
    # Whose age is missing is the cue: filling the median without a mark would hide it.
    def of(start: int) -> list[b.BaselineInput]:
        made = cohort("", 40, start=start, seed=start)
        return [dataclasses.replace(one, age=None if one.label else one.age) for one in made]

    train, test = of(0), of(100)
    p = b.baseline_named("metadata").fit_predict(train, test, 0)
    assert (p.argmax(axis=1) == [one.label for one in test]).mean() == 1.0


@pytest.mark.usefixtures("quick")
def test_a_column_that_nobody_has_is_no_trouble() -> None:
    def bare(start: int) -> list[b.BaselineInput]:
        made = cohort("metadata", 30, start=start, seed=start)
        return [dataclasses.replace(one, rate=None, bits=None, channels=None, sex=None, file_format="") for one in made]

    p = b.baseline_named("metadata").fit_predict(bare(0), bare(100), 0)
    assert np.isfinite(p).all()
    # And one that the test set alone lacks.
    test = [dataclasses.replace(one, age=None) for one in cohort("metadata", 10, start=200)]
    assert np.isfinite(b.baseline_named("metadata").fit_predict(cohort("metadata", 30), test, 0)).all()


def test_the_majority_is_the_share_of_the_training_set() -> None:
    train, test = cohort("", 40)[:39], cohort("", 4, start=100)
    p = b.baseline_named("majority").fit_predict(train, test, 0)
    np.testing.assert_allclose(p, np.tile([20 / 39, 19 / 39], (4, 1)))


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("name", NAMES)
def test_one_seed_gives_one_answer_and_test_labels_do_not_matter(name: str) -> None:
    train, test = cohort("words", 30), cohort("words", 6, start=100)
    first = b.baseline_named(name).fit_predict(train, test, 3)
    turned = [dataclasses.replace(one, label=1 - one.label) for one in test]
    np.testing.assert_array_equal(first, b.baseline_named(name).fit_predict(train, turned, 3))


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("name", NAMES)
def test_a_test_recording_is_judged_alone(name: str) -> None:
    train, test = cohort("words", 30), cohort("words", 6, start=100)
    whole = b.baseline_named(name).fit_predict(train, test, 0)
    np.testing.assert_allclose(whole[:1], b.baseline_named(name).fit_predict(train, test[:1], 0), atol=1e-12)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("name", NAMES)
def test_three_classes(name: str) -> None:
    train, test = cohort("metadata", 45, n_classes=3), cohort("metadata", 9, start=100, n_classes=3)
    p = b.baseline_named(name, n_classes=3).fit_predict(train, test, 0)
    assert p.shape == (9, 3)
    np.testing.assert_allclose(p.sum(axis=1), 1.0)
    # A training set without MCI still answers in the same columns.
    two = [one for one in train if one.label != 1]
    p = b.baseline_named(name, n_classes=3).fit_predict(two, test, 0)
    assert (p[:, 1] == 0).all()
    np.testing.assert_allclose(p.sum(axis=1), 1.0)


def test_inner_folds_part_persons() -> None:
    persons = np.array([f"p{i // 3}" for i in range(60)])
    labels = (np.arange(60) // 3 % 2).astype(np.int64)
    folds = b._folds(labels, persons, 0)
    assert len(folds) == 5
    for fit, held in folds:
        assert not set(persons[fit]) & set(persons[held])
    assert sorted(np.concatenate([held for _, held in folds])) == list(range(60))


def test_the_chosen_regularisation_is_strong_for_noise_and_weak_for_signal() -> None:
    rng = np.random.default_rng(0)
    labels, persons = np.arange(60) % 2, np.arange(60).astype(str)
    noise = rng.normal(size=(60, 20))
    assert b._chosen_c("logistic", noise, labels, persons, 0) == min(b.GRID["logistic"])
    clear = noise + 3 * labels[:, None]
    assert b._chosen_c("logistic", clear, labels, persons, 0) >= 0.1


@pytest.mark.parametrize("name", NAMES)
def test_very_few_persons_still_get_an_answer(name: str) -> None:
    p = b.baseline_named(name).fit_predict(cohort("words", 3), cohort("words", 2, start=100), 0)
    assert np.isfinite(p).all()
    np.testing.assert_allclose(p.sum(axis=1), 1.0)


def _same_person(train: list[b.BaselineInput]) -> list[b.BaselineInput]:
    return [*train, dataclasses.replace(train[0], name="again")]


@pytest.mark.parametrize(
    ("name", "train", "test", "code"),
    [
        *((name, cohort("", 8), _same_person(cohort("", 8)), "CHI-IN-237") for name in NAMES),
        *((name, [one for one in cohort("", 8) if one.label], cohort("", 2, start=50), "CHI-IN-239") for name in NAMES),
        ("majority", cohort("", 9, n_classes=3), cohort("", 2, start=50), "CHI-IN-239"),
    ],
)
def test_leaks_and_lone_classes_are_refused(
    name: str, train: list[b.BaselineInput], test: list[b.BaselineInput], code: str
) -> None:
    with pytest.raises(InputError) as caught:
        b.baseline_named(name).fit_predict(train, test, 0)
    assert caught.value.code == code
    assert "P00" not in str(caught.value)


LACKS: dict[str, Callable[[b.BaselineInput], b.BaselineInput]] = {
    "pauses": lambda one: dataclasses.replace(one, speech=None),
    "words": lambda one: dataclasses.replace(one, text=None),
    "voice": lambda one: dataclasses.replace(one, acoustic=None),
    "counts": lambda one: dataclasses.replace(one, text=None),
}


@pytest.mark.parametrize("name", list(LACKS))
def test_what_a_baseline_needs_and_has_not_is_named(name: str) -> None:
    test = [LACKS[name](one) for one in cohort("", 2, start=50)]
    with pytest.raises(InputError) as caught:
        b.baseline_named(name).fit_predict(cohort("", 8), test, 0)
    assert (caught.value.code, caught.value.file) == ("CHI-IN-238", "S050")


def test_transcripts_without_a_word_are_refused() -> None:
    train = [dataclasses.replace(one, text=" ...") for one in cohort("", 8)]
    with pytest.raises(InputError) as caught:
        b.baseline_named("words").fit_predict(train, cohort("", 2, start=50), 0)
    assert caught.value.code == "CHI-IN-238"


def test_a_misspelt_baseline_is_pointed_out() -> None:
    with pytest.raises(RecipeError, match="'pauses'") as caught:
        b.baseline_named("pause")
    assert caught.value.code == "CHI-RC-119"
    assert tuple(b.baselines()) == NAMES
