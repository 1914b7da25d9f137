from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from chiasm.pipelines.reports.figures import (
    Strip,
    display_window,
    foreground_box,
    label_box,
    overview,
    slice_strips,
    to_grey,
)

TABLE = {1: ("lesion", (255, 0, 0)), 2: ("rest", (0, 255, 0))}
SHAPE = (40, 48, 36)


def grey(strip: Strip) -> np.ndarray:
    return np.array(Image.open(io.BytesIO(strip.picture)))


def colours(strip: Strip) -> np.ndarray:
    assert strip.overlay is not None
    return np.array(Image.open(io.BytesIO(strip.overlay)).convert("RGBA"))


def by_plane(strips: list[Strip]) -> dict[str, Strip]:
    return {strip.plane: strip for strip in strips}


def block(labels: np.ndarray, at: tuple[slice, slice, slice], value: int = 1) -> np.ndarray:
    labels[at] = value
    return labels


@pytest.fixture
def volume() -> np.ndarray:
    """A grey brick with an empty border, so that no crop is needed."""
    values = np.zeros(SHAPE, np.float32)
    values[2:-2, 2:-2, 2:-2] = 50.0
    return values


def centre_of_first_tile(strip: Strip, n: int) -> tuple[float, float]:
    """Return where the red pixels of the first tile lie, as parts of its width and height."""
    mask = colours(strip)[..., 3] > 0
    tile = mask[:, : strip.size[0] // n]
    rows, columns = np.nonzero(tile)
    return float(columns.mean() / tile.shape[1]), float(rows.mean() / tile.shape[0])


@pytest.mark.parametrize(("convention", "right_is_left"), [("radiological", True), ("neurological", False)])
def test_the_patients_right_is_drawn_where_the_convention_says(
    volume: np.ndarray, convention: str, right_is_left: bool
) -> None:
    # High x is the patient's right, high y the front, high z the head.
    labels = block(np.zeros(SHAPE, np.uint8), (slice(30, 34), slice(38, 42), slice(26, 30)))
    strips = by_plane(slice_strips(volume, labels, (1, 1, 1), TABLE, convention=convention, n_slices=1))  # type: ignore[arg-type]
    for plane in ("axial", "coronal"):
        x, y = centre_of_first_tile(strips[plane], 1)
        assert (x < 0.35) is right_is_left
        assert (x > 0.65) is not right_is_left
        assert y < 0.35  # front, and head, are up


def test_sagittal_slices_face_left_in_both_conventions(volume: np.ndarray) -> None:
    labels = block(np.zeros(SHAPE, np.uint8), (slice(18, 22), slice(40, 44), slice(26, 30)))
    for convention in ("radiological", "neurological"):
        strips = by_plane(slice_strips(volume, labels, (1, 1, 1), TABLE, convention=convention, n_slices=1))
        x, y = centre_of_first_tile(strips["sagittal"], 1)
        assert x < 0.3
        assert y < 0.35


def test_the_grey_values_and_the_labels_lie_at_the_same_place(volume: np.ndarray) -> None:
    at = (slice(8, 14), slice(30, 38), slice(20, 26))
    values = volume.copy()
    values[at] = 100.0
    strips = slice_strips(values, block(np.zeros(SHAPE, np.uint8), at), (1, 1, 1), TABLE, n_slices=1)
    for strip in strips:
        labelled = colours(strip)[..., 3] > 0
        bright = grey(strip) > 200
        inner = labelled[3:-3, 3:-3] & bright[3:-3, 3:-3]
        assert inner.sum() > 0.8 * labelled.sum()


def test_slices_follow_the_labels_and_are_counted_from_one(volume: np.ndarray) -> None:
    labels = block(np.zeros(SHAPE, np.uint8), (slice(10, 20), slice(10, 20), slice(12, 22)))
    strips = by_plane(slice_strips(volume, labels, (1, 1, 1), TABLE, n_slices=5))
    assert strips["axial"].slices == (14, 16, 18, 20, 22)
    assert "numbers 14, 16, 18, 20, 22 of 36" in strips["axial"].alt


def test_a_lesion_is_shown_within_the_whole_head_and_a_brain_from_near(volume: np.ndarray) -> None:
    lesion = block(np.zeros(SHAPE, np.uint8), (slice(18, 22), slice(20, 24), slice(16, 20)))
    brain = block(np.zeros(SHAPE, np.uint8), (slice(6, 34), slice(8, 40), slice(8, 30)))
    shares = []
    for labels in (lesion, brain):
        strip = slice_strips(volume, labels, (4, 4, 4), TABLE, n_slices=1)[0]
        shares.append(float((colours(strip)[..., 3] > 0).mean()))
    assert shares[0] < 0.05
    assert shares[1] > 0.4


def test_pixels_are_square_millimetres_whatever_the_spacing() -> None:
    values = np.ones((20, 20, 20), np.float32)
    values[0] = 0.0
    wide = by_plane(slice_strips(values, None, (1.0, 2.0, 4.0), {}, n_slices=1, tile_px=200))
    assert wide["axial"].size[1] / wide["axial"].size[0] == pytest.approx(2.0, rel=0.15)
    assert wide["coronal"].size[1] / wide["coronal"].size[0] == pytest.approx(4.0, rel=0.15)
    assert wide["sagittal"].size[1] / wide["sagittal"].size[0] == pytest.approx(2.0, rel=0.1)
    assert max(wide["coronal"].size) == 200


def test_each_label_has_its_own_colour_and_an_outline_stronger_than_its_filling(volume: np.ndarray) -> None:
    labels = block(np.zeros(SHAPE, np.uint8), (slice(5, 20), slice(8, 40), slice(8, 30)))
    labels = block(labels, (slice(20, 35), slice(8, 40), slice(8, 30)), 2)
    pixels = colours(slice_strips(volume, labels, (1, 1, 1), TABLE, n_slices=1)[0]).reshape(-1, 4)
    seen = {tuple(int(v) for v in pixel) for pixel in pixels if pixel[3]}
    assert {pixel[:3] for pixel in seen} == {(255, 0, 0), (0, 255, 0)}
    for rgb in ((255, 0, 0), (0, 255, 0)):
        alphas = sorted(pixel[3] for pixel in seen if pixel[:3] == rgb)
        assert len(alphas) == 2
        assert alphas[1] > 2 * alphas[0]


def test_a_label_that_the_table_does_not_name_is_not_drawn(volume: np.ndarray) -> None:
    labels = block(np.zeros(SHAPE, np.uint8), (slice(5, 35), slice(8, 40), slice(8, 30)), 9)
    assert slice_strips(volume, labels, (1, 1, 1), TABLE)[0].overlay is None


def test_equal_arrays_give_equal_bytes(head: tuple[np.ndarray, np.ndarray]) -> None:
    values, labels = head
    first, again = (slice_strips(values.copy(), labels.copy(), (2, 2, 2), TABLE) for _ in range(2))
    assert first == again


def test_without_labels_the_head_is_shown_and_said_to_be_bare(volume: np.ndarray) -> None:
    strips = slice_strips(volume, None, (1, 1, 1), {})
    assert [strip.overlay for strip in strips] == [None, None, None]
    assert "No label is drawn" in strips[0].alt


def test_an_empty_label_map_is_drawn_as_the_bare_head(volume: np.ndarray) -> None:
    strips = slice_strips(volume, np.zeros(SHAPE, np.uint8), (1, 1, 1), TABLE)
    assert [strip.overlay for strip in strips] == [None, None, None]
    assert all(grey(strip).std() > 5 for strip in strips)


@pytest.mark.parametrize("value", [0.0, 7.0, np.nan])
def test_a_volume_of_one_value_does_not_fail(value: float) -> None:
    strips = slice_strips(np.full((8, 8, 8), value, np.float32), None, (1, 1, 1), {}, n_slices=3)
    assert len(strips) == 3


def test_a_single_slice_can_be_drawn() -> None:
    values = np.linspace(0, 1, 400, dtype=np.float32).reshape(20, 20, 1)
    strips = by_plane(slice_strips(values, None, (1, 1, 5), {}))
    assert strips["axial"].slices == (1,)


def test_shapes_that_differ_are_refused_with_both_named() -> None:
    with pytest.raises(ValueError, match=r"\(4, 4, 4\) and \(4, 4, 5\)"):
        slice_strips(np.zeros((4, 4, 4)), np.zeros((4, 4, 5), np.uint8), (1, 1, 1), {})


def test_grey_runs_from_black_to_white_between_the_ends_of_the_window() -> None:
    scaled = to_grey(np.array([-5.0, 0.0, 5.0, 10.0, 99.0, np.nan, np.inf]), (0.0, 10.0))
    assert scaled.tolist() == [0, 0, 127, 255, 255, 0, 255]


def test_a_few_wild_voxels_do_not_darken_the_picture(volume: np.ndarray) -> None:
    values = volume.copy()
    values[4, 4, 4] = 1e9
    low, high = display_window(values)
    assert low == pytest.approx(0.0)
    assert high == pytest.approx(50.0)


def test_the_box_holds_head_and_labels_and_ignores_single_bright_voxels() -> None:
    values = np.zeros((50, 50, 50), np.float32)
    values[10:30, 12:30, 14:30] = 100.0
    values[48, 48, 48] = 100.0
    labels = block(np.zeros((50, 50, 50), np.uint8), (slice(28, 40), slice(20, 22), slice(20, 22)))
    assert foreground_box(values, labels, (0.0, 100.0), margin=0) == ((10, 40), (12, 30), (14, 30))
    assert label_box(labels) == ((28, 40), (20, 22), (20, 22))
    assert label_box(np.zeros((3, 3, 3), np.uint8)) is None


def test_the_overview_lays_the_labels_over_the_slices(head: tuple[np.ndarray, np.ndarray]) -> None:
    values, labels = head
    strips = slice_strips(values, labels, (2, 2, 2), TABLE)
    picture = np.array(Image.open(io.BytesIO(overview(strips))))
    assert picture.shape[2] == 3
    assert picture.shape[0] >= sum(strip.size[1] for strip in strips)
    red = (picture[..., 0] > 180) & (picture[..., 1] < 90)
    assert red.mean() > 0.005
