"""Prior network and diffusion prior of MindEye1 (`chiasm.heads`); MindEye2's part uses the same functions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from chiasm.heads.diffusion_prior import DiffusionPrior, DiffusionPriorConfig
from chiasm.heads.prior_network import PriorNetwork, PriorNetworkConfig
from chiasm.heads.prior_samplers import published_times

Arrays = Mapping[str, np.ndarray]


def _network_config(hyperparameters: Mapping[str, Any]) -> PriorNetworkConfig:
    fields = PriorNetworkConfig.__dataclass_fields__
    return PriorNetworkConfig(**{key: value for key, value in hyperparameters.items() if key in fields})


def _arrays(found: Mapping[str, torch.Tensor]) -> dict[str, np.ndarray]:
    return {key: value.detach().numpy() for key, value in found.items()}


def prior_network(hyperparameters: Mapping[str, Any], state: Arrays, inputs: Arrays) -> dict[str, Any]:
    """Prediction, with dropped items, guided; gradients of the mean square."""
    network = PriorNetwork(_network_config(hyperparameters)).eval()
    network.load_state_dict({key: torch.from_numpy(value) for key, value in state.items()})
    given = {key: torch.from_numpy(value) for key, value in inputs.items()}
    noisy, brain = given["image_embed"].requires_grad_(), given["brain_embed"].requires_grad_()
    times = given["times"]
    pred = network(noisy, times, brain)
    loss = pred.square().mean()
    loss.backward()
    keep_brain, keep_image = given["brain_keep"].flatten(), given["image_keep"].flatten()
    prior = DiffusionPrior(network)
    found = {
        "pred": pred,
        "pred_masked": network(noisy, times, brain, keep_brain=keep_brain, keep_image=keep_image),
        "pred_cond_scale_2": prior.predict(noisy, times, brain, guidance=2.0),
        "loss/grad_scalar": loss,
        "grad/image_embed": noisy.grad,
        "grad/brain_embed": brain.grad,
    }
    return _arrays(found)


def prior_config(hyperparameters: Mapping[str, Any], **changes: Any) -> DiffusionPriorConfig:
    """Translate the published switches: clamps of the length act only where clean tokens are predicted."""
    x0 = hyperparameters["predict_x_start"]
    settings = {
        "timesteps": hyperparameters["timesteps"],
        "schedule": hyperparameters["beta_schedule"],
        "embed_scale": hyperparameters["image_embed_scale"],
        "predict": "v" if hyperparameters["predict_v"] else "x0" if x0 else "eps",
        "loss": hyperparameters["loss_type"],
        "drop_brain": hyperparameters["cond_drop_prob"],
        "drop_image": hyperparameters["cond_drop_prob"],
        "clean_range": None if x0 else 1.0,
        "norm_prediction": x0 and hyperparameters["training_clamp_l2norm"],
        "norm_estimate": x0 and hyperparameters["sampling_clamp_l2norm"],
        "norm_sample": x0 and hyperparameters["sampling_final_clamp_l2norm"],
        "norm_start": hyperparameters["init_image_embed_l2norm"],
        "norm_length": hyperparameters["image_embed_scale"],
    }
    return DiffusionPriorConfig(**(settings | changes))


def run_prior(
    config: DiffusionPriorConfig, hyperparameters: Mapping[str, Any], state: Arrays, inputs: Arrays
) -> dict[str, Any]:
    """Loss with given draws, its gradient, ancestral samples, the public code's strided samples."""
    prior = DiffusionPrior(_network_config(hyperparameters), config).eval()
    prior.load_state_dict({key: torch.from_numpy(value) for key, value in state.items()})
    given = {key: torch.from_numpy(value) for key, value in inputs.items()}
    target, brain = given["x0"], given["brain_embed"].requires_grad_()
    draws = {"times": given["times"], "noise": given["noise"]}
    keep = {"keep_brain": given["brain_keep"].flatten(), "keep_image": given["image_keep"].flatten()}
    loss, pred = prior.loss_at(brain, target, **draws, **keep)
    no_drop, _ = prior.loss_at(brain, target, **draws)
    no_drop.backward()
    scale = config.embed_scale or hyperparameters["dim"] ** 0.5
    guided = {"guidance": hyperparameters["cond_scale"]}
    strided = {"sampler": "ddim", "steps": hyperparameters["ddim_steps"], "published": True}
    found = {
        "x_noisy": prior.noise_scheduler.noised(target * scale, draws["times"], draws["noise"]),
        "loss/prior": loss,
        "pred": pred,
        "sample_ddpm": prior.sample(brain, sampler="ddpm", noise=given["ddpm_noise"]),
        "sample_ddpm_cond_scale": prior.sample(brain, sampler="ddpm", noise=given["ddpm_noise"], **guided),
        "sample_ddim": prior.sample(brain, noise=given["ddim_noise"], **strided),
        "ddim_times": torch.tensor(published_times(hyperparameters["timesteps"], hyperparameters["ddim_steps"])),
        "loss/prior_nodrop": no_drop,
        "loss/grad_scalar": no_drop,
        "grad/brain_embed": brain.grad,
    }
    return _arrays(found)


def diffusion_prior(hyperparameters: Mapping[str, Any], state: Arrays, inputs: Arrays) -> dict[str, Any]:
    """MindEye1: targets are scaled, samples scaled back."""
    return run_prior(prior_config(hyperparameters), hyperparameters, state, inputs)


MODULES = {
    "prior_network": prior_network,
    "prior_network_all_pos_emb": prior_network,
    "prior_network_token_causal": prior_network,
    "diffusion_prior": diffusion_prior,
    "diffusion_prior_alt": diffusion_prior,
}
