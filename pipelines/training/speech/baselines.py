"""What a classifier of speech must beat: the majority, pauses, words, voice, counts - and metadata, which should say nothing.

Every baseline has one form, and every hyper-parameter is decided in one place (`_chosen_c`): the regularisation with the least
negative log-likelihood over folds of the training persons. Test inputs are seen once, by `predict`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from ....data.audio import Clip
from ....data.errors import InputError, RecipeError, did_you_mean
from ....data.interviews import Sex
from ....data.spans import Span
from .acoustic_statistics import acoustic_statistics
from .linguistic_counts import linguistic_counts
from .pause_pattern import pause_pattern

CODES: dict[str, str] = {
    "CHI-IN-237": "a person is in the training and in the test set of a baseline",
    "CHI-IN-238": "an interview lacks what a baseline is computed from",
    "CHI-IN-239": "the training set of a baseline has one class only, or labels that are no classes",
    "CHI-RC-119": "there is no baseline of that name",
}

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Kind = Literal["logistic", "svm", "words"]

GRID: Mapping[Kind, tuple[float, ...]] = {
    "logistic": (0.001, 0.01, 0.1, 1.0, 10.0),
    "svm": (0.1, 1.0, 10.0, 100.0),
    "words": (0.1, 1.0, 10.0, 100.0),
}
"""Values of C that are tried, from the strongest regularisation."""
FOLDS = 5
ONE_LETTER_TOO = r"(?u)\b\w+\b"
"""Words of TF-IDF: scikit-learn's own pattern drops "I" and "a"."""
FORMATS = ("wav", "aiff", "flac", "ogg", "mp3", "m4a", "aac", "amr")


@dataclass(frozen=True, kw_only=True, eq=False)
class BaselineInput:
    """One recording as the baselines see it. There is no place for a score of cognition.

    Parameters
    ----------
    name, person : str
    label : int
        Index of the class.
    text : str, optional
        The participant's words.
    speech : sequence of Span, optional
    duration_s : float, optional
    clip : Clip, optional
    acoustic : ndarray, optional
        Features of the voice, in place of those computed from `clip`.
    age : float, optional
    sex : {'female', 'male'}, optional
    rate, bits, channels : int, optional
        Of the file.
    file_format : str
        Of the file, as `AudioHeader.format`. Its size is left out: it tells the length.
    counts : mapping of str to int
        `Transcript.counts`.
    """

    name: str
    person: str
    label: int
    text: str | None = None
    speech: Sequence[Span] | None = None
    duration_s: float | None = None
    clip: Clip | None = None
    acoustic: Floats | None = None
    age: float | None = None
    sex: Sex | None = None
    rate: int | None = None
    bits: int | None = None
    channels: int | None = None
    file_format: str = ""
    counts: Mapping[str, int] = field(default_factory=dict)


class Baseline(Protocol):
    """Anything that is trained on some recordings and asked about others."""

    @property
    def name(self) -> str:
        """What tables call it."""

    def fit_predict(self, train: Sequence[BaselineInput], test: Sequence[BaselineInput], seed: int) -> Floats:
        """Return the probabilities of the test recordings, shape (N, K)."""


@dataclass(frozen=True, kw_only=True)
class Majority:
    """The shares of the classes in the training set, for everybody."""

    n_classes: int = 2
    name: str = "majority"

    def fit_predict(self, train: Sequence[BaselineInput], test: Sequence[BaselineInput], seed: int) -> Floats:
        """Return the shares, shape (N, K).

        Raises
        ------
        InputError
            CHI-IN-237, CHI-IN-239.
        """
        labels = _labels(train, test, self.n_classes)
        shares = np.bincount(labels, minlength=self.n_classes) / len(labels)
        return np.tile(shares, (len(test), 1))


