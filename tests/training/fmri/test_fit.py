"""The loop: it learns, it stops and goes on as if nothing had happened, and its schedule is torch's."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from chiasm.data.errors import InputError
from chiasm.data.fmri.betas import ArrayBetas
from chiasm.data.fmri.decoding_set import BrainSubject
from chiasm.data.fmri.scaling import fit_scaler
from chiasm.data.fmri.trials import Trials, by_image
from chiasm.encoders.mindeye2 import MindEye2Config, MindEye2Network
from chiasm.heads.diffusion_prior import DiffusionPrior, DiffusionPriorConfig
from chiasm.heads.prior_network import PriorNetworkConfig
from chiasm.pipelines.training.fmri.fit import FitData, decay_groups, fit, one_cycle
from chiasm.pipelines.training.fmri.model import BrainModel
from chiasm.pipelines.training.fmri.settings import FmriTraining
from chiasm.pipelines.training.fmri.streams import SubjectSource, TrialStream

N, VOXELS, TOKENS, WIDTH = 32, 24, 2, 8


def settings(**changes: object) -> FmriTraining:
    """Return settings of a short run."""
    return FmriTraining(**{"epochs": 4, "batch_size": 8, "learning_rate": 3e-3, "ema": 0.5, "seed": 1, **changes})


def world() -> tuple[SubjectSource, torch.Tensor]:
    """Voxels that are a linear function of the targets, with a little noise."""
    rng = np.random.default_rng(0)
    targets = rng.standard_normal((N, TOKENS, WIDTH)).astype(np.float32)
    mixing = rng.standard_normal((TOKENS * WIDTH, VOXELS)) / 4
    betas = ArrayBetas(targets.reshape(N, -1) @ mixing + 0.1 * rng.standard_normal((N, VOXELS)))
    trials = Trials(
        row=np.arange(N),
        image=np.arange(N),
        session=np.ones(N, dtype=np.int64),
        repeat=np.zeros(N, dtype=np.int64),
        split=np.zeros(N, dtype=np.int8),
    )
    subject = BrainSubject(name="01", betas=betas, trials=trials)
    scaler = fit_scaler(betas, trials, "zscore")
    return SubjectSource(subject=subject, images=by_image(trials), scaler=scaler), torch.from_numpy(targets)


def model(*, prior: bool = True) -> BrainModel:
    """Return a tiny model."""
    torch.manual_seed(0)
    network = MindEye2Network(MindEye2Config(hidden=16, n_blocks=1, tokens=TOKENS, width=WIDTH), {"01": VOXELS})
    config = PriorNetworkConfig(dim=WIDTH, num_tokens=TOKENS, depth=1, heads=2, dim_head=8)
    made = DiffusionPrior(config, DiffusionPriorConfig(timesteps=10, embed_scale=1.0)) if prior else None
    return BrainModel("mindeye2", network, made)


def run(folder, how, **options):
    """Fit the tiny model."""
    source, targets = world()
    stream = TrialStream({"01": source}, batch_size=how.batch_size, repeats="cycle", seed=how.seed)
    data = FitData(stream=stream, targets=lambda images: targets[torch.from_numpy(images)])
    try:
        return fit(model(), data, how, folder=folder, **options)
    finally:
        stream.close()


def test_it_learns(tmp_path) -> None:
    fitted = run(tmp_path, settings(epochs=40))
    first, last = fitted.history[0], fitted.history[-1]
    assert fitted.finished
    assert len(fitted.history) == 40
    assert last["prior"] < 0.7 * first["prior"]
    assert last["contrastive"] < 0.5 * first["contrastive"]


@pytest.mark.parametrize("after", [1, 6])
def test_a_stopped_run_goes_on_as_if_nothing_had_happened(tmp_path, after: int) -> None:
    whole = run(tmp_path / "whole", settings())
    asked = [0]

    def stopped() -> bool:
        asked[0] += 1
        return asked[0] > 2 * after  # asked twice a step: before it, and for the checkpoint

    part = run(tmp_path / "part", settings(), stopped=stopped)
    assert not part.finished
    rest = run(tmp_path / "part", settings())
    assert rest.finished
    assert rest.history == whole.history
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, rest.model.state_dict()[name]), name


def test_a_checkpoint_of_other_settings_is_refused(tmp_path) -> None:
    run(tmp_path, settings(epochs=1))
    with pytest.raises(InputError, match="other settings") as caught:
        run(tmp_path, settings(epochs=2))
    assert caught.value.code == "CHI-IN-130"


def test_the_schedule_is_that_of_torch() -> None:
    how = settings(epochs=10, warm_up_epochs=2.0)
    total = 70
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=how.learning_rate, total_steps=total, pct_start=0.2, final_div_factor=how.final_divisor
    )
    for step in range(total):
        assert one_cycle(step, total, how) == pytest.approx(theirs.get_last_lr()[0], rel=1e-9)
        optimizer.step()
        if step < total - 1:
            theirs.step()


def test_biases_do_not_decay_and_frozen_parameters_stay() -> None:
    tiny = model(prior=False)
    tiny.network.ridge.linears[0].requires_grad_(False)
    decayed, kept = decay_groups(tiny, 0.1)
    names = {id(value): name for name, value in tiny.named_parameters()}
    assert decayed["weight_decay"] == 0.1
    assert kept["weight_decay"] == 0.0
    assert all("bias" not in names[id(value)] for value in decayed["params"])
    assert all("bias" in names[id(value)] for value in kept["params"])
    assert not any("ridge" in names[id(value)] for group in (decayed, kept) for value in group["params"])
