"""Windows of several patients in one batch give each patient what it would get alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from chiasm.data.geometry import Canonical, Crop, Resampling
from chiasm.data.patients import Session
from chiasm.data.volumes import Grid, Volume
from chiasm.encoders.unet3d import UNet3d, UNet3dConfig
from chiasm.pipelines.engine.batching import OpenJob, run_jobs
from chiasm.pipelines.engine.plan import Plan
from chiasm.pipelines.engine.stage import Context
from chiasm.pipelines.recipes import WindowsSpec
from chiasm.pipelines.stages.items import Case, Prepared, Space
from chiasm.pipelines.stages.windows import Windows, window_size

SHAPES = [(33, 20, 18), (16, 40, 12), (24, 24, 24)]
SPEC = WindowsSpec(size=(16, 16, 16), overlap=0.5, blend="gaussian")


@pytest.fixture(scope="module")
def network() -> UNet3d:
    torch.manual_seed(3)
    return (
        UNet3d(UNet3dConfig(in_channels=2, out_channels=3, channels=(4, 8), convolutions=(1, 1)))
        .eval()
        .requires_grad_(False)
    )


def prepared(shape: tuple[int, int, int], seed: int) -> Prepared:
    grid = Grid(shape, np.eye(4))
    volume = Volume(np.zeros(shape, np.float32), grid)
    space = Space(
        grid=grid,
        canonical=Canonical.from_affine(grid.affine),
        resampling=Resampling.to_spacing(grid, None),
        crop=Crop.whole(shape),
    )
    image = torch.randn((2, *shape), generator=torch.Generator().manual_seed(seed))
    return Prepared(image=image, case=Case(session=Session(patient="1"), channels={"a": volume}), space=space)


def run_together(items: list[Prepared], stage: Windows, context: Context) -> list[torch.Tensor]:
    waiting = [OpenJob(stage.open(item, context), context, number) for number, item in enumerate(items)][::-1]
    results: dict[int, torch.Tensor] = {}
    run_jobs(
        stage,
        lambda: waiting.pop() if waiting else None,
        lambda job: results.__setitem__(job.token, job.job.finish().values),
    )
    return [results[number] for number in range(len(items))]


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_labels_do_not_depend_on_who_shares_the_batch(batch_size: int, network: UNet3d, context: Context) -> None:
    context.components = {"network": network}
    context.plan = replace(context.plan, batch_size=batch_size)
    stage = Windows(SPEC, n_outputs=3)
    items = [prepared(shape, seed) for seed, shape in enumerate(SHAPES)]
    together = run_together(items, stage, context)
    for item, mixed in zip(items, together, strict=True):
        alone = stage.run(item, context).values
        assert torch.equal(alone, mixed)  # to the last bit, since the batch shape is the same
        assert torch.equal(mixed.argmax(0), stage.run(item, replace(context, plan=Plan())).values.argmax(0))


def test_exact_mode_equals_monai_on_every_voxel(network: UNet3d, context: Context) -> None:
    inferers = pytest.importorskip("monai.inferers")
    context.components = {"network": network}
    item = prepared((37, 29, 21), 7)
    expected = inferers.sliding_window_inference(
        item.image[None], (16, 16, 16), 1, network, overlap=0.5, mode="gaussian"
    )[0]
    got = Windows(SPEC, n_outputs=3, probabilities=True).run(item, context).values
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(Windows(SPEC, n_outputs=3).run(item, context).values.argmax(0), expected.argmax(0))


def test_a_smaller_window_is_flagged_in_the_report(network: UNet3d, context: Context) -> None:
    context.components = {"network": network}
    context.plan = replace(context.plan, window_scale=0.5)
    stage = Windows(replace_size(64), n_outputs=3)
    values = stage.run(prepared((40, 40, 40), 1), context).values
    assert values.shape == (3, 40, 40, 40)
    assert any("windows were made smaller" in flag for flag in context.flags)


def replace_size(side: int) -> WindowsSpec:
    return SPEC.model_copy(update={"size": (side, side, side)})


def test_halved_windows_keep_sides_that_networks_take() -> None:
    assert window_size((96, 128, 32), 0.5) == (64, 64, 32)
    assert window_size((96, 100, 17), 1) == (96, 100, 17)


def test_bfloat16_is_used_where_the_plan_says_so(context: Context) -> None:
    seen: list[torch.dtype] = []

    class Watch(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = torch.nn.Conv3d(2, 3, 1)

        def forward(self, batch: torch.Tensor) -> torch.Tensor:
            answer: torch.Tensor = self.conv(batch)
            seen.append(answer.dtype)
            return answer

    context.components = {"network": Watch()}
    for precision in ("float32", "bfloat16"):
        context.plan = replace(context.plan, precision=precision)
        values = Windows(SPEC, n_outputs=3).run(prepared((16, 16, 16), 1), context).values
        assert values.dtype == torch.float32
    assert seen == [torch.float32, torch.bfloat16]


@pytest.mark.gpu
def test_labels_on_a_gpu_equal_those_on_the_cpu(network: UNet3d, context: Context) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    import copy

    item = prepared((37, 29, 21), 7)
    context.components = {"network": network}
    on_cpu = Windows(SPEC, n_outputs=3).run(item, context).values.argmax(0)
    context.components = {"network": copy.deepcopy(network).cuda()}
    context.plan = replace(context.plan, device="cuda:0", batch_size=4)
    on_gpu = Windows(SPEC, n_outputs=3).run(item, context).values.argmax(0).cpu()
    assert (on_cpu == on_gpu).float().mean() >= 0.9999