@dataclass(frozen=True, kw_only=True)
class FeatureBaseline:
    """Features of each recording and a linear or kernel classifier.

    Parameters
    ----------
    name : str
    features : callable
        Recording -> vector of numbers (NaN where one is missing), or text; None where the recording has no such thing at all.
    kind : {'logistic', 'svm', 'words'}
        Logistic regression; RBF support vectors with Platt's sigmoid; TF-IDF of words and pairs with logistic regression.
    n_classes : int
    """

    name: str
    features: Callable[[BaselineInput], Floats | str | None]
    kind: Kind
    n_classes: int = 2

    def fit_predict(self, train: Sequence[BaselineInput], test: Sequence[BaselineInput], seed: int) -> Floats:
        """Choose C on the training persons, fit on all of them, and predict.

        Parameters
        ----------
        train, test : sequence of BaselineInput
            No person in both.
        seed : int
            Of the folds.

        Returns
        -------
        ndarray, shape (N, K)
            0 for a class that the training set does not have.

        Raises
        ------
        InputError
            CHI-IN-237 to CHI-IN-239.
        """
        labels = _labels(train, test, self.n_classes)
        persons = np.array([one.person for one in train])
        x, asked = self._matrix(train), self._matrix(test)
        c = _chosen_c(self.kind, x, labels, persons, seed)
        return _fitted(self.kind, c, x, labels, persons, seed)(asked, self.n_classes)

    def _matrix(self, inputs: Sequence[BaselineInput]) -> NDArray[Any]:
        found = [self.features(one) for one in inputs]
        for one, features in zip(inputs, found, strict=True):
            if features is None:
                raise InputError(
                    "CHI-IN-238",
                    f"the baseline '{self.name}' cannot be computed from this interview.",
                    "Leave the baseline out, or the interview out of all models of the comparison.",
                    file=one.name,
                )
        return np.array(found, dtype=object) if self.kind == "words" else np.array(found, dtype=np.float64)


def baselines(n_classes: int = 2) -> dict[str, Baseline]:
    """Return every baseline by its name."""
    made: list[Baseline] = [
        Majority(n_classes=n_classes),
        FeatureBaseline(name="pauses", features=_pauses, kind="logistic", n_classes=n_classes),
        FeatureBaseline(name="words", features=_words, kind="words", n_classes=n_classes),
        FeatureBaseline(name="voice", features=_voice, kind="svm", n_classes=n_classes),
        FeatureBaseline(name="counts", features=_counts, kind="logistic", n_classes=n_classes),
        FeatureBaseline(name="metadata", features=metadata, kind="logistic", n_classes=n_classes),
    ]
    return {one.name: one for one in made}


def baseline_named(name: str, *, n_classes: int = 2) -> Baseline:
    """Return one baseline.

    Raises
    ------
    RecipeError
        CHI-RC-119.
    """
    known = baselines(n_classes)
    if name not in known:
        text = f"there is no baseline of that name.{did_you_mean(name, list(known))}"
        raise RecipeError("CHI-RC-119", text, f"Choose of {', '.join(known)}.")
    return known[name]


def metadata(one: BaselineInput) -> Floats:
    """Return age, sex and what the file's header says, and neither a score nor anything that tells the length, shape (14,).

    The size of a file is its length in another unit; even bytes a second would hold it, by the header's share.
    """
    numbers = [np.nan if value is None else float(value) for value in (one.age, one.rate, one.bits, one.channels)]
    sexes = [float(one.sex == sex) for sex in ("female", "male")]
    return np.array([*numbers, *sexes, *(float(one.file_format == name) for name in FORMATS)])


def _pauses(one: BaselineInput) -> Floats | None:
    return None if one.speech is None or not one.duration_s else pause_pattern(one.speech, one.duration_s)


def _words(one: BaselineInput) -> str | None:
    return one.text


def _voice(one: BaselineInput) -> Floats | None:
    if one.acoustic is not None:
        return np.asarray(one.acoustic, dtype=np.float64)
    return None if one.clip is None else acoustic_statistics(one.clip)


