"""Where the brain comes from, and what is said about a mask that looks wrong."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from chiasm.data.patients import Session
from chiasm.data.volumes import Grid, Volume
from chiasm.pipelines.engine.stage import Context
from chiasm.pipelines.stages.brain_mask import BrainMask, t1_like
from chiasm.pipelines.stages.items import Case

SHAPE = (30, 34, 28)


def case_of(values: np.ndarray, spacing: float = 5.0, mask: np.ndarray | None = None) -> Case:
    affine = np.diag([-spacing, spacing, -spacing, 1.0])
    return Case(session=Session(patient="1"), channels={"T1w": Volume(values, Grid(values.shape, affine))}, mask=mask)


def ball(radius: int, centre: tuple[int, int, int] = (15, 17, 14)) -> np.ndarray:
    distance = sum((axis - middle) ** 2 for axis, middle in zip(np.indices(SHAPE), centre, strict=True))
    return np.asarray(distance < radius**2)


def forbidden(values: np.ndarray) -> np.ndarray:
    raise AssertionError("the network must not be asked")


def test_the_network_sees_the_head_upright_and_its_answer_comes_back_in_place(context: Context) -> None:
    head = (ball(13) * 50 + ball(8, (10, 20, 9)) * 100 + 1).astype(np.float32)
    seen: list[np.ndarray] = []

    def network(values: np.ndarray) -> np.ndarray:
        seen.append(values)
        return values > 100

    context.components = {"mask": network}
    found = BrainMask().run(case_of(head), context)
    np.testing.assert_array_equal(seen[0], head[::-1, :, ::-1])
    assert seen[0].flags.c_contiguous
    np.testing.assert_array_equal(found.mask, head > 100)
    assert found.mask_source == "network"


def test_zeros_around_a_brain_make_the_mask_with_its_holes_filled(context: Context) -> None:
    brain = ball(14)  # about 1.4 litres at 5 mm
    values = np.where(brain & ~ball(3), 80.0, 0.0).astype(np.float32)
    context.components = {"mask": forbidden}
    found = BrainMask().run(case_of(values), context)
    np.testing.assert_array_equal(found.mask, brain)
    assert found.mask_source == context.notes["brain_mask"] == "skull-stripped"


def test_a_whole_head_on_zeroed_air_still_goes_to_the_network(context: Context) -> None:
    head = np.where(ball(14), 80.0, 0.0).astype(np.float32)
    context.components = {"mask": lambda values: values > 0}
    assert BrainMask().run(case_of(head, spacing=7.0), context).mask_source == "network"


def test_a_mask_of_the_input_is_kept(context: Context) -> None:
    mask = ball(12)
    context.components = {"mask": forbidden}
    found = BrainMask().run(case_of(np.ones(SHAPE, np.float32), mask=mask), context)
    assert found.mask is mask


@pytest.mark.parametrize(
    ("mask", "words"),
    [(ball(14, (2, 17, 14)), "touches the border"), (ball(3), "ml lies outside"), (ball(12), "")],
)
def test_masks_that_look_wrong_are_flagged(mask: np.ndarray, words: str, context: Context) -> None:
    BrainMask().run(case_of(np.ones(SHAPE, np.float32), mask=mask), context)
    assert any(words in flag for flag in context.flags) if words else context.flags == []


def test_the_plain_t1_is_what_the_mask_is_made_from() -> None:
    volume = Volume(np.ones((2, 2, 2), np.float32), Grid((2, 2, 2), np.eye(4)))

    def chosen(*names: str) -> Any:
        channels = {name: Volume(volume.values, volume.grid) for name in names}
        found = t1_like(Case(session=Session(patient="1"), channels=channels))
        return next(name for name, one in channels.items() if one is found)

    assert chosen("flair", "t1ce", "t1", "t2") == "t1"
    assert chosen("flair", "t1ce") == "t1ce"
    assert chosen("T2w", "flair") == "T2w"
