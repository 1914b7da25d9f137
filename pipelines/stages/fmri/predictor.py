"""From betas to tokens, candidates and images: what training scores and `chiasm run` writes, in one place."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from ....encoders.brain_tokens import BrainTokens
from ....encoders.mindbridge import divided_by_first
from ....encoders.target_spaces import TargetEncoder
from ....heads.image_decoders.blend import blended
from ....heads.image_decoders.interface import ImageDecoder, to_pixels
from ....heads.image_decoders.select import candidate_seed, select_by_brain
from ....heads.prior_samplers import noise_for
from .items import Decoded, Images

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ....data.fmri.decoding_set import BrainSubject
    from ....data.fmri.scaling import VoxelScaler
    from ....data.fmri.trials import ImageTrials
    from ...fmri_recipe import FmriRecipe, ReconstructionSpec
    from ...training.fmri.model import BrainModel

FORWARD_BATCH = 128


@dataclass(frozen=True, eq=False, kw_only=True)
class Predicted:
    """A brain network's answers for images, on the CPU.

    Parameters
    ----------
    tokens, projected : Tensor, shape (m, N, d)
    text : Tensor, shape (m, M, d_text), optional
    latents : Tensor, shape (m, c, h, w), optional
    """

    tokens: Tensor
    projected: Tensor
    text: Tensor | None = None
    latents: Tensor | None = None

    @classmethod
    def joined(cls, parts: Sequence[BrainTokens]) -> Predicted:
        """Put batches one after the other."""

        def field(name: str) -> Tensor | None:
            values = [getattr(part, name) for part in parts]
            return None if any(value is None for value in values) else torch.cat([v.float().cpu() for v in values])

        return cls(
            tokens=torch.cat([part.tokens.float().cpu() for part in parts]),
            projected=torch.cat([part.projected.float().cpu() for part in parts]),
            text=field("text"),
            latents=field("latents"),
        )


@torch.no_grad()
def predict(
    model: BrainModel, subject: BrainSubject, trials: ImageTrials, scaler: VoxelScaler, *, repeats: str
) -> Predicted:
    """Run a brain network on a subject's images.

    Parameters
    ----------
    model : BrainModel
    subject : BrainSubject
    trials : ImageTrials
    scaler : VoxelScaler
    repeats : {'mean-betas', 'mean-tokens', 'first'}
        Average before the network, after it, or not at all.
    """
    model.eval()
    device = next(model.parameters()).device
    parts = []
    for start in range(0, len(trials), FORWARD_BATCH):
        chosen = np.arange(start, min(start + FORWARD_BATCH, len(trials)))
        counts = trials.n_repeats[chosen]
        most = 1 if repeats == "first" else int(counts.max())
        total: BrainTokens | None = None
        kept = torch.from_numpy(np.minimum(counts, most).astype(np.float32))
        mean = np.zeros((len(chosen), subject.n_voxels), dtype=np.float32)
        for turn in range(most):
            values = subject.betas.read(trials.rows[chosen, turn])
            # Padded repeats count nothing: their weight is 0.
            weight = (turn < counts).astype(np.float32) / kept.numpy()
            scaled = scaler.apply(values, trials.session[chosen, turn])
            if repeats == "mean-tokens":
                answer = model.network(torch.from_numpy(scaled).to(device), subject.name)
                total = _added(total, answer, torch.from_numpy(weight).to(device))
            else:
                mean += scaled * weight[:, None]
        parts.append(total or model.network(torch.from_numpy(mean).to(device), subject.name))
    return Predicted.joined(parts)


def _added(total: BrainTokens | None, answer: BrainTokens, weight: Tensor) -> BrainTokens:
    def field(name: str) -> Tensor | None:
        value = getattr(answer, name)
        if value is None:
            return None
        part: Tensor = value * weight.view(-1, *(1,) * (value.dim() - 1))
        before: Tensor | None = None if total is None else getattr(total, name)
        return part if before is None else before + part

    tokens, projected = field("tokens"), field("projected")
    if tokens is None or projected is None:
        raise ValueError("a brain network gives tokens")
    return BrainTokens(tokens=tokens, projected=projected, text=field("text"), latents=field("latents"))


class LatentSpace(Protocol):
    """A low-level target that can be turned back."""

    def images(self, latents: Tensor) -> Tensor:
        """Return images (B, 3, S, S) in [0, 1]."""


class ImageMaker:
    """Tokens to images: samples of the prior, decoded, one kept.

    Parameters
    ----------
    recipe : FmriRecipe
    encoder : TargetEncoder
        Of the target's space, to compare candidates with the brain's own tokens.
    decoder : ImageDecoder, optional
    latents : LatentSpace, optional
        Latent space with ``images`` (latents to images in [0, 1]).
    """

    def __init__(
        self,
        recipe: FmriRecipe,
        encoder: TargetEncoder,
        decoder: ImageDecoder | None,
        latents: LatentSpace | None = None,
    ) -> None:
        self.spec: ReconstructionSpec = recipe.reconstruction
        self.encoder, self.decoder, self.latents = encoder, decoder, latents

    def with_samples(self, samples: int) -> ImageMaker:
        """Return the same with another number of samples, of which the first is kept where it is one."""
        changed = copy.copy(self)
        select = "none" if samples == 1 else self.spec.select
        changed.spec = self.spec.model_copy(update={"samples": samples, "select": select})
        return changed

    def make(self, model: BrainModel, predicted: Predicted, images: NDArray[np.int64], *, seed: int) -> Decoded:
        """Decode a subject's answers.

        Parameters
        ----------
        model : BrainModel
            For its prior.
        predicted : Predicted
        images : ndarray of int64, shape (m,)
            Numbers that, with the seed, fix the noise of an image: never its pixels.
        seed : int
        """
        size = max(1, self.spec.batch_size // self.spec.samples)
        starts = range(0, len(images), size)
        return _joined([self._batch(model, predicted, images, slice(start, start + size), seed) for start in starts])

    def sampled(self, model: BrainModel, tokens: Tensor, images: NDArray[np.int64], *, seed: int) -> Tensor:
        """Return candidates (S, b, N, d): samples of the prior, or the tokens themselves without one."""
        if model.prior is None:
            # A target whose tokens are divided by the class token's norm: predicted ones are brought to it, as MindBridge does.
            unit = self.encoder.space.name == "clip-vit-l14-vd"
            return (divided_by_first(tokens) if unit else tokens)[None]
        device = next(model.parameters()).device
        n = self.spec.samples
        drawn = model.prior.sample(
            tokens.to(device).repeat_interleave(n, 0),
            steps=self.spec.steps,
            sampler=self.spec.sampler,
            guidance=self.spec.guidance,
            noise=noise_for(images.tolist(), seed, n),
        )
        return drawn.float().cpu().view(len(tokens), n, *tokens.shape[1:]).transpose(0, 1)

    @torch.no_grad()
    def _batch(
        self, model: BrainModel, predicted: Predicted, images: NDArray[np.int64], part: slice, seed: int
    ) -> Decoded:
        tokens, projected, numbers = predicted.tokens[part], predicted.projected[part], images[part]
        candidates = self.sampled(model, tokens, numbers, seed=seed)
        spread = _spread(candidates)
        if self.spec.select == "mean":
            candidates = candidates.mean(0, keepdim=True)
        start = self._start(predicted, part)
        chosen = torch.zeros(len(numbers), dtype=torch.int64)
        agreement = torch.full((len(numbers),), torch.nan)
        made = None
        if self.decoder is not None:
            text = None if predicted.text is None else predicted.text[part]
            shown = candidates if self.spec.select == "brain" else candidates[:1]
            pixels = [
                self.decoder.decode(
                    one,
                    text=text,
                    start=start if self.spec.start_strength < 1 else None,
                    start_strength=self.spec.start_strength,
                    seed=candidate_seed(seed, index),
                    indices=numbers.tolist(),
                )
                for index, one in enumerate(shown)
            ]
            selection = select_by_brain(torch.stack(pixels, dim=1), projected, self.encoder)
            chosen, made = selection.chosen, selection.images
            agreement = selection.cosines.gather(1, chosen[:, None])[:, 0]
            if start is not None and self.spec.blend:
                made = blended(made, start, share=self.spec.blend)
        return Decoded(
            image=numbers,
            reconstruction=None if made is None else made.numpy(),
            tokens=candidates[chosen, torch.arange(len(numbers))].numpy(),
            projected=projected.numpy(),
            start=None if start is None else to_pixels(start).numpy(),
            spread=spread,
            agreement=agreement.double().numpy(),
        )

    def _start(self, predicted: Predicted, part: slice) -> Tensor | None:
        if predicted.latents is None or self.latents is None:
            return None
        size = self.decoder.resolution if self.decoder is not None else 64
        image: Tensor = functional.interpolate(
            self.latents.images(predicted.latents[part]).float().cpu(),
            size=(size, size),
            mode="bicubic",
            antialias=True,
        )
        return image.clamp(0, 1)


def _joined(parts: Sequence[Decoded]) -> Decoded:
    """Put batches one after the other."""

    def images(name: str) -> Images | None:
        found = [getattr(part, name) for part in parts]
        return None if any(value is None for value in found) else np.concatenate(found)

    return Decoded(
        image=np.concatenate([part.image for part in parts]),
        reconstruction=images("reconstruction"),
        tokens=np.concatenate([part.tokens for part in parts]),
        projected=np.concatenate([part.projected for part in parts]),
        start=images("start"),
        spread=np.concatenate([part.spread for part in parts]),
        agreement=np.concatenate([part.agreement for part in parts]),
    )


def _spread(candidates: Tensor) -> NDArray[np.float64]:
    """Mean cosine distance between different candidates of an image."""
    n = len(candidates)
    if n == 1:
        return np.zeros(candidates.shape[1])
    flat = functional.normalize(candidates.flatten(2), dim=2).double()
    cosines = torch.einsum("sbd,tbd->bst", flat, flat)
    mean = (cosines.sum((1, 2)) - cosines.diagonal(dim1=1, dim2=2).sum(1)) / (n * (n - 1))
    return np.asarray((1 - mean).numpy())
