"""Orientation, crop and resampling: nibabel's choice, exact inverses, known answers, places in the world kept."""

from __future__ import annotations

import itertools
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from nibabel.orientations import aff2axcodes, io_orientation
from numpy.testing import assert_allclose, assert_array_equal

from chiasm.data import slabs
from chiasm.data.geometry import Canonical, Crop, Resampling, interpolation_matrix, slab_argmax, slab_regions
from chiasm.data.volumes import Grid

SHAPE = (5, 6, 7)
ORIENTATIONS = [
    (order, signs) for order in itertools.permutations(range(3)) for signs in itertools.product((1, -1), repeat=3)
]


def oriented(order: tuple[int, ...], signs: tuple[int, ...]) -> np.ndarray[Any, Any]:
    affine = np.zeros((4, 4))
    for axis in range(3):
        affine[order[axis], axis] = signs[axis] * (0.8, 1.1, 2.5)[axis]
    affine[:, 3] = (-90, 30, 12, 1)
    return affine


def oblique(seed: int) -> np.ndarray[Any, Any]:
    rng = np.random.default_rng(seed)
    affine = np.eye(4)
    affine[:3, :3] = np.linalg.qr(rng.normal(size=(3, 3)))[0] * rng.uniform(0.5, 3, 3)
    if seed % 2:
        affine[:3, :3] += rng.normal(0, 0.1, (3, 3))  # some shear
    affine[:3, 3] = rng.uniform(-100, 100, 3)
    return affine


AFFINES = [oriented(*o) for o in ORIENTATIONS] + [oblique(seed) for seed in range(40)]


def places(grid: Grid) -> np.ndarray[Any, Any]:
    """World coordinates of every voxel, shape (X, Y, Z, 3)."""
    index = np.stack(np.meshgrid(*map(np.arange, grid.shape), indexing="ij"), axis=-1)
    return index @ grid.affine[:3, :3].T + grid.affine[:3, 3]


@pytest.mark.parametrize("affine", AFFINES)
def test_orientation_is_nibabels_and_every_voxel_keeps_its_place(affine: np.ndarray[Any, Any]) -> None:
    grid, values = Grid(SHAPE, affine), np.random.default_rng(0).normal(size=SHAPE)
    turn = Canonical.from_affine(affine)
    turned = turn.forward(values)
    reference = nib.as_closest_canonical(nib.Nifti1Image(values, affine))
    assert_array_equal(turned, np.asarray(reference.dataobj))
    assert_allclose(turn.grid(grid).affine, reference.affine, atol=1e-4)
    assert turn.grid(grid).shape == turned.shape
    moved = np.stack([turn.forward(part) for part in np.moveaxis(places(grid), -1, 0)], axis=-1)
    assert_allclose(places(turn.grid(grid)), moved, atol=1e-9)
    assert_array_equal(io_orientation(turn.grid(grid).affine), [[0, 1], [1, 1], [2, 1]])


@pytest.mark.parametrize("affine", AFFINES[:48])
def test_there_are_48_turns_and_each_is_undone_exactly_without_a_copy(affine: np.ndarray[Any, Any]) -> None:
    values = np.arange(2 * 210).reshape(2, *SHAPE)
    turn = Canonical.from_affine(affine)
    back = turn.inverse(turn.forward(values))
    assert_array_equal(back, values)
    assert back.shape == values.shape
    assert np.shares_memory(back, values)
    assert aff2axcodes(turn.grid(Grid(SHAPE, affine)).affine) == ("R", "A", "S")
    assert len({Canonical.from_affine(a) for a in AFFINES[:48]}) == 48


# crop


def test_box_holds_the_mask_and_its_margin_and_stays_inside() -> None:
    mask = np.zeros((20, 30, 40), np.uint8)
    mask[3:7, 10:12, 35:38] = 2
    crop = Crop.around(mask, Grid(mask.shape, np.diag([1.0, 2, 3, 1])), margin_mm=4)
    assert crop.start == (0, 8, 33)
    assert crop.stop == (11, 14, 40)
    assert crop.size == (11, 6, 7)
    assert crop.cut(mask).sum() == mask.sum()
    tight = Crop.around(mask > 0, Grid(mask.shape, np.eye(4)))
    assert (tight.start, tight.stop) == ((3, 10, 35), (7, 12, 38))


def test_empty_mask_crops_nothing() -> None:
    assert Crop.around(np.zeros(SHAPE), Grid(SHAPE, np.eye(4)), margin_mm=5) == Crop.whole(SHAPE)


