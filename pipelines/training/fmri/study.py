"""Score a trained model once on the test images, beside everything that a reader would ask for: baselines, bounds, chance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ....encoders.target_spaces import target_space
from ...console import say, table
from ...evaluation.images.choosing import mean_image, nearest_training_images
from ...evaluation.images.scorecard import ImageScorer, Scorecard
from ...evaluation.intervals import bootstrap_mean
from ...fmri_recipe import FmriRecipe
from ...stages.fmri.predictor import ImageMaker, Predicted, predict
from ...stages.fmri.scoring import ceiling_of, declared, encode_images, retrieval_hits, retrieval_rows
from .model import BrainModel, fresh_prior
from .prepare import Prepared, PreparedSubject, TargetTable, encode
from .ridge_fit import ridge_model
from .settings import FmriTraining

SHOWN = 12
"""Test images in the pictures of the page, evenly spaced."""
RETRIEVAL = "retrieval"
"""Name of the retrieval hits among the per-image values."""

Images = NDArray[np.uint8]


@dataclass(frozen=True, eq=False, kw_only=True)
class Line:
    """One line of a subject's table.

    Parameters
    ----------
    name, kind : str
        ``model``, ``baseline``, ``control`` or ``bound``.
    card : Scorecard, optional
        Of the reconstructions.
    retrieval : list of dict
    hits : ndarray of float64, shape (n,), optional
        Whether each test image was found among all.
    images : ndarray of uint8, optional
    """

    name: str
    kind: str
    card: Scorecard | None = None
    retrieval: Sequence[Mapping[str, Any]] = ()
    hits: NDArray[np.float64] | None = None
    images: Images | None = None

    def values(self) -> dict[str, NDArray[np.float64]]:
        """Return every metric's contributions of single images."""
        scores = self.card.scores if self.card is not None else ()
        found = {score.name: score.per_image for score in scores if score.per_image is not None}
        return found if self.hits is None else {RETRIEVAL: self.hits, **found}


@dataclass(frozen=True, eq=False, kw_only=True)
class Study:
    """What `run_study` gives.

    Parameters
    ----------
    numbers : dict
        For ``results.json``: ``subjects`` and ``pooled``.
    pictures : dict of str to dict of str to ndarray
        Subject -> name of a line (``seen`` first) -> images (k, S, S, 3).
    card : dict of str to str
        Scores in words for the model card.
    per_image : list of dict
        What every test image adds to every score: subject, line, image, metric, value.
    """

    numbers: dict[str, Any]
    pictures: dict[str, dict[str, Images]]
    card: dict[str, str] = field(default_factory=dict)
    per_image: list[dict[str, Any]] = field(default_factory=list)


def run_study(
    model: BrainModel,
    prepared: Prepared,
    recipe: FmriRecipe,
    settings: FmriTraining,
    maker: ImageMaker,
    *,
    root: Path | None,
    baselines: bool = True,
) -> Study:
    """Decode and score the test images of every subject.

    Parameters
    ----------
    model : BrainModel
    prepared : Prepared
    recipe : FmriRecipe
    settings : FmriTraining
    maker : ImageMaker
    root : Path, optional
        Of a phantom, whose optimal decoder is then computed.
    baselines : bool
        False: the model alone.
    """
    ridge = None
    if baselines and model.kind != "ridge":
        ridge = ridge_model(prepared, _targets(prepared, recipe, maker), settings).to(next(model.parameters()).device)
    lines: dict[str, list[Line]] = {}
    pictures: dict[str, dict[str, Images]] = {}
    subjects: dict[str, Any] = {}
    for name, one in prepared.subjects.items():
        say(f"scoring subject {name} on {len(one.test)} test images")
        scoring = _Scoring(one, prepared, recipe, settings, maker)
        lines[name] = scoring.lines(model, ridge, root=root, baselines=baselines)
        pictures[name] = scoring.pictures(lines[name])
        subjects[name] = {
            "voxels": one.subject.n_voxels,
            "training_images": len(one.train),
            "validation_images": len(one.validation),
            "test_images": len(one.test),
            "noise_ceiling": ceiling_of(one.subject, one.subject.trials.of("test"), one.scaler),
            "scaling_leaks": one.scaler.leaks,
            "lines": [_line_json(line) for line in lines[name]],
        }
    pooled = pool({name: (prepared.subjects[name].test.image, found) for name, found in lines.items()})
    words = {
        f"{row['name']}, {metric}": f"{score['mean']:.3f} [{score['low']:.3f}, {score['high']:.3f}]"
        for row in pooled["lines"]
        if row["kind"] == "model"
        for metric, score in row["scores"].items()
    }
    rows = [
        {"subject": name, "line": line.name, "image": int(image), "metric": metric, "value": f"{value:.6g}"}
        for name, found in lines.items()
        for line in found
        for metric, values in line.values().items()
        for image, value in zip(prepared.subjects[name].test.image, values, strict=True)
    ]
    numbers = {"subjects": subjects, "pooled": pooled}
    return Study(numbers=numbers, pictures=pictures, card=words, per_image=rows)


