"""From a file to labels and back: what the network says in its space stands at the same places in the input's."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

from chiasm.pipelines.engine.options import RunOptions
from chiasm.pipelines.engine.plan import Plan
from chiasm.pipelines.engine.stage import Context
from chiasm.pipelines.segmentation import build

ORIENTATIONS = [
    "".join(sign[axis] for axis in order)
    for order in itertools.permutations(range(3))
    for sign in itertools.product("RL", "AP", "SI")
]


def blocks(shape: tuple[int, int, int] = (26, 19, 22)) -> np.ndarray:
    """Labels 0, 1 and 2 in a form that no flip or rotation leaves as it is."""
    labels = np.zeros(shape, np.int16)
    labels[3:17, 4:15, 5:18] = 1
    labels[5:9, 6:8, 7:16] = 2
    labels[12:15, 10:14, 6:8] = 2
    return labels


def run_chain(recipe: Any, session: Any, context: Context, options: RunOptions | None = None) -> Any:
    item: Any = session
    for stage in build(recipe, options or RunOptions()).stages:
        item = stage.run(item, context)
    return item


def labels_of(context: Context, key: str = "sub-01") -> nib.Nifti1Image:
    return nib.load(context.out / key / "anat" / f"{key}_desc-testrecipe_dseg.nii.gz")


@pytest.mark.parametrize("code", ORIENTATIONS)
def test_labels_stand_where_the_intensity_is_in_all_48_orientations(
    code: str,
    save: Callable[..., Path],
    recipe_of: Callable[..., Any],
    session_of: Callable[..., Any],
    context: Context,
    nearest_class: Any,
) -> None:
    affine = np.diag([1.0, 1.5, 2.0, 1.0])
    affine[:3, 3] = (-30, 12, 7)
    turned = nib.Nifti1Image(blocks(), affine).as_reoriented(
        nib.orientations.ornt_transform(nib.io_orientation(affine), nib.orientations.axcodes2ornt(code))
    )
    path = save(np.asarray(turned.dataobj), affine=turned.affine)
    context.components = {"network": nearest_class}
    recipe = recipe_of()
    item: Any = session_of(T1w=path)
    for stage in build(recipe, RunOptions()).stages[:5]:
        item = stage.run(item, context)
    np.testing.assert_array_equal(item.labelled.labels, np.asarray(turned.dataobj))
    volumes = {m.name: m.volume_ml for m in item.measures}
    assert volumes["high"] == pytest.approx((blocks() == 2).sum() * 3.0 / 1000)
    centre = next(m.centre_mm for m in item.measures if m.name == "high")
    expected = affine @ np.append(np.argwhere(blocks() == 2).mean(axis=0), 1)
    np.testing.assert_allclose(centre, expected[:3], atol=0.006)


def test_an_output_has_the_header_of_the_input_bit_for_bit(
    tmp_path: Path, recipe_of: Callable[..., Any], session_of: Callable[..., Any], context: Context, nearest_class: Any
) -> None:
    image = nib.Nifti1Image(blocks().astype(np.float32), None)
    oblique = nib.affines.from_matvec(
        nib.eulerangles.euler2mat(0.2, -0.1, 0.3) @ np.diag([-1.1, 0.9, 2.5]), [11, -7, 3]
    )
    image.set_qform(oblique, code=1)
    image.set_sform(oblique + 1e-4, code=2)
    image.header.set_xyzt_units("mm", "sec")
    path = tmp_path / "t1.nii.gz"
    nib.save(image, path)
    context.components = {"network": nearest_class}
    run_chain(recipe_of(), session_of(T1w=path), context)
    before, after = nib.load(path), labels_of(context)
    for field in (
        "quatern_b",
        "quatern_c",
        "quatern_d",
        "qoffset_x",
        "qoffset_y",
        "qoffset_z",
        "qform_code",
        "sform_code",
        "xyzt_units",
    ):
        assert before.header[field] == after.header[field]
    for field in ("srow_x", "srow_y", "srow_z"):
        np.testing.assert_array_equal(before.header[field], after.header[field])
    np.testing.assert_array_equal(before.header["pixdim"][:4], after.header["pixdim"][:4])  # the others have no axis
    np.testing.assert_array_equal(before.affine, after.affine)
    np.testing.assert_array_equal(np.asarray(after.dataobj), blocks())


def test_a_crop_to_the_mask_keeps_labels_in_their_place_and_background_outside(
    save: Callable[..., Path],
    recipe_of: Callable[..., Any],
    session_of: Callable[..., Any],
    context: Context,
    nearest_class: Any,
) -> None:
    values = blocks()
    mask = np.zeros(values.shape, np.uint8)
    mask[4:14, 5:16, 4:17] = 1
    session = session_of(T1w=save(values), mask=save(mask, "mask.nii.gz"))
    context.components = {"network": nearest_class, "mask": None}
    recipe = recipe_of(
        components={"network": {"kind": "unet3d"}, "mask": {"kind": "brain-mask"}},
        space={"crop": "mask", "margin_mm": 1},
    )
    run_chain(recipe, session, context)
    np.testing.assert_array_equal(np.asarray(labels_of(context).dataobj), values * mask)
    written = nib.load(context.out / "sub-01" / "anat" / "sub-01_desc-brain_mask.nii.gz")
    np.testing.assert_array_equal(np.asarray(written.dataobj), mask)


def test_resampling_moves_no_label_by_more_than_the_edge_of_a_voxel(
    save: Callable[..., Path],
    recipe_of: Callable[..., Any],
    session_of: Callable[..., Any],
    context: Context,
    nearest_class: Any,
) -> None:
    values = blocks((40, 40, 20))
    affine = np.diag([-1.0, 1.0, 2.0, 1.0])
    context.components = {"network": nearest_class}
    run_chain(recipe_of(space={"spacing_mm": 1.25}), session_of(T1w=save(values, affine=affine)), context)
    got = np.asarray(labels_of(context).dataobj)
    inside = np.zeros(values.shape, bool)
    inside[4:16, 5:14, 6:17] = True  # away from the edges of label 1
    assert (got[inside] > 0).all()
    far = np.ones(values.shape, bool)
    far[2:18, 3:16, 4:19] = False
    assert (got[far] == 0).all()


def test_the_written_tree_is_the_expected_one(
    save: Callable[..., Path],
    recipe_of: Callable[..., Any],
    session_of: Callable[..., Any],
    context: Context,
    nearest_class: Any,
) -> None:
    context.components = {"network": nearest_class}
    written = run_chain(recipe_of(), session_of(T1w=save(blocks())), context, RunOptions(probabilities=True))
    names = {name for name in written.outputs if "/figures/" not in name}
    stem = "sub-01/anat/sub-01"
    assert names == {
        f"{stem}_desc-testrecipe_dseg.nii.gz",
        f"{stem}_desc-testrecipe_dseg.json",
        f"{stem}_desc-testrecipe_dseg.tsv",
        f"{stem}_desc-testrecipe_volumes.tsv",
        f"{stem}_label-low_desc-testrecipe_probseg.nii.gz",
        f"{stem}_label-low_desc-testrecipe_probseg.json",
        f"{stem}_label-high_desc-testrecipe_probseg.nii.gz",
        f"{stem}_label-high_desc-testrecipe_probseg.json",
        "sub-01/sub-01_desc-testrecipe_report.html",
    }
    assert written.row == {"low_ml": (blocks() == 1).sum() / 1000, "high_ml": (blocks() == 2).sum() / 1000}
    for name in written.outputs:
        assert (context.out / name).is_file()


def test_the_same_input_gives_the_same_bytes_twice(
    save: Callable[..., Path],
    recipe_of: Callable[..., Any],
    session_of: Callable[..., Any],
    context: Context,
    nearest_class: Any,
    tmp_path: Path,
) -> None:
    session = session_of(T1w=save(blocks()))
    outputs = []
    for name in ("first", "second"):
        fresh = Context(components={"network": nearest_class}, plan=Plan(), out=tmp_path / name)
        outputs.append(run_chain(recipe_of(), session, fresh).outputs)
    assert outputs[0] == outputs[1]


def test_nested_regions_are_written_in_order(
    save: Callable[..., Path], recipe_of: Callable[..., Any], session_of: Callable[..., Any], context: Context
) -> None:
    values = blocks()
    regions = [{"name": "whole", "labels": [1, 2], "write": 2}, {"name": "core", "labels": [2], "write": 4}]
    context.components = {"network": lambda batch: torch.cat([batch - 0.5, batch - 1.5], dim=1)}
    written = run_chain(recipe_of(labels={}, regions=regions), session_of(T1w=save(values)), context)
    np.testing.assert_array_equal(
        np.asarray(labels_of(context).dataobj), np.select([values == 2, values == 1], [4, 2], 0)
    )
    assert written.row["whole_ml"] == pytest.approx((values > 0).sum() / 1000)
    assert written.row["core_ml"] == pytest.approx((values == 2).sum() / 1000)
