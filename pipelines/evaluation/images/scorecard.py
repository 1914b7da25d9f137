"""All scores of a set of reconstructions: value, interval over stimuli, chance, what is missing and why, and paired differences."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ....data.errors import InputError
from ..intervals import Interval, bootstrap_mean
from .feature_metrics import FEATURE_METRICS, FeatureMetric, permuted_scores
from .feature_networks import Judges, load_networks
from .identification import Rule
from .pixel_metrics import BASE_SIZE, PIXEL_SIZE, as_images, permuted_pairs, permuted_pixel_scores, resized

CODES: dict[str, str] = {
    "CHI-IN-312": "True and reconstructed images are not as many as each other, or not square images of 8-bit colours.",
    "CHI-IN-313": "Two sets of scores are not of the same stimuli, so that their difference means nothing.",
}

HIGHER = {"two-way": True, "distance": False}
"""Whether more of it is better."""


@dataclass(frozen=True, eq=False, kw_only=True)
class MetricScore:
    """One row.

    Parameters
    ----------
    name : str
    value : float or None
        Mean over the stimuli; two-way scores are shares, not per cent. None where the metric could not be computed.
    per_image : ndarray, shape (n,), or None
        What each stimulus adds.
    interval : Interval or None
        95 % bootstrap over stimuli. Of a two-way score the reconstructions are drawn and the candidates stay.
    chance : Interval or None
        The same metric with pairs permuted (no image keeps its own), averaged over the permutations.
    higher_is_better, published : bool
    chance_per_image : ndarray, shape (n,), or None
        What each stimulus adds to `chance`.
    reason : str
        Why there is no value, and where the weights belong.
    settings : mapping
        Network, sha256, layer, sizes, rule, share of ties.
    """

    name: str
    value: float | None
    per_image: NDArray[np.float64] | None
    interval: Interval | None
    chance: Interval | None
    higher_is_better: bool
    published: bool
    chance_per_image: NDArray[np.float64] | None = None
    reason: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A paired difference of two sets of reconstructions of the same stimuli.

    Parameters
    ----------
    name : str
    interval : Interval
        Of first minus second, bootstrap over stimuli.
    first_is_better : bool or None
        None where the interval holds 0.
    """

    name: str
    interval: Interval
    first_is_better: bool | None


@dataclass(frozen=True, eq=False, kw_only=True)
class Scorecard:
    """All rows of one set of reconstructions.

    Parameters
    ----------
    scores : tuple of MetricScore
    n : int
        Stimuli.
    stimuli_sha256 : str
        Of the true images, in their order.
    declared : mapping of str to str
        How candidates were chosen, what was blended, and what else a reader must know.
    """

    scores: tuple[MetricScore, ...]
    n: int
    stimuli_sha256: str
    declared: Mapping[str, str]

    def __getitem__(self, name: str) -> MetricScore:
        return {score.name: score for score in self.scores}[name]

    def rows(self) -> list[dict[str, Any]]:
        """Return the rows as plain values, for JSON and tables; without contributions of single images."""
        return [
            {
                "metric": score.name,
                "value": score.value,
                "low": score.interval.low if score.interval else None,
                "high": score.interval.high if score.interval else None,
                "chance": score.chance.mean if score.chance else None,
                "chance_low": score.chance.low if score.chance else None,
                "chance_high": score.chance.high if score.chance else None,
                "n": self.n,
                "higher_is_better": score.higher_is_better,
                "published": score.published,
                "reason": score.reason,
                **score.settings,
            }
            for score in self.scores
        ]

    def differences(self, other: Scorecard, *, n_draws: int = 5000, seed: int = 0) -> tuple[Difference, ...]:
        """Compare with other reconstructions of the same stimuli, metric by metric where both have a value.

        Raises
        ------
        InputError
            ``CHI-IN-313`` for other stimuli.
        """
        if other.stimuli_sha256 != self.stimuli_sha256:
            raise InputError(
                "CHI-IN-313",
                "the two sets of reconstructions are not of the same stimuli in the same order.",
                "Score both on the same test images.",
            )
        theirs = {score.name: score for score in other.scores}
        found = []
        for score in self.scores:
            against = theirs.get(score.name)
            if score.per_image is None or against is None or against.per_image is None:
                continue
            interval = bootstrap_mean(score.per_image - against.per_image, n_draws=n_draws, seed=seed)
            sure = interval.low > 0 or interval.high < 0
            better = (interval.mean > 0) == score.higher_is_better if sure else None
            found.append(Difference(name=score.name, interval=interval, first_is_better=better))
        return tuple(found)