def _counts(one: BaselineInput) -> Floats | None:
    return None if one.text is None else linguistic_counts(one.text, one.counts)


def _labels(train: Sequence[BaselineInput], test: Sequence[BaselineInput], n_classes: int) -> Ints:
    both = {one.person for one in train} & {one.person for one in test}
    if both:
        text = f"{len(both)} persons are in the training and in the test set."
        raise InputError("CHI-IN-237", text, "Split by person.")
    labels = np.array([one.label for one in train], dtype=np.int64)
    there = np.unique(labels)
    if there.size < 2 or there[0] < 0 or there[-1] >= n_classes:
        text = f"the training labels are {there.tolist()}, of {n_classes} classes."
        raise InputError("CHI-IN-239", text, "Train on persons of two classes or more.")
    return labels


Predict = Callable[[NDArray[Any], int], Floats]


def _fitted(kind: Kind, c: float, x: NDArray[Any], labels: Ints, persons: NDArray[np.str_], seed: int) -> Predict:
    from sklearn.calibration import CalibratedClassifierCV
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVC

    model: Any
    if kind == "words":
        if not any(any(sign.isalnum() for sign in text) for text in x):
            raise InputError("CHI-IN-238", "no training transcript holds a word.", "Transcribe the recordings.")
        words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=ONE_LETTER_TOO)
        model = make_pipeline(words, LogisticRegression(C=c, max_iter=5000))
    else:
        numbers = [SimpleImputer(strategy="median", add_indicator=True, keep_empty_features=True), StandardScaler()]
        if kind == "logistic":
            model = make_pipeline(*numbers, LogisticRegression(C=c, max_iter=5000))
        else:
            model = make_pipeline(*numbers, SVC(C=c, gamma="scale"))
            folds = _folds(labels, persons, seed)
            if folds:  # Platt's sigmoid on decisions about persons that were held out
                model = CalibratedClassifierCV(model, method="sigmoid", cv=folds, ensemble=False)
    model.fit(x, labels)

    def predict(asked: NDArray[Any], n_classes: int) -> Floats:
        out = np.zeros((len(asked), n_classes))
        if hasattr(model, "predict_proba"):
            out[:, model.classes_] = model.predict_proba(asked)
        else:
            # Too few persons to learn a sigmoid from: the decision, without pretending to a probability.
            out[np.arange(len(asked)), model.predict(asked)] = 1.0
        return out

    return predict


def _folds(labels: Ints, persons: NDArray[np.str_], seed: int) -> list[tuple[Ints, Ints]]:
    """Split training rows by person, each part with every class on its training side; none where that cannot be."""
    from sklearn.model_selection import StratifiedGroupKFold

    n = min(FOLDS, *(np.unique(persons[labels == label]).size for label in np.unique(labels)))
    if n < 2:
        return []
    splits = StratifiedGroupKFold(n, shuffle=True, random_state=seed).split(labels, labels, persons)
    folds, there = list(splits), np.unique(labels).size
    sound = all(held.size and np.unique(labels[fit]).size == there for fit, held in folds)
    return folds if sound else []


def _chosen_c(kind: Kind, x: NDArray[Any], labels: Ints, persons: NDArray[np.str_], seed: int) -> float:
    """Return the C with the least negative log-likelihood over held-out training persons; the smallest at a tie."""
    folds = _folds(labels, persons, seed)
    if not folds:
        return 1.0
    n_classes = int(labels.max()) + 1
    losses = []
    for c in GRID[kind]:
        loss = 0.0
        for fit, held in folds:
            p = _fitted(kind, c, x[fit], labels[fit], persons[fit], seed)(x[held], n_classes)
            loss -= float(np.log(np.clip(p[np.arange(len(held)), labels[held]], 1e-12, None)).sum())
        losses.append(loss)
    return GRID[kind][int(np.argmin(losses))]