def evaluated(
    model: BrainModel, prepared: Prepared, recipe: FmriRecipe, settings: FmriTraining, maker: ImageMaker
) -> dict[str, Line]:
    """Decode and score the test images of every subject by the model alone: subject -> its line."""
    return {
        name: _Scoring(one, prepared, recipe, settings, maker).lines(model, None, root=None, baselines=False)[0]
        for name, one in prepared.subjects.items()
    }


class _Scoring:
    """The lines of one subject."""

    def __init__(
        self,
        one: PreparedSubject,
        prepared: Prepared,
        recipe: FmriRecipe,
        settings: FmriTraining,
        maker: ImageMaker,
    ) -> None:
        self.one, self.prepared, self.recipe, self.settings, self.maker = one, prepared, recipe, settings, maker
        self.seed = settings.seed
        size = target_space(recipe.target).pixels
        self.bank = encode_images(maker.encoder, prepared.stimuli.read(one.test.image, size=size))
        self.scorer: ImageScorer | None = None
        if maker.decoder is not None:
            self.true = prepared.stimuli.read(one.test.image, size=maker.decoder.resolution)
            self.scorer = ImageScorer(self.true, seed=settings.seed)

    def lines(self, model: BrainModel, ridge: BrainModel | None, *, root: Path | None, baselines: bool) -> list[Line]:
        """Score the model and what stands beside it."""
        predicted = self._predicted(model)
        found = [self._decoded("model", "model", model, predicted)]
        if not baselines:
            return found
        if ridge is not None:
            found.append(self._decoded("ridge", "baseline", ridge, self._predicted(ridge), samples=1))
        found += self._without_decoder(predicted)
        if model.prior is not None:
            torch.manual_seed(self.seed)
            prior = fresh_prior(self.recipe)
            untrained = BrainModel(model.kind, model.network, prior).to(next(model.parameters()).device).eval()
            found.append(self._decoded("untrained prior", "control", untrained, predicted, samples=1, retrieve=False))
        if self.maker.decoder is not None:
            bare = BrainModel("ridge", model.network, None)
            true = Predicted(tokens=self.bank, projected=self.bank)
            found.append(self._decoded("decoder on true tokens", "bound", bare, true, samples=1, retrieve=False))
        if root is not None:
            found.append(self._optimal(root))
        return found

    def pictures(self, lines: Sequence[Line]) -> dict[str, Images]:
        """Return some test images as seen and as each line has them."""
        if self.scorer is None:
            return {}
        n = len(self.one.test)
        chosen = np.unique(np.linspace(0, n - 1, min(SHOWN, n)).astype(np.int64))
        return {"seen": self.true[chosen]} | {
            line.name: line.images[chosen] for line in lines if line.images is not None
        }

    def _predicted(self, model: BrainModel) -> Predicted:
        one = self.one
        return predict(model, one.subject, one.test, one.scaler, repeats=self.recipe.betas.test_repeats)

    def _decoded(
        self,
        name: str,
        kind: str,
        model: BrainModel,
        predicted: Predicted,
        *,
        samples: int | None = None,
        retrieve: bool = True,
    ) -> Line:
        maker = self.maker if samples is None else self.maker.with_samples(samples)
        decoded = maker.make(model, predicted, self.one.test.image, seed=self.seed)
        card = None
        if self.scorer is not None and decoded.reconstruction is not None:
            words = (
                declared(self.recipe) if samples is None else {"selection": "the only sample", "true image used": "no"}
            )
            card = self.scorer.score(decoded.reconstruction, declared=words)
        rows = retrieval_rows(decoded.projected, self.bank, self.recipe, seed=self.seed) if retrieve else []
        hits = retrieval_hits(decoded.projected, self.bank) if retrieve else None
        return Line(name=name, kind=kind, card=card, retrieval=rows, hits=hits, images=decoded.reconstruction)

    def _without_decoder(self, predicted: Predicted) -> list[Line]:
        """Mean image, and the training image whose tokens are nearest to the brain's."""
        if self.scorer is None or self.maker.decoder is None:
            return []
        train, size = self.one.train.image, target_space(self.recipe.target).pixels
        stimuli, side = self.prepared.stimuli, self.maker.decoder.resolution
        bank = encode(self.maker.encoder, stimuli, train, size=size)
        nearest = stimuli.read(train[nearest_training_images(predicted.projected, bank)], size=side)
        mean = np.broadcast_to(mean_image(stimuli.read(train, size=side)), self.true.shape).copy()
        return [
            Line(name="nearest training image", kind="baseline", card=self.scorer.score(nearest), images=nearest),
            Line(name="mean image", kind="baseline", card=self.scorer.score(mean), images=mean),
        ]

    def _optimal(self, root: Path) -> Line:
        """Maximum likelihood under the phantom's own forward model: what no decoder can beat."""
        from ....data.phantoms.nsd.optimal import optimal_retrieval

        image = self.one.test.image
        scores = optimal_retrieval(root, self.one.subject.name, image, image, repeats=self.one.test.rows.shape[1])
        own = np.diag(scores)
        hits = ((scores >= own[:, None]).sum(1) == 1).astype(np.float64)
        return Line(name="optimal decoder", kind="bound", hits=hits)


