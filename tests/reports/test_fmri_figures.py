"""Figures of decoded images: the right picture in the right place, and a brain outline only where it belongs."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from chiasm.pipelines.reports.fmri_figures import (
    FRAME,
    GAP,
    MARGIN,
    TILE,
    VoxelMap,
    ceiling_figure,
    image_grid,
    retrieval_figure,
    spread_figure,
    voxel_figure,
)


def plain(*colours: tuple[int, int, int]) -> np.ndarray:
    """Return one picture of a colour each."""
    return np.stack([np.full((8, 8, 3), colour, np.uint8) for colour in colours])


def voxels(*, shift: float = 0.0, space: str = "") -> VoxelMap:
    inside = np.zeros((20, 24, 18), bool)
    inside[4:16, 2:8, 5:12] = True
    affine = np.diag([4.0, 4.0, 4.0, 1.0])
    affine[:3, 3] = [-40.0, -100.0 + shift, -40.0]
    values = np.full(int(inside.sum()), 0.001, np.float32)
    values[0] = 0.01
    return VoxelMap(inside=inside, affine=affine, values=values, space=space)


def pixels_of(png: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(png)) as image:
        return np.asarray(image.convert("RGB"))


def test_a_grid_holds_rows_and_columns_in_their_order() -> None:
    red, green, blue, black = (200, 0, 0), (0, 200, 0), (0, 0, 200), (0, 0, 0)
    columns = {"seen": plain(red, green, blue), "model": plain(black, red, green)}
    grid = image_grid(columns, per_panel=2)
    pixels = pixels_of(grid.png)
    assert grid.size == (pixels.shape[1], pixels.shape[0])
    bottom = pixels.shape[0] - MARGIN - TILE // 2
    xs = [MARGIN + TILE // 2 + i * (TILE + GAP) for i in range(2)]
    xs += [x + 2 * TILE + GAP + 3 * MARGIN for x in xs]  # the second panel
    top = bottom - TILE - GAP
    assert [tuple(pixels[top, x]) for x in xs] == [red, black, blue, green]
    assert [tuple(pixels[bottom, x]) for x in xs] == [green, red, (255, 255, 255), (255, 255, 255)]
    assert "columns from left to right: seen, model" in grid.alt
    assert image_grid(columns, per_panel=2).png == grid.png


def test_small_pictures_are_enlarged_without_smoothing() -> None:
    board = np.zeros((1, 2, 2, 3), np.uint8)
    board[0, 0, 0] = board[0, 1, 1] = 250
    pixels = pixels_of(image_grid({"seen": board}).png)
    square = pixels[-MARGIN - TILE : -MARGIN, MARGIN : MARGIN + TILE, 0]
    assert set(np.unique(square)) == {0, 250}
    assert (square[: TILE // 2, : TILE // 2] == 250).all()
    assert (square[: TILE // 2, TILE // 2 :] == 0).all()


def test_a_frame_marks_what_was_found_and_nothing_else() -> None:
    columns = {"seen": plain((9, 9, 9), (9, 9, 9)), "retrieved": plain((9, 9, 9), (9, 9, 9))}
    marked = {"retrieved": np.array([False, True])}
    grid = image_grid(columns, marked=marked)
    framed = np.argwhere((pixels_of(grid.png) == FRAME).all(axis=2))
    assert framed[:, 1].min() == MARGIN + TILE + GAP - 3
    assert framed[:, 0].min() > grid.size[1] - MARGIN - TILE - GAP
    assert "1 pictures have a frame" in grid.alt


@pytest.mark.parametrize(
    "columns", [{"a": plain((0, 0, 0)), "b": plain((0, 0, 0), (1, 1, 1))}, {"a": np.zeros((0, 8, 8, 3), np.uint8)}]
)
def test_a_grid_of_nothing_or_of_uneven_columns_is_refused(columns: dict[str, np.ndarray]) -> None:
    with pytest.raises(ValueError, match="as many pictures"):
        image_grid(columns)


def test_retrieval_counts_ranks_and_leaves_out_what_is_no_candidate() -> None:
    figure = retrieval_figure(np.array([1, 1, 4, 0, 10]), 10)
    assert "top-1 0.50 (guessing 0.10), top-5 0.75 (guessing 0.50), top-10 1.00 (guessing 1.00)" in figure.alt


def test_spread_and_agreement_say_how_they_go_together() -> None:
    spread, agreement = np.array([0.1, 0.2, 0.3]), np.array([0.9, 0.8, 0.7])
    assert "mean spread 0.200, correlation -1.00" in spread_figure(spread, agreement, np.array([1, 2, 3])).alt
    assert "correlation" not in spread_figure(spread, np.full(3, 0.5), None).alt


def test_the_noise_ceiling_has_its_median() -> None:
    assert "over 5 voxels: median 20.0 %, quartiles 10.0 and 30.0 %" in ceiling_figure(np.arange(0.0, 50.0, 10.0)).alt


def test_an_outline_of_the_template_needs_its_space_and_voxels_within_it() -> None:
    assert voxels(space="MNI152NLin2009cAsym").in_template
    assert not voxels(space="MNI152NLin2009cAsym", shift=-60.0).in_template
    assert not voxels(space="fsnative").in_template
    assert not voxels().in_template


def test_a_map_in_own_space_is_slices_with_the_peak_in_mm() -> None:
    figure = voxel_figure(voxels())
    assert "subject's own space" in figure.alt
    # The first voxel inside: index (4, 2, 5).
    assert "largest at -24, -92, -20 mm" in figure.alt
    pixels = pixels_of(figure.png).astype(int)
    assert (pixels.max(axis=2) - pixels.min(axis=2) > 60).any()
    assert voxel_figure(voxels()).png == figure.png


def test_a_map_in_template_space_is_a_glass_brain() -> None:
    assert "glass brain" in voxel_figure(voxels(space="MNI152Lin")).alt


def test_a_map_of_other_voxels_is_refused() -> None:
    with pytest.raises(ValueError, match="values for"):
        VoxelMap(inside=np.ones((2, 2, 2), bool), affine=np.eye(4), values=np.zeros(7, np.float32))