def test_paste_undoes_cut_and_the_grid_moves_with_the_box() -> None:
    values = np.random.default_rng(0).normal(size=(2, *SHAPE))
    crop = Crop((1, 2, 3), (4, 6, 5), SHAPE)
    pasted = crop.paste(crop.cut(values), fill=-7)
    inside = crop.paste(np.ones(crop.size, bool))
    assert_array_equal(pasted[:, inside], values[:, inside])
    assert (pasted[:, ~inside] == -7).all()
    assert np.shares_memory(crop.cut(values), values)
    grid = Grid(SHAPE, oblique(3))
    assert_allclose(places(crop.grid(grid)), places(grid)[crop.slices], atol=1e-9)


# resampling


@pytest.mark.parametrize(
    ("shape", "spacing", "wanted", "expected"),
    [
        ((240, 240, 155), (1, 1, 1), 1.0, (240, 240, 155)),
        ((181, 217, 181), (1, 1, 1), 2.0, (91, 109, 91)),
        ((256, 256, 180), (0.9375, 0.9375, 1), 1.0, (240, 240, 180)),
        ((320, 320, 24), (0.7, 0.7, 6), (1, 1, 1), (224, 224, 144)),
        ((3, 3, 3), (0.1, 0.1, 0.1), 20.0, (1, 1, 1)),
    ],
)
def test_target_grid_covers_the_same_box(
    shape: tuple[int, int, int], spacing: tuple[float, ...], wanted: float, expected: tuple[int, int, int]
) -> None:
    turn = oblique(0)[:3, :3]
    affine = np.eye(4)
    affine[:3, :3] = turn / np.linalg.norm(turn, axis=0) * spacing
    affine[:3, 3] = (10, -20, 30)
    plan = Resampling.to_spacing(Grid(shape, affine), wanted)
    assert plan.target.shape == expected
    for corner in itertools.product((0, 1), repeat=3):  # the outer faces of the voxels
        before = affine[:3, :3] @ (np.array(corner) * shape - 0.5) + affine[:3, 3]
        after = plan.target.affine[:3, :3] @ (np.array(corner) * expected - 0.5) + plan.target.affine[:3, 3]
        assert_allclose(after, before, atol=1e-9)
    if min(expected) > 1:
        assert_allclose(plan.target.spacing_mm, np.broadcast_to(wanted, 3), rtol=0.501 / min(expected))


@pytest.mark.parametrize("wanted", [(1.0, 1.0, 1.0), (2.0, 2.0, 2.0), (0.7, 3.0, 1.3), (1.5, 1.0, 4.0)])
def test_a_linear_ramp_in_the_world_stays_that_ramp(wanted: tuple[float, float, float]) -> None:
    source = Grid((40, 44, 36), oblique(2) * np.array([1.2, 1, 1, 1]))
    plan = Resampling.to_spacing(source, wanted)
    slope = np.array([0.3, -0.7, 0.5])
    out = plan.to_target(places(source) @ slope)
    inner = (slice(8, -8),) * 3 if min(plan.target.shape) > 18 else (slice(4, -4),) * 3
    assert_allclose(out[inner], (places(plan.target) @ slope)[inner], atol=2e-4)
    back = plan.to_source(places(plan.target) @ slope)
    assert_allclose(back[12:-12, 12:-12, 12:-12], (places(source) @ slope)[12:-12, 12:-12, 12:-12], atol=2e-4)


def test_up_and_down_of_logits_is_torchs_trilinear_interpolation() -> None:
    values = np.random.default_rng(0).normal(size=(3, 13, 10, 9)).astype(np.float32)
    plan = Resampling(Grid((21, 10, 5), np.eye(4)), Grid((13, 10, 9), np.eye(4)))
    reference = F.interpolate(torch.from_numpy(values)[None], size=(21, 10, 5), mode="trilinear")[0]
    assert_allclose(plan.to_source(values), reference, atol=1e-5)
    assert_allclose(plan.to_source(values[0]), reference[0], atol=1e-5)


