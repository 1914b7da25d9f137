"""What cannot be segmented is refused by name, with the file and a way out."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chiasm.data.errors import ChiasmError, InputError, SeveralErrors
from chiasm.data.patients import Recording, Session
from chiasm.pipelines.engine.stage import Context
from chiasm.pipelines.stages.read_channels import ReadChannels, is_mask_of

TWO = {"T1w": {}, "T2w": {}}


@pytest.fixture
def values() -> np.ndarray:
    return np.random.default_rng(0).normal(100, 20, (9, 8, 7)).astype(np.float32)


def refused(stage: ReadChannels, session: Session, context: Context) -> ChiasmError:
    with pytest.raises(ChiasmError) as caught:
        stage.run(session, context)
    return caught.value


def test_channels_come_in_the_order_of_the_recipe_with_their_hashes(
    save: Any, recipe_of: Any, session_of: Any, context: Context, values: np.ndarray
) -> None:
    first, second = save(values), save(values + 1, "t2.nii.gz")
    case = ReadChannels(recipe_of(channels=TWO)).run(session_of(T2w=second, T1w=first), context)
    assert list(case.channels) == ["T1w", "T2w"]
    np.testing.assert_array_equal(case.channels["T2w"].values, values + 1)
    expected = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (first, second)}
    assert context.notes["inputs"] == expected == context.notes["sources"]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_are_counted(
    bad: float, save: Any, recipe_of: Any, session_of: Any, context: Context, values: np.ndarray
) -> None:
    values[1, 2, 3] = values[4, 4, 4] = bad
    error = refused(ReadChannels(recipe_of()), session_of(T1w=save(values)), context)
    assert (error.code, error.file) == ("CHI-IN-090", "t1.nii.gz")
    assert "2 of 504" in error.message


def test_a_constant_volume_is_refused(save: Any, recipe_of: Any, session_of: Any, context: Context) -> None:
    error = refused(ReadChannels(recipe_of()), session_of(T1w=save(np.full((5, 5, 5), 3.0))), context)
    assert (error.code, error.file) == ("CHI-IN-091", "t1.nii.gz")


@pytest.mark.parametrize("how", ["shape", "place"])
def test_channels_on_two_grids_are_refused_and_prepare_is_proposed(
    how: str, save: Any, recipe_of: Any, session_of: Any, context: Context, values: np.ndarray
) -> None:
    affine = np.eye(4)
    affine[0, 3] = 0.5 if how == "place" else 0.0
    other = save(values if how == "place" else values[:-1], "t2.nii.gz", affine)
    session = session_of(T1w=save(values), T2w=other)
    error = refused(ReadChannels(recipe_of(channels=TWO)), session, context)
    assert (error.code, error.file) == ("CHI-IN-092", "t2.nii.gz")
    assert "--prepare" in error.remedy
    case = ReadChannels(recipe_of(channels=TWO), prepare=True).run(session, context)
    assert len(case.channels) == 2


def test_missing_channels_and_bad_files_are_listed_at_once(
    save: Any, recipe_of: Any, session_of: Any, context: Context, values: np.ndarray
) -> None:
    values[0, 0, 0] = np.nan
    recipe = recipe_of(channels={"T1w": {}, "T2w": {}, "flair": {}, "extra": {"optional": True}})
    error = refused(ReadChannels(recipe), session_of(T1w=save(values)), context)
    assert isinstance(error, SeveralErrors)
    assert [one.code for one in error.errors] == ["CHI-IN-093", "CHI-IN-093", "CHI-IN-090"]


def test_what_discovery_found_wrong_comes_first(recipe_of: Any, context: Context) -> None:
    problem = InputError("CHI-IN-060", "two T1w files and no rule to choose.")
    error = refused(ReadChannels(recipe_of()), Session(patient="01", problems=(problem,)), context)
    assert error is problem


def test_two_dimensional_and_unchosen_4d_files_are_coded_errors(
    save: Any, recipe_of: Any, session_of: Any, context: Context, values: np.ndarray
) -> None:
    for name, array in (("flat.nii.gz", values[:, :, 0]), ("four.nii.gz", np.stack([values, values], axis=-1))):
        error = refused(ReadChannels(recipe_of()), session_of(T1w=save(array, name)), context)
        assert error.code.startswith("CHI-IN-0")
        assert error.file == name
        assert error.remedy


def test_a_volume_of_a_4d_file_is_a_channel(save: Any, recipe_of: Any, context: Context, values: np.ndarray) -> None:
    path = save(np.stack([values, values * 2], axis=-1))
    recordings = tuple(
        Recording(channel=name, kind="nifti", files=(path,), relative=path.name, volume_index=index)
        for index, name in enumerate(("T1w", "T2w"))
    )
    case = ReadChannels(recipe_of(channels=TWO)).run(Session(patient="01", recordings=recordings), context)
    np.testing.assert_allclose(case.channels["T2w"].values, values * 2)


def test_a_truncated_file_is_named(
    save: Any, recipe_of: Any, session_of: Any, context: Context, values: np.ndarray
) -> None:
    path = save(values)
    path.write_bytes(path.read_bytes()[:-200])
    error = refused(ReadChannels(recipe_of()), session_of(T1w=path), context)
    assert (error.code, error.file) == ("CHI-IN-006", "t1.nii.gz")


def test_a_mask_must_lie_on_the_grid_and_hold_something(
    save: Any, recipe_of: Any, session_of: Any, context: Context, values: np.ndarray
) -> None:
    path, stage = save(values), ReadChannels(recipe_of())
    off = refused(stage, session_of(T1w=path, mask=save(np.ones((9, 8, 6)), "m.nii.gz")), context)
    assert (off.code, off.file) == ("CHI-IN-094", "m.nii.gz")
    empty = refused(stage, session_of(T1w=path, mask=save(np.zeros(values.shape), "e.nii.gz")), context)
    assert (empty.code, empty.file) == ("CHI-IN-095", "e.nii.gz")


def test_a_mask_of_the_mask_folder_replaces_the_recording(
    save: Any, recipe_of: Any, session_of: Any, context: Context, values: np.ndarray
) -> None:
    mask = np.zeros(values.shape, np.uint8)
    mask[2:5, 2:5, 2:5] = 1
    own = save(np.ones(values.shape), "own.nii.gz")
    save(mask, "sub-01_desc-brain_mask.nii.gz")
    folder = save(mask + 1, "sub-011_mask.nii.gz").parent
    case = ReadChannels(recipe_of(), mask_folder=str(folder)).run(session_of(T1w=save(values), mask=own), context)
    np.testing.assert_array_equal(case.mask, mask > 0)
    assert case.mask_source == "input"


def test_the_mask_of_another_patient_is_never_taken() -> None:
    assert is_mask_of("sub-1.nii.gz", "sub-1")
    assert is_mask_of("sub-1_mask.nii", "sub-1")
    assert not is_mask_of("sub-10_mask.nii.gz", "sub-1")
    assert not is_mask_of("sub-1_mask.txt", "sub-1")
    assert not is_mask_of("sub-2.nii.gz", "sub-1")


def test_a_recipe_that_crops_to_the_foreground_wants_zeros_around_the_brain(
    save: Any, recipe_of: Any, session_of: Any, context: Context, values: np.ndarray
) -> None:
    stage = ReadChannels(recipe_of(space={"crop": "foreground"}))
    error = refused(stage, session_of(T1w=save(values)), context)
    assert error.code == "CHI-IN-096"
    assert "--prepare" in error.remedy
    values[:4] = 0
    assert stage.run(session_of(T1w=save(values)), context).channels


def test_no_message_tells_what_a_header_says(
    save: Callable[..., Path], recipe_of: Any, session_of: Any, context: Context, values: np.ndarray
) -> None:
    import nibabel as nib

    values[0, 0, 0] = np.nan
    path = save(values)
    image = nib.load(path)
    image.header["descrip"] = b"CANARY Jane Doe"
    nib.save(image, path)
    error = refused(ReadChannels(recipe_of()), session_of(T1w=path), context)
    assert "CANARY" not in str(error)
