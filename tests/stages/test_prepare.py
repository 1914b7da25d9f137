"""What the network sees, and when it may see less than the whole volume."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from chiasm.data.errors import InputError
from chiasm.data.patients import Session
from chiasm.data.volumes import Grid, Volume
from chiasm.pipelines.engine.plan import Plan
from chiasm.pipelines.engine.stage import Context
from chiasm.pipelines.stages import prepare as module
from chiasm.pipelines.stages.items import Case
from chiasm.pipelines.stages.prepare import Prepare


@pytest.fixture
def case() -> Case:
    values = np.zeros((20, 24, 18), np.float32)
    values[4:9, 10:20, 3:12] = np.random.default_rng(0).normal(100, 9, (5, 10, 9))
    second = np.zeros_like(values)
    second[6:15, 11:13, 4:6] = 7
    grid = Grid(values.shape, np.diag([-1.0, 1.0, -1.0, 1.0]))
    return Case(session=Session(patient="1"), channels={"a": Volume(values, grid), "b": Volume(second, grid)})


def test_the_image_is_upright_with_the_channels_in_order(case: Case, recipe_of: Any, context: Context) -> None:
    prepared = Prepare(recipe_of()).run(case, context)
    for channel, name in enumerate("ab"):
        np.testing.assert_array_equal(prepared.image[channel].numpy(), case.channels[name].values[::-1, :, ::-1])
    assert list(prepared.case.channels) == ["a"]  # the others are let go


@pytest.mark.parametrize(
    ("mode", "validated", "cropped"), [("exact", True, False), ("fast", False, False), ("fast", True, True)]
)
def test_the_foreground_crop_needs_fast_mode_and_a_validated_model(
    mode: Any,
    validated: bool,
    cropped: bool,
    case: Case,
    recipe_of: Any,
    context: Context,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "crop_is_validated", lambda recipe: validated)
    context.plan = replace(Plan(), mode=mode)
    recipe = recipe_of(space={"crop": "foreground", "margin_mm": 1.5}, intensity="zscore-nonzero")
    prepared = Prepare(recipe).run(case, context)
    if not cropped:
        assert prepared.image.shape[1:] == (20, 24, 18)
        return
    assert prepared.space.crop.size == (11 + 4, 10 + 4, 9 + 4)  # both channels' foreground, and two voxels on each side
    whole = Prepare(recipe_of(intensity="zscore-nonzero")).run(case, context).image
    inside = whole[(slice(None), *prepared.space.crop.slices)]
    np.testing.assert_allclose(
        prepared.image.numpy(), inside.numpy(), atol=1e-6
    )  # the statistics do not notice the crop


def test_a_mask_crop_without_a_mask_is_a_coded_error(case: Case, recipe_of: Any, context: Context) -> None:
    recipe = recipe_of(
        components={"network": {"kind": "unet3d"}, "mask": {"kind": "brain-mask"}}, space={"crop": "mask"}
    )
    with pytest.raises(InputError) as caught:
        Prepare(recipe).run(case, context)
    assert caught.value.code == "CHI-IN-097"


def test_the_model_spacing_holds_and_the_same_spacing_is_not_interpolated(
    case: Case, recipe_of: Any, context: Context
) -> None:
    coarse = Prepare(recipe_of(space={"spacing_mm": 2.0})).run(case, context)
    assert coarse.image.shape[1:] == (10, 12, 9)
    same = Prepare(recipe_of(space={"spacing_mm": 1.0})).run(case, context)
    assert same.space.resampling.is_identity
    np.testing.assert_array_equal(same.image[0].numpy(), case.channels["a"].values[::-1, :, ::-1])
