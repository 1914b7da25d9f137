"""What a step minimises: contrastive loss, prior and low-level branch (MindEye), or MindBridge's own sum."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ....encoders.brain_tokens import BrainTokens
from ....fusion.contrastive import annealed_temperature, bimixco, flattened, soft_clip
from ....fusion.mixco import MixDraw, draw_mixco
from .model import BrainModel
from .settings import FmriTraining


@dataclass(frozen=True, eq=False, kw_only=True)
class StepInput:
    """Tensors of one step, one entry a subject.

    Parameters
    ----------
    voxels : mapping of str to Tensor, shape (b, V)
    targets : Tensor, shape (B, N, d)
        Of all subjects, in the order of `voxels`.
    text : Tensor, shape (B, M, d_text), optional
    latents : Tensor, shape (B, c, h, w), optional
    """

    voxels: Mapping[str, Tensor]
    targets: Tensor
    text: Tensor | None = None
    latents: Tensor | None = None


def step_loss(
    model: BrainModel,
    batch: StepInput,
    settings: FmriTraining,
    *,
    progress: float,
    generator: torch.Generator,
) -> tuple[Tensor, dict[str, float]]:
    """Return the loss of a step and its parts.

    Parameters
    ----------
    model : BrainModel
    batch : StepInput
    settings : FmriTraining
    progress : float
        Share of all steps that is done: says which contrastive loss is on, and its temperature.
    generator : torch.Generator
        On the CPU; every draw of the step comes from it.
    """
    if model.kind == "mindbridge":
        return _bridge_loss(model, batch, settings, generator)
    mixing = progress < settings.mixup_share
    n = [len(voxels) for voxels in batch.voxels.values()]
    groups = torch.repeat_interleave(torch.arange(len(n)), torch.tensor(n))
    draw = draw_mixco(len(groups), generator, alpha=settings.mixco_alpha, groups=groups) if mixing else None
    output = _forward(model, batch.voxels, draw, groups, settings, generator)
    parts: dict[str, Tensor] = {}
    if settings.contrastive_weight:
        p, t = flattened(output.projected), flattened(batch.targets)
        if draw is not None:
            value = bimixco(p, t, settings.mixco_tau, beta=draw.beta, permutation=draw.permutation)
        else:
            value = soft_clip(p, t, _soft_temperature(progress, settings))
        parts["contrastive"] = settings.contrastive_weight * value
    if model.prior is not None and settings.prior_weight:
        parts["prior"] = settings.prior_weight * model.prior.loss(output.tokens, batch.targets, generator=generator)[0]
    # Without a prior nothing else teaches the tokens what they are.
    token_weight = settings.token_weight or (settings.prior_weight if model.prior is None else 0.0)
    if token_weight:
        parts["tokens"] = token_weight * torch.nn.functional.mse_loss(output.tokens, batch.targets)
    if output.latents is not None and batch.latents is not None and settings.low_level_weight:
        parts["low_level"] = settings.low_level_weight * (output.latents - batch.latents).abs().mean()
    return _summed(parts)


def _forward(
    model: BrainModel,
    voxels: Mapping[str, Tensor],
    draw: MixDraw | None,
    groups: Tensor,
    settings: FmriTraining,
    generator: torch.Generator,
) -> BrainTokens:
    outputs = []
    for index, (name, values) in enumerate(voxels.items()):
        if settings.noise:
            values = values + settings.noise * torch.randn(values.shape, generator=generator).to(values.device)
        if draw is not None:
            values = draw.of((groups == index).nonzero()[:, 0]).mix(values)
        outputs.append(model.network(values, name))
    return joined(outputs)


def joined(outputs: list[BrainTokens]) -> BrainTokens:
    """Put the answers for several subjects one after the other."""

    def all_of(field: str) -> Tensor | None:
        found = [getattr(output, field) for output in outputs]
        return torch.cat(found) if all(value is not None for value in found) else None

    return BrainTokens(
        tokens=torch.cat([output.tokens for output in outputs]),
        projected=torch.cat([output.projected for output in outputs]),
        text=all_of("text"),
        latents=all_of("latents"),
        auxiliary=all_of("auxiliary"),
    )


def _bridge_loss(
    model: BrainModel, batch: StepInput, settings: FmriTraining, generator: torch.Generator
) -> tuple[Tensor, dict[str, float]]:
    from ....encoders.mindbridge import MindBridgeNetwork

    network = model.network
    if not isinstance(network, MindBridgeNetwork):
        raise TypeError("the losses of MindBridge need a MindBridge network")
    embedded = {
        name: network.embed(values, name) for name, values in batch.voxels.items()
    }  # one draw of dropout for all
    output = joined([network.decode(values) for values in embedded.values()])
    parts: dict[str, Tensor] = {}
    for name, predicted, target in (("image", output.projected, batch.targets), ("text", output.text, batch.text)):
        if predicted is None or target is None:
            continue
        p, t = flattened(predicted), flattened(target)
        parts[f"{name}_contrastive"] = settings.contrastive_weight * soft_clip(p, t, settings.bridge_tau)
        parts[f"{name}_tokens"] = settings.feature_weight * torch.nn.functional.mse_loss(p, t)
    if settings.rebuild_weight:
        parts["rebuild"] = settings.rebuild_weight * network.rebuild_loss(batch.voxels, embedded=embedded)
    if settings.cycle_weight and len(batch.voxels) > 1:
        parts["cycle"] = settings.cycle_weight * network.cycle_loss(
            batch.voxels, generator=generator, embedded=embedded
        )
    return _summed(parts)


def _soft_temperature(progress: float, settings: FmriTraining) -> float:
    """Temperature of SoftCLIP: half a cosine over what is left after the mixing."""
    left = (progress - settings.mixup_share) / max(1e-9, 1 - settings.mixup_share)
    return float(
        annealed_temperature(settings.soft_from, settings.soft_to, 1001)[round(1000 * min(1.0, max(0.0, left)))]
    )


def _summed(parts: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, float]]:
    total = torch.stack(list(parts.values())).sum()
    return total, {name: float(value.detach()) for name, value in parts.items()}
