from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from chiasm.data.errors import ToolError
from chiasm.data.phantoms import label_maps
from chiasm.data.phantoms.label_maps import (
    CSF,
    GREY,
    WHITE,
    Draw,
    Ranges,
    Sample,
    TissueMaps,
    generate,
    maps_from_arrays,
    template_maps,
)

SHAPE = (40, 44, 40)
CALM = Ranges(
    rotation_deg=0,
    scale=0,
    shear=0,
    flip=0,
    elastic_mm=(),
    anatomy=(),
    folds=0,
    mask_error=0,
    low_resolution=0,
    separation=(40.0, 40.0),
)


@pytest.fixture(scope="module")
def ball() -> TissueMaps:
    """White matter in the middle, grey matter around it, CSF outermost."""
    axes = np.meshgrid(*[np.arange(60) - 29.5] * 3, indexing="ij")
    radius = np.sqrt(sum(a**2 for a in axes))
    return maps_from_arrays(
        ((radius >= 10) & (radius < 16)).astype(np.float32), (radius < 10).astype(np.float32), radius < 19
    )


def make(maps: TissueMaps, index: int = 0, ranges: Ranges | None = None, **options: object) -> Sample:
    settings: dict[str, object] = {"shape": SHAPE, "spacing_mm": 1.0, "ranges": ranges or Ranges(), "whole": True}
    return generate(maps, Draw(7, index), **{**settings, **options})  # type: ignore[arg-type]


def test_a_sample_depends_on_seed_and_index_only(ball: TissueMaps) -> None:
    first, again, other = make(ball, 3), make(ball, 3), make(ball, 4)
    assert torch.equal(first.image, again.image)
    assert torch.equal(first.labels, again.labels)
    assert not torch.equal(first.image, other.image)


def test_the_global_generators_are_left_alone(ball: TissueMaps) -> None:
    torch.manual_seed(5)
    make(ball)
    after = torch.rand(3)
    torch.manual_seed(5)
    assert torch.equal(after, torch.rand(3))


def test_without_randomness_the_labels_are_those_of_the_maps(ball: TissueMaps) -> None:
    # Only the place (within 4 mm) and the offsets of log-probabilities are drawn; the maps here are 0 or 1.
    labels = make(ball, ranges=CALM).labels
    volumes = [int((labels == k).sum()) for k in (CSF, GREY, WHITE)]
    expected = [4 / 3 * np.pi * (a**3 - b**3) for a, b in ((19, 16), (16, 10), (10, 0))]
    assert volumes == pytest.approx(expected, rel=0.16)


def test_half_the_resolution_is_an_eighth_of_the_voxels(ball: TissueMaps) -> None:
    fine, coarse = make(ball, ranges=CALM), make(ball, ranges=CALM, shape=(20, 22, 20), spacing_mm=2.0)
    assert int((coarse.labels > 0).sum()) * 8 == pytest.approx(int((fine.labels > 0).sum()), rel=0.1)


@pytest.mark.parametrize("index", range(6))
def test_images_are_normalised_inside_the_mask_and_zero_outside(ball: TissueMaps, index: int) -> None:
    sample = make(ball, index)
    inside = sample.image[0][sample.image[0] != 0]
    assert float(inside.mean()) == pytest.approx(0, abs=1e-3)
    assert float(inside.std()) == pytest.approx(1, abs=1e-3)
    assert torch.isfinite(sample.image).all()
    assert int((sample.labels[sample.image[0] == 0] > 0).sum()) <= 2


@pytest.mark.parametrize(
    ("contrast", "order"), [("t1", (CSF, GREY, WHITE)), ("inverted", (WHITE, GREY, CSF)), ("pd", (WHITE, GREY))]
)
def test_means_follow_the_order_of_the_contrast(ball: TissueMaps, contrast: str, order: tuple[int, ...]) -> None:
    for index in range(4):
        sample = make(ball, index, CALM, contrast=contrast)
        means = [float(sample.image[0][sample.labels == k].mean()) for k in order]
        assert means == sorted(means), (index, means)


def test_noise_is_what_the_separation_says(ball: TissueMaps) -> None:
    # At twice the noise, neighbouring voxels of white matter differ about twice as much (the rest of the draw is equal).
    def roughness(separation: float) -> float:
        sample = make(ball, 1, replace(CALM, separation=(separation, separation)), contrast="t1")
        deep = sample.labels[1:] == WHITE
        difference = sample.image[0][1:] - sample.image[0][:-1]
        gap = abs(float(sample.image[0][sample.labels == GREY].mean() - sample.image[0][sample.labels == WHITE].mean()))
        return float(difference[deep].std()) / gap

    assert roughness(3.0) / roughness(6.0) == pytest.approx(2, rel=0.25)


def test_smooth_fields_have_unit_variance_at_every_scale() -> None:
    draw = Draw(0, 0)
    for step in (2.0, 5.0):
        field = draw.smooth(6, (48, 48, 48), step)
        assert float(field.std()) == pytest.approx(1, rel=0.1)
        assert float((field[:, 1:] - field[:, :-1]).std()) < 2.2 / step


def test_mask_errors_change_the_rim_only(ball: TissueMaps) -> None:
    true, wrong = make(ball, 2, CALM), make(ball, 2, replace(CALM, mask_error=1.0))
    given = wrong.image[0] != 0
    assert bool((given != (true.labels > 0)).any())
    # What is left of the true brain keeps its labels; what was added to the mask is background.
    assert torch.equal(wrong.labels, torch.where(given, true.labels, torch.zeros_like(true.labels)))


def test_maps_are_cropped_with_a_margin_and_know_the_depth(ball: TissueMaps) -> None:
    assert ball.shape == (54, 54, 54)
    depth = ball.channels[3]
    assert float(depth[27, 27, 27]) == pytest.approx(19, abs=1)
    assert float(depth[0, 0, 0]) < -10


def test_a_missing_nilearn_is_a_coded_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(ToolError) as caught:
        template_maps(tmp_path)
    assert caught.value.code == "CHI-TL-040"
    monkeypatch.setattr(label_maps, "find_spec", lambda name: None)
    with pytest.raises(ToolError) as caught:
        template_maps()
    assert caught.value.code == "CHI-TL-040"


@pytest.mark.skipif(importlib.util.find_spec("nilearn") is None, reason="nilearn is not installed")
def test_the_template_has_a_brain_of_plausible_volumes() -> None:
    maps = template_maps()
    grey, white, rest, depth = maps.channels
    ml = [float(channel.sum()) / 1000 for channel in (grey, white, rest)]
    assert 600 < ml[0] < 1100
    assert 450 < ml[1] < 800
    assert 1600 < float((depth > 0).sum()) / 1000 < 2100
    # Left-right symmetric (2009a sym) and the long axis is y.
    assert float((grey - grey.flip(0)).abs().mean()) < 0.02
    assert maps.shape[1] == max(maps.shape)
