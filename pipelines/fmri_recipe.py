"""Recipes of images from fMRI: which betas, which target space, which network, prior and decoder."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from .recipes import BaseRecipe, Fields

Share = Annotated[float, Field(ge=0, le=1)]
NETWORKS = ("mindeye", "mindeye2", "mindbridge", "ridge")
DECODERS = ("small-diffusion", "versatile-diffusion", "sdxl-unclip", "stable-unclip", "ip-adapter-sdxl")
COMPONENTS = {
    "target": ("target-encoder",),
    "network": NETWORKS,
    "prior": ("diffusion-prior",),
    "latents": ("latent-encoder",),
    "decoder": DECODERS,
}
"""What a recipe of images from fMRI may consist of; target and network are needed."""


class BetasSpec(Fields):
    """From betas on disk to what a network sees.

    `scaling` is fitted on training trials only (``session-zscore-all`` repeats a published notebook, which used all trials: it leaks
    and says so). `train_repeats` says which repeat of an image a training step sees; `test_repeats` whether repeats are averaged
    before the network (MindEye1), after it (MindEye2), or only the first is used (the 1-session protocols).
    """

    roi: str = "nsdgeneral"
    scaling: Literal["none", "zscore", "session-zscore", "session-zscore-all"] = "session-zscore"
    train_repeats: Literal["cycle", "random-single", "mean", "first"] = "cycle"
    test_repeats: Literal["mean-betas", "mean-tokens", "first"] = "mean-betas"


class ReconstructionSpec(Fields):
    """From tokens to an image.

    `samples` of the prior are decoded; `select: brain` keeps the one whose re-encoded tokens are nearest to the brain's own
    projected tokens, ``none`` the first, ``mean`` decodes the mean of the samples' tokens. The true image has no say.
    `start_strength` is the share of the decoder's schedule that is run from the low-level image (1: it is not used); `blend` is
    the share of the low-level image in the result.
    """

    samples: Annotated[int, Field(ge=1, le=64)] = 4
    steps: Annotated[int, Field(ge=1, le=1000)] = 20
    sampler: Literal["ddpm", "ddim", "dpm-solver++"] = "dpm-solver++"
    guidance: Annotated[float, Field(ge=0, le=20)] = 1.0
    select: Literal["brain", "none", "mean"] = "brain"
    start_strength: Share = 1.0
    blend: Share = 0.0
    batch_size: Annotated[int, Field(ge=1, le=1024)] = 64


class RetrievalSpec(Fields):
    """Candidates listed for a trial, and the size of the pools that retrieval is scored in."""

    top_k: Annotated[int, Field(ge=1, le=100)] = 5
    pool: Annotated[int, Field(ge=2, le=10_000)] = 300
    draws: Annotated[int, Field(ge=1, le=1000)] = 30


class FmriRecipe(BaseRecipe):
    """A recipe of images from fMRI."""

    pipeline: Literal["fmri-images"]
    target: str
    text_target: str | None = None
    low_level: str | None = None
    betas: BetasSpec = BetasSpec()
    reconstruction: ReconstructionSpec = ReconstructionSpec()
    retrieval: RetrievalSpec = RetrievalSpec()
    training: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _whole(self) -> FmriRecipe:
        wrong = [f"components.{name}: missing" for name in ("target", "network") if name not in self.components]
        for name, spec in self.components.items():
            if name not in COMPONENTS:
                wrong.append(f"components.{name}: not a part of this task; allowed: {', '.join(COMPONENTS)}")
            elif spec.kind not in COMPONENTS[name]:
                wrong.append(f"components.{name}.kind: one of {', '.join(COMPONENTS[name])}, got '{spec.kind}'")
        if self.low_level is not None and "latents" not in self.components:
            wrong.append("low_level: needs components.latents")
        if self.network_kind in {"mindbridge", "ridge"} and "prior" in self.components:
            wrong.append(f"components.prior: {self.network_kind} has none")
        if self.reconstruction.select == "brain" and self.network_kind == "ridge":
            wrong.append("reconstruction.select: ridge gives one candidate; write none")
        if wrong:
            raise ValueError("; ".join(wrong))
        return self

    @property
    def network_kind(self) -> str:
        """Kind of the brain network, or an empty text where it is missing."""
        spec = self.components.get("network")
        return spec.kind if spec is not None else ""