class ImageScorer:
    """Scores sets of reconstructions of the same true images; the true images' features are computed once.

    Parameters
    ----------
    true : ndarray, uint8, shape (n, S, S, 3)
    judges : Judges, optional
        Default: whatever of `NETWORKS` is there.
    rule : "columns" or "rows"
        Of two-way identification.
    antialias : bool
        Whether downsizing blurs first, as torchvision does since 0.17 (the "40-session" results); False for the environment of the
        "37-session" results.
    n_chance : int
        Permutations of the pairs.
    n_draws, seed : int
        Of the bootstrap, and of permutations and bootstrap.

    Raises
    ------
    InputError
        ``CHI-IN-312``.
    """

    def __init__(
        self,
        true: NDArray[np.uint8],
        judges: Judges | None = None,
        *,
        rule: Rule = "columns",
        antialias: bool = True,
        n_chance: int = 4,
        n_draws: int = 5000,
        seed: int = 0,
    ) -> None:
        self.judges = judges or load_networks()
        self.rule: Rule = rule
        self.antialias, self.n_draws, self.seed = antialias, n_draws, seed
        self.images = self._base(true, len(true))
        self.sha256 = hashlib.sha256(repr(true.shape).encode() + np.ascontiguousarray(true).tobytes()).hexdigest()
        self.pairing = permuted_pairs(len(true), n_chance, seed)
        self._features: dict[str, dict[str, Tensor]] = {}

    def score(self, reconstructed: NDArray[np.uint8], *, declared: Mapping[str, str] | None = None) -> Scorecard:
        """Score reconstructions, uint8 (n, S', S', 3).

        Raises
        ------
        InputError
            ``CHI-IN-312``.
        """
        made = self._base(reconstructed, len(self.images))
        rows = self._pixel_rows(made)
        seen: dict[str, dict[str, Tensor]] = {}
        for metric in FEATURE_METRICS:
            settings: dict[str, Any] = {"network": metric.network, "layer": metric.layer}
            network = self.judges.networks.get(metric.network)
            reason = self.judges.missing.get(metric.network, "not asked for")
            if network is not None:
                spec = network.spec
                settings |= {"sha256": network.sha256, "size": spec.size, "antialias": self.antialias}
                reason = "two-way identification needs two images" if metric.kind == "two-way" and len(made) < 2 else ""
            if metric.kind == "two-way":
                settings["rule"] = self.rule
            if network is None or reason:
                rows.append(_missing(metric, reason, settings))
                continue
            if metric.network not in self._features:
                self._features[metric.network] = network.features(self.images, antialias=self.antialias)
            if metric.network not in seen:
                seen = {
                    metric.network: network.features(made, antialias=self.antialias)
                }  # metrics of a network stand together
            real, features = (found[metric.network][metric.layer] for found in (self._features, seen))
            found = permuted_scores(metric, real, features, self.pairing.partners, rule=self.rule)
            if metric.kind == "two-way":
                settings["tie_share"] = found[0].tie_share
            values = [one.per_image for one in found]
            rows.append(self._scored(metric.name, values, HIGHER[metric.kind], metric.published, settings))
        return Scorecard(scores=tuple(rows), n=len(made), stimuli_sha256=self.sha256, declared=dict(declared or {}))

    def _pixel_rows(self, made: Tensor) -> list[MetricScore]:
        found = permuted_pixel_scores(self.images, made, self.pairing, antialias=self.antialias)
        settings = {"size": PIXEL_SIZE, "antialias": self.antialias}
        return [self._scored(name, list(values.numpy()), True, True, settings) for name, values in found.items()]

    def _scored(
        self, name: str, values: list[NDArray[np.float64]], higher: bool, published: bool, settings: Mapping[str, Any]
    ) -> MetricScore:
        own, *permuted = values
        by_chance = np.mean(permuted, axis=0) if permuted else None
        chance = self._interval(by_chance) if by_chance is not None else None
        return MetricScore(
            name=name,
            value=float(own.mean()),
            per_image=own,
            interval=self._interval(own),
            chance=chance,
            chance_per_image=by_chance,
            higher_is_better=higher,
            published=published,
            settings=settings,
        )

    def _interval(self, values: NDArray[np.float64]) -> Interval:
        return bootstrap_mean(values, n_draws=self.n_draws, seed=self.seed)

    def _base(self, pixels: NDArray[np.uint8], n: int) -> Tensor:
        try:
            images = as_images(pixels)
        except ValueError as error:
            raise InputError("CHI-IN-312", f"{error}.", "Give square images with three channels of 8 bits.") from None
        if len(images) != n or not n:
            raise InputError(
                "CHI-IN-312",
                f"{len(images)} reconstructions meet {n} true images.",
                "Give one reconstruction for each true image, in the same order.",
            )
        return resized(images, BASE_SIZE, antialias=self.antialias)


def score_images(
    true: NDArray[np.uint8],
    reconstructed: NDArray[np.uint8],
    *,
    judges: Judges | None = None,
    rule: Rule = "columns",
    antialias: bool = True,
    declared: Mapping[str, str] | None = None,
    seed: int = 0,
) -> Scorecard:
    """Score one set of reconstructions; for several of the same images use one `ImageScorer`.

    Parameters
    ----------
    true, reconstructed : ndarray, uint8, shape (n, S, S, 3)
        Sizes may differ between the two.
    judges : Judges, optional
    rule : "columns" or "rows"
    antialias : bool
    declared : mapping of str to str, optional
        How candidates were chosen (``selection``), what was blended (``blending``).
    seed : int

    Raises
    ------
    InputError
        ``CHI-IN-312``.
    """
    return ImageScorer(true, judges, rule=rule, antialias=antialias, seed=seed).score(reconstructed, declared=declared)


def _missing(metric: FeatureMetric, reason: str, settings: Mapping[str, Any]) -> MetricScore:
    return MetricScore(
        name=metric.name,
        value=None,
        per_image=None,
        interval=None,
        chance=None,
        higher_is_better=HIGHER[metric.kind],
        published=metric.published,
        reason=reason,
        settings=settings,
    )