def test_smoothing_before_coarsening_keeps_the_mean_and_takes_away_what_would_alias() -> None:
    source = Grid((64, 64, 64), np.eye(4))
    plan = Resampling.to_spacing(source, 4.0)
    stripes = np.broadcast_to((np.arange(64) % 2)[:, None, None], source.shape).astype(np.float32)
    out = plan.to_target(stripes)
    assert_allclose(out[2:-2], 0.5, atol=1e-3)
    assert_allclose(plan.to_target(np.full(source.shape, 3.5)), 3.5, rtol=1e-5)
    # Cardoso et al. 2015: width at half maximum sqrt(4**2 - 1) source voxels.
    row = interpolation_matrix(256, 64, smooth=True)[32].astype(float)
    centre = (row * np.arange(256)).sum()
    assert centre == pytest.approx(32.5 * 4 - 0.5, abs=1e-5)
    assert (row * (np.arange(256) - centre) ** 2).sum() == pytest.approx((4**2 - 1) / (8 * np.log(2)) + 0.25, rel=0.01)


@pytest.mark.parametrize("wanted", [None, 1.0, 1.004])
def test_equal_spacing_changes_nothing_and_gives_a_copy(wanted: float | None) -> None:
    values = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
    plan = Resampling.to_spacing(Grid(SHAPE, np.eye(4)), wanted)
    assert plan.is_identity
    out = plan.to_target(values)
    assert_array_equal(out, values)
    assert not np.shares_memory(out, values)
    assert_array_equal(plan.target.affine, np.eye(4))


def test_wrong_shape_is_refused() -> None:
    plan = Resampling.to_spacing(Grid(SHAPE, np.eye(4)), 2.0)
    with pytest.raises(ValueError, match="shape"):
        plan.to_target(np.zeros((5, 6, 8)))
    with pytest.raises(ValueError, match="neither"):
        slab_argmax(torch.zeros(2, *SHAPE), plan)
    with pytest.raises(ValueError, match="channels"):
        slab_argmax(torch.zeros(257, 2, 2, 2))
    with pytest.raises(ValueError, match="below"):
        slab_regions(torch.zeros(2, *SHAPE), [(2, 1)])
    with pytest.raises(ValueError, match=r"\(K, x, y, z\)"):
        slab_argmax(torch.zeros(SHAPE))


# slabs


def smooth_logits(n_channels: int, shape: tuple[int, int, int], seed: int = 0) -> torch.Tensor:
    noise = torch.randn((1, n_channels, *shape), generator=torch.Generator().manual_seed(seed))
    return F.avg_pool3d(F.pad(noise, (1, 1, 1, 1, 1, 1)), 3, 1)[0]


def between(source: tuple[int, int, int], target: tuple[int, int, int]) -> Resampling:
    return Resampling(Grid(source, np.eye(4)), Grid(target, np.eye(4)))


@pytest.mark.parametrize(
    ("target", "source"),
    [
        ((20, 24, 18), (41, 47, 23)),
        ((20, 24, 18), (20, 47, 18)),
        ((20, 24, 18), (33, 24, 18)),
        ((20, 24, 18), (20, 24, 40)),
        ((20, 24, 18), (11, 13, 7)),
        ((20, 24, 18), (60, 12, 18)),
        ((1, 24, 18), (5, 30, 20)),
        ((20, 24, 18), (20, 24, 18)),
    ],
)
@pytest.mark.parametrize("slab_bytes", [1, 20_000, 1 << 30])
def test_slabs_equal_full_interpolation_and_argmax(
    target: tuple[int, int, int], source: tuple[int, int, int], slab_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slabs, "SLAB_BYTES", slab_bytes)
    logits = smooth_logits(9, target)
    kept = logits.clone()
    full = F.interpolate(logits[None], size=source, mode="trilinear")[0]
    got = slab_argmax(logits, between(source, target))
    two = full.topk(2, dim=0).values
    clear = ((two[0] - two[1]) > 1e-6).numpy()  # nearer ones are ties in float32
    assert_array_equal(got[clear], full.argmax(0).numpy()[clear])
    assert clear.mean() > 0.9999
    assert got.dtype == np.uint8
    assert torch.equal(logits, kept), "the logits are the caller's"


def test_agreement_with_full_interpolation_over_a_million_voxels() -> None:
    logits = smooth_logits(14, (50, 60, 40))
    source = (100, 120, 90)
    full = F.interpolate(logits[None], size=source, mode="trilinear")[0].argmax(0).numpy()
    assert (slab_argmax(logits, between(source, (50, 60, 40))) != full).sum() <= 1


