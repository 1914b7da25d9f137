"""Diffusion prior: loss, scales, gradients, drops, clamps, samplers, sameness over batches, learning."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from chiasm.heads.diffusion_prior import DiffusionPrior, DiffusionPriorConfig
from chiasm.heads.prior_network import PriorNetworkConfig
from chiasm.heads.prior_samplers import noise_for

NETWORK = PriorNetworkConfig(dim=16, num_tokens=3, depth=2, heads=2, dim_head=8, ff_mult=2)


def _prior(**changes: object) -> DiffusionPrior:
    torch.manual_seed(1)
    return DiffusionPrior(NETWORK, DiffusionPriorConfig(**({"timesteps": 30} | changes))).eval()


def _tokens(batch: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    brain, target = torch.randn(2, batch, 3, 16, generator=torch.Generator().manual_seed(2))
    return brain, target / 4


class Knower(nn.Module):
    """A network that says what it was told to; another architecture in the place of the transformer."""

    token_shape = (3, 16)

    def __init__(self, answer: torch.Tensor) -> None:
        super().__init__()
        self.answer = answer
        self.seen: list[tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]] = []

    def forward(
        self,
        noisy: torch.Tensor,
        times: torch.Tensor,
        brain: torch.Tensor,
        *,
        keep_brain: torch.Tensor | None = None,
        keep_image: torch.Tensor | None = None,
    ) -> torch.Tensor:
        self.seen.append((noisy, keep_brain, keep_image))
        return self.answer.expand_as(noisy)


def test_the_loss_of_a_network_that_knows_the_truth_is_zero_in_the_published_scale() -> None:
    brain, target = _tokens()
    knows = DiffusionPrior(Knower(target * 4), DiffusionPriorConfig())  # sqrt(16)
    loss, predicted = knows.loss(brain, target, generator=torch.Generator().manual_seed(0))
    assert loss.item() < 1e-10
    torch.testing.assert_close(predicted, target)
    unscaled = DiffusionPrior(Knower(target), DiffusionPriorConfig(embed_scale=1.0))
    assert unscaled.loss(brain, target)[0].item() < 1e-10
    torch.testing.assert_close(unscaled.sample(brain, steps=3), target)


@pytest.mark.parametrize("predict", ["eps", "v"])
def test_predicted_tokens_follow_from_noise_and_velocity(predict: str) -> None:
    brain, target = _tokens()
    prior = DiffusionPrior(
        Knower(torch.zeros(3, 16)), DiffusionPriorConfig(predict=predict, clean_range=None, embed_scale=2.0)
    )
    times, noise = torch.full((4,), 20), torch.randn(4, 3, 16, generator=torch.Generator().manual_seed(9))
    schedule = prior.noise_scheduler
    truth = noise if predict == "eps" else schedule.velocity(target * 2, times, noise)
    loss, _ = prior.loss_at(brain, target, times=times, noise=noise)
    assert loss.item() == pytest.approx(truth.square().mean().item())
    prior.net.answer = truth
    noisy = schedule.noised(target * 2, times, noise)
    torch.testing.assert_close(prior._clean(truth, noisy, times) / 2, target, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("name", "value"), [("l2", 9.0), ("l1", 3.0), ("huber", 2.5)])
def test_losses(name: str, value: float) -> None:
    prior = DiffusionPrior(Knower(torch.full((3, 16), 3.0)), DiffusionPriorConfig(loss=name))
    assert prior.loss(*[torch.zeros(2, 3, 16)] * 2)[0].item() == pytest.approx(value)


def test_the_callers_targets_are_not_scaled_in_place() -> None:
    brain, target = _tokens()
    before = target.clone()
    prior = _prior()
    prior.loss(brain, target)
    prior.loss_at(brain, target, times=torch.zeros(4, dtype=torch.long), noise=torch.zeros(4, 3, 16))
    assert torch.equal(target, before)


def test_gradients_reach_the_brain_tokens_of_kept_items_only() -> None:
    brain, target = _tokens()
    brain.requires_grad_()
    keep = torch.tensor([True, True, False, True])
    draws = {"times": torch.tensor([1, 5, 9, 20]), "noise": torch.zeros(4, 3, 16)}
    _prior().loss_at(brain, target, **draws, keep_brain=keep)[0].backward()
    assert brain.grad.abs().amax((1, 2)).gt(0).tolist() == keep.tolist()


def test_the_two_inputs_are_dropped_independently_and_as_often_as_asked() -> None:
    network = Knower(torch.zeros(3, 16))
    prior = DiffusionPrior(network, DiffusionPriorConfig(drop_brain=0.1, drop_image=0.4))
    zeros = torch.zeros(4000, 3, 16)
    prior.loss(zeros, zeros, generator=torch.Generator().manual_seed(3))
    _, keep_brain, keep_image = network.seen[0]
    assert (~keep_brain).float().mean().item() == pytest.approx(0.1, abs=0.015)
    assert (~keep_image).float().mean().item() == pytest.approx(0.4, abs=0.025)
    assert (~keep_brain & ~keep_image).float().mean().item() == pytest.approx(0.04, abs=0.01)


def test_one_generator_decides_a_training_step() -> None:
    brain, target = _tokens()
    prior = _prior()
    first, second, other = (prior.loss(brain, target, generator=torch.Generator().manual_seed(s))[0] for s in (1, 1, 2))
    assert first == second
    assert first != other


def test_guidance_pushes_away_from_what_the_null_tables_give() -> None:
    brain, _ = _tokens()
    prior, x, times = _prior(), torch.randn(4, 3, 16, generator=torch.Generator().manual_seed(5)), torch.full((4,), 7)
    nothing = torch.zeros(4, dtype=torch.bool)
    with torch.no_grad():
        plain = prior.net(x, times, brain)
        null = prior.net(x, times, brain, keep_brain=nothing, keep_image=nothing)
        torch.testing.assert_close(prior.predict(x, times, brain, guidance=3.0), null + 3 * (plain - null))
        torch.testing.assert_close(prior.predict(x, times, brain, guidance=0.0), null)


def test_clean_estimates_are_clipped_for_noise_and_normed_where_asked() -> None:
    brain, _ = _tokens()
    answer = torch.full((3, 16), -50.0)
    clipped = DiffusionPrior(Knower(answer), DiffusionPriorConfig(predict="eps", embed_scale=1.0))
    assert clipped.sample(brain, steps=4).abs().max().item() == 1.0
    free = DiffusionPrior(Knower(answer), DiffusionPriorConfig(predict="eps", embed_scale=1.0, clean_range=None))
    assert free.sample(brain, steps=4).abs().max().item() > 1.0
    for switch in ("norm_estimate", "norm_sample"):
        normed = DiffusionPrior(Knower(answer), DiffusionPriorConfig(**{switch: True}))
        torch.testing.assert_close(normed.sample(brain, steps=4).norm(dim=-1), torch.ones(4, 3))
    network = Knower(answer)
    start = DiffusionPrior(network, DiffusionPriorConfig(norm_start=True, norm_length=5.0))
    start.sample(brain, steps=1)
    torch.testing.assert_close(network.seen[0][0].norm(dim=-1), torch.full((4, 3), 5.0))
    trained = DiffusionPrior(Knower(answer), DiffusionPriorConfig(norm_prediction=True))
    _, said = trained.loss_at(brain, brain, times=torch.zeros(4, dtype=torch.long), noise=torch.zeros(4, 3, 16))
    torch.testing.assert_close(said.norm(dim=-1), torch.full((4, 3), 4.0))


@pytest.mark.parametrize("settings", [{"sampler": "ddpm"}, {"sampler": "ddpm", "steps": 6}, {"sampler": "ddim", "eta": 0.5},
                                      {"sampler": "ddim"}, {"steps": 5}, {"eta": 0.0}])  # fmt: skip
def test_an_image_gives_the_same_tokens_alone_and_in_a_batch(settings: dict[str, object]) -> None:
    brain, _ = _tokens()
    prior = _prior()
    together = prior.sample(brain, noise=noise_for([3, 4, 5, 6], seed=8), **settings)
    alone = prior.sample(brain[2:3], noise=noise_for([5], seed=8), **settings)
    torch.testing.assert_close(together[2:3], alone, atol=3e-4, rtol=1e-3)  # an untrained network magnifies rounding
    other = prior.sample(brain[2:3], noise=noise_for([5], seed=9), **settings)
    assert not torch.allclose(alone, other, atol=1e-2)


def test_the_public_ddim_calls_the_network_once_less() -> None:
    brain, _ = _tokens()
    calls = {}
    for published in (False, True):
        network = Knower(torch.zeros(3, 16))
        DiffusionPrior(network).sample(brain, sampler="ddim", steps=20, published=published)
        calls[published] = len(network.seen)
    assert calls == {False: 20, True: 19}


def test_a_few_steps_of_training_teach_the_prior_to_follow_the_brain() -> None:
    torch.manual_seed(0)
    network = PriorNetworkConfig(dim=16, num_tokens=2, depth=2, heads=2, dim_head=8, ff_mult=2)
    prior = DiffusionPrior(network, DiffusionPriorConfig(timesteps=20, drop_brain=0.05, drop_image=0.0))
    g = torch.Generator().manual_seed(0)
    targets = nn.functional.normalize(torch.randn(4, 2, 16, generator=g), dim=-1)
    brains = torch.randn(4, 2, 16, generator=g)
    optimiser = torch.optim.AdamW(prior.parameters(), lr=3e-3)
    for _ in range(150):
        which = torch.randint(4, (32,), generator=g)
        loss, _ = prior.loss(brains[which], targets[which], generator=g)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    prior.eval()
    for settings in ({"steps": 8}, {"steps": 8, "sampler": "ddim", "eta": 1.0}, {"sampler": "ddpm"}):
        samples = prior.sample(brains, generator=torch.Generator().manual_seed(1), **settings)
        similar = nn.functional.cosine_similarity(samples.flatten(1)[:, None], targets.flatten(1), dim=-1)
        assert similar.argmax(1).tolist() == [0, 1, 2, 3], settings
        assert similar.diagonal().mean() > 0.8


def test_state_dict_is_net_and_noise_scheduler() -> None:
    assert {key.split(".")[0] for key in _prior().state_dict()} == {"net", "noise_scheduler"}
    assert "noise_scheduler.p2_loss_weight" in _prior().state_dict()


def test_wrong_settings_are_named_together() -> None:
    with pytest.raises(ValueError, match="schedule must be one of") as found:
        DiffusionPriorConfig(schedule="cubic", predict="image", drop_brain=1.5, embed_scale=0.0)
    assert all(word in str(found.value) for word in ("predict", "drop_brain", "embed_scale"))
    brain, _ = _tokens()
    with pytest.raises(ValueError, match="sampler must be one of"):
        _prior().sample(brain, sampler="euler")
    with pytest.raises(ValueError, match="not both"):
        _prior().sample(brain, generator=torch.Generator(), noise=noise_for(range(4), 0))
    with pytest.raises(ValueError, match=r"1\.\.30"):
        _prior().sample(brain, steps=31)
