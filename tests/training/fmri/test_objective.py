"""What a step minimises: which loss is on when, and that subjects are not mixed with one another."""

from __future__ import annotations

import pytest
import torch

from chiasm.encoders.mindeye2 import MindEye2Config, MindEye2Network
from chiasm.fusion.contrastive import flattened, soft_clip
from chiasm.heads.diffusion_prior import DiffusionPrior, DiffusionPriorConfig
from chiasm.heads.prior_network import PriorNetworkConfig
from chiasm.pipelines.training.fmri.model import BrainModel
from chiasm.pipelines.training.fmri.objective import StepInput, step_loss
from chiasm.pipelines.training.fmri.settings import FmriTraining

VOXELS = {"01": 12, "02": 9}


def model(*, prior: bool = True) -> BrainModel:
    """Return a tiny model of two subjects."""
    torch.manual_seed(0)
    network = MindEye2Network(MindEye2Config(hidden=8, n_blocks=1, tokens=2, width=4, dropout=0.0), VOXELS)
    config = PriorNetworkConfig(dim=4, num_tokens=2, depth=1, heads=1, dim_head=4)
    return BrainModel("mindeye2", network, DiffusionPrior(config, DiffusionPriorConfig()) if prior else None)


def batch() -> StepInput:
    """Return a step of four and three trials."""
    generator = torch.Generator().manual_seed(1)
    voxels = {
        "01": torch.randn(4, 12, generator=generator),
        "02": torch.randn(3, 9, generator=generator),
    }
    return StepInput(voxels=voxels, targets=torch.randn(7, 2, 4, generator=generator))


def parts(progress: float, *, prior: bool = True, **changes: float) -> dict[str, float]:
    """Return the parts of a step's loss."""
    generator = torch.Generator().manual_seed(2)
    return step_loss(model(prior=prior), batch(), FmriTraining(**changes), progress=progress, generator=generator)[1]


def test_after_the_mixing_the_contrastive_loss_is_softclip_at_the_annealed_temperature() -> None:
    tiny, step = model(prior=False), batch()
    projected = torch.cat([tiny.network(voxels, name).projected for name, voxels in step.voxels.items()])
    middle = (1 + 0.33) / 2  # half of what is left: half a cosine is half way
    expected = soft_clip(flattened(projected), flattened(step.targets), (0.004 + 0.0075) / 2)
    found = parts(middle, prior=False, prior_weight=0.0)
    assert found["contrastive"] == pytest.approx(float(expected.detach()), rel=1e-5)


def test_while_mixing_it_is_another_loss() -> None:
    assert parts(0.0, prior_weight=0.0) != parts(0.0, prior_weight=0.0, mixup_share=0.0)


def test_weights_scale_their_parts() -> None:
    one, two = parts(0.5, prior_weight=1.0), parts(0.5, prior_weight=3.0, contrastive_weight=2.0)
    assert two["prior"] == pytest.approx(3 * one["prior"])
    assert two["contrastive"] == pytest.approx(2 * one["contrastive"])
    assert "prior" not in parts(0.5, prior_weight=0.0)
    assert set(parts(0.5, contrastive_weight=0.0)) == {"prior"}


def test_without_a_prior_the_tokens_themselves_are_compared() -> None:
    tiny, step = model(prior=False), batch()
    tokens = torch.cat([tiny.network(voxels, name).tokens for name, voxels in step.voxels.items()])
    expected = torch.nn.functional.mse_loss(tokens, step.targets)
    assert parts(0.5, prior=False, prior_weight=2.0)["tokens"] == pytest.approx(2 * float(expected.detach()), rel=1e-6)


def test_the_step_s_own_voxels_are_not_changed() -> None:
    tiny, step = model(), batch()
    before = {name: voxels.clone() for name, voxels in step.voxels.items()}
    generator = torch.Generator().manual_seed(0)
    step_loss(tiny, step, FmriTraining(noise=0.5), progress=0.0, generator=generator)
    assert all(torch.equal(before[name], voxels) for name, voxels in step.voxels.items())
