"""The window grid and the blending equal MONAI's, voxel by voxel."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from chiasm.heads.segmenter import Blend, WindowGrid, importance, sliding_windows


def shift_network(batch: torch.Tensor) -> torch.Tensor:
    """A 'network' that is not local to a voxel: what it says depends on where the window lies."""
    rolled = torch.roll(batch, shifts=(3, -2, 1), dims=(2, 3, 4))
    return torch.cat([batch[:, :1] - rolled[:, :1], batch[:, :1].cumsum(dim=2), rolled.sum(dim=1, keepdim=True)], dim=1)


@pytest.mark.parametrize("blend", ["gaussian", "constant"])
@pytest.mark.parametrize(
    ("shape", "size", "overlap"),
    [
        ((30, 25, 17), (16, 16, 16), 0.5),
        ((20, 10, 33), (16, 16, 16), 0.6),
        ((9, 8, 7), (16, 12, 10), 0.25),
        ((16, 16, 16), (16, 16, 16), 0.5),
    ],
)
def test_blended_logits_equal_monai(blend: str, shape: tuple[int, ...], size: tuple[int, ...], overlap: float) -> None:
    monai_inferers = pytest.importorskip("monai.inferers")
    image = torch.randn((2, *shape), generator=torch.Generator().manual_seed(1))
    expected = monai_inferers.sliding_window_inference(
        image[None], size, 2, shift_network, overlap=overlap, mode=blend
    )[0]
    got = sliding_windows(image, shift_network, size=size, overlap=overlap, blend=blend, batch_size=2)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


@given(n=st.integers(1, 70), size=st.integers(1, 40), overlap=st.floats(0, 0.99))
@settings(max_examples=60, deadline=None)
def test_every_voxel_is_covered_and_no_window_leaves_the_volume(n: int, size: int, overlap: float) -> None:
    grid = WindowGrid((n, 1, 1), (size, 1, 1), overlap)
    covered = set(itertools.chain.from_iterable(range(a, a + size) for a, _, _ in grid.starts))
    assert covered == set(range(max(n, size)))
    assert len(set(grid.starts)) == len(grid)


def test_padding_is_undone_exactly() -> None:
    grid = WindowGrid((3, 20, 6), (8, 8, 9), 0.5)
    image = torch.arange(360.0).reshape(1, 3, 20, 6)
    padded = grid.pad(image)
    assert padded.shape[1:] == grid.padded == (8, 20, 9)
    assert padded.sum() == image.sum()
    torch.testing.assert_close(grid.unpad(padded), image, rtol=0, atol=0)


def test_a_constant_answer_stays_constant_under_any_weights() -> None:
    image = torch.zeros(1, 21, 18, 30)
    got = sliding_windows(image, lambda batch: torch.full_like(batch, 3.5), size=(16, 16, 16))
    torch.testing.assert_close(got, torch.full_like(image, 3.5))


def test_without_the_division_the_largest_channel_is_the_same() -> None:
    grid, weights = WindowGrid((21, 18, 20), (8, 8, 8), 0.5), importance((8, 8, 8), "gaussian")
    sums = [Blend(grid, weights, "cpu") for _ in range(2)]
    generator = torch.Generator().manual_seed(0)
    for index in range(len(grid)):
        logits = torch.randn((3, 8, 8, 8), generator=generator)
        for one in sums:
            one.add(index, logits)
    plain, divided = sums[0].result(normalised=False), sums[1].result(normalised=True)
    assert torch.equal(plain.argmax(0), divided.argmax(0))
    assert torch.equal(plain > 0, divided > 0)


def test_weights_are_largest_in_the_middle_and_never_zero() -> None:
    weights = importance((9, 9, 9), "gaussian")
    assert weights.argmax() == 9 * 9 * 9 // 2
    assert weights.min() >= 1e-3
