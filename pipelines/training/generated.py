"""Samples made from label maps, as a source for the loop."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ...data.phantoms.label_maps import Draw, Ranges, Sample, TissueMaps, generate
from .settings import Generator, Phase, TestSet


def ranges_of(settings: Generator) -> Ranges:
    """Return the generator's ranges with what the recipe changes."""
    return replace(Ranges(), **settings.ranges)  # type: ignore[arg-type]


class GeneratedSource:
    """Endless samples; the i-th depends on (seed, i) only."""

    def __init__(self, maps: TissueMaps, settings: Generator, *, seed: int) -> None:
        self.maps, self.ranges, self.seed = maps, ranges_of(settings), seed

    def sample(self, index: int, phase: Phase) -> tuple[Tensor, Tensor]:
        """Return an image (1, X, Y, Z) and its labels (X, Y, Z)."""
        draw = Draw(self.seed, index)
        low, high = phase.spacing_mm
        made = generate(self.maps, draw, shape=phase.patch, spacing_mm=draw.uniform(low, high), ranges=self.ranges)
        return made.image, made.labels


def fixed_samples(maps: TissueMaps, settings: Generator, test: TestSet) -> Iterator[Sample]:
    """Yield the whole-brain volumes of the fixed test set, contrasts in turn."""
    ranges = replace(ranges_of(settings), separation=test.separation)
    for index in range(test.volumes):
        yield generate(
            maps,
            Draw(test.seed, index),
            shape=test.shape,
            spacing_mm=test.spacing_mm,
            ranges=ranges,
            whole=True,
            contrast=test.contrasts[index % len(test.contrasts)],
        )


def fixed_volumes(
    maps: TissueMaps, settings: Generator, test: TestSet
) -> Iterator[tuple[Tensor, NDArray[np.uint8], tuple[float, float, float]]]:
    """Yield the test set as `validation.score_volumes` wants it: image, labels, spacing."""
    for sample in fixed_samples(maps, settings, test):
        yield sample.image, sample.labels.numpy().astype(np.uint8), (test.spacing_mm,) * 3
