"""`--prepare`: channels on grids of their own end as labels on the unchanged grid of the reference."""

from __future__ import annotations

from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

from chiasm.data.errors import ChiasmError, RecipeError
from chiasm.pipelines.engine.options import RunOptions
from chiasm.pipelines.engine.stage import Context
from chiasm.pipelines.segmentation import build
from chiasm.pipelines.stages.prepare_channels import PrepareChannels, reference_channel

pytest.importorskip("SimpleITK")

CHANNELS = {"flair": {}, "t1ce": {}}
COMPONENTS = {"network": {"kind": "unet3d"}, "mask": {"kind": "brain-mask"}}
SIZE_MM = np.array([66.0, 72.0, 60.0])


def field(points: np.ndarray) -> np.ndarray:
    """A smooth random picture at world points (..., 3), 0 to about 2, without any symmetry."""
    generator = np.random.default_rng(11)
    total = np.zeros(points.shape[:-1])
    for centre, width in zip(generator.uniform(-26, 26, (24, 3)), generator.uniform(5, 11, 24), strict=True):
        total += np.exp(-((points - centre) ** 2).sum(-1) / (2 * width**2))
    return total


def look(affine: np.ndarray, shape: tuple[int, int, int], to_field: np.ndarray) -> np.ndarray:
    index = np.moveaxis(np.indices(shape), 0, -1)
    world = index @ affine[:3, :3].T + affine[:3, 3]
    return field(world @ to_field[:3, :3].T + to_field[:3, 3])


def test_labels_of_a_moved_channel_lie_on_the_reference_grid(
    save: Any, recipe_of: Any, session_of: Any, context: Context
) -> None:
    reference_affine = np.array([[-2.0, 0, 0, 33], [0, 0, 2.5, -36], [0, 2.0, 0, -30], [0, 0, 0, 1]])
    reference_shape = (33, 30, 29)
    moved = np.eye(4)
    moved[:3, :3] = nib.eulerangles.euler2mat(0.10, -0.06, 0.08)
    moved[:3, 3] = (3.0, -2.0, 2.5)
    other_affine = np.diag([2.5, 2.0, 2.0, 1.0])
    other_affine[:3, 3] = -SIZE_MM / 2
    other_shape = (27, 37, 31)
    truth = look(reference_affine, reference_shape, np.eye(4))
    session = session_of(
        t1ce=save(2.5 - truth, "t1ce.nii.gz", reference_affine),
        flair=save(look(other_affine, other_shape, np.linalg.inv(moved)), "flair.nii.gz", other_affine),
    )
    recipe = recipe_of(
        channels=CHANNELS, components=COMPONENTS, labels={1: "bright"}, windows={"size": [32, 32, 32], "overlap": 0.25}
    )
    context.components = {
        "mask": lambda values: np.ones(values.shape, bool),
        "network": lambda batch: torch.cat(
            [1.0 - batch[:, :1], batch[:, :1] - 1.0], dim=1
        ),  # the first channel decides
    }
    item: Any = session
    for stage in build(recipe, RunOptions(prepare=True)).stages:
        item = stage.run(item, context)
    image = nib.load(context.out / "sub-01/anat/sub-01_desc-testrecipe_dseg.nii.gz")
    np.testing.assert_array_equal(image.affine, nib.load(session.channel("t1ce").files[0]).affine)
    got, expected = np.asarray(image.dataobj) == 1, truth > 1.0
    inside = (slice(4, -4),) * 3  # a moved channel does not reach every border voxel
    assert 2 * (got & expected)[inside].sum() / (got[inside].sum() + expected[inside].sum()) > 0.93
    steps = {step["channel"]: step for step in context.notes["preparation"]}
    assert steps["t1ce"]["step"] == "reference, resampled"
    angle = np.degrees(np.arccos((np.trace(moved[:3, :3]) - 1) / 2))
    assert steps["flair"]["turn_degrees"] == pytest.approx(angle, abs=1.0)
    assert any("--prepare" in flag for flag in context.flags)


def test_the_reference_is_the_contrast_enhanced_t1() -> None:
    assert reference_channel(["flair", "t1ce", "t1", "t2"]) == "t1ce"
    assert reference_channel(["T1w", "T1c", "T2w"]) == "T1c"
    assert reference_channel(["T1w", "T2w"]) == "T1w"


def test_a_recipe_without_a_mask_network_cannot_prepare(recipe_of: Any) -> None:
    with pytest.raises(RecipeError) as caught:
        PrepareChannels(recipe_of())
    assert caught.value.code == "CHI-RC-090"


def test_channels_that_do_not_overlap_are_refused(save: Any, recipe_of: Any, session_of: Any, context: Context) -> None:
    values = np.random.default_rng(0).random((12, 12, 12)).astype(np.float32)
    far = np.eye(4)
    far[:3, 3] = 5000
    session = session_of(t1ce=save(values, "a.nii.gz"), flair=save(values, "b.nii.gz", far))
    stages = build(recipe_of(channels=CHANNELS, components=COMPONENTS), RunOptions(prepare=True)).stages
    with pytest.raises(ChiasmError) as caught:
        stages[1].run(stages[0].run(session, context), context)
    assert (caught.value.code, caught.value.file) == ("CHI-IN-098", "b.nii.gz")