@pytest.mark.parametrize("kind", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_native_grid_is_a_plain_argmax_and_the_first_of_equals_wins(kind: torch.dtype) -> None:
    logits = torch.randint(-3, 4, (6, 30, 31, 17), generator=torch.Generator().manual_seed(0)).to(kind)
    assert_array_equal(
        slab_argmax(logits), logits.numpy(force=True).argmax(0) if kind != torch.bfloat16 else logits.float().argmax(0)
    )
    assert not slab_argmax(torch.zeros(5, *SHAPE)).any()
    assert not slab_argmax(torch.zeros(1, *SHAPE)).any()


def test_all_256_channels_have_their_label() -> None:
    logits = torch.eye(256).reshape(256, 4, 8, 8)
    assert_array_equal(slab_argmax(logits).ravel(), np.arange(256))


def test_logits_of_a_crop_give_the_labels_of_the_whole_inside_it_and_zero_outside() -> None:
    target, source = (24, 26, 20), (37, 52, 33)
    logits = smooth_logits(5, target)
    crop = Crop((4, 0, 7), (19, 20, 20), target)
    whole = slab_argmax(logits, between(source, target)) + np.uint8(1)
    logits_in_crop = logits[(slice(None), *crop.slices)]
    marked = torch.cat([torch.full_like(logits_in_crop[:1], -100), logits_in_crop])  # label 0 is only outside
    got = slab_argmax(marked, between(source, target), crop=crop)
    at = [(np.arange(n) + 0.5) * t / n - 0.5 for n, t in zip(source, target, strict=True)]
    covered = np.ix_(*[(p >= a - 0.5) & (p < b - 0.5) for p, a, b in zip(at, crop.start, crop.stop, strict=True)])
    inner = np.ix_(*[(p >= a) & (p <= b - 1) for p, a, b in zip(at, crop.start, crop.stop, strict=True)])
    box = np.zeros(source, bool)
    box[covered] = True
    assert_array_equal(got > 0, box)
    assert (got[inner] == whole[inner]).mean() > 0.9999


def test_crop_on_the_native_grid_is_pasted() -> None:
    logits = smooth_logits(4, (6, 7, 8))
    crop = Crop((2, 3, 1), (8, 10, 9), (12, 11, 10))
    expected = crop.paste(logits.argmax(0).numpy())
    assert_array_equal(slab_argmax(logits, crop=crop), expected)


@pytest.mark.parametrize("source", [(20, 24, 18), (41, 30, 9)])
def test_later_regions_overwrite_earlier_ones(source: tuple[int, int, int]) -> None:
    logits = smooth_logits(3, (20, 24, 18))
    full = F.interpolate(logits[None], size=source, mode="trilinear")[0]
    writes = [(1, 2), (0, 1), (2, 4)]
    for threshold in (0.0, 0.2):
        expected = np.zeros(source, np.uint8)
        for channel, value in writes:
            expected[(full[channel] > threshold).numpy()] = value
        got = slab_regions(logits, writes, between(source, (20, 24, 18)), threshold=threshold)
        assert (got == expected).mean() > 0.9999
    assert not slab_regions(torch.zeros(3, *SHAPE), writes).any(), "a logit of exactly the threshold is outside"
    assert not slab_regions(logits, []).any()


def test_result_does_not_depend_on_the_slab_size(monkeypatch: pytest.MonkeyPatch) -> None:
    logits, plan = smooth_logits(6, (20, 24, 18)), between((40, 37, 29), (20, 24, 18))
    results = []
    for slab_bytes in (1, 9_999, 1 << 30):
        monkeypatch.setattr(slabs, "SLAB_BYTES", slab_bytes)
        results.append(slab_argmax(logits, plan))
    assert (results[0] != results[1]).sum() + (results[0] != results[2]).sum() <= 1


def test_a_channel_first_view_of_any_stride_is_taken() -> None:
    logits = smooth_logits(4, (9, 10, 11))
    last = logits.permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2)
    plan = between((14, 15, 16), (9, 10, 11))
    assert_array_equal(slab_argmax(last, plan), slab_argmax(logits, plan))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_and_cpu_agree() -> None:
    logits, plan = smooth_logits(9, (40, 44, 38)), between((80, 87, 61), (40, 44, 38))
    allowed, torch.backends.cuda.matmul.allow_tf32 = torch.backends.cuda.matmul.allow_tf32, False
    try:
        on_device = slab_argmax(logits.cuda(), plan)
    finally:
        torch.backends.cuda.matmul.allow_tf32 = allowed
    assert (on_device == slab_argmax(logits, plan)).mean() > 0.99999
