"""What every network from voxels to image tokens gives, so that losses, priors and decoders need not know which one it is."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, eq=False, kw_only=True)
class BrainTokens:
    """Answer of a brain network.

    Parameters
    ----------
    tokens : Tensor, shape (B, N, d)
        In the target's space: what conditions the prior, or is decoded where there is none.
    projected : Tensor, shape (B, N, d)
        For contrastive losses and retrieval; the same tensor where a network has no projector.
    text : Tensor, shape (B, M, d_text), optional
        Text tokens (MindBridge).
    latents : Tensor, shape (B, c, h, w), optional
        Low-level branch: latents of an image auto-encoder.
    auxiliary : Tensor, shape (B, K, d_aux), optional
        Low-level branch: features matched to a convolutional teacher.
    """

    tokens: Tensor
    projected: Tensor
    text: Tensor | None = None
    latents: Tensor | None = None
    auxiliary: Tensor | None = None
