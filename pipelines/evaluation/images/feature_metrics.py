"""Scores of what networks see in images: two-way identification (higher is better) and correlation distance (lower is better)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from .identification import Identification, Rule, correlations, row_correlation, two_way


@dataclass(frozen=True, kw_only=True)
class FeatureMetric:
    """One score.

    Parameters
    ----------
    name : str
        As the papers write it.
    network, layer : str
        Of `feature_networks.NETWORKS`.
    kind : "two-way" or "distance"
    published : bool
        Whether papers report it. ``efficientnet-lite0`` is this project's own offline judge: its scores stand under its own name and
        are never compared with EfficientNet-B1's.
    """

    name: str
    network: str
    layer: str
    kind: Literal["two-way", "distance"]
    published: bool = True


FEATURE_METRICS: tuple[FeatureMetric, ...] = (
    FeatureMetric(name="AlexNet(2)", network="alexnet", layer="features.4", kind="two-way"),
    FeatureMetric(name="AlexNet(5)", network="alexnet", layer="features.11", kind="two-way"),
    FeatureMetric(name="Inception", network="inception-v3", layer="avgpool", kind="two-way"),
    FeatureMetric(name="CLIP", network="clip-vit-l14", layer="embedding", kind="two-way"),
    FeatureMetric(name="EffNet-B", network="efficientnet-b1", layer="avgpool", kind="distance"),
    FeatureMetric(name="SwAV", network="swav-resnet50", layer="avgpool", kind="distance"),
    FeatureMetric(
        name="efficientnet-lite0 two-way", network="efficientnet-lite0", layer="pooled", kind="two-way", published=False
    ),
    FeatureMetric(
        name="efficientnet-lite0 distance",
        network="efficientnet-lite0",
        layer="pooled",
        kind="distance",
        published=False,
    ),
    FeatureMetric(
        name="efficientnet-lite0 early two-way",
        network="efficientnet-lite0",
        layer="early",
        kind="two-way",
        published=False,
    ),
)


@dataclass(frozen=True, eq=False, kw_only=True)
class FeatureScore:
    """One score of n pairs, with what chance needs.

    Parameters
    ----------
    per_image : ndarray, shape (n,)
        Its mean is the score.
    tie_share : float
        Of two-way comparisons; NaN for a distance.
    """

    per_image: NDArray[np.float64]
    tie_share: float


def permuted_scores(
    metric: FeatureMetric, real: Tensor, made: Tensor, partners: Sequence[NDArray[np.int64]], *, rule: Rule = "columns"
) -> list[FeatureScore]:
    """Score features of reconstructions (n, f) against true images' (n, f) under several pairings of the two.

    Parameters
    ----------
    metric : FeatureMetric
    real, made : Tensor, shape (n, f)
    partners : sequence of ndarray of int64, shape (n,)
        Reconstruction j is taken for image partners[k][j]; ``arange(n)`` gives the score, permutations give chance.
    rule : "columns" or "rows"
    """
    if metric.kind == "two-way":
        table = correlations(real, made)
        found: list[Identification] = [two_way(table, rule=rule, partner=partner) for partner in partners]
        return [FeatureScore(per_image=one.per_image, tie_share=one.tie_share) for one in found]
    distances = [1 - row_correlation(real[partner], made) for partner in partners]
    return [FeatureScore(per_image=one, tie_share=float("nan")) for one in distances]