def pool(lines: Mapping[str, tuple[NDArray[np.int64], Sequence[Line]]]) -> dict[str, Any]:
    """Average every line over subjects, with intervals over stimuli, and take differences to ridge.

    An image's value is its mean over the subjects that saw it; stimuli are then drawn, so that the interval speaks about other images
    for these subjects.

    Parameters
    ----------
    lines : mapping of str to (ndarray, sequence of Line)
        Subject -> its test images, and its lines.

    Returns
    -------
    dict
        ``lines``: name, kind, ``scores`` (metric -> mean, low, high, n); ``differences``: of the model to every other line, and what
        share of the optimal decoder's retrieval the model reaches.
    """
    values: dict[str, dict[str, NDArray[np.float64]]] = {}
    kinds: dict[str, str] = {}
    for first in next(iter(lines.values()))[1]:
        kinds[first.name] = first.kind
        per_metric: dict[str, NDArray[np.float64]] = {}
        for metric in first.values():
            parts = [
                (images, line.values()[metric])
                for images, found in lines.values()
                for line in found
                if line.name == first.name and metric in line.values()
            ]
            images = np.concatenate([one for one, _ in parts])
            _, where = np.unique(images, return_inverse=True)
            total = np.bincount(where, np.concatenate([value for _, value in parts]))
            per_metric[metric] = total / np.bincount(where)
        values[first.name] = per_metric
    pooled = [
        {"name": name, "kind": kinds[name], "scores": {metric: _interval(v) for metric, v in found.items()}}
        for name, found in values.items()
    ]
    model = values.get("model", {})
    differences = {
        other: {metric: _interval(model[metric] - v) for metric, v in found.items() if metric in model}
        for other, found in values.items()
        if other != "model"
    }
    share = None
    if RETRIEVAL in model and "optimal decoder" in values:
        best = float(values["optimal decoder"][RETRIEVAL].mean())
        share = float(model[RETRIEVAL].mean()) / best if best else None
    return {"lines": pooled, "differences": differences, "share_of_optimal_retrieval": share}


def show(results: Mapping[str, Any]) -> None:
    """Print the pooled table."""
    pooled = results["pooled"]
    metrics = list(dict.fromkeys(metric for line in pooled["lines"] for metric in line["scores"]))
    rows = [[line["name"], *[_cell(line["scores"].get(metric)) for metric in metrics]] for line in pooled["lines"]]
    say()
    say(table(["on the test images", *metrics], rows))
    against = pooled["differences"].get("ridge", {})
    for metric, one in against.items():
        say(f"model minus ridge, {metric}: {one['mean']:+.3f} [{one['low']:+.3f}, {one['high']:+.3f}]")
    if pooled["share_of_optimal_retrieval"] is not None:
        say(f"retrieval: {pooled['share_of_optimal_retrieval']:.0%} of the optimal decoder's")
    line = next(iter(next(iter(results["subjects"].values()))["lines"]))
    absent = [row["metric"] for row in line["metrics"] if row["value"] is None]
    if absent:
        say(f"not computed, for want of their networks' weights: {', '.join(absent)} (the report says where they go)")


def _targets(prepared: Prepared, recipe: FmriRecipe, maker: ImageMaker) -> TargetTable:
    parts = [side.image for one in prepared.subjects.values() for side in (one.train, one.validation)]
    images = np.unique(np.concatenate(parts))
    tokens = encode(maker.encoder, prepared.stimuli, images, size=target_space(recipe.target).pixels)
    return TargetTable(images, lambda places: tokens[torch.from_numpy(places)])


def _line_json(line: Line) -> dict[str, Any]:
    return {
        "name": line.name,
        "kind": line.kind,
        "retrieval": list(line.retrieval),
        "retrieval_all": None if line.hits is None else _interval(line.hits),
        "metrics": line.card.rows() if line.card is not None else [],
        "declared": dict(line.card.declared) if line.card is not None else {},
    }


def _interval(values: NDArray[np.float64]) -> dict[str, float]:
    found = bootstrap_mean(values)
    return {"mean": found.mean, "low": found.low, "high": found.high, "n": float(found.n)}


def _cell(score: Mapping[str, float] | None) -> str:
    return "" if score is None else f"{score['mean']:.3f} [{score['low']:.3f}, {score['high']:.3f}]"
